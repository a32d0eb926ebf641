"""Which frames are refused or stood in for, to the frame, in files whose frames stand alone."""

from __future__ import annotations

import struct
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image

from flowrvs.errors import VideoError
from flowrvs.video import open_video
from flowrvs.video.file import MAX_CURSORS, Cursor, orientation_of
from tests.fixtures.disk import open_files

from .clips import coded_frame, write_clip

COUNT = 8
GO_ON = "choose a range without it, get another copy, or go on with the last good frame "
GO_ON += "(damaged='repeat', --damaged repeat)."


@pytest.fixture(scope="module")
def pngs(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[tuple[int, int]]]:
    """A MOV of PNG pictures, each with checksums, and where they are in it."""
    path = tmp_path_factory.mktemp("pngs") / "v.mov"
    write_clip(path, "png", pix_fmt="rgb24", count=COUNT, size=(48, 32))
    with av.open(str(path)) as container:
        places = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    return path.read_bytes(), places


def damaged(tmp_path: Path, pngs: tuple[bytes, list[tuple[int, int]]], *frames: int) -> Path:
    data = bytearray(pngs[0])
    for n in frames:
        at, size = pngs[1][n]
        data[at + size // 3 : at + size // 2] = bytes(size // 2 - size // 3)
    path = tmp_path / "v.mov"
    path.write_bytes(data)
    return path


FRAMES = np.stack([coded_frame(n, 32, 48) for n in range(COUNT)])


@pytest.mark.parametrize(
    ("bad", "asked", "known"),
    [
        ((3,), 3, "up to 2 and from 4 on"),
        ((0,), 0, "from 1 on"),
        ((7,), 7, "up to 6"),
        ((3, 4), 3, "up to 2 and from 4 on"),
        ((0, 1, 2), 2, "from 3 on"),
    ],
)
def test_a_damaged_frame_is_refused_by_number(
    tmp_path: Path,
    pngs: tuple[bytes, list[tuple[int, int]]],
    bad: tuple[int, ...],
    asked: int,
    known: str,
) -> None:
    path = damaged(tmp_path, pngs, *bad)
    with open_video(path) as video:
        assert len(video) == COUNT
        good = [n for n in range(COUNT) if n not in bad]
        for n in good:
            assert np.array_equal(video.read(n, n + 1)[0], FRAMES[n])
        with pytest.raises(VideoError) as caught:
            video.read(asked, asked + 1)
        assert str(caught.value) == (
            f"Frame {asked} of v.mov is damaged (frames {known} may be read); {GO_ON}"
        )
        for n in bad:
            with pytest.raises(VideoError, match=f"^Frame {n} of v.mov is damaged"):
                video.read(0 if n == min(bad) else n, n + 1)
        assert video.damaged_frames == set(bad)


@pytest.mark.parametrize(
    ("bad", "shown"),
    [
        ((3,), [0, 1, 2, 2, 4, 5, 6, 7]),
        ((0, 1), [2, 2, 2, 3, 4, 5, 6, 7]),
        ((3, 4, 7), [0, 1, 2, 2, 2, 5, 6, 6]),
    ],
)
def test_the_last_good_frame_stands_in(
    tmp_path: Path,
    pngs: tuple[bytes, list[tuple[int, int]]],
    bad: tuple[int, ...],
    shown: list[int],
) -> None:
    path = damaged(tmp_path, pngs, *bad)
    with open_video(path, damaged="repeat") as video:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = video.read(0, COUNT)
        np.testing.assert_array_equal(found, FRAMES[shown])
        assert [str(each.message) for each in told] == [
            f"Frame {n} of v.mov is damaged; frame {shown[n]} is shown." for n in bad
        ]
        # In any order, and without those around it.
        for n in (*bad[::-1], *range(COUNT)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert np.array_equal(video.read(n, n + 1)[0], FRAMES[shown[n]])
        assert video.damaged_frames == set(bad)


def test_a_file_of_which_nothing_can_be_shown(
    tmp_path: Path, pngs: tuple[bytes, list[tuple[int, int]]]
) -> None:
    path = damaged(tmp_path, pngs, *range(COUNT))
    for how in ("raise", "repeat"):
        with pytest.raises(VideoError) as caught:
            open_video(path, damaged=how)
        assert str(caught.value) == f"{path} holds no frame that can be decoded; it is damaged."


def test_decoders_that_failed_are_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next reader would wait for one for ever."""
    path = write_clip(tmp_path / "v.mp4", count=12)
    with open_video(path, cache_bytes=0) as video:
        expected = video.read(0, 12)

        def fails(self: Cursor) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(Cursor, "next", fails)
            for _ in range(MAX_CURSORS + 2):
                with pytest.raises(VideoError) as caught:
                    video.read(5, 6)
                assert str(caught.value) == (
                    f"{path} can no longer be read (Input/output error); is it still there?"
                )
        assert not video.damaged_frames, "the disk failed, not the frame"
        np.testing.assert_array_equal(video.read(0, 12), expected)


def test_who_waits_for_a_decoder_is_woken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = open_video(write_clip(tmp_path / "v.mp4", count=12), cache_bytes=0)
    expected = video.read(0, 12)
    go, hold, begun = Cursor.next, threading.Event(), threading.Semaphore(0)

    def slow(self: Cursor):
        begun.release()
        assert hold.wait(30)
        return go(self)

    monkeypatch.setattr(Cursor, "next", slow)
    found: dict[int, object] = {}

    def read(n: int) -> None:
        try:
            found[n] = video.read(n, n + 1)[0]
        except VideoError as error:
            found[n] = str(error)

    threads = [threading.Thread(target=read, args=(n,)) for n in range(MAX_CURSORS + 2)]
    for thread in threads:
        thread.start()
    for _ in range(MAX_CURSORS):
        assert begun.acquire(timeout=30)
    assert not begun.acquire(timeout=0.1), "the others wait"
    hold.set()
    for thread in threads:
        thread.join(30)
    assert sorted(found) == list(range(MAX_CURSORS + 2))
    for n, frame in found.items():
        np.testing.assert_array_equal(frame, expected[n])
    # Those that wait while it is closed end, too.
    hold.clear()
    while begun.acquire(blocking=False):
        pass
    found.clear()
    threads = [threading.Thread(target=read, args=(n,)) for n in range(MAX_CURSORS + 2)]
    for thread in threads:
        thread.start()
    for _ in range(MAX_CURSORS):
        assert begun.acquire(timeout=30)
    video.close()
    waiting = [t for t in threads if t.is_alive()]
    hold.set()
    for thread in waiting:
        thread.join(30)
    assert not any(t.is_alive() for t in threads) and len(found) == len(threads)
    said = [value for value in found.values() if isinstance(value, str)]
    assert len(said) >= 2 and set(said) == {"v.mp4 was closed; open it again."}


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((1, 0, 0, 1), (False, False, False)),
        ((-1, 0, 0, 1), (False, False, True)),
        ((1, 0, 0, -1), (False, True, False)),
        ((-1, 0, 0, -1), (False, True, True)),
        ((0, 1, 1, 0), (True, False, False)),
        ((0, -1, 1, 0), (True, True, False)),
        ((0, 1, -1, 0), (True, False, True)),
        ((0, -1, -1, 0), (True, True, True)),
        ((0, 0, 0, 0), (False, False, False)),  # damaged: as it is
        ((7, 7, -7, 7), (False, False, False)),  # half of a quarter turn
        ((7, 8, -8, 7), (True, False, True)),
        ((-7, 2, 3, -1), (False, True, True)),
        ((-1, 2, -3, -1), (True, False, True)),
        ((0, 0, -5, 0), (True, False, True)),
        ((0, -5, 0, 0), (True, True, False)),
        ((5, 0, 0, 0), (False, False, False)),
        ((0, 0, 0, -5), (False, True, False)),
    ],
)
def test_pictures_are_turned_to_the_nearest_quarter(
    matrix: tuple[int, int, int, int], turn: tuple[bool, bool, bool]
) -> None:
    a, b, c, d = matrix

    class Side:
        type = SimpleNamespace(name="DISPLAYMATRIX")

        def __bytes__(self) -> bytes:
            return struct.pack("=9i", a, b, 0, c, d, 0, 0, 0, 2**30) + b"more"

    other = SimpleNamespace(type=SimpleNamespace(name="OTHER"))
    assert orientation_of(SimpleNamespace(side_data=[other, Side()])) == turn
    assert orientation_of(SimpleNamespace(side_data=[other])) == (False, False, False)


def test_nothing_stays_open_behind_a_video(
    tmp_path: Path, pngs: tuple[bytes, list[tuple[int, int]]]
) -> None:
    path = damaged(tmp_path, pngs, 3)
    video = open_video(path, cache_bytes=0)
    with pytest.raises(VideoError):
        video.read(3, 4)
    for n in (7, 0, 5):
        video.read(n, n + 1)
    assert len(open_files(path)) >= 2, "a decoder, and the careful one"
    video.close()
    assert open_files(path) == []
    # Nor behind one that is refused.
    single = write_clip(tmp_path / "single.mp4", count=3)
    both = tmp_path / "both.mp4"
    both.write_bytes(single.read_bytes() * 2)
    with pytest.raises(VideoError, match="joined end to end"):
        open_video(both)
    nothing = damaged(tmp_path, pngs, *range(COUNT))
    with pytest.raises(VideoError, match="no frame that can be decoded"):
        open_video(nothing)
    assert open_files(both) == open_files(nothing) == []
    picture = tmp_path / "a.webp"
    pages = [Image.fromarray(frame) for frame in FRAMES[:3]]
    pages[0].save(picture, save_all=True, append_images=pages[1:], lossless=True)
    with open_video(picture) as animation:
        assert animation.read(1, 2).shape == (1, 32, 48, 3)
    assert open_files(picture) == []
