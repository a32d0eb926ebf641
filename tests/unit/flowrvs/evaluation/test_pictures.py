"""Mask pictures of every kind, read into bits: the quick ways agree with Pillow."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from flowrvs.errors import DatasetError
from flowrvs.evaluation import packed
from flowrvs.evaluation.pictures import read_mask, read_packed


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def paeth(left, above, corner):
    """What the PNG specification foretells."""
    a, b, c = (v.astype(int) for v in (left, above, corner))
    p = a + b - c
    pa, pb, pc = abs(p - a), abs(p - b), abs(p - c)
    nearest = np.where((pa <= pb) & (pa <= pc), a, np.where(pb <= pc, b, c))
    return nearest.astype(np.uint8)


def png(rows, filters, before=b"", pieces=1):
    """Write 8-bit grey with a given filter (None, Sub, Up or Paeth) for each row."""
    height, width = rows.shape
    lines = []
    for index, row in enumerate(rows):
        kind = filters[index % len(filters)]
        left = np.concatenate([[0], row[:-1]]).astype(np.uint8)
        above = rows[index - 1] if index else np.zeros_like(row)
        if kind == 4:
            corner = np.concatenate([[0], above[:-1]]).astype(np.uint8)
            change = row - paeth(left, above, corner)
        else:
            change = [row, row - left, row - above][kind]
        lines.append(bytes([kind]) + change.astype(np.uint8).tobytes())
    stream = zlib.compress(b"".join(lines))
    cut = -(-len(stream) // pieces)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + before
        + b"".join(chunk(b"IDAT", stream[i : i + cut]) for i in range(0, len(stream), cut))
        + chunk(b"IEND", b"")
    )


@settings(max_examples=150, deadline=None)
@given(
    arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=140), elements=st.just(0))
    | arrays(
        np.uint8,
        array_shapes(min_dims=2, max_dims=2, max_side=140),
        elements=st.sampled_from([0, 255]),
    )
    | arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9)),
    st.lists(st.sampled_from([0, 1, 2, 4]), min_size=1, max_size=4) | st.just([1]),
    st.integers(1, 3),
)
def test_every_filter_and_value_is_read_as_it_is(rows, filters, pieces):
    data = png(rows, filters, pieces=pieces)
    words, width = read_packed(data, "x.png")
    assert np.array_equal(packed.unpack(words, width), rows != 0)
    assert np.array_equal(read_mask(data, "x.png"), rows != 0)


@pytest.mark.parametrize("suffix, options", [(".png", {}), (".png", {"compress_level": 0})])
def test_pictures_of_pillow_and_opencv(suffix, options):
    cv2 = pytest.importorskip("cv2")
    mask = np.zeros((97, 131), bool)
    mask[20:60, 30:131] = True
    mask[50:97, 0:40] ^= True
    grey = mask.astype(np.uint8) * 255
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG", **options)
    for data in (buffer.getvalue(), cv2.imencode(suffix, grey)[1].tobytes()):
        words, width = read_packed(data, "x.png")
        assert np.array_equal(packed.unpack(words, width), mask)


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "LA", "P", "I;16", "1"])
def test_dark_colours_count_as_opencv_counts_them(kind):
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(3)
    if kind == "P":
        picture = Image.fromarray(rng.integers(0, 256, (40, 50), np.uint8), "P")
        picture.putpalette(rng.integers(0, 12, 768, np.uint8).tobytes())
    elif kind == "I;16":
        picture = Image.fromarray(rng.integers(0, 700, (40, 50), np.uint16))
    elif kind == "1":
        picture = Image.fromarray(rng.random((40, 50)) < 0.5)
    else:
        bands = [Image.fromarray(rng.integers(0, 9, (60, 70), np.uint8)) for _ in kind]
        picture = Image.merge(kind, bands)
    assert picture.mode == kind
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    data = buffer.getvalue()
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE) != 0
    words, width = read_packed(data, "x.png")
    assert np.array_equal(packed.unpack(words, width), expected)
    assert 0 < expected.mean() < 1


def test_damaged_pictures_get_one_line():
    rows = np.zeros((30, 50), np.uint8)
    rows[5:20, 7:40] = 255
    whole = png(rows, [1])
    short = zlib.compress(b"\x01" + bytes(50))
    broken = {
        "a byte": whole[:60] + bytes([whole[60] ^ 1]) + whole[61:],
        "the end": whole[: len(whole) // 2],
        "rows": whole[:33] + chunk(b"IDAT", short) + chunk(b"IEND", b""),
        "no rows": whole[:33] + chunk(b"IEND", b""),
        "no stream": whole[:33] + chunk(b"IDAT", b"nothing of zlib") + chunk(b"IEND", b""),
    }
    for what, data in broken.items():
        with pytest.raises(DatasetError, match="x.png is not a readable picture"):
            read_packed(data, "x.png")
            pytest.fail(what)


def test_a_transparent_value_stays_what_it_is():
    rows = np.full((6, 9), 255, np.uint8)
    data = png(rows, [0], before=chunk(b"tRNS", struct.pack(">H", 255)))
    words, width = read_packed(data, "x.png")
    assert packed.unpack(words, width).all()
