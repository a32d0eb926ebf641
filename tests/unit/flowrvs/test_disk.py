"""Writing beside and renaming, locks, and files that are none."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flowrvs.disk import free_bytes, read_regular, replacing, storage_error, write_bytes
from flowrvs.errors import DatasetError, InputError, MissingPathError, StorageError
from flowrvs.folders import NewFolder, remove_leftovers
from flowrvs.locks import FileLock
from tests.fixtures.disk import small_disk


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "told"),
        [
            (OSError(errno.ENOSPC, "x"), "the disk is full; free some space"),
            (OSError(errno.EMFILE, "x"), "too many files are open; close some"),
            (ValueError("a: b [OS error 28: ENOSPC No space]"), "the disk is full"),
            (ValueError("Failed [OS error 24: EMFILE Too many]"), "too many files are open"),
            (ValueError("RESOURCE_EXHAUSTED: x [os_error_code='24']"), "too many files are open"),
            (ValueError("UNKNOWN: x [os_error_code='28']"), "the disk is full"),
            (ValueError("RESOURCE_EXHAUSTED: no"), "the disk is full"),
            (MemoryError(), "the memory is full"),
            (OSError(errno.EIO, "Input/output error"), "Input/output error"),
            (RuntimeError("two\nlines"), "two lines"),
        ],
    )
    def test_one_line_says_what_to_do(self, error: Exception, told: str) -> None:
        text = str(storage_error(error, "/a/b", note="Try again."))
        assert text.startswith(f"Cannot write to /a/b: {told}") and text.endswith(". Try again.")
        assert "\n" not in text and "delete" not in text


class TestFiles:
    def test_a_full_disk_leaves_the_old_content(self, tmp_path: Path) -> None:
        path = tmp_path / "a.json"
        write_bytes(path, b"old")
        with small_disk(1000), pytest.raises(StorageError, match="refuses so large a file"):
            write_bytes(path, bytes(2000))
        assert path.read_bytes() == b"old" and _names(tmp_path) == ["a.json"]

    def test_a_failing_writer_leaves_the_old_content(self, tmp_path: Path) -> None:
        path = tmp_path / "a.npz"
        path.write_bytes(b"old")
        with pytest.raises(RuntimeError), replacing(path) as temporary:
            assert temporary.suffix == ".npz" and temporary.parent == tmp_path
            temporary.write_bytes(b"half")
            raise RuntimeError
        assert path.read_bytes() == b"old" and _names(tmp_path) == ["a.npz"]

    def test_a_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match="the folder has vanished"):
            write_bytes(tmp_path / "none" / "a", b"")

    def test_a_link_is_replaced_and_not_followed(self, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.write_bytes(b"theirs")
        (tmp_path / "a").symlink_to(outside)
        write_bytes(tmp_path / "a", b"ours")
        assert outside.read_bytes() == b"theirs" and not (tmp_path / "a").is_symlink()

    def test_a_kill_between_write_and_rename(self, tmp_path: Path) -> None:
        path = tmp_path / "a.json"
        write_bytes(path, b"old")
        script = (
            "import sys, time; from flowrvs.disk import replacing\n"
            "with replacing(sys.argv[1]) as p:\n"
            "    p.write_bytes(b'new'); print('written', flush=True); time.sleep(60)"
        )
        with _start(script, path) as writer:
            assert writer.stdout is not None and writer.stdout.readline() == "written\n"
            remove_leftovers(path, age=0)
            assert len(_names(tmp_path)) == 2, "its writer is alive"
            writer.send_signal(signal.SIGKILL)
        assert path.read_bytes() == b"old"
        remove_leftovers(path)
        assert len(_names(tmp_path)) == 2, "perhaps another computer is writing it"
        for left in tmp_path.glob(".*"):
            os.utime(left, (time.time() - 61,) * 2)
        remove_leftovers(path)
        assert _names(tmp_path) == ["a.json"]


class TestRegularFiles:
    def test_what_is_no_plain_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"secret")
        (tmp_path / "link").symlink_to(tmp_path / "file")
        (tmp_path / "folder").mkdir()
        os.mkfifo(tmp_path / "pipe")
        for name in ("link", "folder", "pipe", "/dev/zero"):
            with pytest.raises(StorageError, match="Cannot read .*(link|plain file)"):
                read_regular(tmp_path / name, 10)
            with pytest.raises(StorageError, match="Cannot write to"):
                FileLock(tmp_path / name).acquire()
        with pytest.raises(MissingPathError):
            read_regular(tmp_path / "none", 10)

    def test_bounds(self, tmp_path: Path) -> None:
        path = tmp_path / "a"
        path.write_bytes(b"12345")
        assert read_regular(path, 5) == b"12345"
        with pytest.raises(StorageError, match="larger than 4 bytes"):
            read_regular(path, 4)

    def test_free_bytes_of_what_is_not_there_yet(self, tmp_path: Path) -> None:
        assert free_bytes(tmp_path / "a" / "b") > 0


class TestNewFolder:
    def test_it_appears_whole_or_not_at_all(self, tmp_path: Path) -> None:
        target = tmp_path / "deep" / "a"
        with pytest.raises(RuntimeError), NewFolder(target) as folder:
            (folder.path / "x").write_bytes(b"1")
            raise RuntimeError
        assert _names(tmp_path) == []
        with NewFolder(target) as folder:
            (folder.path / "x").write_bytes(b"1")
            assert not target.exists()
        assert _names(target) == ["x"] and _names(target.parent) == ["a"]

    def test_another_folder_is_in_the_way(self, tmp_path: Path) -> None:
        target = tmp_path / "a"
        for content in (b"1", b"1"):  # the same again is fine
            with NewFolder(target) as folder:
                (folder.path / "x").write_bytes(content)
        with (
            pytest.raises(DatasetError, match="already exists with other content"),
            NewFolder(target, refuse=DatasetError, replace=lambda _: False) as folder,
        ):
            (folder.path / "x").write_bytes(b"2")
        assert (target / "x").read_bytes() == b"1"
        with NewFolder(target, replace=lambda path: path == target) as folder:
            (folder.path / "y").write_bytes(b"2")
        assert _names(target) == ["y"] and _names(tmp_path) == ["a"]

    def test_a_replacement_in_two_steps(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where the system cannot exchange names, a kill between the two is repaired."""
        monkeypatch.setattr("flowrvs.folders._exchange", lambda a, b: False)
        target = tmp_path / "a"
        target.mkdir()
        (target / "x").write_bytes(b"1")
        with NewFolder(target, replace=lambda _: True) as folder:
            (folder.path / "y").write_bytes(b"2")
        assert _names(target) == ["y"] and _names(tmp_path) == ["a"]
        target.rename(tmp_path / ".a.old-1-2")
        remove_leftovers(target)
        assert _names(target) == ["y"] and _names(tmp_path) == ["a"]

    @pytest.mark.parametrize("there", [False, True])
    def test_a_failed_rename_leaves_what_was_there(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
    ) -> None:
        monkeypatch.setattr("flowrvs.folders._exchange", lambda a, b: False)
        rename, target = Path.rename, tmp_path / "a"
        if there:
            target.mkdir()
            (target / "x").write_bytes(b"1")

        def fail(path: Path, to: Path) -> Path:
            if ".partial-" in path.name:
                raise OSError(errno.EACCES, "no")
            return rename(path, to)

        monkeypatch.setattr(Path, "rename", fail)
        with (
            pytest.raises(StorageError, match="no permission"),
            NewFolder(target, replace=lambda _: True) as folder,
        ):
            (folder.path / "y").write_bytes(b"2")
        assert _names(tmp_path) == (["a"] if there else [])
        assert not there or (target / "x").read_bytes() == b"1"

    def test_where_none_can_be_made(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(InputError, match="is a file"):
            NewFolder(tmp_path / "file")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError, match="the folder that you are in"):
            NewFolder(tmp_path)
        with pytest.raises(StorageError):
            NewFolder(tmp_path / "file" / "a")

    def test_what_a_killed_process_left_goes(self, tmp_path: Path) -> None:
        script = (
            "import sys, time; from flowrvs.folders import NewFolder\n"
            "folder = NewFolder(sys.argv[1]); print(folder.path, flush=True); time.sleep(60)"
        )
        with _start(script, tmp_path / "a") as writer:
            assert writer.stdout is not None
            left = Path(writer.stdout.readline().strip())
            remove_leftovers(tmp_path / "a")
            assert left.is_dir() and NewFolder.leftovers(tmp_path / "a") == []
            writer.send_signal(signal.SIGKILL)
        assert NewFolder.leftovers(tmp_path / "a") == [left]
        remove_leftovers(tmp_path / "a")
        assert _names(tmp_path) == []


