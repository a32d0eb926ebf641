"""Corrections of imported videos go home to every format that can be changed in place."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

import flowrvs
from flowrvs.data import can_write_back, export_projects, import_video, write_back
from flowrvs.data.formats import open_dataset
from flowrvs.data.mevis import Mevis
from flowrvs.data.origin import Origin
from flowrvs.data.write_back import check_write_back
from flowrvs.errors import Cancelled, DatasetError, InputError, StorageError
from flowrvs.progress import CancelToken
from flowrvs.store import Project
from tests.fixtures.layouts import (
    KINDS,
    H,
    T,
    W,
    boxes,
    bytes_of,
    coco_video,
    frames,
    masks_of,
    mevis_v2,
    palette,
    ref_ytvos,
    sa_v,
    vos,
)

ORIGIN = {"format": "vos", "split": "s", "video": "v", "objects": {"1": [1, -1]}}


def check_in_step(project, place, out):
    """Check that a project knows its dataset as one that was read from it just now does."""
    known = Origin.load(project.path)
    with import_video(place, known.video, out) as fresh:
        now = Origin.load(fresh.path)
        assert (known.frames, known.begun) == (now.frames, False)
        assert (known.format, known.split) == (now.format, str(place))
        count = project.video.frame_count

        def masks(p, origin):
            return {
                ids: p.object_mask(own, 0, count).tobytes() for own, ids in origin.objects.items()
            }

        def texts(p, origin):
            rows = {exp_id: p.expressions[own] for own, exp_id in origin.expressions.items()}
            return {
                exp_id: (row.text, {origin.objects.get(i) for i in row.object_ids})
                for exp_id, row in rows.items()
            }

        # In MeViS sentences alone lead to an object.
        for kept, found in (
            (known.digests, now.digests),
            (masks(project, known), masks(fresh, now)),
        ):
            assert kept.items() >= found.items()
            assert known.format == "mevis" or len(kept) == len(found)
        assert texts(project, known) == texts(fresh, now)


HOMES = {
    "vos": lambda root: vos(root / "s", palette),
    "vos in 16 bits": lambda root: vos(root / "s", KINDS["16 bits"]),
    "vos in colours": lambda root: vos(root / "s", KINDS["colours of VOC"]),
    "vos in grey colours": lambda root: vos(root / "s", KINDS["grey in three channels"]),
    "ytvos": lambda root: ref_ytvos(root, truth=True),
    "coco": lambda root: coco_video(root),
    "sa-v": lambda root: sa_v(root / "s"),
}


@pytest.mark.parametrize("kind", HOMES)
def test_corrections_go_home(tmp_path, kind):
    (tmp_path / "data").mkdir()
    place = HOMES[kind](tmp_path / "data")
    before = bytes_of(tmp_path / "data")
    with import_video(place, None, tmp_path / "p") as project:
        assert can_write_back(project)
        result = write_back(project)
        assert (result.masks, result.sentences, result.added, result.removed) == (0, 0, 0, 0)
        assert bytes_of(tmp_path / "data") == before
        first, second = project.objects
        new = project.add_object("new", 1)
        project.labels(1)[2, :2, 20:25] = new.id
        project.labels(1)[4] = np.where(project.labels(1)[4] == first, 0, project.labels(1)[4])
        project.remove_object(second)
        wanted = {key: project.object_mask(key, 0, T) for key in (first, new.id)}
        result = write_back(project)
        # One frame of the first object, and every annotated one of the second.
        count = 1 + (3 if kind == "sa-v" else T)
        assert (result.masks, result.added, result.removed) == (count, 1, 1)
        assert result.path == (place if place.is_dir() else place.parent)
        check_in_step(project, place, tmp_path / "step")
        result = write_back(project)
        assert (result.masks, result.sentences, result.added, result.removed) == (0, 0, 0, 0)
    with import_video(place, None, tmp_path / "q") as again:
        found = masks_of(again)
    assert sorted(map(np.ndarray.tobytes, found)) == sorted(m.tobytes() for m in wanted.values())
    after = bytes_of(tmp_path / "data")
    assert set(after) == set(before)
    changed = {str(p) for p in before if before[p] != after[p]}
    assert all(Path(name).suffix in (".png", ".json") for name in changed)
    assert sorted(p.name for p in (tmp_path / "data").rglob(".*")) == []


def test_sentences_go_home_to_ref_youtube_vos_and_davis(tmp_path):
    root = ref_ytvos(tmp_path / "y", truth=True)
    davis = tmp_path / "davis"
    names = frames(davis / "JPEGImages" / "480p" / "v")
    (davis / "Annotations" / "480p" / "v").mkdir(parents=True)
    for index, name in enumerate(names):
        palette(index).save(davis / "Annotations" / "480p" / "v" / f"{name}.png")
    (davis / "davis_text_annotations").mkdir()
    text = davis / "davis_text_annotations" / "Davis17_annot1.txt"
    text.write_bytes(b'v 1 "the first"\nv 2 "the second\x92s"\nother 1 "kept \xe9"')
    for place in (root, davis):
        with import_video(place, "v", tmp_path / f"{place.name}.p") as project:
            first, second = project.expressions
            project.set_expression_text(first, "the very first")
            project.remove_expression(second)
            project.add_expression("a third", [2])
            assert write_back(project).sentences == 3
            check_in_step(project, place, tmp_path / f"{place.name}.step")
            assert write_back(project).sentences == 0
            both = project.add_expression("both", [1, 2]).exp_id
            with pytest.raises(DatasetError, match="cannot hold"):
                write_back(project)
            project.remove_expression(both)
        with import_video(place, "v", tmp_path / f"{place.name}.q") as again:
            found = {e.text: sorted(e.object_ids) for e in again.expressions.values()}
            assert found == {"the very first": [1], "a third": [2]}
    assert text.read_bytes() == b'v 1 "the very first"\nother 1 "kept \xe9"\nv 2 "a third"\n'


@pytest.mark.parametrize("style", [{}, {"separators": (",", ":")}])
def test_sentences_of_ref_youtube_vos_keep_their_file(tmp_path, style):
    """What is changed, removed and added stands there once; the rest has its bytes."""
    root = ref_ytvos(tmp_path / "y", truth=True)
    meta = tmp_path / "y" / "meta_expressions" / "valid" / "meta_expressions.json"
    data = json.loads(meta.read_text())
    rows = data["videos"]["v"]["expressions"]
    rows["0"] = {"note": "kept", "exp": "the first", "obj_id": 1}
    rows["2"] = {"exp": "none", "obj_id": "9"}
    data["videos"]["w"] = {"expressions": {"0": {"exp": "other"}}, "frames": ["0"]}
    meta.write_text(json.dumps(data, **style))
    copy = root / "meta_expressions.json"  # some keep one in the split as well
    copy.write_bytes(meta.read_bytes())
    with import_video(root, "v", tmp_path / "p") as project:
        project.set_expression_text("0", "the very first")
        project.set_expression_objects("2", [2])
        project.remove_expression("1")
        project.add_expression("a new one", [])
        assert write_back(project).sentences == 4
    rows["0"]["exp"] = "the very first"
    rows["2"]["obj_id"] = "2"
    del rows["1"]
    rows["3"] = {"exp": "a new one", "obj_id": "255"}
    assert meta.read_text() == copy.read_text() == json.dumps(data, **style)


def test_sentences_of_davis_stay_apart_when_they_move_up(tmp_path):
    root = vos(tmp_path / "d", palette)
    for name in ("JPEGImages", "Annotations"):
        (root / name).rename(tmp_path / name)
        (tmp_path / name / "480p").mkdir()
        (tmp_path / name / "v").rename(tmp_path / name / "480p" / "v")
        (tmp_path / name).rename(root / name)
    first, second = root / "davis_text_annotations/1.txt", root / "davis_text_annotations/2.txt"
    first.parent.mkdir()
    first.write_text('v 1 "one"\nno sentence\nv 2 \u201ctwo\u201d\n', encoding="utf-8")
    second.write_text('v 1 "three"\n')
    with import_video(root, "v", tmp_path / "p") as project:
        assert Origin.load(project.path).notes == [
            "not read: 1 line without a sentence (1.txt, line 2)"
        ]
        project.remove_expression("0")
        project.add_expression("four", [2])
        assert write_back(project).sentences == 2
        after = bytes_of(root)
        assert write_back(project).sentences == 0
        assert bytes_of(root) == after
        project.set_expression_text("2", "three, changed")
        assert write_back(project).sentences == 1
    text = first.read_text(encoding="utf-8")
    assert text == 'no sentence\nv 2 \u201ctwo\u201d\nv 2 "four"\n'
    assert second.read_text() == 'v 1 "three, changed"\n'


@pytest.mark.parametrize(
    "put",
    [
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.write_text("[" * 200_000),
        *(
            lambda path, change=change: path.write_text(json.dumps({**ORIGIN, **change}))
            for change in (
                {"split": 5},
                {"frames": "ab"},
                {"frames": [0]},
                {"expressions": [1]},
                {"digests": {"a": 5}},
                {"objects": {"1": [float("inf"), 1]}},
                {"objects": [1]},
                {"video": "../v"},
                {"video": "/v"},
                {"video": "v\ud800"},
                {"frames": ["0", "../1"]},
            )
        ),
    ],
)
def test_a_received_origin_is_data_and_nothing_else(tmp_path, put):
    path = tmp_path / "origin.json"
    path.write_text(json.dumps(ORIGIN))
    assert Origin.load(tmp_path) == Origin("vos", "s", "v", objects={1: (1, -1)})
    path.unlink()
    put(path)
    assert Origin.load(tmp_path) is None


@pytest.mark.parametrize("format", ["coco", "ytvos", "csv"])
def test_nothing_is_written_outside_for_the_name_of_a_video(tmp_path, format):
    with import_video(vos(tmp_path / "s", palette), None, tmp_path / "p") as project:
        path = project.path
    origin = json.loads((path / "origin.json").read_text())
    (path / "origin.json").write_text(json.dumps({**origin, "video": "../../evil"}))
    before = sorted(p.name for p in tmp_path.iterdir())
    export_projects([path], tmp_path / "out", split="x", format=format)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*before, "out"])
    assert not list(tmp_path.rglob("evil*"))


def test_what_a_picture_cannot_hold_is_refused_and_changes_nothing(tmp_path):
    root = vos(tmp_path / "s", palette)
    before = bytes_of(root)
    with import_video(root, "v", tmp_path / "p") as project:
        layer = project.add_layer("more").id
        new = project.add_object("new", layer)
        project.labels(layer)[3, 11:14, 3:9] = new.id
        project.labels(1)[1, :2, :2] = 1
        with pytest.raises(DatasetError, match=r"v, frame 00003: the objects 2 and 3 overlap"):
            write_back(project)
    assert bytes_of(root) == before


def test_an_absence_that_somebody_saw_goes_home(tmp_path):
    root = vos(tmp_path / "s", palette, indices=(0,))
    with import_video(root, "v", tmp_path / "p") as project:
        for key in project.objects:
            project.lock_frames(key, 1, 2)
        project.add_expression("has no place in pictures", [1])
        result = write_back(project)
        assert result.sentences == 0 and result.notes == (
            "vos has no place for sentences: not written is 1 sentence of this project",
        )
    picture = root / "Annotations" / "v" / "00001.png"
    with Image.open(picture, formats=["PNG"]) as found:
        assert found.size == (W, H) and found.getextrema() == (0, 0)
    assert not (root / "Annotations" / "v" / "00002.png").exists()


def test_png_goes_home(tmp_path, shapes_mp4, shapes_masks):
    with flowrvs.open_video(shapes_mp4) as video:
        made = Project.create(tmp_path / "shapes", video.info)
    with made:
        for name in ("red", "green"):
            _, found = made.add_prompt(name)
            made.write_model(found.layer, found.id, 0, shapes_masks[name])
        path = export_projects([made], tmp_path / "d", format="png").path
    with import_video(path, "shapes", tmp_path / "p") as project:
        project.labels(1)[3, :2, :2] = 1
        new = project.add_object("new", 1)
        project.labels(1)[5, 46:, 60:] = new.id
        project.add_expression("the corner", [new.id])
        wanted = {
            e.text: project.expression_mask(e.exp_id, 0, 12) for e in project.expressions.values()
        }
        silent = project.add_object("silent", 1)
        project.labels(1)[6, 46:, 60:] = silent.id
        result = write_back(project)
        assert (result.masks, result.sentences, result.added) == (1, 1, 1)
        assert result.notes == (
            "no sentence means 'silent', and png has no place for such objects: it was not written",
        )
        check_in_step(project, path, tmp_path / "step")
    with import_video(path, "shapes", tmp_path / "q") as again:
        for e in again.expressions.values():
            assert np.array_equal(again.expression_mask(e.exp_id, 0, 12), wanted.pop(e.text))
    assert not wanted
    # Without its sentence an object has no place; the others have other numbers then.
    twin = shutil.copytree(path, tmp_path / "twin")
    with import_video(twin, "shapes", tmp_path / "s") as project:
        project.remove_expression(next(iter(project.expressions)))
        assert write_back(project).sentences == 1
        result = write_back(project)
        assert (result.masks, result.sentences, result.added, result.removed) == (0, 0, 0, 0)
        first = sorted(project.objects)[1]
        project.labels(1)[7, :2, :2] = first
        assert write_back(project).masks == 1
        assert Origin.load(project.path).objects[first] == (1, -1)
    # A frame without a picture stays without one.
    kept, gone = (sorted(path.glob(f"Annotations/shapes/{e}/*.png")) for e in "01")
    for picture in (*kept[:9], *gone[:9]):
        picture.unlink()
    with import_video(path, "shapes", tmp_path / "r") as project:
        project.labels(1)[10, :2, :2] = 1
        assert write_back(project).masks == 1
    assert sorted(path.glob("Annotations/shapes/0/*.png")) == kept[9:]


def test_frames_between_those_of_sa_v_are_nobodys(tmp_path):
    with import_video(sa_v(tmp_path / "s"), None, tmp_path / "p") as project:
        assert [project.provenance(key).tolist() for key in project.objects] == [
            [2, 0, 2, 0, 2, 0]
        ] * 2
        assert "on 3 of 6 frames there is no annotation" in Origin.load(project.path).notes[0]
        before = bytes_of(tmp_path / "s")
        project.labels(1)[3, :3, :3] = 1
        with pytest.raises(DatasetError, match="frame 00003 was corrected, .* every 2th frame"):
            write_back(project)
    assert bytes_of(tmp_path / "s") == before


def test_an_object_that_lost_all_its_pixels_leaves_its_sentences(tmp_path):
    root = mevis_v2(tmp_path / "s", "meta_expressions.json", False)
    with import_video(root, None, tmp_path / "p") as project:
        project.labels(1)[:] = 0  # erased, not removed
        result = write_back(project)
        assert (result.masks, result.sentences, result.removed) == (T, 1, 1)
        row = json.loads((root / "meta_expressions.json").read_text())["videos"]["v"]
        assert row["expressions"]["0"]["obj_id"] == row["expressions"]["0"]["anno_id"] == []
        assert list(json.loads((root / "mask_dict.json").read_text())) == ["1"]
        project.labels(1)[2, :3, :3] = 1  # and drawn again: a new one for the dataset
        result = write_back(project)
        assert (result.added, result.sentences) == (1, 1)
    row = json.loads((root / "meta_expressions.json").read_text())["videos"]["v"]
    assert row["expressions"]["0"]["anno_id"] == [2]
    masks = json.loads((root / "mask_dict.json").read_text())
    assert [mask is not None for mask in masks["2"]] == [False, False, True] + [False] * 3


@pytest.mark.parametrize(("content", "told"), [("", "came out empty"), ("{", "came out damaged")])
def test_what_the_disk_swallowed_gets_no_name(tmp_path, monkeypatch, content, told):
    def write(folder, job):
        (folder / "instances.json").write_text(content)

    monkeypatch.setattr("flowrvs.data.coco.write_coco", write)
    with import_video(vos(tmp_path / "s", palette), None, tmp_path / "p") as project:
        with pytest.raises(DatasetError, match=f"instances.json {told}"):
            export_projects([project], tmp_path / "out", format="coco")
    assert not (tmp_path / "out").exists()


def test_the_datasheet_tells_a_persons_share_by_video(tmp_path):
    with import_video(vos(tmp_path / "s", palette), None, tmp_path / "p") as project:
        added = project.add_object("cat", project.add_layer("more").id)
        project.write_model(added.layer, added.id, 0, np.ones((4, H, W), bool))
        project.accept_frames(added.id, 1, 2)
        export_projects([project], tmp_path / "out", split="x", format="coco")
    # Twelve masks that were imported, one that was looked at, and three of a model.
    assert "| v | 6 | 3 | 0 | 81% |" in (tmp_path / "out" / "x" / "README.md").read_text()


def test_a_dataset_that_moved_is_found_again_where_it_was_shown(tmp_path):
    root = vos(tmp_path / "s", palette)
    with import_video(root, None, tmp_path / "p") as project:
        root.rename(tmp_path / "moved")
        with pytest.raises(DatasetError, match="say where it lies now"):
            write_back(project)
        write_back(project, tmp_path / "moved")
        assert Origin.load(project.path).split == str(tmp_path / "moved")
        project.labels(1)[0, :3, :3] = 1
        assert write_back(project).masks == 1


def test_a_dataset_with_other_frames_is_refused_even_to_the_project_that_wins(tmp_path):
    root = vos(tmp_path / "s", palette)
    with import_video(root, None, tmp_path / "p") as project:
        project.labels(1)[0, :3, :3] = 1
        for file in root.rglob("00005.*"):
            file.unlink()
        before = bytes_of(root)
        for overwrite, told in ((False, "was changed since"), (True, "has other frames now")):
            with pytest.raises(DatasetError, match=told):
                write_back(project, overwrite=overwrite)
    assert bytes_of(root) == before


def test_a_sentence_that_was_taken_out_and_comes_back_is_written_again(tmp_path):
    root = mevis_v2(tmp_path / "s", "meta_expressions.json", False)
    meta = root / "meta_expressions.json"
    with import_video(root, None, tmp_path / "p") as project:
        (first, *_) = project.expressions
        project.remove_expression(first)
        assert write_back(project).sentences == 1
        assert [row["exp"] for row in texts(meta).values()] == ["none"]
        project.undo()
        assert write_back(project).sentences == 1
        assert sorted(row["exp"] for row in texts(meta).values()) == ["none", "the first"]
        assert write_back(project).sentences == 0


def texts(meta):
    return json.loads(meta.read_text())["videos"]["v"]["expressions"]


def test_an_object_that_both_have_removed_has_no_key_any_more(tmp_path):
    """Its key is given again, to an object that must not be taken for it."""
    path = coco_video(tmp_path / "s")
    with import_video(path, None, tmp_path / "p") as project:
        first, gone = project.objects
        data = json.loads(path.read_text())
        assert data["annotations"].pop()["id"] == 12
        path.write_text(json.dumps(data))
        project.remove_object(gone)
        new = project.add_object("new", 1)
        project.add_object("nowhere", 1)
        project.labels(1)[3, :2, :2] = new.id
        result = write_back(project, overwrite=True)
        assert (result.masks, result.added, result.removed) == (0, 1, 0)
        # Nor has one that is drawn nowhere.
        assert sorted(Origin.load(project.path).objects) == [first, new.id]


@pytest.mark.parametrize("place", [".", "p.flowrvs", "p.flowrvs/out", "s", "s/JPEGImages/v"])
def test_an_export_does_not_replace_what_it_is_made_of(tmp_path, place):
    root = vos(tmp_path / "s", palette)
    with import_video(root, None, tmp_path / "p") as project:
        before = bytes_of(tmp_path)
        target = (tmp_path / place).resolve()
        with pytest.raises(InputError, match=re.escape(f"{target} would replace what is exported")):
            export_projects([project], target.parent, split=target.name, overwrite=True)
        assert bytes_of(tmp_path) == before


def test_names_of_objects_go_to_coco_and_come_back(tmp_path):
    kinds = [{"id": 1, "name": "person"}, {"id": 2, "name": "guide dog"}]
    path = coco_video(tmp_path / "c", categories=kinds)
    with import_video(path, None, tmp_path / "p") as project:
        assert [o.name for o in project.objects.values()] == ["person 11", "guide dog 12"]
        new = project.add_object("the second Guide Dog", 1)
        project.labels(1)[0, 18:20, 20:25] = new.id
        assert write_back(project).added == 1
        rows = json.loads((tmp_path / "c" / "instances_train.json").read_text())["annotations"]
        assert (rows[2]["category_id"], rows[2]["name"]) == (2, "the second Guide Dog")
        for format in ("coco", "coco-images"):
            path = export_projects([project], tmp_path / "out", split=format, format=format).path
            with import_video(path, None, tmp_path / format) as again:
                found = zip(again.objects.values(), masks_of(again), strict=True)
                names = {made.name: int(mask.sum()) for made, mask in found}
            assert names == {"person 11": 252, "guide dog 12": 216, "the second Guide Dog": 10}


def test_what_sa_v_says_of_each_object_stays_with_it(tmp_path):
    path = sa_v(tmp_path / "s") / "sav_000001_manual.json"
    data = json.loads(path.read_text())
    data.update(masklet_type=["a", "b"], masklet_num=2, masklet_note="kept")
    path.write_text(json.dumps(data))
    with import_video(path, None, tmp_path / "p") as project:
        project.labels(1)[2] = 0
        new = project.add_object("c", 1)
        project.labels(1)[0, 18:20, 20:25] = new.id
        write_back(project)
    after = json.loads(path.read_text())
    assert after["masklet_type"] == ["a", "b", None] and after["masklet_num"] == 3
    assert after["masklet_note"] == "kept" and after["masklet_id"] == [0, 1, 2]
    # What is absent is an RLE without a pixel, as SA-V's readers want it.
    areas = [[int(coco_mask.area(entry)) for entry in row] for row in after["masklet"]]
    assert areas == [[42, 36, 10], [0, 0, 0], [42, 36, 0]]
    assert after["masklet"][2][:2] == data["masklet"][2]


@pytest.mark.parametrize("masks_only", [False, True])
def test_a_write_back_that_was_killed_does_not_give_ids_twice(tmp_path, monkeypatch, masks_only):
    root = mevis_v2(tmp_path / "s", "meta_expressions.json", False)
    meta = (root / "meta_expressions.json").read_bytes()
    with import_video(root, None, tmp_path / "p") as project:
        new = project.add_object("new", 1)
        project.labels(1)[0, 18:20, 20:25] = new.id
        project.add_expression("the new one", [new.id])
        project.flush()
        shutil.copytree(root, tmp_path / "other")
        shutil.copytree(project.path, tmp_path / "q.flowrvs")
        with Project.open(tmp_path / "q.flowrvs", read_only=True) as other:
            write_back(other, tmp_path / "other")
        saved = Origin.save

        def killed(origin, path):
            if not origin.begun:
                raise KeyboardInterrupt
            saved(origin, path)

        monkeypatch.setattr(Origin, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            write_back(project)
        monkeypatch.undo()
        if masks_only:  # killed before the sentences took their place
            (root / "meta_expressions.json").write_bytes(meta)
        with pytest.raises(DatasetError, match="was stopped half-way"):
            write_back(project)
        assert write_back(project, overwrite=True).added == 0
        assert write_back(project).sentences == 0
    assert bytes_of(root) == bytes_of(tmp_path / "other")


@pytest.mark.parametrize("error", [KeyboardInterrupt, StorageError])
def test_what_is_removed_goes_after_a_write_back_that_stopped_too_soon(
    tmp_path, monkeypatch, error
):
    root = mevis_v2(tmp_path / "s", "meta_expressions.json", False)
    with import_video(root, None, tmp_path / "p") as project:
        first, *_ = project.expressions
        project.remove_object(1)
        project.remove_expression(first)

        def stopped(dataset, before, changes):
            raise error("stopped")

        with monkeypatch.context() as patch:
            patch.setattr(Mevis, "write_back", stopped)
            with pytest.raises(error):
                write_back(project)
        result = write_back(project)
        assert (result.sentences, result.removed) == (1, 1)
        assert [row["exp"] for row in texts(root / "meta_expressions.json").values()] == ["none"]
        assert list(json.loads((root / "mask_dict.json").read_text())) == ["1"]


@pytest.mark.parametrize("style", [{}, {"separators": (",", ":")}, {"indent": 2}])
def test_a_file_of_mevis_changes_in_its_own_style(tmp_path, style):
    """Two objects of a group, one of which another sentence means; every change at once."""
    root = mevis_v2(tmp_path / "s", "meta_expressions.json", False)
    meta, masks = root / "meta_expressions.json", root / "mask_dict.json"
    video = json.loads(meta.read_text())["videos"]["v"]
    video["expressions"] = {
        "7": {"exp": "both", "obj_id": [4, 9], "anno_id": ["0", 1], "note": "kept"},
        "3": {"exp": "the second", "obj_id": [9], "anno_id": [1]},
        "5": {"exp": "gone", "obj_id": [], "anno_id": []},
        "x": {"exp": " ", "obj_id": [], "anno_id": []},
    }
    other = {"expressions": {"7": {"exp": "o", "obj_id": [], "anno_id": []}}, "frames": ["0"]}
    data = {"by": "me", "videos": {"a": other, "v": video, "z": other}, "end": [1]}
    meta.write_text(json.dumps(data, **style))
    rows = {**json.loads(masks.read_text()), "12": [None] * T}
    masks.write_text(json.dumps(rows, **style))
    with import_video(root, "v", tmp_path / "p") as project:
        assert [made.name for made in project.objects.values()] == ["object 4", "the second"]
        first, second = project.objects
        texts = {e.text: e.exp_id for e in project.expressions.values()}
        assert list(texts) == ["both", "the second", "gone"]
        project.labels(1)[2, :2, :2] = first
        new = project.add_object("new", 1)
        project.labels(1)[3, 18:, 28:] = new.id
        project.add_expression("the new one", [new.id])
        project.set_expression_objects(texts["both"], [second, new.id])
        project.set_expression_text(texts["the second"], 'the "second" \u96ea')
        project.remove_expression(texts["gone"])
        result = write_back(project)
        assert (result.masks, result.sentences, result.added, result.removed) == (1, 4, 1, 0)
        assert result.notes == ()
        check_in_step(project, root, tmp_path / "step")
        drawn = {key: project.object_mask(key, 0, T) for key in (first, new.id)}
    video["expressions"] = {
        "7": {"exp": "both", "obj_id": [9, 10], "anno_id": [1, 13], "note": "kept"},
        "3": {"exp": 'the "second" \u96ea', "obj_id": [9], "anno_id": [1]},
        "x": {"exp": " ", "obj_id": [], "anno_id": []},
        "4": {"exp": "the new one", "obj_id": [10], "anno_id": [13]},
    }
    rows["0"][2] = coded(drawn[first][2])
    rows["13"] = [coded(mask) if mask.any() else None for mask in drawn[new.id]]
    for path, wanted in ((meta, data), (masks, rows)):
        found = json.loads(path.read_text())
        assert found == wanted
        assert json.dumps(found) == json.dumps(wanted), "in the order that it had"
    if "indent" not in style:  # what is new stands in one line
        assert meta.read_text() == json.dumps(data, **style)
        assert masks.read_text() == json.dumps(rows, **style)


def coded(mask):
    found = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(found["size"]), "counts": found["counts"].decode()}


def test_an_object_that_the_dataset_never_shows_stays_in_it(tmp_path):
    root = mevis_v2(tmp_path / "s", "meta_expressions.json", False)
    rows = json.loads((root / "mask_dict.json").read_text())
    rows["0"] = [None] * T
    (root / "mask_dict.json").write_text(json.dumps(rows))
    before = bytes_of(root)
    with import_video(root, "v", tmp_path / "p") as project:
        result = write_back(project)
        assert (result.masks, result.removed, bytes_of(root)) == (0, 0, before)
        project.labels(1)[3, :2, :2] = 1
        result = write_back(project)
        assert (result.masks, result.added) == (1, 0)
        check_in_step(project, root, tmp_path / "step")
    after = json.loads((root / "mask_dict.json").read_text())
    assert [mask is not None for mask in after["0"]] == [t == 3 for t in range(T)]


@pytest.mark.parametrize("broken", ["mask_dict.json", "meta_expressions.json"])
def test_masks_take_their_place_before_the_sentences_that_mean_them(tmp_path, monkeypatch, broken):
    """Where a disk fails between the two, the split loads; once it works, the same call ends."""
    root = mevis_v2(tmp_path / "s", "meta_expressions.json", False)
    before = bytes_of(root)
    with import_video(root, "v", tmp_path / "p") as project:
        new = project.add_object("new", 1)
        project.labels(1)[3, 18:, 28:] = new.id
        project.add_expression("the new one", [new.id])
        project.flush()
        replace = os.replace

        def fail(source, target):
            if Path(target) == root / broken:
                raise OSError(5, "Input/output error")
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", fail)
            with pytest.raises(StorageError, match="Input/output error"):
                write_back(project)
        after = bytes_of(root)
        changed = {str(name) for name in before if before[name] != after[name]}
        assert changed == ({"mask_dict.json"} if broken == "meta_expressions.json" else set())
        assert set(after) == set(before), "nothing is left beside"
        list(open_dataset(root).videos)
        result = write_back(project, overwrite=True)
        assert result.sentences == 1
        check_in_step(project, root, tmp_path / "step")


@pytest.mark.parametrize("kind", ["vos", "ytvos"])
def test_a_disk_that_fails_at_the_last_picture_leaves_whole_ones(tmp_path, monkeypatch, kind):
    (tmp_path / "data").mkdir()
    root = HOMES[kind](tmp_path / "data")
    before = bytes_of(root)
    with import_video(root, None, tmp_path / "p") as project:
        project.labels(1)[1:4, :2, :2] = 1
        replace, done = os.replace, []

        def fail(source, target):
            if str(target).endswith(".png"):
                done.append(target)
                if len(done) > 1:
                    raise OSError(28, "No space left on device")
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", fail)
            with pytest.raises(StorageError, match="the disk is full"):
                write_back(project)
        after = bytes_of(root)
        assert set(after) == set(before)
        assert sum(before[name] != after[name] for name in before) == 1
        with pytest.raises(DatasetError, match="was stopped half-way"):
            write_back(project)
        assert write_back(project, overwrite=True).masks == 2
        check_in_step(project, root, tmp_path / "step")


def test_what_the_dataset_says_of_categories_goes_along(tmp_path):
    (tmp_path / "data").mkdir()
    root = ref_ytvos(tmp_path / "data", truth=True)
    meta = root / "meta.json"
    data = json.loads(meta.read_text())
    data["videos"]["v"]["objects"]["1"]["note"] = "kept"
    data["videos"]["w"] = {"objects": {"1": {"category": "cat", "frames": []}}}
    meta.write_text(json.dumps(data))
    with import_video(root, "v", tmp_path / "p") as project:
        assert [made.name for made in project.objects.values()] == ["bear 1", "bear 2"]
        names = list(data["videos"]["v"]["objects"]["1"]["frames"])
        project.labels(1)[4] = np.where(project.labels(1)[4] == 1, 0, project.labels(1)[4])
        project.remove_object(2)
        new = project.add_object("new", 1)
        project.labels(1)[3, 18:, 28:] = new.id
        write_back(project)
    objects = data["videos"]["v"]["objects"]
    objects["1"]["frames"] = names[:4] + names[5:]
    del objects["2"]
    objects["3"] = {"category": "others", "frames": [names[3]]}
    assert json.loads(meta.read_text()) == data


def test_rows_of_coco_that_are_not_of_the_video_keep_their_bytes(tmp_path):
    """A compact file in which another video's annotation lies between, and compressed RLEs."""
    path = coco_video(tmp_path / "c")
    data = json.loads(path.read_text())
    first, second = data["annotations"]
    first["segmentations"] = [coded(m) for m in boxes()[0]]
    first["note"], first["bboxes"] = "kept", [[0, 0, 1, 1]] * T
    other = {"id": 30, "video_id": 2, "category_id": 1, "segmentations": [None], "areas": [None]}
    data["annotations"] = [first, other, second]
    data["videos"].insert(0, {"id": 2, "file_names": ["w/00000.jpg"]})
    rows = [
        {"id": 5, "video_id": 1, "exp_id": "a", "exp": "the first", "annotation_ids": [11]},
        {"id": 6, "video_id": 2, "exp_id": "a", "exp": "other", "annotation_ids": []},
        {"id": 8, "video_id": 1, "exp_id": "b", "exp": "gone", "annotation_ids": [12]},
    ]
    data["expressions"] = rows
    path.write_text(json.dumps(data, separators=(",", ":")))
    with import_video(path, "v", tmp_path / "p") as project:
        assert [(e.text, set(e.object_ids)) for e in project.expressions.values()] == [
            ("the first", {1}),
            ("gone", {2}),
        ]
        project.labels(1)[2, :2, :2] = 1
        texts = list(project.expressions)
        project.set_expression_text(texts[0], "the very first")
        project.remove_expression(texts[1])
        project.remove_object(2)
        new = project.add_object("a new dog", 1)
        project.labels(1)[3, 18:, 28:] = new.id
        project.add_expression("the new one", [1, new.id])
        result = write_back(project)
        assert (result.masks, result.sentences, result.added, result.removed) == (T + 1, 3, 1, 1)
        drawn = project.object_mask(1, 0, T)
        check_in_step(project, path, tmp_path / "step")
    first["segmentations"] = [coded(mask) for mask in drawn]
    first["areas"] = [int(mask.sum()) for mask in drawn]
    first["bboxes"] = [[2 + t, 2, 7, 6] for t in range(T)]
    first["bboxes"][2] = [0, 0, 11, 8]
    added = {
        "id": 31,
        "video_id": 1,
        "category_id": 2,
        "name": "a new dog",
        "iscrowd": 0,
        "segmentations": [None] * 3 + [{"size": [H, W], "counts": [578, 2, 18, 2]}] + [None] * 2,
        "areas": [None] * 3 + [4] + [None] * 2,
        "bboxes": [None] * 3 + [[28, 18, 2, 2]] + [None] * 2,
    }
    data["annotations"] = [first, other, added]
    rows[0]["exp"] = "the very first"
    about = {"id": 9, "video_id": 1, "exp_id": "2", "exp": "the new one"}
    data["expressions"] = [rows[0], rows[1], {**about, "annotation_ids": [11, 31]}]
    assert json.loads(path.read_text()) == data
    head = json.dumps({"categories": data["categories"], "videos": data["videos"]})
    assert path.read_text().startswith(head[:-1].replace(", ", ",").replace(": ", ":"))


