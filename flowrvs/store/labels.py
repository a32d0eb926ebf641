"""`LabelsArray`: what napari's Labels layer takes for its array."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flowrvs.errors import ProjectError
from flowrvs.store._entry import Entry
from flowrvs.store._indexing import compact, has_arrays, is_detached, split
from flowrvs.store._layer import LayerVolume, drop_axes
from flowrvs.store.history import History

__all__ = ["LabelsArray"]

_MAX_RESULT = 256 * 2**20
_MAX_VISITED = 4 * 2**30
_MAX_SHOWN = 600
_READ_ONLY = "This project is open for reading only; reopen it for writing."


@dataclass(slots=True)
class _Strokes:
    """The stroke that is being drawn on a layer, shared by all arrays of it."""

    entry: Entry | None = None
    name: str | None = None  # of the stroke that `begin_stroke` began
    grouped: Callable[[], bool] = lambda: False
    tool: Callable[[], str] = lambda: "edit"
    told: bool = False
    # Frame, index and content of what a viewer's tool read last.
    read: tuple[int, Any, npt.NDArray[np.uint16]] | None = None


class LabelsArray:
    """A label volume on disk, indexed as a numpy array of shape (T, H, W), uint16.

    Reading gives copies. Assigning is a *person's* edit: it marks the frames as human for
    the objects that it touches, and the model never changes those again (its own way in is
    `Project.write_model`). Both take what numpy takes: integers, slices, index arrays,
    boolean masks. A request that would need too much memory is refused with one line.

    A value that is drawn and belongs to no object yet makes a new object of this layer.
    Every assignment is a step that `Project.undo` takes back, unless it is part of a larger
    one (`Project.edit`, `group`).
    """

    ndim = 3
    dtype = np.dtype(np.uint16)

    def __init__(
        self,
        volume: LayerVolume,
        layer_id: int,
        history: History,
        tell: Callable[[str, int, int, int], None],
        *,
        writable: bool = True,
    ) -> None:
        self._volume = volume
        self._history = history
        self._tell = tell
        self._writable = writable
        self._strokes = _Strokes()
        self._refused: Callable[[str], None] | None = None
        self.layer_id = layer_id
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
        cache = self._volume.cache
        frames, rest = split(key, self.shape)
        if isinstance(frames, int) and not is_detached(rest):
            if self._refused is not None and not has_arrays(rest) and slice in map(type, rest):
                self._strokes.told = False  # a view of one frame
            with cache.lock:
                part = cache.frame(frames)[rest]
                return part.copy() if isinstance(part, np.ndarray) else part
        if isinstance(frames, list) and not has_arrays(rest):
            if len(frames) == 1:  # napari's brush asks with slices, also for its one frame
                with cache.lock:
                    part = np.array(cache.frame(frames[0])[rest])[None]
                if self._refused is not None:
                    self._strokes.read = (frames[0], rest, part.copy())
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
        visited, key = compact(frames, rest)
        self._guard(len(visited), len(visited) * math.prod(self.shape[1:]))
        return cache.read(visited)[key]

    def _blocks(self, frames: list[int]) -> Any:
        step = max(1, 32 * 2**20 // self._volume.cache.frame_bytes)
        for first in range(0, len(frames), step):
            yield first, self._volume.cache.read(frames[first : first + step])

    def _guard(self, visited: int, pixels: int) -> None:
        if (
            pixels * self.dtype.itemsize > _MAX_RESULT
            or visited * self._volume.cache.frame_bytes > _MAX_VISITED
        ):
            limit = max(1, _MAX_RESULT // self._volume.cache.frame_bytes)
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
            self._strokes.told = False
        elif not self._strokes.told:
            self._strokes.told = True
            self._refused(
                f"{self.shape[0]} frames are too many to be shown in 3D or from the side; go "
                "back to 2D frames."
            )
        return known

    # -- steps ---------------------------------------------------------------------------

    def group(self, grouped: Callable[[], bool], tool: Callable[[], str]) -> None:
        """Say which assignments make one step of the history together.

        Parameters
        ----------
        grouped : callable
            True while a stroke is being drawn: its assignments are one step, until
            `end_stroke` or an assignment that is not grouped.
        tool : callable
            What the step's name begins with: ``"brush stroke"``.
        """
        self._strokes.grouped, self._strokes.tool = grouped, tool

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
        self.end_stroke()
        self._strokes.name = name

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

    def end_stroke(self) -> None:
        """End the step of a stroke; nothing happens where there is none."""
        self._strokes.name = None
        stroke, self._strokes.entry = self._strokes.entry, None
        if stroke is not None:
            self._history.end(stroke)

    @contextmanager
    def _step(self) -> Iterator[Entry]:
        current = self._history.current()
        if current is not None:
            yield current
            return
        if self._strokes.name is not None or self._strokes.grouped():
            if self._strokes.entry is None:
                self._strokes.entry = self._begin()
            yield self._strokes.entry
            return
        self.end_stroke()
        entry = self._begin()
        try:
            yield entry
        finally:
            self._history.end(entry)

    def _begin(self) -> Entry:
        entry = self._history.begin(None, "human")
        entry.tool = self._strokes.name or self._strokes.tool()
        return entry

    def locked(self, t: int) -> list[int]:
        """Return the ids of the objects that are locked on frame `t`; a matter of microseconds."""
        return self._volume.locked(t)

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
        frames, rest = split(key, self.shape)
        value = np.asarray(value)
        with self._step() as entry:
            self._assign(frames, rest, value, entry)
        self._volume.make_room()

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
        with self._step() as entry:
            drawn = self._volume.stamp(t, rows, columns, mask, label, only, entry)
            if drawn is not None:
                self._tell("pixels", self.layer_id, t, t + 1)
        self._volume.make_room()
        return drawn

    def _assign(self, frames: Any, rest: tuple[Any, ...], value: Any, entry: Entry) -> None:
        def edit(t: int, index: Any, part: Any, base: Any = None) -> None:
            self._volume.edit(t, index, part, entry, base)
            self._tell("pixels", self.layer_id, t, t + 1)

        if isinstance(frames, int) and not is_detached(rest):
            edit(frames, rest, value)
            return
        if isinstance(frames, list) and not has_arrays(rest):
            if len(frames) == 1:
                edit(frames[0], rest, value, self._taken(frames[0], rest))
                return
            shape = np.broadcast_to(np.uint16(0), self.shape[1:])[rest].shape
            values = np.broadcast_to(drop_axes(value, 1 + len(shape)), (len(frames), *shape))
            for t, part in zip(frames, values, strict=True):
                edit(t, rest, part)
                self._volume.make_room()
            return
        visited, key = compact(frames, rest)
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
        with self._volume.cache.lock:
            block = self._volume.cache.read(visited)
            before = block.copy()
            block[key] = value
            meant = np.zeros(block.shape, np.bool_)
            meant[key] = True
            for t, old, new, here in zip(visited, before, block, meant, strict=True):
                changed = old != new
                where = np.nonzero(changed if changed.any() else here)
                edit(t, where, new[where])

    def _taken(self, t: int, rest: tuple[Any, ...]) -> npt.NDArray[np.uint16] | None:
        """Return what a viewer's tool read just here, before it gives it back changed."""
        read, self._strokes.read = self._strokes.read, None
        if self._refused is None or read is None or read[:2] != (t, rest):
            return None
        return read[2]
