"""What a change is: pixels as runs, provenance of ranges, what heirs take over, and the step."""

from __future__ import annotations

import json
import zlib
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from flowrvs.store.changes import (
    DamagedError,
    Entry,
    Heirs,
    Mark,
    Pixels,
    Record,
    Role,
    Spans,
    Step,
    decode,
    encode,
    frames_text,
    runs,
    unpack,
    utc_now,
    utf8,
)

SIZE = 12 * 16


def lists(*arrays: Any) -> list[list[int]]:
    return [array.tolist() for array in arrays]


def packed(*spans: tuple[int, int], more: bytes = b"") -> bytes:
    """Runs of pixels that become 1, by start and length."""
    starts, lengths = np.array(spans, "<u4").T
    values = [np.full(len(spans), value, "<u2") for value in (0, 1)]
    parts = [np.diff(starts, prepend=np.uint32(0)).astype("<u4"), lengths, *values]
    return zlib.compress(b"R" + b"".join(part.tobytes() for part in parts) + more)


def pixels(**places: tuple[int, int]) -> Pixels:
    """Pixels by their place: ``p5=(old, new)``."""
    rows = sorted((int(name[1:]), *pair) for name, pair in places.items())
    where, old, new = np.array(rows).T
    return Pixels(where, old.astype(np.uint16), new.astype(np.uint16))


def record(
    seq: int, data: bytes, *marks: Mark, start: int = 3, stop: int = 0, role: Role = Role.PIXELS
) -> Record:
    return Record(seq, 7, 1, start, stop or start + 1, role, marks, data)


def test_texts() -> None:
    assert (utf8("caf\ud800é"), frames_text(4, 5), frames_text(4, 6)) == (
        *("caf?é", "frame 4"),
        "frames 4-5",
    )
    now = datetime.fromisoformat(utc_now())
    assert now.tzinfo == UTC and abs(datetime.now(UTC) - now) < timedelta(seconds=9)
    assert now.microsecond == 0


