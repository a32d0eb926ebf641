"""Arrays, zarr stores and TIFF stacks."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from flowrvs.errors import MissingPathError, VideoError
from flowrvs.video import open_video
from flowrvs.video.arrays import ArrayFrames, axis_letters

from .clips import coded_frame, number_in

COLOUR = np.stack([coded_frame(n) for n in range(11)])
GREY = COLOUR[..., 0]
AS_RGB = np.repeat(GREY[..., None], 3, axis=3)


@pytest.mark.parametrize("wrap", [np.asarray, lambda a: da.from_array(a, chunks=4)])
@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (COLOUR, COLOUR),
        (GREY, AS_RGB),
        (GREY[..., None], AS_RGB),
        (np.concatenate([COLOUR, GREY[..., None]], axis=3), COLOUR),
        (COLOUR[:1], COLOUR[:1]),
    ],
    ids=["rgb", "grey", "one_channel", "rgba", "one_frame"],
)
def test_shapes(array, expected, wrap):
    with open_video(wrap(array), chunk=4) as video:
        assert video.info.kind == "array" and video.info.path is None
        assert np.array_equal(video.read(0, len(video)), expected)
        assert np.array_equal(video.frames.compute(), expected)
        n = len(video) - 1
        assert np.array_equal(video.read(n, n + 1)[0], expected[n])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([False, True]), [0, 255]),
        (np.array([0, 200], np.uint8), [0, 200]),
        (np.array([0, 100], np.uint16), [0, 100]),
        (np.array([0, 4095], np.uint16), [0, 255]),
        (np.array([0, 4096], np.uint16), [0, 128]),
        (np.array([0, 65535], ">u2"), [0, 255]),
        (np.array([-1000, 1000], np.int16), [0, 255]),
        (np.array([0, 255], np.int64), [0, 255]),
        (np.array([0, 0.5, 1], np.float32), [0, 128, 255]),
        (np.array([0, 0.5, 1], np.float16), [0, 128, 255]),
        (np.array([0, 17.4, 255], np.float64), [0, 17, 255]),
        (np.array([-1, 0, 1], np.float32), [0, 128, 255]),
        (np.array([0, 500, 1000], np.float64), [0, 128, 255]),
        (np.array([np.nan, 0, 1, np.inf], np.float32), [0, 0, 255, 255]),
        (np.array([np.nan, 0, 500, 1000, np.inf]), [0, 0, 128, 255, 255]),
        (np.array([-5, -5], np.int32), [0, 0]),
    ],
)
def test_conversion_to_uint8(values, expected):
    array = np.tile(values, (3, 4, 1))
    with open_video(array) as video:
        assert video.read(0, 3)[2, 1, :, 0].tolist() == expected
        assert video.frames.dtype == np.uint8


def test_conversion_does_not_flicker_and_limits_override_it():
    array = np.stack([np.full((4, 5), v, np.uint16) for v in (10, 500, 1000)])
    with open_video(array) as video:
        assert [int(f[0, 0, 0]) for f in video.read(0, 3)] == [2, 125, 249]
        assert int(video.read(0, 1)[0, 0, 0, 0]) == 2
    with open_video(array, limits=(10, 1000)) as video:
        assert [int(f[0, 0, 0]) for f in video.read(0, 3)] == [0, 126, 255]
    late = np.full((20, 4, 5), 100, np.uint16)
    late[19] = 4095  # 12 bits, as the last frame alone shows
    with open_video(late) as video:
        assert video.read(0, 20)[[0, 19], 0, 0, 0].tolist() == [6, 255]
    for limits in ((5, 5), (0, float("nan"))):
        with pytest.raises(VideoError, match="limits"):
            open_video(array, limits=limits)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 5)), "shape 4x5"),
        (np.zeros((2, 3, 4, 5)), "5 channels"),
        (np.zeros((2, 3, 4, 2)), "2 channels"),
        (np.zeros((0, 4, 5)), "no pixels"),
        (np.zeros((3, 0, 5)), "no pixels"),
        (np.zeros((1, 2, 3, 4, 3)), "shape"),
        (np.zeros((2, 3, 4), complex), "complex128"),
        (np.zeros((2, 3, 4), "U3"), "<U3"),
    ],
)
def test_arrays_that_are_no_video(array, words):
    with pytest.raises(VideoError, match=words):
        open_video(array)


def test_lazy_array_is_read_frame_by_frame():
    asked = []

    def block(block_info=None):
        asked.append(block_info[None]["array-location"][0])
        return np.zeros((2, 6, 8), np.uint8)

    lazy = da.map_blocks(
        block, chunks=((2,) * 50, 6, 8), dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8)
    )
    with open_video(lazy) as video:
        assert asked == []
        video.read(10, 12)
        assert asked == [(10, 12)]
        video.read(15, 16)
        assert asked == [(10, 12), (14, 16)]


def test_failing_array_is_one_line():
    def broken(_):
        raise RuntimeError("the disk is gone\nand more")

    lazy = da.zeros((4, 6, 8), dtype=np.uint8, chunks=1).map_blocks(broken, dtype=np.uint8)
    with open_video(lazy) as video, pytest.raises(VideoError, match="the disk is gone"):
        video.read(0, 1)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("data", [COLOUR, GREY, GREY.astype(np.uint16) * 16])
def test_zarr(tmp_path, version, data):
    path = tmp_path / "v.zarr"
    zarr.create_array(path, data=data, chunks=(3, *data.shape[1:]), zarr_format=version)
    expected = COLOUR if data.ndim == 4 else AS_RGB
    with open_video(path) as video:
        assert video.info.kind == "zarr" and video.info.path == str(path)
        assert np.abs(video.read(2, 9).astype(int) - expected[2:9]).max() <= 1
        order = [7, 1, 10, 0]
        assert [number_in(video.frames[n].compute()) for n in order] == order
        assert len(video.info.fingerprint) == 64
    with open_video(zarr.open_array(path, mode="r")) as video:
        assert [number_in(f) for f in video.read(0, 11)] == list(range(11))


@pytest.mark.parametrize("version", [2, 3])
def test_ome_zarr_level_0(tmp_path, version):
    group = zarr.open_group(tmp_path / "o.ome.zarr", mode="w", zarr_format=version)
    full = np.moveaxis(COLOUR, 3, 1)[:, :, None]
    group.create_array("0", data=full, chunks=(1, 1, 1, 64, 96))
    group.create_array("1", data=full[..., ::2, ::2], chunks=(1, 1, 1, 32, 48))
    axes = [{"name": a} for a in "tczyx"]
    scales = [{"axes": axes, "datasets": [{"path": "0"}, {"path": "1"}]}]
    group.attrs.update(
        {"ome": {"multiscales": scales}} if version == 3 else {"multiscales": scales}
    )
    with open_video(tmp_path / "o.ome.zarr") as video:
        assert np.array_equal(video.read(0, 11), COLOUR)


def test_zarr_dimension_names_and_groups(tmp_path):
    path = tmp_path / "n.zarr"
    turned = np.ascontiguousarray(np.moveaxis(COLOUR, 0, 2))
    zarr.create_array(
        path, data=turned, chunks=(64, 96, 1, 3), dimension_names=["y", "x", "time", "c"]
    )
    with open_video(path) as video:
        assert np.array_equal(video.read(0, 11), COLOUR)
    zarr.create_array(tmp_path / "z.zarr", data=GREY, dimension_names=["z", "y", "x"])
    with open_video(tmp_path / "z.zarr") as video:  # planes alone count as time
        assert np.array_equal(video.read(0, 11), AS_RGB)
    group = zarr.open_group(tmp_path / "g.zarr", mode="w")
    with pytest.raises(VideoError, match="none"):
        open_video(tmp_path / "g.zarr")
    group.create_array("film", data=COLOUR)
    with open_video(tmp_path / "g.zarr") as video:
        assert np.array_equal(video.read(3, 4), COLOUR[3:4])
    group.create_array("other", data=COLOUR)
    with pytest.raises(VideoError, match="film, other|other, film"):
        open_video(tmp_path / "g.zarr")
    (tmp_path / "bad.zarr").mkdir()
    (tmp_path / "bad.zarr" / "zarr.json").write_text("{")
    with pytest.raises(VideoError, match="cannot be read as zarr"):
        open_video(tmp_path / "bad.zarr")


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (COLOUR, {"photometric": "rgb"}),
        (COLOUR, {"photometric": "rgb", "compression": "zlib"}),
        (COLOUR, {"photometric": "rgb", "planarconfig": "separate"}),
        (GREY, {"photometric": "minisblack"}),
        (GREY, {"photometric": "minisblack", "imagej": True}),
        (GREY, {"photometric": "minisblack", "ome": True, "metadata": {"axes": "TYX"}}),
        (GREY, {"photometric": "minisblack", "bigtiff": True}),
        (GREY.astype(np.uint16) * 257, {"photometric": "minisblack"}),
        (GREY.astype(np.float32) / 255, {"photometric": "minisblack"}),
        (GREY, {"photometric": "minisblack", "tile": (32, 32)}),
        (COLOUR[:1], {"photometric": "rgb"}),
    ],
)
def test_tiff_stacks(tmp_path, data, options):
    path = tmp_path / "s.tif"
    if options.get("planarconfig"):
        data = np.moveaxis(data, 3, 1)
    tifffile.imwrite(path, data, **options)
    expected = AS_RGB if data.ndim == 3 else COLOUR[: len(data)]
    with open_video(path) as video:
        assert video.info.kind == "tiff"
        assert np.array_equal(video.read(0, len(video)), expected)
        n = len(video) - 1
        assert np.array_equal(video.frames[n].compute(), expected[n])


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate", None])
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_tiffs_written_by_other_programs(tmp_path, compression, mode):
    pages = [Image.fromarray(f).convert(mode) for f in COLOUR]
    path = tmp_path / "p.tiff"
    pages[0].save(path, save_all=True, append_images=pages[1:], compression=compression)
    with open_video(path) as video:
        assert len(video) == 11
        for n in (10, 0, 4):
            assert np.array_equal(video.read(n, n + 1)[0], np.asarray(pages[n].convert("RGB")))


def test_bad_tiffs(tmp_path):
    path = tmp_path / "m.tif"
    with tifffile.TiffWriter(path) as out:
        out.write(GREY[0], photometric="minisblack")
        out.write(GREY[0, :32], photometric="minisblack")
    with pytest.raises(
        VideoError,
        match=r"Page 1 of .*m\.tif differs in size or type: 32x96 uint8, others are 64x96",
    ):
        open_video(path)
    tifffile.imwrite(path, GREY, photometric="minisblack")
    data = path.read_bytes()
    path.write_bytes(data[:40])
    with pytest.raises(VideoError):
        open_video(path)
    path.write_bytes(data[: len(data) // 2])
    try:
        with open_video(path) as video:
            frames = video.read(0, len(video))
            assert np.array_equal(frames, AS_RGB[: len(frames)])
    except VideoError as error:
        assert "\n" not in str(error)


def test_npy(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, COLOUR)
    with open_video(path) as video:
        assert np.array_equal(video.read(4, 6), COLOUR[4:6])
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(VideoError, match="cannot be read as a numpy array"):
        open_video(path)
    with pytest.raises(MissingPathError):
        open_video(tmp_path / "b.npy")


def test_chunks_have_a_largest_size_and_frames_a_largest_number_of_them(tmp_path, monkeypatch):
    path = tmp_path / "z.zarr"
    zarr.create_array(path, data=np.zeros((4, 8, 8), np.uint8), chunks=(2, 4, 2))
    # 16 bytes each, eight a frame, whatever the number of frames.
    for name, least, message in (
        ("MAX_CHUNK", 16, "has chunks of 16 bytes; save it with smaller ones"),
        ("MAX_PIECES", 8, "has frames of too many chunks; save it with larger ones"),
    ):
        monkeypatch.setattr(f"flowrvs.video.zarr_store.{name}", least)
        with open_video(path) as video:
            assert len(video) == 4
        monkeypatch.setattr(f"flowrvs.video.zarr_store.{name}", least - 1)
        with pytest.raises(VideoError, match=message):
            open_video(path)
        monkeypatch.undo()


class Recorded:
    """An array that notes which frames are read."""

    def __init__(self, array: np.ndarray, chunks: tuple[int, ...] | None = None) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.chunks = chunks
        self.read: list[tuple[int, int]] = []

    def __getitem__(self, index: tuple) -> np.ndarray:
        self.read.append((index[0].start, index[0].stop))
        return self.array[index]


def test_frames_that_lie_together_are_read_together_and_kept():
    array = Recorded(COLOUR, chunks=(4, 64, 96, 3))
    with open_video(array) as video:
        assert np.array_equal(video.read(3, 9), COLOUR[3:9])
        assert array.read == [(0, 4), (4, 8), (8, 11)]
        assert np.array_equal(video.read(0, 11), COLOUR)
        assert len(array.read) == 3, "all of it is kept"
    with open_video(array, cache_bytes=4 * 64 * 96 * 3) as video:  # room for a block of one
        array.read.clear()
        assert np.array_equal(video.read(2, 5), COLOUR[2:5])
        assert array.read == [(2, 5)]
    with open_video(array, cache_bytes=8 * 64 * 96 * 3) as video:  # of two, and eight are kept
        array.read.clear()
        assert np.array_equal(video.read(1, 6), COLOUR[1:6])
        assert array.read == [(0, 2), (2, 4), (4, 6)]
    single = Recorded(COLOUR)
    with open_video(single) as video:
        assert np.array_equal(video.read(2, 7), COLOUR[2:7])
        assert np.array_equal(video.read(2, 7), COLOUR[2:7])
        assert single.read == [(2, 7)] * 2, "nothing is kept of what is quick to read"


def test_an_array_may_claim_so_many_frames(monkeypatch):
    monkeypatch.setattr("flowrvs.video.arrays.MAX_FRAMES", 11)
    with open_video(COLOUR) as video:
        assert len(video) == 11
    monkeypatch.setattr("flowrvs.video.arrays.MAX_FRAMES", 10)
    with pytest.raises(VideoError) as caught:
        open_video(COLOUR)
    assert str(caught.value) == (
        "the array claims 11 frames of 96x64, more than can be read; give a part of it."
    )
    huge = np.broadcast_to(np.uint8(0), (2, 2, 2**15 + 1))
    with pytest.raises(VideoError, match="claims 2 frames of 32769x2, more than can be read"):
        open_video(huge)


@pytest.mark.parametrize(
    ("names", "letters"),
    [
        (["time", "Height", "WIDTH", "rgb"], "TYXC"),
        (["z", "rows", "columns"], "ZYX"),
        (["t", "depth", "row", "column", "band"], "TZYXC"),
        (["frames", "y", "x", "s"], "TYXC"),
        (["time", None, "x"], None),
        (["time", "lens", "x"], None),
        ([], None),
        (None, None),
    ],
)
def test_names_of_axes(names, letters):
    assert axis_letters(names) == letters


@pytest.mark.parametrize(
    ("shape", "axes", "message"),
    [
        ((3, 4, 5), "TYXC", "v has the axes TYXC (3x4x5); a video needs T, Y and X."),
        ((3, 4, 5), "TYY", "v has the axes TYY (3x4x5); a video needs T, Y and X."),
        ((3, 4, 5), "CYX", "v has the axes CYX (3x4x5); a video needs T, Y and X."),
        ((3, 4), "YX", "v has the axes YX (3x4); a video needs T, Y and X."),
        ((3, 4, 5, 6), "ZZYX", "v has the axes ZZYX (3x4x5x6); a video needs T, Y and X."),
        (
            (2, 7, 4, 5),
            "TZYX",
            "v has 7 planes along Z (TZYX 2x7x4x5); choose one of them and give that array.",
        ),
        (
            (2, 7, 4, 5),
            "TCYX",
            "v has 7 channels (TCYX 2x7x4x5); pictures have 1 (grey), 3 (RGB) or 4 (RGBA): choose "
            "some and give that array.",
        ),
        ((0, 4, 5), "TYX", "v holds no pixels (0x4x5); a video needs at least one frame."),
    ],
)
def test_axes_that_are_no_videos(shape, axes, message):
    with pytest.raises(VideoError) as caught:
        ArrayFrames(np.zeros(shape, np.uint8), axes, where="v")
    assert str(caught.value) == message


def test_axes_in_any_order():
    for axes, array in (
        ("CXTY", COLOUR.transpose(3, 2, 0, 1)),
        ("ZYXC", COLOUR),  # planes alone count as time
        ("QTYXC", COLOUR[None]),
        ("TZYXC", COLOUR[:, None]),
    ):
        frames, out = ArrayFrames(array, axes), np.empty((3, 64, 96, 3), np.uint8)
        assert (len(frames), frames.height, frames.width) == (11, 64, 96)
        frames.read_into(out, 4)
        assert np.array_equal(out, COLOUR[4:7])


def test_closing_lets_go_of_the_file_beneath():
    class Owner:
        closed = 0

        def close(self):
            self.closed += 1

    owner = Owner()
    frames, out = ArrayFrames(COLOUR, block=4, owner=owner), np.empty((1, 64, 96, 3), np.uint8)
    frames.read_into(out, 0)
    frames.close()
    assert owner.closed == 1
    with pytest.raises(VideoError, match=r"^the array was closed; open it again\.$"):
        frames.read_into(out, 1)


def test_which_array_of_a_zarr_group_is_the_video(tmp_path):
    group = zarr.open_group(tmp_path / "g.zarr", mode="w")
    group.create_array("flat", data=GREY[0])
    group.create_array("deep", data=np.zeros((2, 2, 2, 2, 3), np.uint8))
    with pytest.raises(VideoError) as caught:
        open_video(tmp_path / "g.zarr")
    assert str(caught.value) == (
        f"{tmp_path / 'g.zarr'} is a zarr group with several arrays or none that could be a video "
        "(found: none); give the path of one array."
    )
    group.create_array("grey", data=GREY)
    with open_video(tmp_path / "g.zarr") as video:
        assert np.array_equal(video.read(0, 11), AS_RGB)
    group.create_array("colour", data=COLOUR)
    with pytest.raises(VideoError, match=r"\(found: (grey, colour|colour, grey)\)"):
        open_video(tmp_path / "g.zarr")
    del group["grey"]
    with open_video(tmp_path / "g.zarr") as video:
        assert np.array_equal(video.read(0, 11), COLOUR)


@pytest.mark.parametrize(
    "multiscales",
    [
        [{"axes": ["t", "c", "z", "y", "x"], "datasets": [{"path": "full"}]}],  # version 0.3
        [{"datasets": [{"path": "full"}, {"path": "half"}]}],  # before: these five
        [{"datasets": [{"path": "full"}]}, {"datasets": [{"path": "half"}]}],
    ],
)
def test_older_ome_zarr(tmp_path, multiscales):
    group = zarr.open_group(tmp_path / "o.zarr", mode="w", zarr_format=2)
    full = np.moveaxis(COLOUR, 3, 1)[:, :, None]
    group.create_array("full", data=full)
    group.create_array("half", data=full[..., ::2, ::2])
    group.attrs["multiscales"] = multiscales
    with open_video(tmp_path / "o.zarr") as video:
        assert np.array_equal(video.read(0, 11), COLOUR)


def test_axes_as_xarray_names_them(tmp_path):
    array = zarr.create_array(
        tmp_path / "x.zarr", data=np.moveaxis(COLOUR, 0, 2), zarr_format=2, chunks=(64, 96, 4, 3)
    )
    array.attrs["_ARRAY_DIMENSIONS"] = ["y", "x", "time", "band"]
    with open_video(tmp_path / "x.zarr") as video:
        assert np.array_equal(video.read(2, 9), COLOUR[2:9])


def test_the_hash_of_a_zarr_is_of_its_size_and_four_frames(tmp_path):
    import hashlib

    zarr.create_array(tmp_path / "z.zarr", data=GREY)
    shown = b"".join(AS_RGB[n].tobytes() for n in (0, 3, 7, 10))
    with open_video(tmp_path / "z.zarr") as video:
        expected = hashlib.sha256(b"11 64 96" + shown).hexdigest()
        assert video.info.fingerprint == expected
    zarr.create_array(tmp_path / "1.zarr", data=GREY[:1])
    with open_video(tmp_path / "1.zarr") as video:
        expected = hashlib.sha256(b"1 64 96" + AS_RGB[0].tobytes()).hexdigest()
        assert video.info.fingerprint == expected


def test_files_of_a_zarr_are_as_large_as_its_chunks_at_most(tmp_path, monkeypatch):
    path = tmp_path / "z.zarr"
    zarr.create_array(path, data=GREY[:2], chunks=(1, 64, 96), compressors=None)
    chunk = path / "c" / "1" / "0" / "0"
    # A small chunk may take 64 kB, a tenth of that, and 64 kB more.
    for size, message in (
        (int(1.1 * 2**16 + 2**16), "Frames 1 to 1 of"),
        (int(1.1 * 2**16 + 2**16) + 1, "is larger than its array allows; get another copy."),
    ):
        chunk.write_bytes(bytes(size))
        with pytest.raises(VideoError, match=message):
            open_video(path)
    chunk.write_bytes(GREY[1].tobytes())
    length = (path / "zarr.json").stat().st_size
    monkeypatch.setattr("flowrvs.video.zarr_store.MAX_METADATA", length)
    open_video(path).close()
    monkeypatch.setattr("flowrvs.video.zarr_store.MAX_METADATA", length - 1)
    with pytest.raises(VideoError, match=r"zarr\.json is larger than its array allows"):
        open_video(path)
