"""Datasets as other people have them are read right, corrected, and go home."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

import flowrvs
from flowrvs.cli import main
from flowrvs.data import (
    MevisSplit,
    can_write_back,
    check_split,
    export_projects,
    import_video,
    list_videos,
    preview_export,
    repair_split,
    write_back,
)
from flowrvs.data.formats import open_dataset
from flowrvs.data.json_parts import mapped
from flowrvs.data.origin import Origin
from flowrvs.data.pictures import object_ids, read_codes
from flowrvs.errors import DatasetError, InputError, MissingPathError, StorageError
from flowrvs.store import Project, Provenance
from tests.fixtures.layouts import (
    KINDS,
    H,
    T,
    W,
    boxes,
    coco_video,
    frames,
    labels,
    masks_of,
    mevis_v2,
    palette,
    ref_ytvos,
    vos,
)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_masks_are_read_by_their_kind(tmp_path, kind):
    root = vos(tmp_path / "train", KINDS[kind])
    with import_video(root, "v", tmp_path / "p") as project:
        found = masks_of(project)
    assert len(found) == 2
    wanted = boxes() if kind != "other colours" else boxes()[::-1]
    assert sorted(map(np.ndarray.tobytes, found)) == sorted(map(np.ndarray.tobytes, wanted))


@pytest.mark.parametrize("kind", ["0 and 255", "black and white", "65535", "white in colour"])
def test_a_lone_highest_value_is_the_object(tmp_path, kind):
    both = boxes().any(axis=0)

    def draw(index):
        if kind == "black and white":
            return Image.fromarray(both[index])
        if kind == "65535":
            return Image.fromarray(both[index] * np.uint16(65535))
        grey = both[index] * np.uint8(255)
        return Image.fromarray(grey if kind == "0 and 255" else np.dstack([grey] * 3))

    with import_video(vos(tmp_path / "train", draw), "v", tmp_path / "p") as project:
        (found,) = masks_of(project)
    assert np.array_equal(found, both)


def test_255_beside_others_is_a_border(tmp_path):
    def draw(index):
        picture = labels(index)
        picture[0] = 255
        return Image.fromarray(picture)

    with import_video(vos(tmp_path / "train", draw), "v", tmp_path / "p") as project:
        assert all(map(np.array_equal, masks_of(project), boxes()))


@pytest.mark.parametrize("bordered", [0, 4])
def test_a_border_on_one_frame_is_told_from_a_mask_of_0_and_255(tmp_path, bordered):
    """Frame 4 has no object: 255 on it alone may be one that is written in another way."""

    def draw(index):
        picture = labels(index) if index != 4 else np.zeros((H, W), np.uint8)
        if index == bordered:
            picture[0] = 255
        return Image.fromarray(picture)

    root = vos(tmp_path / "train", draw)
    if bordered == 4:
        with pytest.raises(DatasetError, match=r"00004\.png is a mask of 0 and 255, other pict"):
            import_video(root, "v", tmp_path / "p")
        return
    with import_video(root, "v", tmp_path / "p") as project:
        wanted = boxes()
        wanted[:, 4] = False
        assert all(map(np.array_equal, masks_of(project), wanted))


def noise(index):
    return Image.fromarray(np.random.default_rng(index).integers(0, 256, (H, W, 3), np.uint8))


def see_through(index):
    return Image.fromarray(np.dstack([labels(index)] * 3 + [labels(index) * np.uint8(100)]))


def test_numbers_and_colours_in_one_video(tmp_path):
    """Colours of VOC are numbers, too; of others nobody knows which number they mean."""
    root = vos(tmp_path / "train", palette)
    KINDS["colours of VOC"](2).save(root / "Annotations" / "v" / "00002.png")
    with import_video(root, "v", tmp_path / "p") as project:
        assert all(map(np.array_equal, masks_of(project), boxes()))
        assert Origin.load(project.path).notes == []
    KINDS["other colours"](2).save(root / "Annotations" / "v" / "00002.png")
    with pytest.raises(DatasetError, match="numbers in some pictures and colours in others"):
        import_video(root, "v", tmp_path / "q")


def test_a_border_and_files_that_are_no_masks_are_told(tmp_path):
    root = vos(tmp_path / "train", palette)
    (root / "JPEGImages" / "v" / "sub.jpg").mkdir()
    picture = np.array(Image.open(root / "Annotations" / "v" / "00003.png"))
    picture[:1] = 255
    Image.fromarray(picture).save(root / "Annotations" / "v" / "00003.png")
    with import_video(root, "v", tmp_path / "p") as project:
        (note,) = Origin.load(project.path).notes
        assert note == "255 is a border that nobody decides on, no object: it is in 1 picture"
    for path in (root / "Annotations" / "v").iterdir():
        path.rename(path.with_suffix(".bmp"))
    message = "nor sentences: not read, as no mask of a frame: 6 files in "
    with pytest.raises(DatasetError, match=message):
        import_video(root, "v", tmp_path / "q")
    (root / "Annotations" / "v" / "00001.png").symlink_to(tmp_path / "nothing")
    with pytest.raises(DatasetError, match=r"00001\.png is no plain file"):
        import_video(root, "v", tmp_path / "q")


@pytest.mark.parametrize(
    ("draw", "message"),
    [(noise, "no picture of masks"), (see_through, "see-through")],
)
def test_what_is_no_picture_of_masks_is_refused(tmp_path, draw, message):
    root = vos(tmp_path / "train", draw)
    with pytest.raises(DatasetError, match=message):
        import_video(root, "v", tmp_path / "p")
    assert not (tmp_path / "p.flowrvs").exists()


def test_a_picture_that_is_a_program_is_not_run(tmp_path):
    root = vos(tmp_path / "train", palette)
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 30 20\n(touched) (w) file closefile\n"
    (root / "Annotations/v/00000.png").write_bytes(script)
    with pytest.raises(DatasetError, match=r"00000\.png is not a readable picture"):
        import_video(root, "v", tmp_path / "p")
    (root / "JPEGImages/v/00000.jpg").write_bytes(script)
    meta = {"videos": {"v": {"frames": ["00000"], "expressions": {"0": {"exp": "x"}}}}}
    (root / "meta_expressions.json").write_text(json.dumps(meta))
    assert "bad-picture" in {f.code for f in check_split(root, deep=True)}


def test_pipes_are_not_waited_for(tmp_path):
    root = vos(tmp_path / "train", palette)
    picture, masks = root / "Annotations" / "v" / "00000.png", tmp_path / "mask_dict.json"
    picture.unlink()
    for path in (picture, masks):
        os.mkfifo(path)
    with pytest.raises(DatasetError, match=r"00000\.png is no plain file"):
        import_video(root, "v", tmp_path / "p")
    with pytest.raises(DatasetError, match=r"mask_dict\.json is no plain file"), mapped(masks):
        pass
    for name in ("meta_expressions.json", "instances.json"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        os.mkfifo(folder / name)
        with pytest.raises(DatasetError, match=f"{name} is no plain file"):
            open_dataset(folder)
    davis = tmp_path / "davis"
    frames(davis / "JPEGImages" / "480p" / "v")
    (davis / "davis_text_annotations").mkdir()
    os.mkfifo(davis / "davis_text_annotations" / "2.txt")
    with pytest.raises(StorageError, match=r"2\.txt: it is no plain file"):
        import_video(davis, "v", tmp_path / "p")


def test_boxes_without_a_mask_are_not_absent(tmp_path):
    """COCO-video with boxes on frames that nobody has outlined; they stay where nobody draws."""
    place = coco_video(tmp_path)
    data = json.loads(place.read_text())
    first, second = data["annotations"]
    first["bboxes"] = [[0, 0, 4, 4] if t in (2, 3) else [0, 0, 0, 0] for t in range(T)]
    second["bboxes"] = [[1, 1, 5, 5] if t == 4 else None for t in range(T)]
    first["segmentations"][2:4], second["segmentations"] = [None, None], None
    place.write_text(json.dumps(data))
    with import_video(place, "v", tmp_path / "p") as project:
        assert "left out: 3 boxes without a mask" in Origin.load(project.path).notes
        wanted = [2] * T
        for t in (2, 3, 4):
            wanted[t] = 0 if t != 4 else 2
        assert project.provenance(1).tolist() == wanted, "on 4 it has a mask of its own"
        wanted[4] = 0
        assert project.provenance(2).tolist() == wanted
        project.labels(1)[2, 0, 0] = 1
        project.labels(1)[5, 0, 0] = 1
        assert write_back(project).masks == 2
    again, other = json.loads(place.read_text())["annotations"]
    assert again["bboxes"][2:4] == [[0, 0, 1, 1], [0, 0, 4, 4]] and other == second


def test_three_corners_are_a_polygon_and_two_are_none(tmp_path):
    place = coco_video(tmp_path / "d")
    data = json.loads(place.read_text())
    for row, corners in zip(
        data["annotations"], ([2, 2, 12, 2, 12, 12], [3, 3, 9, 9]), strict=True
    ):
        row.update(height=H, width=W, segmentations=[[corners]] + [None] * (T - 1))
    place.write_text(json.dumps(data))
    with import_video(place, "v", tmp_path / "p") as project:
        triangle, line = (project.object_mask(key, 0, 1)[0] for key in project.objects)
    assert triangle[4, 10] and not triangle[10, 4] and 40 < triangle.sum() < 60
    assert not line.any()


def test_ids_of_coco_are_those_of_all_videos(tmp_path):
    place = coco_video(tmp_path / "d")
    data = json.loads(place.read_text())
    data["videos"].append({"id": 2, "file_names": ["w/00000.jpg"]})
    data["annotations"].append({"id": 90, "video_id": 2, "segmentations": [None]})
    place.write_text(json.dumps(data))
    with import_video(place, "v", tmp_path / "p") as project:
        added = project.add_object("cat", project.add_layer("more").id)
        project.labels(added.layer)[0, :2, :2] = added.id
        write_back(project)
    rows = json.loads(place.read_text())["annotations"]
    assert [(row["id"], row["video_id"]) for row in rows] == [
        (11, "1"),
        (12, "1"),
        (90, 2),
        (91, 1),
    ]


def test_the_box_of_a_mask_goes_with_it(tmp_path):
    place = coco_video(tmp_path / "d")
    data = json.loads(place.read_text())
    for row in data["annotations"]:
        row["bboxes"] = [[1, 2, 3, 4]] * T
    place.write_text(json.dumps(data))
    with import_video(place, "v", tmp_path / "p") as project:
        project.labels(1)[2] = 0
        write_back(project)
    for row in json.loads(place.read_text())["annotations"]:
        assert row["bboxes"][2] is row["segmentations"][2] is row["areas"][2] is None
        assert row["bboxes"][1] is not None and row["segmentations"][1] is not None


def test_large_pictures_are_looked_at_in_parts(tmp_path):
    """Colours of DAVIS in the first and the last part, one of them in both."""
    size = (1030, 1025)  # more than 2**20 pixels
    picture = np.zeros((*size, 3), np.uint8)
    picture[0, 0], picture[-1, -1], picture[-1, :3] = (128, 0, 0), (128, 0, 0), (0, 128, 0)
    Image.fromarray(picture).save(tmp_path / "x.png")
    pixels, codes = read_codes(tmp_path / "x.png")
    ids = object_ids(codes, wide=False)
    assert sorted(ids.values()) == [1, 2]
    wanted = np.zeros(size, np.uint8)
    wanted[0, 0], wanted[-1, -1], wanted[-1, :3] = 1, 1, 2
    assert np.array_equal(np.isin(pixels, codes), wanted > 0)
    assert all(np.array_equal(pixels == code, wanted == ids[code]) for code in codes)


def test_odd_heads_of_pictures_are_no_warnings(tmp_path, capsys, recwarn):
    root = vos(tmp_path / "train", palette)
    exif = Image.Exif()
    exif[0x0112] = 3
    name = root / "JPEGImages" / "v" / "00001.jpg"
    cut = b"Exif\0\0" + exif.tobytes()[6:-9]
    Image.new("RGB", (W, H)).save(name, exif=cut)
    assert main(["import", str(root), "--video", "v", "--out", str(tmp_path / "p")]) == 0
    assert "EXIF" not in capsys.readouterr().err
    assert not [w for w in recwarn if "EXIF" in str(w.message)]


def test_a_picture_beyond_pillows_limit_is_one_line(tmp_path, capsys, recwarn):
    root = vos(tmp_path / "train", palette)
    Image.new("1", (10_000, 9_500)).save(root / "Annotations" / "v" / "00000.png")
    assert main(["import", str(root), "--video", "v", "--out", str(tmp_path / "p")]) == 2
    assert "00000.png is larger than any video frame" in capsys.readouterr().err
    assert not [w for w in recwarn if "exceeds limit" in str(w.message)]


def test_frames_that_nobody_annotated_are_nobodys(tmp_path):
    root = vos(tmp_path / "train", palette, indices=(0, 3))
    with import_video(root, "v", tmp_path / "p") as project:
        human, empty = Provenance.HUMAN, Provenance.EMPTY
        for key in project.objects:
            assert project.provenance(key).tolist() == [human, empty, empty, human, empty, empty]
        notes = Origin.load(project.path).notes
        assert notes == ["on 4 of 6 frames there is no annotation: nobody has looked there yet"]
        rows = preview_export([project]).rows
        assert [row.unlooked for row in rows] == [4]
        found = preview_export([project]).findings
        assert any("on 4 of 6 frames nobody has looked" in f.problem for f in found)
        again = export_projects([project], tmp_path / "d", format="davis")
        assert not any("nobody has looked" in note for note in again.notes)
        pictures = sorted(p.name for p in (again.path / "Annotations/480p/v").iterdir())
        assert pictures == ["00000.png", "00003.png"]
        coco = export_projects([project], tmp_path / "d", format="coco-images", split="c").path
        images = json.loads((coco / "instances.json").read_text())["images"]
        assert [image["file_name"] for image in images] == ["v/00000.jpg", "v/00003.jpg"]
        result = export_projects([project], tmp_path / "d", format="coco", split="all")
        assert any("on 4 of 6 frames nobody has looked" in note for note in result.notes)
        few = export_projects([project], tmp_path / "e", format="coco", annotated_only=True)
        assert few.frames == 2 and not few.notes
        video = json.loads((few.path / "instances.json").read_text())["videos"][0]
        assert video["file_names"] == ["v/00000.jpg", "v/00003.jpg"]


def test_objects_without_a_sentence_are_written_or_named(tmp_path):
    root = vos(tmp_path / "train", palette)
    with import_video(root, "v", tmp_path / "p") as project:
        project.add_expression("the first", [1])
        for format, count in (("mevis", 1), ("png", 1)):
            result = export_projects([project], tmp_path / format, format=format)
            assert result.objects == count
            assert any("'object 2': it is left out" in note for note in result.notes)
            assert "it is left out" in (result.path / "README.md").read_text()
        found = preview_export([project], format="mevis").findings
        assert [f.code for f in found] == ["no-sentence"]
        assert preview_export([project], format="davis").findings == ()
        for format in ("davis", "ytvos", "refdavis", "coco", "coco-images", "csv", "ome-zarr"):
            result = export_projects([project], tmp_path / format, format=format)
            assert result.objects == 2
            assert any("'object 2'" in n for n in result.notes) == (format in ("ytvos", "refdavis"))
        for format in ("davis", "ytvos", "coco"):
            with import_video(tmp_path / format / "train", "v", tmp_path / f"{format}.p") as again:
                assert all(map(np.array_equal, masks_of(again), boxes()))
        named = export_projects([project], tmp_path / "named", name_as_sentence=True)
        assert (named.objects, named.expressions, named.notes) == (2, 2, ())
        split = MevisSplit.open(named.path)
        by_text = {e.exp: exp_id for exp_id, e in split.videos["v"].expressions.items()}
        assert np.array_equal(split.target_masks("v", by_text["object 2"]), boxes()[1])


@pytest.mark.parametrize("given", [{}, {"obj_id": None}, {"obj_id": ""}, {"obj_id": "x"}])
def test_ids_that_say_nothing_are_unknown(tmp_path, given):
    root = ref_ytvos(tmp_path, truth=True)
    (root / "Annotations" / "v" / "0.png").write_bytes(b"not of a frame")
    path = tmp_path / "meta_expressions" / "valid" / "meta_expressions.json"
    meta = json.loads(path.read_text())
    del meta["videos"]["v"]["expressions"]["1"]["obj_id"]
    meta["videos"]["v"]["expressions"]["1"].update(given)
    path.write_text(json.dumps(meta))
    if given.get("obj_id"):
        with pytest.raises(DatasetError, match=r"v/1 in .*: The id 'x'"):
            import_video(root, "v", tmp_path / "p")
        return
    with import_video(root, "v", tmp_path / "p") as project:
        origin = Origin.load(project.path)
        assert origin.unknown == ["1"]
        assert origin.notes[0] == (
            f"not read, as no mask of a frame: 1 file in {root / 'Annotations' / 'v'} (0.png)"
        )


def test_sentences_without_ids_are_unknown(tmp_path):
    root = ref_ytvos(tmp_path, truth=False)
    assert [f for f in check_split(root) if f.severity == "error"] == []
    assert len(MevisSplit.open(root)) == 2
    with pytest.raises(DatasetError, match="holds the splits valid"):
        list_videos(tmp_path)
    with import_video(root, "v", tmp_path / "p") as project:
        assert "does not say what is meant by 2 of 2" in Origin.load(project.path).notes[-1]
        result = export_projects([project], tmp_path / "d")
        assert result.expressions == 0 and "nobody knows yet" in result.notes[-1]
        hidden = export_projects([project], tmp_path / "d", split="valid").path
        rows = json.loads((hidden / "meta_expressions.json").read_text())["videos"]["v"]
        assert rows["expressions"]["0"] == {"exp": "the first"}
        assert write_back(project).sentences == 0
        # What somebody has found is known, none included.
        (first, second) = project.expressions
        found = project.add_object("it", project.add_layer("l").id)
        project.labels(1)[0, :3, :3] = found.id
        project.set_expression_objects(first, [found.id])
        result = export_projects([project], tmp_path / "e")
        assert result.expressions == 1


@pytest.mark.parametrize("place", ["in it", "beside it"])
@pytest.mark.parametrize("wrong", ["clasic-car", "classic-car"])
def test_davis_as_it_is_published(tmp_path, place, wrong):
    root = tmp_path / "ref-davis"
    for name in ("classic-car", "dogs-scale"):
        names = frames(root / "DAVIS" / "JPEGImages" / "480p" / name)
        (root / "DAVIS" / "Annotations" / "480p" / name).mkdir(parents=True)
        for index, frame in enumerate(names):
            palette(index).save(root / "DAVIS" / "Annotations" / "480p" / name / f"{frame}.png")
    texts = (root if place == "beside it" else root / "DAVIS") / "davis_text_annotations"
    texts.mkdir()
    lines = f'{wrong} 1 "a car"\ndog-scale 2 "a dog\x92s tail"\n'
    (texts / "Davis17_annot1.txt").write_bytes(lines.encode("latin-1"))
    assert list_videos(root) == {"classic-car": 1, "dogs-scale": 1}
    with import_video(root, "dogs-scale", tmp_path / "p") as project:
        (sentence,) = project.expressions.values()
        assert sentence.text == "a dog\u2019s tail"
        found = project.expression_mask(sentence.exp_id, 0, T)
        assert np.array_equal(found, boxes()[1])
    # Without a mask, as the hidden splits are, nothing says that they mean nothing.
    shutil.rmtree(root / "DAVIS" / "Annotations")
    with import_video(root, "dogs-scale", tmp_path / "q") as project:
        assert Origin.load(project.path).unknown == [*project.expressions]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "meta_expressions_v2.json",
        "meta_expressions_v2_release.json",
        "meta_expressions_text_release.json",
    ],
)
def test_the_second_version_of_mevis(tmp_path, name, packed):
    (tmp_path / "train").mkdir()
    root = mevis_v2(tmp_path / "train", name, packed)
    split = MevisSplit.open(root)
    assert np.array_equal(split.target_masks("v", "0"), boxes()[0])
    assert split.read_frames("v").shape == (T, H, W, 3)
    assert [f.severity for f in check_split(root)].count("error") == 0
    with import_video(root, "v", tmp_path / "p") as project:
        assert [e.text for e in project.expressions.values()] == ["the first", "none"]
        project.labels(1)[2, :2, :2] = 1
        assert write_back(project).masks == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.flowrvs", "train"]
    assert sorted(p.name for p in (root / "JPEGImages" / "v").iterdir())[-1] == "00005.jpg"


def test_a_cut_archive_is_one_line(tmp_path):
    (tmp_path / "t").mkdir()
    root = mevis_v2(tmp_path / "t", "meta_expressions_v2.json", True)
    data = (root / "JPEGImages.tar").read_bytes()
    (root / "JPEGImages.tar").write_bytes(data[:3000])
    with pytest.raises(DatasetError, match=r"JPEGImages\.tar"):
        MevisSplit.open(root).read_frames("v")
    assert not (root / "JPEGImages").exists()


@pytest.mark.parametrize("place", ["train", "JPEGImages", "train/JPEGImages", "."])
def test_json_is_read_where_it_lies(tmp_path, place):
    path = coco_video(tmp_path / "d", place)
    with import_video(path, None, tmp_path / "p") as project:
        assert [o.name for o in project.objects.values()] == ["person 11", "dog 12"]
        assert all(map(np.array_equal, masks_of(project), boxes()))


def test_frames_may_lie_elsewhere(tmp_path):
    path = coco_video(tmp_path / "d", "../far/away")
    with pytest.raises(DatasetError, match="--frames"):
        import_video(path, "v", tmp_path / "p")
    with pytest.raises(MissingPathError):
        list_videos(path, pictures=tmp_path / "none")
    with import_video(path, "v", tmp_path / "p", pictures=tmp_path / "far/away") as project:
        assert all(map(np.array_equal, masks_of(project), boxes()))
        project.labels(1)[0, 11:17, 3:9] = 0
        assert write_back(project).masks == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["annotations"].append(d["annotations"][0]), "id 11 twice"),
        (lambda d: d["videos"].append(d["videos"][0]), "twice"),
        (
            lambda d: d.update(expressions=[{"video_id": 1, "exp": "x", "annotation_ids": []}] * 2),
            "sentence v/None twice",
        ),
        (lambda d: d.pop("videos"), "no annotation that can be read"),
        (lambda d: d.update(videos=[]), "lists no video"),
        (lambda d: d.update(annotations=[]), "neither objects nor sentences"),
        (lambda d: d["annotations"][0].update(id=float("inf")), "no whole number"),
        (lambda d: d["annotations"][0]["segmentations"].pop(), "5 masks for 6 frames"),
        (
            lambda d: d["annotations"][1]["segmentations"][3].update(counts=[1, 10**9]),
            "v, annotation 12, frame 00003",
        ),
        (
            lambda d: d["annotations"][1]["segmentations"][3].update(size=[10**9, 10**9]),
            "v, annotation 12, frame 00003",
        ),
        (
            lambda d: d["annotations"][1]["segmentations"][3].update(counts=[float("inf"), None]),
            "v, annotation 12, frame 00003",
        ),
        (
            lambda d: d["annotations"][1].update(
                height=H, width=W, segmentations=[[[0, 0, 30, 0, 0, 20] * 50]] * T
            ),
            "annotation 12: a polygon's outline is longer than its frame allows",
        ),
        (lambda d: d["annotations"].append(7), "no list of objects"),
        (lambda d: d["videos"][0].update(file_names=["../../x.jpg"]), "file name"),
    ],
)
def test_damaged_json_is_named(tmp_path, change, message):
    path = coco_video(tmp_path / "d")
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=message) as caught:
        import_video(path, None, tmp_path / "p")
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d"]


def test_coco_by_image_and_its_polygons(tmp_path):
    names = frames(tmp_path / "d" / "v")
    corners = [[2, 2, 9, 2, 9, 8, 2, 8]]
    data = {
        "categories": [{"id": 1, "name": "cell"}],
        "images": [
            {"id": 5 + n, "file_name": f"v/{name}.jpg", "height": H, "width": W}
            for n, name in enumerate(names[:4])
        ],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 1, "segmentation": corners, "track_id": 3},
            {"id": 2, "image_id": 7, "category_id": 1, "segmentation": corners, "track_id": 3},
            {"id": 3, "image_id": 6, "category_id": 1, "bbox": [1, 1, 5, 5], "track_id": 3},
            {"id": 4, "image_id": 99, "category_id": 1, "segmentation": corners, "track_id": 3},
        ],
    }
    (tmp_path / "d" / "instances.json").write_text(json.dumps(data))
    with import_video(tmp_path / "d", "v", tmp_path / "p") as project:
        (found,) = masks_of(project)
        assert not can_write_back(project)
        with pytest.raises(InputError, match="not written back"):
            write_back(project)
        provenance = project.provenance(1).tolist()
        assert Origin.load(project.path).notes == [
            "left out: 1 box without a mask",
            "left out: 1 row with an unknown 'image_id'",
            "on 1 of 4 frames there is no annotation: nobody has looked there yet",
        ]
    wanted = np.zeros((T, H, W), bool)
    wanted[[0, 2], 2:8, 2:9] = True
    assert np.array_equal(found, wanted)
    # Where only a box was drawn, nobody has said that the object is absent.
    assert provenance == [2, 0, 2, 2, 0, 0]


def test_an_endless_file_name_is_one_line(tmp_path):
    data = {"images": [{"id": 1, "file_name": "v/" + 5000 * "9"}], "annotations": []}
    (tmp_path / "instances.json").write_text(json.dumps(data))
    with pytest.raises(DatasetError, match="no usable 'file_name'"):
        list_videos(tmp_path)


def test_labelme(tmp_path):
    folder = tmp_path / "v"
    names = frames(folder)
    for name in names[::5]:
        shapes = [
            {"label": "cap", "points": [[2, 2], [9, 2], [9, 8], [2, 8]], "shape_type": "polygon"},
            {"label": "cap", "points": [[11, 2], [14, 7]], "shape_type": "rectangle"},
        ]
        if name == names[5]:
            shapes.append({"label": "dot", "points": [[1, 1]], "shape_type": "point"})
        about = {"imagePath": f"{name}.jpg", "imageHeight": H, "imageWidth": W}
        (folder / f"{name}.json").write_text(json.dumps({"shapes": shapes, **about}))
    with import_video(folder, None, tmp_path / "p") as project:
        (found,) = masks_of(project)
        assert [o.name for o in project.objects.values()] == ["cap"]
        assert Origin.load(project.path).notes == [
            "left out: 1 shape without an area",
            "on 5 of 6 frames there is no annotation: nobody has looked there yet",
        ]
        # There is something on frame 5 whose outline nobody has drawn.
        assert project.provenance(1).tolist() == [2, 0, 0, 0, 0, 2]
    wanted = np.zeros((T, H, W), bool)
    wanted[[0, 5], 2:8, 2:9] = True
    wanted[[0, 5], 2:7, 11:14] = True
    assert np.array_equal(found, wanted)


def test_labelme_has_circles_and_masks_and_may_lack_sizes(tmp_path):
    folder = tmp_path / "v"
    names = frames(folder)
    part = io.BytesIO()
    Image.fromarray(np.eye(4, dtype=bool)).save(part, "PNG")
    shapes = [
        {"label": "ball", "points": [[10, 10], [14, 10]], "shape_type": "circle"},
        {
            "label": "stick",
            "points": [[20, 5], [23, 8]],
            "shape_type": "mask",
            "mask": base64.b64encode(part.getvalue()).decode(),
        },
    ]
    (folder / f"{names[2]}.json").write_text(json.dumps({"shapes": shapes, "imageHeight": None}))
    with import_video(folder, None, tmp_path / "p") as project:
        ball, stick = (found[2] for found in masks_of(project))
    rows, columns = np.indices((H, W)) + 0.5
    inside = np.hypot(rows - 10, columns - 10)
    assert ball[inside < 3.3].all() and not ball[inside > 4.7].any()
    wanted = np.zeros((H, W), bool)
    wanted[np.arange(5, 9), np.arange(20, 24)] = True
    assert np.array_equal(stick, wanted)
    shapes[1]["mask"] = "no base64"
    (folder / f"{names[3]}.json").write_text(json.dumps({"shapes": shapes}))
    with pytest.raises(DatasetError, match=r"00003\.json: a mask is no PNG in base64"):
        import_video(folder, None, tmp_path / "q")


@pytest.mark.parametrize(("count", "seen"), [(5, [0, 4]), (9, [0, 4, 8]), (3, [0])])
def test_sa_v_annotates_every_fourth_frame(tmp_path, count, seen):
    frames(tmp_path / "s" / "sav_1", count)
    mask = coco_mask.encode(np.asfortranarray(boxes()[0, 0], np.uint8))
    row = [{**mask, "counts": mask["counts"].decode()}]
    about = {"video_id": "sav_1", "video_frame_count": float(count), "masklet_id": [3.0]}
    path = tmp_path / "s" / "sav_1_manual.json"
    path.write_text(json.dumps({**about, "masklet": [row] * len(seen)}))
    with import_video(path, None, tmp_path / "p") as project:
        assert np.flatnonzero(project.provenance(1)).tolist() == seen
        assert np.flatnonzero(project.present(1)).tolist() == seen


def test_davis_is_read_at_the_size_that_has_masks(tmp_path):
    folder = tmp_path / "d"
    names = frames(folder / "JPEGImages" / "480p" / "v")
    for name in frames(folder / "JPEGImages" / "Full-Resolution" / "v"):
        assert name in names
    (folder / "Annotations" / "480p" / "v").mkdir(parents=True)
    palette(0).save(folder / "Annotations" / "480p" / "v" / "00000.png")
    with import_video(folder, "v", tmp_path / "p") as project:
        assert len(project.objects) == 2


def test_numbers_and_255_in_one_video_are_refused(tmp_path):
    def draw(index):
        return Image.fromarray(boxes()[0, index] * np.uint8(255 if index == 3 else 1))

    root = vos(tmp_path / "train", draw)
    with pytest.raises(DatasetError, match=r"00003\.png is a mask of 0 and 255"):
        import_video(root, "v", tmp_path / "p")


def test_the_datasets_in_a_folder_are_named(tmp_path):
    vos(tmp_path / "MOSE" / "train", palette)
    vos(tmp_path / "MOSE" / "valid", palette)
    with pytest.raises(DatasetError, match="holds the splits train, valid; give one"):
        import_video(tmp_path / "MOSE")


def test_ids_that_pandas_wrote_are_whole(tmp_path):
    path = coco_video(tmp_path / "c")
    data = json.loads(path.read_text())
    for row in data["annotations"]:
        row.update(id=float(row["id"]), video_id=float(row["video_id"]))
    path.write_text(json.dumps(data))
    with import_video(path, None, tmp_path / "p") as project:
        found = masks_of(project)
    assert np.array_equal(np.sort(found, axis=0), np.sort(boxes(), axis=0))


def test_masks_behind_a_broken_link_are_not_unknown(small_split, tmp_path):
    masks = small_split / "mask_dict.json"
    masks.rename(tmp_path / "moved.json")
    masks.symlink_to(tmp_path / "gone.json")
    with pytest.raises(DatasetError, match="mask_dict.json is no plain file, or a link to none"):
        import_video(small_split, "grey", tmp_path / "p")
    masks.unlink()
    with import_video(small_split, "grey", tmp_path / "p") as project:
        assert "mask_dict.json is missing" in Origin.load(project.path).notes[0]


def test_an_annotation_that_is_there_twice_is_refused(small_split, tmp_path):
    masks = small_split / "mask_dict.json"
    masks.write_text(masks.read_text().rstrip("}\n") + ', "2": [null, null, null, null]}')
    with pytest.raises(DatasetError, match="anno_id 2 twice"):
        import_video(small_split, "grey", tmp_path / "p")


@pytest.mark.parametrize("format", ["mevis", "ytvos", "davis", "coco", "png"])
def test_a_sentence_that_was_never_run_is_not_one_without_target(tmp_path, format):
    frames(tmp_path / "v")
    with flowrvs.open_video(tmp_path / "v") as video:
        project = Project.create(tmp_path / "p", video.info)
    with project:
        project.add_prompt("typed and never run")
        project.add_expression("a person says: none", [])
        _, drawn = project.add_prompt("run on some frames")
        project.write_model(drawn.layer, drawn.id, 1, np.zeros((2, H, W), bool))
        result = export_projects([project], tmp_path / "out", format=format)
    said = [note for note in result.notes if "nobody" in note]
    assert said[-1] == "v: the sentence 0 is left out: nobody knows yet what it means"
    assert (len(said) == 2) == (format != "davis")
    if format != "davis":
        assert said[0].startswith("v: on 4 of 6 frames nobody has looked")
    with import_video(result.path, "v", tmp_path / "q") as again:
        assert [(e.text, set(e.object_ids)) for e in again.expressions.values()] == [
            ("a person says: none", set()),
            ("run on some frames", set()),
        ]


def test_a_sentence_that_was_never_run_does_not_go_home(small_split, tmp_path):
    with import_video(small_split, "grey", tmp_path / "p") as project:
        project.add_prompt("typed and never run")
        result = write_back(project)
        assert result.sentences == 0
        assert "nobody has looked for what 'typed and never run' means" in result.notes[0]
        assert list(MevisSplit.open(small_split).videos["grey"].expressions) == ["0"]


def test_a_frame_that_is_listed_twice_is_refused(small_split, tmp_path):
    meta = small_split / "meta_expressions.json"
    meta.write_text(meta.read_text().replace('"a 2"', '"a 1"'))
    with pytest.raises(DatasetError, match="The frame a 1 of grey is listed twice"):
        import_video(small_split, "grey", tmp_path / "p")


def test_a_folder_of_masks_for_every_object_is_named(tmp_path):
    root = vos(tmp_path / "train", palette, indices=[])
    (root / "Annotations" / "v" / "000").mkdir()
    with pytest.raises(DatasetError, match=r"holds folders \(000\), not a mask a frame"):
        import_video(root, "v", tmp_path / "p")


def test_a_byte_order_mark_is_no_part_of_a_video(tmp_path):
    root = tmp_path / "DAVIS"
    frames(root / "JPEGImages" / "480p" / "v")
    (root / "Annotations" / "480p" / "v").mkdir(parents=True)
    palette(0).save(root / "Annotations" / "480p" / "v" / "00000.png")
    text = root / "text_annotations.txt"
    text.write_bytes('\ufeffv 1 "the first"\nv 2 "the second"\n'.encode())
    with import_video(root, "v", tmp_path / "p") as project:
        first, second = project.expressions.values()
        assert [first.text, second.text] == ["the first", "the second"]
        project.add_expression("new", [2])
        write_back(project)
    assert text.read_bytes() == '\ufeffv 1 "the first"\nv 2 "the second"\nv 2 "new"\n'.encode()


def test_one_id_in_two_spellings_is_listed_once(small_split):
    meta = small_split / "meta_expressions.json"
    data = json.loads(meta.read_text())
    row = data["videos"]["grey"]["expressions"]["0"]
    row.update(anno_id=[2, "2"], obj_id=[7, 7])
    meta.write_text(json.dumps(data))
    assert [f.code for f in check_split(small_split)] == ["repeated-id"]
    assert repair_split(small_split) == ["meta_expressions.json: listed anno_ids once"]
    assert check_split(small_split) == []


def test_coco_vid_has_videos_and_images(tmp_path):
    """As MMTracking writes it: folders of one name, and an instance of an object an image."""
    data = {"videos": [], "images": [], "annotations": [], "categories": [{"id": 1, "name": "dog"}]}
    for number, video in enumerate(("MOT-1", "MOT-2")):
        data["videos"].append({"id": number, "name": video})
        for frame, name in enumerate(frames(tmp_path / "train" / video / "img1")):
            image = {"id": len(data["images"]), "video_id": number, "frame_id": frame}
            image.update(file_name=f"{video}/img1/{name}.jpg", height=H, width=W)
            data["images"].append(image)
            polygon = [2, 2, 9, 2, 9, 8, 2, 8]
            row = {"id": image["id"], "image_id": image["id"], "category_id": 1, "instance_id": 4}
            data["annotations"].append({**row, "segmentation": [polygon]})
    path = tmp_path / "train_cocoformat.json"
    path.write_text(json.dumps(data))
    assert list_videos(path) == {"MOT-1-img1": 0, "MOT-2-img1": 0}
    with import_video(path, "MOT-2-img1", tmp_path / "p") as project:
        assert [o.name for o in project.objects.values()] == ["dog 4"]
        assert masks_of(project)[0].sum() == T * 42


def test_pictures_of_masks_of_another_size_are_refused(tmp_path):
    root = vos(tmp_path / "train", palette)
    place = root / "Annotations" / "v"
    Image.new("P", (5, 4)).save(place / "00002.png")
    with pytest.raises(DatasetError) as caught:
        import_video(root, "v", tmp_path / "p")
    assert str(caught.value) == (
        f"{place}/00002.png is 5x4, those before it {W}x{H}; make all of one size."
    )
    for path in place.iterdir():
        Image.new("P", (5, 4)).save(path)
    (root / "JPEGImages" / "v" / "00006.jpg").write_bytes(
        (root / "JPEGImages" / "v" / "00005.jpg").read_bytes()
    )
    palette(0).save(place / "00006.png")
    for index in range(T):
        (place / f"{index:05d}.png").unlink()
    before = (place / "00006.png").read_bytes()
    with import_video(root, "v", tmp_path / "p") as project:
        Image.new("P", (5, 4)).save(place / "00006.png")
        project.labels(1)[6, :2, :2] = 1
        with pytest.raises(DatasetError, match=f"00006.png is 5x4, the frames {W}x{H}; make both"):
            write_back(project, overwrite=True)
        (place / "00006.png").write_bytes(before)
        assert write_back(project).masks == 1


def test_masks_without_frames_are_named(tmp_path, capsys):
    """They are not left out without a word."""
    root = vos(tmp_path / "train", palette)
    shutil.copytree(root / "Annotations" / "v", root / "Annotations" / "w")
    assert list_videos(root) == {"v": 0, "w": 0}
    assert main(["import", str(root), "--all", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'out' / 'v.flowrvs'}\n"
    assert f"1 of 2 videos could not be imported: w ({root / 'JPEGImages' / 'w'} cannot" in said.err
