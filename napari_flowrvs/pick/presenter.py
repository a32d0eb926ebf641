"""Picking an object on the frame that is shown: marks, the mask they mean, and the verdict."""

from __future__ import annotations

import enum
from collections.abc import Generator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from flowrvs.editing.pick import (
    Mark,
    Picker,
    PickRule,
    TrackerPicker,
    keep_pick,
    open_picker,
)
from flowrvs.errors import Cancelled, InputError, VideoError
from flowrvs.masks.scissors import Scissors
from flowrvs.progress import CancelToken, Progress, ProgressCallback
from flowrvs.protocols import Point
from flowrvs.store import Project, Provenance
from napari_flowrvs.desk import Desk
from napari_flowrvs.job import Job, Runner, run_here
from napari_flowrvs.motion import Motion
from napari_flowrvs.overlays import dots, stamp
from napari_flowrvs.steps import Steps
from napari_flowrvs.trackers import CLASSICAL, Trackers

__all__ = ["PICK_RULES", "PickPresenter", "Target"]

#: What becomes of the chosen object's mask on the frame.
PICK_RULES: dict[PickRule, str] = {
    "replace": "mend or replace",
    "union": "add to it",
    "subtract": "take away from it",
}


class Target(enum.Enum):
    """Whose mask it becomes."""

    CHOSEN = "the chosen object"
    NEW = "a new object"


_Waiting = tuple[tuple[Mark, ...], tuple[Point, ...], npt.NDArray[np.bool_] | None, int]


@dataclass(frozen=True)
class _Place:
    """What a picker is of: another one of these needs another picker."""

    project: Project
    frame: int
    object_id: int | None  # of the object that is mended
    inside_box: bool
    tool: str  # the tracker
    cut: int  # which outline was closed; 0 for none


@dataclass(frozen=True)
class Picked:
    """A mask that waits to be kept."""

    name: str
    t: int
    found: npt.NDArray[np.bool_]
    marks: tuple[Mark, ...] = ()
    line: npt.NDArray[np.float64] | None = None  # of an outline that is not closed
    corners: tuple[Point, ...] = ()

    @property
    def frames(self) -> tuple[int, ...]:
        """The frame that it is of."""
        return (self.t,)

    def mask(self, t: int) -> npt.NDArray[np.bool_]:
        """Return the mask, (H, W)."""
        return self.found

    def draw(self, t: int, out: npt.NDArray[np.uint8]) -> None:
        """Draw the marks over a frame of labels: 3 is a rim, 4 this, 5 not this."""
        radius = max(1.5, out.shape[0] / 130)
        if self.line is not None:
            thin = max(1, radius / 3)
            stamp(out, dots(self.line, thin), thin, 4)
            stamp(out, self.corners, radius * 0.7, 4)
        for mark in self.marks:
            value = 4 if mark.positive else 5
            if mark.kind == "point":
                stamp(out, mark.points, radius + 1, 3)
                stamp(out, mark.points, radius, value)
            else:
                points = np.array(mark.points)
                if mark.kind == "box":
                    points = points[[[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]], [0, 1]]
                stamp(out, dots(points, 2 * radius), radius / 2, value)


@dataclass(frozen=True)
class _Answer:
    place: _Place
    picker: Picker | TrackerPicker
    marks: tuple[Mark, ...]
    mask: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Outline:
    frame: int
    scissors: Scissors
    corners: tuple[Point, ...]
    line: npt.NDArray[np.float64]
    mask: npt.NDArray[np.bool_] | None  # once it is closed


