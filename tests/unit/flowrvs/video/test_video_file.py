"""Files of every awkward kind: whatever is asked for in whatever order is the right frame."""

from __future__ import annotations

import random
import threading
from types import SimpleNamespace

import av
import numpy as np
import pytest

from flowrvs.video import open_video
from flowrvs.video.index import PacketIndex

from .clips import coded_frame, decode_in_order, number_in, write_clip

X264 = "keyint=25:min-keyint=25:scenecut=0:bframes=3:b-adapt=0"
X265 = X264 + ":log-level=none:pools=none:frame-threads=1"
IRREGULAR = [0]
for _n in range(300):
    IRREGULAR.append(IRREGULAR[-1] + (4, 10, 10, 31, 7)[_n % 5])

KINDS = {
    "long_gop.mp4": dict(options={"x264-params": X264.replace("25", "250")}, count=100),
    "b_frames.mp4": dict(options={"x264-params": X264}),
    "b_pyramid.mkv": dict(options={"x264-params": X264 + ":b-pyramid=normal:ref=4"}),
    "open_gop.mp4": dict(options={"x264-params": X264 + ":open-gop=1"}),
    "open_gop.ts": dict(options={"x264-params": X264 + ":open-gop=1"}),
    "open_gop.mkv": dict(options={"x264-params": X264 + ":open-gop=1"}),
    "vfr.mp4": dict(options={"x264-params": X264}, pts=IRREGULAR.__getitem__),
    "vfr.mkv": dict(options={"x264-params": X264}, pts=IRREGULAR.__getitem__),
    "late_start.mp4": dict(options={"x264-params": X264}, pts=lambda n: 10 * n + 777),
    "late_start.ts": dict(options={"x264-params": X264}, pts=lambda n: 10 * n + 90001),
    "intra_refresh.ts": dict(options={"x264-params": "keyint=25:intra-refresh=1:bframes=0"}),
    "no_times.h264": dict(options={"x264-params": X264}, format="h264"),
    "b_frames.avi": dict(options={"x264-params": X264}),
    "b_frames.flv": dict(options={"x264-params": X264}),
    "fragments.mp4": dict(
        options={"x264-params": X264}, container={"movflags": "frag_keyframe+empty_moov"}
    ),
    "hevc.mp4": dict(codec="libx265", options={"x265-params": X265}),
    "hevc_open_gop.mp4": dict(codec="libx265", options={"x265-params": X265 + ":open-gop=1"}),
    "hevc_open_gop.ts": dict(codec="libx265", options={"x265-params": X265 + ":open-gop=1"}),
    "mpeg4_b.avi": dict(codec="mpeg4", options={"g": "25", "bf": "2", "b": "2M"}),
    "mpeg2.ts": dict(codec="mpeg2video", options={"g": "15", "bf": "2", "b": "2M"}),
    "mpeg2.mpg": dict(codec="mpeg2video", options={"g": "15", "bf": "2", "b": "2M"}),
    "mpeg1.mpg": dict(codec="mpeg1video", options={"g": "15", "bf": "2", "b": "2M"}),
    "vp9_altref.webm": dict(
        codec="libvpx-vp9",
        options={
            "g": "25",
            "auto-alt-ref": "1",
            "lag-in-frames": "16",
            "deadline": "realtime",
            "cpu-used": "8",
        },
        count=60,
    ),
    "vp8.webm": dict(
        codec="libvpx", options={"g": "25", "deadline": "realtime", "cpu-used": "8", "b": "2M"}
    ),
    "av1.mp4": dict(
        codec="libsvtav1", options={"g": "25", "preset": "12", "svtav1-params": "lp=1"}, count=60
    ),
    "mjpeg.avi": dict(codec="mjpeg", pix_fmt="yuvj420p"),
    "ffv1.mkv": dict(codec="ffv1", pix_fmt="yuv444p"),
    "prores.mov": dict(codec="prores_ks", pix_fmt="yuv422p10le", count=20),
    "wmv.wmv": dict(codec="wmv2", options={"b": "2M"}),
    "animation.gif": dict(codec="gif", pix_fmt="rgb8", count=30),
}