class TestPixels:
    def test_differences_of_frames(self) -> None:
        rng = np.random.default_rng(0)
        smooth = np.zeros((40, 50), np.uint16)
        smooth[5:30, 7:40] = 3
        noise = rng.integers(0, 3, smooth.shape).astype(np.uint16)
        for before, after in (
            (noise, smooth * 0),
            (noise, noise[::-1]),
            (smooth * 0, smooth),
            (smooth, np.roll(smooth, 3, axis=1)),
            (smooth, rng.integers(0, 60000, smooth.shape).astype(np.uint16)),
            (smooth, smooth),
        ):
            places, old, new = decode(encode(before, after), before.size)
            flat = before.reshape(-1).copy()
            np.testing.assert_array_equal(flat[places], old)
            flat[places] = new
            np.testing.assert_array_equal(flat, after.reshape(-1))
            assert (old != new).all()
        # What was drawn though it was so already; and some rows of a frame.
        also = np.zeros(smooth.shape, bool)
        also[[3, 29], [4, 39]] = True
        found = decode(encode(smooth, smooth, also=also), smooth.size)
        assert lists(*found) == [[154, 1489], [0, 3], [0, 3]]
        places, old, new = decode(encode(smooth[28:32], smooth[28:32] * 0, top=28), smooth.size)
        below = np.where(np.arange(40)[:, None] >= 28, smooth, 0)
        assert np.array_equal(np.flatnonzero(below), places)
        assert (old == 3).all() and not new.any()

    def test_neighbours_that_changed_alike_are_one_run(self) -> None:
        before = np.array([[0, 0, 0, 5], [5, 5, 0, 0]], np.uint16)
        after = np.array([[0, 2, 2, 2], [2, 5, 0, 9]], np.uint16)
        found = runs(unpack(encode(before, after), 999), 8)
        assert lists(*found) == [[1, 3, 7], [2, 2, 1], [0, 5, 0], [2, 2, 9]]
        assert encode(before, before) == b"" and lists(*decode(b"", 8)) == [[], [], []]
        assert pixels(p1=(0, 2), p2=(0, 2))._replace(places=np.array([1, 3])).pack() == (
            pixels(p1=(0, 2), p3=(0, 2)).pack()
        )

    def test_noise_of_which_no_two_pixels_are_alike(self) -> None:
        before = np.zeros((12, 16), np.uint16)
        after = np.arange(65536 - SIZE, 65536).astype(np.uint16).reshape(12, 16)
        found = decode(encode(before, after), SIZE)
        assert lists(*found) == lists(np.arange(SIZE), before.ravel(), after.ravel())

    def test_damaged_differences_are_told(self) -> None:
        assert decode(packed((5, 3), (8, 1), (98, 1)), 99).places.tolist() == [5, 6, 7, 8, 98]
        whole = packed((5, 3), (8, 1))
        for damaged in (
            b"nonsense",
            whole[:-1],
            whole + b"x",
            packed((5, 3), (7, 1)),
            packed((5, 0), (7, 1)),
            packed((5, 3), (98, 2)),
            packed((5, 3), more=b"x"),
            zlib.compress(b"R"),
            zlib.compress(b"X" + bytes(12)),
            zlib.compress(b"R" + bytes(12 * 99 + 12)),
        ):
            with pytest.raises(DamagedError, match="damaged|too long"):
                decode(damaged, 99)

    def test_whole_rows_as_version_0_1_wrote_noise(self) -> None:
        def rows(first: int, stop: int, width: int, old: Any, new: Any) -> bytes:
            head = np.array([first, stop, width], "<u4").tobytes()
            values = (np.array(part, "<u2").tobytes() for part in (old, new))
            return zlib.compress(b"D" + head + b"".join(values))

        old, new = [1, 2, 3, 4, 5, 6], [1, 0, 3, 9, 9, 6]
        found = decode(rows(2, 4, 3, old, new), 12)
        assert lists(*found) == [[7, 9, 10], [2, 4, 5], [0, 9, 9]]
        for damaged in (
            rows(3, 5, 3, old, new),  # beyond the frame
            rows(4, 2, 3, old, new),
            rows(2, 4, 3, old, new[:-1]),
            rows(2, 4, 3, old, [*new, 0]),
            zlib.compress(b"D" + bytes(11)),
        ):
            with pytest.raises(DamagedError):
                decode(damaged, 12)

    def test_nothing_unpacks_to_more_than_its_limit(self) -> None:
        data = zlib.compress(b"x" * 99)
        assert unpack(data, 100) == b"x" * 99
        with pytest.raises(DamagedError, match="too long"):
            unpack(data, 98)


class TestRecord:
    def test_it_is_packed_once(self) -> None:
        before, after = np.zeros((2, 2, 3), np.uint16)
        after[1, 1] = 4
        drawn = Record(5, 7, 1, 3, 4, Role.PIXELS, (Mark(4, 0, 2),), None, (before, after, 9, None))
        data = drawn.pack()
        assert drawn.frames is None and drawn.pack() is data and drawn.data is data
        assert lists(*decode(data, 99)) == [[31], [0], [4]]

    def test_another_content_of_the_same_change(self) -> None:
        drawn = Record(5, 7, 2, 3, 4, Role.PIXELS, (Mark(4, 0, 2),), b"old", counted=70)
        assert drawn.with_data(b"new") == Record(
            5, 7, 2, 3, 4, Role.PIXELS, (Mark(4, 0, 2),), b"new", counted=70, _lock=_Any()
        )
        marks = (Mark(4, 1, 2),)
        assert drawn.with_data(marks=marks) == Record(
            5, 7, 2, 3, 4, Role.PIXELS, marks, b"old", counted=70, _lock=_Any()
        )
        assert drawn.data == b"old" and drawn.marks == (Mark(4, 0, 2),)

    def test_provenance_of_a_range(self) -> None:
        old, new = np.array([[0, 1, 2, 3], [3, 3, 3, 3]], np.uint8)
        data = Record.pack_range(old, new)
        lock = record(1, data, Mark(4, 0, 0), start=6, stop=10, role=Role.RANGE)
        assert lock.unpack_range().tolist() == [old.tolist(), new.tolist()]
        for start, stop, values in ((6, 11, new), (6, 9, new), (6, 10, new + 1)):
            damaged = record(
                1, Record.pack_range(old, values), start=start, stop=stop, role=Role.RANGE
            )
            with pytest.raises(DamagedError):
                damaged.unpack_range()

    def test_what_the_roles_are(self) -> None:
        table = {role: (role.of_step, role.is_range) for role in Role}
        assert table == {
            "pixels": (True, False),
            "range": (True, True),
            "back": (False, False),
            "back-range": (False, True),
        }


