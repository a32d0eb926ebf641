"""``flowrvs segment`` from a video file to a project, an overlay and a resumed run."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

import flowrvs
from flowrvs.cli import main
from flowrvs.errors import VideoError
from flowrvs.store import Project
from flowrvs.video import Video
from tests.fixtures.segmenters import ThresholdSegmenter, WindowSegmenter

ROOT = Path(__file__).resolve().parents[2]

# The command line in a process of its own, with a model that needs no weights.
PROGRAM = """
import sys
import flowrvs
from flowrvs.cli import main
from tests.fixtures.segmenters import WindowSegmenter
flowrvs.load_segmenter = lambda *a, **k: WindowSegmenter(delay=float(sys.argv[1]))
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[dict[str, Any]]]:
    """Numpy segmenters instead of weights; gives what they were asked for."""
    asked: list[dict[str, Any]] = []

    def load(name: str = "tiny", **more: Any) -> ThresholdSegmenter:
        asked.append({"name": name, **more})
        segmenter = ThresholdSegmenter(name=str(name))
        if more.get("memory") == "low":
            segmenter.memory_line = "It needs about 1 GB."  # type: ignore[attr-defined]
        return segmenter

    monkeypatch.setattr(flowrvs, "load_segmenter", load, raising=False)
    monkeypatch.chdir(tmp_path)
    return asked