def test_what_somebody_else_took_out_of_the_dataset_counts_as_new(tmp_path):
    root = mevis_v2(tmp_path / "s", "meta_expressions.json", False)
    meta, masks = root / "meta_expressions.json", root / "mask_dict.json"
    with import_video(root, "v", tmp_path / "p") as project:
        data = json.loads(meta.read_text())
        del data["videos"]["v"]["expressions"]["0"]
        meta.write_text(json.dumps(data))
        masks.write_text(json.dumps({"1": json.loads(masks.read_text())["1"]}))
        with pytest.raises(DatasetError, match="was changed since it was read; import it again"):
            write_back(project)
        with pytest.raises(DatasetError, match="was changed since it was read"):
            check_write_back(project)
        check_write_back(project, overwrite=True)
        result = write_back(project, overwrite=True)
        assert (result.masks, result.sentences, result.added, result.removed) == (0, 1, 1, 0)
        check_in_step(project, root, tmp_path / "step")
    assert list(json.loads(masks.read_text())) == ["1", "2"]


def test_comparing_is_told_and_can_be_stopped(tmp_path):
    root = mevis_v2(tmp_path / "s", "meta_expressions.json", False)
    before = bytes_of(root)
    told = []
    with import_video(root, "v", tmp_path / "p") as project:
        write_back(project, progress=told.append)
        assert {event.message for event in told} == {"comparing v"}
        assert (told[-1].done, told[-1].total) == (T, T)
        project.labels(1)[2, :2, :2] = 1
        token = CancelToken()
        token.cancel()
        with pytest.raises(Cancelled):
            write_back(project, cancel=token)
        assert bytes_of(root) == before and not Origin.load(project.path).begun
