"""A video file as random access to frames, shared by threads.

A :class:`VideoFile` lends out a few decoders, so that a job reading in order and a person
looking around do not throw each other back to a keyframe, and keeps the frames that were
decoded last.

Damage. A packet is damaged when the decoder fails on it, reports errors in its picture, or
when the container says that bytes are missing. Its frame, and every frame that may refer
to it (what follows up to the next keyframe), is refused with a `VideoError` that names the
readable frames around it; with ``damaged="repeat"`` the last good frame stands in for it,
and a warning says so. Flipped bits that still make sense to the decoder cannot be noticed
by anyone: most video codecs carry no checksums.
"""

from __future__ import annotations

import os
import struct
import threading
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import cast

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from flowrvs.errors import VideoError
from flowrvs.video.cache import DEFAULT_CACHE_BYTES, FrameCache
from flowrvs.video.index import (
    MISSING,
    PacketIndex,
    build_index,
    open_stream,
    packets,
    slices_are_whole,
)

__all__ = ["GO_ON", "VideoFile"]

GO_ON = "go on with the last good frame (damaged='repeat', --damaged repeat)"

MAX_CURSORS = 3
# Frames before a requested one that are kept when a decoder passes over them, so that
# stepping backwards does not start at the keyframe each time.
KEPT_BEHIND = 32
# Frames tried for a picture when a file is opened, before it is called damaged.
TRIED_FRAMES = 300
# Frames after a requested one at which a decoder that shows it late is given up.
LATE = 16


