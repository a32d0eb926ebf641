"""Undo and redo: of strokes, of runs, across them, and across sessions."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowrvs.errors import Cancelled, ProjectError
from flowrvs.progress import CancelToken
from flowrvs.records import VideoInfo
from flowrvs.store import ObjectRecord, Project, ProjectEvent, Provenance

from .states import FULL, LEFT, same, state


class TestSteps:
    def test_what_changes_nothing_is_no_step(self, project: Project, cat: ObjectRecord) -> None:
        exp_id = next(iter(project.expressions))
        steps = project.history.steps
        project.update_object(cat.id, name=cat.name, color=cat.color)
        project.set_expression_text(exp_id, project.expressions[exp_id].text)
        project.set_expression_objects(exp_id, [cat.id])
        assert project.history.steps == steps

    def test_each_kind_of_step_goes_back_and_forth(
        self, project: Project, cat: ObjectRecord
    ) -> None:
        dog = project.add_object("dog", cat.layer)
        _, bird = project.add_prompt("the bird")
        sentence = project.add_expression("animals", [cat.id])
        project.write_masks(cat.id, 0, LEFT)
        project.write_model(bird.layer, bird.id, 2, FULL[:4])
        labels = project.labels(cat.layer)
        actions = [
            lambda: labels.__setitem__((3, 4), cat.id),
            lambda: labels.__setitem__((slice(2, 5), slice(0, 6)), dog.id),
            lambda: labels.__setitem__((1, 1, 1), 77),
            lambda: project.write_model(cat.layer, dog.id, 5, FULL[:3]),
            lambda: project.write_model(cat.layer, cat.id, 0, ~LEFT, overwrite="human"),
            lambda: project.write_masks(dog.id, 6, LEFT[:2], overwrite="human"),
            lambda: project.accept_frames(bird.id, 0, 10),
            lambda: project.mark_absent(cat.id, 4, 6),
            lambda: project.end_object(bird.id, 5),
            lambda: project.start_object(bird.id, 3),
            lambda: project.swap_objects(cat.id, dog.id, 2),
            lambda: project.swap_objects(cat.id, bird.id, 0, 5),
            lambda: project.split_object(cat.id, 2, 9, FULL[2:9] & (np.arange(16) % 3 == 0)),
            lambda: project.move_object(dog.id),
            lambda: project.merge_objects(cat.id, dog.id),
            lambda: project.merge_objects(cat.id, bird.id, 0, 4),
            lambda: project.lock_frames(cat.id, 2, 4),
            lambda: project.unlock_frames(cat.id, 0, 10),
            lambda: project.release_frames(cat.id, 0, 10),
            lambda: project.update_object(cat.id, name="Tom", color=(1, 0, 0)),
            lambda: project.set_expression_objects(sentence.exp_id, []),
            lambda: project.set_expression_text(sentence.exp_id, "all animals"),
            lambda: project.remove_expression(sentence.exp_id),
            lambda: project.remove_object(cat.id),
        ]
        states = [state(project)]
        first = len(project.history.steps)
        for action in actions:
            action()
            states.append(state(project))
        assert len(project.history.steps) == first + len(actions)
        for before, after in zip(states, states[1:], strict=False):
            assert not same(before, after)
        for rounds in range(2):
            for wanted in reversed(states[:-1]):
                assert project.undo() is not None
                assert same(state(project), wanted), (rounds, project.redo_name)
            for wanted in states[1:]:
                assert project.redo() is not None
                assert same(state(project), wanted), (rounds, project.undo_name)
        assert project.redo() is None

    def test_names_tell_what_happened(self, project: Project, cat: ObjectRecord) -> None:
        project.labels(cat.layer)[3, 4] = cat.id
        assert project.undo_name == "edit on 'the cat', frame 3"
        run = project.begin_run({"text": "the cat", "model": "m", "range": [0, 10]}, cat.id)
        project.write_model(cat.layer, cat.id, 0, FULL[:5])
        project.mark_window_done(run.id, 0)
        project.write_model(cat.layer, cat.id, 5, FULL[:5])
        project.end_run(cat.id)
        assert project.undo_name == "model: 'the cat', frames 0-9"
        step = project.undo()
        assert step is not None
        assert (step.kind, step.who, step.frames, step.start, step.stop) == ("model", "m", 9, 0, 10)
        assert project.redo_name == "model: 'the cat', frames 0-9"
        assert project.runs == {}, "a run that was undone can be run again"
        assert (project.labels(cat.layer)[3] > 0).sum() == 16

    def test_many_writes_are_one_step(self, project: Project, cat: ObjectRecord) -> None:
        before = state(project)
        with project.edit("spread 'the cat', frames 0-9"):
            for t in range(10):
                project.write_masks(cat.id, t, LEFT[t : t + 1])
            project.labels(cat.layer)[0, 0] = 0
            with project.edit("inner"):
                project.accept_frames(cat.id, 0, 10)
        assert project.undo_name == "spread 'the cat', frames 0-9"
        project.undo()
        assert same(state(project), before)

    def test_a_block_that_raises_leaves_nothing(self, project: Project, cat: ObjectRecord) -> None:
        project.labels(cat.layer)[2, 2] = cat.id
        before, steps = state(project), project.history.steps
        with pytest.raises(Cancelled), project.edit("spread"):
            project.write_masks(cat.id, 0, FULL)
            project.add_object("x", cat.layer)
            raise Cancelled("stop")
        assert same(state(project), before) and project.history.steps == steps
        with pytest.raises(Cancelled), project.edit("spread", on_error="keep"):
            project.write_masks(cat.id, 0, LEFT)
            raise Cancelled("stop")
        assert project.undo_name == "spread"

    def test_undo_waits_for_a_stroke_that_is_being_written(
        self, project: Project, cat: ObjectRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another thread has taken the stroke, and has not handed it to the history yet."""
        push, began = project.history.push, threading.Event()

        def slow(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                began.set()
                time.sleep(0.3)
            return push(*args, **kwargs)

        monkeypatch.setattr(project.history, "push", slow)
        project.labels(cat.layer)[3, 4] = cat.id
        scribe = threading.Thread(target=project._state.settle)
        scribe.start()
        assert began.wait(20)
        project.undo()
        scribe.join()
        assert not project.labels(cat.layer)[3].any()
        project.redo()
        assert project.labels(cat.layer)[3, 4].all()

    def test_undo_can_be_cancelled(self, project: Project, cat: ObjectRecord) -> None:
        project.write_model(cat.layer, cat.id, 0, FULL)
        before = state(project)
        token = CancelToken()
        with pytest.raises(Cancelled):
            project.history.undo(token, lambda event: token.cancel() if event.done == 4 else None)
        assert same(state(project), before)
        project.undo()
        assert not project.present(cat.id).any()

    def test_a_new_step_ends_what_can_be_redone(self, project: Project, cat: ObjectRecord) -> None:
        labels = project.labels(cat.layer)
        labels[1, 1] = cat.id
        project.undo()
        project.write_model(cat.layer, cat.id, 5, FULL[:1])
        assert project.history.redo_step, "a model does not"
        labels[2, 2] = cat.id
        assert not project.history.redo_step
        names = [step.name for step in project.history.steps]
        project.close()
        with Project.open(project.path) as again:
            assert [step.name for step in again.history.steps] == names

    @pytest.mark.parametrize("rows", [(6, 3), (3, 8), (5, 4), (4, 5), (2, 9, 6), (7, 7, 1)])
    def test_a_stroke_remembers_what_lay_between_its_stamps(
        self, project: Project, cat: ObjectRecord, rows: tuple[int, ...]
    ) -> None:
        dog, labels = project.add_object("dog", cat.layer), project.labels(cat.layer)
        project.write_masks(cat.id, 3, FULL[:1])
        with labels.stroke("brush stroke"):
            for row in rows:
                labels[3, row, 2:5] = dog.id
        drawn = labels[3]
        assert (drawn == dog.id).sum() == 3 * len({*rows})
        project.undo()
        assert (labels[3] == cat.id).all() and project.undo_name == "masks of 'the cat', frame 3"
        project.redo()
        np.testing.assert_array_equal(labels[3], drawn)

    def test_not_inside_a_step(self, project: Project, cat: ObjectRecord) -> None:
        with pytest.raises(ProjectError, match="finish it"), project.edit("x"):
            project.undo()
        with Project.open(project.path, read_only=True) as seen:
            with pytest.raises(ProjectError, match="reading only"):
                seen.undo()

    def test_who_and_when(self, project: Project, cat: ObjectRecord) -> None:
        project.history.author = "Ada"
        project.write_model(cat.layer, cat.id, 0, FULL)
        project.labels(cat.layer)[3, 3] = 0
        for _ in range(2):  # from memory, from the disk
            rows = project.changes(cat.id, 3)
            assert [(r.kind, r.who == "Ada") for r in rows] == [("human", True), ("model", False)]
            assert [r.kind for r in project.changes(cat.id, 4)] == ["model"]
            assert rows[0].when.startswith("20")
            project.flush()
        project.undo()
        assert [r.kind for r in project.changes(cat.id, 3)] == ["model"]

    def test_who_is_drawing_just_now(self, project: Project, cat: ObjectRecord) -> None:
        labels = project.labels(cat.layer)
        with labels.stroke("brush stroke"):
            labels[3, 4] = cat.id
            project._state.settle()
            assert [row.name for row in project.changes(cat.id, 3)] == ["brush stroke"]
        assert [row.name for row in project.changes(cat.id, 3)] == [
            "brush stroke on 'the cat', frame 3"
        ]

    def test_listeners(self, project: Project, cat: ObjectRecord) -> None:
        told: list[ProjectEvent] = []
        disconnect = project.connect(told.append)
        project.labels(cat.layer)[3, 4] = cat.id
        assert ProjectEvent("pixels", cat.layer, 3, 4) in told and ProjectEvent("history") in told
        told.clear()
        project.undo()
        assert ProjectEvent("pixels", cat.layer, 3, 4) in told
        disconnect()
        told.clear()
        project.redo()
        assert told == []

    def test_what_is_locked_is_not_operated_on(self, project: Project, cat: ObjectRecord) -> None:
        project.write_masks(cat.id, 0, FULL)
        project.lock_frames(cat.id, 4, 6)
        steps = project.history.steps
        for action in (
            lambda: project.mark_absent(cat.id, 0, 10),
            lambda: project.swap_objects(cat.id, cat.id, 0),
            lambda: project.split_object(cat.id, 3, 5),
            lambda: project.move_object(cat.id),
        ):
            with pytest.raises(ProjectError, match="locked"):
                action()
        assert not project.write_masks(cat.id, 4, FULL[:1], overwrite="human").any()
        assert project.history.steps == steps


class TestObjectsThatGoElsewhere:
    """What a model draws of an object stays with it, wherever undo and redo take it."""

    @pytest.mark.parametrize("where", ["another layer", "nowhere", "into another object"])
    def test_what_a_model_draws_ends_their_redo(
        self, project: Project, cat: ObjectRecord, where: str
    ) -> None:
        dog, there = project.add_object("dog", cat.layer), project.add_layer("there").id
        project.write_masks(cat.id, 0, LEFT[:1])
        project.update_object(dog.id, name="Rex")
        project.undo()
        {
            "another layer": lambda: project.move_object(cat.id, there),
            "nowhere": lambda: project.remove_object(cat.id),
            "into another object": lambda: project.merge_objects(dog.id, cat.id),
        }[where]()
        project.accept_frames(dog.id, 0, 2)
        project.undo()
        project.undo()
        project.write_model(cat.layer, dog.id, 5, FULL[:1])
        assert project.redo_name is not None and "cat" in project.redo_name, "not of this object"
        told: list[ProjectEvent] = []
        project.connect(told.append)
        project.begin_run({"text": "the cat", "range": [0, 10]}, cat.id)
        assert project.history.redo_step, "it has drawn nothing yet"
        told.clear()
        project.write_model(cat.layer, cat.id, 2, LEFT[:1])
        assert not project.history.redo_step and project.redo() is None
        assert ProjectEvent("history") in told
        project.end_run(cat.id)
        project.flush()
        assert project.objects[cat.id].layer == cat.layer
        assert project.areas(cat.id).tolist() == [96, 0, 96] + [0] * 7
        assert project.history.notice is None
        project.close()
        with Project.open(project.path) as again:
            assert not again.history.redo_step, "nor in another session"

    def test_what_came_before_them_can_be_redone(self, project: Project, cat: ObjectRecord) -> None:
        project.write_masks(cat.id, 0, LEFT[:1])
        project.move_object(cat.id)
        project.undo()
        project.undo()
        project.write_model(cat.layer, cat.id, 2, LEFT[:1])
        assert project.redo_name == "masks of 'the cat', frame 0"
        project.redo()
        assert project.redo() is None
        assert project.areas(cat.id).tolist() == [96, 0, 96] + [0] * 7

    @pytest.mark.parametrize("over", [False, True])
    def test_a_run_is_undone_before_what_took_its_object_there(
        self, project: Project, cat: ObjectRecord, over: bool
    ) -> None:
        """The run has drawn in both layers; a part of it stands in neither of them alone."""
        project.write_masks(cat.id, 0, LEFT[:1])
        run = project.begin_run({"text": "the cat", "range": [0, 10]}, cat.id)
        project.write_model(cat.layer, cat.id, 2, LEFT[:1])
        project.mark_window_done(run.id, 0)
        project.move_object(cat.id)
        there = project.objects[cat.id].layer
        if not over:
            project.begin_run({"text": "the cat", "range": [3, 10]}, cat.id)
        project.write_model(there, cat.id, 3, LEFT[:1])
        project.mark_window_done(run.id, 1)
        if over:
            assert project.runs[run.id].done == {0}, "it ended where its object went"
        areas = [[96, 0, 96, 96], [96, 0, 96, 0], [96, 0, 96, 0], [96, 0, 0, 0]]
        for wanted, layer in zip(areas, [there, there, cat.layer, cat.layer], strict=True):
            assert project.objects[cat.id].layer == layer
            assert project.areas(cat.id).tolist() == wanted + [0] * 6
            np.testing.assert_array_equal(
                project.areas(cat.id), (np.asarray(project.labels(layer)) == cat.id).sum((1, 2))
            )
            project.undo()
        assert project.runs == {} and project.history.notice is None

    def test_an_object_that_a_run_draws_is_not_unmade_under_it(
        self, project: Project, cat: ObjectRecord
    ) -> None:
        project.labels(cat.layer)[0, 0] = 7
        project.begin_run({"text": "seven", "range": [0, 10]}, 7)
        project.write_model(cat.layer, 7, 3, LEFT[:1])
        assert project.undo().name == "model: 'seven', frames 0-9"
        assert 7 in project.objects and project.areas(7).tolist() == [16] + [0] * 9
        project.undo()
        assert 7 not in project.objects and not np.asarray(project.labels(cat.layer)).any()

    @pytest.mark.parametrize("back", [True, False])
    def test_a_layer_in_which_something_lives_stays(
        self, project: Project, cat: ObjectRecord, back: bool
    ) -> None:
        """Objects are made without a step: undo and redo may find them in a layer of theirs."""
        project.labels(cat.layer)[1] = cat.id
        if back:
            layer = project.move_object(cat.id).layer
        else:
            layer = cat.layer
            project.remove_object(cat.id)
            project.undo()
        new = project.add_object("new", layer)
        project.undo() if back else project.redo()
        project.write_model(layer, new.id, 4, LEFT[:1])
        project.close()
        with Project.open(project.path) as again:
            assert again.history.notice is None
            assert again.areas(new.id)[4] == 96
            assert (cat.id in again.objects) == back

    def test_nobody_draws_an_object_that_is_on_its_way(
        self, project: Project, cat: ObjectRecord
    ) -> None:
        """A model waits until undo has taken it there."""
        project.write_masks(cat.id, 0, LEFT)
        there = project.move_object(cat.id).layer
        write = lambda: project.write_model(cat.layer, cat.id, 0, FULL[:9], overwrite="human")  # noqa: E731
        thread = threading.Thread(target=write, daemon=True)

        def drawn_on(progress: Any) -> None:
            if progress.done == 2:
                thread.start()
                thread.join(0.1)
                assert thread.is_alive()
                with pytest.raises(ProjectError, match="undone"):
                    project.labels(there)[1, 5] = cat.id

        project.history.undo(None, drawn_on)
        thread.join(20)
        assert there not in project.layers and not project.history.redo_step
        assert project.areas(cat.id).tolist() == [192] * 9 + [96]


class TestPersonAndModel:
    def test_a_stroke_is_undone_while_a_run_goes_on(
        self, project: Project, cat: ObjectRecord
    ) -> None:
        """The run's pixels stay; the stroke's go, wherever the run has got to."""
        dog = project.add_object("dog", cat.layer)
        labels = project.labels(cat.layer)
        project.begin_run({"text": "the cat", "range": [0, 10]}, cat.id)
        project.write_model(cat.layer, cat.id, 0, LEFT[:5])
        labels[2, 3] = dog.id  # before and after the run wrote the frame
        labels[7, 3] = dog.id
        project.write_model(cat.layer, cat.id, 5, LEFT[:5])
        project.undo()
        project.undo()
        np.testing.assert_array_equal(labels[2] == cat.id, LEFT[2])
        assert (labels[7] == cat.id).sum() == 11 * 8, "what the run drew around the stroke"
        assert not (np.asarray(labels) == dog.id).any()
        project.end_run(cat.id)
        project.undo()
        assert not np.asarray(labels).any()

    def test_strokes_are_undone_before_the_run_that_they_correct(
        self, project: Project, cat: ObjectRecord
    ) -> None:
        """A step has its place where it began, however long the run goes on."""
        dog = project.add_object("dog", cat.layer)
        labels, empty = project.labels(cat.layer), state(project)
        for again in (False, True):
            project.begin_run({"text": "the cat", "range": [0, 10]}, cat.id)
            project.write_model(cat.layer, cat.id, 0, LEFT)
            labels[3, 4] = dog.id  # over the run, and beside it
            labels[4, :, 2] = 0
            project.write_model(cat.layer, cat.id, 3, FULL[:1])
            project.end_run(cat.id)
            corrected = labels[3], labels[4]
            if again:
                project.close()
                project = Project.open(project.path)
                labels = project.labels(cat.layer)
            names = [step.name for step in project.history.steps]
            assert [name.partition(",")[0] for name in names] == [
                "model: 'the cat'",
                "edit on 'the cat' and 'dog'",
                "edit on 'the cat'",
            ]
            project.undo()
            np.testing.assert_array_equal(labels[4] == cat.id, LEFT[4])
            np.testing.assert_array_equal(labels[3], corrected[0])
            project.undo()
            np.testing.assert_array_equal(labels[3] == cat.id, LEFT[3])
            assert project.provenance(cat.id).tolist() == [1] * 10
            project.undo()
            assert same(state(project), empty)
            for _ in range(3):
                project.redo()
            np.testing.assert_array_equal(labels[3], corrected[0])
            np.testing.assert_array_equal(labels[4], corrected[1])
            for _ in range(3):
                project.undo()
            assert same(state(project), empty)
        project.close()

    @pytest.mark.parametrize("ended", [False, True])
    def test_a_run_is_removed_and_what_a_person_touched_stays(
        self, project: Project, cat: ObjectRecord, ended: bool
    ) -> None:
        labels = project.labels(cat.layer)
        project.write_masks(cat.id, 9, FULL[:1])
        run = project.begin_run({"text": "the cat", "range": [0, 9]}, cat.id)
        project.write_model(cat.layer, cat.id, 0, LEFT)
        labels[4, 0] = 0
        project.accept_frames(cat.id, 6, 7)
        project.lock_frames(cat.id, 7, 8)
        if ended:
            project.end_run(cat.id)
        before = state(project)
        project.remove_run(run.id)
        assert project.undo_name == "remove the run of 'the cat', frames 0-8"
        assert project.present(cat.id).tolist() == [t in (4, 6, 7, 9) for t in range(10)]
        assert project.provenance(cat.id).tolist() == [0] * 4 + [2, 0, 2, 3, 0, 2]
        np.testing.assert_array_equal(labels[4], before["pixels 1"][4])
        assert project.runs == {}, "it can be run again"
        after = state(project)
        project.undo()
        assert same(state(project), before)
        project.redo()
        assert same(state(project), after)
        with pytest.raises(ProjectError, match="no run"):
            project.remove_run(run.id)

    @pytest.mark.parametrize("what", ["pixels", "provenance"])
    def test_a_step_below_what_a_run_drew_since(
        self, project: Project, cat: ObjectRecord, what: str
    ) -> None:
        """The run's stays; undone later, it leaves what was before both of them."""
        empty = state(project)
        project.begin_run({"text": "the cat", "range": [0, 10]}, cat.id)
        if what == "pixels":
            project.labels(cat.layer)[3, 4:6] = cat.id
        else:
            project.accept_frames(cat.id, 2, 5)
        project.write_model(cat.layer, cat.id, 3, LEFT[:1], overwrite="human")
        drawn = project.labels(cat.layer)[3]
        for _ in range(2):
            project.undo()
            np.testing.assert_array_equal(project.labels(cat.layer)[3], drawn)
            assert project.provenance(cat.id).tolist() == [0] * 3 + [1] + [0] * 6
            project.flush()
            project.redo()
        project.undo()
        project.end_run(cat.id)
        project.undo()
        assert same({**state(project), "runs": 0}, {**empty, "runs": 0})
        project.redo(), project.redo()
        assert project.provenance(cat.id)[3] == Provenance.MODEL
        np.testing.assert_array_equal(project.labels(cat.layer)[3], drawn)

    def test_a_stroke_that_ends_during_redo(self, project: Project, cat: ObjectRecord) -> None:
        """What is being redone can be undone again; what else was undone is gone."""
        labels = project.labels(cat.layer)
        project.write_masks(cat.id, 5, LEFT[:3])
        labels[9, 9] = cat.id
        project.undo(), project.undo()
        project.history.redo(None, lambda _: labels.__setitem__((1, 1), cat.id))
        assert [step.start for step in project.history.steps] == [1, 1, 1, 5]
        assert project.present(cat.id)[[1, 5, 6, 7]].all() and not project.history.redo_step
        for _ in range(4):
            assert project.undo() is not None
        assert not labels[:].any()

    def test_old_pixels_never_come_back(self, project: Project, cat: ObjectRecord) -> None:
        """A run drew the same pixels again: they are its own now, and stay."""
        labels = project.labels(cat.layer)
        labels[4, :6] = cat.id
        project.release_frames(cat.id, 0, 10)
        project.begin_run({"text": "the cat", "range": [0, 10]}, cat.id)
        project.write_model(cat.layer, cat.id, 0, FULL)
        project.undo()
        project.undo()
        assert labels[4].all() and project.provenance(cat.id)[4] == Provenance.MODEL
        project.end_run(cat.id)

    def test_painting_undoing_and_a_run_at_once(self, project: Project, cat: ObjectRecord) -> None:
        dog = project.add_object("dog", cat.layer)
        labels = project.labels(cat.layer)
        stop, failures = threading.Event(), []

        def work() -> None:
            try:
                while not stop.is_set():
                    project.write_model(cat.layer, cat.id, 0, FULL)
                    project.write_model(cat.layer, cat.id, 0, LEFT)
            except BaseException as error:
                failures.append(error)

        project.begin_run({"text": "the cat", "range": [0, 10]}, cat.id)
        worker = threading.Thread(target=work)
        worker.start()
        rng = np.random.default_rng(0)
        kept: dict[int, int] = {}
        for _ in range(150):
            t, row = int(rng.integers(10)), int(rng.integers(12))
            labels[t, row] = dog.id
            if rng.random() < 0.6:
                project.undo()
            else:
                kept[t] = kept.get(t, 0) | 1 << row
        stop.set()
        worker.join()
        assert not failures
        for t in range(10):
            rows = (labels[t] == dog.id).all(axis=1)
            wanted = [bool(kept.get(t, 0) >> row & 1) for row in range(12)]
            assert rows.tolist() == wanted
        while project.history.undo_step:
            project.undo()
        assert not (np.asarray(labels) == dog.id).any()
        project.end_run(cat.id)
        for one in (cat, dog):
            np.testing.assert_array_equal(
                project.areas(one.id), (np.asarray(labels) == one.id).sum(axis=(1, 2))
            )


class TestSessions:
    def test_undo_and_redo_survive_closing(self, project: Project, cat: ObjectRecord) -> None:
        labels = project.labels(cat.layer)
        states = [state(project)]
        for action in (
            lambda: labels.__setitem__((3, 4), cat.id),
            lambda: project.write_model(cat.layer, cat.id, 0, LEFT),
            lambda: project.split_object(cat.id, 0, 5),
            lambda: project.remove_object(cat.id),
        ):
            action()
            states.append(state(project))
        project.undo()
        project.close()
        with Project.open(project.path) as again:
            assert same(state(again), states[3])
            assert again.redo_name == "remove 'the cat'"
            again.redo()
            assert same(state(again), states[4])
            for wanted in reversed(states[:4]):
                again.undo()
                assert same(state(again), wanted)
        with Project.open(project.path) as again:
            for wanted in states[1:]:
                again.redo()
                assert same(state(again), wanted)

    def test_a_copy_has_its_own_history(
        self, project: Project, cat: ObjectRecord, tmp_path: Path
    ) -> None:
        project.labels(cat.layer)[3, 4] = cat.id
        copy = project.copy_to(tmp_path / "copy")
        with Project.open(copy) as other:
            other.undo()
            assert not other.labels(cat.layer)[3].any()
        assert project.labels(cat.layer)[3].any() and project.history.undo_step

    def test_a_copy_that_is_made_while_others_draw(
        self, project: Project, cat: ObjectRecord, tmp_path: Path
    ) -> None:
        """It is one moment of the project: pixels, areas and history belong together."""
        dog = project.add_object("dog", cat.layer)
        stop = threading.Event()

        def model() -> None:
            while not stop.is_set():
                project.write_model(cat.layer, cat.id, 0, FULL)
                project.write_model(cat.layer, cat.id, 0, LEFT)

        def person() -> None:
            dice = np.random.default_rng(0)
            while not stop.is_set():
                project.labels(cat.layer)[dice.integers(10), dice.integers(12)] = dog.id
                time.sleep(0.001)

        workers = [threading.Thread(target=one) for one in (model, person)]
        for worker in workers:
            worker.start()
        copies = []
        for i in range(5):
            time.sleep(0.05)
            copies.append(project.copy_to(tmp_path / f"copy {i}"))
        stop.set()
        for worker in workers:
            worker.join()
        for copy in copies:
            with Project.open(copy) as other:
                pixels = np.asarray(other.labels(cat.layer))
                for one in (cat.id, dog.id):
                    areas = (pixels == one).sum(axis=(1, 2))
                    np.testing.assert_array_equal(other.areas(one), areas)
                while other.undo() is not None:
                    pass
                assert not np.asarray(other.labels(cat.layer)).any()
        assert list(tmp_path.glob(".*")) == []

    def test_a_damaged_journal_costs_the_history_only(
        self, project: Project, cat: ObjectRecord
    ) -> None:
        project.labels(cat.layer)[3, 4] = cat.id
        project.close()
        journal = project.path / "history" / "journal.sqlite"
        journal.write_bytes(b"not a database" * 999)
        with Project.open(project.path) as again:
            assert again.history.notice is not None and "begins anew" in again.history.notice
            assert again.labels(cat.layer)[3, 4].all() and not again.history.undo_step
            again.labels(cat.layer)[5] = 0
            assert again.history.undo_step
        with Project.open(project.path) as again:
            assert again.history.undo_step and again.history.notice is None

    def test_what_was_undone_for_good_takes_no_room(
        self, project: Project, cat: ObjectRecord
    ) -> None:
        labels, noise = project.labels(cat.layer), np.random.default_rng(0)

        def stroke() -> None:
            labels[5] = cat.id * (noise.random((12, 16)) > 0.5)
            project.flush()

        for _ in range(3):
            stroke()
        names = [step.id for step in project.history.steps]
        size = project.history._bytes
        project.history.limit_bytes = 3 * size
        for _ in range(12):
            stroke()
            project.undo()
        stroke()
        assert [step.id for step in project.history.steps][:3] == names
        known = sum(entry.bytes for entry in project.history._known.values())
        assert project.history._bytes == known > size
        project.close()
        with Project.open(project.path) as again:
            assert again.history._bytes == known and len(again.history.steps) == 4

    def test_the_oldest_steps_go_first(self, project: Project, cat: ObjectRecord) -> None:
        labels = project.labels(cat.layer)
        noise = np.random.default_rng(0)
        project.history.limit_bytes = 20_000
        for i in range(200):
            labels[i % 10] = cat.id * (noise.random((12, 16)) > 0.5)
            if i % 20 == 0:
                project.flush()
        project.flush()
        journal = project.path / "history" / "journal.sqlite"
        assert 10 < len(project.history.steps) < 150
        assert journal.stat().st_size < 200_000
        assert len(project.changes(cat.id, 3)) == 20, "who drew is not forgotten"
        while project.history.undo_step:
            project.undo()
        project.close()
        with Project.open(project.path) as again:
            assert not again.history.undo_step


def test_thousands_of_edits(tmp_path: Path) -> None:
    """The last edit costs what the first one cost, in time and in memory."""
    with Project.create(tmp_path / "a", VideoInfo(None, "array", 500, 60, 80)) as project:
        one = project.add_object("one", project.add_layer("a").id)
        labels = project.labels(one.layer)
        rng = np.random.default_rng(0)

        def paint(count: int) -> float:
            took = []
            for _ in range(count):
                t, y, x = (int(n) for n in rng.integers(0, (500, 50, 70)))
                start = time.perf_counter()
                labels[t, y : y + 10, x : x + 10] = one.id
                took.append(time.perf_counter() - start)
            return float(np.quantile(took, 0.1))  # a busy machine must not count

        paint(200)
        first = paint(300)
        paint(2200)
        last = paint(300)
        assert last < 4 * first
        assert len(project.history.steps) == 3000
        assert 100 < sum(len(e.records or ()) for e in project.history._done) <= 256
        start = time.perf_counter()
        for _ in range(100):
            project.undo()
        assert time.perf_counter() - start < 100 * 0.1


def test_an_undo_that_is_stopped_between_two_changes_of_a_frame(
    project: Project, cat: ObjectRecord
) -> None:
    """What was turned is turned again in the opposite order: each change knows the one below."""
    dog = project.add_object("dog", cat.layer)
    with project.edit("twice on a frame"):
        project.write_masks(cat.id, 3, FULL[:1])
        project.write_masks(dog.id, 3, LEFT[:1])
        project.write_masks(cat.id, 3, LEFT[:1], overwrite="human")
    before, cancel, told = state(project), CancelToken(), []

    def stop(progress: Any) -> None:
        told.append(progress)
        if len(told) == 2:
            cancel.cancel()

    with pytest.raises(Cancelled):
        project.history.undo(cancel, stop)
    assert same(state(project), before)
