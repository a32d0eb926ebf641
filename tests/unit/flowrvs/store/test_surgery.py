"""Objects cut and joined over many frames: stopped midway, painted on meanwhile, killed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowrvs.errors import Cancelled, ProjectError, StorageError
from flowrvs.progress import CancelToken, Progress
from flowrvs.records import VideoInfo
from flowrvs.store import Project
from flowrvs.store.changes import encode
from flowrvs.store.history import History
from flowrvs.store.surgery import _Staged

FRAMES, SHAPE = 60, (12, 16)
DRAWN = 50  # of the frames; more than are changed in place
LEFT = np.zeros((DRAWN, *SHAPE), bool)
LEFT[:, :, :6] = True
RIGHT = np.zeros((DRAWN, *SHAPE), bool)
RIGHT[:, 2:, 9:] = True

ACTIONS: dict[str, Callable[..., object]] = {
    "merge": lambda project, **how: project.merge_objects(1, 2, **how),
    "merge across": lambda project, **how: project.merge_objects(1, 3, **how),
    "swap": lambda project, **how: project.swap_objects(1, 2, 5, **how),
    "swap across": lambda project, **how: project.swap_objects(3, 1, 0, **how),
    "absent": lambda project, **how: project.mark_absent(1, 3, 55, **how),
    "end": lambda project, **how: project.end_object(2, 10, **how),
    "start": lambda project, **how: project.start_object(2, 40, **how),
    "split": lambda project, **how: project.split_object(1, 0, 60, **how),
    "move": lambda project, **how: project.move_object(1, 2, **how),
    "move away": lambda project, **how: project.move_object(1, **how),
    "remove": lambda project, **how: project.remove_object(1, **how),
}


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """Objects 1 and 2 in one layer and 3 in another; on half of the frames a person's."""
    info = VideoInfo(None, "array", FRAMES, *SHAPE)
    with Project.create(tmp_path / "long", info) as made:
        made.add_prompt("one")
        made.add_object("two", 1)
        made.add_prompt("three")
        made.write_model(1, 1, 0, LEFT)
        made.write_masks(2, 0, RIGHT)
        made.write_model(2, 3, 0, LEFT | RIGHT)
        made.accept_frames(1, 20, 40)
        yield made


def state(project: Project) -> list[Any]:
    """All there is to know of a project."""
    numbers = [(project.provenance(i), project.areas(i)) for i in sorted(project.objects)]
    for i in project.objects:
        pixels = project.object_mask(i, 0, FRAMES).sum(axis=(1, 2))
        np.testing.assert_array_equal(project.areas(i), pixels)
    return [
        {layer: project.labels(layer)[:].tobytes() for layer in project.layers},
        [(a.tobytes(), b.tobytes()) for a, b in numbers],
        *(project.objects, project.expressions, project.next_label, project.undo_name),
        project.history.steps,
    ]