@pytest.fixture(scope="module", params=list(KINDS))
def clip(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / request.param
    kind = dict(KINDS[request.param])
    codec = kind.pop("codec", "libx264")
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no encoder {codec}")
    write_clip(path, codec, **kind)
    return path, decode_in_order(path)


def test_random_access_equals_decoding_in_order(clip):
    path, reference = clip
    with open_video(path, cache_bytes=0) as video:
        assert len(video) == len(reference)
        assert np.array_equal(video.read(0, len(video)), reference)
        rng = random.Random(1)
        for n in rng.sample(range(len(video)), min(40, len(video))):
            assert np.array_equal(video.read(n, n + 1)[0], reference[n]), n
        for n in range(len(video) - 1, len(video) - 12, -1):
            assert np.array_equal(video.read(n, n + 1)[0], reference[n]), n
        assert not video.damaged_frames


@pytest.mark.parametrize("name", ["open_gop.mp4", "open_gop.ts", "hevc_open_gop.mp4"])
def test_frame_threads_give_the_same_frames(tmp_path, name, monkeypatch):
    """Large frames are decoded in several threads; the switch is lowered here."""
    monkeypatch.setattr("flowrvs.video.index.SMALL", 0)
    kind = dict(KINDS[name])
    path = write_clip(tmp_path / name, kind.pop("codec", "libx264"), **kind)
    reference = decode_in_order(path)
    with open_video(path, cache_bytes=0) as video:
        assert np.array_equal(video.read(0, len(video)), reference)
        for n in random.Random(6).sample(range(len(video)), 25):
            assert np.array_equal(video.read(n, n + 1)[0], reference[n]), n


def test_frame_numbers_in_the_pixels_are_native_indices(clip):
    path, _ = clip
    with open_video(path) as video:
        order = random.Random(2).sample(range(len(video)), len(video))
        assert [number_in(video.frames[n].compute()) for n in order[:20]] == order[:20]
        assert [number_in(f) for f in video.read(0, len(video))] == list(range(len(video)))


def test_windows_through_dask_in_any_order(clip):
    path, reference = clip
    with open_video(path, chunk=7) as video:
        for start in (13, 2, 9, 0):
            window = video.frames[start : start + 17].compute()
            assert np.array_equal(window, reference[start : start + 17])


def test_times_and_rate_of_a_variable_frame_rate(tmp_path):
    path = write_clip(tmp_path / "v.mp4", count=20, pts=IRREGULAR.__getitem__)
    with open_video(path) as video:
        assert np.allclose(video.times, np.array(IRREGULAR[:20]) / 250, atol=1e-4)
        assert video.info.rate == pytest.approx(19 / (IRREGULAR[19] / 250), rel=1e-3)


def test_constant_rate_is_the_stated_one(tmp_path):
    from fractions import Fraction

    path = tmp_path / "ntsc.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=Fraction(30000, 1001))
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for n in range(10):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(coded_frame(n), format="rgb24")))
        out.mux(stream.encode(None))
    with open_video(path) as video:
        assert video.info.rate == pytest.approx(30000 / 1001, abs=1e-6)


def test_frames_whose_clock_restarts_come_at_the_stated_rate(tmp_path):
    path = tmp_path / "joined.ts"
    with av.open(str(path), "w", format="mpegts") as out:
        stream = out.add_stream("libx264", rate=50)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for n in range(6):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(coded_frame(n), format="rgb24")))
        out.mux(stream.encode(None))
    path.write_bytes(path.read_bytes() * 2)
    with open_video(path) as video:
        assert np.allclose(video.times, np.arange(12) / 50)


def test_a_packet_is_known_again_by_its_stamp_its_place_and_its_size():
    """MPEG-PS guesses other times after a seek: a stamp alone may be another packet's."""
    stamps = np.array([[0, 0, 100, 7], [20, 10, 107, 5], [10, 20, 112, 9]], np.int64)
    index = PacketIndex(
        order=np.array([0, 2, 1]),
        position=np.array([0, 2, 1]),
        keyframes=np.array([0]),
        stamps=stamps,
        key=1,
        times=np.arange(3) / 25,
        corrupt=frozenset(),
        cut="",
    )

    def ordinal(pts, dts, pos, size):
        return index.ordinal_of(SimpleNamespace(pts=pts, dts=dts, pos=pos, size=size))

    assert [ordinal(*row) for row in stamps.tolist()] == [0, 1, 2]
    assert ordinal(99, 10, 107, 5) == 1, "the other time may differ"
    assert ordinal(20, 10, 108, 5) == ordinal(20, 10, 107, 6) == ordinal(20, 11, 107, 5) == -1
    assert ordinal(20, None, 107, 5) == -1


