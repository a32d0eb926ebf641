"""Frame-exact decoding of video files: one decoder, walking in display order."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from itertools import chain

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from flowrvs.video.index import MISSING, PacketIndex, open_stream, packets

__all__ = ["Cursor", "orientation_of", "turn"]


def orientation_of(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """Return how a frame must be turned to stand upright.

    Returns
    -------
    (transpose, flip_rows, flip_columns) : tuple of bool
        To be applied in this order; from the display matrix, to the nearest quarter turn.
    """
    for data in frame.side_data:
        # PyAV's stub takes iterating for the mapping's keys; it yields SideData.
        if data.type.name == "DISPLAYMATRIX":  # type: ignore[attr-defined]
            a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data)[:36])  # type: ignore[arg-type]
            if abs(a) + abs(d) >= abs(b) + abs(c):
                return False, d < 0, a < 0
            return True, b < 0, c < 0
    return False, False, False


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
            if ordinal in self.index.corrupt:
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
