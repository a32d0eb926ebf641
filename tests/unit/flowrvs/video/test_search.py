"""Where a video that was moved is looked for, in which order, and what counts as the same one."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flowrvs.records import VideoInfo
from flowrvs.video import open_video, search
from flowrvs.video.search import find_video

FRAMES = np.arange(3 * 4 * 5 * 3, dtype=np.uint8).reshape(3, 4, 5, 3)
Put = Callable[..., Path]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """Write the video, or another one, to a path below the test's folder."""

    def write(name: str, frames: np.ndarray = FRAMES) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, frames)
        return path

    return write


@pytest.fixture
def info(put: Put) -> VideoInfo:
    """What is known of a video that is no longer at its path."""
    path = put("gone/cat.npy")
    with open_video(path) as video:
        found = video.info
    path.unlink()
    return found


def test_places_are_looked_at_one_after_the_other(
    info: VideoInfo, put: Put, tmp_path: Path
) -> None:
    folder = tmp_path / "home" / "clips"
    folder.mkdir(parents=True)
    names = ["first/a.npy", "gone/cat.npy", "home/clips/cat.npy", "named/by.npy"]
    places = [put(name) for name in names]
    # Beside the project: the same name comes before others of its kind, near ones before far.
    places += [put("home/clips/sub/cat.npy"), put("home/cat.npy"), put("home/clips/b.npy")]
    places += [put("home/clips/sub/c.npy"), put("home/d.npy"), put("home/other/e.npy")]
    found = []
    while path := find_video(info, folder, [places[0]], [tmp_path / "named" / "by.npy"]):
        found.append(path)
        path.unlink()
    assert found == places


def test_a_folder_that_is_named_comes_before_the_projects_own(
    info: VideoInfo, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    own, far = put("work/other.npy"), put("users/me/clips/deep/new.npy")
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "users"))
    assert find_video(info, tmp_path / "work") == own
    assert find_video(info, tmp_path / "work", (), ["~/me/clips"]) == far
    assert find_video(info, tmp_path / "work", (), [str(far.parent.parent.parent)]) == own, "deep"


def test_what_is_not_looked_at(info: VideoInfo, put: Put, tmp_path: Path) -> None:
    work = tmp_path / "home" / "clips"
    put("home/clips/p.flowrvs/cat.npy")
    put("home/clips/.trash/cat.npy")
    put("home/clips/.cat.npy")
    put("home/clips/one/two/cat.npy")  # two folders below
    (work / "renamed.bin").write_bytes((work / ".cat.npy").read_bytes())
    (tmp_path / "elsewhere").mkdir()
    put("elsewhere/x.npy")
    (work / "link").symlink_to(tmp_path / "elsewhere")
    assert find_video(info, work) is None
    # Its own name, and any case of its suffix, do count.
    (work / "renamed.NPY").write_bytes((work / ".cat.npy").read_bytes())
    assert find_video(info, work) == work / "renamed.NPY"
    assert find_video(replace(info, path=None), work) is None


def test_a_path_of_another_system_is_known_by_its_name(
    info: VideoInfo, put: Put, tmp_path: Path
) -> None:
    there = put("work/clips/cat.npy")
    away = replace(info, path="C:\\films\\cat.npy")
    assert find_video(away, tmp_path / "work") == there


def test_the_answer_is_a_full_path(
    info: VideoInfo, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = put("clips/cat.npy")
    monkeypatch.chdir(tmp_path)
    assert find_video(info, Path("clips")) == there
    assert find_video(info, Path("nowhere"), [Path("clips/../clips/cat.npy")]) == there


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (FRAMES[::-1], True),  # nothing is known of its content
        (FRAMES[:2], False),
        (FRAMES[:, :3], False),
        (FRAMES[:, :, :4], False),
    ],
)
def test_without_a_hash_the_size_decides(
    info: VideoInfo, put: Put, tmp_path: Path, other: np.ndarray, same: bool
) -> None:
    there = put("work/cat.npy", other)
    unknown = replace(info, fingerprint=None)
    assert find_video(unknown, tmp_path / "work") == (there if same else None)
    assert find_video(info, tmp_path / "work") is None, "with one, the content does"


def test_folders_are_known_by_size_and_content(put: Put, tmp_path: Path) -> None:
    import zarr

    for name, frames in (("a", FRAMES), ("b", FRAMES[::-1]), ("c", FRAMES[:2])):
        zarr.create_array(tmp_path / "work" / f"{name}.zarr", data=frames)
    for name in "abc":
        with open_video(tmp_path / "work" / f"{name}.zarr") as video:
            moved = replace(video.info, path=str(tmp_path / "gone" / "x.zarr"))
        assert find_video(moved, tmp_path / "work") == tmp_path / "work" / f"{name}.zarr"
    unknown = replace(moved, fingerprint=None)
    assert find_video(unknown, tmp_path / "work") == tmp_path / "work" / "c.zarr"


def test_files_that_cannot_be_read_are_passed_over(
    info: VideoInfo, put: Put, tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "a.npy").write_bytes(b"no array")
    (tmp_path / "work" / "b.npy").mkdir()
    there = put("work/c.npy")
    assert find_video(info, tmp_path / "work") == there
    assert find_video(replace(info, fingerprint=None), tmp_path / "work") == there


def test_the_search_has_an_end(
    info: VideoInfo, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(4):
        put(f"home/clips/{n}.npy", FRAMES[::-1] + np.uint8(n))
    there = put("home/clips/5.npy")
    for name, enough in (("_MAX_OPENED", 5), ("_MAX_LOOKS", 5)):
        monkeypatch.setattr(search, name, enough)
        assert find_video(info, tmp_path / "home" / "clips") == there
        monkeypatch.setattr(search, name, enough - 1)
        assert find_video(info, tmp_path / "home" / "clips") is None
        monkeypatch.undo()


def test_nothing_is_read_twice(info: VideoInfo, put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    other = put("home/clips/cat.npy", FRAMES[::-1])
    read: list[Path] = []
    mark = search.fingerprint
    monkeypatch.setattr(search, "fingerprint", lambda p: (read.extend(p), mark(p))[1])
    monkeypatch.chdir(other.parent)
    again = [other, Path("cat.npy"), Path(os.path.join(other.parent, "..", "clips", "cat.npy"))]
    assert find_video(info, other.parent, again, [other, other.parent]) is None
    assert read == [other]