class VideoFile:
    """A video file, readable frame by frame from any thread.

    Parameters
    ----------
    path : str
        A local file.
    damaged : {"raise", "repeat"}
        What to do about frames that cannot be decoded, see the top of this module.
    cut : bool
        The file is known to be cut off.
    cache_bytes : int
        Memory for decoded frames.

    Attributes
    ----------
    index : PacketIndex
        The packets of the file.
    height, width : int
        Size after rotation.
    """

    def __init__(
        self,
        path: str,
        *,
        damaged: str = "raise",
        cut: bool = False,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        self.path = path
        self.index = build_index(path, cut=cut)
        self._name = os.path.basename(path)
        self._repeat = damaged == "repeat"
        self._cache: FrameCache[VideoFrame] = FrameCache(cache_bytes)
        self._threads = min(8, os.cpu_count() or 1)
        self._pool = threading.Condition()
        self._idle: list[Cursor] = []
        self._lent = 0
        self._closed = False
        self._damaged: set[int] = set()
        # Keyframes whose frames are only trusted to a decoder with a single thread.
        self._careful: set[int] = set()
        self._careful_cursor: Cursor | None = None
        self._careful_lock = threading.Lock()
        self._local = threading.local()
        begin = range(min(len(self), TRIED_FRAMES))
        first = next((f for n in begin for f in self._get(n, n + 1) if f), None)
        if first is None:
            self.close()
            raise VideoError(f"{path} holds no frame that can be decoded; it is damaged.")
        self._orientation = orientation_of(first)
        self._coded = (first.height, first.width)
        self.height, self.width = self._coded[::-1] if self._orientation[0] else self._coded

    def __len__(self) -> int:
        return len(self.index)

    @property
    def damaged_frames(self) -> frozenset[int]:
        """Frames found damaged so far."""
        return frozenset(self._damaged)

    def close(self) -> None:
        """Close the file; readers in other threads end with a `VideoError`."""
        with self._pool:
            self._closed = True
            cursors, self._idle = self._idle, []
            self._pool.notify_all()
        with self._careful_lock:
            if self._careful_cursor is not None:
                cursors.append(self._careful_cursor)
                self._careful_cursor = None
        for cursor in cursors:
            cursor.close()
        self._cache.clear()

    def read_into(self, out: npt.NDArray[np.uint8], start: int) -> None:
        """Write the frames from `start` on into `out`, uint8 of shape (n, H, W, 3).

        Raises
        ------
        VideoError
            A frame is damaged, the pictures change their size, or the file is closed.
        """
        stop = start + len(out)
        # A few at a time, so that a long read holds few frames outside the cache.
        for at in range(start, stop, 8):
            frames = self._get(at, min(stop, at + 8))
            for n, frame in enumerate(frames, at):
                out[n - start] = self._stand_in(n) if frame is None else self._rgb(n, frame)

    def _stand_in(self, n: int) -> npt.NDArray[np.uint8]:
        """Return the picture for a damaged frame, or raise."""
        good = (i for i in range(n, -1, -1) if i not in self._damaged)
        before = next(good, None)
        after = next((i for i in range(n, len(self)) if i not in self._damaged), None)
        if not self._repeat:
            known = [f"up to {before}"] * (before is not None)
            known += [f"from {after} on"] * (after is not None)
            raise VideoError(
                f"Frame {n} of {self._name} is damaged (frames {' and '.join(known)} may be "
                f"read); choose a range without it, get another copy, or {GO_ON}."
            )
        source = before if before is not None else after
        if source is None:
            raise VideoError(f"No frame of {self._name} can be decoded; get another copy.")
        frame = self._get(source, source + 1)[0]
        if frame is None:
            return self._stand_in(n)
        warnings.warn(
            f"Frame {n} of {self._name} is damaged; frame {source} is shown.", stacklevel=4
        )
        return self._rgb(source, frame)

    def _rgb(self, n: int, frame: VideoFrame) -> npt.NDArray[np.uint8]:
        if (frame.height, frame.width) != self._coded:
            first = self._first_of_other_size(n)
            raise VideoError(
                f"{self._name} changes its size at frame {first}, from {self._coded[1]}x"
                f"{self._coded[0]} to {frame.width}x{frame.height}; cut it into two videos."
            )
        formatter = getattr(self._local, "formatter", None)
        if formatter is None:
            formatter = self._local.formatter = VideoReformatter()
        try:
            picture = formatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(f"Frame {n} of {self._name} has no colours ({error}).") from error
        return turn(cast("npt.NDArray[np.uint8]", picture), self._orientation)

    def _first_of_other_size(self, n: int) -> int:
        """Return where the size changed that frame `n` has, halving the distance each time.

        A decoder may keep the last picture of the old size for itself: its place counts.
        """
        same = 0
        while n - same > 1:
            middle = (same + n) // 2
            frame = self._get(middle, middle + 1)[0]
            if frame is None or (frame.height, frame.width) == self._coded:
                same = middle
            else:
                n = middle
        index = self.index
        before = int(index.order[:n].max(initial=-1)) + 1
        return n + int((index.position[before : index.order[n]] < 0).sum())

    def _get(self, start: int, stop: int) -> list[VideoFrame | None]:
        """Return decoded frames; None in the place of damaged ones."""
        found: dict[int, VideoFrame] = {}
        for n in range(start, stop):
            # What was decoded before its damage was known is still in the cache.
            if n not in self._damaged and (frame := self._cache.get(n)) is not None:
                found[n] = frame
        missing = [n for n in range(start, stop) if n not in found]
        if missing:
            with self._cursor(missing[0]) as cursor:
                for n in missing:
                    if n not in self._damaged:
                        self._decode(cursor, n, found)
        return [found.get(n) for n in range(start, stop)]

    def _decode(self, cursor: Cursor, n: int, found: dict[int, VideoFrame]) -> None:
        k = self.index.start_for(n)
        if k not in self._careful:
            from_keyframe = n - int(self.index.position[self.index.keyframes[k]])
            if cursor.errors or cursor.distance(n) > from_keyframe + 8:
                cursor.go(k)
            while (step := cursor.next()) is not None and not cursor.errors:
                self._keep(step, n, found)
                if step[0] == n:
                    return
                if step[0] > n:
                    break
            # The frames before an error may come from the same confused decoder.
            self._careful.add(k)
        with self._careful_lock:
            self._decode_carefully(n, k, found)

    def _decode_carefully(self, n: int, k: int, found: dict[int, VideoFrame]) -> None:
        """Decode frame `n` with one thread, or find out that it is damaged.

        Where a stream refreshes gradually, pictures come out only some way behind a
        keyframe, so earlier ones are tried before a frame is given up.
        """
        self._refuse_closed()
        if self._careful_cursor is None:
            self._careful_cursor = Cursor(self.path, self.index, threads=1)
        cursor = self._careful_cursor
        ordinal = int(self.index.order[n])
        from_keyframe = n - int(self.index.position[self.index.keyframes[k]])
        backs = [b for b in (0, 1, 2, 4, 8, 16) if b <= k]
        if k <= 32 and k not in backs:
            backs.append(k)
        for back in backs:
            # From farther ahead it would meet the damage of frames that this one has no part in.
            if back or cursor.errors or cursor.distance(n) > from_keyframe + 1:
                cursor.go(k - back)
            while (step := cursor.next()) is not None:
                if not cursor.errors or step[0] == n:
                    self._keep(step, n, found)
                if step[0] == n or step[0] > n + LATE:
                    break
            bad = [e for e in cursor.errors if e <= ordinal]
            if bad:
                self._damaged.update(self.index.spoiled_by(min(bad)))
                break
            if n in found:
                return
        self._damaged.add(n)
        found.pop(n, None)

    def _keep(self, step: tuple[int, VideoFrame], n: int, found: dict[int, VideoFrame]) -> None:
        position, frame = step
        if n - KEPT_BEHIND <= position <= n and position not in self._damaged:
            self._cache.put(position, frame, sum(plane.buffer_size for plane in frame.planes))
            if position == n:
                found[n] = frame

    @contextmanager
    def _cursor(self, frame: int) -> Iterator[Cursor]:
        """Lend a decoder: the one that is nearest before `frame`, else another one."""
        with self._pool:
            while not self._closed and not self._idle and self._lent >= MAX_CURSORS:
                self._pool.wait()
            self._refuse_closed()
            cursor = min(self._idle, key=lambda c: c.distance(frame), default=None)
            if cursor is not None and cursor.distance(frame) > 2 * KEPT_BEHIND:
                full = self._lent + len(self._idle) >= MAX_CURSORS
                cursor = self._idle[0] if full else None
            if cursor is not None:
                self._idle.remove(cursor)
            self._lent += 1
        healthy = False
        try:
            if cursor is None:
                cursor = Cursor(self.path, self.index, self._threads)
            yield cursor
            healthy = True
        except (av.FFmpegError, OSError) as error:
            raise VideoError(
                f"{self.path} can no longer be read ({error.strerror}); is it still there?"
            ) from error
        finally:
            with self._pool:
                self._lent -= 1
                if cursor is not None:
                    if healthy and not self._closed:
                        self._idle.append(cursor)
                    else:
                        cursor.close()
                self._pool.notify()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise VideoError(f"{self._name} was closed; open it again.")


# How frames are turned by quarter turns, counterclockwise.
ROTATIONS = {
    0: (False, False, False),
    1: (True, True, False),
    2: (False, True, True),
    3: (True, False, True),
}


def orientation_of(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """Return how a frame must be turned to stand upright.

    Returns
    -------
    (transpose, flip_rows, flip_columns) : tuple of bool
        To be applied in this order; from the display matrix, to the nearest quarter turn.
    """
    try:
        side_data = list(frame.side_data)
    except ValueError:
        # A kind of side data that PyAV does not know yet, as TIFF pictures in a MOV carry.
        return ROTATIONS.get(round(frame.rotation / 90) % 4, ROTATIONS[0])
    for data in side_data:
        # PyAV's stub takes iterating for the mapping's keys; it yields SideData.
        if data.type.name == "DISPLAYMATRIX":  # type: ignore[attr-defined]
            a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data)[:36])  # type: ignore[arg-type]
            if abs(a) + abs(d) >= abs(b) + abs(c):
                return False, d < 0, a < 0
            return True, b < 0, c < 0
    return ROTATIONS[0]


