"""The packet index: which packet of a file holds which frame.

Seeking to ``i / rate`` lands on wrong frames in files with B-frames, open GOPs, variable
frame rates or a start that is not 0. So the packets are listed once, without decoding
(about a second per hour of video). From then on a frame is known by its *ordinal*, the
place of its packet in the file: the ordinal is handed to the decoder in the place of the
timestamp and comes back with the picture, whatever the container says about time.

Display order is the order of the presentation timestamps. The first pictures are decoded
to check that; where timestamps are missing, doubled, jump back, or disagree with the
decoder, the whole file is decoded once and the order taken from there.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.stream import VideoStream

from flowrvs.errors import VideoError
from flowrvs.video.probe import MAX_PIXELS

__all__ = ["PacketIndex", "build_index", "open_stream", "packets", "slices_are_whole"]

MISSING = np.iinfo(np.int64).min
CHECKED_FRAMES = 24
# H.264 and HEVC reorder within 16 frames; more means that the timestamps jumped.
MAX_REORDER = 64
# Joined recordings: the demuxer reports the break in the counter of the second one at one of
# so many last packets of the first.
BEFORE_JOIN = 2
# Its clock may also begin ahead of theirs, by this many times the usual distance or more.
JUMP = 10
# The only demuxers that may run. All of them read the one file that they are given: playlists
# (hls, dash, concat, sdp, image2 patterns) would open others, and grabbers the screen.
DEMUXERS = (
    "mov matroska avi mpegts mpeg mpegvideo m4v h261 h263 h264 hevc vvc evc av1 obu ivf flv "
    "live_flv kux asf asf_o ogg gif apng mjpeg mjpeg_2000 smjpeg nut nuv mxf gxf lxf dv rm swf "
    "wtv nsv flic yuv4mpegpipe vc1 vc1test dirac dnxhd cavsvideo avs2 avs3 apv ser cine mlv "
    "filmstrip roq amv mtv thp ty pva vivo "
    "bmp_pipe dds_pipe dpx_pipe exr_pipe hdr_pipe j2k_pipe jpeg_pipe jpegls_pipe jpegxl_anim "
    "jpegxl_pipe pam_pipe pbm_pipe pcx_pipe pfm_pipe pgm_pipe png_pipe ppm_pipe psd_pipe "
    "qoi_pipe sgi_pipe sunrast_pipe tiff_pipe webp_pipe xbm_pipe xpm_pipe xwd_pipe "
    "aac ac3 aiff amr caf flac mp3 wav"
).replace(" ", ",")
# Containers that begin with a keyframe; others may be joined in the middle.
FILED = frozenset({"mp4", "matroska", "avi"})
# Up to this many pixels one thread decodes hundreds of frames a second, and handing
# frames between threads only costs time, most of all while a model computes beside it.
SMALL = 1280 * 720
# Codecs whose frame threads leave the frames around an error alone (ffv1's do not).
FRAME_THREADS = frozenset({"h264", "hevc", "mpeg4", "vp9", "mjpeg"})


@dataclass(frozen=True, eq=False)
class PacketIndex:
    """Where every frame of a stream is.

    Attributes
    ----------
    order : ndarray of int64, shape (T,)
        Packet ordinal of every frame, in display order.
    position : ndarray of int64, shape (P,)
        Display position of every packet; -1 for packets that show nothing.
    keyframes : ndarray of int64
        Ordinals at which decoding can begin, rising; the first one is 0.
    stamps : ndarray of int64, shape (P, 4)
        pts, dts, byte position and size of every packet; `MISSING` where there is none.
    key : int or None
        Column of `stamps` that is unique and so finds a packet again after a seek.
    times : ndarray of float64, shape (T,)
        Presentation time of every frame in seconds.
    corrupt : frozenset of int
        Ordinals of packets that the container reports as damaged.
    cut : str
        What went wrong where reading ended early, else empty.
    summed : bool
        The packets carry checksums that the decoder does not act upon (FFV1).
    rate : float or None
        Mean frame rate that the container states, per second.
    """

    order: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]
    keyframes: npt.NDArray[np.int64]
    stamps: npt.NDArray[np.int64]
    key: int | None
    times: npt.NDArray[np.float64]
    corrupt: frozenset[int]
    cut: str
    summed: bool = False
    rate: float | None = None
    _ordinals: npt.NDArray[np.int64] = field(init=False, repr=False)
    _sorted: npt.NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.key is not None:
            column = self.stamps[:, self.key]
            by_stamp = np.argsort(column)
            object.__setattr__(self, "_ordinals", by_stamp)
            object.__setattr__(self, "_sorted", column[by_stamp])

    def __len__(self) -> int:
        return len(self.order)

    def start_for(self, frame: int) -> int:
        """Return the index into `keyframes` from which `frame` decodes exactly.

        A frame shown before the keyframe that precedes it in the file (the leading
        frames of an open GOP) needs the keyframe before that one.
        """
        ordinal = self.order[frame]
        k = int(np.searchsorted(self.keyframes, ordinal, side="right")) - 1
        while k > 0 and self.position[self.keyframes[k]] > frame:
            k -= 1
        return max(k, 0)

    def ordinal_of(self, packet: av.Packet) -> int:
        """Return which packet this is, read after a seek; -1 when it is not known.

        Some demuxers (MPEG-PS) guess other timestamps after a seek than from the start,
        so the place and the size of the packet must agree too.
        """
        if self.key is None:
            return -1
        stamp = _stamp(packet)
        n = int(np.searchsorted(self._sorted, stamp[self.key]))
        if n < len(self._sorted) and self._sorted[n] == stamp[self.key]:
            ordinal = int(self._ordinals[n])
            if tuple(self.stamps[ordinal, 2:].tolist()) == stamp[2:]:
                return ordinal
        return -1

    def spoiled_by(self, ordinal: int) -> list[int]:
        """Return the frames that may show the damage of one packet.

        These are its own frame, what follows up to the next keyframe, and the frames
        shown before that keyframe, which refer to both sides.
        """
        after = self.keyframes[self.keyframes > ordinal]
        stop = int(after[0]) if len(after) else len(self.position)
        spoiled = [int(p) for p in self.position[ordinal:stop] if p >= 0]
        if len(after) and (edge := int(self.position[stop])) > 0:
            first = max(0, edge - MAX_REORDER)
            spoiled += [p for p in range(first, edge) if self.order[p] > stop]
        return spoiled


def open_stream(path: str, threads: int = 0) -> tuple[InputContainer, VideoStream]:
    """Open the video stream of a file.

    Parameters
    ----------
    path : str
        A local file.
    threads : int
        Decoder threads for large frames; 1 makes errors fall on the packet that caused
        them.

    Raises
    ------
    av.FFmpegError, OSError
        Not a file that FFmpeg reads.
    VideoError
        No moving pictures in it.
    """
    options = {
        "protocol_whitelist": "file",
        "format_whitelist": DEMUXERS,
        "max_pixels": str(MAX_PIXELS),
    }
    # Without the prefix, a name such as concat:a or http:b is a protocol.
    container = av.open(f"file:{path}", "r", options=options, metadata_errors="replace")
    try:
        streams = [s for s in container.streams.video if not _is_cover(s)]
        if not streams:
            what = "only sound" if container.streams.audio else "no pictures"
            raise VideoError(f"{path} holds {what}; give a file with a video track.")
        best = container.streams.best("video")
        stream = best if best in streams else streams[0]
        context = stream.codec_context
        if context is None:
            raise VideoError(f"{path} is in a format that cannot be decoded; convert it to H.264.")
        large = context.width * context.height > SMALL
        parallel = threads != 1 and large and context.name in FRAME_THREADS
        context.thread_type = "AUTO" if parallel else "SLICE"
        context.thread_count = threads if parallel or threads == 1 else min(2, threads or 2)
        # PNG carries checksums.
        context.options = {"err_detect": "crccheck", "max_pixels": options["max_pixels"]}
    except BaseException:
        container.close()
        raise
    return container, stream


def _is_cover(stream: VideoStream) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    """Yield the packets that hold data, without the empty one that PyAV ends with."""
    for packet in container.demux(stream):
        if packet.size:
            yield packet


_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def slices_are_whole(packet: bytes) -> bool:
    """Tell whether every slice of an FFV1 packet agrees with the checksum at its end.

    The decoder only logs a wrong one, and shows what it made of it. A slice ends with its
    size (3 bytes), a status byte and a CRC-32, most significant bit first, over all of it.
    """
    end = len(packet)
    while end > 8:
        begin = end - 8 - int.from_bytes(packet[end - 8 : end - 5], "big")
        if zlib.crc32(packet[begin:end].translate(_MIRRORED), 2**32 - 1) != 2**32 - 1:
            return False
        end = begin
    return end == 0


def build_index(path: str, *, cut: bool = False) -> PacketIndex:
    """List the packets of a file and find the display order of its frames.

    Parameters
    ----------
    path : str
        A local file.
    cut : bool
        The file is known to be cut off: frames of its last, incomplete group are left
        out, because later packets might have been shown between them.

    Raises
    ------
    av.FFmpegError, OSError
        Not a file that FFmpeg reads.
    VideoError
        No moving pictures in it, or none of them can be decoded.
    """
    container, stream = open_stream(path)
    with container:
        stamps_list: list[tuple[int, ...]] = []
        keys: list[int] = []
        hidden: list[int] = []
        corrupt: list[int] = []
        broken = ""
        summed = False
        try:
            for ordinal, packet in enumerate(packets(container, stream)):
                if ordinal < 8 and stream.codec_context.name == "ffv1":
                    summed = summed or slices_are_whole(bytes(packet))
                stamps_list.append(_stamp(packet))
                if packet.is_keyframe:
                    keys.append(ordinal)
                if packet.is_discard:
                    hidden.append(ordinal)
                if packet.is_corrupt:
                    corrupt.append(ordinal)
        except av.FFmpegError as error:
            broken = error.strerror or type(error).__name__
        filed = not FILED.isdisjoint(container.format.name.split(","))
        time_base = float(stream.time_base or 1)
        rate = stream.average_rate
    if not stamps_list:
        raise VideoError(f"{path} holds no frames: it is empty or was cut off while recording.")

    stamps = np.array(stamps_list, dtype=np.int64).reshape(-1, 4)
    keyframes = np.array(sorted({0, *keys}), dtype=np.int64)
    key = next((c for c in range(3) if _unique(stamps[:, c])), None)
    shown = np.ones(len(stamps), dtype=bool)
    shown[hidden] = False
    if not shown.any():
        raise VideoError(
            f"{path} shows no frame: its edit list leaves all of them out; write it anew with all "
            "its frames: 'ffmpeg -ignore_editlist 1 -i IN -c copy OUT'."
        )

    dts = np.ma.masked_equal(stamps[:, 1], MISSING)
    restarts = _restarts(dts, keyframes)
    at_joins = {int(r) - n for r in restarts for n in range(1, BEFORE_JOIN + 1)}
    order = _order_from_pts(stamps, shown)
    errors: list[int] = []
    if order is not None:
        first = list(itertools.islice(_decoded(path, errors), CHECKED_FRAMES))
        begin = keys[0] if keys and not filed else 0
        order = _agree(order, first, begin, damaged=bool(errors))
    if order is None:
        order = np.fromiter(_decoded(path, errors), dtype=np.int64)
        order = order[np.sort(np.unique(order, return_index=True)[1])]
    position = np.full(len(stamps), -1, dtype=np.int64)
    position[order] = np.arange(len(order))
    if cut or broken:
        reached = np.unique(np.maximum.accumulate(position))
        order = order[: int(reached[-2]) + 1 if len(reached) > 1 else 0]
        position[position >= len(order)] = -1
    if not len(order):
        raise VideoError(f"{path} holds no frame that can be decoded; it is damaged.")
    pts = stamps[order, 0]
    if (pts != MISSING).all() and (np.diff(pts) > 0).all():
        times = pts * time_base
    else:
        times = np.arange(len(order)) / float(rate or 25)
    return PacketIndex(
        order,
        position,
        keyframes,
        stamps,
        key,
        times,
        frozenset(corrupt) - at_joins,
        broken,
        summed,
        float(rate) if rate else None,
    )


def _restarts(dts: Any, keyframes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the ordinals at which a joined recording begins: its clock begins anew.

    That is before the end of the one in front, or far behind it. There a keyframe has to follow:
    where a part was lost, it does so by chance alone.
    """
    steps = np.ma.diff(dts)
    behind = (steps < 0).filled(False)
    usual = np.ma.median(steps) if steps.count() else 0
    ahead = (steps > JUMP * max(usual, 1)).filled(False)
    found = np.flatnonzero(behind | ahead) + 1
    return found[behind[found - 1] | np.isin(found, keyframes)]