class Numbers:
    """Pixels by layer and provenance by object, and what each operation makes of them."""

    def __init__(self, project: Project) -> None:
        self.pixels = {i: project.labels(i)[:] for i in project.layers}
        self.provenance = {i: project.provenance(i) for i in project.objects}
        self.layer = {i: record.layer for i, record in project.objects.items()}

    def locked(self, layer: int, t: int, *but: int) -> list[int]:
        mine = [i for i in self.layer if self.layer[i] == layer and i not in but]
        return [i for i in mine if self.provenance[i][t] == 3]

    def absent(self, one: int, start: int, stop: int) -> None:
        for t in range(start, stop):
            frame = self.pixels[self.layer[one]][t]
            frame[frame == one] = 0
            self.provenance[one][t] = max(self.provenance[one][t], 2)

    def split(self, one: int, new: int, start: int, masks: Any) -> None:
        self.layer[new] = self.layer[one]
        self.provenance[new] = np.zeros(FRAMES, np.uint8)
        for t, mask in enumerate(masks, start):
            frame = self.pixels[self.layer[one]][t]
            part = (frame == one) & mask
            frame[part] = new
            self.provenance[new][t] = self.provenance[one][t] if part.any() else 0

    def merge(self, keep: int, gone: int, start: int, stop: int) -> None:
        for t in range(start, stop):
            source, to = (self.pixels[self.layer[i]][t] for i in (gone, keep))
            part = source == gone
            source[part] = 0
            to[part & ~np.isin(to, self.locked(self.layer[keep], t, gone))] = keep
            values = self.provenance[keep][t], self.provenance[gone][t]
            self.provenance[keep][t], self.provenance[gone][t] = max(values), 0

    def swap(self, a: int, b: int, start: int, stop: int) -> None:
        for t in range(start, stop):
            frames = [self.pixels[self.layer[i]][t] for i in (a, b)]
            parts = [frame == i for frame, i in zip(frames, (a, b), strict=True)]
            for frame, part in zip(frames, parts, strict=True):
                frame[part] = 0
            for i, frame, part in ((a, frames[0], parts[1]), (b, frames[1], parts[0])):
                frame[part & ~np.isin(frame, self.locked(self.layer[i], t))] = i
            old = self.provenance[a][t], self.provenance[b][t]
            self.provenance[b][t], self.provenance[a][t] = old

    def move(self, one: int, layer: int) -> None:
        source, there = self.pixels[self.layer[one]], self.pixels[layer]
        part = source == one
        source[part] = 0
        there[part & (there == 0)] = one
        self.layer[one] = layer

    def check(self, project: Project, where: object) -> None:
        assert {i: record.layer for i, record in project.objects.items()} == self.layer, where
        for i, pixels in self.pixels.items():
            np.testing.assert_array_equal(project.labels(i)[:], pixels, str(where))
        for i, values in self.provenance.items():
            np.testing.assert_array_equal(project.provenance(i), values, str(where))
        for i, layer in self.layer.items():
            areas = (self.pixels[layer] == i).sum(axis=(1, 2))
            np.testing.assert_array_equal(project.areas(i), areas, str(where))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("length", [5, 40])
def test_what_each_operation_makes_is_what_numpy_says(
    tmp_path: Path, seed: int, length: int
) -> None:
    """In place and by files; objects 1, 2 and 4 in one layer, 3 and 5 in another; 4 and 5 locked
    here and there."""
    dice = np.random.default_rng(seed)
    info = VideoInfo(None, "array", FRAMES, *SHAPE)
    with Project.create(tmp_path / "a", info) as project:
        for layer in "ab":
            project.add_layer(layer)
        for layer in (1, 1, 2, 1, 2):
            project.add_object("x", layer)
        for layer, ids in ((1, [0, 0, 1, 2, 4]), (2, [0, 3, 5])):
            noise = np.kron(dice.choice(ids, (FRAMES, 4, 4)), np.ones((1, 3, 4), int))
            project.labels(layer)[:] = noise.astype(np.uint16)
        for i in (1, 2, 3):
            start, stop = sorted(dice.choice(FRAMES, 2, replace=False).tolist())
            project.release_frames(i, start, stop)
        for i in (4, 5):
            for t in dice.choice(FRAMES - 9, 4, replace=False).tolist():
                project.lock_frames(i, t, t + 9)
        if seed % 2:  # with nothing in memory: by files
            project.flush()
            for volume in project._state.volumes.values():
                volume.frames.cache._frames.clear()
        numbers, before = Numbers(project), state(project)
        start = int(dice.integers(0, FRAMES - length + 1))
        stop = start + length
        masks = dice.random((length, *SHAPE)) < 0.5
        half = start + length // 2
        for name, call, said in (
            ("swap", lambda: project.swap_objects(1, 2, start, stop), (1, 2, start, stop)),
            ("swap", lambda: project.swap_objects(3, 2, start, stop), (3, 2, start, stop)),
            ("split", lambda: project.split_object(2, start, stop, masks), (2, 6, start, masks)),
            ("merge", lambda: project.merge_objects(2, 1, start, half), (2, 1, start, half)),
            ("absent", lambda: project.mark_absent(1, half, stop), (1, half, stop)),
            ("merge", lambda: project.merge_objects(2, 3, half, stop), (2, 3, half, stop)),
            ("move", lambda: project.move_object(2, 2), (2, 2)),
        ):
            call()
            getattr(numbers, name)(*said)
            numbers.check(project, (name, said[:2]))
        assert len(project.history.steps) == len(before[-1]) + 7
        for _ in range(7):
            project.undo()
        assert state(project)[:4] == before[:4]
        for _ in range(7):
            project.redo()
        numbers.check(project, "redone")


