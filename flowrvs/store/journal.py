"""The journal: every change to pixels and provenance, in an SQLite file of the project.

The file may come from anybody: its tables are compared with ours before they are asked
anything, and nothing in it can say how much memory reading it takes.
"""

from __future__ import annotations

import contextlib
import errno
import json
import sqlite3
import stat
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from flowrvs.disk import parse_json, replacing
from flowrvs.errors import ProjectError, StorageError
from flowrvs.store.changes import Entry, Mark, Record, Role
from flowrvs.store.storage import create_array, failed

__all__ = ["Batch", "Journal", "add_to_copy", "by_beginning"]


@dataclass(slots=True)
class Batch:
    """What is written to the journal at once."""

    records: list[Record] = field(default_factory=list)  # new, or in place of their numbers'
    entries: dict[int, Entry] = field(default_factory=dict)  # steps that are new, or changed
    dropped: list[int] = field(default_factory=list)  # steps that cannot be undone any more
    forgotten: list[int] = field(default_factory=list)  # steps that were undone for good
    flushed: int = 0  # pixels of the changes up to this number are safe without the journal
    # What `freeze` makes of them; `touched` is (object, start, stop, step).
    steps: list[tuple[Any, ...]] = field(default_factory=list)
    frozen: list[Record] = field(default_factory=list)
    touched: list[tuple[int, int, int, int]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.entries or self.records or self.dropped or self.forgotten)

    def after(self, earlier: Batch) -> Batch:
        """Return both."""
        return Batch(
            earlier.records + self.records,
            earlier.entries | self.entries,
            earlier.dropped + self.dropped,
            earlier.forgotten + self.forgotten,
        )

    def freeze(self, flushed: int) -> list[Entry]:
        """Take everything as it is now; return the steps that ended since the last time."""
        entries = [entry for entry in self.entries.values() if entry.id not in self.forgotten]
        ended = [entry for entry in entries if entry.state not in ("open", "forgotten")]
        closing = [entry for entry in ended if not entry.logged]
        gone = {*self.dropped, *self.forgotten}
        self.flushed = flushed
        self.steps = [entry.row() for entry in entries]
        self.frozen = [r for r in self.records if r.step not in gone or not r.role.of_step]
        self.touched = [
            (i, start, stop, entry.id)
            for entry in closing
            for i, spans in entry.touched.items()
            for start, stop in spans.runs
        ]
        return closing


# -- the file --------------------------------------------------------------------------

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

_OF_STEP, _OF_UNDO = "role IN ('pixels', 'range')", "role IN ('back', 'back-range')"
_FULL = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_READONLY: errno.EROFS}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_TOOBIG}
_VERSION = 1  # of the order of steps
_TEXT_LIMIT = 16 * 2**20
_TOGETHER = 16  # changes that are read at once
_NOTICES = 3  # that are named


