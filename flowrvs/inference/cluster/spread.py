"""Spreading on the workers of a cluster: `SpreadCluster`, and its messages for both ends.

A task is a piece (`flowrvs.editing.pieces`): what lies between two key frames, or beside one, or
one walk of a tracker. Within it a frame follows from the one before; a long way by flow is cut into
parts, each of which is asked for with what the one before has learnt. What is killed with a worker
is its parts, and nothing else has to wait for them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flowrvs.editing import pieces as editing_pieces
from flowrvs.editing.pieces import Lost, Piece
from flowrvs.errors import ClusterError, FlowRVSError, VideoError
from flowrvs.inference.cluster.dispatch import Reply, Session, message_for
from flowrvs.inference.cluster.link import Scheduler
from flowrvs.inference.cluster.wire import (
    FOREIGN,
    Packer,
    lines_of,
    masks_of,
    pack,
    unpack_arrays,
    unpack_octets,
)
from flowrvs.masks import rle
from flowrvs.masks.propagate import Spread
from flowrvs.masks.tracking import Carried
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock

if TYPE_CHECKING:
    from flowrvs.video import Video

__all__ = ["PieceAnswer", "SpreadCluster", "unpack_piece"]

Mask = npt.NDArray[np.bool_]
Shape = tuple[int, int, int]
#: Bytes of what a part hands on to the next at most: some megabytes in fact.
_LARGEST = 2**26
_ROW = np.dtype([("object", "<i8"), ("frame", "<i8"), ("certainty", "<f8")])


class SpreadCluster:
    """Computes spreads on the workers of a dask scheduler; a `PieceRunner`.

    The masks are those of this process to the bit, in the same order, where the workers have
    OpenCV as this machine has. This process needs neither torch nor the tracker's weights.

    Parameters
    ----------
    scheduler : Scheduler or str
        Where it is; a string is checked by `Scheduler.at`.
    tracker : str, optional
        For the method ``"memory"``: its name as the workers know it, "" for the one that they
        prefer. Without it they spread by flow, shape or copy.
    patience, notice, cancel, timeout
        As for `flowrvs.inference.cluster.Cluster`.
    **options
        What else `flowrvs.load_tracker` takes.

    Attributes
    ----------
    name : str
        Of the tracker; all workers have the same.

    Raises
    ------
    ClusterError
        The scheduler cannot be reached, or no worker has the tracker; at once.
    InputError, MissingExtraError
        As for `Scheduler.at` and `Link`.

    Examples
    --------
    >>> cluster = SpreadCluster("tls://gpu-server:8786")  # doctest: +SKIP
    >>> preview = flowrvs.editing.spread(project, video, 1, runner=cluster)  # doctest: +SKIP
    """

    def __init__(
        self,
        scheduler: Scheduler | str,
        tracker: str | None = None,
        *,
        patience: float = 300.0,
        notice: Callable[[str], None] | None = None,
        cancel: CancelToken | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> None:
        about = {"tracker": tracker, "options": options}
        self._session = Session(
            scheduler,
            about,
            patience=patience,
            notice=notice,
            # Only masks that a tracker made are known again by who made them, and of what.
            afterwards="what is finished is kept, and the same command "
            + ("begins anew" if tracker is None else "goes on from there"),
        )
        facts = self._session.ask("tracker", cancel, timeout)
        self.name, self._flow = str(facts.get("name")), str(facts.get("flow"))

    def run(
        self,
        pieces: Sequence[Piece],
        shape: Shape,
        video: Video | None,
        *,
        lost: Lost,
        cancel: CancelToken | None = None,
        progress: ProgressCallback | None = None,
    ) -> Generator[tuple[int, Spread], None, None]:
        """Yield objects and masks, piece by piece, in order; see `PieceRunner`."""
        cancel = cancel or CancelToken()
        clock = ProgressClock(sum(piece.steps for piece in pieces))
        message = f"following with {self.name}" if self.name else "spreading"
        header = self._session.header("spread")
        header |= {"expect": [self.name, self._flow], "part": editing_pieces.PART}
        tasks = (_PieceTask(piece, shape, video, header) for piece in pieces)
        unreadable: VideoError | None = None
        with self._session.dispatcher(cancel) as dispatcher:
            for task, reply in dispatcher.results(tasks, following=_next_part):
                left, goes_on = task.piece.steps - task.walked, False
                if isinstance(reply, VideoError):
                    unreadable = unreadable or reply
                elif isinstance(reply, FlowRVSError):
                    raise reply
                else:
                    for found in _unpack_answer(reply, task.piece, shape, lost):
                        yield found
                        cancel.raise_if_cancelled()
                    goes_on = reply[0]["goes_on"]
                event = clock.advance(message, min(task.header["part"], left) if goes_on else left)
                if progress is not None:
                    progress(event)
        if unreadable is not None:
            raise unreadable

    def close(self) -> None:
        """End the connection, which takes a moment; a later run makes another one."""
        self._session.close()


@dataclass(frozen=True, slots=True)
class _PieceTask:
    """Asks for a piece's masks, or for those of the part that begins with `begin`."""

    piece: Piece
    shape: Shape
    video: Video | None
    header: dict[str, Any] = field(repr=False)
    begin: bytes = b""
    walked: int = 0  # before this part

    @property
    def about(self) -> str:
        frames = self.piece.frames
        return f"frames {min(frames)} to {max(frames)}"

    def message(self, *, send_frames: bool) -> bytes:
        piece, keys = self.piece, Packer()
        rows = []
        for t in piece.keys:
            for object_id, mask in piece.keys[t].items():
                rows.append([t, object_id])
                keys.masks(mask[None])
        wanted = Packer()
        if piece.wanted is not None:
            wanted.masks(piece.wanted[:, None])
        header = self.header | {
            "method": piece.method,
            "frames": [piece.frames.start, piece.frames.stop, piece.frames.step],
            "objects": piece.objects,
            "layers": piece.layers,
            "stops": piece.stops,
            "keys": rows,
            "size": self.shape,
            "walked": self.walked,
            "video": None,
        }
        blobs = [keys.end(), wanted.end(), self.begin]
        looks = piece.looks(self.walked, header["part"])
        if self.video is None or not looks:
            return pack(header, blobs)
        return message_for(header, blobs, self.video, looks, send_frames=send_frames)


