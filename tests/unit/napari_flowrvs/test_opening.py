"""Opening and copying away from the interface, and what a file is taken for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest

from flowrvs.errors import InputError, ProjectError
from flowrvs.records import VideoInfo
from flowrvs.store import Project
from flowrvs.video import open_video
from napari_flowrvs import _reader, layers, source
from napari_flowrvs.job import consume
from napari_flowrvs.opening.presenter import OpenPresenter
from napari_flowrvs.projects import Projects
from napari_flowrvs.source import VideoSource, default_project, existing_project
from tests.unit.napari_flowrvs.conftest import make_clip


@pytest.fixture
def opener() -> tuple[OpenPresenter, Projects, dict[str, list[Any]]]:
    """A presenter with projects of its own, and what it tells."""
    projects = Projects()
    presenter = OpenPresenter(projects=projects)
    seen: dict[str, list[Any]] = {"opened": [], "noted": [], "found": [], "failed": [], "said": []}
    presenter.job.progressed.connect(lambda event: seen["said"].append(event.message))
    presenter.opened.connect(seen["opened"].append)
    presenter.noted.connect(seen["noted"].append)
    presenter.found.connect(lambda *what: seen["found"].append(what))
    presenter.job.failed.connect(lambda failure: seen["failed"].append(failure.summary))
    return presenter, projects, seen


def test_what_is_opened_is_told_with_its_notes(
    opener: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    presenter, _, seen = opener
    read: list[int] = []

    class Frames:
        def __len__(self) -> int:
            return 8

        def __getitem__(self, t: int) -> Any:
            read.append(t)
            return np.zeros((2, 2))

    made = [(Frames(), {}, "image")]

    def layers_of(path: Path, note: Callable[[str], None]) -> Any:
        note(f"about {path.name}")
        return made

    monkeypatch.setattr("napari_flowrvs.opening.presenter.layers_of", layers_of)
    presenter.open(str(tmp_path / "clip.mp4"))
    assert seen["opened"] == [made] and seen["noted"] == ["about clip.mp4"]
    assert read == [3], "the frame that napari shows first"
    assert not seen["failed"] and seen["said"] == ["Opening clip.mp4"]


def test_a_copy_is_saved_and_work_goes_on(opener: Any, tmp_path: Path) -> None:
    presenter, projects, seen = opener
    with pytest.raises(InputError, match="There is no project yet: Run, Draw by hand, or open"):
        presenter.copy(None, tmp_path / "copy.flowrvs")
    project = projects.ensure(tmp_path / "clip.flowrvs", VideoInfo(None, "array", 3, 4, 5))
    thing = project.add_prompt("one")[1]
    project.labels(thing.layer)[1, 2, 2:] = thing.id
    presenter.copy(project, tmp_path / "copy.flowrvs")
    assert seen["noted"] == [
        f"A copy was saved: {tmp_path / 'copy.flowrvs'}. You go on working in clip.flowrvs."
    ]
    with Project.open(tmp_path / "copy.flowrvs", read_only=True) as copy:
        np.testing.assert_array_equal(copy.labels(1)[:], project.labels(1)[:])
    assert projects.get(project.path) is project and seen["said"] == ["Copying clip.flowrvs"]
    presenter.copy(project, tmp_path / "copy.flowrvs")
    assert len(seen["failed"]) == 1 and "copy.flowrvs" in seen["failed"][0]
    projects.close_all()


def test_the_project_beside_a_video_is_found_where_it_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other; one that does not fit is closed again, unless it was open before."""
    monkeypatch.setattr("platformdirs.user_data_dir", lambda *_, **__: str(tmp_path / "data"))
    pending: list[Callable[[], None]] = []

    def later(work: Any, token: Any, *, item: Any, progress: Any, done: Any) -> None:
        pending.append(lambda: done(consume(work, token, item, progress)))

    projects = Projects()
    presenter = OpenPresenter(later, projects)
    seen: list[Any] = []
    presenter.noted.connect(seen.append)
    presenter.found.connect(lambda project, asker: seen.append((project, asker)))
    clips = {name: make_clip(6) + np.uint8(i) for i, name in enumerate(("mine", "odd", "new"))}
    sources = {name: VideoSource(name, 6, None, clip) for name, clip in clips.items()}
    for name in ("mine", "odd"):
        with open_video(clips[name]) as video:
            info = video.info
        if name == "odd":
            info = VideoInfo(None, "array", 5, 40, 60)
        place = default_project(sources[name])
        place.parent.mkdir(exist_ok=True)
        Project.create(place, info).close()
    odd = default_project(sources["odd"])
    for asker, name in enumerate(("new", "odd", "mine")):
        presenter.look_beside(sources[name], asker)
    assert len(pending) == 1, "one at a time"
    pending.pop()()
    assert seen == []
    pending.pop()()
    assert len(seen) == 1 and seen[0].startswith("The project of an earlier session is not shown: ")
    assert projects.get(odd) is None
    pending.pop()()
    assert seen[1] == (projects.get(default_project(sources["mine"])), 2) and not pending
    kept = projects.open(odd)
    presenter.look_beside(sources["odd"], 3)
    pending.pop()()
    assert projects.get(odd) is kept, "somebody has it open"
    presenter.look_beside(sources["mine"], 4)
    presenter.look_beside(sources["mine"], 5)
    assert presenter.close(0.0)
    pending.pop()()
    assert len(seen) == 3 and not pending, "what waited is forgotten"
    projects.close_all()