@contextlib.contextmanager
def _damage_in_words() -> Iterator[None]:
    """SQLite tells of damage in damaged words, which Python cannot read."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise _corrupt("its words about damage are damaged, too") from error


def _corrupt(text: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(text)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


class Journal:
    """The SQLite file ``history/journal.sqlite`` of a project.

    Whatever was committed survives a kill and a power cut; a torn end of the log is ignored.
    The folder is an empty zarr array, so that zarr's readers look no further into it.

    The video's `shape`, (T, H, W), bounds what a record may hold. One that is not `writable`
    reads what is there, without locks.
    """

    def __init__(self, project: Path, shape: tuple[int, int, int], *, writable: bool) -> None:
        self.path = project / "history" / "journal.sqlite"
        self.notice: str | None = None  # what the user should know of what could not be read
        self._told: list[str] = []
        self.damages = 0  # how often the file was begun anew: what was in it is gone
        self.old = False  # version 0.1 gave steps their places in the order of their ends
        self._frames, self._size = shape[0], shape[1] * shape[2]
        self.writable = writable
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._closed = False
        self._swept = 0  # what undo wrote up to this number is gone

    # -- opening -------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        if self._db is not None:
            return self._db
        if self._closed:  # opened again, it would keep others out
            raise ProjectError(f"{self.path.parents[1]} was closed; open it again.")
        if self.writable and not (self.path.parent / "zarr.json").exists():
            create_array(self.path.parent, (0,), (1,), "uint8", ("none",))
        try:
            self._db = self._connect()
        except sqlite3.DatabaseError as error:
            if not self.writable or not _is_damage(error):
                raise
            self._set_aside()
            self._db = self._connect()
        return self._db

    @_damage_in_words()
    def _connect(self) -> sqlite3.Connection:
        for suffix in ("", "-wal", "-shm"):
            _check_plain(Path(f"{self.path}{suffix}"))
        _check_plain(self.path.parent, folder=True)
        if self.writable and not self.path.exists():
            self._create()
        # A reader may see the file without its log: older rows, never wrong ones.
        mode = "mode=rwc" if self.writable else "immutable=1"
        uri = f"{self.path.absolute().as_uri()}?{mode}"
        db = sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None)
        try:
            db.text_factory = _text
            db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 2 * _TEXT_LIMIT + 16 * self._size)
            db.execute("PRAGMA trusted_schema=OFF")
            _check_tables(db)
            if self.writable:
                # One process at a time writes to a project, and an exclusive log needs no
                # shared memory, which network disks lack.
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

    def _create(self) -> None:
        """Make the file with its tables: a kill leaves none, never an empty one."""
        with replacing(self.path) as made, contextlib.closing(sqlite3.connect(made)) as db:
            db.executescript(f"{_SCHEMA} PRAGMA user_version = {_VERSION};")

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
            if file.exists() or file.is_symlink():
                file.replace(file.with_name(f"{prefix}{file.name}"))
        self._swept = 0
        self.damages += 1
        self.damaged(
            f"The undo history in {self.path.parent} was damaged and begins anew; the masks "
            "are as they were saved."
        )

    def damaged(self, text: str | None = None) -> None:
        """Note what cannot be read; by default a change in the history."""
        text = text or (
            f"A part of the undo history in {self.path.parent} is damaged: what it held stays "
            "as it is."
        )
        self._told = [] if self.notice is None else self._told
        if text not in self._told:
            self._told.append(text)
        more = len(self._told) - _NOTICES
        self.notice = " ".join(self._told[:_NOTICES]) + (f" And {more} more." if more > 0 else "")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with _damage_in_words():
                yield
        except sqlite3.Error as error:
            if self.writable and _is_damage(error):
                with self._lock:
                    self._set_aside()
                raise StorageError(self.notice or "") from error
            code = _FULL.get(getattr(error, "sqlite_errorcode", -1) & 0xFF)
            cause: Exception = error if code is None else OSError(code, str(error))
            raise failed(cause, self.path.parent) from error

    # -- writing -------------------------------------------------------------------------

    def commit(self, batch: Batch) -> None:
        """Write all of it in one durable transaction, or nothing and raise a `StorageError`."""
        with self._lock, self._errors():
            db = self._open()
            try:
                db.execute("BEGIN IMMEDIATE")
                _write(db, batch, self._swept)
                if self.old:
                    db.execute(f"PRAGMA user_version = {_VERSION}")
                db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
                raise
            self._swept = max(self._swept, batch.flushed)
            self.old = False

    def close(self) -> None:
        """Fold the log into the file and let go of it."""
        with self._lock:
            if self._db is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._db.close()
                self._db = None
            self._closed = True

    def copy(self, project: Path) -> None:
        """Copy what the file holds, if there is one, into another project."""
        target = project / "history" / self.path.name
        with self._lock, self._errors():
            if self._db is None:
                return
            if not (target.parent / "zarr.json").exists():
                create_array(target.parent, (0,), (1,), "uint8", ("none",))
            with contextlib.closing(sqlite3.connect(target)) as other:
                self._db.backup(other)  # also of a file that was deleted

    # -- reading -------------------------------------------------------------------------

    def load(self) -> tuple[list[Entry], int, int, int]:
        """Return the steps that can be undone or redone, and three numbers.

        They are the last change whose pixels are safe, the last change, and the last step.
        """
        nothing: tuple[list[Entry], int, int, int] = ([], 0, 0, 0)
        if not self.path.exists():
            return nothing
        try:
            if self.writable and not self.path.stat().st_size:
                self._set_aside()  # a journal is never empty
                return nothing
            with self._lock:
                return self._load(self._open())
        except (sqlite3.Error, StorageError) as error:
            if not self.writable:
                self.damaged(f"The undo history in {self.path.parent} cannot be read.")
                return nothing
            if isinstance(error, StorageError) or not _is_damage(error):
                with self._errors():
                    raise
            self._set_aside()
            return nothing

    @_damage_in_words()
    def _load(self, db: sqlite3.Connection) -> tuple[list[Entry], int, int, int]:
        self.old = db.execute("PRAGMA user_version").fetchone()[0] < _VERSION
        rows = db.execute(
            "SELECT * FROM steps WHERE state != 'dropped' AND length(frames) < ? "
            "AND length(catalog) < ? ORDER BY place",
            (_TEXT_LIMIT, _TEXT_LIMIT),
        ).fetchall()
        sizes = dict(db.execute("SELECT step, sum(length(data) + 64) FROM records GROUP BY step"))
        entries = []
        for row in rows:
            try:
                entries.append(Entry.read(row, sizes.get(row[0], 0)))
            except (ValueError, TypeError, KeyError, AttributeError):
                self.damaged()  # what it did stays

        def number(query: str) -> int:
            found = db.execute(query).fetchone()
            return found[0] if found and isinstance(found[0], int) else 0

        flushed = number("SELECT value FROM meta WHERE key = 'flushed'")
        last = max(
            number("SELECT max(seq) FROM records"), number("SELECT max(last_seq) FROM steps")
        )
        return entries, flushed, max(last, flushed), number("SELECT max(id) FROM steps")

    def seqs(self, step: int) -> list[int]:
        """Return the numbers of a step's changes, in order."""
        rows = self._query(
            f"SELECT seq FROM records WHERE step = ? AND {_OF_STEP} ORDER BY seq", (step,)
        )
        return [seq for (seq,) in rows]

    def after(self, seq: int) -> Iterator[Record]:
        """Yield every change after number `seq`, in order."""
        seqs = self._query("SELECT seq FROM records WHERE seq > ? ORDER BY seq", (seq,))
        yield from self.by_seq([number for (number,) in seqs])

    def of_frames(self, layer: int, start: int, stop: int, seq: int) -> list[tuple[int, int]]:
        """Return (number, step) of what changed some frames of a layer after change `seq`."""
        pixels = self._query(
            "SELECT seq, step FROM records WHERE start >= ? AND start < ? AND layer = ? "
            "AND seq > ? AND role = 'pixels'",
            (start, stop, layer, seq),
        )
        ranges = self._query(
            "SELECT seq, step FROM records WHERE layer = ? AND seq > ? AND role = 'range' "
            "AND start < ? AND stop > ?",
            (layer, seq, stop, start),
        )
        return pixels + ranges

    def steps_after(self, seq: int) -> set[int]:
        """Return the steps that changed something, or were undone or redone, after `seq`."""
        rows = self._query("SELECT DISTINCT step FROM records WHERE seq > ?", (seq,))
        return {step for (step,) in rows}

    def by_seq(self, seqs: Iterable[int]) -> Iterator[Record]:
        """Yield changes by their numbers, read a few at a time, so that many need no memory."""
        numbers = iter(seqs)
        while some := tuple(islice(numbers, _TOGETHER)):
            marks = ",".join("?" * len(some))
            rows = self._query(f"SELECT * FROM records WHERE seq IN ({marks})", some)
            found = {row[0]: row for row in rows}
            for seq in some:
                try:
                    if seq in found:
                        yield self._record(found.pop(seq))
                except (ValueError, TypeError):
                    self.damaged()

    def _record(self, row: tuple[Any, ...]) -> Record:
        numbers = all(isinstance(value, int) for value in row[:5])
        if not numbers or not 0 <= row[3] <= row[4] <= self._frames or type(row[7]) is not bytes:
            raise ValueError("a damaged change")
        marks = tuple(Mark(*(int(v) for v in values[:3])) for values in parse_json(row[6]))
        if any(not (0 <= m.object_id <= 65535 and 0 <= m.old <= 3 >= m.new >= 0) for m in marks):
            raise ValueError("a damaged mark")
        role = Role(row[5])
        if role.is_range and len(marks) != 1 or not role.is_range and row[4] != row[3] + 1:
            raise ValueError("a damaged change")
        seq, step, layer, start, stop = row[:5]
        size = len(row[7]) + 64
        return Record(seq, step, layer, start, stop, role, marks, row[7], counted=size)

    def changes(self, object_id: int, t: int) -> list[tuple[int, str, str, str, str]]:
        """Return (step, time, who, kind, name) of what touched an object on a frame."""
        try:
            return self._query(
                "SELECT id, time, who, kind, name FROM changes JOIN steps ON step = id "
                "WHERE object = ? AND start <= ? AND stop > ? ORDER BY id DESC",
                (object_id, t, t),
            )
        except StorageError:
            if self.writable:
                raise
            return []

    def _query(self, text: str, values: tuple[Any, ...] = ()) -> list[Any]:
        if self._db is None and not self.path.exists():
            return []
        with self._lock, self._errors():
            return self._open().execute(text, values).fetchall()


