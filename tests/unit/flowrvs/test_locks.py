"""Locks between processes: one holder, on a plain file, which stays as it was."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flowrvs import locks
from flowrvs.errors import StorageError
from flowrvs.locks import FileLock, is_free
from tests.fixtures.disk import open_files


class TestFileLock:
    def test_one_holder_at_a_time(self, tmp_path: Path) -> None:
        path = tmp_path / "lock"
        path.write_bytes(b"a text that stays")
        first, second = FileLock(path), FileLock(str(path))
        assert first.acquire() and first.acquire() and not second.acquire()
        with pytest.raises(StorageError) as error, second:
            pass
        assert str(error.value) == (
            f"{tmp_path} is being written by another program; try again later."
        )
        assert path.read_bytes() == b"a text that stays"
        assert open_files(tmp_path) == [str(path)], "who was refused holds nothing"
        first.release()
        first.release()
        with second as held:
            assert held is second
            second.write(b"Another")
            second.write(b"A")
            assert not first.acquire()
        assert path.read_bytes() == b"Anotherthat stays"
        assert first.acquire()
        first.release()
        assert path.exists() and open_files(tmp_path) == []

    def test_it_is_let_go_when_the_block_raises(self, tmp_path: Path) -> None:
        with pytest.raises(KeyError), FileLock(tmp_path / "lock"):
            raise KeyError
        assert FileLock(tmp_path / "lock").acquire()

    def test_another_process_is_kept_out(self, tmp_path: Path) -> None:
        script = "import sys; from flowrvs.locks import *; print(FileLock(sys.argv[1]).acquire())"
        with FileLock(tmp_path / "lock"):
            done = subprocess.run(
                [sys.executable, "-c", script, str(tmp_path / "lock")], stdout=subprocess.PIPE
            )
        assert done.stdout == b"False\n"

    def test_a_link_is_never_followed(self, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        (tmp_path / "lock").symlink_to(outside)
        for _ in range(2):
            with pytest.raises(StorageError, match="symbolic link"):
                FileLock(tmp_path / "lock").acquire()
            assert not outside.is_symlink() and (tmp_path / "lock").is_symlink()
            outside.write_bytes(b"theirs")
        assert outside.read_bytes() == b"theirs"

    def test_what_is_no_plain_file_is_no_lock(self, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        os.mkfifo(tmp_path / "pipe")
        for name in ("folder", "pipe"):
            with pytest.raises(StorageError, match="it is no plain file; put one there"):
                FileLock(tmp_path / name).acquire()

    def test_it_knows_its_place(self, tmp_path: Path) -> None:
        path = tmp_path / "lock"
        with FileLock(path) as lock:
            assert lock.in_place()
            path.rename(tmp_path / "away")
            assert not lock.in_place()
            path.write_bytes(b"")
            assert not lock.in_place()

    def test_a_file_that_is_replaced_while_it_is_locked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The lock is on the file that lies there in the end, or it would keep nobody out."""
        path, try_lock, replaced = tmp_path / "lock", locks._try_lock, []

        def late(handle: int) -> bool | None:
            if not replaced:
                path.rename(tmp_path / "away")
                path.write_bytes(b"new")
                replaced.append(path)
            return try_lock(handle)

        monkeypatch.setattr(locks, "_try_lock", late)
        with FileLock(path) as lock:
            assert lock.in_place() and not FileLock(path).acquire()
            assert FileLock(tmp_path / "away").acquire()

    def test_a_disk_without_locks_keeps_nobody_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def flock(*_: object) -> None:
            raise OSError(38, "Function not implemented")

        monkeypatch.setattr("fcntl.flock", flock)
        assert FileLock(tmp_path / "lock").acquire() and FileLock(tmp_path / "lock").acquire()


class TestIsFree:
    def test_whether_its_holder_has_ended(self, tmp_path: Path) -> None:
        path = tmp_path / "lock"
        assert is_free(path) and not path.exists()
        with FileLock(path):
            assert not is_free(path)
        assert is_free(path) and is_free(path) and open_files(tmp_path) == []
        (tmp_path / "link").symlink_to(path)
        assert not is_free(tmp_path / "link")

    def test_where_nobody_can_be_asked_age_decides(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "lock"
        path.write_bytes(b"")
        monkeypatch.setattr(locks, "_try_lock", lambda handle: None)
        for hours, free in ((0, False), (23.9, False), (24.1, True)):
            os.utime(path, (time.time() - 3600 * hours,) * 2)
            assert is_free(path) == free