def test_where_a_project_lies_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    clip, folder = tmp_path / "a.clip.mp4", tmp_path / "shots.v2"
    clip.touch()
    folder.mkdir()
    beside = {
        path: default_project(VideoSource("x", 3, str(path)), data) for path in (clip, folder)
    }
    assert [path.name for path in beside.values()] == ["a.clip.flowrvs", "shots.v2.flowrvs"]
    assert {path.parent for path in beside.values()} == {tmp_path}
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (tmp_path, os.W_OK))
    away = default_project(VideoSource("x", 3, str(clip)), data)
    assert away.parent == data and away.name.startswith("a.clip-")
    assert len(away.stem) == len("a.clip-") + 8
    other = tmp_path / "b" / "a.clip.mp4"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert default_project(VideoSource("x", 3, str(other)), data) != away, "another clip's name"
    odd = default_project(VideoSource(" ../ ", 3, None, np.zeros((3, 2, 2))), data)
    assert odd.parent == data and odd.name.startswith("video-")


def test_frames_are_computed_for_what_somebody_has_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platformdirs.user_data_dir", lambda *_, **__: str(tmp_path))
    asked: list[int] = []

    def block(block_info: Any = None) -> Any:
        asked.append(block_info[None]["array-location"][0][0])
        return np.full((1, 2, 2), asked[-1] % 7, np.uint8)

    lazy = da.map_blocks(block, chunks=((1,) * 100, 2, 2), dtype=np.uint8, meta=np.zeros(0, "u1"))
    here = VideoSource("lazy", 100, None, lazy)
    assert existing_project(here) is None and asked == []
    place = default_project(here)
    assert asked == sorted({i * 99 // 31 for i in range(32)}) and len(asked) == 32
    place.mkdir()
    assert existing_project(here) == place
    monkeypatch.setattr(source, "_HASHED", 3)
    small = VideoSource("a", 100, None, np.zeros((100, 2, 2), np.uint8))
    changed = VideoSource("a", 100, None, small.array.copy())
    changed.array[1] = 1  # none of the 32 that are looked at of a large array
    assert default_project(small) == default_project(changed)
    monkeypatch.setattr(source, "_HASHED", 400)
    assert default_project(small) != default_project(changed)
    for array in (small.array.astype(np.int16), small.array.view(np.int8), small.array[:, :1]):
        assert default_project(VideoSource("a", 100, None, array)) != default_project(small)


def test_what_napari_is_told_of_what_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr("napari.utils.notifications.show_info", told.append)
    frames = np.zeros((3, 4, 5), np.uint8)
    kinds: dict[str, Any] = {}
    monkeypatch.setattr(layers, "recognise", lambda path: kinds["kind"])
    monkeypatch.setattr(layers, "layers_of", lambda path, note: kinds["layers"])
    image, truth = (frames, {}, "image"), (frames, {"name": "t"}, "labels")
    look = "These masks are for looking. To correct them: File > IO Utilities > Correct a dataset."
    for kind, found, lines in (
        ("split", [image, truth], [look]),
        ("splits", [image, truth], [look]),
        ("video of a split", [image, truth], [look]),
        ("split", [image], []),
        ("project", [image, truth], []),
    ):
        kinds |= {"kind": kind, "layers": found}
        told.clear()
        assert _reader._read([str(tmp_path)]) == found and told == lines
    kinds["layers"] = []
    assert _reader._read(str(tmp_path)) == [(None,)]


def test_a_folder_is_told_by_what_lies_in_it(tmp_path: Path) -> None:
    def place(name: str, *files: str) -> Path:
        folder = tmp_path / name
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).touch()
        return folder

    meta = "meta_expressions.json"
    split = place("split", meta, "JPEGImages/clip/0.jpg")
    wanted = {
        place("a.flowrvs", "zarr.json", "0.png"): "project",
        split: "split",
        split / "JPEGImages" / "clip": "video of a split",
        place("clip/JPEGImages/one", "0.JPG"): "images",
        place("splits", f"train/{meta}", f"valid/{meta}"): "splits",
        place("notes", "a.txt"): None,
        split / meta: None,
        tmp_path / "gone": None,
    }
    assert {path: layers.recognise(path) for path in wanted} == wanted


@pytest.mark.parametrize("found", [True, False])
def test_what_is_said_of_a_project_without_its_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: bool
) -> None:
    notes: list[str] = []
    with Project.create(tmp_path / "a.flowrvs", VideoInfo(None, "array", 3, 4, 5)) as made:
        assert layers.project_layers(made, notes.append) == []
        assert notes == [
            "a.flowrvs was made from an array: add its video as a layer yourself.",
            "a.flowrvs has no layers, and its video was not found.",
        ]
    info = VideoInfo("/films/b.mp4", "file", 3, 4, 5)
    with Project.create(tmp_path / "b.flowrvs", info) as made:
        made.add_prompt("one")
        notes.clear()

        def look(self: Project) -> Path | None:
            if found:
                raise ProjectError("b.mp4 is another clip.")
            return None

        monkeypatch.setattr(Project, "find_video", look)
        shown = layers.project_layers(made, notes.append)
        assert [kind for *_, kind in shown] == ["labels"]
        assert notes == [
            "b.mp4 is another clip."
            if found
            else "The video of b.flowrvs was not found at /films/b.mp4, nor near it: only its "
            "masks are shown."
        ]
