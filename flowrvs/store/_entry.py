"""One undoable step while it is made and kept: the changeable side of `Step`."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from flowrvs.store._journal import Record, StepRow

__all__ = ["Entry", "Spans", "now"]

_KEPT_BYTES = 4 * 2**20


def now() -> str:
    """Return the time in ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Spans:
    """Frames as sorted ``[first, one past the last]`` runs: a long run stays short."""

    __slots__ = ("runs",)

    def __init__(self, runs: list[list[int]] | None = None) -> None:
        self.runs = [] if runs is None else runs

    def add(self, start: int, stop: int) -> None:
        """Take in ``start <= t < stop``."""
        runs = self.runs
        if runs and runs[-1][0] <= start <= runs[-1][1]:  # a model writes in order
            runs[-1][1] = max(runs[-1][1], stop)
            return
        first = bisect_left(runs, start, key=lambda run: run[1])
        last = bisect_right(runs, stop, key=lambda run: run[0])
        if first < last:
            start, stop = min(start, runs[first][0]), max(stop, runs[last - 1][1])
        runs[first:last] = [[start, stop]]

    def remove(self, start: int, stop: int) -> None:
        """Leave out ``start <= t < stop``."""
        kept = []
        for a, b in self.runs:
            if a < start:
                kept.append([a, min(b, start)])
            if b > stop:
                kept.append([max(a, stop), b])
        self.runs = [run for run in kept if run[0] < run[1]]

    def __contains__(self, t: int) -> bool:
        place = bisect_right(self.runs, t, key=lambda run: run[0])
        return place > 0 and t < self.runs[place - 1][1]

    def __len__(self) -> int:
        return sum(stop - start for start, stop in self.runs)


@dataclass(slots=True, eq=False)
class Entry:
    """A step.

    Attributes
    ----------
    id, name, kind, who, time, state
        As of `Step`; the name is None until the end where it is made of what was touched.
    tool : str
        How such a name begins.
    layers : set of int
        What it touched.
    touched : dict of int to Spans
        The frames of every object that it touched.
    catalog : dict
        ``{section: {key: [before, after]}}`` of the document.
    records : list of Record or None
        Its changes, while there are few; None once they are read from the journal only.
    bytes, kept : int
        What its changes take in the journal; what is counted of them in memory.
    logged : bool
        Whether the journal knows who touched what.
    """

    id: int
    name: str | None
    kind: str
    who: str
    time: str
    state: str = "open"
    tool: str = "edit"
    place: int = 0
    first_seq: int = 0
    last_seq: int = 0
    layers: set[int] = field(default_factory=set)
    touched: dict[int, Spans] = field(default_factory=dict)
    catalog: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    records: list[Record] | None = field(default_factory=list)
    bytes: int = 0
    kept: int = 0
    logged: bool = False
    too_big: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    @property
    def empty(self) -> bool:
        """True if nothing was touched."""
        return not (self.touched or self.layers or self.catalog)

    @property
    def span(self) -> tuple[int, int]:
        """First frame and one past the last; (0, 0) without frames."""
        with self.lock:
            runs = [one.runs for one in self.touched.values() if one.runs]
        if not runs:
            return 0, 0
        return min(r[0][0] for r in runs), max(r[-1][1] for r in runs)

    @property
    def count(self) -> int:
        """Number of frames, those of the object that has most of them."""
        with self.lock:
            return max((len(one) for one in self.touched.values()), default=0)

    def touch(self, layer: int, object_id: int, start: int, stop: int) -> None:
        """Note that an object was touched on some frames."""
        with self.lock:
            self.layers.add(layer)
            spans = self.touched.get(object_id)
            if spans is None:
                spans = self.touched[object_id] = Spans()
            spans.add(start, stop)

    def touches(self, object_id: int, t: int) -> bool:
        """Tell whether an object was touched on a frame."""
        return object_id in self.touched and t in self.touched[object_id]

    def note(self, section: str, key: str, before: Any, after: Any) -> None:
        """Note a change of the document."""
        with self.lock:
            rows = self.catalog.setdefault(section, {})
            if key in rows:
                rows[key][1] = after
            else:
                rows[key] = [before, after]

    def add(self, record: Record) -> None:
        """Take in a change."""
        self.first_seq = self.first_seq or record.seq
        self.last_seq = record.seq
        if self.records is not None:
            self.records.append(record)
            if len(self.records) > 512:
                self.records = None

    def spans(self) -> list[tuple[int, int, int]]:
        """Return rows of (object, first frame, one past the last)."""
        with self.lock:
            return [(i, a, b) for i, spans in self.touched.items() for a, b in spans.runs]

    def row(self) -> StepRow:
        """Return what the journal keeps."""
        with self.lock:
            frames = {
                "tool": self.tool,
                "layers": sorted(self.layers),
                "objects": {
                    str(i): [list(run) for run in spans.runs] for i, spans in self.touched.items()
                },
            }
            catalog = {
                section: {key: list(pair) for key, pair in rows.items()}
                for section, rows in self.catalog.items()
            }
        return StepRow(
            *(self.id, self.name or "", self.kind, self.who, self.time, self.state),
            *(self.place, self.first_seq, self.last_seq, frames, catalog),
        )

    @classmethod
    def read(cls, row: StepRow, size: int) -> Entry:
        """Return what `row` wrote."""
        return cls(
            *(row.id, row.name or None, row.kind, row.who, row.time, row.state),
            tool=row.frames["tool"],
            place=row.place,
            first_seq=row.first_seq,
            last_seq=row.last_seq,
            layers=set(row.frames["layers"]),
            touched={int(i): Spans(runs) for i, runs in row.frames["objects"].items()},
            catalog=row.catalog,
            records=None,
            bytes=size,
            logged=True,
        )