def turn(
    picture: npt.NDArray[np.uint8], orientation: tuple[bool, bool, bool]
) -> npt.NDArray[np.uint8]:
    """Return a view of a (H, W, 3) picture, turned as `orientation_of` says."""
    transpose, flip_rows, flip_columns = orientation
    if transpose:
        picture = picture.swapaxes(0, 1)
    if flip_rows:
        picture = picture[::-1]
    if flip_columns:
        picture = picture[:, ::-1]
    return picture


class Cursor:
    """One decoder, walking through a file in display order; for one thread at a time.

    Parameters
    ----------
    path : str
        The file.
    index : PacketIndex
        Its packets.
    threads : int
        As in `open_stream`.

    Attributes
    ----------
    last : int
        Display position of the frame handed out last.
    errors : list of int
        Ordinals of damaged packets met since decoding began.
    """

    def __init__(self, path: str, index: PacketIndex, threads: int = 0) -> None:
        self.path = path
        self.index = index
        self.last = -1
        self.errors: list[int] = []
        self._threads = threads
        self._held: deque[tuple[int, VideoFrame]] = deque()
        self._reopen()

    def close(self) -> None:
        """Close the file."""
        self._held.clear()
        self._packets = iter(())
        self._container.close()

    def distance(self, frame: int) -> float:
        """Return how many frames must be decoded to reach `frame` from here, if it can."""
        begun = self._first <= self.index.keyframes[self.index.start_for(frame)]
        return frame - self.last if begun and frame > self.last else float("inf")

    def go(self, keyframe: int) -> None:
        """Begin again at the `keyframe`-th keyframe.

        A seek may land anywhere; packets are skipped until the right one comes. If it was
        missed, the seek is repeated farther back, and at last the file is reopened.
        """
        goal = int(self.index.keyframes[keyframe])
        if goal:
            for back in (0, 1, 4):
                if self._seek(goal, int(self.index.keyframes[max(0, keyframe - back)])):
                    return
        self._container.close()
        self._reopen()
        for _ in range(goal):
            next(self._packets, None)
        self._begin(self._packets, goal)

    def _reopen(self) -> None:
        self._container, self._stream = open_stream(self.path, self._threads)
        self._by_pts = self._container.format.name.startswith("matroska")
        self._begin(packets(self._container, self._stream), 0)

    def _begin(self, source: Iterator[av.Packet], ordinal: int) -> None:
        self._packets = source
        self._held.clear()
        self._ended = self._shows = False
        self._ordinal = self._first = self._low = ordinal
        self._seen: set[int] = set()
        # What is shown before this keyframe lacks its references.
        self._floor = int(self.index.position[ordinal]) if ordinal else 0
        self.last = self._floor - 1
        self.errors = []

    def _seek(self, goal: int, target: int) -> bool:
        pts, dts = (int(v) for v in self.index.stamps[target, :2])
        stamps = [v for v in ((pts, dts) if self._by_pts else (dts, pts)) if v != MISSING]
        if self.index.key is None or not stamps:
            return False
        try:
            self._container.seek(stamps[0], stream=self._stream, backward=True)
            source = packets(self._container, self._stream)
            for packet in source:
                ordinal = self.index.ordinal_of(packet)
                if ordinal == goal:
                    self._begin(chain((packet,), source), goal)
                    return True
                if ordinal > goal:
                    return False
        except (av.FFmpegError, OSError):
            pass
        return False

    def next(self) -> tuple[int, VideoFrame] | None:
        """Decode on and return (display position, frame); None at the end of the file.

        A frame is held back until all packets before it in the file have shown theirs:
        only then is it known that what it refers to was decoded, because decoders that
        work in several threads may pass over an error without a word.
        """
        while not (self._held and (self._held[0][0] < self._low or self._ended)):
            if self._ended:
                return None
            for ordinal, frame in self._feed():
                self._take(ordinal, frame)
            if self._ended:
                self._miss(len(self.index))
        ordinal, frame = self._held.popleft()
        self.last = int(self.index.position[ordinal])
        return self.last, frame

    def _take(self, ordinal: int, frame: VideoFrame) -> None:
        position = int(self.index.position[ordinal])
        if position < self._floor:
            return
        if not self._shows:
            # Streams that refresh gradually show nothing for a while behind a keyframe.
            self._shows, self._floor = True, position
        self._seen.add(ordinal)
        self._held.append((ordinal, frame))
        self._miss(position)

    def _miss(self, position: int) -> None:
        """Note the packets that should have shown a frame before `position` and did not."""
        places = self.index.position
        while self._low < len(places):
            if self._low in self._seen:
                self._seen.remove(self._low)
            elif places[self._low] >= self._floor:
                if places[self._low] >= position:
                    return
                self.errors.append(self._low)
            self._low += 1

    def _feed(self) -> list[tuple[int, VideoFrame]]:
        """Hand one packet to the decoder; return (ordinal, frame) of what comes out."""
        ordinal = self._ordinal
        try:
            packet = next(self._packets, None)
        except av.FFmpegError:
            packet = None
        if packet is None or ordinal >= len(self.index.position):
            packet, self._ended = None, True
        else:
            packet.pts = ordinal
            self._ordinal += 1
            if ordinal in self.index.corrupt or (
                self.index.summed and not slices_are_whole(bytes(packet))
            ):
                self.errors.append(ordinal)
        try:
            frames = self._stream.codec_context.decode(packet)
        except av.FFmpegError:
            self.errors.append(ordinal)
            return []
        known = []
        for frame in frames:
            # Hidden frames (before an edit list begins) take no part.
            if frame.pts is None or self.index.position[frame.pts] < 0:
                continue
            if frame.is_corrupt:
                self.errors.append(frame.pts)
            known.append((frame.pts, frame))
        return known