def _next_part(task: _PieceTask, reply: Reply) -> tuple[Reply, _PieceTask | None]:
    """Return the masks of an answer, and what to ask next where the way goes on from there.

    Many parts may wait for a piece before theirs: not with what their next one has begun with.
    """
    header, blobs = reply
    if len(blobs) != 3 or len(blobs[2]) > _LARGEST:
        raise ClusterError(FOREIGN)
    rows, masks, learnt = map(bytes, blobs)
    following = None
    if learnt:
        following = replace(task, begin=learnt, walked=task.walked + task.header["part"])
        if following.walked >= task.piece.steps:
            raise ClusterError(FOREIGN)  # the way was at its end
    kept = [memoryview(rows), memoryview(masks)]
    return (header | {"goes_on": bool(learnt)}, kept), following


def unpack_piece(
    header: Mapping[str, Any], blobs: Sequence[memoryview]
) -> tuple[Piece, Carried | None]:
    """Return the piece that a client asks for, and what its part begins with."""
    frames, objects, layers = range(*header["frames"]), header["objects"], header["layers"]
    size = tuple(header["size"])[1:]
    wanted = None
    if layers:
        wanted = np.concatenate(list(masks_of(blobs[1], (len(objects), 1, len(frames)))))[:, 0]
    keys = _SentKeys(header["keys"], lines_of(blobs[0], len(header["keys"]), size), size)
    stops = tuple(header["stops"])
    piece = Piece(header["method"], frames, keys, tuple(objects), stops, wanted, tuple(layers))
    return piece, unpack_arrays(blobs[2]) if blobs[2] else None


class _SentKeys(Mapping[int, Mapping[int, Mask]]):
    """Key frames as they came; a mask is drawn when it is asked for: there may be thousands."""

    def __init__(
        self, rows: Sequence[Sequence[int]], lines: Sequence[bytes], size: tuple[int, ...]
    ) -> None:
        self._size = size
        self._lines: dict[int, dict[int, bytes]] = {}
        for (t, object_id), line in zip(rows, lines, strict=True):
            self._lines.setdefault(t, {})[object_id] = line

    def __getitem__(self, t: int) -> dict[int, Mask]:
        size = list(self._size)
        return {i: rle.decode({"size": size, "counts": c}) for i, c in self._lines[t].items()}

    def __iter__(self) -> Iterator[int]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)


class PieceAnswer:
    """Collects what a worker finds; what a later look replaces is left out."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, int, float]] = []
        self._masks = Packer()

    def add(self, object_id: int, found: Spread) -> None:
        """Add a mask."""
        if found.final:
            self._rows.append((object_id, found.frame, float(found.certainty)))
            self._masks.masks(found.mask[None])

    def message(self, lost: Sequence[tuple[int, range]], carried: bytes = b"") -> bytes:
        """Return the answer, with frames on which objects were lost, and for the next part."""
        header = {"count": len(self._rows), "lost": [[i, r.start, r.stop] for i, r in lost]}
        table = Packer()
        table.octets(np.array(self._rows, _ROW).view(np.uint8))
        return pack({"state": "done", **header}, [table.end(), self._masks.end(), carried])


def _unpack_answer(
    reply: Reply, piece: Piece, shape: Shape, lost: Lost
) -> Iterator[tuple[int, Spread]]:
    """Yield what a worker found; it is not trusted with more than masks of what was asked."""
    header, blobs = reply
    count, told = header.get("count"), header.get("lost")
    if type(count) is not int or not 0 <= count <= len(piece.frames) * len(piece.objects):
        raise ClusterError(FOREIGN)
    rows = unpack_octets(blobs[0], (count * _ROW.itemsize,)).view(_ROW)
    if (
        not np.isin(rows["object"], piece.objects).all()
        or not np.isin(rows["frame"], piece.frames).all()
        or not ((rows["certainty"] >= 0) & (rows["certainty"] <= 1)).all()
    ):
        raise ClusterError(FOREIGN)
    masks = (mask for block in masks_of(blobs[1], (count, *shape[1:])) for mask in block)
    for row, mask in zip(rows.tolist(), masks, strict=True):
        yield row[0], Spread(row[1], mask, row[2])
    try:
        for object_id, start, stop in told:  # type: ignore[union-attr]
            frames = range(start, stop)
            if (
                object_id not in piece.objects
                or not frames
                or not {start, stop - 1} <= {*piece.frames}
            ):
                raise ClusterError(FOREIGN)
            lost(object_id, frames)
    except (TypeError, ValueError):
        raise ClusterError(FOREIGN) from None
