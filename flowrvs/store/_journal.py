"""The journal: every change to pixels and provenance, in an SQLite file of the project."""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
import sqlite3
import threading
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flowrvs.errors import ProjectError, StorageError
from flowrvs.store._delta import DamagedError, encode
from flowrvs.store._files import create_array, storage_error

__all__ = ["Journal", "Mark", "Record", "StepRow"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS steps (
    id INTEGER PRIMARY KEY, name TEXT, kind TEXT, who TEXT, time TEXT, state TEXT,
    place INTEGER, first_seq INTEGER, last_seq INTEGER, frames TEXT, catalog TEXT);
CREATE TABLE IF NOT EXISTS records (
    seq INTEGER PRIMARY KEY, step INTEGER, layer INTEGER, start INTEGER, stop INTEGER,
    role TEXT, marks TEXT, data BLOB);
CREATE INDEX IF NOT EXISTS records_of_step ON records (step, seq);
CREATE INDEX IF NOT EXISTS records_of_frame ON records (start, layer, seq);
CREATE INDEX IF NOT EXISTS records_of_ranges ON records (layer, seq) WHERE role = 'range';
CREATE TABLE IF NOT EXISTS changes (object INTEGER, start INTEGER, stop INTEGER, step INTEGER);
CREATE INDEX IF NOT EXISTS changes_of_object ON changes (object, start);
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER);
"""

# What undo wrote goes when it is safe, not before.
_DELETE = "DELETE FROM records WHERE step = ? AND role NOT LIKE 'back%'"

_DELETE_BACK = "DELETE FROM records WHERE role LIKE 'back%' AND seq > ? AND seq <= ?"

_FULL = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_READONLY: errno.EROFS}

_STATES = ("open", "done", "undone")

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


@dataclass(frozen=True, slots=True)
class Mark:
    """What a change did to one object on one frame.

    Attributes
    ----------
    object_id : int
        The object.
    old, new : int
        Its provenance before and after.
    before : int
        Number of the change of this object on this frame that came before; 0 for none.
    """

    object_id: int
    old: int
    new: int
    before: int = 0


@dataclass(slots=True)
class Record:
    """One change of a frame, or of the provenance of an object on a range.

    Attributes
    ----------
    seq : int
        Its number; changes of one frame happened in the order of their numbers.
    step, layer : int
        The undoable step that it belongs to, and where it happened.
    start, stop : int
        The frames; a change of pixels has one.
    role : str
        ``"pixels"``; ``"range"``, the provenance of a range; and ``"back"`` and
        ``"back-range"``, what undo or redo wrote, kept only until that is safe.
    marks : tuple of Mark
        The objects that it touched.
    data : bytes or None
        The difference of the two frames, or the old and new provenance of the range.
    frames : tuple of 2 ndarray and int, or None
        Rows of the frame before and after, and the first of them, until `pack` was called.
    counted : int
        How many bytes its step counts for it.
    """

    seq: int
    step: int
    layer: int
    start: int
    stop: int
    role: str
    marks: tuple[Mark, ...]
    data: bytes | None = None
    frames: tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint16], int] | None = None
    counted: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def pack(self) -> bytes:
        """Return `data`, made from the frames the first time."""
        with self._lock:
            if self.data is None:
                assert self.frames is not None
                self.data = encode(*self.frames)
                self.frames = None
            return self.data

    @staticmethod
    def pack_range(old: npt.NDArray[np.uint8], new: npt.NDArray[np.uint8]) -> bytes:
        """Return `data` of a change of provenance."""
        return zlib.compress(old.tobytes() + new.tobytes(), 1)

    def unpack_range(self) -> npt.NDArray[np.uint8]:
        """Return old and new provenance of the range, shape (2, n).

        Raises
        ------
        DamagedError
            The bytes are damaged.
        """
        try:
            values = np.frombuffer(zlib.decompress(self.pack()), np.uint8)
        except zlib.error as error:
            raise DamagedError("a damaged range of provenance") from error
        if len(values) != 2 * (self.stop - self.start):
            raise DamagedError("a damaged range of provenance")
        return values.reshape(2, -1)


@dataclass(frozen=True, slots=True)
class StepRow:
    """A step as the journal keeps it."""

    id: int
    name: str
    kind: str
    who: str
    time: str
    state: str
    place: int
    first_seq: int
    last_seq: int
    frames: dict[str, Any]
    catalog: dict[str, Any]


class Journal:
    """The SQLite file ``history/journal.sqlite`` of a project.

    Whatever was committed survives a kill and a power cut; a torn end of the log is ignored.
    The folder is an empty zarr array, so that zarr's readers look no further into it.

    Parameters
    ----------
    project : Path
        The project's folder.
    writable : bool
        False reads what is there, without locks.
    """

    def __init__(self, project: Path, *, writable: bool) -> None:
        self.path = project / "history" / "journal.sqlite"
        self._writable = writable
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._closed = False
        self._swept = 0  # what undo wrote up to this number is gone
        #: How often the file was damaged and begun anew: what was in it is gone.
        self.damages = 0
        #: What the user should know of a journal that could not be read.
        self.notice: str | None = None

    def _open(self) -> sqlite3.Connection | None:
        """Return the open file; None where there is none to read."""
        if self._db is not None:
            return self._db
        if self._closed:  # opened again, it would keep others out
            raise ProjectError(f"{self.path.parents[1]} was closed; open it again.")
        if not self._writable:
            if not self.path.exists():
                return None
            # A reader may see the file without its log: older rows, never wrong ones.
            uri = f"{self.path.absolute().as_uri()}?immutable=1"
            self._db = sqlite3.connect(uri, uri=True, check_same_thread=False)
            self._db.text_factory = _text
            return self._db
        if not (self.path.parent / "zarr.json").exists():
            create_array(self.path.parent, (0,), (1,), "uint8", ("none",))
        try:
            self._db = self._connect()
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            self._set_aside()
            self._db = self._connect()
        return self._db

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
        try:
            db.text_factory = _text
            # One process at a time writes to a project, and an exclusive log needs no shared
            # memory, which network disks lack.
            db.execute("PRAGMA locking_mode=EXCLUSIVE")
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.execute("PRAGMA wal_autocheckpoint=256")
            db.execute(f"PRAGMA journal_size_limit={2**20}")
            db.executescript(_SCHEMA)
            db.execute("PRAGMA wal_checkpoint")  # a reader sees the tables at least
            db.execute("SELECT count(*) FROM steps").fetchone()
        except BaseException:
            db.close()
            raise
        return db

    def _set_aside(self) -> None:
        """Keep a damaged file under another name, for those who can read more of it."""
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
            self._db = None
        folder, number = self.path.parent, 0
        prefix = "damaged-"
        while (folder / f"{prefix}{self.path.name}").exists():
            number += 1
            prefix = f"damaged-{number}-"
        for suffix in ("", "-wal", "-shm"):
            file = Path(f"{self.path}{suffix}")
            if file.exists():
                file.replace(file.with_name(f"{prefix}{file.name}"))
        self._swept = 0
        self.damages += 1
        self.notice = (
            f"The undo history in {self.path.parent} was damaged and begins anew; the masks "
            "are as they were saved."
        )

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if self._writable and _is_damage(error):
                with self._lock:
                    self._set_aside()
                raise StorageError(self.notice or "") from error
            code = _FULL.get(getattr(error, "sqlite_errorcode", -1) & 0xFF)
            cause: Exception = error if code is None else OSError(code, str(error))
            raise storage_error(cause, self.path.parent) from error

    # -- writing -------------------------------------------------------------------------

    def commit(
        self,
        *,
        steps: Iterable[StepRow] = (),
        records: Iterable[Record] = (),
        changes: Iterable[tuple[int, int, int, int]] = (),
        dropped: Iterable[int] = (),
        forgotten: Iterable[int] = (),
        flushed: int = 0,
    ) -> None:
        """Write all of it in one durable transaction, or nothing.

        Parameters
        ----------
        steps : iterable of StepRow
            New ones and ones that changed.
        records : iterable of Record
            New ones.
        changes : iterable of (object, start, stop, step)
            Who touched which frames: kept when the step itself is dropped.
        dropped : iterable of int
            Steps that cannot be undone any more.
        forgotten : iterable of int
            Steps that were undone for good.
        flushed : int
            Pixels of the changes up to this number are safe without the journal.

        Raises
        ------
        StorageError
            Nothing was written.
        """
        with self._lock, self._errors():
            db = self._open()
            assert db is not None
            try:
                db.execute("BEGIN IMMEDIATE")
                db.executemany(
                    "REPLACE INTO steps VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                    [
                        (
                            *(row.id, row.name, row.kind, row.who, row.time, row.state),
                            *(row.place, row.first_seq, row.last_seq),
                            *(json.dumps(row.frames), json.dumps(row.catalog)),
                        )
                        for row in steps
                    ],
                )
                db.executemany(
                    "REPLACE INTO records VALUES (?,?,?,?,?,?,?,?)",
                    ((*_fields(r), r.role, _to_text(r.marks), r.pack()) for r in records),
                )
                db.executemany("INSERT INTO changes VALUES (?,?,?,?)", changes)
                for step in dropped:
                    db.execute(_DELETE, (step,))
                    db.execute(
                        "UPDATE steps SET state = 'dropped', catalog = '{}' WHERE id = ?", (step,)
                    )
                for step in forgotten:
                    db.execute(_DELETE, (step,))
                    db.execute("DELETE FROM changes WHERE step = ?", (step,))
                    db.execute("DELETE FROM steps WHERE id = ?", (step,))
                if flushed:
                    db.execute("REPLACE INTO meta VALUES ('flushed', ?)", (flushed,))
                    db.execute(_DELETE_BACK, (self._swept, flushed))
                db.execute("COMMIT")
                self._swept = max(self._swept, flushed)
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Fold the log into the file and let go of it."""
        with self._lock:
            if self._db is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._db.close()
                self._db = None
            self._closed = True

    def settle(self) -> None:
        """Fold the log into the file, so that a copy of the file is complete."""
        with self._lock, self._errors():
            if self._db is not None and self._writable:
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def copy(self, project: Path) -> None:
        """Copy the file, if there is one, and its log into another project."""
        with self._lock:
            with contextlib.suppress(StorageError):  # on a full disk the log is copied, too
                self.settle()
            for suffix in ("", "-wal"):
                file = Path(f"{self.path}{suffix}")
                if file.exists():
                    shutil.copyfile(file, project / "history" / file.name)

    # -- reading -------------------------------------------------------------------------

    def load(self) -> tuple[list[StepRow], int, int]:
        """Return the steps that can be undone or redone, what is flushed, the last number."""
        if not self.path.exists():
            return [], 0, 0
        if self._writable and not self.path.stat().st_size:
            self._set_aside()  # a journal is never empty
            return [], 0, 0
        try:
            return self._load()
        except (sqlite3.Error, ValueError, TypeError, KeyError) as error:
            if not self._writable:
                return [], 0, 0
            if isinstance(error, sqlite3.Error) and not _is_damage(error):
                with self._errors():
                    raise
            self._set_aside()
            return [], 0, 0

    def _load(self) -> tuple[list[StepRow], int, int]:
        with self._lock:
            db = self._open()
            assert db is not None
            rows = []
            for row in db.execute("SELECT * FROM steps WHERE state != 'dropped' ORDER BY place"):
                try:
                    rows.append(_step(row))
                except (ValueError, TypeError, KeyError):
                    self.damaged()  # what it did stays
            flushed = db.execute("SELECT value FROM meta WHERE key = 'flushed'").fetchone()
            seq, step = (
                db.execute("SELECT max(seq) FROM records").fetchone()[0] or 0,
                db.execute("SELECT max(last_seq) FROM steps").fetchone()[0] or 0,
            )
            done = flushed[0] if flushed else 0
            return rows, done, max(seq, step, done)

    def last_step(self) -> int:
        """Return the highest number that a step ever had."""
        if not self.path.exists() or not self._writable:
            return 0
        with self._lock, self._errors():
            db = self._open()
            found = None if db is None else db.execute("SELECT max(id) FROM steps").fetchone()[0]
            return found or 0

    def seqs(self, step: int) -> list[int]:
        """Return the numbers of a step's changes, in order."""
        rows = self._query(
            "SELECT seq FROM records WHERE step = ? AND role NOT LIKE 'back%' ORDER BY seq", (step,)
        )
        return [seq for (seq,) in rows]

    def after(self, seq: int) -> Iterator[Record]:
        """Yield every change after number `seq`, in order."""
        seqs = self._query("SELECT seq FROM records WHERE seq > ? ORDER BY seq", (seq,))
        yield from self.by_seq([one for (one,) in seqs])

    def of_frame(self, layer: int, t: int, seq: int) -> list[tuple[int, int]]:
        """Return (number, step) of the changes of a frame after change `seq`."""
        return self._query(
            "SELECT seq, step FROM records WHERE layer = ? AND start = ? AND seq > ? "
            "AND role = 'pixels' ORDER BY seq",
            (layer, t, seq),
        )

    def marks_of(self, start: int, stop: int) -> Iterator[tuple[int, int, int, tuple[Mark, ...]]]:
        """Yield (number, step, frame, marks) of the changes of the pixels of some frames."""
        for first in range(start, stop, 4096):
            for seq, step, t, text in self._query(
                "SELECT seq, step, start, marks FROM records WHERE start >= ? AND start < ? "
                "AND role = 'pixels' ORDER BY seq",
                (first, min(stop, first + 4096)),
            ):
                try:
                    yield seq, step, t, _from_text(text)
                except (ValueError, TypeError):
                    self.damaged()

    def ranges(self, layer: int, t: int, seq: int) -> Iterator[Record]:
        """Yield the changes of provenance after change `seq` whose range holds a frame."""
        rows = self._query(
            "SELECT seq FROM records WHERE layer = ? AND seq > ? AND role = 'range' "
            "AND start <= ? AND stop > ? ORDER BY seq",
            (layer, seq, t, t),
        )
        yield from self.by_seq([one for (one,) in rows])

    def steps_after(self, seq: int) -> set[int]:
        """Return the steps that changed something, or were undone or redone, after `seq`."""
        rows = self._query("SELECT DISTINCT step FROM records WHERE seq > ?", (seq,))
        return {step for (step,) in rows}

    def by_seq(self, seqs: list[int]) -> Iterator[Record]:
        """Yield changes by their numbers, one by one, so that many need no memory."""
        for seq in seqs:
            for row in self._query("SELECT * FROM records WHERE seq = ?", (seq,)):
                try:
                    yield _record(row)
                except (ValueError, TypeError):
                    self.damaged()

    def damaged(self, text: str | None = None) -> None:
        """Note what cannot be read; by default a change in the history."""
        self.notice = text or (
            f"A part of the undo history in {self.path.parent} is damaged: what it held stays "
            "as it is."
        )

    def sizes(self) -> dict[int, int]:
        """Return the bytes that each step takes."""
        return dict(self._query("SELECT step, sum(length(data) + 64) FROM records GROUP BY step"))

    def changes(self, object_id: int, t: int) -> list[tuple[int, str, str, str, str]]:
        """Return (step, time, who, kind, name) of what touched an object on a frame."""
        try:
            return self._query(
                "SELECT id, time, who, kind, name FROM changes JOIN steps ON step = id "
                "WHERE object = ? AND start <= ? AND stop > ? ORDER BY id DESC",
                (object_id, t, t),
            )
        except StorageError:
            if self._writable:
                raise
            return []

    def _query(self, text: str, values: tuple[Any, ...] = ()) -> list[Any]:
        if self._db is None and not self.path.exists():
            return []
        with self._lock, self._errors():
            db = self._open()
            return [] if db is None else db.execute(text, values).fetchall()


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")  # one damaged letter must not hide the rest