class _Any:
    def __eq__(self, other: object) -> bool:
        return True


class TestHeirs:
    """What a change leaves below others that were made after it."""

    def test_pixels_go_to_the_first_that_drew_them_again(self) -> None:
        later = [
            record(11, pixels(p5=(1, 2), p6=(1, 2)).pack()),
            record(12, Record.pack_range(*np.zeros((2, 1), np.uint8)), role=Role.RANGE),
            record(13, b"damaged"),
            record(14, pixels(p6=(2, 3), p7=(1, 3), p9=(0, 3)).pack()),
        ]
        change = pixels(p4=(8, 1), p5=(8, 1), p6=(8, 1), p7=(8, 1))
        for back, left in ((True, 8), (False, 1)):
            heirs = Heirs(later, back, SIZE)
            assert lists(*heirs.left(change)) == [[4], [8], [1]]
            first, last = heirs.rewritten()
            assert (first.seq, last.seq) == (11, 14)
            assert lists(*decode(first.pack(), SIZE)) == [[5, 6], [left, left], [2, 2]]
            assert lists(*decode(last.pack(), SIZE)) == [[6, 7, 9], [2, left, 0], [3, 3, 3]]
        assert bool(heirs) and not Heirs([], True, SIZE)
        assert Heirs([], True, SIZE).left(change) is not None
        assert Heirs([], True, SIZE).rewritten() == []

    def test_provenance_goes_to_the_first_that_set_it_again(self) -> None:
        old, new = np.array([[0, 2, 3], [0, 3, 3]], np.uint8)
        lock = record(11, Record.pack_range(old, new), Mark(4, 0, 0), start=2, stop=5)
        lock.role = Role.RANGE
        stroke = record(12, pixels(p5=(0, 4)).pack(), Mark(3, 1, 2), Mark(4, 2, 3), start=3)
        other = record(13, pixels(p5=(0, 4)).pack(), Mark(4, 2, 3), start=4)
        heirs = Heirs([lock, stroke, other], True, SIZE)
        assert not heirs.inherit(4, 1, 1) and not heirs.inherit(4, 5, 1), "frames beside"
        assert not heirs.inherit(4, 2, 1), "the range says nothing new there"
        assert not heirs.inherit(9, 3, 1) and heirs.rewritten() == []
        assert heirs.inherit(4, 3, 1)
        (changed,) = heirs.rewritten()
        assert changed.seq == 11 and changed.marks == (Mark(4, 0, 0),)
        assert changed.unpack_range().tolist() == [[0, 1, 3], [0, 3, 3]]
        assert heirs.inherit(4, 4, 0) and heirs.inherit(3, 3, 0)
        changed, drawn, last = heirs.rewritten()
        assert drawn.marks == (Mark(3, 0, 2), Mark(4, 2, 3)) and drawn.data == stroke.data
        assert last.marks == (Mark(4, 0, 3),)
        assert lock.unpack_range().tolist() == [[0, 2, 3], [0, 3, 3]], "the record itself stays"


class TestSpans:
    def test_they_hold_the_frames_that_were_put_in(self) -> None:
        rng = np.random.default_rng(1)
        spans, frames = Spans(), set[int]()
        for _ in range(400):
            start, length = int(rng.integers(0, 30)), int(rng.integers(1, 9))
            if rng.random() < 0.6:
                spans.add(start, start + length)
                frames |= {*range(start, start + length)}
            else:
                spans.remove(start, start + length)
                frames -= {*range(start, start + length)}
            assert [t for t in range(-1, 42) if t in spans] == sorted(frames)
            assert len(spans) == len(frames) and all(a < b for a, b in spans.runs)
            assert all(a[1] < b[0] for a, b in zip(spans.runs, spans.runs[1:], strict=False))

    def test_of_some_frames(self) -> None:
        assert Spans.of(np.array([4, 5, 9, 2, 5])).runs == [[2, 3], [4, 6], [9, 10]]
        assert Spans.of([]).runs == [] and Spans([[1, 3]]).runs == [[1, 3]]


