"""Pictures out: masks blended over frames, an H.264 overlay video, JPEG, contact sheets."""

from __future__ import annotations

import colorsys
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image, ImageDraw

from flowrvs.disk import replacing
from flowrvs.errors import MissingPathError, VideoError
from flowrvs.folders import remove_leftovers

__all__ = ["blend", "contact_sheet", "default_color", "encode_jpeg", "write_overlay"]

RGB = tuple[float, float, float]
Colors = Mapping[int, RGB]
# The first that this build of FFmpeg has is used.
ENCODERS = (("libx264", {"crf": "18", "preset": "veryfast"}), ("mpeg4", {"qscale": "3"}))


def default_color(label: int) -> RGB:
    """Return a colour (r, g, b, 0 to 1) for a label; neighbours differ strongly."""
    return colorsys.hsv_to_rgb((label - 1) * 0.618034 % 1.0, 0.9, 1.0)


def blend(
    frame: npt.NDArray[np.uint8],
    labels: npt.NDArray[Any],
    colors: Colors | None = None,
    alpha: float = 0.5,
) -> npt.NDArray[np.uint8]:
    """Lay masks over a frame; pixels without a label stay as they are.

    Parameters
    ----------
    frame : ndarray of uint8, shape (H, W, 3)
    labels : ndarray of bool or unsigned integers, shape (H, W)
        0 is background; True counts as label 1.
    colors : mapping of int to (r, g, b), optional
        Values 0 to 1; labels without an entry get `default_color`.
    alpha : float
        0 shows the frame only, 1 the masks only.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)

    Raises
    ------
    VideoError
        The shapes do not belong together, or `alpha` is not in [0, 1].
    """
    frame, labels = _checked(frame), np.asarray(labels)
    if labels.shape != frame.shape[:2]:
        raise VideoError(
            f"A mask of shape {labels.shape} does not fit a frame of {frame.shape[:2]}; "
            "masks have the height and width of their frame."
        )
    if not 0 <= alpha <= 1:
        raise VideoError(f"alpha={alpha} must be between 0 and 1.")
    out = frame.copy()
    inside = labels != 0
    if inside.any():
        values, which = np.unique(labels[inside], return_inverse=True)
        table = np.array(
            [(colors or {}).get(int(v)) or default_color(int(v)) for v in values], np.float32
        )
        mixed = (1 - alpha) * frame[inside] + alpha * 255 * table[which]
        out[inside] = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    return out


def _checked(frame: Any) -> npt.NDArray[np.uint8]:
    frame = np.asarray(frame)
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or not frame.size:
        raise VideoError(
            f"A picture must be (H, W, 3) uint8, not {frame.shape} {frame.dtype}; convert it."
        )
    return frame


def encode_jpeg(frame: npt.NDArray[np.uint8], quality: int = 95) -> bytes:
    """Return a frame as JPEG; without chroma subsampling from quality 90 up.

    Parameters
    ----------
    frame : ndarray of uint8, shape (H, W, 3)
    quality : int
        1 to 100.
    """
    buffer = io.BytesIO()
    subsampling = 0 if quality >= 90 else 2
    Image.fromarray(_checked(frame)).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return buffer.getvalue()


