"""Arrays and groups on the disk, numbers per frame in pieces, and the thread that writes."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from flowrvs.errors import ProjectError, StorageError
from flowrvs.records import VideoInfo
from flowrvs.store import Project, Provenance
from flowrvs.store.storage import (
    Saver,
    Track,
    Tracks,
    check_chunk,
    create_array,
    described,
    free_chunk,
    is_plain,
    open_array,
    read_group,
    set_aside,
    write_group,
)

LONG = 10_000  # frames, in three pieces


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    assert condition()


class TestGroups:
    def test_attributes_come_back(self, tmp_path: Path) -> None:
        folder = tmp_path / "deep" / "a"
        write_group(folder, {"ü": [1, None], "half": "caf\ud800"})
        assert read_group(folder) == {"ü": [1, None], "half": "caf\ud800"}
        text = (folder / "zarr.json").read_bytes()
        assert "ü".encode() in text and b"caf\\ud800" in text
        assert zarr.open_group(folder, mode="r").attrs["ü"] == [1, None]

    @pytest.mark.parametrize("there", [True, False])
    def test_where_it_cannot_be_written(self, tmp_path: Path, there: bool) -> None:
        (tmp_path / "a").write_bytes(b"")
        if there:
            (tmp_path / "b" / "zarr.json").mkdir(parents=True)
        folder = tmp_path / "b" if there else tmp_path / "a" / "b"
        with pytest.raises(StorageError) as error:
            write_group(folder, {})
        reason = (
            "it is no plain file; put one there"
            if there
            else "a file is in the way of a folder; choose another folder"
        )
        assert str(error.value) == (
            f"Cannot write to {folder}: {reason}. Nothing in memory is lost."
        )


class TestArrays:
    def test_what_is_made_is_opened_and_zarr_reads_it(self, tmp_path: Path) -> None:
        made = create_array(tmp_path / "a", (5, 6), (1, 6), "uint16", ("t", "x"))
        made[3].write(np.arange(6, dtype=np.uint16) + 500).result()
        assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["c.3.0", "zarr.json"]
        found = open_array(tmp_path / "a", (5, 6), "uint16", (1, 6))
        assert np.array(found.read().result())[3].tolist() == [*range(500, 506)]
        array = zarr.open_array(tmp_path / "a", mode="r")
        assert (array.shape, array.chunks, array.dtype) == ((5, 6), (1, 6), np.uint16)
        assert array[3].tolist() == [*range(500, 506)] and not array[[0, 1, 2, 4]].any()
        assert array.metadata.dimension_names == ("t", "x")
        codecs = json.loads((tmp_path / "a" / "zarr.json").read_text())["codecs"]
        assert codecs[1] == {"name": "zstd", "configuration": {"level": 1, "checksum": True}}

    @pytest.mark.parametrize("keep", [False, True])
    def test_made_anew_it_is_empty_or_keeps_its_chunks(self, tmp_path: Path, keep: bool) -> None:
        path, outside = tmp_path / "a", tmp_path / "outside"
        made = create_array(path, (5, 6), (1, 6), "uint16", ("t", "x"))
        made.write(np.ones((5, 6), np.uint16)).result()
        (path / "zarr.json").unlink()
        (path / "zarr.json").symlink_to(outside)
        (path / "c.1.0.__lock").write_bytes(b"")
        (path / "folder").mkdir()
        (path / "away").symlink_to(tmp_path)  # a link to a folder is a link
        again = create_array(path, (5, 6), (1, 6), "uint16", ("t", "x"), keep=keep)
        assert np.array(again.read().result()).all() == keep
        assert not outside.exists() and not (path / "c.1.0.__lock").exists()
        assert not (path / "away").is_symlink() and tmp_path.exists()
        assert (path / "folder").exists() == keep, "what is in nobody's way is tensorstore's"
        with pytest.raises(StorageError) as error:
            (tmp_path / "link").symlink_to(path)
            create_array(tmp_path / "link", (5, 6), (1, 6), "uint16", ("t", "x"))
        assert str(error.value) == (
            f"{tmp_path / 'link'} is a symbolic link; put the folder itself in its place."
        )

    def test_what_is_not_as_the_project_says(self, tmp_path: Path) -> None:
        path = tmp_path / "a"
        create_array(path, (5, 6), (1, 6), "uint16", ("t", "x"))
        damaged = f"The array {path} is missing or damaged."
        for arguments, text in (
            (((5, 7), "uint16", (1, 6)), "uint16 [5, 6]; the project needs uint16 [5, 7]."),
            (((5, 6), "uint8", (1, 6)), "uint16 [5, 6]; the project needs uint8 [5, 6]."),
        ):
            with pytest.raises(ProjectError) as error:
                open_array(path, *arguments)
            assert str(error.value) == f"The array {path} is {text}"
        with pytest.raises(ProjectError) as error:
            open_array(path, (5, 6), "uint16", (5, 6))
        assert str(error.value) == f"{damaged[:-1]}: not as flowrvs writes it."
        good = json.loads((path / "zarr.json").read_text())
        for document in (None, "{", json.dumps({**good, "codecs": [{}]}), "[]"):
            if document is None:
                (path / "zarr.json").rename(tmp_path / "away")
            else:
                (path / "zarr.json").write_text(document)
            with pytest.raises(ProjectError) as error:
                open_array(path, (5, 6), "uint16", (1, 6))
            assert str(error.value) == damaged
            assert described(path) == (document is not None and "codecs" in document)
        (tmp_path / "link").symlink_to(path)
        with pytest.raises(ProjectError):
            open_array(tmp_path / "link", (5, 6), "uint16", (1, 6))

    def test_what_lies_in_the_place_of_a_chunk(self, tmp_path: Path) -> None:
        file = tmp_path / "c"
        check_chunk(str(file), 10)
        free_chunk(str(file))
        for size, fits in ((0, True), (4116, True), (4117, False)):
            file.write_bytes(bytes(size))
            if fits:
                check_chunk(str(file), 10)
            else:
                with pytest.raises(ValueError, match="^it is larger than its pixels$"):
                    check_chunk(str(file), 10)
        (tmp_path / "link").symlink_to(file)
        for name in ("link", "."):
            with pytest.raises(ValueError, match="^it is a link or no plain file$"):
                check_chunk(str(tmp_path / name), 10)
        assert is_plain(str(file)) and is_plain(str(tmp_path))
        assert not is_plain(str(tmp_path / "link"))
        lock = tmp_path / "c.__lock"
        lock.write_bytes(b"")
        free_chunk(str(file))
        assert lock.exists(), "tensorstore's own"
        lock.unlink()
        lock.symlink_to(file)
        free_chunk(str(file))
        assert not lock.is_symlink() and file.exists()

    def test_what_is_damaged_is_set_aside(self, tmp_path: Path) -> None:
        set_aside(tmp_path / "none")
        assert list(tmp_path.iterdir()) == []
        (tmp_path / "a").write_bytes(b"1")
        set_aside(tmp_path / "a")
        (tmp_path / "a").symlink_to(tmp_path / "gone")
        assert (tmp_path / "damaged-a").read_bytes() == b"1"
        set_aside(tmp_path / "a")
        assert [path.name for path in tmp_path.iterdir()] == ["damaged-a"]


class TestTracks:
    @pytest.mark.parametrize(
        ("start", "stop", "pieces"),
        [
            (0, 1, [0]),
            (0, 4096, [0]),
            (4095, 4097, [0, 1]),
            (4096, 4097, [1]),
            (4096, 8192, [1]),
            (8191, LONG, [1, 2]),
            (0, LONG, [0, 1, 2]),
            (5, 5, []),
        ],
    )
    def test_the_pieces_that_a_range_touches(
        self, tmp_path: Path, start: int, stop: int, pieces: list[int]
    ) -> None:
        track = Track(tmp_path / "a", LONG, "int32", new=True)
        values = np.arange(LONG)
        track.values[:] = values
        track.touch(start, stop)
        assert track.dirty == len(pieces)
        taken = track.take()
        assert track.dirty == 0 and [piece for piece, _ in taken] == pieces
        track.values[:] = 0  # what was taken stays
        for piece, copied in taken:
            np.testing.assert_array_equal(copied, values[piece * 4096 : (piece + 1) * 4096])
        track.give_back(taken)
        assert track.dirty == len(pieces)
        track.write(taken)()
        stored = np.zeros(LONG, int)
        for piece in pieces:
            stored[piece * 4096 : (piece + 1) * 4096] = values[piece * 4096 : (piece + 1) * 4096]
        np.testing.assert_array_equal(
            Track(tmp_path / "a", LONG, "int32", new=False).values, stored
        )

    def test_what_it_knows(self, tmp_path: Path) -> None:
        path = tmp_path / "a"
        new = Track(path, 10, "uint8", new=True)
        assert (new.known, new.damaged, new.dirty) == (True, False, 0)
        absent = Track(path, 10, "uint8", new=False)
        assert (absent.known, absent.damaged, absent.dirty) == (False, False, 0)
        new.values[3:5] = 2, 3
        new.touch(3, 5)
        new.write(new.take())()
        again = Track(path, 10, "uint8", new=False)
        assert again.values.tolist() == [0, 0, 0, 2, 3, 0, 0, 0, 0, 0]
        assert (again.known, again.damaged, again.dirty) == (True, False, 0)
        over = Track(path, 10, "uint8", new=True)
        assert not over.values.any() and over.dirty == 1, "what a crash left is written over"
        copy = again.copy()
        again.values[0] = 1
        assert copy.values.tolist()[:5] == [0, 0, 0, 2, 3]
        copy.write_at(tmp_path / "b")
        assert Track(tmp_path / "b", 10, "uint8", new=False).values.tolist() == copy.values.tolist()

    @pytest.mark.parametrize(("dtype", "wrong"), [("uint8", 4), ("int32", -1)])
    def test_values_that_nobody_wrote(self, tmp_path: Path, dtype: str, wrong: int) -> None:
        track = Track(tmp_path / "a", 10, dtype, new=True)
        for value, damaged in ((3, False), (wrong, True)):
            track.values[5] = value
            track.touch(5, 6)
            track.write(track.take())()
            again = Track(tmp_path / "a", 10, dtype, new=False)
            assert again.damaged == damaged == (not again.known)
            assert again.values.tolist() == [0] * 5 + [0 if damaged else 3] + [0] * 4
            assert again.dirty == damaged

    @pytest.mark.parametrize("piece", [0, 1, 2])
    def test_a_giant_in_the_place_of_a_piece(self, tmp_path: Path, piece: int) -> None:
        track = Track(tmp_path / "a", LONG, "uint8", new=True)
        track.values[:] = 1
        track.touch(0, LONG)
        track.write(track.take())()
        os.truncate(tmp_path / "a" / f"c.{piece}", 1 << 32)
        assert Track(tmp_path / "a", LONG, "uint8", new=False).damaged

    def test_objects_keep_theirs(self, tmp_path: Path) -> None:
        tracks = Tracks(tmp_path, 10)
        tracks.open(3, new=True)
        tracks.provenance[3].values[2] = 1
        tracks.open(3, new=True)
        assert tracks.provenance[3].values[2] == 1, "opened once"
        assert tracks.provenance[3].path == tmp_path / "provenance" / "3"
        assert tracks.areas[3].path == tmp_path / "areas" / "3"
        assert (tracks.provenance[3].values.dtype, tracks.areas[3].values.dtype) == ("u1", "i4")

    def test_a_long_video(self, tmp_path: Path) -> None:
        """Provenance, areas and doubt of frames in every piece come back, copies included."""
        with Project.create(tmp_path / "a", VideoInfo(None, "array", LONG, 2, 3)) as project:
            one = project.add_object("one", project.add_layer("a").id)
            project.lock_frames(one.id, 4090, 4100)
            project.accept_frames(one.id, 8191, 8193)
            for t in (0, 4095, 4096, 8192, LONG - 1):
                project.write_masks(one.id, t, np.ones((1, 2, 3), bool))
            project.keep_disagreement(one.id, 4094, np.full(4, 0.25, np.float32))
            kept = [project.provenance(one.id), project.areas(one.id)]
            doubt = project.disagreement(one.id)
            copy = project.copy_to(tmp_path / "copy")
        assert np.flatnonzero(kept[0] == Provenance.LOCKED).tolist() == [*range(4090, 4100)]
        assert np.flatnonzero(kept[0] == Provenance.HUMAN).tolist() == [0, 8191, 8192, LONG - 1]
        assert np.flatnonzero(kept[1]).tolist() == [0, LONG - 1]
        assert np.flatnonzero(np.isfinite(doubt)).tolist() == [4094, 4095, 4096, 4097]
        for path in (tmp_path / "a", copy):
            with Project.open(path, read_only=True) as again:
                np.testing.assert_array_equal(again.provenance(one.id), kept[0])
                np.testing.assert_array_equal(again.areas(one.id), kept[1])
                np.testing.assert_array_equal(again.disagreement(one.id), doubt)


class TestSaver:
    """A thread of its own writes a quarter of a second after it was woken."""

    def test_it_writes_once_for_many_wishes(self) -> None:
        saves: list[str] = []

        def save() -> None:
            saves.append(threading.current_thread().name)

        saver = Saver(save, interval=60)
        assert saver.error is None
        saver.stop()
        assert saves == [], "nobody asked"
        saver = Saver(save, interval=60)
        for _ in range(5):
            saver.wake()
        assert saves == []
        saver.hurry()
        wait_for(lambda: saves)
        saver.stop()
        saver.wake()
        assert saves == ["flowrvs-save"]
        assert saver._thread is not None and not saver._thread.is_alive()

    def test_it_writes_an_interval_after_each_wish(self) -> None:
        times: list[float] = []
        saver = Saver(lambda: times.append(time.monotonic()), interval=0.05)
        for count in (1, 2):
            begun = time.monotonic()
            saver.wake()
            wait_for(lambda count=count: len(times) == count)
            assert times[-1] - begun >= 0.04, "a clock may round"
        saver.stop()

    def test_whoever_is_in_a_hurry_does_not_wait(self) -> None:
        saved = threading.Event()
        saver = Saver(saved.set, interval=60)
        saver.wake()
        assert not saved.wait(0.05)
        saver.hurry()
        assert saved.wait(20)
        saved.clear()
        saver.wake()
        assert not saved.wait(0.05), "once"
        saver.stop()
        assert not saved.is_set(), "what is left is the caller's to save"

    def test_it_tries_again_and_tells_why(self) -> None:
        troubles: list[Any] = [
            StorageError("full"),
            StorageError("full"),
            MemoryError("no\nroom"),
            KeyError(),
        ]
        told: list[Any] = []

        def save() -> None:
            told.append(saver.error)
            if troubles:
                raise troubles.pop(0)

        saver = Saver(save, interval=0.001, retry=0.005)
        saver.wake()
        wait_for(lambda: len(told) >= 5 and saver.error is None)
        saver.stop()
        assert told[0] is None and told[1] is told[2] and str(told[1]) == "full"
        text = "Not everything could be saved: {} It is kept and tried again."
        assert [str(error) for error in told[3:5]] == [
            text.format("no room"),
            text.format("KeyError"),
        ]
        assert isinstance(told[3], StorageError) and isinstance(told[3].__cause__, MemoryError)
        assert len(told) == 5

    def test_how_often_a_project_is_saved(self, tmp_path: Path) -> None:
        """A kill loses a quarter of a second; the journal is not kept waiting by the frames."""
        with Project.create(tmp_path / "a", VideoInfo(None, "array", 1, 2, 3)) as project:
            state = project._state
            assert (state._saver._interval, state._saver.retry) == (0.25, 2.0)
            assert (state._scribe._interval, state._scribe.retry) == (0.2, 2.0)
