"""The SQLite file: durable and of one process, asked by frame, never written by halves."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowrvs.errors import ProjectError, StorageError
from flowrvs.store.changes import Entry, Mark, Record, Role
from flowrvs.store.journal import Batch, Journal, by_beginning

SHAPE = (10, 12, 16)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path, SHAPE, writable=True)
    yield journal
    journal.close()


def change(
    seq: int,
    start: int,
    stop: int = 0,
    *,
    layer: int = 1,
    role: Role = Role.PIXELS,
    step: int = 5,
    data: bytes = b"12345",
) -> Record:
    return Record(seq, step, layer, start, stop or start + 1, role, (Mark(4, 0, 2),), data)


def entry(number: int, state: str = "done", **values: Any) -> Entry:
    made = Entry(number, f"step {number}", "human", "Ada", "now", number, state, **values)
    made.touch(1, 4, 2, 5)
    made.first_seq, made.last_seq = number, number
    return made


def write(journal: Journal, *records: Record, flushed: int = 0, **more: Any) -> None:
    """Commit what `History` would."""
    entries = {made.id: made for made in more.pop("entries", ())}
    batch = Batch([*records], entries, **more)
    for made in batch.freeze(flushed):
        made.logged = True
    journal.commit(batch)


def ask(journal: Journal, text: str) -> list[Any]:
    assert journal._db is not None
    return [row[0] if len(row) == 1 else row for row in journal._db.execute(text)]


def test_what_a_batch_holds() -> None:
    assert not Batch() and not Batch(flushed=5)
    one, other = entry(1), entry(2, "open")
    earlier = Batch([change(1, 0)], {1: one, 2: one}, [7], [8], 3)
    later = Batch([change(2, 0)], {2: other}, [17], [18], 9)
    both = later.after(earlier)
    assert [record.seq for record in both.records] == [1, 2]
    assert both.entries == {1: one, 2: other}
    assert (both.dropped, both.forgotten, both.flushed) == ([7, 17], [8, 18], 0)
    for batch in (Batch([change(1, 0)]), Batch(entries={1: one}), Batch(dropped=[1])):
        assert batch
    assert Batch(forgotten=[1])


def test_what_is_frozen_of_a_batch() -> None:
    """Steps in every state; who touched what, once a step has ended."""
    steps = [entry(1), entry(2, "open"), entry(3, "undone", logged=True), entry(4), entry(6)]
    steps[4].state = "forgotten"
    steps[0].touch(1, 9, 7, 8)
    records = [change(i, 0, step=i) for i in range(1, 7)]
    records.append(change(7, 0, step=4, role=Role.BACK))
    batch = Batch(records, {made.id: made for made in steps}, [5], [4])
    assert batch.freeze(77) == [steps[0]] and batch.flushed == 77
    assert batch.touched == [(4, 2, 5, 1), (9, 7, 8, 1)]
    assert [row[0] for row in batch.steps] == [1, 2, 3, 6]
    assert [record.seq for record in batch.frozen] == [1, 2, 3, 6, 7]


def test_what_is_committed_is_durable(journal: Journal) -> None:
    write(journal, change(1, 3))
    for name, value in (
        ("synchronous", 2),
        ("journal_mode", "wal"),
        ("locking_mode", "exclusive"),
        ("trusted_schema", 0),
        ("wal_autocheckpoint", 256),
        ("journal_size_limit", 2**20),
        ("user_version", 1),
    ):
        assert ask(journal, f"PRAGMA {name}") == [value]
    assert journal._db is not None
    most = 2 * 16 * 2**20 + 16 * SHAPE[1] * SHAPE[2]  # a row of which all is as large as may be
    assert journal._db.getlimit(sqlite3.SQLITE_LIMIT_LENGTH) == most
    assert journal.path.read_bytes()[:6] == b"SQLite"
    assert (journal.path.parent / "zarr.json").exists(), "zarr's readers look no further"
    assert sorted(p.name for p in journal.path.parent.iterdir()) == [
        *("journal.sqlite", "journal.sqlite-wal", "zarr.json"),
    ]


def test_what_is_only_read_is_not_made(tmp_path: Path) -> None:
    journal = Journal(tmp_path, SHAPE, writable=False)
    assert journal.load() == ([], 0, 0, 0)
    assert journal.of_frames(1, 0, 9, 0) == [] and list(journal.after(0)) == []
    assert journal.changes(1, 1) == [] and list(tmp_path.iterdir()) == []


def test_it_is_asked_by_frame(journal: Journal) -> None:
    """The frames `start <= t < stop` of one layer, after a change."""
    write(
        journal,
        *(change(10 + t, t) for t in range(6)),
        change(20, 3, layer=2),
        change(21, 2, 5, role=Role.RANGE, step=6, data=b""),
        change(22, 3, role=Role.BACK),
        change(23, 0, 9, role=Role.BACK_RANGE),
        change(24, 4, 6, role=Role.RANGE, layer=2),
    )
    for start, stop, seq, wanted in (
        (2, 4, 0, [(12, 5), (13, 5), (21, 6)]),
        (2, 4, 12, [(13, 5), (21, 6)]),
        (0, 2, 0, [(10, 5), (11, 5)]),
        (4, 5, 0, [(14, 5), (21, 6)]),
        (5, 9, 0, [(15, 5)]),
        (0, 9, 21, []),
    ):
        assert sorted(journal.of_frames(1, start, stop, seq)) == wanted
    assert sorted(journal.of_frames(2, 3, 5, 0)) == [(20, 5), (24, 5)]
    assert journal.seqs(5) == [*range(10, 16), 20, 24], "what undo wrote is of no step"
    assert journal.steps_after(20) == {5, 6} and journal.steps_after(24) == set()
    assert [record.seq for record in journal.after(20)] == [21, 22, 23, 24]
    order = [24, 10, 99, *range(15, 10, -1), *range(20, 24)]
    found = list(journal.by_seq(order))
    assert [record.seq for record in found] == [seq for seq in order if seq != 99]
    read = found[1]
    assert read == Record(
        *(10, 5, 1, 0, 1, Role.PIXELS, (Mark(4, 0, 2),), b"12345"), counted=69, _lock=read._lock
    )


def test_more_changes_than_are_read_at_once(journal: Journal) -> None:
    write(journal, *(change(seq, seq % 10) for seq in range(1, 51)))
    assert [record.seq for record in journal.after(0)] == [*range(1, 51)]
    assert [r.seq for r in journal.by_seq(range(50, 0, -1))] == [*range(50, 0, -1)]


def test_what_a_record_may_not_hold(journal: Journal) -> None:
    write(journal, change(1, 9), change(2, 0, 10, role=Role.RANGE))
    assert [r.seq for r in journal.after(0)] == [1, 2] and journal.notice is None
    assert journal._db is not None
    for column, value in (
        *(("start", 10), ("start", -1), ("stop", 11), ("stop", 9), ("start", 8), ("start", 1.5)),
        *(("layer", "x"), ("step", None), ("data", "text"), ("data", None), ("role", "back-x")),
        *(("marks", "[[65536, 0, 1]]"), ("marks", "[[-1, 0, 1]]"), ("marks", "[[1, 4, 1]]")),
        *(("marks", "[[1, 0, 4]]"), ("marks", "[[1, -1, 1]]"), ("marks", "[[1, 1, -1]]")),
        *(("marks", "{"), ("marks", "[[1, 0]]"), ("marks", "5")),
    ):
        journal.notice = None
        journal._db.execute("BEGIN")
        journal._db.execute(f"UPDATE records SET {column} = ? WHERE seq = 1", (value,))
        assert [r.seq for r in journal.after(0)] == [2], (column, value)
        assert journal.notice is not None and "is damaged" in journal.notice
        journal._db.execute("ROLLBACK")
    for marks in ("[]", "[[1, 0, 0], [2, 0, 0]]"):
        journal._db.execute("UPDATE records SET marks = ? WHERE seq = 2", (marks,))
        assert [r.seq for r in journal.after(0)] == [1], "a range is of one object"
    for marks in ("[]", "[[65535, 3, 3], [0, 0, 0]]"):
        journal._db.execute("UPDATE records SET marks = ? WHERE seq = 1", (marks,))
        assert [r.seq for r in journal.after(0)] == [1]


def test_who_touched_what(journal: Journal) -> None:
    steps = [entry(1), entry(3), entry(2)]
    steps[1].touch(1, 4, 7, 9)
    steps[2].touch(1, 5, 2, 4)
    write(journal, entries=steps)
    rows = {number: (number, "now", "Ada", "human", f"step {number}") for number in (1, 2, 3)}
    for object_id, t, wanted in (
        (4, 2, [3, 2, 1]),
        (4, 4, [3, 2, 1]),
        (4, 5, []),
        (4, 1, []),
        (4, 7, [3]),
        (4, 8, [3]),
        (5, 3, [2]),
        (6, 3, []),
    ):
        assert journal.changes(object_id, t) == [rows[number] for number in wanted]


def test_what_can_be_undone_comes_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path, SHAPE, writable=True)
    steps = [entry(1), entry(2, "open"), entry(3, "undone"), entry(9)]
    steps[0].place = 8
    write(journal, *(change(seq, 3, step=1 + seq % 2) for seq in (11, 12, 14)), entries=steps)
    write(journal, change(15, 3, step=9), dropped=[9], flushed=12)
    journal.close()
    again = Journal(tmp_path, SHAPE, writable=True)
    entries, flushed, seq, step = again.load()
    assert [(e.id, e.state, e.bytes) for e in entries] == [
        (2, "open", 69),
        (3, "undone", 0),
        (1, "done", 2 * 69),
    ]
    assert (flushed, seq, step, again.old, again.notice) == (12, 14, 9, False, None)
    again.commit(Batch(flushed=20))
    assert again.load()[1:3] == (20, 20), "what is safe was there"
    again.close()


def test_what_undo_wrote_goes_when_it_is_safe(journal: Journal) -> None:
    back = [
        change(seq, 3, role=role) for seq, role in ((2, "back"), (3, "back-range"), (5, "back"))
    ]
    for record in back:
        record.role = Role(record.role)
    write(journal, change(1, 3), *back[:2], change(4, 3), back[2])
    assert ask(journal, "SELECT seq FROM records ORDER BY seq") == [1, 2, 3, 4, 5]
    write(journal, change(6, 3), flushed=2)
    assert ask(journal, "SELECT seq FROM records ORDER BY seq") == [1, 3, 4, 5, 6]
    write(journal, change(7, 3), flushed=5)
    assert ask(journal, "SELECT seq FROM records ORDER BY seq") == [1, 4, 6, 7]
    assert ask(journal, "SELECT key, value FROM meta") == [("flushed", 5)]
    write(journal, change(8, 3))
    assert ask(journal, "SELECT value FROM meta") == [5]


def test_what_is_dropped_and_what_is_forgotten(journal: Journal) -> None:
    """Who drew is kept of a step that is too old; nothing of one that was undone for good."""
    steps = [entry(number) for number in (1, 2, 3)]
    for made in steps:
        made.note("objects", "4", None, {"id": 4})
    write(
        journal,
        *(change(seq, 3, step=seq) for seq in (1, 2, 3)),
        change(4, 3, step=1, role=Role.BACK),
        change(5, 3, step=2, role=Role.BACK),
        entries=steps,
    )
    write(journal, dropped=[1], forgotten=[2])
    assert ask(journal, "SELECT seq FROM records ORDER BY seq") == [3, 4, 5]
    assert ask(journal, "SELECT id, state, catalog FROM steps") == [
        (1, "dropped", "{}"),
        (3, "done", '{"objects": {"4": [null, {"id": 4}]}}'),
    ]
    assert [row[0] for row in journal.changes(4, 3)] == [3, 1]


def test_a_change_in_the_place_of_its_number(journal: Journal) -> None:
    made = entry(1)
    write(journal, change(1, 3), entries=[made])
    made.name, made.state = "renamed", "undone"
    write(journal, change(1, 3).with_data(b"other"), entries=[made])
    assert [record.data for record in journal.after(0)] == [b"other"]
    assert ask(journal, "SELECT name, state FROM steps") == [("renamed", "undone")]
    assert len(journal.changes(4, 3)) == 1, "told once"


class TestFailures:
    def test_half_a_batch_is_none(self, journal: Journal) -> None:
        write(journal, change(1, 3), entries=[entry(1)])
        broken = change(3, 3)
        broken.data = None

        with pytest.raises(AssertionError):
            write(journal, change(2, 3), broken, entries=[entry(2)], forgotten=[1], flushed=9)
        assert ask(journal, "SELECT seq FROM records ORDER BY seq") == [1]
        assert ask(journal, "SELECT id FROM steps") == [1]
        assert ask(journal, "SELECT * FROM meta") == []
        back = change(2, 3, role=Role.BACK)
        write(journal, back, change(3, 3))
        write(journal, change(4, 3), flushed=2)
        assert ask(journal, "SELECT seq FROM records ORDER BY seq") == [1, 3, 4], "it goes on"

    def test_a_full_disk(self, journal: Journal) -> None:
        """SQLite's own limit; told in our words, and repaired by room."""
        write(journal, change(1, 3))
        (pages,) = ask(journal, "PRAGMA page_count")
        ask(journal, f"PRAGMA max_page_count = {pages}")
        noise = np.random.default_rng(0).bytes(100_000)
        with pytest.raises(StorageError) as error:
            write(journal, change(2, 3, data=noise))
        assert str(error.value) == (
            f"Cannot write to {journal.path.parent}: the disk is full; free some space. Nothing "
            "in memory is lost."
        )
        assert journal.notice is None and journal.damages == 0
        ask(journal, "PRAGMA max_page_count = 99999")
        write(journal, change(2, 3, data=noise))
        assert [record.data for record in journal.after(1)] == [noise]

    def test_a_file_that_turns_out_to_be_damaged(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path, SHAPE, writable=True)
        write(journal, change(1, 3))
        journal.close()
        data = b"\0" * journal.path.stat().st_size
        for number, name in enumerate(("damaged-", "damaged-1-", "damaged-2-"), 1):
            journal = Journal(tmp_path, SHAPE, writable=True)
            journal.load()
            journal.path.write_bytes(data)
            assert journal._db is not None
            journal._db.close()
            journal._db = sqlite3.connect(journal.path, isolation_level=None)
            with pytest.raises(StorageError) as error:
                journal.after(0).__next__()
            assert (
                str(error.value)
                == journal.notice
                == (
                    f"The undo history in {tmp_path / 'history'} was damaged and begins anew; the "
                    "masks are as they were saved."
                )
            )
            assert journal.damages == 1
            write(journal, change(number, 3))
            assert [record.seq for record in journal.after(0)] == [number]
            journal.close()
            aside = tmp_path / "history" / f"{name}journal.sqlite"
            assert aside.read_bytes() == data, "no older one is overwritten"

    def test_a_trouble_without_a_number(self, journal: Journal) -> None:
        write(journal, change(1, 3))
        assert journal._db is not None
        journal._db.close()
        with pytest.raises(StorageError) as error:
            journal.seqs(1)
        assert str(error.value) == (
            f"Cannot write to {journal.path.parent}: Cannot operate on a closed database.. Nothing "
            "in memory is lost."
        )
        assert journal.damages == 0 and journal.notice is None

    def test_closed_it_is_not_opened_again(self, journal: Journal, tmp_path: Path) -> None:
        write(journal, change(1, 3))
        journal.close()
        journal.close()
        for call in (lambda: write(journal, change(2, 3)), lambda: journal.seqs(1)):
            with pytest.raises(ProjectError) as error:
                call()
            assert str(error.value) == f"{tmp_path} was closed; open it again."
        assert not Path(f"{journal.path}-wal").exists(), "the log is folded into the file"

    def test_a_second_process_would_be_kept_out(self, journal: Journal) -> None:
        write(journal, change(1, 3))
        with contextlib.closing(sqlite3.connect(journal.path, timeout=0)) as other:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("SELECT * FROM records")