def test_a_video_becomes_a_project(
    loaded: list, shapes_mp4: Path, shapes_masks: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["segment", str(shapes_mp4), "-p", "the red square", "-p", "a dog", "--memory", "low"]
    assert main(line) == 0
    said = capsys.readouterr()
    assert said.out == (
        "    12 of 12 frames  'the red square'\n     0 of 12 frames  'a dog'\n"
        f"Project: {Path('shapes.flowrvs').resolve()}\n"
    )
    assert "window" in said.err and "It needs about 1 GB.\n" in said.err
    with Project.open("shapes.flowrvs") as project:
        assert (project.object_mask(1, 0, 12) != shapes_masks["red"]).mean() < 0.01
        assert project.video.path is not None and Path(project.video.path) == shapes_mp4
    assert [p.name for p in Path().iterdir()] == ["shapes.flowrvs"]


def test_json_overlay_range_and_options(
    loaded: list,
    shapes_mp4: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["segment", str(shapes_mp4), "-p", "red", "--out", "mine", "--start", "3"]
    arguments += ["--stop", "11", "--window", "5", "--overlap", "1", "--steps", "2"]
    arguments += ["--overlay", "o.mp4", "--model", "m", "--device", "cpu", "--memory", "low"]
    assert main([*arguments, "--json"]) == 0
    said = capsys.readouterr()
    first = json.loads(said.out)
    assert "about 1 GB" not in said.err
    (options,) = loaded
    assert options.items() >= {"name": "m", "device": "cpu", "memory": "low"}.items()
    row = {"exp_id": "0", "text": "red", "object_id": 1, "object_ids": [1], "layer": 1}
    assert first == {
        "project": str(Path("mine.flowrvs").resolve()),
        "video": str(shapes_mp4),
        "model": "m",
        "frames": [3, 11],
        "every": 1,
        "computed": 2,
        "damaged_frames": [],
        "overlay": "o.mp4",
        "expressions": [{**row, "frames_with_mask": 8}],
        "notices": [],
    }
    with flowrvs.open_video("o.mp4") as overlay, flowrvs.open_video(shapes_mp4) as video:
        assert len(overlay) == 8
        assert overlay.info.rate == pytest.approx(12)
        changed = np.abs(overlay.read(0, 8).astype(int) - video.read(3, 11)).max(axis=-1) > 40
        with Project.open(first["project"], read_only=True) as project:
            mask = project.object_mask(1, 3, 11)
        assert changed[mask].mean() > 0.8 and changed[~mask].mean() < 0.05
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {**first, "computed": 0}
    part = ["segment", str(shapes_mp4), "-p", "red", "--out", "mine", "--start", "4", "--stop", "7"]
    assert main([*part, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["expressions"]
    assert row["frames_with_mask"] == 3, "of those that were asked for"
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2**30))
    assert main([*arguments, "--again", "--confidence", "--json"]) == 0
    said = capsys.readouterr()
    told = "Confidence is not kept any more: the disk has less than 2 GiB left"
    assert json.loads(said.out) == {**first, "notices": [told]}
    assert f"flowrvs: mine.flowrvs: {told}\n" in said.err


def test_going_on_past_damage(
    loaded: list, shapes_mp4: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with av.open(str(shapes_mp4)) as container:
        packet = [p for p in container.demux(video=0) if p.size][5]
    data = bytearray(shapes_mp4.read_bytes())
    begin, end = packet.pos + packet.size // 8, packet.pos + packet.size
    data[begin:end] = bytes(end - begin)
    Path("bad.mp4").write_bytes(data)
    assert main(["segment", "bad.mp4", "-p", "red"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "is damaged" in said and "--damaged repeat" in said
    assert main(["segment", "bad.mp4", "-p", "red", "--damaged", "repeat"]) == 0
    said = capsys.readouterr()
    assert "are damaged; the last good ones stood in" in said.out and "Warning" not in said.err
    assert (
        main(["segment", "bad.mp4", "-p", "red", "--damaged", "repeat", "--again", "--json"]) == 0
    )
    damaged = json.loads(capsys.readouterr().out)["damaged_frames"]
    with flowrvs.open_video("bad.mp4") as video:
        for n in range(12):
            with pytest.raises(ValueError) if n in damaged else contextlib.nullcontext():
                video.read(n, n + 1)
    assert damaged


@pytest.mark.parametrize("name", ["a.flowrvs.mp4", "a.mp4"])
def test_the_project_of_a_video_is_named_after_all_of_its_stem(
    loaded: list, shapes_mp4: Path, name: str
) -> None:
    """Else a.mp4 and a.flowrvs.mp4 would share one."""
    shutil.copy(shapes_mp4, name)
    assert main(["segment", name, "-p", "red"]) == 0
    with Project.open(f"{name.removesuffix('.mp4')}.flowrvs", read_only=True) as project:
        assert Path(str(project.video.path)).name == name


def test_a_relative_path_is_found_from_elsewhere(
    loaded: list, shapes_mp4: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(shapes_mp4, "clip.mp4")
    assert main(["segment", "clip.mp4", "-p", "red"]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with Project.open("../clip.flowrvs") as project:
        assert project.video.path == str(tmp_path / "clip.mp4")


def test_edits_survive_a_second_run(loaded: list, shapes_mp4: Path) -> None:
    main(["segment", str(shapes_mp4), "-p", "red"])
    with Project.open("shapes.flowrvs") as project:
        project.labels(1)[4] = 0
    assert main(["segment", str(shapes_mp4), "-p", "red", "--steps", "3", "--again"]) == 0
    with Project.open("shapes.flowrvs") as project:
        assert not project.object_mask(1, 4, 5).any()
        assert project.object_mask(1, 5, 6).any()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--fill"], "--fill needs --every 2 or more: the frames between are filled in."),
        *(
            (["--around", "3", *more], "--around says which frames; leave --start, --stop and")
            for more in (["--start", "1"], ["--stop", "4"], ["--every", "2"])
        ),
        (["--around", "12"], "has no frame 12, but 0 to 11."),
        (["--around", "-1"], "has no frame -1, but 0 to 11."),
        (["--overlay", "o.avi"], "--overlay writes a video file: o.avi must be named *.mp4."),
        (["--start", "12"], "12 frames"),
        (["--stop", "13"], "12 frames"),
        (["--window", "4", "--overlap", "4"], "use 0 to 3"),
        (["--overlap", "9"], "use 0 to 8"),
        (["--steps", "0"], "use 1 to 1000"),
        (["--window", "0"], "'0' is neither a number of frames nor 'whole'"),
        (["--window", "-3"], "'-3' is neither a number"),
        (["-p", " "], "blank"),
        (["--overlay", "nowhere/o.mp4"], "nowhere"),
        (["--scheduler", "tcp://a.invalid:1"], "not encrypted"),
    ],
)
def test_bad_input_is_one_line(
    loaded: list,
    shapes_mp4: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    assert main(["segment", str(shapes_mp4), "-p", "red", *more]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and message in said.err
    assert list(Path().iterdir()) == []


def test_bad_files_are_one_line(
    loaded: list, shapes_mp4: Path, shapes_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("notes.mp4").write_text("not a video")
    Path("file.flowrvs").write_text("not a project")
    main(["segment", str(shapes_mp4), "-p", "red", "--start", "9"])
    capsys.readouterr()
    for video, project in (
        ("none.mp4", "new"),
        ("notes.mp4", "new"),
        (str(shapes_images), "file"),
        (str(shapes_images), "shapes"),  # of the other video
    ):
        assert main(["segment", video, "-p", "red", "--out", project]) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1, said.err
    assert not Path("new.flowrvs").exists()
    shutil.copy(shapes_mp4, "own.mp4")
    assert main(["segment", "own.mp4", "-p", "red", "--overlay", "./own.mp4"]) == 2
    said = capsys.readouterr()
    assert said.err == "flowrvs: --overlay own.mp4 is the video itself; name another file.\n"
    assert Path("own.mp4").read_bytes() == shapes_mp4.read_bytes()


def _masks(path: Path) -> npt.NDArray[np.bool_]:
    with Project.open(path) as project:
        return np.stack([project.object_mask(i, 0, 12) for i in (1, 2)])


@pytest.fixture
def start(shapes_mp4: Path, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    def start(delay: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROGRAM, str(delay), "segment", str(shapes_mp4)]
        command += ["-p", "red", "-p", "green", "--window", "4", "--overlap", "2"]
        command += ["--out", str(tmp_path / "a.flowrvs"), "--json"]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    return start


def _finished(path: Path) -> int:
    """Return how many windows are finished, reading what is on the disk now."""
    if not path.exists():
        return 0
    with Project.open(path, read_only=True) as project:
        return sum(len(run.done) for run in project.runs.values())


def _wait_for(path: Path, windows: int) -> None:
    deadline = time.monotonic() + 60
    while _finished(path) < windows:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def expected(shapes_mp4: Path) -> npt.NDArray[np.bool_]:
    """The masks of a run that nothing interrupts."""
    masks = np.zeros((2, 12, 48, 64), bool)
    with flowrvs.open_video(shapes_mp4) as video:
        for part in flowrvs.segment(
            video, ["red", "green"], WindowSegmenter(), window=4, overlap=2
        ):
            masks[part.expression, part.start : part.stop] = part.masks
    return masks


@pytest.mark.timeout(900)  # seconds on an idle machine, but it starts three programs
def test_killed_runs_go_on_to_the_same_masks(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, expected: npt.NDArray[np.bool_]
) -> None:
    path = tmp_path / "a.flowrvs"
    before = 0
    for windows in (3, 6):
        with start(0.15) as process:
            _wait_for(path, windows)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        now = _finished(path)
        assert windows <= now < 10 and now > before
        before = now
        with Project.open(path) as project:  # readable, and nobody holds it
            for run in project.runs.values():
                one = project.objects[run.object_id]
                for window in run.done:  # what counts as finished is on the disk
                    frames = slice(2 * window, 2 * window + 2)
                    np.testing.assert_array_equal(
                        project.object_mask(one.id, frames.start, frames.stop),
                        expected[one.id - 1, frames],
                    )
    with start(0) as process:
        said, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert json.loads(said)["computed"] == 10 - before
    np.testing.assert_array_equal(_masks(path), expected)


def test_ctrl_c_keeps_the_work(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, expected: npt.NDArray[np.bool_]
) -> None:
    path = tmp_path / "a.flowrvs"
    with start(0.15) as process:
        _wait_for(path, 2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "goes on from there" in errors.splitlines()[-1] and "Traceback" not in errors
    done = _finished(path)
    assert 2 <= done < 10
    with start(0) as process:
        said, _ = process.communicate(timeout=120)
    assert json.loads(said)["computed"] == 10 - done
    np.testing.assert_array_equal(_masks(path), expected)


def test_two_at_once_are_refused(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    path = tmp_path / "a.flowrvs"
    with start(2) as first:
        _wait_for(path, 1)
        with start(0) as second:
            _, errors = second.communicate(timeout=60)
        first.kill()
    assert second.returncode == 2
    assert f"pid {first.pid} " in errors and errors.count("\n") == 1


def _two_videos(folder: Path) -> None:
    rng = np.random.default_rng(2)
    (folder / "clips").mkdir()
    for name in ("a", "b"):
        np.save(folder / "clips" / f"{name}.npy", rng.integers(0, 256, (20, 24, 32, 3), np.uint8))


def test_many_videos_and_a_file_of_sentences(
    loaded: list, capsys: pytest.CaptureFixture[str]
) -> None:
    _two_videos(Path())
    text = "\ufeffsentence;video;note\nred;a.npy;x\nthe green one;b.npy;\ngreen, really;a.npy;\n"
    Path("clips/list.csv").write_text(text, encoding="utf-8")
    line = ["segment", "--sentences", "clips/list.csv", "--out", "projects", "--window", "9"]
    assert main([*line, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(loaded) == 1 and result["failed"] == {}
    said = {
        Path(p["project"]).name: [e["text"] for e in p["expressions"]] for p in result["projects"]
    }
    assert said == {"a.flowrvs": ["red", "green, really"], "b.flowrvs": ["the green one"]}
    with Project.open("projects/b.flowrvs") as project:
        assert project.present(1).sum() > 10
    assert main(line) == 0
    assert capsys.readouterr().out == (
        "projects/a.flowrvs: 20 frames, 2 of 2 sentences seen\n"
        "projects/b.flowrvs: 20 frames, 1 of 1 sentences seen\n"
        "2 of 2 videos finished, 0 windows computed.\n"
    )
    assert main([*line[:4], "projects", "--window", "9", "--again", "--stop", "5"]) == 0
    assert capsys.readouterr().out.endswith("2 of 2 videos finished, 3 windows computed.\n")


@pytest.mark.parametrize("cuts", [["--no-cuts"], []])
def test_a_video_that_fails_does_not_stop_the_others(
    loaded: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cuts: list
) -> None:
    _two_videos(Path())
    monkeypatch.setattr(Video, "read", _broken(15, "a.npy"))
    # One vanishes after it was looked at, while the model is loaded.
    shutil.copy("clips/b.npy", "clips/gone.npy")
    load = flowrvs.load_segmenter

    def loads(*args: Any, **options: Any) -> ThresholdSegmenter:
        Path("clips/gone.npy").unlink()
        return load(*args, **options)

    monkeypatch.setattr(flowrvs, "load_segmenter", loads)
    clips = ["clips/a.npy", "clips/gone.npy", "clips/b.npy"]
    assert main(["segment", *clips, "-p", "red", "--window", "9", *cuts]) == 2
    out = capsys.readouterr().out
    assert "b.flowrvs: 20 frames, 1 of 1 sentences seen" in out
    assert "1 of 3 videos finished" in out and "clips/a.npy: Frame 15 is damaged." in out
    assert re.search("^clips/gone.npy: .*gone.npy", out, re.MULTILINE)
    if cuts:
        with Project.open("a.flowrvs") as project:
            assert project.present(1)[:7].all()  # the window before is kept


def test_what_is_done_and_what_has_failed_is_named_when_it_is_stopped(
    loaded: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _two_videos(Path())
    segmenter = ThresholdSegmenter()

    def stop(*_: Any, **__: Any) -> Any:
        if segmenter.calls:  # it is at the second video
            os.kill(os.getpid(), signal.SIGTERM)
        return ThresholdSegmenter.segment_window(segmenter, *_, **__)

    monkeypatch.setattr(segmenter, "segment_window", stop)
    monkeypatch.setattr(flowrvs, "load_segmenter", lambda *_, **__: segmenter)
    line = ["segment", "clips/none.npy", "clips/a.npy", "clips/b.npy", "-p", "red"]
    assert main([*line, "--window", "whole", "--json"]) == 130
    said = json.loads(capsys.readouterr().out)
    assert said["error"].startswith("Stopped on request; what is finished is kept")
    assert [Path(p["project"]).name for p in said["projects"]] == ["a.flowrvs"]
    assert list(said["failed"]) == ["clips/none.npy"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("", "columns video and sentence"),
        ("a.npy,red", "columns video and sentence"),
        ("video,sentence\na.npy,\n", "Row 2"),
        ("video,sentence\nnone.npy,red\n", "none.npy"),
        ("video,sentence\na.npy,the dog, the red dog\n", "Row 2 .* quotation marks"),
        ("video,sentence\n", "no row below"),
        ("video,sentence\na\0.npy,red\n", "cannot be read as a CSV file .* a zero byte"),
        ("video,sentence\na.npy,red\n../clips/a.npy,red\nb.npy,red\nsub/b.npy,red", "both become"),
    ],
)
def test_a_bad_file_of_sentences_is_one_line(
    loaded: list, capsys: pytest.CaptureFixture[str], rows: str, message: str
) -> None:
    _two_videos(Path())
    Path("clips/list.csv").write_text(rows, encoding="utf-8")
    assert main(["segment", "--sentences", "clips/list.csv"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and re.search(message, said)
    assert [p.name for p in Path().iterdir()] == ["clips"] and not loaded


def test_one_video_may_be_spelt_in_two_ways(
    loaded: list, capsys: pytest.CaptureFixture[str]
) -> None:
    _two_videos(Path())
    rows = "Video, Sentence\na.npy, red\n./a.npy,green\nnone.npy,red\n"
    Path("clips/list.csv").write_text(rows, encoding="utf-8")
    line = ["segment", "clips/../clips/a.npy", "-p", "blue", "--sentences", "clips/list.csv"]
    assert main([*line, "--window", "9", "--json"]) == 2
    result = json.loads(capsys.readouterr().out)
    (project,) = result["projects"]
    assert [e["text"] for e in project["expressions"]] == ["blue", "red", "green"]
    assert list(result["failed"]) == ["clips/none.npy"]


def _broken(t: int, name: str = "") -> Callable[[Video, int, int], npt.NDArray[np.uint8]]:
    """Return what reads a video with a damaged frame."""
    read = Video.read

    def broken(self: Video, start: int, stop: int) -> npt.NDArray[np.uint8]:
        if str(self.info.path).endswith(name) and start <= t < stop:
            raise VideoError(f"Frame {t} is damaged.")
        return read(self, start, stop)

    return broken


def test_every_nth_frame_then_filled_in(
    loaded: list,
    shapes_mp4: Path,
    shapes_masks: dict,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = ["segment", str(shapes_mp4), "-p", "red", "--every", "3", "--out", "p"]
    assert main([*line, "--overlay", "o.mp4"]) == 0
    with flowrvs.open_video("o.mp4") as overlay:
        assert len(overlay) == 4 and overlay.info.rate == pytest.approx(12 / 3)
    assert capsys.readouterr().out == (
        f"     4 of 4 frames  'red'\nProject: {Path('p.flowrvs').resolve()}\nOverlay: o.mp4\n"
    )
    with Project.open("p.flowrvs") as project:
        assert np.flatnonzero(project.present(1)).tolist() == [0, 3, 6, 9]
    assert main([*line, "--fill"]) == 0
    assert capsys.readouterr().out == (
        "    10 of 10 frames  'red'\nEverything was finished before; --again computes it anew.\n"
        f"Project: {Path('p.flowrvs').resolve()}\n"
    )
    with Project.open("p.flowrvs") as project:
        both = project.object_mask(1, 0, 10), shapes_masks["red"][:10]
        assert (both[0] & both[1]).sum() / (both[0] | both[1]).sum() > 0.8
        assert not project.present(1)[10:].any()
    # A frame that cannot be read ends its own gap.
    line[-1] = "r"
    main(line)
    with monkeypatch.context() as patch:
        patch.setattr(Video, "read", _broken(4))
        assert main([*line, "--fill"]) == 2
    assert capsys.readouterr().err.endswith("\nflowrvs: Frame 4 is damaged.\n")
    with Project.open("r.flowrvs") as project:
        assert np.flatnonzero(project.present(1)).tolist() == [0, 1, 2, 3, 6, 7, 8, 9]
    # Nothing is filled in towards a frame where it is not seen.
    line[-1] = "q"
    main(line)
    with Project.open("q.flowrvs") as project:
        project.labels(1)[6] = 0
    main([*line, "--fill"])
    with Project.open("q.flowrvs") as project:
        assert np.flatnonzero(project.present(1)).tolist() == [0, 1, 2, 3, 9]


def test_a_window_around_a_frame(loaded: list, shapes_mp4: Path) -> None:
    line = ["segment", str(shapes_mp4), "-p", "red", "--out", "p", "--window", "5"]
    assert main([*line, "--around", "10"]) == 0
    with Project.open("p.flowrvs") as project:
        assert np.flatnonzero(project.present(1)).tolist() == [7, 8, 9, 10, 11]
    assert main([*line, "--around", "12"]) == 2
