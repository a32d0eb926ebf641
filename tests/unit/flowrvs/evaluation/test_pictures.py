"""Mask pictures of every kind, read into bits: the quick ways agree with Pillow."""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from flowrvs.data.mevis import MevisSplit
from flowrvs.errors import DatasetError, InputError, MissingPathError
from flowrvs.evaluation import packed, pictures
from flowrvs.evaluation.pictures import Predictions, choose_videos, read_mask, read_packed


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
    """Write 8-bit grey with a given filter for each row, by its number."""
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
            average = ((left.astype(int) + above) // 2).astype(np.uint8)
            change = [row, row - left, row - above, row - average][kind]
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


NOISE = np.random.default_rng(0).choice([0, 255], (12, 70)).astype(np.uint8)


@settings(max_examples=150, deadline=None)
@given(
    arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=140), elements=st.just(0))
    | arrays(
        np.uint8,
        array_shapes(min_dims=2, max_dims=2, max_side=140),
        elements=st.sampled_from([0, 255]),
    )
    | arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9)),
    st.lists(st.sampled_from([0, 1, 2, 4]), min_size=1, max_size=4)
    | st.sampled_from([[1], [3, 1]]),
    st.integers(1, 3),
)
@example(NOISE, [1, 2, 2, 4], 1)  # the row above Paeth's is a sum of those before it
@example(NOISE, [4], 2)
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


@pytest.mark.parametrize("kind", ["grey", "two values", "colour"])
def test_only_pictures_of_black_and_white_take_the_quick_way(monkeypatch, kind):
    """And those are not read twice: the slow way is for all others alone."""
    rows = np.zeros((5, 70), np.uint8)
    rows[1:4, 3:66] = 255
    rows[2, 5] = 9 if kind == "grey" else 0
    data = png(rows, [1])
    if kind == "colour":
        buffer = io.BytesIO()
        Image.fromarray(rows).convert("RGB").save(buffer, "PNG")
        data = buffer.getvalue()
    slow = []
    plainly = read_mask
    monkeypatch.setattr(pictures, "read_mask", lambda *a: slow.append(a[1]) or plainly(*a))
    words, width = read_packed(data, "x.png")
    assert width == 70 and slow == ([] if kind == "two values" else ["x.png"])
    assert np.array_equal(packed.unpack(words, width), rows != 0)


def test_dark_values_of_16_bits_are_black():
    for value, seen in ((255, False), (256, True)):
        buffer = io.BytesIO()
        Image.fromarray(np.full((2, 3), value, np.uint16)).save(buffer, "PNG")
        assert read_mask(buffer.getvalue(), "x").tolist() == [[seen] * 3] * 2


def test_predictions_are_found_in_a_folder_and_in_a_zip(tmp_path):
    whole = png(np.full((2, 3), 255, np.uint8), [0])
    for name in ("plain/v/0", "deep/Annotations/v/0"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "00000.png").write_bytes(whole)
    for top in ("plain", "deep"):
        with zipfile.ZipFile(tmp_path / f"{top}.zip", "w") as archive:
            for path in (tmp_path / top).rglob("*.png"):
                archive.write(path, path.relative_to(tmp_path / top).as_posix())
    for name in ("plain", "deep", "plain.zip", "deep.zip"):
        with Predictions(tmp_path / name) as there:
            assert there.has("v/0/00000.png") and not there.has("v/0/00001.png")
            assert not there.has("Annotations/v/0/00000.png") and not there.has("v/0")
            assert there.data("v/0/00000.png") == whole
            words, width = there.read("v/0/00000.png")
            assert packed.unpack(words, width).tolist() == [[True] * 3] * 2
            assert there.read("v/0/00001.png") is None
            with pytest.raises((MissingPathError, KeyError)):
                there.data("v/0/00001.png")
    # where it lies is told
    for top in ("deep", "plain"):
        path = next((tmp_path / top).rglob("*.png"))
        path.write_bytes(whole[:40])
        with pytest.raises(DatasetError, match=re.escape(f"{path} is not a readable picture")):
            Predictions(tmp_path / top).read("v/0/00000.png")
    damaged = bytearray((tmp_path / "plain.zip").read_bytes())
    damaged[60] ^= 255
    (tmp_path / "plain.zip").write_bytes(damaged)
    with Predictions(tmp_path / "plain.zip") as there:
        assert there._zip.fp is not None
        with pytest.raises(DatasetError, match="v/0/00000.png in .* is damaged; zip it again"):
            there.read("v/0/00000.png")
    assert there._zip.fp is None, "closed behind the block"


def test_videos_are_chosen_once_each(split):
    source = MevisSplit.open(split)
    assert choose_videos(source, None) == ["one", "two v1.0"]
    assert choose_videos(source, ["two v1.0", "one", "two v1.0"]) == ["two v1.0", "one"]
    assert choose_videos(source, []) == []
    with pytest.raises(InputError, match="no video 'three'"):
        choose_videos(source, ["one", "three"])
