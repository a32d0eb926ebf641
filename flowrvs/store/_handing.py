"""Handing a change on to the later one that drew over it, when it is undone.

A run draws a mask, a person corrects it, and the run is undone: the corrected frame is the
person's and stays. From now on the correction is what took the frame from its state *before
the run* to the one that is seen, so that undoing it, too, does not bring the run's pixels back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from flowrvs.store._delta import Labels, Runs, decode, encode
from flowrvs.store._journal import Mark, Record
from flowrvs.store.history import History

__all__ = ["hand_on", "hand_on_range", "hand_over"]


def hand_on(
    history: History, record: Record, runs: Runs, later: Iterable[Mark], frame: Labels
) -> tuple[Runs, npt.NDArray[np.int64]]:
    """Give the part of a change that others drew over to the first of them.

    Parameters
    ----------
    history : History
        Where both are rewritten, in one transaction.
    record : Record
        The change of a frame that is being undone; the layer's lock is held.
    runs : Runs
        Its pixels.
    later : iterable of Mark
        Its objects that others drew since then.
    frame : ndarray of uint16
        The frame as it is now.

    Returns
    -------
    Runs, ndarray of int64
        The pixels that are still the record's, to be undone; the places of those that took
        the rest, to be journalled as they are.
    """
    rewritten: dict[int, Record] = {}

    def heir_of(object_id: int, *, any_before: bool = False) -> Record | None:
        arguments = (record.layer, record.start, object_id, record.seq)
        heir = history.successor(*arguments, any_before=any_before)
        return None if heir is None else rewritten.setdefault(heir.seq, heir)

    handed = []
    for mark in later:
        heir = heir_of(mark.object_id)
        if heir is not None:
            marks = (_inherits(one, mark) for one in heir.marks)
            rewritten[heir.seq] = replace(heir, data=heir.pack(), frames=None, marks=tuple(marks))
            handed.append(mark)
    places, old, new = runs.places(), *(np.repeat(v, runs.lengths) for v in (runs.old, runs.new))
    owner = np.zeros(len(places), np.int64)
    if rewritten:
        ids = [mark.object_id for mark in handed]
        owner[np.isin(old, ids) | np.isin(new, ids)] = min(rewritten)
    # What was erased, and then drawn by another object.
    now = frame.reshape(-1)[places]
    others = (owner == 0) & (now != new) & (now != old)
    others &= ~np.isin(now, [mark.object_id for mark in later])
    for object_id in np.unique(now[others]).tolist():
        heir = heir_of(object_id, any_before=True) if object_id else None
        if heir is not None:
            owner[others & (now == object_id)] = heir.seq
    if not rewritten:
        return runs, places[:0]
    touched = [places[:0]]
    for seq in np.unique(owner[owner > 0]).tolist():
        heir, gone = rewritten[seq], owner == seq
        own = decode(heir.pack())
        before, after = np.zeros_like(frame), np.zeros_like(frame)
        own.put(before, own.old)
        before.reshape(-1)[places[gone]] = old[gone]
        after.reshape(-1)[places[gone]] = new[gone]
        own.put(after, own.new)
        rewritten[seq] = replace(heir, data=encode(before, after), frames=None)
        touched += [own.places(), places[gone]]
    before, after, mine = np.zeros_like(frame), np.zeros_like(frame), owner == 0
    before.reshape(-1)[places[mine]], after.reshape(-1)[places[mine]] = old[mine], new[mine]
    kept = encode(before, after)
    left = tuple(mark for mark in record.marks if mark not in handed)
    history.rewrite([replace(record, data=kept, frames=None, marks=left), *rewritten.values()])
    return decode(kept), np.concatenate(touched)


def _inherits(mark: Mark, other: Mark) -> Mark:
    """Return the mark of a change that takes over what another change did to its object."""
    if mark.object_id != other.object_id:
        return mark
    return replace(mark, old=other.old, before=other.before)


def hand_over(history: History, record: Record, values: Mapping[int, int]) -> bool:
    """Give a whole change to a step that later said something of its frame: True if one did.

    A person has accepted or locked the frame; `values` is the provenance of each object now.
    """
    for mark in record.marks:
        if values.get(mark.object_id, mark.new) != mark.new:
            heir = history.range_after(record.layer, record.start, mark.object_id, record.seq)
            if heir is not None:
                history.move(record, heir)
                return True
    return False


def hand_on_range(
    history: History,
    record: Record,
    old: npt.NDArray[np.uint8],
    new: npt.NDArray[np.uint8],
    frames: npt.NDArray[np.intp],
) -> None:
    """Give the provenance of some frames of a range to the changes that came after it.

    `frames` counts from the first frame of the range.
    """
    (mark,) = record.marks
    rewritten = []
    old, new = old.copy(), new.copy()
    for i in frames.tolist():
        heir = history.successor(
            record.layer, record.start + i, mark.object_id, record.seq, any_before=True
        )
        if heir is None:
            continue
        marks = tuple(
            replace(one, old=int(old[i]))
            if one.object_id == mark.object_id and one.old == new[i]
            else one
            for one in heir.marks
        )
        if marks != heir.marks:
            rewritten.append(replace(heir, data=heir.pack(), frames=None, marks=marks))
            new[i] = old[i]
    if rewritten:
        data = Record.pack_range(old, new)
        history.rewrite([replace(record, data=data, frames=None), *rewritten])
