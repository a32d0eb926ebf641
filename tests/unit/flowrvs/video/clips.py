"""Writes real video files whose frames carry their number in their pixels."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np

BITS = 8
WIDTH, HEIGHT = 96, 64


def coded_frame(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Return a picture with `number` as black and white bars over a moving texture."""
    yy, xx = np.mgrid[:height, :width]
    texture = 110 + 40 * np.sin((xx + 3 * number) / 7) * np.cos((yy - 2 * number) / 5)
    frame = np.repeat(texture[..., None], 3, axis=2)
    frame[..., 1] = 255 - frame[..., 1]
    bar = width // BITS
    for bit in range(BITS):
        frame[: height // 2, bit * bar : (bit + 1) * bar] = 235 if number >> bit & 1 else 20
    return frame.round().astype(np.uint8)


def number_in(frame: np.ndarray) -> int:
    """Read the number out of a decoded picture."""
    height, width = frame.shape[:2]
    bar = width // BITS
    top = frame[height // 8 : height * 3 // 8]
    bits = [top[:, b * bar + bar // 4 : (b + 1) * bar - bar // 4].mean() > 128 for b in range(BITS)]
    return sum(int(on) << b for b, on in enumerate(bits))


def write_clip(
    path,
    codec="libx264",
    *,
    count=80,
    size=(WIDTH, HEIGHT),
    pix_fmt="yuv420p",
    options=None,
    pts=None,
    rate=25,
    container=None,
    format=None,
    prepare=None,
    convert=None,
):
    """Write `count` numbered frames; `pts(n)` in units of 1 / (10 * rate) seconds."""
    width, height = size
    with av.open(str(path), "w", format=format, options=container or {}) as out:
        stream = out.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        # One thread: on a busy machine, handing tiny frames between threads takes seconds.
        stream.codec_context.thread_count = 1
        base = Fraction(1, 10 * rate) if pts else Fraction(1, rate)
        stream.codec_context.time_base = base
        if prepare:
            prepare(stream)
        for n in range(count):
            picture = coded_frame(n, height, width)
            if convert:
                frame = convert(picture)
            else:
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = pts(n) if pts else n, base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def decode_in_order(path) -> np.ndarray:
    """Decode a whole file the plain way, as the reference."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "SLICE"
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(stream)])
