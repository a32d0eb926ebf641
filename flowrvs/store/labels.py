"""`LabelsArray`: what napari's Labels layer takes for its array."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from flowrvs.errors import ProjectError, StorageError
from flowrvs.store.changes import Entry, Labels
from flowrvs.store.volume import LayerVolume

__all__ = ["LabelsArray"]

_MAX_RESULT = 256 * 2**20
_MAX_VISITED = 4 * 2**30
_MAX_SHOWN = 600
_READ_ONLY = "This project is open for reading only; reopen it for writing."


class LabelsArray:
    """A label volume on disk, indexed as a numpy array of shape (T, H, W), uint16.

    Reading gives copies. Assigning is a *person's* edit: it marks the frames as human for
    the objects that it touches, and the model never changes those again (its own way in is
    `Project.write_model`). Both take what numpy takes: integers, slices, index arrays,
    boolean masks. A request that would need too much memory is refused with one line.

    A value that is drawn and belongs to no object yet makes a new object of this layer.
    Every assignment is a step that `Project.undo` takes back, unless it is part of a larger
    one (`Project.edit`, `stroke`).
    """

    ndim = 3
    dtype = np.dtype(np.uint16)

    def __init__(
        self,
        volume: LayerVolume,
        tell: Callable[[str, int, int, int], None],
        *,
        writable: bool = True,
    ) -> None:
        self._volume = volume
        self._tell = tell
        self._writable = writable
        self._refused: Callable[[str], None] | None = None
        self._told = False
        self._failure = ""
        self.layer_id = volume.id
        self.shape: tuple[int, int, int] = volume.shape

    def __repr__(self) -> str:
        return f"<LabelsArray layer {self.layer_id} {self.shape} uint16>"

    @property
    def size(self) -> int:
        """Number of pixels."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that the whole volume would need in memory."""
        return self.size * self.dtype.itemsize

    @property
    def chunks(self) -> tuple[int, int, int]:
        """Shape of what is read and written at once: one frame."""
        return (1, *self.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("These labels lie on the disk; reading them makes a copy.")
        whole = self[...]
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> npt.NDArray[Any]:
        """Return the labels in memory: a copy of a layer is no other way into the project."""
        return np.asarray(self)

    # -- reading -------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Any:
        """Return a copy of some labels, as numpy would.

        Raises
        ------
        ProjectError
            The request needs too much memory at once, or a frame is damaged.
        StorageError
            The disk is gone.
        IndexError
            It lies outside, or numpy would not take it either.
        """
        try:
            found = self._get(key)
        except (ProjectError, StorageError) as error:
            viewed = isinstance(key, tuple) and all(map(_is_plain, key))
            if self._refused is None or not viewed:
                raise
            if str(error) != self._failure:
                self._failure = str(error)
                self._refused(self._failure)
            return np.array(np.broadcast_to(np.uint16(0), self.shape)[key])
        self._failure = ""
        return found

    def _get(self, key: Any) -> Any:
        cache = self._volume.frames.cache
        frames, rest = _split(key, self.shape)
        if frames is None:
            visited, places = self._places(key)
            return cache.read(visited)[places]
        if isinstance(frames, int):
            if self._refused is not None and slice in map(type, rest):
                self._told = False  # a view of one frame
            with cache.lock:
                part = cache.frame(frames)[rest]
                return part.copy() if isinstance(part, np.ndarray) else part
        if len(frames) == 1:  # napari's brush asks with slices, also for its one frame
            with cache.lock:
                return np.array(cache.frame(frames[0])[rest])[None]
        like = self._like(rest)
        asks = isinstance(key, tuple) and isinstance(frames, range)
        if asks and not self._shows(len(frames), len(frames) * math.prod(like)):
            return np.zeros((1,) * (1 + len(like)), np.uint16)
        self._guard(len(frames), len(frames) * math.prod(like))
        if like == self.shape[1:]:
            return cache.read(frames)[(slice(None), *rest)]
        out = np.empty((len(frames), *like), np.uint16)
        for i, block in self._blocks(frames):
            out[i : i + len(block)] = block[(slice(None), *rest)]
        return out

    def _like(self, rest: tuple[Any, ...]) -> tuple[int, ...]:
        """Return the shape of what an index takes of a frame."""
        return np.shape(np.broadcast_to(np.uint16(0), self.shape[1:])[rest])

    def _places(self, key: Any) -> tuple[list[int], tuple[Any, Any, Any]]:
        """Return the frames that any index needs, and what it takes of a block of just those."""
        # Places take twelve times the memory of labels: what is too much is refused before.
        first, *rest = key if isinstance(key, tuple) and key else (key,)
        if first is Ellipsis and len(rest) < 3 and all(np.ndim(item) < 2 for item in rest):
            first = slice(None)
        if isinstance(first, slice):
            count = len(range(self.shape[0])[first])
            self._guard(count, count * math.prod(self.shape[1:]))
        axes = np.ogrid[tuple(map(slice, self.shape))]
        frames, rows, columns = (np.broadcast_to(axis, self.shape)[key] for axis in axes)
        seen = np.zeros(self.shape[0], np.bool_)
        seen[frames] = True
        visited = np.flatnonzero(seen).tolist()
        pixels = len(visited) * math.prod(self.shape[1:])
        self._guard(len(visited), max(pixels, np.size(frames)))
        return visited, ((np.cumsum(seen) - 1)[frames], rows, columns)

    def _blocks(self, frames: Sequence[int]) -> Iterator[tuple[int, Labels]]:
        step = max(1, 32 * 2**20 // self._volume.frames.cache.frame_bytes)
        for first in range(0, len(frames), step):
            yield first, self._volume.frames.cache.read(frames[first : first + step])

    def _guard(self, visited: int, pixels: int) -> None:
        if (
            pixels * self.dtype.itemsize > _MAX_RESULT
            or visited * self._volume.frames.cache.frame_bytes > _MAX_VISITED
        ):
            limit = max(1, _MAX_RESULT // self._volume.frames.cache.frame_bytes)
            raise ProjectError(
                f"{visited} frames of labels at once are too many to hold in memory; step "
                f"through them in 2D, or read at most {limit} whole frames at a time."
            )

    # -- shown in a viewer ---------------------------------------------------------------

    def shown(self, refused: Callable[[str], None]) -> LabelsArray:
        """Return the same labels for a viewer, which asks for more than it can show.

        Requests by slices that would take long (a video in three dimensions, or seen from
        the side) give one background pixel, those that cannot be read only background, and
        `refused` gets one line to show: a viewer asks again at every event, and an exception
        each time would bury the user.
        """
        twin = copy.copy(self)
        twin._refused = refused
        return twin

    def on_refused(self, refused: Callable[[str], None]) -> None:
        """Say who gets the line of a request that is not answered; see `shown`."""
        self._refused = refused

    def _shows(self, visited: int, pixels: int) -> bool:
        """Tell whether a viewer, which asks by slices, may have what it asks for."""
        if self._refused is None:
            return True
        known = visited <= _MAX_SHOWN and pixels * self.dtype.itemsize <= _MAX_RESULT
        if known:
            self._told = False
        elif not self._told:
            self._told = True
            self._refused(
                f"{self.shape[0]} frames are too many to be shown in 3D or from the side; go "
                "back to 2D frames."
            )
        return known

    # -- strokes -------------------------------------------------------------------------

    def begin_stroke(self, name: str = "edit") -> None:
        """Let what is assigned from now on be one step of the history, until `end_stroke`.

        The step begins with the first change; a stroke that changes nothing leaves none. A
        stroke that is still being drawn ends. What another thread's `Project.edit` assigns
        meanwhile stays in that step.

        Parameters
        ----------
        name : str
            What the step's name begins with: ``"brush stroke"`` gives
            ``"brush stroke on 'the red circle', frame 12"``.
        """
        self._volume.begin_stroke(name)

    def end_stroke(self) -> None:
        """End the step of a stroke; nothing happens where there is none."""
        self._volume.end_stroke()

    def cancel_stroke(self) -> None:
        """Take back what has been drawn since `begin_stroke`; no step is left of it.

        Pixels, provenance, objects that it made and what can be redone are as before.
        """
        self._volume.cancel_stroke()

    @contextmanager
    def stroke(self, name: str = "edit") -> Iterator[None]:
        """Make what is assigned inside one step of the history; see `begin_stroke`.

        Examples
        --------
        >>> with labels.stroke("brush stroke"):                         # doctest: +SKIP
        ...     labels.paint(3, rows, columns, mask, 1)
        ...     labels.paint(3, rows, columns, mask, 1)
        """
        self.begin_stroke(name)
        try:
            yield
        finally:
            self.end_stroke()

    def locked(self, t: int) -> list[int]:
        """Return the ids of the objects that are locked on frame `t`; a matter of microseconds."""
        return self._volume.frames.locked(t)

    # -- a person's edits ----------------------------------------------------------------

    def __setitem__(self, key: Any, value: Any) -> None:
        """Assign labels as a person does, and mark their frames as human.

        Raises
        ------
        ProjectError
            A value is no label or another layer's object, the project is open for reading
            only, or the request needs too much memory at once.
        """
        if not self._writable:
            raise ProjectError(_READ_ONLY)
        frames, rest = _split(key, self.shape)
        value = _as_labels(value)
        with self._volume.step() as entry:
            if frames is None:
                self._assign(key, value, entry)
            else:
                like = self._like(rest)
                if isinstance(frames, int):
                    frames, like, value = [frames], (1, *like), value[None]
                else:
                    like = (len(frames), *like)
                for t, part in zip(frames, _fitted(value, like), strict=True):
                    self._edit(t, rest, part, entry)
                    self._volume.frames.make_room()
        self._volume.frames.make_room()

    def _edit(self, t: int, index: Any, value: Labels, entry: Entry) -> None:
        self._volume.edit(t, index, value, entry)
        self._tell("pixels", self.layer_id, t, t + 1)

    def _assign(self, key: Any, value: Labels, entry: Entry) -> None:
        """Assign by an index of any kind, which may name a pixel twice."""
        visited, places = self._places(key)
        meant = np.zeros((len(visited), *self.shape[1:]), np.bool_)
        meant[places] = True
        if len(visited) == 1 and np.count_nonzero(meant) == np.size(places[0]):
            rest = places[1:]  # no pixel is named twice
            return self._edit(visited[0], rest, _fitted(value, np.shape(rest[0])), entry)
        with self._volume.lock:
            block = self._volume.frames.cache.read(visited)
            before = block.copy()
            block[places] = value
            for t, old, new, here in zip(visited, before, block, meant, strict=True):
                changed = old != new
                where = np.nonzero(changed if changed.any() else here)
                self._edit(t, where, new[where], entry)

    def paint(
        self,
        t: int,
        rows: slice,
        columns: slice,
        mask: npt.NDArray[np.bool_],
        label: int,
        only: int | None = None,
    ) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.bool_]] | None:
        """Give pixels a label as a brush does: one assignment that looks at them once.

        Parameters
        ----------
        t : int
            The frame.
        rows, columns : slice
            The box of the brush in it, with both bounds inside the frame.
        mask : ndarray of bool, shape of the box
            The brush.
        label : int
            0 to 65535.
        only : int, optional
            Change pixels of this label only.

        Returns
        -------
        tuple or None
            The box before, and the pixels of it that changed; None if none did.

        Raises
        ------
        ProjectError
            The label is another layer's object, or the project is open for reading only.
        """
        if not self._writable:
            raise ProjectError(_READ_ONLY)
        with self._volume.step() as entry:
            drawn = self._volume.stamp(t, rows, columns, mask, label, only, entry)
            if drawn is not None:
                self._tell("pixels", self.layer_id, t, t + 1)
        self._volume.frames.make_room()
        return drawn


def _fitted(value: Labels, shape: tuple[int, ...]) -> Labels:
    """Return a value in a shape, by the rules of numpy's assignment."""
    while value.ndim > len(shape) and value.shape[0] == 1:
        value = value[0]
    return np.broadcast_to(value, shape)


def _as_labels(value: Any) -> Labels:
    labels = np.asarray(value)
    if labels.dtype == np.uint16:
        return labels
    if labels.dtype.kind not in "biuf" or (
        labels.size and not (labels.min() >= 0 and labels.max() <= 65535)
    ):
        raise ProjectError("A label is a whole number from 0 to 65535; choose one of those.")
    return labels.astype(np.uint16)


# -- what numpy takes as an index ---------------------------------------------------------


def _split(
    key: Any, shape: tuple[int, int, int]
) -> tuple[int | Sequence[int] | None, tuple[Any, ...]]:
    """Split an index into its frames, and what it takes from each of them.

    The frames are None where arrays take more than whole frames: numpy itself must say what
    such an index means.
    """
    items = list(key) if isinstance(key, tuple) else [key]
    if any(item is None for item in items):
        raise IndexError("Labels take no new axes; add them to the result.")
    gaps = [place for place, item in enumerate(items) if item is Ellipsis] or [len(items)]
    named = len([item for item in items if item is not Ellipsis])
    if len(gaps) > 1 or named > 3:
        return None, ()
    items[gaps[0] : gaps[0] + 1] = [slice(None)] * (3 - named)
    first, *rest = items
    if not all(map(_is_plain, rest)):
        return None, ()
    if _is_plain(first):
        return range(shape[0])[first], tuple(rest)
    if np.ndim(first) == 1:
        return np.arange(shape[0])[first].tolist(), tuple(rest)
    return None, ()


def _is_plain(item: Any) -> bool:
    return isinstance(item, slice | int | np.integer) and not isinstance(item, bool)