def contact_sheet(
    frames: Iterable[npt.NDArray[np.uint8]],
    labels: Iterable[npt.NDArray[Any]],
    *,
    columns: int = 4,
    colors: Colors | None = None,
    alpha: float = 0.5,
    captions: Sequence[str] = (),
) -> npt.NDArray[np.uint8]:
    """Arrange frames, with their masks laid over, in rows, four pixels apart.

    Parameters
    ----------
    frames : iterable of ndarray of uint8, shape (H, W, 3)
        At least one; they share one size.
    labels : iterable of ndarray, shape (H, W)
        One a frame, as in `blend`.
    columns : int
        Pictures in a row, at most.
    colors, alpha
        As in `blend`.
    captions : sequence of str, optional
        Written into the top left corner of each picture.

    Returns
    -------
    ndarray of uint8, shape (h, w, 3)

    Raises
    ------
    VideoError
        No frames, or numbers or shapes that do not belong together.
    """
    tiles = [
        Image.fromarray(blend(frame, mask, colors, alpha)) for frame, mask in _pairs(frames, labels)
    ]
    if not tiles or columns < 1:
        raise VideoError("A contact sheet needs at least one frame and one column.")
    columns = min(columns, len(tiles))
    width, height = tiles[0].width + 4, tiles[0].height + 4
    sheet = Image.new("RGB", (columns * width - 4, -(-len(tiles) // columns) * height - 4), "white")
    for n, tile in enumerate(tiles):
        if n < len(captions):
            draw = ImageDraw.Draw(tile)
            draw.text((4, 2), captions[n], "white", stroke_width=1, stroke_fill="black")
        sheet.paste(tile, (n % columns * width, n // columns * height))
    return np.array(sheet, dtype=np.uint8)


def _pairs(
    frames: Iterable[npt.NDArray[np.uint8]], masks: Iterable[npt.NDArray[Any]]
) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]]:
    for n, (frame, mask) in enumerate(zip_longest(frames, masks)):
        if frame is None or mask is None:
            more = "masks" if frame is None else "frames"
            raise VideoError(f"There are more {more}: {n} of the others; give one mask a frame.")
        yield frame, mask


def write_overlay(
    path: str | os.PathLike[str],
    frames: Iterable[npt.NDArray[np.uint8]],
    masks: Iterable[npt.NDArray[Any]],
    *,
    rate: float | None = None,
    colors: Colors | None = None,
    alpha: float = 0.5,
) -> Path:
    """Write frames with their masks laid over as an MP4 (H.264, yuv420p, BT.709).

    Frames are taken one at a time, so a video of any length fits in memory. The file
    gets its name only when it is complete. Odd sizes are padded by one repeated row or
    column, because yuv420p has none.

    Parameters
    ----------
    path : path
        Ends in ``.mp4`` by custom; an existing file is replaced.
    frames : iterable of ndarray of uint8, shape (H, W, 3)
    masks : iterable of ndarray of bool or unsigned integers, shape (H, W)
    rate : float, optional
        Frames per second; 25 where it is None.
    colors, alpha
        As in `blend`.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    VideoError
        No frames, numbers or shapes that do not belong together, or a bad rate.
    MissingPathError
        The folder does not exist.
    StorageError
        The disk is full or read-only.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise MissingPathError(f"The folder {path.parent} does not exist; create it first.")
    speed = 25.0 if rate is None else float(rate)
    if not 0 < speed < 10000:
        raise VideoError(f"rate={rate} must be frames per second, above 0.")
    pictures = (blend(f, m, colors, alpha) for f, m in _pairs(frames, masks))
    remove_leftovers(path)
    with replacing(path) as part:
        _encode(part, pictures, Fraction(speed).limit_denominator(1001))
    return path


def _encode(part: Path, pictures: Iterator[npt.NDArray[np.uint8]], rate: Fraction) -> None:
    first = next(pictures, None)
    if first is None:
        raise VideoError("There are no frames to write; choose a range with frames in it.")
    name, options = next(e for e in ENCODERS if e[0] in av.codecs_available)
    height, width = first.shape[:2]
    with av.open(str(part), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream(name, rate=rate, options=dict(options))
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        # Several give other bytes now and then, and the same export shall give the same ones.
        context.thread_count = 1
        context.color_range = ColorRange.MPEG
        context.colorspace = Colorspace.ITU709
        context.color_primaries = context.color_trc = 1
        for n, picture in enumerate(chain([first], pictures)):
            if picture.shape != first.shape:
                raise VideoError(f"Frame {n} is {picture.shape}, the first was {first.shape}.")
            padded = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_ndarray(padded, format="rgb24").reformat(
                format="yuv420p",
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
            )
            frame.pts, frame.time_base = n, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