class PickPresenter:
    """Takes marks one by one and shows what they mean, away from the interface's thread.

    While an answer is computed further marks are taken; the next answer is to all of them.

    Parameters
    ----------
    desk : Desk
        What the panels share.
    motion : Motion
        The video.
    runner : Runner
        Where answers are computed.
    steps : Steps
        Where what is kept is written.
    trackers : Trackers, optional
        What picks.
    """

    #: The tool was taken up or put away.
    active_changed = Signal(bool)
    #: There are other marks.
    marks_changed = Signal()
    #: Something waits to be kept, or no more: Picked | None.
    preview_changed = Signal(object)
    #: A line for the user.
    noted = Signal(str)

    def __init__(
        self,
        desk: Desk,
        motion: Motion,
        runner: Runner = run_here,
        steps: Steps | None = None,
        trackers: Trackers | None = None,
    ) -> None:
        self.desk = desk
        self.job = Job(runner)
        self.trackers = Trackers(runner) if trackers is None else trackers
        self.steps = Steps() if steps is None else steps
        self.target = Target.CHOSEN
        self.rule: PickRule = "replace"
        self.inside_box = False
        self._motion = motion
        self._active = False
        self._marks: tuple[Mark, ...] = ()
        self._corners: tuple[Point, ...] = ()
        self._closing = False
        self._outline: _Outline | None = None  # the last answer
        self._cut: npt.NDArray[np.bool_] | None = None  # what a closed outline surrounds
        self._cuts = 0
        self._frame = 0
        self._of = desk.project
        # Marks, corners, what was cut, and their frame, of projects that are not looked at now.
        self._left: WeakKeyDictionary[Project, _Waiting] = WeakKeyDictionary()
        self._answer: _Answer | None = None
        self._preview: Picked | None = None
        self._blamed = CLASSICAL  # the tracker that would be to blame if the job failed now
        self.job.completed.connect(self._ask)
        self.job.failed.connect(self._on_failed)
        self.job.cancelled.connect(self._ask)
        desk.object_changed.connect(self._on_object)
        desk.project_changed.connect(self._on_project)
        self.trackers.changed.connect(self._ask)

    # -- state ---------------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """True while clicks on the picture are marks."""
        return self._active

    @property
    def marks(self) -> tuple[Mark, ...]:
        """The marks on the frame of the pick, in their order."""
        return self._marks

    @property
    def corners(self) -> tuple[Point, ...]:
        """The corners of the outline that is being cut, (x, y) each."""
        return self._corners

    @property
    def waiting(self) -> bool:
        """True while marks, or an outline, wait to be kept or forgotten."""
        return bool(self._marks or self._corners) or self._cut is not None

    @property
    def answered(self) -> bool:
        """True when the last answer was to the marks that there are, and to what is chosen."""
        last = self._answer
        return last is not None and last.marks == self._marks and last.place == self._wanted()

    @property
    def here(self) -> bool:
        """True while the frame of the marks is shown."""
        return self._frame == self.desk.frame

    @property
    def preview(self) -> Picked | None:
        """What waits to be kept."""
        return self._preview

    @property
    def object_id(self) -> int | None:
        """The object that is picked; None for a new one."""
        if self.target is Target.NEW or self.desk.object is None:
            return None
        return self.desk.object_id

    # -- the tool ------------------------------------------------------------------------

    def toggle(self) -> None:
        """Take the tool up, or put it away."""
        if self._active:
            self.stop()
        else:
            self.start()

    def start(self) -> None:
        """Take the tool up: from now on clicks are marks.

        Raises
        ------
        InputError
            There is nothing to pick in.
        """
        if self.desk.project is None:
            raise InputError(
                "There is no project to pick in yet: Draw by hand, on the page Find, makes one."
            )
        if not self._active:
            self._active = True
            self.active_changed.emit(True)
            self._ask()

    def prepare(self) -> None:
        """Look at the frame that is shown before there is a mark, so that the first is quick.

        Marks that were left in the project are taken up again: its video is chosen by now.
        """
        if self._of is not None and self._of in self._left and not self.waiting:
            self._marks, self._corners, self._cut, self._frame = self._left.pop(self._of)
            self._cuts += 1
            self.marks_changed.emit()
        self._ask()

    def stop(self) -> None:
        """Put the tool away; what waits to be kept goes on waiting."""
        if self._active:
            self._active = False
            self.active_changed.emit(False)

    def choose(
        self,
        target: Target | None = None,
        rule: PickRule | None = None,
        inside_box: bool | None = None,
    ) -> None:
        """Say whose mask it becomes and how; marks that are there are answered anew."""
        self.target = self.target if target is None else target
        self.rule = self.rule if rule is None else rule
        self.inside_box = self.inside_box if inside_box is None else inside_box
        self._ask()

    # -- marks ---------------------------------------------------------------------------

    def add(self, mark: Mark) -> None:
        """Take a mark on the frame that is shown.

        Raises
        ------
        InputError
            The marks of another frame wait to be kept.
        """
        self._begin_here()
        if self._corners:
            raise InputError("The outline is not closed: Enter closes it, Esc forgets it.")
        # There is one box, and it comes first.
        boxes = [m for m in (*self._marks, mark) if m.kind == "box"][-1:]
        rest = [m for m in (*self._marks, mark) if m.kind != "box"]
        self._set((*boxes, *rest))

    def corner(self, x: float, y: float) -> None:
        """Set a corner of an outline whose sides snap to edges; `keep` closes it.

        Raises
        ------
        InputError
            Marks, or an outline on another frame, wait to be kept.
        """
        self._begin_here()
        if self._marks or self._cut is not None:
            raise InputError("Marks wait: keep them (Y) or forget them (Esc) before an outline.")
        self._corners = (*self._corners, (float(x), float(y)))
        self.marks_changed.emit()
        self._ask()

    def _begin_here(self) -> None:
        self.start()
        if self.waiting and not self.here:
            raise InputError(
                f"The pick on frame {self._frame} waits: keep it (Y) or forget it (Esc) first."
            )
        self._frame = self.desk.frame

    def move(self, index: int, x: float, y: float) -> None:
        """Move a mark so that its first point lies at (x, y)."""
        mark = self._marks[index]
        dx, dy = x - mark.points[0][0], y - mark.points[0][1]
        points = tuple((a + dx, b + dy) for a, b in mark.points)
        marks = list(self._marks)
        marks[index] = Mark(mark.kind, points, mark.positive)
        self._set(tuple(marks))

    def remove(self, index: int) -> None:
        """Take a mark away."""
        marks = list(self._marks)
        del marks[index]
        self._set(tuple(marks))

    def take_back(self) -> None:
        """Take the last mark, or corner, away."""
        if self._corners:
            self._corners = self._corners[:-1]
            self.marks_changed.emit()
            self._ask() if self._corners else self._clear()
        elif self._marks:
            self.remove(len(self._marks) - 1)

    def _set(self, marks: tuple[Mark, ...]) -> None:
        self._marks = marks
        self.marks_changed.emit()
        if marks or self._cut is not None:
            self._ask()
        else:
            self._show(None)

    # -- the answer ----------------------------------------------------------------------

    def _wanted(self) -> _Place | None:
        project = self.desk.project
        if project is None or not (self._active or self.waiting):
            return None
        frame = self._frame if self.waiting else self.desk.frame
        mended = self.object_id if self.rule == "replace" else None
        cut = self._cuts if self._cut is not None else 0
        return _Place(project, frame, mended, self.inside_box, self.trackers.name, cut)

    def _ask(self) -> None:
        """Compute what is not known: a picker for the frame, then the mask of the marks."""
        place = self._wanted()
        if place is None or self.job.busy:
            return  # when the job ends it is looked at again
        if self._corners:
            self._ask_outline()
            return
        cut, marks, last = self._cut, self._marks, self._answer
        picker = last.picker if last is not None and last.place == place else None
        if picker is not None and self.answered:
            return

        film = self._motion.film

        def work(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
            try:
                mine = picker
                if mine is None:
                    video, flows = film.open()
                    yield place.tool  # which is to blame from here on
                    encodings = self.trackers.encodings(place.tool, report)
                    report(Progress(0, 0, f"Looking at frame {place.frame}"))
                    mine = open_picker(
                        place.project,
                        video,
                        place.frame,
                        place.object_id,
                        flows=flows,
                        choose=cut is None and _is_model(place),
                        inside_box=place.inside_box,
                        start=cut,
                        encodings=encodings,
                    )
                    mine.prepare()
                yield _Answer(place, mine, marks, mine.take(marks))
            except Exception as error:
                removed = place.object_id not in (None, *place.project.objects)
                if removed and not isinstance(error, Cancelled):
                    return  # what is chosen by now is asked next
                if isinstance(error, VideoError):
                    yield CLASSICAL  # the tracker is not to blame
                raise

        self._blamed = CLASSICAL if picker is None else place.tool
        self.job.start(work, self._on_answer)

    def _ask_outline(self) -> None:
        """Snap the sides of the outline, and fill it once it is to be closed."""
        corners, frame, last, closing = self._corners, self._frame, self._outline, self._closing
        if last is not None and last.corners == corners and not closing:
            return
        film = self._motion.film

        def work(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
            if last is not None and last.frame == frame:
                scissors = last.scissors
            else:
                scissors = Scissors(film.open()[0].read(frame, frame + 1)[0])
            while scissors.corners != corners[: len(scissors.corners)]:
                scissors.undo()
            for x, y in corners[len(scissors.corners) :]:
                scissors.add(x, y)
            scissors.look()  # so that the way to the mouse takes no time
            yield _Outline(
                frame, scissors, corners, scissors.line, scissors.mask if closing else None
            )

        self._blamed = CLASSICAL
        self.job.start(work, self._on_outline)

    def _on_outline(self, item: object) -> None:
        assert isinstance(item, _Outline)
        self._outline = item
        if item.corners != self._corners or self.desk.project is None:
            return
        if item.mask is None:
            self._show_outline(item, item.line)
        else:
            self._cut, self._cuts = item.mask, self._cuts + 1
            self._corners, self._closing, self._outline = (), False, None
            self.marks_changed.emit()

    def hover(self, x: float, y: float) -> None:
        """Show the way along edges from the last corner to the mouse at (x, y); nothing is set."""
        outline = self._outline
        if outline is not None and outline.corners == self._corners and not self.job.busy:
            wire = outline.scissors.way_to(x, y)
            self._show_outline(outline, np.concatenate([outline.line, wire]))

    def _show_outline(self, outline: _Outline, line: npt.NDArray[np.float64]) -> None:
        project, corners = self.desk.project, outline.corners
        if project is not None:
            blank = np.zeros((project.video.height, project.video.width), bool)
            count = f"{len(corners)} corner{'s' * (len(corners) != 1)}"
            name = f"outline on frame {outline.frame} ({count}, Enter closes it)"
            self._show(Picked(name, outline.frame, blank, (), line, corners))

    def _on_answer(self, answer: object) -> None:
        if isinstance(answer, str):
            self._blamed = answer
            return
        assert isinstance(answer, _Answer)
        self._answer = answer
        said = bool(answer.marks) or answer.place.cut > 0
        if said and answer.marks == self._marks and answer.place == self._wanted():
            by = "" if answer.place.tool == CLASSICAL else f" with {answer.place.tool}"
            name = f"pick{by} on frame {answer.place.frame}"
            self._show(Picked(name, answer.place.frame, answer.mask, answer.marks))

    def _show(self, picked: Picked | None) -> None:
        if picked is None and self._preview is None:
            return
        self._preview = picked
        self.preview_changed.emit(picked)

    def _on_failed(self, _failure: object) -> None:
        # What cannot be loaded, or has no room, is not asked at every frame again.
        blamed = self._blamed
        if blamed != CLASSICAL and blamed == self.trackers.name:
            self.noted.emit(f"{blamed} did not work: classical picks from now on.")
            self.trackers.choose(CLASSICAL)  # which is asked about the same marks

    # -- the verdict ---------------------------------------------------------------------

    def keep(self) -> None:
        """Write the mask as one step of the person; the tool stays at hand.

        An outline that is not closed is closed first, to be looked at.

        Raises
        ------
        InputError
            The last mark is not answered yet, or an outline has too few corners.
        """
        if self._corners:
            if len(self._corners) < 3:
                raise InputError("An outline needs three corners or more: click on its edge.")
            self._closing = True
            self._ask()
            return
        if self._preview is None and not self._marks:
            return
        if self._preview is None or not self.answered:
            self._ask()  # the last time may have failed
            raise InputError("The last mark is still being looked at: wait a moment.")
        self.steps.ask(self._write)

    def _write(self) -> None:
        picked, answer = self._preview, self._answer
        if picked is None or answer is None or not self.answered:
            return  # something else was chosen while earlier steps were written
        project = answer.place.project
        object_id, rule, like = self.object_id, self.rule, self.desk.object
        tool = answer.picker.name if isinstance(answer.picker, TrackerPicker) else ""

        def action(cancel: CancelToken, report: ProgressCallback) -> int:
            with project.edit(picked.name, kind="human"):
                chosen = object_id
                if chosen is None:
                    layers = project.layers
                    layer = like.layer if like is not None else min(layers, default=None)
                    name = f"object {project.next_label}"
                    layer = project.add_layer(name).id if layer is None else layer
                    chosen = project.add_object(name, layer).id
                how: PickRule = rule if object_id is not None else "replace"
                if not keep_pick(project, picked.t, picked.found, chosen, how, tool=tool):
                    raise InputError(
                        f"Frame {picked.t} of {project.objects[chosen].name!r} is locked: unlock "
                        "it on the page Objects to pick there."
                    )
            return chosen

        def then(chosen: int) -> None:
            if project is not self.desk.project:
                self._left.pop(project, None)  # the marks that are there are of another one
                return
            self._clear()
            if object_id is None:
                self.desk.catalog_changed.emit()
                self.desk.choose(chosen)
                self.target = Target.CHOSEN  # on the next frame it is the same object
                self.marks_changed.emit()
            self.desk.touched_objects([chosen], picked.t, picked.t + 1)
            self.noted.emit(f"{project.objects[chosen].name!r} picked on frame {picked.t}.")
            self._ask()

        self.steps.run("Writing the pick", action, then)

    def discard(self) -> None:
        """Forget the marks and what they mean; nothing was written."""
        self._clear()
        self._ask()

    def _clear(self) -> None:
        # What was written changes what a picker starts from.
        self._answer, self._cut, self._outline, self._closing = None, None, None, False
        if self._marks or self._corners:
            self._marks, self._corners = (), ()
            self.marks_changed.emit()
        self._show(None)

    # -- the end -------------------------------------------------------------------------

    def _on_object(self, _object_id: object) -> None:
        if self._marks or self._cut is not None:
            self._ask()

    def _on_project(self, project: Project | None) -> None:
        self.job.close(0.0)
        before, self._of = self._of, project
        if before is not None and self.waiting:
            self._left[before] = self._marks, self._corners, self._cut, self._frame
        self._clear()
        if self._active and project is None:
            self.stop()

    def close(self, timeout: float = 5.0) -> bool:
        """Stop."""
        self._active = False
        return self.job.close(timeout)


def _is_model(place: _Place) -> bool:
    """True where a model drew the object: it may have found several."""
    if place.object_id is None:
        return False
    return bool(place.project.provenance(place.object_id)[place.frame] == Provenance.MODEL)
