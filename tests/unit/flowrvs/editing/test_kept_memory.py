"""A spread that was stopped, by a person or a kill, ends as one that was not."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flowrvs import plugins
from flowrvs.cli import main
from flowrvs.editing import PreviewGroup, memory, spread, spread_together
from flowrvs.errors import Cancelled, StorageError
from flowrvs.models.sam2 import Sam2Tracker, load_tracker
from flowrvs.progress import CancelToken
from flowrvs.records import VideoInfo
from flowrvs.store import Project, Provenance
from flowrvs.video import open_video
from tests.fixtures.sam_models import clip, disc, save_model
from tests.fixtures.trackers import CountingTracker

T = 24
KEYS = {1: (7, 13), 2: (7, 10)}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a memory whenever masks are written."""
    monkeypatch.setattr(memory, "PAUSE", 0)
    monkeypatch.setattr(memory, "SHARE", 0)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return clip(T)


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(tmp_path, np.zeros((T, 8, 64, 3), np.uint8))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home") / "models" / "sam2.1-tiny"
    save_model("sam2", folder)
    return folder


class Book:
    """A project of two objects with keys at both sides of the middle, and in it."""

    def __init__(self, folder: Path, frames: np.ndarray) -> None:
        self.path, self.frames = folder / "b.flowrvs", frames
        self.size = frames.shape[1:3]
        with Project.create(self.path, VideoInfo(None, "array", T, *self.size)) as project:
            for name, places in zip(("first", "second"), KEYS.values(), strict=True):
                thing = project.add_object(name, project.add_layer(name).id)
                for t in places:
                    mask = disc(t, *self.size, shift=self.size[1] // 4 * (thing.id - 1))
                    project.labels(thing.layer)[t] = np.where(mask, thing.id, 0)

    def copy(self, path: Path) -> Book:
        other = Book.__new__(Book)
        other.path, other.frames = path, self.frames
        with Project.open(self.path) as project:
            project.copy_to(path)
        return other

    @property
    def files(self) -> list[Path]:
        return sorted((self.path / "history").glob("spread/*"))

    def go(
        self,
        tracker: Any,
        stop: int | None = None,
        *,
        step: int = 7,
        write: Callable[[PreviewGroup, set[int]], object] = PreviewGroup.accept,
        objects: Sequence[int] = (1, 2),
        **how: Any,
    ) -> list[int]:
        """Spread, writing some frames at a time; cancel it after `stop` frames."""
        cancel, ready, walked = CancelToken(), set[int](), list[int]()
        with Project.open(self.path) as project, open_video(self.frames) as video:
            group = spread_together(project, video, objects, tracker, **how)
            try:
                for i, found in group.run(cancel):
                    ready.add(found.frame)
                    if i == max(objects):
                        walked.append(found.frame)
                    if len(walked) == stop:
                        cancel.cancel()
                    if len(ready) >= step:
                        write(group, ready)
                        ready = set()
            except Cancelled:
                assert stop is not None
            write(group, ready)
        return walked

    def content(self) -> tuple[bytes, list[list[int]], list[list[str]]]:
        with Project.open(self.path, read_only=True) as project:
            masks = [project.object_mask(i, 0, T) for i in (1, 2)]
            drawn = [project.provenance(i).tolist() for i in (1, 2)]
            who = [[project.changes(i, t)[0].who for t in range(T)] for i in (1, 2)]
        return np.packbits(masks).tobytes(), drawn, who


class Recording(Sam2Tracker):
    """Keeps its logits."""

    def follow(self, *args: Any, **how: Any) -> Iterator[Any]:
        for t, found in super().follow(*args, **how):
            self.said[t] = np.stack([found[i].logits for i in sorted(found)])
            yield t, found

    @classmethod
    def of(cls, folder: Path) -> Recording:
        tracker = load_tracker(folder, device="cpu")
        tracker.__class__ = cls
        tracker.said = {}
        return tracker


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, frames: np.ndarray, weights: Path
) -> tuple[Book, dict[int, np.ndarray]]:
    whole, tracker = Book(tmp_path_factory.mktemp("whole"), frames), Recording.of(weights)
    assert len(whole.go(tracker)) == 22 and not whole.files
    return whole, tracker.said


def test_what_was_cancelled_ends_as_what_was_not_to_the_bit(
    tmp_path: Path,
    frames: np.ndarray,
    weights: Path,
    undisturbed: tuple[Book, dict[int, np.ndarray]],
) -> None:
    book = Book(tmp_path, frames)
    whole, wanted = undisturbed
    said = dict[int, np.ndarray]()
    walked = 0
    for stop in (2, 9, 8, None):  # before and after keys on the way, and on the way back
        tracker = Recording.of(weights)
        book.go(tracker, stop)
        assert [file.name[:4] for file in book.files] == (["1_2-"] if stop else [])
        walked += len(tracker.said)
        said |= tracker.said
    assert walked == T + 1  # nothing twice but the key that both ways begin with
    for t, logits in wanted.items():
        np.testing.assert_array_equal(said[t], logits)
    assert book.content() == whole.content()
    assert not (book.path / "history" / "spread").exists()


