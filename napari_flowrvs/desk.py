"""What the annotator is looking at: project, object, frame and range, as a view-model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from flowrvs.errors import InputError, ProjectError
from flowrvs.store import ObjectRecord, Project

__all__ = ["Changed", "Desk"]


@dataclass(frozen=True, slots=True)
class Changed:
    """Masks or provenance changed on frames ``start <= t < stop``.

    Attributes
    ----------
    layer_id : int or None
        The layer; None for any.
    start, stop : int
        The frames.
    """

    layer_id: int | None
    start: int
    stop: int


class Desk:
    """The one place that the panels share; they read it and listen to it.

    Every method is called on the interface's thread.
    """

    #: Another project, or none: Project | None.
    project_changed = Signal(object)
    #: Another object, or none: int | None.
    object_changed = Signal(object)
    frame_changed = Signal(int)
    #: The range that tools work on: (start, stop) or None for the whole video.
    span_changed = Signal(object)
    #: Somebody asks for a frame to be shown.
    frame_requested = Signal(int)
    #: Somebody asks for an object to be shown and painted with.
    object_requested = Signal(int)
    #: Masks or provenance changed.
    contents_changed = Signal(Changed)
    #: A run wrote masks; what shows them has been drawn again already.
    masks_written = Signal(Changed)
    #: Other steps can be undone or redone.
    history_changed = Signal()
    #: Objects, layers or expressions were added, changed or removed.
    catalog_changed = Signal()

    def __init__(self) -> None:
        self._project: Project | None = None
        self._object: int | None = None
        self._frame = 0
        self._span: tuple[int, int] | None = None
        self._video: tuple[int, float | None] = (0, None)
        self.catalog_changed.connect(self._on_catalog)

    # -- state ---------------------------------------------------------------------------

    @property
    def project(self) -> Project | None:
        """The project whose masks are edited."""
        return self._project

    @property
    def frame_count(self) -> int:
        """Number of frames of the video; 0 without one."""
        return self._video[0] if self._project is None else self._project.video.frame_count

    @property
    def rate(self) -> float | None:
        """Native frames a second; None where nothing is known of it."""
        known = None if self._project is None else self._project.video.rate
        return known or self._video[1]

    @property
    def object_id(self) -> int | None:
        """The object that tools work on."""
        return self._object

    @property
    def object(self) -> ObjectRecord | None:
        """Its record."""
        if self._project is None or self._object is None:
            return None
        return self._project.objects.get(self._object)

    def need_project(self) -> Project:
        """Return the project.

        Raises
        ------
        InputError
            There is none.
        """
        if self._project is None:
            raise InputError(
                "There is no project yet: Run or Draw by hand on the page Find, or open one."
            )
        return self._project

    def need_object(self) -> ObjectRecord:
        """Return the record of the object that tools work on.

        Raises
        ------
        InputError
            There is no project, or no object was chosen.
        """
        self.need_project()
        thing = self.object
        if thing is None:
            raise InputError("There is no object to work on: choose one on the page Objects.")
        return thing

    @property
    def frame(self) -> int:
        """The frame that is shown."""
        return self._frame

    @property
    def span(self) -> tuple[int, int]:
        """The range that tools work on: first frame and one past the last."""
        return (0, self.frame_count) if self._span is None else self._span

    @property
    def span_chosen(self) -> bool:
        """True when a range was chosen."""
        return self._span is not None

    def provenance(self, object_id: int | None = None) -> npt.NDArray[np.uint8]:
        """Return the provenance of an object, the desk's by default, (T,); empty without one."""
        object_id = self._object if object_id is None else object_id
        try:
            if self._project is not None and object_id in self._project.objects:
                return self._project.provenance(object_id)
        except ProjectError:  # it was removed, or the project closed, just now
            pass
        return np.empty(0, np.uint8)

    # -- what the viewer says ------------------------------------------------------------

    def set_video(self, frame_count: int, rate: float | None = None) -> None:
        """Take the video that is looked at, which may have no project yet."""
        self._video = (frame_count, rate)

    def set_project(self, project: Project | None) -> None:
        """Take another project; its first object is chosen."""
        if project is self._project:
            return
        before, self._object = self._object, None
        self._project = project
        self._span = None
        self.project_changed.emit(project)
        self.span_changed.emit(None)
        self.set_object(min(project.objects, default=None) if project is not None else None)
        if before is not None and self._object is None:
            self.object_changed.emit(None)  # nobody may go on showing the other project's

    def set_object(self, object_id: int | None) -> None:
        """Take another object of the project; an id without one means none."""
        if self._project is None or object_id not in self._project.objects:
            object_id = None
        if object_id != self._object:
            self._object = object_id
            self.object_changed.emit(object_id)

    def _on_catalog(self) -> None:
        """Work on another object where the one that was chosen has gone."""
        if self._project is not None and self._object is not None and self.object is None:
            self.set_object(min(self._project.objects, default=None))

    def set_frame(self, frame: int) -> None:
        """Note which frame is shown."""
        if frame != self._frame:
            self._frame = frame
            self.frame_changed.emit(frame)

    def here(self, action: Callable[[], Any]) -> Callable[[], Any]:
        """Return `action`, which does nothing where another project is looked at by then."""
        project = self._project
        return lambda: action() if project is self._project else None

    def touched(self, layer_id: int | None, start: int, stop: int) -> None:
        """Say that masks or provenance changed."""
        self.contents_changed.emit(Changed(layer_id, start, stop))

    def wrote(self, layer_id: int, start: int, stop: int) -> None:
        """Say that a run wrote masks."""
        self.masks_written.emit(Changed(layer_id, start, stop))

    def touched_objects(self, object_ids: Iterable[int], start: int, stop: int) -> None:
        """Say that masks or provenance of some objects changed."""
        known = {} if self._project is None else self._project.objects
        layers = {known[i].layer if i in known else None for i in object_ids}
        for layer_id in {None} if None in layers else layers:
            self.touched(layer_id, start, stop)

    # -- what a panel asks for -----------------------------------------------------------

    def go_to(self, frame: int) -> None:
        """Ask for a frame, the nearest one that there is."""
        if self.frame_count:
            self.frame_requested.emit(min(max(int(frame), 0), self.frame_count - 1))

    def step(self, frames: int) -> None:
        """Go some frames on, or back."""
        self.go_to(self._frame + frames)

    def go_to_end(self, *, last: bool) -> None:
        """Go to the first or last frame on which the object is; of the video without one."""
        shown, thing = np.empty(0, np.intp), self.object
        if thing is not None:
            shown = np.flatnonzero(self.need_project().present(thing.id))
        if len(shown):
            self.go_to(int(shown[-1 if last else 0]))
        else:
            self.go_to(self.frame_count - 1 if last else 0)

    def choose(self, object_id: int) -> None:
        """Ask for an object."""
        if self._project is not None and object_id in self._project.objects:
            self.object_requested.emit(object_id)
            self.set_object(object_id)

    def choose_next(self, step: int = 1) -> None:
        """Ask for the object after, or before, the one that is chosen; round and round."""
        known = [] if self._project is None else sorted(self._project.objects)
        if known:
            start = -1 if step > 0 else 0
            here = known.index(self._object) if self._object in known else start
            self.choose(known[(here + step) % len(known)])

    def set_span(self, start: int | None, stop: int | None) -> None:
        """Choose the range that tools work on; None twice means the whole video.

        One None keeps that end; an end that would leave nothing moves the other one along.
        """
        count = self.frame_count
        if start is None and stop is None:
            span = None
        else:
            first, last = self.span
            if start is not None:
                first = min(max(start, 0), max(count - 1, 0))
                last = max(last, first + 1)
            if stop is not None:
                last = min(max(stop, 1), count)
                first = min(first, last - 1)
            span = (first, last)
        if span != self._span:
            self._span = span
            self.span_changed.emit(span)
