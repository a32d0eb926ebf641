"""What `open_video` returns: facts, indexing, and the recipe by which it is opened again."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import av
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from flowrvs.errors import VideoError
from flowrvs.records import VideoInfo
from flowrvs.video import open_video
from flowrvs.video.probe import fingerprint

from .clips import coded_frame, write_clip

FRAMES = np.stack([coded_frame(n, 32, 48) for n in range(21)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for n in range(4):
        Image.fromarray(FRAMES[n]).save(tmp_path / f"{n}.png")
    return tmp_path


INDICES = [
    7,
    -1,
    slice(None),
    slice(3, 9),
    slice(-3, None),
    slice(18, 3, -5),
    slice(9, 3),
    [4, 5, 6, 2, 2, 20],
    np.array([19, 0]),
    np.arange(21) % 4 == 1,
    np.zeros(21, bool),
    (slice(2, 12, 3), slice(None), slice(5, 9)),
    (slice(0, 2), 3, 4, 1),
    (8, slice(None, None, 2), 7),
    ([1, 0], slice(4, 6)),
]


@pytest.mark.parametrize("index", INDICES, ids=range(len(INDICES)))
def test_frames_are_indexed_as_an_array_is(index: object) -> None:
    with open_video(FRAMES, chunk=4) as video:
        found = video.frames[index].compute()
    np.testing.assert_array_equal(found, FRAMES[index])
    assert found.dtype == np.uint8


def test_what_is_known_of_each_kind(folder: Path) -> None:
    np.save(folder / "a.npy", FRAMES)
    mp4 = write_clip(folder / "v.mp4", count=5, size=(48, 32), rate=30)
    with open_video(FRAMES) as video:
        assert video.info == VideoInfo(None, "array", 21, 32, 48)
        assert repr(video) == "<Video array: 21 frames of 48x32>"
        assert (video.recipe, video.times, video.damaged_frames) == (None, None, frozenset())
        with pytest.raises(TypeError, match="over an array in memory cannot be pickled"):
            pickle.dumps(video)
    with open_video(folder / "a.npy") as video:
        mark = fingerprint([folder / "a.npy"])
        assert video.info == VideoInfo(str(folder / "a.npy"), "array", 21, 32, 48, fingerprint=mark)
    with open_video(folder) as video:
        paths = [folder / f"{n}.png" for n in range(4)]
        assert video.info == VideoInfo(
            str(folder), "images", 4, 32, 48, None, ("0", "1", "2", "3"), fingerprint(paths)
        )
        assert repr(video) == f"<Video {folder}: 4 frames of 48x32>" and video.times is None
    with open_video(folder / "2.png") as video:
        assert video.info == VideoInfo(
            str(folder / "2.png"), "images", 1, 32, 48, None, ("2",), fingerprint(paths[2:3])
        )
    with open_video([folder / "2.png", folder / "0.png"]) as video:
        assert video.info.path == str(folder) and video.info.frame_names == ("2", "0")
    with open_video(mp4) as video:
        info = VideoInfo(str(mp4), "video", 5, 32, 48, 30.0, (), fingerprint([mp4]))
        assert video.info == info and video.shape == (5, 32, 48, 3) and len(video) == 5
        np.testing.assert_allclose(video.times, np.arange(5) / 30, atol=1e-6)


def test_a_video_is_opened_again_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = dict(chunk=3, damaged="repeat", limits=(10.0, 20.0), cache_bytes=2**20)
    np.save(folder / "deep.npy", FRAMES.astype(np.uint16))
    monkeypatch.chdir(folder)
    for source, again in (
        ("deep.npy", str(folder / "deep.npy")),
        (Path("deep.npy"), str(folder / "deep.npy")),
        (["1.png", Path("0.png")], [str(folder / "1.png"), str(folder / "0.png")]),
    ):
        with open_video(source, **options) as video:
            assert video.recipe == {"source": again, **options}
            video.recipe["chunk"] = 99
            assert video.recipe["chunk"] == 3, "it is a copy"
            assert video.frames.chunksize[0] == min(3, len(video))
            with open_video(**video.recipe) as second, pickle.loads(pickle.dumps(video)) as third:
                assert second.recipe == third.recipe == video.recipe
                np.testing.assert_array_equal(second.read(0, 2), video.read(0, 2))
                np.testing.assert_array_equal(third.read(0, 2), video.read(0, 2))
    with open_video("deep.npy") as video:
        plain = dict(chunk=16, damaged="raise", limits=None, cache_bytes=256 * 2**20)
        assert video.recipe == {"source": str(folder / "deep.npy"), **plain}


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (FRAMES, {"damaged": "skip"}, "damaged='skip' is not known; use 'raise' or 'repeat'."),
        (FRAMES, {"chunk": 0}, "chunk=0 must be at least 1 frame."),
        (3.5, {}, "A float is no video; give a path or an array."),
        ([], {}, "A list is no video; give a path or an array."),
        ([1, "a"], {}, "A list is no video; give a path or an array."),
    ],
)
def test_what_is_no_source_is_told(source: object, options: dict, message: str) -> None:
    with pytest.raises(VideoError) as caught:
        open_video(source, **options)
    assert str(caught.value) == message


def test_a_list_is_of_images_alone(folder: Path) -> None:
    video = write_clip(folder / "v.mp4", count=2)
    with pytest.raises(VideoError) as caught:
        open_video([folder / "0.png", video])
    assert str(caught.value) == f"{video} is no image; a list must name one image a frame."


@pytest.mark.parametrize(
    ("start", "stop"), [(-1, 3), (0, 22), (5, 4), (22, 22)], ids=["before", "beyond", "back", "far"]
)
def test_ranges_that_are_not_there(start: int, stop: int) -> None:
    with open_video(FRAMES) as video:
        with pytest.raises(VideoError) as caught:
            video.read(start, stop)
        assert str(caught.value) == (
            f"Frames {start} to {stop} were asked for, but the video has 0 to 21."
        )
        assert video.read(21, 21).shape == video.read(0, 0).shape == (0, 32, 48, 3)


def test_a_closed_video_names_itself(folder: Path) -> None:
    for source, name in ((FRAMES, "The video"), (folder, str(folder))):
        with open_video(source) as video:
            pass
        with pytest.raises(VideoError) as caught:
            video.read(0, 1)
        assert str(caught.value) == f"{name} was closed; open it again."


@pytest.mark.parametrize(("stated", "given"), [(25.2, "stated"), (25.3, "measured")])
def test_the_stated_rate_counts_where_it_is_about_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stated: float, given: str
) -> None:
    from dataclasses import replace

    from flowrvs.video import file

    build = file.build_index
    monkeypatch.setattr(file, "build_index", lambda *a, **k: replace(build(*a, **k), rate=stated))
    with open_video(write_clip(tmp_path / "v.mp4", count=11)) as video:
        assert video.info.rate == pytest.approx(stated if given == "stated" else 25)


def test_what_can_be_read_of_a_file_that_was_cut_off(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "w.mkv", count=30, options={"x264-params": "bframes=0"})
    with av.open(str(whole)) as container:
        places = [p.pos for p in container.demux(video=0) if p.size]
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: places[20] + 3])
    missing = whole.stat().st_size - places[20] - 3
    with pytest.raises(VideoError) as caught:
        open_video(cut)
    assert str(caught.value) == (
        f"{cut} was cut off: {missing} bytes are missing at its end; get a complete copy, or "
        "repair it with 'ffmpeg -i IN -c copy OUT', or go on with the last good frame "
        "(damaged='repeat', --damaged repeat)."
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_video(whole) as full, open_video(cut, damaged="repeat") as video:
            assert 18 <= len(video) <= 20
            np.testing.assert_array_equal(video.read(0, len(video)), full.read(0, len(video)))
    mp4 = write_clip(tmp_path / "w.mp4", count=5)
    data = mp4.read_bytes()
    mp4.write_bytes(data[: data.index(b"moov") - 4])
    for how in ("raise", "repeat"):
        with pytest.raises(VideoError) as caught:
            open_video(mp4, damaged=how)
        assert str(caught.value) == (
            f"{mp4} was cut off: its index (moov) is missing; get a complete copy, or repair it "
            "with 'ffmpeg -i IN -c copy OUT'."
        )


@pytest.mark.parametrize("words", ["Invalid data found", None])
def test_a_file_that_cannot_be_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str | None
) -> None:
    from flowrvs.video import index

    path = write_clip(tmp_path / "v.mp4", count=30, options={"x264-params": "bframes=0"})
    with open_video(path) as video:
        whole = video.read(0, 30)
    packets = index.packets

    def breaks(*of: object) -> object:
        for n, packet in enumerate(packets(*of)):
            if n == 12:
                error = av.error.InvalidDataError(1094995529, "x")
                error.strerror = words
                raise error
            yield packet

    monkeypatch.setattr(index, "packets", breaks)
    with pytest.raises(VideoError) as caught:
        open_video(path)
    assert str(caught.value) == (
        f"{path} breaks off after frame 10 ({words or 'InvalidDataError'}); get a complete copy, "
        "or repair it with 'ffmpeg -i IN -c copy OUT', or go on with the last good frame "
        "(damaged='repeat', --damaged repeat)."
    )
    with open_video(path, damaged="repeat") as video:
        assert len(video) == 11
        np.testing.assert_array_equal(video.read(0, 11), whole[:11])


@pytest.mark.parametrize("kind", ["array", "npy", "zarr", "tif", "images"])
def test_limits_and_the_cache_reach_every_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    from flowrvs.video import arrays, images

    deep = np.array([0, 250, 500, 1000, 2000], np.uint16)[:, None, None] + np.zeros((5, 4, 6), "u2")
    source: object = tmp_path / f"v.{kind}"
    if kind == "array":
        source = deep
    elif kind == "npy":
        np.save(source, deep)
    elif kind == "zarr":
        zarr.create_array(source, data=deep)
    elif kind == "tif":
        tifffile.imwrite(source, deep, photometric="minisblack")
    else:
        source = tmp_path
        for n, frame in enumerate(deep):
            Image.fromarray(frame).save(tmp_path / f"{n}.png")
    asked: list[int] = []
    for module in (arrays, images):
        stock = module.FrameCache
        monkeypatch.setattr(
            module, "FrameCache", lambda size, stock=stock: (asked.append(size), stock(size))[1]
        )
    with open_video(source, limits=(0, 1000), cache_bytes=12345) as video:
        assert video.read(0, 5)[:, 0, 0, 0].tolist() == [0, 64, 128, 255, 255]
    with open_video(source) as video:  # 2000 has 11 bits
        assert video.read(0, 5)[:, 0, 0, 0].tolist() == [0, 31, 62, 125, 249]
    assert asked == [12345, 256 * 2**20]