# -- when it is taken up, and when not -------------------------------------------------------


def counted(book: Book) -> list[int]:
    """Return how many frames the tracker had seen when it drew each: -1 for a person's."""
    with Project.open(book.path, read_only=True) as project:
        areas, drawn = project.areas(1), project.provenance(1)
    return np.where(drawn == Provenance.MODEL, areas, -1).tolist()


#: Of a spread that nobody stopped: both walks begin at the key on frame 7.
WHOLE = [-1 if t in KEYS[1] else abs(t - 7) + 1 for t in range(T)]
WALK = [*range(7, T), *range(7, -1, -1)]


#: Run by `test_what_was_killed_ends_as_what_was_not`: a spread that is killed on frame 20.
KILLED = """
import os, signal, sys
from flowrvs import plugins
from flowrvs.cli import main, spread
from flowrvs.editing import memory
from tests.fixtures.trackers import CountingTracker

class Killed(CountingTracker):
    def follow(self, *args, **how):
        for t, found in super().follow(*args, **how):
            if t == 20:
                os.kill(os.getpid(), signal.SIGKILL)
            yield t, found

memory.PAUSE = memory.SHARE = 0
spread._TOGETHER = 3
plugins.load_tracker = lambda name, **_: Killed()
main(sys.argv[1:])
"""


def test_what_was_killed_ends_as_what_was_not(
    book: Book, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "v.npy", book.frames)
    line = ["spread", str(book.path), "--with", "counting", "--video", str(tmp_path / "v.npy")]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *line], capture_output=True, text=True, cwd=root
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(book.files) == 1
    tracker = CountingTracker()
    monkeypatch.setattr(plugins, "load_tracker", lambda name, **_: tracker)
    assert main(line) == 0
    assert 17 <= tracker.walked[0] <= 20
    assert counted(book) == WHOLE and not book.files


@pytest.mark.parametrize("stop", [1, 8, 15, 18])
def test_it_goes_on_after_the_last_frame_that_was_written(book: Book, stop: int) -> None:
    first, second = CountingTracker(), CountingTracker()
    book.go(first, stop)
    assert len(book.files) == 1
    book.go(second)
    assert first.walked + second.walked == WALK and len(first.walked) >= stop
    assert counted(book) == WHOLE and not book.files
    third = CountingTracker()
    assert book.go(third) == [] and third.walked == []


def test_a_stop_between_two_objects_of_a_frame_asks_for_that_frame_again(book: Book) -> None:
    with Project.open(book.path) as project, open_video(book.frames) as video:
        group = spread_together(project, video, [1, 2], CountingTracker())
        with closing(group.run()) as parts:
            for i, found in parts:
                if (i, found.frame) == (1, 14):
                    break
        group.accept()
    tracker = CountingTracker()
    book.go(tracker)
    assert tracker.walked[0] == 14 and counted(book) == WHOLE


def test_one_object_goes_on_too_and_a_preview_that_is_dropped_leaves_nothing(book: Book) -> None:
    tracker = CountingTracker(stop_at=20)
    with Project.open(book.path) as project, open_video(book.frames) as video:
        preview = spread(project, video, 2, method="memory", tracker=tracker)
        with pytest.raises(Cancelled):
            preview.finish(CancelToken())
        assert not book.files
        preview.accept()
        assert [file.name[:2] for file in book.files] == ["2-"]
        tracker.stop_at, tracker.walked = None, []
        spread(project, video, 2, method="memory", tracker=tracker).finish().accept()
        assert tracker.walked == [*range(20, T), *range(7, -1, -1)] and not book.files


def _key(project: Project) -> None:
    project.labels(1)[13] = np.eye(8, 64, dtype=np.uint16)


def _video(path: Path) -> None:
    text = (path / "zarr.json").read_text()
    assert '"fingerprint": null' in text
    (path / "zarr.json").write_text(text.replace('"fingerprint": null', '"fingerprint": "b"'))