def test_recording_cut_in_the_middle_of_a_gop(tmp_path):
    whole = write_clip(tmp_path / "whole.ts", options={"x264-params": X264 + ":open-gop=1"})
    data = whole.read_bytes()
    cut = tmp_path / "cut.ts"
    cut.write_bytes(data[len(data) // 3 // 188 * 188 :])
    reference = decode_in_order(cut)
    with open_video(cut, damaged="repeat") as video:
        assert len(video) == len(reference)
        numbers = [number_in(f) for f in video.read(0, len(video))]
    assert numbers == [number_in(f) for f in reference]
    assert numbers == list(range(numbers[0], 80))


def test_joined_recordings_whose_clock_restarts(tmp_path):
    """`cat a.ts b.ts`: pts start again in the middle, so sorting by pts would mix them."""
    a = write_clip(tmp_path / "a.ts", count=60, options={"x264-params": X264})
    joined = tmp_path / "joined.ts"
    joined.write_bytes(a.read_bytes() * 2)
    reference = decode_in_order(joined)
    with open_video(joined) as video:
        assert len(video) == len(reference) >= 118
        for n in random.Random(3).sample(range(len(video)), 30):
            assert np.array_equal(video.read(n, n + 1)[0], reference[n]), n


def test_threads_reading_everywhere_get_their_own_frames(tmp_path):
    path = write_clip(tmp_path / "t.mp4", count=120, options={"x264-params": X264})
    wrong: list[tuple[int, int]] = []

    def wander(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(25):
            start = rng.randrange(110)
            for n, frame in enumerate(video.read(start, start + rng.randrange(1, 10)), start):
                if number_in(frame) != n:
                    wrong.append((n, number_in(frame)))

    with open_video(path, cache_bytes=2**20) as video:
        threads = [threading.Thread(target=wander, args=(s,)) for s in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(t.is_alive() for t in threads)
    assert wrong == []


def test_reading_in_order_does_not_seek_again(tmp_path, monkeypatch):
    from flowrvs.video.file import Cursor

    path = write_clip(tmp_path / "s.mp4", options={"x264-params": X264})
    went: list[int] = []
    go = Cursor.go
    monkeypatch.setattr(Cursor, "go", lambda self, k: (went.append(k), go(self, k))[1])
    with open_video(path) as video:
        for start in range(0, 80, 10):
            video.read(start, start + 10)
        assert went == []
        video.read(5, 6)
        assert went == []  # from the cache


@pytest.mark.parametrize("name", ["b_frames.mp4", "b_pyramid.mkv", "late_start.ts", "b_frames.avi"])
def test_a_file_with_stamps_is_not_read_from_its_beginning_again(tmp_path, name, monkeypatch):
    """A seek that misses costs the whole way; it would give the same frames."""
    from flowrvs.video.file import MAX_CURSORS, Cursor

    path = write_clip(tmp_path / name, **KINDS[name])
    opened: list[Cursor] = []
    reopen = Cursor._reopen
    monkeypatch.setattr(Cursor, "_reopen", lambda self: (opened.append(self), reopen(self))[1])
    with open_video(path, cache_bytes=0) as video:
        for n in random.Random(8).sample(range(30, 80), 12):
            assert number_in(video.read(n, n + 1)[0]) == n
    assert len(opened) == len(set(map(id, opened))) <= MAX_CURSORS


def test_stepping_back_through_a_gop_seeks_rarely(tmp_path, monkeypatch):
    from flowrvs.video.file import Cursor

    path = write_clip(
        tmp_path / "s.mp4", count=120, options={"x264-params": X264.replace("25", "250")}
    )
    went: list[int] = []
    go = Cursor.go
    monkeypatch.setattr(Cursor, "go", lambda self, k: (went.append(k), go(self, k))[1])
    with open_video(path) as video:
        assert [number_in(video.read(n, n + 1)[0]) for n in range(119, -1, -1)] == list(
            range(119, -1, -1)
        )
    assert len(went) <= 5


def test_cache_stays_within_its_bytes(tmp_path):
    path = write_clip(tmp_path / "c.mp4")
    with open_video(path, cache_bytes=50_000) as video:
        video.read(0, 80)
        assert 0 < video._source._cache.nbytes <= 50_000


def test_closed_video_says_so(tmp_path):
    from flowrvs.errors import VideoError

    video = open_video(write_clip(tmp_path / "c.mp4", count=5))
    video.close()
    video.close()
    with pytest.raises(VideoError, match="was closed"):
        video.read(0, 1)
    with pytest.raises(VideoError, match="was closed"):
        video.frames[0].compute()


def test_pickled_video_reads_the_same(tmp_path):
    import pickle

    with open_video(write_clip(tmp_path / "p.mp4", count=12)) as video:
        copy = pickle.loads(pickle.dumps(video))
        with copy:
            assert copy.info == video.info
            assert np.array_equal(copy.read(3, 9), video.read(3, 9))