def test_runs_come_before_what_began_while_they_went_on() -> None:
    kinds = {1: "human", 2: "model", 3: "human", 4: "human", 5: "model", 6: "human"}
    steps = {i: Entry(i, None, kind, "", "", 0) for i, kind in kinds.items()}  # type: ignore[arg-type]
    done = [steps[i] for i in (1, 3, 4, 2, 6, 5)]
    assert [made.id for made in by_beginning(done)] == [1, 2, 3, 4, 5, 6]
    assert [made.id for made in by_beginning([steps[4], steps[3]])] == [4, 3]


def test_a_journal_of_version_0_1_gets_its_order_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path, SHAPE, writable=True)
    write(journal, change(1, 3), entries=[entry(1)])
    assert journal._db is not None
    journal._db.execute("PRAGMA user_version = 0")
    journal.close()
    journal = Journal(tmp_path, SHAPE, writable=True)
    journal.load()
    assert journal.old
    write(journal, change(2, 3))
    assert not journal.old and ask(journal, "PRAGMA user_version") == [1]
    journal.close()


def test_a_copy_holds_what_was_committed(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "none" / "history").mkdir(parents=True)
    journal.copy(tmp_path / "none")
    assert list((tmp_path / "none" / "history").iterdir()) == [], "nothing was written yet"
    write(journal, change(1, 3), entries=[entry(1)])
    journal.path.unlink()
    (tmp_path / "copy").mkdir()
    journal.copy(tmp_path / "copy")
    other = Journal(tmp_path / "copy", SHAPE, writable=True)
    assert [record.seq for record in other.after(0)] == [1]
    assert (other.path.parent / "zarr.json").exists()
    other.close()
