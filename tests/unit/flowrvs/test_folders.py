"""Folders that appear whole or not at all, and what killed processes left."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowrvs import folders
from flowrvs.errors import Cancelled, DatasetError, InputError, StorageError
from flowrvs.folders import NewFolder, remove_leftovers, same_tree
from flowrvs.locks import FileLock
from tests.fixtures.disk import open_files, what_is_made_durable


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def dead() -> int:
    """The number of a process that has ended."""
    done = subprocess.Popen(["true"])
    done.wait()
    return done.pid


class TestNewFolder:
    def test_it_appears_whole_or_not_at_all(self, tmp_path: Path) -> None:
        target = tmp_path / "deep" / "er" / "a"
        with pytest.raises(RuntimeError), NewFolder(target) as folder:
            (folder.path / "x").write_bytes(b"1")
            assert folder.path.parent == target.parent and folder.target == target
            assert folder.path.name.startswith(f".a.partial-{os.getpid()}-")
            raise RuntimeError
        assert _names(tmp_path) == [], "the folders above it go, too"
        with NewFolder(str(target)) as folder:
            (folder.path / "x").write_bytes(b"1")
            assert not target.exists()
        assert _names(target) == ["x"] and _names(target.parent) == ["a"]
        assert open_files(tmp_path) == []
        folder.commit()
        folder.abort()
        assert _names(target) == ["x"], "it is over"

    def test_what_lies_beside_it_stays(self, tmp_path: Path) -> None:
        target = tmp_path / "deep" / "a"
        with contextlib.suppress(RuntimeError), NewFolder(target):
            (target.parent / "mine").write_bytes(b"1")
            raise RuntimeError
        assert _names(target.parent) == ["mine"]

    def test_its_name_is_durable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        told = what_is_made_durable(monkeypatch)
        NewFolder(tmp_path / "deep" / "a").commit()
        assert told == [("fsync", "deep")]

    def test_another_folder_is_in_the_way(self, tmp_path: Path) -> None:
        target = tmp_path / "deep" / "a"
        for content in (b"1", b"1"):  # the same again is fine
            with NewFolder(target) as folder:
                (folder.path / "x").write_bytes(content)
        inode = target.stat().st_ino
        for options in ({}, {"refuse": DatasetError}, {"replace": lambda _: False}):
            refused = options.get("refuse", InputError)
            with pytest.raises(refused) as error, NewFolder(target, **options) as folder:  # type: ignore[arg-type]
                (folder.path / "x").write_bytes(b"2")
            assert str(error.value) == (
                f"{target} already exists with other content; choose another folder."
            )
            assert type(error.value) is refused
        assert target.stat().st_ino == inode and (target / "x").read_bytes() == b"1"
        assert _names(target.parent) == ["a"]
        asked: list[Path] = []
        with NewFolder(target, replace=lambda path: bool(asked.append(path)) or True) as folder:
            (folder.path / "y").write_bytes(b"2")
        assert _names(target) == ["y"] and _names(target.parent) == ["a"] and asked == [target]

    def test_the_very_same_content_leaves_the_folder_that_is_there(self, tmp_path: Path) -> None:
        target = tmp_path / "a"
        target.mkdir()
        (target / "x").write_bytes(b"1")
        inode = target.stat().st_ino
        with NewFolder(target) as folder:
            (folder.path / "x").write_bytes(b"1")
        assert target.stat().st_ino == inode and _names(tmp_path) == ["a"]

    def test_an_empty_folder_is_nobodys(self, tmp_path: Path) -> None:
        target = tmp_path / "a"
        target.mkdir()
        with NewFolder(target) as folder:
            (folder.path / "x").write_bytes(b"1")
        assert _names(target) == ["x"] and _names(tmp_path) == ["a"]

    def test_one_is_replaced_in_one_step(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A kill at any moment finds the old one or the new one under the name."""
        paths = [os.fsencode(path) for path in _two(tmp_path / "try")]
        library = ctypes.CDLL(None) if sys.platform == "linux" else None
        call = getattr(library, "renameat2", None)
        if call is None or call(-100, paths[0], -100, paths[1], 2):  # RENAME_EXCHANGE
            pytest.skip("this file system cannot exchange names")
        a, b = _two(tmp_path / "both")
        assert folders._exchange(a, b)
        assert _names(a) == ["b"] and _names(b) == ["a"]
        assert not folders._exchange(a, tmp_path / "none") and _names(a) == ["b"]

        def rename(path: Path, to: Path) -> None:
            raise AssertionError("two steps")

        with NewFolder(a, replace=lambda _: True) as folder:
            (folder.path / "new").write_bytes(b"")
            monkeypatch.setattr(Path, "rename", rename)
        assert _names(a) == ["new"] and _names(a.parent) == ["a", "b"]

    @pytest.mark.parametrize("why", ["another system", "no library", "an old library"])
    def test_where_names_cannot_be_exchanged(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
    ) -> None:
        def library(*_: object, **__: object) -> object:
            if why == "no library":
                raise OSError("no library")
            return object()  # without the call

        if why == "another system":
            monkeypatch.setattr(folders.sys, "platform", "darwin")
        else:
            monkeypatch.setattr(folders.ctypes, "CDLL", library)
        a, b = _two(tmp_path)
        assert folders._exchange(a, b) is False and _names(a) == ["a"] and _names(b) == ["b"]

    def test_a_replacement_in_two_steps(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where the system cannot exchange names, a kill between the two is repaired."""
        monkeypatch.setattr(folders, "_exchange", lambda a, b: False)
        target = tmp_path / "a"
        target.mkdir()
        (target / "x").write_bytes(b"1")
        with NewFolder(target, replace=lambda _: True) as folder:
            (folder.path / "y").write_bytes(b"2")
        assert _names(target) == ["y"] and _names(tmp_path) == ["a"]

    @pytest.mark.parametrize("steps", [1, 2])
    def test_what_cannot_be_removed_of_the_old_one_is_left(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
    ) -> None:
        if steps == 2:
            monkeypatch.setattr(folders, "_exchange", lambda a, b: False)
        removed: list[str] = []

        def stuck(path: Path, ignore_errors: bool = False) -> None:
            removed.append(path.name)
            if not ignore_errors:
                raise OSError(errno.EBUSY, "in use")

        target = tmp_path / "a"
        target.mkdir()
        (target / "x").write_bytes(b"1")
        with NewFolder(target, replace=lambda _: True) as folder:
            (folder.path / "y").write_bytes(b"2")
            monkeypatch.setattr(folders.shutil, "rmtree", stuck)
        assert _names(target) == ["y"] and len(removed) == 1
        assert removed[0].startswith(".a.old-" if steps == 2 else ".a.")
        with pytest.raises(KeyError), NewFolder(tmp_path / "b"):
            raise KeyError
        assert not (tmp_path / "b").exists() and len(removed) == 2

    @pytest.mark.parametrize("there", [False, True])
    def test_a_failed_rename_leaves_what_was_there(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
    ) -> None:
        monkeypatch.setattr(folders, "_exchange", lambda a, b: False)
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
            pytest.raises(StorageError) as error,
            NewFolder(target, replace=lambda _: True) as folder,
        ):
            (folder.path / "y").write_bytes(b"2")
        assert str(error.value) == (
            f"Cannot write to {target}: no permission; choose another folder, or change the "
            "permissions."
        )
        assert _names(tmp_path) == (["a"] if there else []) and open_files(tmp_path) == []
        assert not there or (target / "x").read_bytes() == b"1"

    def test_where_none_can_be_made(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(InputError, match="file is a file; choose another folder to write to"):
            NewFolder(tmp_path / "file")
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        for place in (tmp_path, tmp_path / "here", Path(), Path("..")):
            with pytest.raises(DatasetError, match="the folder that you are in, or around it"):
                NewFolder(place, refuse=DatasetError)
        NewFolder(Path("in")).abort()
        (tmp_path / "gone").mkdir()
        monkeypatch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        NewFolder(tmp_path / "elsewhere").abort()  # as of a long work
        with pytest.raises(StorageError) as error:
            NewFolder(tmp_path / "file" / "a")
        assert str(error.value).startswith(f"Cannot write to {tmp_path / 'file'}: a file ")
        assert _names(tmp_path) == ["file", "here"]

    def test_a_hidden_folder_that_cannot_be_made(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mkdir = Path.mkdir

        def fail(path: Path, *arguments: object, **options: object) -> None:
            if ".partial-" in path.name:
                raise OSError(errno.ENOSPC, "x")
            mkdir(path, *arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(Path, "mkdir", fail)
        with pytest.raises(StorageError) as error:
            NewFolder(tmp_path / "a")
        assert str(error.value) == (
            f"Cannot write to {tmp_path / 'a'}: the disk is full; free some space."
        )
        assert _names(tmp_path) == [] and open_files(tmp_path) == []

    def test_what_is_told_of_a_writer(self, tmp_path: Path) -> None:
        for error in (StorageError("mine."), Cancelled("x"), ValueError("y")):
            with pytest.raises(type(error)) as told, NewFolder(tmp_path / "a"):
                raise error
            assert told.value is error
        with pytest.raises(StorageError) as told, NewFolder(tmp_path / "a"):
            raise OSError(errno.ENOSPC, "x")
        assert str(told.value) == (
            f"Cannot write to {tmp_path / 'a'}: the disk is full; free some space."
        )
        assert _names(tmp_path) == []

    def test_a_name_that_somebody_looks_at_is_not_taken(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tokens = iter(["1-a", "1-b"])
        monkeypatch.setattr(folders, "own_token", lambda: next(tokens))
        with FileLock(tmp_path / ".a.partial-1-a.lock"), NewFolder(tmp_path / "a") as folder:
            assert folder.path.name == ".a.partial-1-b"


def _two(folder: Path) -> tuple[Path, Path]:
    """Make two folders of unlike content."""
    for name in "ab":
        (folder / name).mkdir(parents=True)
        (folder / name / name).write_bytes(b"")
    return folder / "a", folder / "b"


class TestSameTree:
    @pytest.fixture
    def pair(self, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
        for name in "ab":
            folder = tmp_path / name
            (folder / "sub" / "empty").mkdir(parents=True)
            (folder / "sub" / "x").write_bytes(b"12345")
            (folder / "y").write_bytes(b"")
        yield tmp_path / "a", tmp_path / "b"

    def test_the_same(self, pair: tuple[Path, Path]) -> None:
        os.utime(pair[1] / "y", (0, 0))
        assert same_tree(*pair)

    def test_other_bytes_of_one_size_and_time(self, pair: tuple[Path, Path]) -> None:
        (pair[1] / "sub" / "x").write_bytes(b"12346")
        for folder in pair:
            os.utime(folder / "sub" / "x", (0, 0))
        assert not same_tree(*pair)

    def test_other_names(self, pair: tuple[Path, Path]) -> None:
        for change in (
            lambda folder: (folder / "z").write_bytes(b""),
            lambda folder: (folder / "z").rename(folder / "sub" / "z"),
            lambda folder: ((folder / "sub" / "z").unlink(), (folder / "sub" / "n").mkdir()),
            lambda folder: ((folder / "sub" / "n").rmdir(), (folder / "y").unlink()),
            lambda folder: (folder / "y").mkdir(),
        ):
            change(pair[1])
            assert not same_tree(*pair) and not same_tree(*pair[::-1])


class TestLeftovers:
    def test_a_kill_between_write_and_rename(self, tmp_path: Path) -> None:
        path = tmp_path / "a.json"
        path.write_bytes(b"old")
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
        assert _names(tmp_path) == ["a.json"] and path.read_bytes() == b"old"

    def test_which_files_are_left(self, tmp_path: Path, dead: int) -> None:
        """Those of an ended process, of this very name, that have lain a minute."""
        goes = [f".a[1].json.{dead}-ab.partial.json", f".a[1].json.{dead}-ab.partial"]
        stays = [
            f".a[1].json.{os.getpid()}-ab.partial.json",
            f".a[1].json.{os.getppid()}-ab.partial.json",
            ".a[1].json.x-ab.partial.json",
            f".a1.json.{dead}-ab.partial.json",
            f".a[1].json.{10**30}-ab.partial.json",  # no process has such a number
            f"a[1].json.{dead}-ab.partial.json",
            "a[1].json",
        ]
        for name in (*goes, *stays):
            (tmp_path / name).write_bytes(b"")
        remove_leftovers(tmp_path / "a[1].json", age=0)
        assert _names(tmp_path) == sorted(stays)
        new = tmp_path / goes[0]
        for age, left in ((50, True), (61, False)):
            new.write_bytes(b"")
            os.utime(new, (time.time() - age,) * 2)
            remove_leftovers(str(tmp_path / "a[1].json"))
            assert new.exists() == left

    def test_which_folders_are_left(self, tmp_path: Path) -> None:
        target = tmp_path / "a"
        for name in (".a.partial-1-x", ".a.partial-1-y", ".b.partial-1-x"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "z").write_bytes(b"")
            (tmp_path / f"{name}.lock").write_bytes(b"")
        (tmp_path / ".a.partial-1-z.lock").write_bytes(b"")
        (tmp_path / ".a.partial-1-v").mkdir()  # its lock is gone
        (tmp_path / ".a.partial-1-file").write_bytes(b"")
        with FileLock(tmp_path / ".a.partial-1-y.lock"), FileLock(tmp_path / ".a.partial-1-w.lock"):
            assert [left.name for left in NewFolder.leftovers(target)] == [
                ".a.partial-1-v",
                ".a.partial-1-x",
            ]
            remove_leftovers(target)
            theirs = [".b.partial-1-x", ".b.partial-1-x.lock"]
            assert _names(tmp_path) == [
                ".a.partial-1-file",
                ".a.partial-1-w.lock",
                ".a.partial-1-y",
                ".a.partial-1-y.lock",
                *theirs,
            ]
        remove_leftovers(target)
        assert _names(tmp_path) == [".a.partial-1-file", *theirs]

    def test_what_was_taken_away_is_put_back(self, tmp_path: Path) -> None:
        """Killed between the two renames of a replacement, or behind both."""
        target, old = tmp_path / "a", tmp_path / ".a.old-1-2"
        old.mkdir()
        (old / "x").write_bytes(b"1")
        remove_leftovers(target)
        assert (target / "x").read_bytes() == b"1" and _names(tmp_path) == ["a"]
        shutil.copytree(target, old)
        (old / "x").write_bytes(b"older")
        remove_leftovers(target)
        assert (target / "x").read_bytes() == b"1" and _names(tmp_path) == ["a"]

    def test_a_new_folder_sweeps_them(self, tmp_path: Path) -> None:
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
        NewFolder(tmp_path / "a").abort()
        assert _names(tmp_path) == []