@pytest.mark.parametrize(
    "change",
    [
        {"key": True},
        {"undone": True},  # what was written is gone
        {"video": True},
        {"weights": "b"},
        {"name": "counting again"},
        {"objects": [2, 1]},
        {"resume": False},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_depends_on_something_else_begins_anew(book: Book, change: dict[str, Any]) -> None:
    first, second = CountingTracker(), CountingTracker()
    first.weights = "a"  # type: ignore[attr-defined]
    second.weights = change.get("weights", "a")  # type: ignore[attr-defined]
    second.name = change.get("name", "counting")
    book.go(first, 5)
    (kept,) = book.files
    if "video" in change:
        _video(book.path)
    with Project.open(book.path) as project:
        if "key" in change:
            _key(project)
        if "undone" in change:
            project.undo()
    book.go(second, 8, objects=change.get("objects", (1, 2)), resume=change.get("resume", True))
    assert second.walked[0] == 7
    (file,) = book.files
    assert (file == kept) == (change.keys() <= {"resume", "undone"})


@pytest.mark.parametrize("how", ["text", "cut", "link", "folder", "large"])
def test_a_file_that_cannot_be_read_costs_itself(
    book: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    book.go(CountingTracker(), 5)
    (file,) = book.files
    away = tmp_path / "away"
    if how == "text":
        file.write_text("[1, ")
    elif how == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif how == "large":
        monkeypatch.setattr(memory, "LARGEST", 3)
    elif how == "link":
        file.rename(away)
        file.symlink_to(away)
    else:
        file.parent.rename(away)
        file.parent.symlink_to(away)
    before = sorted(away.rglob("*")) if away.is_dir() else None
    tracker = CountingTracker()
    with pytest.warns(UserWarning, match="begin anew|begins anew") as told:
        book.go(tracker)
    assert tracker.walked == WALK and counted(book) == WHOLE
    assert str(file) in str(told[0].message) and "\n" not in str(told[0].message)
    assert away.exists() == (how in ("link", "folder"))
    assert before is None or sorted(away.rglob("*")) == before


@pytest.mark.parametrize("done", ["", "-3", "x", "99999"])
def test_a_place_that_nobody_wrote(book: Book, done: str) -> None:
    book.go(CountingTracker(), 5)
    (file,) = book.files
    file.write_text(f'[7, {{"walk": "7 1", "done": "{done}"}}]')
    book.go(CountingTracker())
    assert counted(book) == WHOLE


def test_a_full_disk_is_told_once_and_the_spread_goes_on(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise StorageError(f"Cannot write to {path}: the disk is full; free some space.")

    monkeypatch.setattr(memory, "write_bytes", full)
    with pytest.warns(UserWarning, match="it will begin anew: .*the disk is full") as told:
        book.go(CountingTracker())
    assert len(told) == 1 and counted(book) == WHOLE and not book.files


def test_it_is_written_now_and_then(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    times: list[float] = []

    def slow(path: Path, data: bytes) -> None:
        times.append(clock[0])
        clock[0] += 1

    def write(group: PreviewGroup, ready: set[int]) -> None:
        group.accept(ready)
        clock[0] += 2

    monkeypatch.setattr(memory, "write_bytes", slow)
    monkeypatch.setattr(memory, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    for pause, share, wanted in ((5, 1, 6), (0, 7, 8), (5, 20, 21)):
        monkeypatch.setattr(memory, "PAUSE", pause)
        monkeypatch.setattr(memory, "SHARE", share)
        times.clear()
        book.go(CountingTracker(), write=write, step=2, resume=False)
        apart = {round(b - a) for a, b in itertools.pairwise(times)}
        assert apart and min(apart) >= wanted and max(apart) <= wanted + 3, apart


def test_a_project_keeps_one_memory_and_others_are_not_disturbed(
    book: Book, tmp_path: Path
) -> None:
    import zarr

    book.go(CountingTracker(name="another"), 3)
    other = book.files
    (other[0].parent / ".x.partial").touch()
    book.go(CountingTracker(), 6)
    assert len(book.files) == 1 and book.files != other
    nodes = dict(zarr.open_group(book.path, mode="r").members(max_depth=None))
    assert "history" in nodes and "history/spread" not in nodes
    copy = book.copy(tmp_path / "copy.flowrvs")
    tracker = CountingTracker()
    copy.go(tracker)
    assert tracker.walked[0] > 7 and counted(copy) == WHOLE
    with Project.open(book.path) as project:
        third = project.add_object("third", 1)
        project.remove_object(third.id)
        assert book.files
        project.remove_object(2)
        assert not book.files


def test_a_name_holds_the_ids_or_says_that_they_are_many(tmp_path: Path) -> None:
    frames = np.zeros((3, 48, 64, 3), np.uint8)
    info = VideoInfo(None, "array", 3, 48, 64)
    with Project.create(tmp_path / "m.flowrvs", info) as project, open_video(frames) as video:
        layer = project.add_layer("one").id
        for n in range(40):  # their ids take 110 characters
            thing = project.add_object(str(n), layer)
            mask = np.zeros((1, 48, 64), bool)
            mask[0, 0, n] = True
            project.write_masks(thing.id, 0, mask)
        for ids, name in (
            (range(1, 37), "_".join(map(str, range(1, 37)))),  # 100 - 1 of them
            (range(1, 38), "many"),
        ):
            tracker = CountingTracker(stop_at=2)
            group = spread_together(project, video, ids, tracker, resume=False)
            with pytest.raises(Cancelled):
                group.finish(CancelToken())
            group.accept()
            (file,) = (project.path / "history" / "spread").iterdir()
            assert file.name.partition("-")[0] == name
            project.remove_object(40)  # of neither spread, which cannot be known of many
            assert file.exists() == (name != "many")
            project.undo()