def _stamp(packet: av.Packet) -> tuple[int, ...]:
    pts, dts, pos = packet.pts, packet.dts, packet.pos
    return (
        MISSING if pts is None else pts,
        MISSING if dts is None else dts,
        MISSING if pos is None else pos,
        packet.size,
    )


def _unique(column: npt.NDArray[np.int64]) -> bool:
    return bool((column != MISSING).all() and len(np.unique(column)) == len(column))


def _order_from_pts(
    stamps: npt.NDArray[np.int64], shown: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64] | None:
    """Return the shown ordinals by pts, or None where pts cannot be trusted."""
    if not _unique(stamps[:, 0]):
        return None
    dts = stamps[:, 1][stamps[:, 1] != MISSING]
    if (np.diff(dts) < 0).any():
        return None
    by_pts = np.argsort(stamps[:, 0], kind="stable")
    if np.abs(by_pts - np.arange(len(by_pts))).max() > MAX_REORDER:
        return None
    return by_pts[shown[by_pts]]


def _agree(
    order: npt.NDArray[np.int64], decoded: list[int], first: int, *, damaged: bool
) -> npt.NDArray[np.int64] | None:
    """Compare the order with what the decoder shows first; None where they disagree.

    A recording that begins in the middle of a GOP has frames before its `first` keyframe
    that nothing can decode: every player leaves them out, and so do we. Frames missing
    elsewhere are damaged ones, which keep their places; many without an error mean that
    some packets are no frames of their own.
    """
    place = {int(ordinal): n for n, ordinal in enumerate(order[: MAX_REORDER * 4])}
    shown = [place.get(ordinal, -1) for ordinal in decoded]
    if not shown or min(shown) < 0 or any(np.diff(shown) <= 0):
        return None
    begin = shown[0]
    if begin:
        edge = place.get(first, begin)
        if all(ordinal < first or n < edge for n, ordinal in enumerate(order[:begin].tolist())):
            order = order[begin:]
            shown = [n - begin for n in shown]
    gaps = shown[-1] - shown[0] + 1 - len(shown)
    return order if damaged or gaps <= len(shown) // 8 else None


def _decoded(path: str, errors: list[int]) -> Iterator[int]:
    """Yield the ordinals of the frames of a file, as the decoder shows them.

    Ordinals at which the decoder complains are added to `errors`.
    """
    container, stream = open_stream(path)
    with container:
        context = stream.codec_context
        source: Iterator[av.Packet | None] = itertools.chain(packets(container, stream), (None,))
        ordinal = 0
        while True:
            try:
                packet = next(source)
            except StopIteration:
                return
            except av.FFmpegError:
                packet, source = None, iter(())
            if packet is not None:
                packet.pts = ordinal
                ordinal += 1
            try:
                frames = context.decode(packet)
            except av.FFmpegError:
                errors.append(ordinal)
                continue
            for frame in frames:
                if frame.pts is not None:
                    if frame.is_corrupt:
                        errors.append(frame.pts)
                    yield frame.pts