def by_beginning(done: list[Entry]) -> list[Entry]:
    """Put runs before what began while they went on; version 0.1 had them after it."""
    ordered: list[Entry] = []
    for entry in done:
        place = len(ordered)
        while entry.kind == "model" and place and ordered[place - 1].id > entry.id:
            place -= 1
        ordered.insert(place, entry)
    return ordered


def add_to_copy(project: Path, shape: tuple[int, int, int], batch: Batch) -> None:
    """Write into the journal of a copy what the memory holds."""
    if batch:
        journal = Journal(project, shape, writable=True)
        try:
            journal.commit(batch)
        finally:
            journal.close()


def _write(db: sqlite3.Connection, batch: Batch, swept: int) -> None:
    db.executemany("REPLACE INTO steps VALUES (?,?,?,?,?,?,?,?,?,?,?)", batch.steps)
    rows = (
        (
            *(r.seq, r.step, r.layer, r.start, r.stop, str(r.role)),
            json.dumps([[m.object_id, m.old, m.new] for m in r.marks]),
            r.pack(),
        )
        for r in batch.frozen
    )
    db.executemany("REPLACE INTO records VALUES (?,?,?,?,?,?,?,?)", rows)
    db.executemany("INSERT INTO changes VALUES (?,?,?,?)", batch.touched)
    for step in [*batch.dropped, *batch.forgotten]:  # what undo wrote goes when it is safe
        db.execute(f"DELETE FROM records WHERE step = ? AND {_OF_STEP}", (step,))
    for step in batch.dropped:
        db.execute("UPDATE steps SET state = 'dropped', catalog = '{}' WHERE id = ?", (step,))
    for step in batch.forgotten:
        db.execute("DELETE FROM changes WHERE step = ?", (step,))
        db.execute("DELETE FROM steps WHERE id = ?", (step,))
    if batch.flushed:
        db.execute("REPLACE INTO meta VALUES ('flushed', ?)", (batch.flushed,))
        db.execute(
            f"DELETE FROM records WHERE {_OF_UNDO} AND seq > ? AND seq <= ?", (swept, batch.flushed)
        )


def _check_tables(db: sqlite3.Connection) -> None:
    """Refuse tables that are not ours: a view or a trigger could run without end."""
    known = {_plain(text) for text in _SCHEMA.split(";")}
    for name, text in db.execute("SELECT name, sql FROM sqlite_master LIMIT 99"):
        if text is None and str(name).startswith("sqlite_autoindex_"):
            continue
        if _plain(str(text)) not in known:
            raise _corrupt("a table that is not ours")


def _plain(statement: str) -> str:
    return " ".join(statement.replace("IF NOT EXISTS ", "").split())


def _check_plain(path: Path, *, folder: bool = False) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not (stat.S_ISDIR(mode) if folder else stat.S_ISREG(mode)):
        error = sqlite3.DatabaseError(f"{path} is no plain file")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT if not folder else sqlite3.SQLITE_CANTOPEN
        raise error


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")  # one damaged letter must not hide the rest


def _is_damage(error: sqlite3.Error) -> bool:
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return (code or -1) & 0xFF in _DAMAGED
