"""``flowrvs pick`` as it is typed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from flowrvs.cli import main
from flowrvs.errors import VideoError
from flowrvs.store import Project, Provenance
from flowrvs.video import Video
from tests.fixtures.packages import install


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


def pick(*words: str, capsys) -> dict:
    assert main(["pick", *words, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def fails(*words: str, capsys) -> str:
    assert main(["pick", *words]) == 2
    caught = capsys.readouterr()
    assert not caught.out and caught.err.startswith("flowrvs: ") and caught.err.count("\n") == 1
    return caught.err


def test_a_point_makes_a_project_with_an_object(shapes_mp4, shapes_masks, tmp_path, capsys):
    out = str(tmp_path / "p.flowrvs")
    said = pick(str(shapes_mp4), "--frame", "3", "--point", "18,14", "--out", out, capsys=capsys)
    assert said["project"] == out and said["frame"] == 3 and said["with"] == "classical"
    with Project.open(out) as project:
        mask = project.object_mask(said["object_id"], 3, 4)[0]
        assert iou(mask, shapes_masks["red"][3]) > 0.85
        assert said["pixels"] == mask.sum() and said["name"] == "object 1"
        assert project.provenance(said["object_id"]).tolist() == [0] * 3 + [2] + [0] * 8
        assert project.undo_name == "pick on frame 3"
    # The same object on another frame, by the project alone, mended there.
    again = pick(out, "--frame", "5", "--box", "15,4,36,24", "--object", "1", capsys=capsys)
    assert again["object_id"] == 1
    with Project.open(out) as project:
        rows, columns = np.nonzero(project.object_mask(1, 5, 6)[0])
        wanted = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert again["box"] == wanted and again["pixels"] == len(rows)
        assert iou(project.object_mask(1, 5, 6)[0], shapes_masks["red"][5]) > 0.85
        assert list(project.objects) == [1]
    # All of it is taken away: nothing is left, and that is said.
    words = [out, "--frame", "5", "--box", "10,2,42,30", "--object", "1", "--rule", "subtract"]
    gone = pick(*words, capsys=capsys)
    with Project.open(out) as project:
        project.mark_absent(1, 5, 6)
    assert gone["pixels"] < 40
    nothing = pick(*words, capsys=capsys)
    assert (nothing["pixels"], nothing["box"]) == (0, None)


def test_a_sentence_is_linked_to_what_is_picked(shapes_mp4, tmp_path, capsys):
    out = str(tmp_path / "p.flowrvs")
    words = [str(shapes_mp4), "--out", out, "--sentence", "the green one"]
    first = pick(*words, "--frame", "0", "--scribble", "43,28 51,34", capsys=capsys)
    second = pick(*words, "--frame", "2", "--point", "46,32", "--not", "4,4", capsys=capsys)
    assert first["object_id"] == second["object_id"] and second["marks"] == 2
    with Project.open(out) as project:
        (expression,) = project.expressions.values()
        assert expression.text == "the green one"
        assert expression.object_ids == {first["object_id"]}
        assert project.present(first["object_id"]).nonzero()[0].tolist() == [0, 2]


def test_points_choose_among_what_a_sentence_found(shapes_mp4, shapes_masks, tmp_path, capsys):
    import flowrvs

    with flowrvs.open_video(shapes_mp4) as video:
        made = Project.create(tmp_path / "p", video.info)
    both = shapes_masks["red"] | shapes_masks["green"]
    with made as project:
        _, drawn = project.add_prompt("the red square")
        project.write_model(drawn.layer, drawn.id, 0, both)
    words = [str(made.path), "--sentence", "the red square", "--frame", "2"]
    pick(*words, "--point", "14,12", capsys=capsys)
    with Project.open(made.path) as project:
        assert np.array_equal(project.object_mask(drawn.id, 2, 3)[0], shapes_masks["red"][2])
        assert np.array_equal(project.object_mask(drawn.id, 3, 4)[0], both[3])
        assert project.provenance(drawn.id)[2] == Provenance.HUMAN


def test_another_project_is_copied_first(shapes_mp4, tmp_path, capsys):
    one, other = str(tmp_path / "a.flowrvs"), str(tmp_path / "b.flowrvs")
    pick(str(shapes_mp4), "--frame", "0", "--point", "8,14", "--out", one, capsys=capsys)
    refused = fails(one, "--frame", "99", "--point", "1,1", "--out", other, capsys=capsys)
    assert "no frame 99" in refused and not Path(other).exists()  # it would be in the way now
    pick(one, "--frame", "1", "--point", "46,32", "--out", other, capsys=capsys)
    with Project.open(one) as first, Project.open(other) as second:
        assert len(first.objects) == 1 and len(second.objects) == 2
    refused = fails(one, "--frame", "99", "--point", "1,1", "--out", other, capsys=capsys)
    assert f"{other} already exists; choose another name." in refused  # before any work


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--frame", "3"], "Say where the object is"),
        (["--frame", "3", "--not", "4,4"], "Say where the object is"),
        (["--frame", "12", "--point", "4,4"], "no frame 12; the video has frames 0 to 11"),
        (["--frame", "3", "--point", "64,4"], "outside the picture of 64 x 48"),
        (["--frame", "3", "--point", "4"], "odd number of coordinates"),
        (["--frame", "3", "--point", "a,b"], "not a list of numbers"),
        (["--frame", "3", "--box", "1,2,3"], "odd number"),
        (["--frame", "3", "--box", "5,5,5,9"], "at least one pixel"),
        (["--frame", "3", "--point", "4,4", "--object", "7"], "no object 7"),
        (["--frame", "3", "--point", "4,4", "--rule", "union"], "needs an object that exists"),
        (["--frame", "3", "--point", "4,4", "--with", "sam9"], "No tracker 'sam9'"),
        (["--frame", "3", "--scissors", "4,4", "9,9"], "needs three corners or more, not 2"),
        (["--frame", "3", "--scissors", "4,4", "9,9", "99,9"], "(99, 9) lies outside"),
        (["--frame", "3", "--point", "4,4", "--object", "1", "--sentence", "a"], "not allowed"),
    ],
)
def test_bad_input_leaves_no_project(words, message, shapes_mp4, tmp_path, capsys):
    out = tmp_path / "p.flowrvs"
    assert message in fails(str(shapes_mp4), *words, "--out", str(out), capsys=capsys)
    assert list(tmp_path.glob("*.flowrvs")) == []


def test_a_project_is_named_after_the_video_and_its_objects_as_told(
    shapes_mp4, shapes_images, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(shapes_images, tmp_path / "clip v1.2")
    for source, words, name in (
        (shapes_mp4, [], "shapes"),
        (folder, [], "clip v1.2"),
        (shapes_mp4, ["--out", "mine.v2"], "mine.v2"),
    ):
        said = pick(str(source), "--frame", "0", "--point", "8,14", *words, capsys=capsys)
        assert said["project"] == str(tmp_path / f"{name}.flowrvs")
        assert said["name"] == "object 1" and said["layer"] == 1
    more = ["--frame", "0", "--point", "46,32", "--name", "the green one", "--out", "mine.v2"]
    said = pick(str(shapes_mp4), *more, capsys=capsys)
    assert (said["object_id"], said["name"], said["layer"]) == (2, "the green one", 1)
    assert said["project"] == str(tmp_path / "mine.v2.flowrvs")
    line = fails("mine.v2.flowrvs", *more[:4], "--object", "7", capsys=capsys)
    assert line == f"flowrvs: There is no object 7 in {tmp_path / 'mine.v2.flowrvs'}.\n"
    with Project.open("mine.v2.flowrvs") as project:
        assert [layer.name for layer in project.layers.values()] == ["picked"]


def test_a_project_without_its_video_says_how_to_give_it(shapes_mp4, tmp_path, capsys):
    place = tmp_path / "a" / "b" / "c"  # far from where the same clip may lie
    place.mkdir(parents=True)
    video, out = Path(shutil.copy(shapes_mp4, place / "clip.mp4")), place / "p.flowrvs"
    words = ["--frame", "3", "--point", "18,14"]
    pick(str(video), *words, "--out", str(out), capsys=capsys)
    video.unlink()
    assert fails(str(out), *words, capsys=capsys) == (
        f"flowrvs: The video of {out} was not found, or is another one now; give the video and "
        f"--out {out} instead.\n"
    )
    assert main(["spread", str(out)]) == 2
    assert capsys.readouterr().err == (
        f"flowrvs: The video of {out} was not found; say where it is with --video.\n"
    )
    line = ["spread", str(out), "--method", "copy", "--start", "2", "--stop", "5"]
    assert main(line) == 0  # which needs no video
    assert capsys.readouterr().out == "Object 1, 'object 1': 2 frames\n"
    assert main(["spread", str(out), "--video", str(shapes_mp4), "--from", "3", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["objects"]
    assert row == {"object_id": 1, "name": "object 1", "frames": 11, "lost": ""}
    said = pick(str(shapes_mp4), *words, "--out", str(out), capsys=capsys)
    assert said["object_id"] == 2


def test_a_locked_frame_is_refused_and_nothing_is_written(shapes_mp4, tmp_path, capsys):
    out = str(tmp_path / "p.flowrvs")
    pick(str(shapes_mp4), "--frame", "3", "--point", "18,14", "--out", out, capsys=capsys)
    with Project.open(out) as project:
        project.lock_frames(1, 3, 4)
        before = project.object_mask(1, 3, 4)
    line = fails(out, "--frame", "3", "--box", "2,2,60,40", "--object", "1", capsys=capsys)
    assert "Frame 3 of 'object 1' is locked" in line
    copy = ["--out", str(tmp_path / "q.flowrvs"), "--object", "1"]
    assert line == fails(out, "--frame", "3", "--box", "2,2,60,40", *copy, capsys=capsys)
    assert not (tmp_path / "q.flowrvs").exists()
    with Project.open(out) as project:
        assert np.array_equal(project.object_mask(1, 3, 4), before)


def test_scissors_cut_along_edges_and_marks_mend_it(shapes_mp4, shapes_masks, tmp_path, capsys):
    out = str(tmp_path / "p.flowrvs")
    corners = ["12,7", "25,7", "25,20", "12,20"]  # a pixel or two off the red square's
    words = [str(shapes_mp4), "--frame", "3", "--out", out]
    said = pick(*words, "--scissors", *corners, capsys=capsys)
    assert said["marks"] == 4 and said["with"] == "classical"
    with Project.open(out) as project:
        assert iou(project.object_mask(1, 3, 4)[0], shapes_masks["red"][3]) > 0.8
    repeated = [word for corner in corners for word in ("--scissors", corner)]
    again = pick(*words, *repeated, "--object", "1", capsys=capsys)
    assert again["pixels"] == said["pixels"]
    more = pick(*words, *repeated, "--object", "1", "--point", "46,33", capsys=capsys)
    with Project.open(out) as project:
        mask = project.object_mask(1, 3, 4)[0]
        assert mask[33, 46] and mask[14, 18] and more["pixels"] > said["pixels"] + 20


@pytest.fixture
def colours(monkeypatch, tmp_path):
    points = dict.fromkeys(("colours", "tired"), "tests.fixtures.trackers:load")
    install(monkeypatch, tmp_path, "colour-things", {"flowrvs.trackers": points}, {})


def test_a_tracker_of_a_package_picks_and_is_named(
    colours, shapes_mp4, shapes_masks, tmp_path, capsys
):
    out = str(tmp_path / "p.flowrvs")
    words = [str(shapes_mp4), "--frame", "3", "--out", out, "--with", "colours"]
    said = pick(*words, "--point", "18,14", capsys=capsys)
    assert said["with"] == "colours"
    with Project.open(out) as project:
        assert iou(project.object_mask(1, 3, 4)[0], shapes_masks["red"][3]) > 0.85
        assert project.undo_name == "pick with colours on frame 3"
        assert project.changes(1, 3)[0].kind == "human"
    # Not this: the part that the colour has there goes.
    pick(*words, "--object", "1", "--point", "46,33", capsys=capsys)
    pick(*words, "--object", "1", "--not", "18,14", capsys=capsys)
    with Project.open(out) as project:
        mask = project.object_mask(1, 3, 4)[0]
        assert mask[33, 46] and not mask[14, 18]


def test_spread_by_memory_is_written_as_it_comes_and_goes_on(
    colours, shapes_mp4, shapes_masks, tmp_path, capsys
):
    out = str(tmp_path / "p.flowrvs")
    pick(str(shapes_mp4), "--frame", "3", "--out", out, "--point", "18,14", capsys=capsys)
    assert main(["spread", out, "--with", "colours", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["method"] == "memory" and said["with"] == "colours"
    assert said["objects"] == [{"object_id": 1, "name": "object 1", "frames": 11, "lost": ""}]
    with Project.open(out) as project:
        for t in range(12):
            assert iou(project.object_mask(1, t, t + 1)[0], shapes_masks["red"][t]) > 0.85
        assert project.changes(1, 0)[0].who.startswith("colours, keys ")
        assert project.undo_name.startswith("spread 'object 1' with colours")
    assert main(["spread", out, "--with", "colours"]) == 0
    assert "0 frames" in capsys.readouterr().out
    assert main(["spread", out, "--with", "colours", "--again", "--stop", "3"]) == 0
    assert "3 frames" in capsys.readouterr().out


def test_a_memory_that_cannot_be_read_is_one_line(monkeypatch, shapes_mp4, tmp_path, capsys):
    points = {"counting": "tests.fixtures.trackers:load"}
    install(monkeypatch, tmp_path, "counting-things", {"flowrvs.trackers": points}, {})
    out = str(tmp_path / "p.flowrvs")
    pick(str(shapes_mp4), "--frame", "3", "--out", out, "--point", "18,14", capsys=capsys)
    monkeypatch.setattr("flowrvs.cli.spread._TOGETHER", 2)
    line = ["spread", out, "--with", "counting"]
    assert main([*line, "--device", "stop at 8"]) == 130
    (file,) = (tmp_path / "p.flowrvs" / "history" / "spread").iterdir()
    file.write_text("[")
    capsys.readouterr()
    assert main(line) == 0
    caught = capsys.readouterr()
    line, bar = caught.err.splitlines()
    assert line == f"flowrvs: {file} is left out, and the spread begins anew: It is no count."
    assert "13/13" in bar and caught.out == "Object 1, 'object 1': 7 frames\n"
    assert not file.parent.exists()


def test_a_spread_that_is_stopped_keeps_what_there_is(colours, tmp_path, capsys):
    frames = np.full((40, 24, 32, 3), 20, np.uint8)
    frames[:, 5:15, 5:15] = 220
    import zarr

    zarr.save_array(tmp_path / "v.zarr", frames)
    out = str(tmp_path / "p.flowrvs")
    pick(str(tmp_path / "v.zarr"), "--frame", "2", "--point", "9,9", "--out", out, capsys=capsys)
    assert main(["spread", out, "--with", "tired", "--json"]) == 130
    caught = capsys.readouterr()
    assert "keeps 22 frames, and the same command goes on" in caught.err
    (row,) = json.loads(caught.out)["objects"]
    assert row["frames"] == 22
    with Project.open(out) as project:
        assert project.present(1).nonzero()[0].tolist() == list(range(2, 25))
        project.undo()
        assert project.present(1).nonzero()[0].tolist() == [2]
        project.redo()
    assert main(["spread", out, "--with", "colours"]) == 0
    with Project.open(out) as project:
        assert project.present(1).all()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--with", "colours", "--method", "flow"], "is for --method memory"),
        (["--with", "classical", "--method", "memory"], "'classical' has no memory"),
        (["--method", "memory"], "needs a tracker"),
        (["--object", "7"], "no object 7"),
        (["--with", "nobody"], "No tracker 'nobody'"),
        (["--start", "9", "--stop", "3"], "are not a range"),
    ],
)
def test_what_a_spread_cannot_do_is_one_line(colours, words, line, shapes_mp4, tmp_path, capsys):
    out = str(tmp_path / "p.flowrvs")
    pick(str(shapes_mp4), "--frame", "3", "--out", out, "--point", "18,14", capsys=capsys)
    assert main(["spread", out, *words]) == 2
    caught = capsys.readouterr()
    assert line in caught.err and caught.err.count("\n") == 1


def test_a_spread_needs_no_model(shapes_mp4, shapes_masks, tmp_path, capsys):
    out = str(tmp_path / "p.flowrvs")
    pick(str(shapes_mp4), "--frame", "3", "--out", out, "--point", "18,14", capsys=capsys)
    assert main(["spread", out, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["method"] == "flow" and said["with"] is None
    with Project.open(out) as project:
        assert iou(project.object_mask(1, 8, 9)[0], shapes_masks["red"][8]) > 0.8


def test_what_was_carried_is_told_where_a_frame_cannot_be_read(
    shapes_mp4, tmp_path, monkeypatch, capsys
):
    out = str(tmp_path / "p.flowrvs")
    pick(str(shapes_mp4), "--frame", "6", "--point", "26,14", "--out", out, capsys=capsys)
    read = Video.read

    def damaged(self, start, stop):
        if start <= 9 < stop:
            raise VideoError("Frame 9 is damaged.")
        return read(self, start, stop)

    monkeypatch.setattr(Video, "read", damaged)
    assert main(["spread", out]) == 2
    said = capsys.readouterr()
    frames = int(re.fullmatch(r"Object 1, 'object 1': (\d+) frames\n", said.out)[1])
    assert said.err.splitlines()[-1] == "flowrvs: Frame 9 is damaged." and 6 <= frames <= 8
    with Project.open(out) as project:
        assert project.present(1).sum() == frames + 1
    assert main(["spread", out, "--json"]) == 2
    said = json.loads(capsys.readouterr().out)
    assert said["error"] == "Frame 9 is damaged." and said["objects"][0]["frames"] == frames