def test_how_far_it_is(project: Project) -> None:
    heard: list[Progress] = []
    project.merge_objects(1, 2, progress=heard.append)
    assert [(p.done, p.total) for p in heard] == [(i, DRAWN) for i in range(1, DRAWN + 1)]
    assert {p.message for p in heard} == {"merge 'two' into 'one'"}
    heard.clear()
    project.mark_absent(1, 0, 16, progress=heard.append)
    assert heard == [], "so few frames are done at once"
    project.mark_absent(1, 16, 33, progress=heard.append)
    assert len(heard) == 17


def test_the_number_of_a_split_that_is_stopped(project: Project) -> None:
    """It is given again, unless another object was made meanwhile."""

    between = [False]

    def stop(event: Progress) -> None:
        if event.done == 20:
            if between[0]:
                project.add_object("between", 1)
            raise Cancelled("stop")

    for between[0], following in ((False, 4), (True, 6)):
        with pytest.raises(Cancelled):
            project.split_object(1, 0, 60, progress=stop)
        assert project.next_label == following
    assert project.split_object(1, 0, 60, name="half").id == 6
    assert project.objects[6].name == "half" and project.objects[5].name == "between"


@pytest.mark.parametrize("name", [name for name in ACTIONS if name != "move away"])
def test_whoever_stops_midway_has_changed_nothing(project: Project, name: str) -> None:
    project.flush()
    before, token, heard, at = state(project), CancelToken(), [], 17

    def progress(event: Progress) -> None:
        heard.append(event)
        if event.done == at:
            token.cancel()

    with pytest.raises(Cancelled):
        ACTIONS[name](project, cancel=token, progress=progress)
    assert heard[-1].done == at < heard[-1].total and heard[-1].remaining is not None
    assert state(project) == before
    project.close()
    with Project.open(project.path) as again:
        assert state(again)[:2] == before[:2], "nor on the disk"


def test_a_new_layer_goes_too_when_a_move_is_stopped(project: Project) -> None:
    before, token = state(project), CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        ACTIONS["move away"](project, cancel=token)
    assert state(project)[:3] == before[:3] and project.undo_name == before[5]


@pytest.mark.parametrize("name", ACTIONS)
def test_it_is_one_step_that_survives_closing(project: Project, name: str) -> None:
    before = state(project)
    ACTIONS[name](project)
    after = state(project)
    assert after[0] != before[0] and len(after[-1]) == len(before[-1]) + 1
    project.undo()
    undone = state(project)
    assert undone[0] == before[0] and undone[1:4] == before[1:4]
    project.redo()
    assert state(project)[:4] == after[:4]
    steps = project.history.steps
    project.close()
    with Project.open(project.path) as again:
        assert state(again)[:4] == after[:4] and again.history.steps == steps
        again.undo()
        assert state(again)[:4] == before[:4]