class TestLock:
    def test_one_holder_at_a_time(self, tmp_path: Path) -> None:
        path = tmp_path / "lock"
        path.write_bytes(b"a text that stays")
        first, second = FileLock(path), FileLock(path)
        assert first.acquire() and first.acquire() and not second.acquire()
        with pytest.raises(StorageError, match="another program"), second:
            pass
        assert path.read_bytes() == b"a text that stays"
        first.release()
        first.release()
        with second:
            second.write(b"A")
            assert not first.acquire()
        assert path.read_bytes() == b"A text that stays"
        assert first.acquire()
        first.release()

    def test_a_link_is_never_followed(self, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        (tmp_path / "lock").symlink_to(outside)
        for _ in range(2):
            with pytest.raises(StorageError, match="symbolic link"):
                FileLock(tmp_path / "lock").acquire()
            assert not outside.is_symlink() and _names(tmp_path)[0] == "lock"
            outside.write_bytes(b"theirs")
        assert outside.read_bytes() == b"theirs"

    def test_a_pipe_is_no_lock(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "lock")
        with pytest.raises(StorageError, match="no plain file"):
            FileLock(tmp_path / "lock").acquire()

    def test_it_knows_its_place(self, tmp_path: Path) -> None:
        path = tmp_path / "lock"
        with FileLock(path) as lock:
            assert lock.in_place()
            path.rename(tmp_path / "away")
            assert not lock.in_place()
            path.write_bytes(b"")
            assert not lock.in_place()