class TestEntry:
    def _entry(self) -> Entry:
        entry = Entry(5, None, "human", "Ada", "2026-01-01T00:00:00+00:00", 8, tool="brush")
        assert entry.empty and (entry.span, entry.count) == ((0, 0), 0)
        entry.touch(2, 4, 9, 12)
        entry.touch(1, 4, 3, 4)
        entry.touch(1, 6, 5, 7)
        assert not entry.empty
        entry.note("objects", "6", None, {"id": 6, "layer": 1, "name": "six"})
        entry.note("objects", "6", {"id": 6}, {"id": 6, "layer": 1, "name": "seven"})
        entry.note("objects", "4", {"layer": 1, "name": "a"}, {"layer": 2, "name": "a"})
        entry.note("objects", "5", {"layer": 1, "name": "a"}, {"layer": 1, "name": "b"})
        entry.note("objects", "7", {"layer": 1}, None)
        entry.note("objects", "x", {"layer": 1}, None)
        return entry

    def test_what_others_get_to_know(self) -> None:
        entry = self._entry()
        assert entry.step() == Step(
            id=5,
            name="brush",
            kind="human",
            who="Ada",
            when="2026-01-01T00:00:00+00:00",
            start=3,
            stop=12,
            layer_ids=frozenset({1, 2}),
            object_ids=frozenset({4, 6}),
            frames=4,
            state="open",
        )
        entry.name = "a stroke"
        assert entry.step().name == "a stroke"

    def test_the_objects_that_go_elsewhere(self) -> None:
        entry = self._entry()
        assert entry.placed == {4, 6, 7}
        assert entry.catalog["objects"]["6"] == [None, {"id": 6, "layer": 1, "name": "seven"}]

    def test_whose_changes_are_in_force(self) -> None:
        entry = self._entry()
        table = {}
        for state in ("open", "done", "undone", "undoing", "redoing", "dropped", "forgotten"):
            entry.state = state
            table[state] = entry.in_force
        assert [state for state, in_force in table.items() if not in_force] == [
            *("undone", "dropped", "forgotten"),
        ]

    def test_few_changes_are_kept_in_memory(self) -> None:
        entry = Entry(5, None, "model", "m", "", 1)
        for seq in range(21, 21 + 64):
            entry.add(record(seq, b""))
        assert (entry.first_seq, entry.last_seq) == (21, 84)
        assert entry.records is not None and len(entry.records) == 64
        entry.add(record(85, b""))
        entry.add(record(86, b""))
        assert entry.records is None and (entry.first_seq, entry.last_seq) == (21, 86)

    @pytest.mark.parametrize("state", ["open", "done", "undone", "undoing", "redoing", "forgotten"])
    def test_it_comes_back_from_the_journal(self, state: str) -> None:
        entry = self._entry()
        entry.add(record(21, b""))
        entry.add(record(23, b""))
        entry.state, entry.moment = state, 17
        again = Entry.read(json.loads(json.dumps(entry.row())), 99)
        assert again.step() == entry.step()
        for name in ("name", "place", "tool", "moment", "first_seq", "last_seq", "catalog"):
            assert getattr(again, name) == getattr(entry, name), name
        assert (again.bytes, again.logged, again.records, again.too_big) == (99, True, None, False)

    @pytest.mark.parametrize(
        ("column", "value"),
        [
            *((column, "1") for column in (0, 6, 7, 8)),
            *((column, 1) for column in (1, 2, 3, 4)),
            (5, "dropped"),
            (5, "forgotten"),
            (9, '{"tool": 5, "layers": [], "objects": {}}'),
            (9, '{"tool": "a", "layers": [], "objects": {"x": []}}'),
            (9, '{"tool": "a", "layers": []}'),
            (10, '{"objects": {"1": [1]}}'),
            (10, '{"objects": [1]}'),
            (10, '{"objects": {"1": [1, ' + "[" * 60 + "]" * 60 + "]}}"),
        ],
    )
    def test_a_damaged_one_is_none(self, column: int, value: Any) -> None:
        row = [*self._entry().row()]
        row[column] = value
        with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
            Entry.read(tuple(row), 99)
