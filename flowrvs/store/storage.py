"""What lies on the disk: zarr groups and arrays, numbers per frame, and a thread that writes.

tensorstore does the reading and writing. What it is given was looked at before: a folder from
somebody else may hold links, pipes, or a description that would make it end the process.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import stat
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorstore as ts

from flowrvs.disk import parse_json, read_regular, storage_error, write_bytes
from flowrvs.errors import ProjectError, StorageError

__all__ = [
    "Provenance",
    "Saver",
    "Track",
    "Tracks",
    "check_chunk",
    "create_array",
    "described",
    "failed",
    "free_chunk",
    "is_plain",
    "open_array",
    "read_group",
    "set_aside",
    "write_group",
]

_GROUP_BYTES = 256 * 2**20
_ARRAY_BYTES = 2**20

# No cache of its own: the frame cache below is the only one. Two copy threads leave the
# processor to the model.
_CONTEXT = ts.Context(
    {
        "cache_pool": {"total_bytes_limit": 0},
        "data_copy_concurrency": {"limit": 2},
        "file_io_concurrency": {"limit": 8},
    }
)


def failed(error: BaseException, path: str | os.PathLike[str]) -> StorageError:
    """Return the one-line `StorageError` that says why writing to a project failed."""
    if isinstance(error, StorageError):
        return error
    return storage_error(error, path, note="Nothing in memory is lost.")


# -- groups and arrays -----------------------------------------------------------------


def write_group(folder: Path, attributes: Mapping[str, Any]) -> None:
    """Make `folder` a zarr v3 group with these attributes, atomically and durably."""
    document = {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Half a character, as in names that are not UTF-8, becomes JSON's way of writing it.
        data = json.dumps(document, ensure_ascii=False).encode("utf-8", "backslashreplace")
        write_bytes(folder / "zarr.json", data)
    except StorageError as error:
        raise failed(error.__cause__ or error, folder) from error
    except OSError as error:
        raise failed(error, folder) from error


def read_group(folder: Path) -> dict[str, Any]:
    """Return the attributes of the zarr v3 group at `folder`; a `ProjectError` where it is none."""
    try:
        document = parse_json(read_regular(folder / "zarr.json", _GROUP_BYTES))
    except (OSError, ValueError) as error:
        raise ProjectError(
            f"{folder} is not a readable project: its zarr.json is missing or damaged."
        ) from error
    if not isinstance(document, dict) or document.get("node_type") != "group":
        raise ProjectError(f"{folder} is not a project: its zarr.json is not a zarr v3 group.")
    attributes = document.get("attributes") or {}
    if not isinstance(attributes, dict):
        raise ProjectError(f"{folder} is not a project: its attributes are damaged.")
    return attributes


def create_array(
    folder: Path,
    shape: Sequence[int],
    chunk: Sequence[int],
    dtype: npt.DTypeLike,
    names: Sequence[str],
    *,
    keep: bool = False,
) -> ts.TensorStore:
    """Create a zarr v3 array filled with zeros, replacing what a crash may have left there.

    With `keep` the chunks that lie there are its own: only its ``zarr.json`` is made anew.
    Chunks lie flat in one folder (``c.<t>.0.0``): a long video would otherwise need
    three folders a frame.
    """
    metadata = {
        "shape": list(shape),
        "data_type": str(dtype),
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "zstd", "configuration": {"level": 1, "checksum": True}},
        ],
        "fill_value": 0,
        "dimension_names": list(names),
    }
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder}/"}}
    try:
        _check_folder(folder)
        _clear(folder)
        return ts.open(
            {**spec, "metadata": metadata}, context=_CONTEXT, create=True, delete_existing=not keep
        ).result()
    except Exception as error:  # tensorstore raises plain ValueError, RuntimeError, ...
        raise failed(error, folder) from error


def open_array(
    folder: Path, shape: Sequence[int], dtype: npt.DTypeLike, chunk: Sequence[int]
) -> ts.TensorStore:
    """Open a zarr v3 array; a `ProjectError` where it is not what the project says."""
    try:
        _check_folder(folder)
        found = parse_json(read_regular(folder / "zarr.json", _ARRAY_BYTES))
        said = (found["shape"], found["data_type"])
        grid, keys = found["chunk_grid"], found["chunk_key_encoding"]
        # A description that asks for other chunks could ask for any amount of memory.
        ours = (
            found["node_type"] == "array"
            and grid["name"] == "regular"
            and list(grid["configuration"]["chunk_shape"]) == list(chunk)
            and (keys["name"], keys["configuration"]["separator"]) == ("default", ".")
            and {codec["name"] for codec in found["codecs"]} <= {"bytes", "zstd"}
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProjectError(f"The array {folder} is missing or damaged.") from error
    if said != (list(shape), str(dtype)):
        theirs = f"{said[1]!s:.20} {said[0]!s:.60}"
        raise ProjectError(
            f"The array {folder} is {theirs}; the project needs {dtype} {list(shape)}."
        )
    if not ours:
        raise ProjectError(f"The array {folder} is missing or damaged: not as flowrvs writes it.")
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder}/"}}
    try:
        return ts.open(spec, context=_CONTEXT, open=True).result()
    except Exception as error:
        raise ProjectError(f"The array {folder} is missing or damaged.") from error


def _check_folder(folder: Path) -> None:
    """Refuse a folder that is a link: what is written would land elsewhere."""
    if folder.is_symlink():
        raise StorageError(f"{folder} is a symbolic link; put the folder itself in its place.")


def _clear(folder: Path) -> None:
    """Remove what tensorstore would write through: links, and files that it writes first."""
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            plain = entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)
            if not plain or entry.name.endswith(".__lock"):
                os.unlink(entry.path)


def is_plain(path: str) -> bool:
    """Tell whether a path is a file or folder itself: no link, pipe or device."""
    mode = os.lstat(path).st_mode
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def check_chunk(file: str, size: int) -> None:
    """Refuse what lies in the place of a chunk of so many bytes and is none: all of it is read."""
    try:
        found = os.lstat(file)
    except OSError:
        return
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is a link or no plain file")
    if found.st_size > 2 * size + 4096:  # what does not compress grows by little
        raise ValueError("it is larger than its pixels")


def free_chunk(file: str) -> None:
    """Remove what lies in the place of the file that tensorstore writes before it renames."""
    lock = f"{file}.__lock"
    try:
        if not stat.S_ISREG(os.lstat(lock).st_mode):
            os.unlink(lock)
    except FileNotFoundError:
        return


def described(folder: Path) -> bool:
    """Tell whether the ``zarr.json`` of an array is one, whatever it says."""
    try:
        found = parse_json(read_regular(folder / "zarr.json", _ARRAY_BYTES))
        return bool(found["node_type"] == "array")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def set_aside(file: Path) -> None:
    """Give a damaged file another name, that it may be looked at."""
    if file.exists() or file.is_symlink():
        file.replace(file.with_name(f"damaged-{file.name}"))


# -- numbers per frame -----------------------------------------------------------------

_CHUNK = 4096


class Provenance(IntEnum):
    """Where an object's mask on a frame comes from.

    ``EMPTY``: nowhere yet. ``MODEL``: a run. ``HUMAN``: a person drew, erased or accepted
    it. ``LOCKED``: a person protected it. The model changes the first two only.
    """

    EMPTY = 0
    MODEL = 1
    HUMAN = 2
    LOCKED = 3


class Track:
    """One number a frame, in memory, whose changed pieces are written to a zarr array.

    The array is made when it is first written: a stroke with a new label must not wait for
    the disk, or fail by it. A `new` one begins with zeros, whatever a crash left there. Call
    `touch` after changing `values`.
    """

    def __init__(self, path: Path, frames: int, dtype: str, *, new: bool) -> None:
        self.path = path
        self._dtype = dtype
        self._array: Any = None
        self._dirty: set[int] = set()
        self.values: npt.NDArray[Any] = np.zeros(frames, dtype)
        # Nothing is on the disk in projects of an earlier format, and where a kill came.
        self.known = new or (path / "zarr.json").exists()
        self.damaged = False  # what cannot be read is zero, and made anew
        if new or not self.known:
            if new and path.exists():
                self.touch(0, frames)
            return
        try:
            self._array = open_array(path, (frames,), dtype, (min(frames, _CHUNK),))
            for chunk in range(-(-frames // _CHUNK)):
                check_chunk(f"{path}/c.{chunk}", _CHUNK * self.values.itemsize)
            self.values = np.array(self._array.read().result())
            if (self.values < 0).any() or dtype == "uint8" and (self.values > 3).any():
                raise ValueError("values that nobody wrote")
        except Exception:  # tensorstore raises ValueError, RuntimeError, ...
            self._array, self.known, self.damaged = None, False, True
            self.values[:] = 0
            self.touch(0, frames)

    @property
    def dirty(self) -> int:
        """Number of pieces that wait to be written."""
        return len(self._dirty)

    def touch(self, start: int, stop: int) -> None:
        """Have a range written at the next flush."""
        if start < stop:
            self._dirty.update(range(start // _CHUNK, (stop - 1) // _CHUNK + 1))

    def copy(self) -> Track:
        """Return another track of the same values, which nothing changes."""
        other = copy.copy(self)
        other.values = self.values.copy()
        return other

    def write_at(self, path: Path) -> None:
        """Write all of it to another place."""
        self._create(path).write(self.values).result()

    def take(self) -> list[tuple[int, npt.NDArray[Any]]]:
        """Return copies of the pieces that changed, and count them as written."""
        waiting, self._dirty = self._dirty, set()
        return [(c, self.values[c * _CHUNK : (c + 1) * _CHUNK].copy()) for c in sorted(waiting)]

    def give_back(self, pieces: Iterable[tuple[int, Any]]) -> None:
        """Count pieces as changed again."""
        self._dirty.update(chunk for chunk, _ in pieces)

    def write(self, pieces: list[tuple[int, npt.NDArray[Any]]]) -> Callable[[], None]:
        """Begin to write pieces; the result waits for them. Both may raise a `StorageError`."""
        try:
            if self._array is None:
                self._array = self._create(self.path)
            futures = []
            for c, values in pieces:
                free_chunk(f"{self.path}/c.{c}")
                place = slice(c * _CHUNK, c * _CHUNK + len(values))
                futures.append(self._array[place].write(values))
        except Exception as error:
            raise failed(error, self.path) from error

        def wait() -> None:
            try:
                for future in futures:
                    future.result()
            except Exception as error:  # tensorstore raises ValueError, RuntimeError, ...
                raise failed(error, self.path) from error

        return wait

    def _create(self, path: Path) -> Any:
        frames = len(self.values)
        return create_array(path, (frames,), (min(frames, _CHUNK),), self._dtype, ("t",))


class Tracks:
    """Provenance and area of every object of a project; the lock of its layer guards it.

    Those of removed objects stay, should the removal be undone.
    """

    def __init__(self, project: Path, frames: int) -> None:
        self._project = project
        self._frames = frames
        self.provenance: dict[int, Track] = {}
        self.areas: dict[int, Track] = {}
        # Held while some are written: an object may be in another layer before its old one's
        # flush has ended, and what is newer must be written last. Taken after a flush lock.
        self.writing = threading.Lock()

    def open(self, object_id: int, *, new: bool = False) -> None:
        """Take in an object, a `new` one or one that the disk knows."""
        if object_id not in self.provenance:
            name, frames = str(object_id), self._frames
            self.provenance[object_id] = Track(
                self._project / "provenance" / name, frames, "uint8", new=new
            )
            self.areas[object_id] = Track(self._project / "areas" / name, frames, "int32", new=new)


# -- writing in the background ---------------------------------------------------------


class Saver:
    """A thread that calls ``save()`` `interval` seconds after `wake`, and again while it fails.

    `error` is why the last try failed; None when everything is written or on its way.
    """

    def __init__(
        self, save: Callable[[], object], *, interval: float = 0.25, retry: float = 2.0
    ) -> None:
        self._save = save
        self._interval = interval
        self.retry = retry
        self._wanted = threading.Event()
        self._stopped = threading.Event()
        self._hurried = threading.Event()
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.error: StorageError | None = None

    def wake(self) -> None:
        """Have what is dirty written soon; cheap enough for every stamp of a brush."""
        if self._wanted.is_set() or self._stopped.is_set():
            return
        self._wanted.set()
        if self._thread is None:
            with self._start_lock:
                if self._thread is None:
                    # A daemon: a forgotten project must not keep a program from ending.
                    self._thread = threading.Thread(
                        target=self._run, name="flowrvs-save", daemon=True
                    )
                    self._thread.start()

    def hurry(self) -> None:
        """Have it written now: much is waiting. A disk that refuses is not asked more often."""
        self._hurried.set()
        self.wake()

    def stop(self) -> None:
        """End the thread; what is still dirty is the caller's to save."""
        self._stopped.set()
        self._hurried.set()
        self._wanted.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            if self.error is None:
                self._hurried.wait(self._interval)
            else:
                self._stopped.wait(self.retry)
            if self._stopped.is_set():
                return
            self._hurried.clear()
            self._wanted.clear()
            try:
                self._save()
                self.error = None
            except Exception as error:
                # Whatever it was: a thread that died of it would never write again.
                told = _told(error)
                if str(told) != str(self.error):  # the same trouble is told once
                    self.error = told
                self._wanted.set()


def _told(error: Exception) -> StorageError:
    if isinstance(error, StorageError):
        return error
    text = " ".join(str(error).split())[:200] or type(error).__name__
    told = StorageError(f"Not everything could be saved: {text} It is kept and tried again.")
    told.__cause__ = error
    return told
