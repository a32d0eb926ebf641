"""Writing beside and renaming, and files that are none."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flowrvs.disk import (
    free_bytes,
    is_flat,
    open_regular,
    own_token,
    parse_json,
    read_json,
    read_regular,
    replacing,
    storage_error,
    write_bytes,
)
from flowrvs.errors import Cancelled, MissingPathError, StorageError
from tests.fixtures.disk import open_files, small_disk, what_is_made_durable


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "told"),
        [
            (OSError(errno.ENOSPC, "x"), "the disk is full; free some space"),
            (OSError(errno.EDQUOT, "x"), "your disk quota is used up; free some space"),
            (OSError(errno.EROFS, "x"), "the disk is read-only; choose another folder"),
            (
                OSError(errno.EACCES, "x"),
                "no permission; choose another folder, or change the permissions",
            ),
            (
                OSError(errno.EPERM, "x"),
                "no permission; choose another folder, or change the permissions",
            ),
            (
                OSError(errno.EFBIG, "x"),
                "the file system refuses so large a file; choose another disk",
            ),
            (OSError(errno.ENOENT, "x"), "the folder has vanished; put it back"),
            (
                OSError(errno.EMFILE, "x"),
                "too many files are open; close some, or raise the limit (ulimit -n)",
            ),
            (
                OSError(errno.ENFILE, "x"),
                "too many files are open on this computer; close other programs",
            ),
            (
                OSError(errno.EEXIST, "x"),
                "a file of that name is in the way; choose another folder",
            ),
            (
                OSError(errno.ENOTDIR, "x"),
                "a file is in the way of a folder; choose another folder",
            ),
            (OSError(errno.ELOOP, "x"), "it is a symbolic link; put the file itself there"),
            (OSError(errno.EISDIR, "x"), "it is no plain file; put one there"),
            (OSError(errno.ENXIO, "x"), "it is no plain file; put one there"),
            (ValueError("a: b [OS error 28: ENOSPC No]"), "the disk is full; free some space"),
            (
                ValueError("RESOURCE_EXHAUSTED: x [os_error_code='24']"),
                "too many files are open; close some, or raise the limit (ulimit -n)",
            ),
            (
                ValueError("UNKNOWN: x [os_error_code='30']"),
                "the disk is read-only; choose another folder",
            ),
            (ValueError("RESOURCE_EXHAUSTED: no"), "the disk is full; free some space"),
            (
                ValueError("PERMISSION_DENIED: no"),
                "no permission; choose another folder, or change the permissions",
            ),
            (ValueError("no RESOURCE_EXHAUSTED"), "no RESOURCE_EXHAUSTED"),
            (MemoryError("x"), "the memory is full; close other programs"),
            (OSError(errno.EIO, "Input/output error"), "Input/output error"),
            (OSError("no number"), "no number"),
            (RuntimeError("two\nlines"), "two lines"),
            (RuntimeError("x" * 201), "x" * 200),
            (KeyError(), "KeyError"),
        ],
    )
    def test_one_line_says_what_to_do(self, error: Exception, told: str) -> None:
        assert str(storage_error(error, Path("/a/b"))) == f"Cannot write to /a/b: {told}."
        text = str(storage_error(error, "/a/b", doing="read", note="Try again."))
        assert text == f"Cannot read /a/b: {told}. Try again."


class TestWriting:
    @pytest.mark.parametrize("durable", [True, False])
    def test_the_file_is_durable_before_its_name_is(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
    ) -> None:
        path = tmp_path / "a.json"
        path.write_bytes(b"an older and longer one")
        told = what_is_made_durable(monkeypatch)
        write_bytes(path, b"new", durable=durable)
        assert path.read_bytes() == b"new" and _names(tmp_path) == ["a.json"]
        told = [(what, "beside" if ".partial" in name else name) for what, name in told]
        renamed = ("replace", "a.json")
        wanted = [("fsync", "beside"), renamed, ("fsync", tmp_path.name)] if durable else [renamed]
        assert told == wanted and open_files(tmp_path) == []

    def test_it_is_durable_by_default(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told = what_is_made_durable(monkeypatch)
        write_bytes(tmp_path / "a", b"")
        with replacing(tmp_path / "a") as temporary:
            temporary.write_bytes(b"")
        assert [what for what, _ in told] == ["fsync", "replace", "fsync"] * 2

    def test_a_full_disk_leaves_the_old_content(self, tmp_path: Path) -> None:
        path = tmp_path / "a.json"
        write_bytes(path, b"old")
        with small_disk(1000), pytest.raises(StorageError) as error:
            write_bytes(path, bytes(2000))
        assert str(error.value) == (
            f"Cannot write to {path}: the file system refuses so large a file; choose another disk."
        )
        assert path.read_bytes() == b"old" and _names(tmp_path) == ["a.json"]

    def test_a_failing_writer_leaves_the_old_content(self, tmp_path: Path) -> None:
        path = tmp_path / "a.npz"
        path.write_bytes(b"old")
        with pytest.raises(RuntimeError), replacing(path) as temporary:
            assert temporary.name.startswith(f".a.npz.{os.getpid()}-")
            assert temporary.name.endswith(".partial.npz") and temporary.parent == tmp_path
            temporary.write_bytes(b"half")
            raise RuntimeError
        assert path.read_bytes() == b"old" and _names(tmp_path) == ["a.npz"]

    def test_what_is_told_of_a_writer(self, tmp_path: Path) -> None:
        """What the block raises of ours says more than the system's number."""
        for error in (StorageError("mine."), Cancelled("on request"), MissingPathError("gone")):
            with pytest.raises(type(error)) as told, replacing(tmp_path / "a"):
                raise error
            assert told.value is error
        with pytest.raises(StorageError) as told, replacing(tmp_path / "a"):
            raise OSError(errno.ENOSPC, "No space left on device")
        assert str(told.value) == (
            f"Cannot write to {tmp_path / 'a'}: the disk is full; free some space."
        )
        assert _names(tmp_path) == []

    def test_a_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match="the folder has vanished"):
            write_bytes(tmp_path / "none" / "a", b"")

    def test_a_link_is_replaced_and_not_followed(self, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.write_bytes(b"theirs")
        (tmp_path / "a").symlink_to(outside)
        write_bytes(tmp_path / "a", b"ours")
        assert outside.read_bytes() == b"theirs" and not (tmp_path / "a").is_symlink()

    def test_names_of_temporary_files(self) -> None:
        tokens = {own_token() for _ in range(20)}
        assert len(tokens) == 20
        assert {token.partition("-")[0] for token in tokens} == {str(os.getpid())}


class TestPlainFiles:
    def test_what_is_no_plain_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"secret")
        (tmp_path / "link").symlink_to(tmp_path / "file")
        (tmp_path / "folder").mkdir()
        os.mkfifo(tmp_path / "pipe")
        for name in ("link", "folder", "pipe", "/dev/zero"):
            link = "it is a symbolic link; put the file itself there"
            told = link if name == "link" else "it is no plain file; put one there"
            with pytest.raises(StorageError) as error:
                read_regular(tmp_path / name, 10)
            assert str(error.value) == f"Cannot read {tmp_path / name}: {told}."
            for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_CREAT):
                with pytest.raises(StorageError) as error:
                    open_regular(tmp_path / name, flags)
                assert str(error.value) == f"Cannot write to {tmp_path / name}: {told}."
        assert open_files(tmp_path) == [], "what was refused is closed"
        assert (tmp_path / "file").read_bytes() == b"secret"

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(MissingPathError) as error:
            read_regular(tmp_path / "none", 10)
        assert str(error.value) == f"There is no file {tmp_path / 'none'}."
        with pytest.raises(MissingPathError):
            open_regular(tmp_path / "none", os.O_RDWR)
        with pytest.raises(StorageError, match="the folder has vanished; put it back"):
            open_regular(tmp_path / "none" / "a", os.O_RDWR | os.O_CREAT)
        os.close(open_regular(tmp_path / "none", os.O_RDWR | os.O_CREAT))
        assert (tmp_path / "none").read_bytes() == b""

    def test_bounds(self, tmp_path: Path) -> None:
        path = tmp_path / "a"
        path.write_bytes(b"12345")
        assert read_regular(str(path), 5) == b"12345"
        with pytest.raises(StorageError) as error:
            read_regular(path, 4)
        assert str(error.value) == (
            f"Cannot read {path}: it is larger than 4 bytes; put the right file there."
        )
        assert open_files(tmp_path) == []

    def test_a_disk_that_fails_while_it_is_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "a").write_bytes(b"1")

        class Failing:
            def __enter__(self) -> Failing:
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def read(self, count: int) -> bytes:
                raise OSError(errno.EIO, "Input/output error")

        def failing(handle: int, *_: Any) -> Failing:
            os.close(handle)
            return Failing()

        monkeypatch.setattr(os, "fdopen", failing)
        with pytest.raises(StorageError) as error:
            read_regular(tmp_path / "a", 9)
        assert str(error.value) == f"Cannot read {tmp_path / 'a'}: Input/output error."

    def test_free_bytes_of_what_is_not_there_yet(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[Path] = []

        def usage(path: Path) -> Any:
            asked.append(path)
            return SimpleNamespace(free=77, used=5, total=99)

        monkeypatch.setattr(shutil, "disk_usage", usage)
        monkeypatch.chdir(tmp_path)
        for folder in (tmp_path / "a" / "b", tmp_path, Path("a/b"), Path()):
            assert free_bytes(folder) == 77
        assert [path.absolute() for path in asked] == [tmp_path] * 4


class TestJSON:
    def test_what_a_file_says(self, tmp_path: Path) -> None:
        path = tmp_path / "a.json"
        text = '{"a": "ü"}'
        for data in (text.encode(), b"\xef\xbb\xbf" + text.encode()):
            path.write_bytes(data)
            assert read_json(path, len(data)) == {"a": "ü"}
            with pytest.raises(ValueError, match=f"^it is larger than {len(data) - 1} bytes$"):
                read_json(path, len(data) - 1)
        (tmp_path / "link").symlink_to(path)
        assert read_json(tmp_path / "link", 99) == {"a": "ü"}, "the user's own link"

    def test_what_cannot_be_read(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            read_json(tmp_path / "none", 99)
        os.mkfifo(tmp_path / "pipe")
        for name in (".", "pipe"):
            with pytest.raises(ValueError, match="^it is no plain file$"):
                read_json(tmp_path / name, 2**20)
        (tmp_path / "file").write_bytes(b"{")
        with pytest.raises(json.JSONDecodeError):
            read_json(tmp_path / "file", 99)
        with pytest.raises(ValueError, match="^Not a directory$"):
            read_json(tmp_path / "file" / "a", 99)
        (tmp_path / "file").write_bytes(b'"\xff"')
        with pytest.raises(UnicodeDecodeError):
            read_json(tmp_path / "file", 99)

    def test_nested_without_end(self) -> None:
        assert parse_json(b"[[1]]") == [[1]]
        with pytest.raises(ValueError, match="^nested too deep$"):
            parse_json("[" * 200_000 + "]" * 200_000)

    def test_how_deep_is_flat(self) -> None:
        lists: Any = 1
        mixed: Any = "x"
        for depth in range(1, 60):
            lists, mixed = [0, lists], [{"a": mixed}, {}][0] if depth % 2 else [mixed, 0]
            assert is_flat(lists) == is_flat(mixed) == (depth <= 50)
            assert is_flat(lists, depth) and not is_flat(lists, depth - 1)
        assert is_flat(5, 0) and is_flat("[[", 0) and not is_flat([], 0)
