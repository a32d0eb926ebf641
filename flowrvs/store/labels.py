"""`LabelsArray`: what napari's Labels layer takes for its array."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from flowrvs.errors import ProjectError
from flowrvs.store.changes import Entry, Labels
from flowrvs.store.volume import LayerVolume

__all__ = ["LabelsArray"]

_PLAIN = (slice, int)
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
            The request needs too much memory at once.
        IndexError
            It lies outside, or numpy would not take it either.
        """
        cache = self._volume.frames.cache
        frames, rest = _split(key, self.shape)
        if isinstance(frames, int) and not _is_detached(rest):
            if self._refused is not None and not _has_arrays(rest) and slice in map(type, rest):
                self._told = False  # a view of one frame
            with cache.lock:
                part = cache.frame(frames)[rest]
                return part.copy() if isinstance(part, np.ndarray) else part
        if isinstance(frames, list) and not _has_arrays(rest):
            if len(frames) == 1:  # napari's brush asks with slices, also for its one frame
                with cache.lock:
                    part = np.array(cache.frame(frames[0])[rest])[None]
                return part
            like = np.broadcast_to(np.uint16(0), self.shape[1:])[rest]
            if not self._shows(key, len(frames), like.size * len(frames)):
                return np.zeros((1,) * (1 + like.ndim), np.uint16)
            self._guard(len(frames), like.size * len(frames))
            if like.shape == self.shape[1:]:
                return cache.read(frames)[(slice(None), *rest)]
            out = np.empty((len(frames), *like.shape), np.uint16)
            for i, block in self._blocks(frames):
                out[i : i + len(block)] = block[(slice(None), *rest)]
            return out
        visited, key = _compact(frames, rest)
        self._guard(len(visited), len(visited) * math.prod(self.shape[1:]))
        return cache.read(visited)[key]

    def _blocks(self, frames: list[int]) -> Any:
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
        the side) give one background pixel, and `refused` gets one line to show: a viewer
        asks again at every event, and an exception each time would bury the user.
        """
        twin = copy.copy(self)
        twin._refused = refused
        return twin

    def on_refused(self, refused: Callable[[str], None]) -> None:
        """Say who gets the line of a request that is not answered; see `shown`."""
        self._refused = refused

    def _shows(self, key: Any, visited: int, pixels: int) -> bool:
        """Tell whether a viewer may have what it asks for."""
        if (
            self._refused is None
            or not isinstance(key, tuple)
            or not all(isinstance(item, slice | int | np.integer) for item in key)
        ):
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
        value = np.asarray(value)
        with self._volume.step() as entry:
            self._assign(frames, rest, value, entry)
        self._volume.frames.make_room()

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

    def _assign(self, frames: Any, rest: tuple[Any, ...], value: Any, entry: Entry) -> None:
        value = _as_labels(value)

        def edit(t: int, index: Any, part: Labels) -> None:
            if part.ndim and part.shape[0] == 1:
                part = _drop_axes(part, np.ndim(np.broadcast_to(0, self.shape[1:])[index]))
            self._volume.edit(t, index, part, entry)
            self._tell("pixels", self.layer_id, t, t + 1)

        if isinstance(frames, int) and not _is_detached(rest):
            edit(frames, rest, value)
            return
        if isinstance(frames, list) and not _has_arrays(rest):
            if len(frames) == 1:
                edit(frames[0], rest, value)
                return
            shape = np.broadcast_to(np.uint16(0), self.shape[1:])[rest].shape
            values = np.broadcast_to(_drop_axes(value, 1 + len(shape)), (len(frames), *shape))
            for t, part in zip(frames, values, strict=True):
                edit(t, rest, part)
                self._volume.frames.make_room()
            return
        visited, key = _compact(frames, rest)
        self._guard(len(visited), len(visited) * math.prod(self.shape[1:]))
        if len(visited) == 1 and isinstance(frames, np.ndarray) and len(rest) == 2:
            rows, columns = rest
            if isinstance(rows, np.ndarray) and isinstance(columns, np.ndarray):
                try:
                    _, rows, columns = np.broadcast_arrays(frames, rows, columns)
                except ValueError as error:
                    raise IndexError(f"Index arrays that do not fit each other: {error}") from None
                seen = np.zeros(self.shape[1:], np.bool_)
                seen[rows, columns] = True
                if np.count_nonzero(seen) == rows.size:  # no pixel is named twice
                    edit(visited[0], (rows, columns), value)
                    return
        with self._volume.frames.cache.lock:
            block = self._volume.frames.cache.read(visited)
            before = block.copy()
            block[key] = value
            meant = np.zeros(block.shape, np.bool_)
            meant[key] = True
            for t, old, new, here in zip(visited, before, block, meant, strict=True):
                changed = old != new
                where = np.nonzero(changed if changed.any() else here)
                edit(t, where, new[where])


def _drop_axes(value: npt.NDArray[Any], ndim: int) -> npt.NDArray[Any]:
    """Drop leading axes of length 1 beyond `ndim`, as numpy's assignment does."""
    while value.ndim > ndim and value.shape[0] == 1:
        value = value[0]
    return value


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
) -> tuple[int | list[int] | npt.NDArray[np.intp], tuple[Any, ...]]:
    """Split an index into its frames and what it takes from each of them.

    The frames are an int, a list (a slice or a 1-D array of them) or an index array that
    belongs to the arrays of the rest.
    """
    if not isinstance(key, tuple):
        key = (key,)
    if len(key) == 3:  # what a brush asks for, sixty times a stroke
        first, *others = key
        if type(first) is slice and type(others[0]) in _PLAIN and type(others[1]) in _PLAIN:
            return list(range(*first.indices(shape[0]))), (others[0], others[1])
        if _is_number(first) and 0 <= first < shape[0]:
            if all(isinstance(item, slice) or _is_number(item) for item in others):
                return int(first), (others[0], others[1])
    items: list[Any] = []
    for item in _fill_ellipsis(key):
        if isinstance(item, slice):
            items.append(item)
        elif item.dtype == np.bool_:
            axes = shape[len(items) : len(items) + item.ndim]
            if item.shape != axes:
                raise IndexError(f"A mask of shape {item.shape} does not fit axes of {axes}.")
            items.extend(item.nonzero())
        else:
            items.append(int(item) if item.ndim == 0 else item.astype(np.intp))
    first, rest = items[0], (items[1], items[2])
    if isinstance(first, slice):
        return list(range(*first.indices(shape[0]))), rest
    indices = np.asarray(first)
    if ((indices < -shape[0]) | (indices >= shape[0])).any():
        raise IndexError(f"Frame {first} lies outside the {shape[0]} frames.")
    indices = np.where(indices < 0, indices + shape[0], indices)
    if isinstance(first, int):
        return int(indices), rest
    if indices.ndim == 1 and not _has_arrays(rest):
        return [int(t) for t in indices], rest
    return indices, rest


