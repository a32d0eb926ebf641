"""`Preview`: masks that were worked out but not written yet, to look at, accept or drop."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from flowrvs.errors import InputError
from flowrvs.masks.propagate import Spread
from flowrvs.masks.shape import bounding_box
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock
from flowrvs.store import ObjectRecord, Project, Provenance

if TYPE_CHECKING:
    from flowrvs.editing.memory import KeptMemory

__all__ = ["KeyMasks", "Preview", "PreviewGroup", "Work", "check_object", "counted"]

T = TypeVar("T")
Mask = npt.NDArray[np.bool_]
Work = Callable[[CancelToken | None, ProgressCallback | None], Iterator[Spread]]
GroupWork = Callable[[CancelToken | None, ProgressCallback | None], Iterator[tuple[int, Spread]]]

_TOGETHER = 32  # frames that are unpacked at once


def check_object(project: Project, object_id: int) -> ObjectRecord:
    """Return an object of a project.

    Raises
    ------
    InputError
        The project has no such object.
    """
    if object_id not in project.objects:
        raise InputError(f"There is no object {object_id} in {project.path}.")
    return project.objects[object_id]


def counted(
    items: Iterable[T],
    total: int,
    message: str,
    cancel: CancelToken | None,
    progress: ProgressCallback | None,
) -> Iterator[T]:
    """Yield `items`; look at `cancel` before each, and report it once it is worked on."""
    clock = ProgressClock(total)
    for item in items:
        if cancel is not None:
            cancel.raise_if_cancelled()
        yield item
        if progress is not None:
            progress(clock.advance(message))


class KeyMasks(Mapping[int, Mapping[int, Mask]]):
    """Masks of several objects' key frames, read when they are asked for: there may be thousands.

    An object that is removed meanwhile is nowhere: the others are still worked out.

    Parameters
    ----------
    project : Project
    frames : mapping of int to iterable of int
        The key frames of each object.
    """

    def __init__(self, project: Project, frames: Mapping[int, Iterable[int]]) -> None:
        self._project = project
        self._frames = {object_id: frozenset(known) for object_id, known in frames.items()}
        self.objects = tuple(self._frames)
        self._all = sorted(set().union(*self._frames.values()))

    def __getitem__(self, t: int) -> dict[int, Mask]:
        masks = {
            object_id: self._mask(object_id, t)
            for object_id, known in self._frames.items()
            if t in known
        }
        if not masks:
            raise KeyError(t)
        return masks

    def _mask(self, object_id: int, t: int) -> Mask:
        if object_id in self._project.objects:
            return self._project.object_mask(object_id, t, t + 1)[0]
        video = self._project.video
        return np.zeros((video.height, video.width), bool)

    def __contains__(self, t: object) -> bool:
        return any(t in known for known in self._frames.values())

    def __iter__(self) -> Iterator[int]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


def _taken(work: Iterator[T], take: Callable[[T], object]) -> Generator[T, None, None]:
    """Hand on what is found, taken already; stop looking when nobody wants more."""
    try:
        for found in work:
            take(found)
            yield found
    finally:
        if isinstance(work, Generator):
            work.close()


class Preview:
    """Proposed masks of one object.

    `run` computes them, `accept` writes them as one step that can be undone. Nothing is
    written before; a preview that is dropped leaves no trace. Masks are kept packed to the
    object's box: a thousand frames take a few megabytes.

    Parameters
    ----------
    project : Project
        Where they will be written.
    object_id : int
        The object that they are of.
    name : str
        What the step is called in the undo history.
    work : callable
        ``work(cancel, progress)`` yields a `Spread` for every frame.
    redraw : bool
        Also change frames that a person drew, because the person asked for just that; they
        stay marked as a person's. Locked frames are never changed.
    """

    def __init__(
        self, project: Project, object_id: int, name: str, work: Work, *, redraw: bool = False
    ) -> None:
        check_object(project, object_id)
        self.project = project
        self.object_id = object_id
        self._object_name = project.objects[object_id].name
        self.name = name
        self.redraw = redraw
        #: Who is noted with the step: a model that was used; the person where it is None.
        self.who: str | None = None
        #: What a tracker remembers of a spread, kept while its masks are written.
        self.memory: KeptMemory | None = None
        self._work = work
        self._lock = threading.Lock()
        self._masks: dict[int, _Packed] = {}
        self._certainty: dict[int, float] = {}
        self._lost: list[range] = []

    def run(
        self, cancel: CancelToken | None = None, progress: ProgressCallback | None = None
    ) -> Generator[Spread, None, None]:
        """Compute the masks, yielding each as soon as it is known.

        A frame may come twice: first as seen from one key (``final`` is False), then blended
        with what the other key says. After a cancel, what was found so far can be accepted.

        Raises
        ------
        Cancelled
            `cancel` was set.
        """
        return _taken(self._work(cancel, progress), self.take)

    def take(self, found: Spread) -> None:
        """Take a mask that was worked out elsewhere."""
        with self._lock:
            self._masks[found.frame] = _Packed(found.mask)
            self._certainty[found.frame] = found.certainty

    def finish(
        self, cancel: CancelToken | None = None, progress: ProgressCallback | None = None
    ) -> Preview:
        """Compute all masks and return the preview itself."""
        deque(self.run(cancel, progress), 0)
        return self

    @property
    def frames(self) -> tuple[int, ...]:
        """Frames that have a mask so far, ascending."""
        with self._lock:
            return tuple(sorted(self._masks))

    def note_lost(self, frames: range) -> None:
        """Note that the object was lost on `frames`; a spread does."""
        with self._lock:
            self._lost.append(frames)

    @property
    def lost(self) -> tuple[range, ...]:
        """Runs of frames on which a spread has lost the object, so that they have no mask."""
        with self._lock:
            return tuple(sorted(self._lost, key=lambda run: run.start))

    @property
    def lost_text(self) -> str:
        """Where the object was lost, for people: "lost after frame 21"; "" where it was not."""
        found, total = set(self.frames), self.project.video.frame_count
        if self.object_id not in self.project.objects:
            return ""
        drawn = self.project.provenance(self.object_id) >= Provenance.HUMAN
        parts = []
        for run in self.lost:
            before, after = run.start - 1, run.stop
            ends = [0 <= t < total and (t in found or bool(drawn[t])) for t in (before, after)]
            if all(ends):
                parts.append(f"between frames {before} and {after}")
            else:
                parts.append(f"after frame {before}" if ends[0] else f"before frame {after}")
        return f"lost {', '.join(parts)}" if parts else ""

    def mask(self, t: int) -> Mask:
        """Return the proposed mask of a frame, bool, shape (H, W).

        Raises
        ------
        InputError
            There is none for this frame.
        """
        with self._lock:
            if t not in self._masks:
                raise InputError(f"The preview has no mask for frame {t}.")
            return self._masks[t].unpack()

    def certainty(self, t: int) -> float:
        """Return how sure the mask of a frame is, 0 to 1."""
        with self._lock:
            return self._certainty.get(t, 0.0)

    def accept(
        self, frames: Iterable[int] | None = None, *, checked: bool = False
    ) -> npt.NDArray[np.intp]:
        """Write the masks as one step.

        Parameters
        ----------
        frames : iterable of int, optional
            Write these only.
        checked : bool
            A person looked at every one of them: they become the person's own. By default
            they count as made by a machine, and a later spread or run may replace them.

        Returns
        -------
        ndarray of int
            The frames that were written. The others are a person's or locked.

        Raises
        ------
        InputError
            The object was removed.
        ProjectError
            The project cannot be written to.
        StorageError
            The disk is full or failing; nothing of the step remains.
        """
        if self.object_id not in self.project.objects:
            raise InputError(
                f"{self._object_name!r} was removed: undo that to keep {self.name}, or discard it."
            )
        wanted = self.frames if frames is None else tuple(sorted(set(frames) & set(self.frames)))
        if not wanted:
            return np.zeros(0, np.intp)
        before = self.project.provenance(self.object_id)
        written: list[int] = []
        with self.project.edit(self.name, kind="human", who=self.who):
            for first, stop in _runs(wanted, before):
                drawn = before[first] >= Provenance.HUMAN
                own = checked or (self.redraw and drawn)
                done = self.project.write_masks(
                    self.object_id,
                    first,
                    np.stack([self.mask(t) for t in range(first, stop)]),
                    provenance=Provenance.HUMAN if own else Provenance.MODEL,
                    overwrite="human" if self.redraw else "model",
                )
                written += [first + int(i) for i in np.flatnonzero(done)]
        if self.memory is not None:
            self.memory.save()
        return np.array(written, np.intp)


class PreviewGroup:
    """Proposed masks of several objects that are worked out together and kept as one step.

    Parameters
    ----------
    project : Project
        Where they will be written.
    object_ids : sequence of int
        The objects.
    name : str
        What the step is called in the undo history.
    work : callable
        ``work(cancel, progress)`` yields an object's id and a `Spread`, frame by frame.

    Attributes
    ----------
    previews : dict of int to Preview
        What there is so far, by object.
    """

    def __init__(
        self, project: Project, object_ids: Iterable[int], name: str, work: GroupWork
    ) -> None:
        self.project = project
        self.name = name
        self.who: str | None = None
        self.memory: KeptMemory | None = None
        self._work = work
        self.previews = {
            i: Preview(project, i, name, lambda _cancel, _progress: iter(())) for i in object_ids
        }

    def run(
        self, cancel: CancelToken | None = None, progress: ProgressCallback | None = None
    ) -> Generator[tuple[int, Spread], None, None]:
        """Compute the masks, yielding each with its object; see `Preview.run`."""
        return _taken(
            self._work(cancel, progress), lambda found: self.previews[found[0]].take(found[1])
        )

    def finish(
        self, cancel: CancelToken | None = None, progress: ProgressCallback | None = None
    ) -> PreviewGroup:
        """Compute all masks and return the group itself."""
        deque(self.run(cancel, progress), 0)
        return self

    @property
    def frames(self) -> tuple[int, ...]:
        """Frames that have a mask of any of the objects so far, ascending."""
        return tuple(sorted({t for preview in self.previews.values() for t in preview.frames}))

    @property
    def lost_text(self) -> str:
        """Where objects were lost, for people: nowhere, as "not there" is an answer here."""
        return ""

    def mask(self, t: int) -> Mask:
        """Return what the objects have of a frame together, bool, shape (H, W)."""
        video = self.project.video
        mask = np.zeros((video.height, video.width), bool)
        for preview in self.previews.values():
            if t in preview.frames:
                mask |= preview.mask(t)
        return mask

    def accept(
        self, frames: Iterable[int] | None = None, *, checked: bool = False
    ) -> dict[int, npt.NDArray[np.intp]]:
        """Write the masks as one step; return the frames that were written, by object.

        Objects that were removed since the masks were worked out are left out.
        """
        wanted = None if frames is None else set(frames)
        there = {i: preview for i, preview in self.previews.items() if i in self.project.objects}
        if not there:
            raise InputError(
                f"The objects were removed: undo that to keep {self.name}, or discard it."
            )
        with self.project.edit(self.name, kind="human", who=self.who):
            written = {i: preview.accept(wanted, checked=checked) for i, preview in there.items()}
        if self.memory is not None:
            self.memory.save()
        return written


def _runs(frames: tuple[int, ...], before: npt.NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    """Yield (first, stop) of neighbouring frames that are alike in who drew them."""
    first = last = frames[0]
    for t in frames[1:]:
        alike = (before[t] >= Provenance.HUMAN) == (before[first] >= Provenance.HUMAN)
        if t != last + 1 or not alike or t - first >= _TOGETHER:
            yield first, last + 1
            first = t
        last = t
    yield first, last + 1


class _Packed:
    """A mask as the bits of its box."""

    __slots__ = ("_bits", "_box", "_shape")

    def __init__(self, mask: Mask) -> None:
        self._shape = mask.shape
        self._box = bounding_box(mask)
        self._bits = np.packbits(mask[self._box]) if self._box else np.zeros(0, np.uint8)

    def unpack(self) -> Mask:
        mask = np.zeros(self._shape, bool)
        if self._box is not None:
            part = mask[self._box]
            part[:] = np.unpackbits(self._bits, count=part.size).reshape(part.shape)
        return mask
