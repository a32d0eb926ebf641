"""Carry objects through a video by a tracker's memory: through occlusion, and back again.

All key frames are known to the tracker all the time, so that one correction changes what lies
after it. The frames after an object's first key are walked forwards, those before it backwards.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from flowrvs.errors import InputError
from flowrvs.masks.propagate import Spread
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock
from flowrvs.records import TrackedObject, Tracker
from flowrvs.store import Project, Provenance
from flowrvs.video import Video

__all__ = ["MemoryPlan", "certainty_of"]

Mask = npt.NDArray[np.bool_]

#: Frames walked before the first one that is wanted, where no key lies nearer: what a memory of
#: recent frames holds (SAM 2 looks back at six).
WARM_UP = 6


def certainty_of(found: TrackedObject) -> float:
    """Return how sure an answer is, 0 to 1: that the object is there or not, and of its edge.

    The edge is as sure as the mask is the same for a logit of 1 and of -1 (SAM's stability).
    """
    presence = abs(2 * min(1.0, max(0.0, float(found.score))) - 1)
    if found.score < 0.5:
        return presence
    wide = np.count_nonzero(found.logits > -1)
    return presence * (np.count_nonzero(found.logits > 1) / wide if wide else 1.0)


class _Keys(Mapping[int, Mapping[int, Mask]]):
    """Masks of several objects' key frames, read when they are asked for."""

    def __init__(self, project: Project, frames: Mapping[int, set[int]]) -> None:
        self._project = project
        self._frames = {object_id: frozenset(known) for object_id, known in frames.items()}
        self._all = sorted(set().union(*self._frames.values()))

    def __getitem__(self, t: int) -> dict[int, Mask]:
        masks = {
            object_id: self._project.object_mask(object_id, t, t + 1)[0]
            for object_id, known in self._frames.items()
            if t in known
        }
        if not masks:
            raise KeyError(t)
        return masks

    def __contains__(self, t: object) -> bool:
        return any(t in known for known in self._frames.values())

    def __iter__(self) -> Iterator[int]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


@dataclass(frozen=True, slots=True)
class _Walk:
    """Frames in the order in which they are walked, and who is wanted on each."""

    frames: range
    wanted: Mapping[int, frozenset[int]]  # frame: objects


class MemoryPlan:
    """What is to be walked for some objects, and the walk; made when the work begins.

    Parameters
    ----------
    project : Project
    video : Video
    tracker : Tracker
    keys : mapping of int to set of int
        Frames to spread from, by object.
    stops : mapping of int to set of int
        Frames beyond which nothing of an object is carried, beside those on which it is marked
        as absent.
    frames : range
        Frames that want masks.
    resume : bool
        Leave out what this tracker wrote before, from the same keys.
    """

    def __init__(
        self,
        project: Project,
        video: Video,
        tracker: Tracker,
        keys: Mapping[int, set[int]],
        stops: Mapping[int, set[int]],
        frames: range,
        *,
        resume: bool = True,
    ) -> None:
        self._project, self._video, self._tracker = project, video, tracker
        self._keys = _Keys(project, keys)
        self.who = f"{tracker.name}, keys {_digest(self._keys)}"
        ahead: dict[int, set[int]] = {}  # object: frames
        back: dict[int, set[int]] = {}
        anchors: set[int] = set()
        for object_id, mine in keys.items():
            areas, provenance = project.areas(object_id), project.provenance(object_id)
            present = {t for t in mine if areas[t]}
            fixed = mine | stops[object_id]
            free = [t for t in frames if t not in fixed and provenance[t] < Provenance.HUMAN]
            if resume:
                free = [t for t in free if not (provenance[t] and self._wrote(object_id, t))]
            ahead[object_id], back[object_id] = set(), set()
            # Where it is absent, and at other frames of a person, it ends.
            ends = sorted({-1, len(areas), *(fixed - present)})
            for before, after in itertools.pairwise(ends):
                first = min((t for t in present if before < t < after), default=None)
                if first is not None:
                    anchors.add(first)
                    ahead[object_id] |= {t for t in free if first < t < after}
                    back[object_id] |= {t for t in free if before < t < first}
        self.walks = [*_walks(ahead, anchors, 1), *_walks(back, anchors, -1)]

    def _wrote(self, object_id: int, t: int) -> bool:
        rows = self._project.changes(object_id, t)
        return bool(rows) and rows[0].who == self.who

    def run(
        self, cancel: CancelToken | None = None, progress: ProgressCallback | None = None
    ) -> Generator[tuple[int, Spread], None, None]:
        """Yield objects and their masks, frame by frame.

        Raises
        ------
        Cancelled
            `cancel` was set.
        DeviceMemoryError
            The device is too small for the tracker.
        InputError
            The tracker's answers are of another size, or of other frames.
        """
        name = self._tracker.name
        clock = ProgressClock(sum(len(walk.frames) for walk in self.walks))
        for walk in self.walks:
            left = list(walk.frames)
            for t, found in self._follow(walk.frames, cancel):
                if not left or t != left.pop(0):
                    raise InputError(f"The tracker {name} answered for frame {t} out of turn.")
                for object_id in sorted(walk.wanted.get(t, ())):
                    yield object_id, self._spread(t, object_id, found)
                event = clock.advance(f"following with {name}")
                if progress is not None:
                    progress(event)
            if left:
                raise InputError(f"The tracker {name} gave no answer for frame {left[0]}.")

    def _follow(
        self, frames: range, cancel: CancelToken | None
    ) -> Generator[tuple[int, dict[int, TrackedObject]], None, None]:
        def read(t: int) -> npt.NDArray[np.uint8]:
            return self._video.read(t, t + 1)[0]

        token = cancel or CancelToken()
        token.raise_if_cancelled()
        answers = self._tracker.follow(read, self._keys, frames, cancel=token)
        # A protocol's iterator need not be a generator, but mostly is one.
        with closing(cast(Any, answers)) if hasattr(answers, "close") else nullcontext():
            for answer in answers:
                token.raise_if_cancelled()
                yield answer

    def _spread(self, t: int, object_id: int, found: Mapping[int, TrackedObject]) -> Spread:
        project = self._project
        shape = (project.video.height, project.video.width)
        answer = found.get(object_id)
        if answer is None:  # left out: it is not there
            return Spread(t, np.zeros(shape, bool), 1.0)
        if np.shape(answer.logits) != shape:
            raise InputError(
                f"The tracker {self._tracker.name} gave logits of shape "
                f"{np.shape(answer.logits)}, not {shape}."
            )
        mask = answer.mask
        layer = project.objects[object_id].layer
        for other, rival in found.items():
            if other == object_id or project.objects[other].layer != layer:
                continue
            # A pixel is that one's of which the tracker is surer, of equals the older one's.
            above = np.greater_equal if other < object_id else np.greater
            mask &= ~(rival.mask & above(rival.logits, answer.logits))
        return Spread(t, mask, certainty_of(answer))


def _walks(wanted: Mapping[int, set[int]], anchors: Collection[int], way: int) -> Iterator[_Walk]:
    """Yield what is walked in one direction; frames far from others begin a walk of their own."""
    who: dict[int, frozenset[int]] = {}
    for object_id in sorted(wanted):
        for t in wanted[object_id]:
            who[t] = who.get(t, frozenset()) | {object_id}
    frames = sorted(who, reverse=way < 0)
    while frames:
        count = 1
        while count < len(frames) and abs(frames[count] - frames[count - 1]) <= 2 * WARM_UP:
            count += 1
        mine, frames = frames[:count], frames[count:]
        # Not from beyond the key that the walk comes from.
        passed = [t for t in anchors if (mine[0] - t) * way > 0]
        limit = min(passed) if way > 0 else max(passed)
        first = mine[0] - way * WARM_UP
        first = max(first, limit) if way > 0 else min(first, limit)
        yield _Walk(range(first, mine[-1] + way, way), {t: who[t] for t in mine})


def _digest(keys: _Keys) -> str:
    """Return eight digits that tell key frames from others."""
    made = hashlib.blake2s(digest_size=4)
    for t in keys:
        for object_id, mask in sorted(keys[t].items()):
            made.update(f"{t} {object_id} ".encode())
            made.update(np.packbits(mask).tobytes())
    return made.hexdigest()