def _is_number(item: Any) -> bool:
    return isinstance(item, int | np.integer) and type(item) is not bool


def _fill_ellipsis(key: tuple[Any, ...]) -> list[Any]:
    """Return slices and index arrays that name all three axes."""
    items: list[Any] = []
    axes, place = 0, None
    for item in key:
        if item is None:
            raise IndexError("Labels take no new axes; add them to the result.")
        if item is Ellipsis:
            if place is not None:
                raise IndexError("An index can only have a single ellipsis ('...').")
            place = len(items)
            continue
        if not isinstance(item, slice):
            item = np.asarray(item)
            if item.dtype == np.bool_ and item.ndim == 0 or item.dtype.kind not in "biu":
                if item.size:
                    raise IndexError("Labels are indexed by whole numbers, slices and masks.")
                item = item.astype(np.intp)  # an empty list is float to numpy
        axes += item.ndim if not isinstance(item, slice) and item.dtype == np.bool_ else 1
        items.append(item)
    if axes > 3:
        raise IndexError(f"Labels have 3 axes, but {axes} were indexed.")
    place = len(items) if place is None else place
    items[place:place] = [slice(None)] * (3 - axes)
    return items


def _has_arrays(rest: Sequence[Any]) -> bool:
    return any(isinstance(item, np.ndarray) for item in rest)


def _is_detached(rest: Sequence[Any]) -> bool:
    """Tell whether numpy would move an axis: ``labels[5, :, columns]``."""
    return isinstance(rest[0], slice) and isinstance(rest[1], np.ndarray)


def _compact(
    frames: int | list[int] | npt.NDArray[np.intp], rest: tuple[Any, ...]
) -> tuple[list[int], tuple[Any, ...]]:
    """Return the frames that are needed and the index into a block of just those."""
    if isinstance(frames, list):
        return frames, (slice(None), *rest)
    if isinstance(frames, int):
        return [frames], (0, *rest)
    visited, inverse = np.unique(frames, return_inverse=True)
    return [int(t) for t in visited], (inverse.reshape(frames.shape), *rest)
