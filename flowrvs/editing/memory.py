"""What of a video is walked to carry objects by a tracker's memory, through occlusion and back.

All key frames are known to the tracker all the time, so that one correction changes what lies
after it. The frames after an object's first key are walked forwards, those before it backwards.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from flowrvs.editing.pieces import Piece
from flowrvs.editing.preview import KeyMasks
from flowrvs.store import Project, Provenance

__all__ = ["plan_memory"]

#: Frames walked before the first one that is wanted, where no key lies nearer: what a memory of
#: recent frames holds (SAM 2 looks back at six).
WARM_UP = 6


def plan_memory(
    project: Project,
    tracker: str,
    keys: Mapping[int, set[int]],
    stops: Mapping[int, set[int]],
    frames: range,
    *,
    resume: bool = True,
) -> tuple[str, list[Piece]]:
    """Plan what is to be walked for some objects.

    Parameters
    ----------
    project : Project
    tracker : str
        Its name.
    keys : mapping of int to set of int
        Frames to spread from, by object.
    stops : mapping of int to set of int
        Frames beyond which nothing of an object is carried, beside those on which it is marked
        as absent.
    frames : range
        Frames that want masks.
    resume : bool
        Leave out what this tracker wrote before, from the same keys.

    Returns
    -------
    who : str
        What is noted with the masks: the tracker and its keys.
    pieces : list of Piece
    """
    masks = KeyMasks(project, keys)
    who = f"{tracker}, keys {_digest(masks)}"
    ahead: dict[int, set[int]] = {}  # object: frames
    back: dict[int, set[int]] = {}
    anchors: set[int] = set()
    for object_id, mine in keys.items():
        areas, provenance = project.areas(object_id), project.provenance(object_id)
        present = sorted(t for t in mine if areas[t])
        fixed = mine | stops[object_id]
        free = [t for t in frames if t not in fixed and provenance[t] < Provenance.HUMAN]
        if resume:
            free = [t for t in free if not (provenance[t] and _who(project, object_id, t) == who)]
        ahead[object_id], back[object_id] = set(), set()
        # Where it is absent, and at other frames of a person, it ends.
        ends = sorted({-1, len(areas), *fixed.difference(present)})
        for before, after in itertools.pairwise(ends):
            first = next(iter(_between(present, before, after)), None)
            if first is not None:
                anchors.add(first)
                ahead[object_id].update(_between(free, first, after))
                back[object_id].update(_between(free, before, first))
    objects = tuple(sorted(keys))
    layers = tuple(project.objects[i].layer for i in objects)
    pieces = []
    for wanted, way in ((ahead, 1), (back, -1)):
        for walk in _walks(set().union(*wanted.values()), anchors, way):
            asked = np.array([[t in wanted[i] for t in walk] for i in objects])
            pieces.append(Piece("memory", walk, masks, objects, wanted=asked, layers=layers))
    return who, pieces


def _who(project: Project, object_id: int, t: int) -> str | None:
    rows = project.changes(object_id, t)
    return rows[0].who if rows else None


def _between(frames: Sequence[int], before: int, after: int) -> Sequence[int]:
    """Return those of ascending frames that lie between two others."""
    return frames[bisect.bisect_right(frames, before) : bisect.bisect_left(frames, after)]


def _walks(wanted: set[int], anchors: Collection[int], way: int) -> Iterator[range]:
    """Yield what is walked in one direction; frames far from others begin a walk of their own."""
    frames = sorted(wanted, reverse=way < 0)
    if not frames:
        return
    limit = min(anchors) if way > 0 else max(anchors)  # not from beyond the outermost key
    begin = 0
    for end in range(1, len(frames) + 1):
        if end == len(frames) or abs(frames[end] - frames[end - 1]) > 2 * WARM_UP:
            first = frames[begin] - way * WARM_UP
            first = max(first, limit) if way > 0 else min(first, limit)
            yield range(first, frames[end - 1] + way, way)
            begin = end


def _digest(keys: KeyMasks) -> str:
    """Return eight digits that tell key frames from others."""
    made = hashlib.blake2s(digest_size=4)
    for t in keys:
        for object_id, mask in sorted(keys[t].items()):
            made.update(f"{t} {object_id} ".encode())
            made.update(np.packbits(mask).tobytes())
    return made.hexdigest()