@pytest.mark.parametrize("name", ACTIONS)
def test_a_kill_before_its_end_leaves_what_was_before(
    project: Project, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Pixels are in their new place, names are not; or all of it is there but the word that it is.
    Killed again while it is taken back, the next session does the same."""
    before, copies = state(project), list[Path]()

    project._state._saver.stop(), project._state._scribe.stop()  # we save, at the worst moment

    def kill(history: History) -> None:
        history.commit()
        source = history._journal.path.parents[1]
        copies.append(project.path.with_name(f"killed {len(copies)}.flowrvs"))
        # A thread sweeps what a move has put in its place.
        shutil.copytree(source, copies[-1], ignore=shutil.ignore_patterns(".staged-*"))

    finish, end = _Staged.finish, History.end

    def finish_late(staged: _Staged, entry: Any, then: Any) -> None:
        finish(staged, entry, lambda entry: (project.flush(), kill(project.history), then(entry)))

    def end_late(history: History, entry: Any, **how: Any) -> None:
        if history is project.history:
            project.flush()
            kill(history)
        end(history, entry, **how)

    with monkeypatch.context() as late:
        late.setattr(_Staged, "finish", finish_late)
        late.setattr(History, "end", end_late)
        ACTIONS[name](project)
    after = state(project)
    assert len(copies) >= 2 and after[0] != before[0]

    def take_away(history: History, entry: Any, back: bool) -> None:
        kill(history)
        take(history, entry, back)

    take = History._take_away
    for killed in (copies[-2], copies[-1]):
        with monkeypatch.context() as late:
            late.setattr(History, "_take_away", take_away)
            again = Project.open(killed)
        found = state(again)
        assert found[:4] == before[:4] and found[5] == before[5]
        assert [step.name for step in again.history.steps] == [s.name for s in before[-1]]
        assert again.history.redo_step is None and again.history.notice is None
        again.close()
    with Project.open(copies[-1]) as again:
        assert state(again)[:4] == before[:4] and again.history.redo_step is None
        ACTIONS[name](again)
        if name not in ("split", "move away"):  # no id is given twice
            assert state(again)[0] == after[0]


@pytest.mark.parametrize("name", ["merge", "merge across"])
def test_who_paints_meanwhile_is_not_lost(project: Project, name: str) -> None:
    gone = 2 if name == "merge" else 3
    layer = project.objects[gone].layer

    def progress(event: Progress) -> None:
        if event.done == 30:  # frames 7 and 8 are ready, frame 45 is not
            for t in (7, 8, 45):
                project.labels(layer)[t, 0, 7] = gone
            project.flush()
            project.labels(1)[9, 5, 12] = 0
            project.labels(1)[10, 0, 15] = project.next_label

    ACTIONS[name](project, progress=progress)
    mask = project.object_mask(1, 0, FRAMES)
    assert mask[[7, 8, 45], 0, 7].all(), "what was drawn last is merged, too"
    assert not mask[6, 0, 7]
    if name == "merge":
        assert not mask[9, 5, 12], "what was erased is not there to be merged"
    assert project.labels(1)[10, 0, 15] not in (0, 1)
    state(project)  # areas agree with pixels


@pytest.mark.parametrize("when", ["made", "put in"])
@pytest.mark.parametrize("name", ["move", "merge across", "remove", "absent"])
def test_nothing_stays_where_the_object_has_left(
    project: Project, monkeypatch: pytest.MonkeyPatch, name: str, when: str
) -> None:
    """Whoever draws the object in the last moment draws it where it goes to."""
    gone = 3 if name == "merge across" else 1
    labels = project.labels(project.objects[gone].layer)

    def draw() -> None:
        labels[5, 11, 15] = labels[54, 11, 15] = gone  # on a frame that is ready, and another

    def progress(event: Progress) -> None:
        if when == "made" and event.done == event.total:
            draw()

    put, left = _Staged._put, [when == "put in"]

    def late(staged: _Staged, ready: Any) -> None:
        put(staged, ready)
        if left and left.pop() and ready:
            draw()

    monkeypatch.setattr(_Staged, "_put", late)
    before = state(project)
    ACTIONS[name](project, progress=progress)
    assert not (labels[3:55] == gone).any(), "nothing of it is left in the old layer"
    if name == "move":
        assert project.labels(2)[54, 11, 15] == 1 and project.labels(2)[5, 11, 15] == 3
    elif name == "merge across":
        assert project.labels(1)[[5, 54], 11, 15].tolist() == [1, 1]
    else:
        assert not labels[[5, 54], 11, 15].any()
    if gone in project.objects:
        np.testing.assert_array_equal(
            project.areas(gone), project.object_mask(gone, 0, FRAMES).sum(axis=(1, 2))
        )
    while project.undo_name != before[5]:
        project.undo()
    assert state(project)[:3] == before[:3]


def test_what_others_have_drawn_since_stays(project: Project) -> None:
    """A change that was made ready takes the pixels alone that are as it saw them."""
    before = project.labels(1)[5]
    after = np.where(before == 1, 2, before).astype(np.uint16)
    dog = project.add_object("dog", 1)
    project.labels(1)[5, 3, 2] = dog.id
    volume = project._state.volume(1)
    with volume.lock:
        volume.apply(5, encode(before, after))
    after[3, 2] = dog.id
    np.testing.assert_array_equal(project.labels(1)[5], after)
    state(project)  # areas agree with pixels


def test_a_merge_across_layers_spares_what_is_locked(project: Project) -> None:
    """Pixels of a third object that is locked stay its own; the others go to the merged one."""
    project.lock_frames(2, 10, 60)
    project.merge_objects(1, 3)
    mask = project.object_mask(1, 0, FRAMES)
    np.testing.assert_array_equal(mask[:10], (LEFT | RIGHT)[:10])
    np.testing.assert_array_equal(mask[10:DRAWN], LEFT[10:])
    np.testing.assert_array_equal(project.object_mask(2, 10, DRAWN), RIGHT[10:])
    assert not project.object_mask(2, 0, 10).any() and 3 not in project.objects
    assert project.provenance(2)[:12].tolist() == [2] * 10 + [3] * 2
    state(project)


def test_what_is_locked_while_frames_are_made(project: Project) -> None:
    """A lock on the object itself stops it; one on another object is heeded."""

    def lock(i: int) -> Any:
        return lambda event: project.lock_frames(i, 20, 21) if event.done == 30 else None

    before = state(project)
    with pytest.raises(ProjectError, match="locked on 1 of these frames, the first is 20"):
        project.merge_objects(1, 3, progress=lock(1))
    project.undo()
    assert state(project)[:4] == before[:4]
    project.merge_objects(1, 3, progress=lock(2))
    np.testing.assert_array_equal(project.object_mask(2, 20, 21), RIGHT[20:21])


def test_a_sentence_for_an_object_whose_split_is_undone(project: Project) -> None:
    """It means the objects that are there; the project opens again, and redo finds the object."""
    new = project.split_object(1, 0, 60)
    said: list[Any] = []

    def progress(event: Progress) -> None:
        if not said:
            said.append(project.add_expression("half of it", [1, new.id]))

    project.history.undo(None, progress)
    assert new.id not in project.objects
    assert project.expressions[said[0].exp_id].object_ids == {1}
    project.close()
    with Project.open(project.path) as again:
        assert again.history.notice is None
        assert again.expressions[said[0].exp_id].object_ids == {1}


def test_a_disk_that_fails_midway_leaves_everything_as_it_was(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.close()
    replace, moved = os.replace, []

    def fail(source: Any, target: Any) -> None:
        if ".staged-" in str(source):
            moved.append(target)
            if len(moved) > 5:
                raise OSError(28, "No space left on device")
        replace(source, target)

    with Project.open(project.path) as again:  # with no frame in memory
        before = state(again)
        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(StorageError, match="disk is full"):
            ACTIONS["merge"](again)
        monkeypatch.undo()
        assert len(moved) > 5
        after = state(again)
        assert after[0] == before[0] and after[1:4] == before[1:4]
        ACTIONS["merge"](again)
        assert again.object_mask(1, 0, DRAWN).sum() == (LEFT | RIGHT).sum()


def test_what_a_kill_left_is_swept(project: Project) -> None:
    left = project.path / ".staged-dead.partial"
    (left / "0").mkdir(parents=True)
    (left / "spool").write_bytes(b"x")
    ACTIONS["absent"](project)
    assert not left.exists()


def test_the_file_of_a_frame_that_becomes_background_goes(project: Project) -> None:
    project.flush()
    before = project.labels(2)[:]
    cache = project._state.volumes[2].frames.cache
    cache._frames.clear()
    project.mark_absent(3, 0, FRAMES)
    assert not cache.stored(), "neither on the disk nor in memory"
    assert not project.labels(2)[:].any()
    project.undo()
    np.testing.assert_array_equal(project.labels(2)[:], before)


def test_a_few_frames_need_no_folder(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("no folder is needed")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    project.mark_absent(1, 4, 12)
    assert project.present(1)[:13].tolist() == [True] * 4 + [False] * 8 + [True]
    state(project)