def _is_damage(error: sqlite3.Error) -> bool:
    return (getattr(error, "sqlite_errorcode", None) or -1) & 0xFF in _DAMAGED


def _step(row: tuple[Any, ...]) -> StepRow:
    frames, catalog = json.loads(row[9]), json.loads(row[10])
    for key in ("tool", "layers", "objects"):
        frames[key]
    if not all(isinstance(value, int) for value in (row[0], *row[6:9])) or row[5] not in _STATES:
        raise ValueError("a damaged step")
    return StepRow(*(*row[:9], frames, catalog))


def _record(row: tuple[Any, ...]) -> Record:
    numbers = all(isinstance(value, int) for value in row[:5])
    if not numbers or not 0 <= row[3] <= row[4] or not isinstance(row[7], bytes):
        raise ValueError("a damaged change")
    return Record(*(*row[:6], _from_text(row[6]), row[7], None, len(row[7]) + 64))


def _fields(record: Record) -> tuple[int, int, int, int, int]:
    return record.seq, record.step, record.layer, record.start, record.stop


def _to_text(marks: tuple[Mark, ...]) -> str:
    return json.dumps([[m.object_id, m.old, m.new, m.before] for m in marks])


def _from_text(text: str) -> tuple[Mark, ...]:
    marks = tuple(Mark(*(int(value) for value in values)) for values in json.loads(text))
    if any(not 0 <= mark.object_id <= 65535 or not 0 <= mark.new <= 3 for mark in marks):
        raise ValueError("a damaged mark")
    return marks
