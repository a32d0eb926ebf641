"""Projects exported to every format and read back by others' means."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

import flowrvs
from flowrvs.data import import_video, preview_export, write_back
from flowrvs.data.check import check_split
from flowrvs.data.export import FORMATS, assign_projects, export_projects, export_splits
from flowrvs.data.mevis import MevisSplit
from flowrvs.errors import Cancelled, DatasetError, InputError, ProjectError, StorageError
from flowrvs.evaluation import evaluate
from flowrvs.progress import CancelToken
from flowrvs.store import Project
from tests.fixtures.disk import open_files, small_disk


def fill(project, red, green):
    """Two layers with overlapping objects, and sentences for one, both and none."""
    one, first = project.add_prompt("the red square")
    _, second = project.add_prompt("the green square")
    _, third = project.add_prompt("a unicorn")
    project.write_model(first.layer, first.id, 0, red)
    project.write_model(second.layer, second.id, 0, green)
    project.write_model(third.layer, third.id, 0, np.zeros_like(red))
    project.add_expression("the square that goes right", [first.id])
    project.add_expression("both squares", [first.id, second.id])
    project.add_expression("no such thing", [])
    project.add_object("nobody speaks of it", first.layer)
    return first.id, second.id


@pytest.fixture
def project(tmp_path, shapes_mp4, shapes_masks):
    with flowrvs.open_video(shapes_mp4) as video:
        made = Project.create(tmp_path / "shapes", video.info)
    green = shapes_masks["green"].copy()
    green[0, 10:30, 5:50] = True
    with made:
        fill(made, shapes_masks["red"], green)
        yield made


@pytest.fixture
def masks(project):
    first, second, *_ = project.objects
    return {
        "red": project.object_mask(first, 0, 12),
        "green": project.object_mask(second, 0, 12),
    }


def meta(path):
    return json.loads((path / "meta_expressions.json").read_text())["videos"]


def test_projects_by_path_are_opened_and_closed(project, masks, tmp_path):
    paths = [project.path, project.copy_to(tmp_path / "copy")]
    project.close()
    clip = Path(project.video.path)
    others = open_files(clip)  # of other tests
    result = export_projects(paths, tmp_path / "data")
    assert (result.videos, result.objects) == (1, 4), "two projects of one video"
    (video,) = meta(result.path).values()
    assert len(video["expressions"]) == 12
    preview_export(paths)
    assign_projects(paths, {"a": 1})
    token = CancelToken()
    with pytest.raises(Cancelled):
        export_projects(
            paths, tmp_path / "new", cancel=token, progress=lambda event: token.cancel()
        )
    assert open_files(tmp_path) == [], "journals are closed"
    assert open_files(clip) == others


def test_mevis(project, masks, tmp_path):
    result = export_projects([project], tmp_path / "data")
    assert result.path == tmp_path / "data" / "train"
    assert (result.videos, result.frames, result.expressions, result.objects) == (1, 12, 6, 2)
    assert [f.code for f in check_split(result.path)] == ["overlap"]
    (video,) = meta(result.path).values()
    assert video["frames"] == [f"{i:05d}" for i in range(12)]
    by_text = {e["exp"]: e for e in video["expressions"].values()}
    red = by_text["the red square"]["anno_id"]
    green = by_text["the green square"]["anno_id"]
    assert by_text["the square that goes right"]["anno_id"] == red
    assert by_text["both squares"]["anno_id"] == [*red, *green]
    for text in ("a unicorn", "no such thing"):
        assert by_text[text] == {"exp": text, "obj_id": [], "anno_id": []}
    mask_dict = json.loads((result.path / "mask_dict.json").read_text())
    assert sorted(mask_dict) == sorted(str(i) for i in red + green)
    for name, ids in (("red", red), ("green", green)):
        for index, coded in enumerate(mask_dict[str(ids[0])]):
            assert np.array_equal(coco_mask.decode(coded).astype(bool), masks[name][index])


def test_a_person_moves_and_removes_objects_while_they_are_exported(
    project, masks, tmp_path, monkeypatch
):
    monkeypatch.setattr("flowrvs.data.clip._CHUNK", 4)
    red, green, *_ = project.objects
    done = []

    def meanwhile(event):
        done.append(event)
        if len(done) == 3:  # frames of it have been read, in the layer that goes with it
            project.move_object(red)
            project.remove_object(green)

    result = export_projects([project], tmp_path / "data", progress=meanwhile)
    assert result.objects == 1 and not check_split(result.path)
    split = MevisSplit.open(result.path)
    ((key, expression),) = (
        (key, e) for key, e in split.videos["shapes"].expressions.items() if e.exp == "both squares"
    )
    assert len(expression.anno_id) == 1
    assert all(
        np.array_equal(split.target_mask("shapes", key, t), masks["red"][t]) for t in range(12)
    )


def test_what_a_person_draws_while_it_is_exported_is_not_called_lost(
    project, tmp_path, monkeypatch
):
    monkeypatch.setattr("flowrvs.data.clip._CHUNK", 4)
    red = next(iter(project.objects))
    labels = project.labels(project.objects[red].layer)
    labels[0:2] = np.zeros((2, *labels.shape[1:]), np.uint16)
    done = []

    def meanwhile(event):
        done.append(event)
        if len(done) == 6:  # these frames have been read
            labels[1, 5:9, 5:9] = red

    result = export_projects([project], tmp_path / "data", progress=meanwhile)
    assert project.present(red)[:2].tolist() == [False, True]
    assert not [note for note in result.notes if "lost" in note]


def test_masks_whose_files_are_missing_are_named(project, masks, tmp_path):
    split = export_projects([project], tmp_path / "data").path
    with import_video(split, out=tmp_path / "p") as made:
        lost = next(i for i, thing in made.objects.items() if "red" in thing.name)
        layer = made.objects[lost].layer
    (made.path / "layers" / str(layer) / "c.5.0.0").unlink()  # as after half a copy
    before = (split / "mask_dict.json").read_bytes()
    with Project.open(made.path, read_only=True) as opened:
        with pytest.raises(DatasetError, match=r"'the red square' has lost its masks on 1 frame, "):
            write_back(opened)
    assert (split / "mask_dict.json").read_bytes() == before
    result = export_projects([made.path], tmp_path / "again")
    (note,) = [note for note in result.notes if "red" in note]
    # What of a project had to be left out is told as well.
    (made.path / "zarr.json").write_bytes(b"{")
    (made.path / "provenance" / str(lost) / "c.0").write_bytes(b"junk")
    first, *_ = export_projects([made.path], tmp_path / "damaged").notes
    assert first.startswith("shapes: Who drew 'the red square' could not be read") and (
        first.endswith("names and sentences are those of its copy.")
    )
    assert note.startswith(
        "shapes: 'the red square' has lost its masks on 1 frame, the first is 00005: files"
    )


def test_every_nth_frame_alone(project, masks, tmp_path):
    result = export_projects([project], tmp_path / "out", every=5)
    assert result.frames == 3 and {f.code for f in check_split(result.path)} <= {"overlap"}
    (video,) = meta(result.path).values()
    assert video["frames"] == ["00000", "00005", "00010"]
    by_text = {e["exp"]: e for e in video["expressions"].values()}
    (red,) = by_text["the red square"]["anno_id"]
    rles = json.loads((result.path / "mask_dict.json").read_text())[str(red)]
    found = [coco_mask.decode(coded) > 0 for coded in rles]
    np.testing.assert_array_equal(found, masks["red"][::5])
    assert len(list((result.path / "JPEGImages").rglob("*.jpg"))) == 3


def test_painted_pixels_arrive(project, tmp_path):
    first = next(iter(project.objects))
    labels = project.labels(project.objects[first].layer)
    labels[5, 40:44, 60:64] = first
    labels[6] = 0
    split = MevisSplit.open(export_projects([project], tmp_path / "d").path)
    ((video, exp_id), *_) = list(split)
    assert split.target_mask(video, exp_id, 5)[40:44, 60:64].all()
    assert split.target_rle(video, exp_id, 6) is None


def test_jpeg_folders_keep_their_bytes_and_names(tmp_path, shapes_frames, shapes_masks):
    folder = tmp_path / "my clip v1.5 снег"
    folder.mkdir()
    names = [f"f {i:03d}.x" for i in range(12)]
    for name, frame in zip(names, shapes_frames, strict=True):
        Image.fromarray(frame).save(folder / f"{name}.jpg", quality=60)
    with flowrvs.open_video(folder) as video, Project.create(tmp_path / "p", video.info) as made:
        fill(made, shapes_masks["red"], shapes_masks["green"])
        split = export_projects([made], tmp_path / "d", split="valid_u").path
    assert list(meta(split)) == [folder.name]
    assert meta(split)[folder.name]["frames"] == names
    for name in names:
        copied = (split / "JPEGImages" / folder.name / f"{name}.jpg").read_bytes()
        assert copied == (folder / f"{name}.jpg").read_bytes()


@pytest.mark.parametrize(("orientation", "turns"), [(6, 1), (3, 2)])
def test_turned_jpegs_are_compressed_upright(tmp_path, shapes_frames, orientation, turns):
    folder = tmp_path / "turned"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = orientation
    for index, frame in enumerate(shapes_frames[:3]):
        turned = Image.fromarray(np.rot90(frame, turns))
        turned.save(folder / f"{index}.jpg", quality=95, exif=exif)
    with flowrvs.open_video(folder) as video, Project.create(tmp_path / "p", video.info) as made:
        made.add_expression("x")
        split = export_projects([made], tmp_path / "d", quality=100).path
    for index, frame in enumerate(shapes_frames[:3]):
        # As loaders read it, who look at no EXIF.
        with Image.open(split / f"JPEGImages/turned/{index}.jpg") as picture:
            assert np.abs(np.asarray(picture).astype(int) - frame).mean() < 4


def test_names_that_would_sort_wrongly_are_replaced(tmp_path, shapes_frames):
    folder = tmp_path / "clip"
    folder.mkdir()
    for index, frame in enumerate(shapes_frames):
        Image.fromarray(frame).save(folder / f"frame{index}.png")
    with flowrvs.open_video(folder) as video, Project.create(tmp_path / "p", video.info) as made:
        made.add_expression("x")
        split = MevisSplit.open(export_projects([made], tmp_path / "d").path)
    assert split.videos["clip"].frames[10] == "00010"
    assert np.abs(split.read_frames("clip").astype(int) - shapes_frames).mean() < 4


def test_projects_merge(project, shapes_frames, shapes_masks, shapes_mp4, tmp_path):
    """The same video again becomes one entry, another of the same name its own."""
    other = tmp_path / "else" / shapes_mp4.stem
    other.mkdir(parents=True)
    for index, frame in enumerate(shapes_frames):
        Image.fromarray(frame[::-1]).save(other / f"{index:05d}.png")
    with (
        flowrvs.open_video(shapes_mp4) as again,
        flowrvs.open_video(other) as different,
        Project.create(tmp_path / "again", again.info) as second,
        Project.create(tmp_path / "other", different.info) as third,
    ):
        fill(second, shapes_masks["red"][:, ::-1], shapes_masks["green"])
        fill(third, shapes_masks["red"][:, ::-1], shapes_masks["green"][:, ::-1])
        result = export_projects([project, second, third], tmp_path / "d")
    assert (result.videos, result.expressions, result.objects) == (2, 18, 6)
    split = MevisSplit.open(result.path)
    assert list(split.videos) == [shapes_mp4.stem, f"{shapes_mp4.stem}-2"]
    assert all(f.severity == "warning" for f in check_split(result.path))
    masks = [
        split.target_masks(video, exp_id)
        for video, exp_id in split
        if split.videos[video].expressions[exp_id].exp == "the red square"
    ]
    assert np.array_equal(masks[0], shapes_masks["red"])
    assert np.array_equal(masks[1], shapes_masks["red"][:, ::-1])
    assert np.array_equal(masks[2], shapes_masks["red"][:, ::-1])


def test_valid_has_sentences_without_truth(project, tmp_path):
    result = export_projects([project], tmp_path / "d", split="valid")
    assert not (result.path / "mask_dict.json").exists()
    assert result.notes
    (video,) = meta(result.path).values()
    assert video["expressions"]["0"] == {"exp": "the red square"}


def test_png_is_laid_out_as_predictions(project, tmp_path):
    truth = export_projects([project], tmp_path / "d", split="valid_u").path
    pictures = export_projects([project], tmp_path / "d", format="png", split="masks").path
    scores = evaluate(pictures, truth)
    assert scores.j_and_f == 1 and scores.coverage == 1
    (path, *_) = sorted(pictures.glob("Annotations/*/0/*.png"))
    with Image.open(path) as picture:
        assert set(np.unique(picture)) == {0, 255}


@pytest.mark.parametrize("format", FORMATS)
def test_an_export_is_whole_or_not_there(project, tmp_path, format):
    before = sorted(tmp_path.iterdir())
    token = CancelToken()
    with pytest.raises(Cancelled):
        export_projects(
            [project],
            tmp_path / "new",
            format=format,
            cancel=token,
            progress=lambda event: token.cancel(),
        )
    assert sorted(tmp_path.iterdir()) == before
    with small_disk(700), pytest.raises(StorageError, match="Cannot write|cannot be written"):
        export_projects([project], tmp_path / "new", format=format)
    assert sorted(tmp_path.iterdir()) == before


def test_again_is_accepted_and_other_content_refused(project, tmp_path):
    path = export_projects([project], tmp_path / "d").path
    stamp = (path / "mask_dict.json").stat().st_ino
    export_projects([project], tmp_path / "d")
    assert (path / "mask_dict.json").stat().st_ino == stamp
    project.add_expression("one more", [next(iter(project.objects))])
    with pytest.raises(DatasetError, match="already exists"):
        export_projects([project], tmp_path / "d")
    assert (path / "mask_dict.json").stat().st_ino == stamp
    assert export_projects([project], tmp_path / "d", overwrite=True).expressions == 7
    assert [p.name for p in (tmp_path / "d").iterdir()] == ["train"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"format": "avi"}, "format"),
        ({"split": "../up"}, "split name"),
        ({"quality": 0}, "quality"),
        ({"every": 0}, "Every 0"),
        ({"videos": []}, "0 videos"),
    ],
)
def test_bad_requests(project, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        export_projects([project], tmp_path / "d", **options)
    assert not (tmp_path / "d").exists()


def test_nothing_to_export(tmp_path):
    with pytest.raises(InputError, match="no project"):
        export_projects([], tmp_path)


def test_the_project_itself_is_never_the_target(project, tmp_path):
    with pytest.raises(InputError, match="choose another"):
        export_projects([project], project.path)
    with pytest.raises(InputError, match="choose another"):
        export_projects([project], project.path.parent, split=project.path.name, overwrite=True)
    assert (project.path / "zarr.json").is_file()


def test_arrays_need_their_frames(tmp_path, shapes_frames):
    video = flowrvs.open_video(shapes_frames)
    with Project.create(tmp_path / "array", video.info) as made:
        made.add_expression("x")
        with pytest.raises(ProjectError, match="memory"):
            export_projects([made], tmp_path / "d")
        result = export_projects([made], tmp_path / "d", videos=[video])
        assert list(meta(result.path)) == ["array"]
        with pytest.raises(ProjectError):
            export_projects(
                [made], tmp_path / "e", videos=[flowrvs.open_video(shapes_frames[:, :40])]
            )


def test_a_video_moved_with_its_project_is_found(project, shapes_mp4, tmp_path):
    """The clip is renamed away from where the project was made."""
    home = tmp_path / "moved"
    home.mkdir()
    clip = home / shapes_mp4.name
    clip.write_bytes(shapes_mp4.read_bytes())
    copy = project.copy_to(home / "p")
    attributes = json.loads((copy / "zarr.json").read_text())
    attributes["attributes"]["video"]["path"] = str(tmp_path / "gone" / clip.name)
    (copy / "zarr.json").write_text(json.dumps(attributes))
    with Project.open(copy, read_only=True) as moved:
        assert export_projects([moved], tmp_path / "d").frames == 12


def test_every_format_pairs_a_sentence_with_its_own_target(project, tmp_path):
    """Three sentences, three targets, in every place where a format says what they mean."""
    import zarr

    first, second, *_ = project.objects
    meant = {"the red square": {first}, "the green square": {second}}
    meant["both squares"] = meant["the red square"] | meant["the green square"]

    def told(rows):
        return {k: {t for t, ids in meant.items() if k in ids} for k in (first, second)} == {
            key: {t for t in texts if t in meant} for key, texts in rows.items()
        }

    path = export_projects([project], tmp_path / "d", format="coco-images").path
    rows = json.loads((path / "instances.json").read_text())["annotations"]
    assert told({row["track_id"]: row["sentences"] for row in rows})
    path = export_projects([project], tmp_path / "d", format="ome-zarr", split="z").path
    root = zarr.open_group(path / "shapes.ome.zarr", mode="r")
    found = {}
    for name in root["labels"].attrs["ome"]["labels"]:
        about = root["labels"][name].attrs["ome"]["image-label"]
        found.update({row["label-value"]: row["sentences"] for row in about["properties"]})
    assert told(found)
    steps = root.attrs["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    assert steps[0]["scale"] == [pytest.approx(1 / 12), 1, 1, 1]  # seconds a frame
    axes = root.attrs["ome"]["multiscales"][0]["axes"]
    assert [axis.get("unit") for axis in axes] == ["second", None, None, None]
    path = export_projects([project], tmp_path / "d", format="csv", split="t").path
    with (path / "expressions.csv").open(newline="", encoding="utf-8") as file:
        ids = {row["exp"]: set(map(int, row["objects"].split())) for row in csv.DictReader(file)}
    assert {text: ids[text] for text in meant} == meant


def test_an_overlay_longer_than_a_block(tmp_path):
    """Forty frames, a mask that moves: each lies over its own frame."""
    frames = np.full((40, 48, 64, 3), 40, np.uint8)
    masks = np.zeros((40, 48, 64), bool)
    for index in range(40):
        masks[index, 10:30, index : index + 16] = True
    video = flowrvs.open_video(frames)
    with Project.create(tmp_path / "p", video.info) as made:
        _, found = made.add_prompt("it")
        made.write_model(found.layer, found.id, 0, masks)
        path = export_projects([made], tmp_path / "d", format="overlay", videos=[video]).path
    with flowrvs.open_video(path / "p.mp4") as shown:
        seen = np.abs(shown.read(0, 40).astype(int) - 40).max(axis=3) > 25
    overlap = (seen & masks).sum((1, 2)) / (seen | masks).sum((1, 2))
    assert overlap.min() > 0.7


def test_what_cannot_be_replaced_is_refused_before_anything_is_encoded(project, tmp_path):
    export_projects([project], tmp_path / "d", split="valid_u")
    project.add_expression("one more", [1])
    told = []
    with pytest.raises(DatasetError, match="already exists"):
        export_splits([project], tmp_path / "d", {"valid_u": 1}, progress=told.append)
    (tmp_path / "d" / "photos").mkdir()
    (tmp_path / "d" / "photos" / "dear.jpg").write_bytes(b"x")
    with pytest.raises(DatasetError, match="something else"):
        export_projects(
            [project], tmp_path / "d", split="photos", overwrite=True, progress=told.append
        )
    assert told == []
