"""What of a video is walked to carry objects by a tracker's memory, through occlusion and back.

All key frames are known to the tracker all the time, so that one correction changes what lies
after it. The frames after an object's first key are walked forwards, those before it backwards.
What was stopped goes on with the memory that it had (`KeptMemory`).
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import time
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from flowrvs.disk import read_regular, storage_error, write_bytes
from flowrvs.editing.pieces import Piece
from flowrvs.editing.preview import KeyMasks
from flowrvs.errors import FlowRVSError, MissingPathError, StorageError
from flowrvs.protocols import RememberingTracker, Tracker, TrackerMemory
from flowrvs.store import Project, Provenance

__all__ = ["KeptMemory", "plan_memory"]

#: Frames walked before the first one that is wanted, where no key lies nearer: what a memory of
#: recent frames holds (SAM 2 looks back at six).
WARM_UP = 6

#: Seconds of work between two files of a memory, and how many times longer than writing one.
PAUSE, SHARE = 5.0, 20
#: Bytes of such a file at most: 80 objects of SAM 2.
LARGEST = 2**28


class KeptMemory:
    """What a tracker remembers of a spread, in a file of the project, so that it can go on exactly.

    `note` is told after every frame; `save`, when the masks so far were written, writes the file
    now and then, and removes it when all is done. Its name says what the memory depends on:
    one of other keys, weights or pictures is never taken up. A project keeps the last one alone.

    Parameters
    ----------
    project : Project
    tracker : RememberingTracker
    identity : str
        What tells this spread from others: the file's name.
    resume : bool
        Look for what an earlier process has kept.
    """

    def __init__(
        self, project: Project, tracker: RememberingTracker, identity: str, *, resume: bool
    ) -> None:
        self._project, self._tracker = project, tracker
        self._path = project.path / "history" / "spread" / f"{identity}.safetensors"
        self._latest: TrackerMemory | None = None
        self._due = 0.0
        self._told = False
        self.left = 0  # walks that are not done
        self._known = self._load() if resume else None

    def _load(self) -> TrackerMemory | None:
        try:
            self._check_folders()
            return self._tracker.recall(read_regular(self._path, LARGEST))
        except MissingPathError:
            return None
        except FlowRVSError as error:
            self._warn(f"{self._path} is left out, and the spread begins anew: {error}")
            return None

    def begin(self, walk: range, asked: npt.NDArray[np.bool_]) -> int:
        """Return how many frames of a walk lie behind what was kept: none of them is asked for."""
        about = {} if self._known is None else self._known.about
        done = about.get("done", "")
        if about.get("walk") != f"{walk.start} {walk.step}" or not done.isdecimal():
            return 0
        place = min(int(done), len(walk))
        return 0 if asked[:, :place].any() else place

    def memory(self, piece: Piece) -> TrackerMemory:
        """Return the memory with which a walk begins."""
        known, self._known = self._known, None
        return known if piece.behind and known is not None else self._tracker.recall()

    def note(self, piece: Piece, walked: int, memory: TrackerMemory) -> None:
        """Note what is remembered after so many frames of a piece."""
        start = piece.frames.start - piece.behind * piece.frames.step
        self._latest = memory.copy()
        self._latest.about["walk"] = f"{start} {piece.frames.step}"
        self._latest.about["done"] = str(piece.behind + walked)

    def walked(self) -> None:
        """Note that a walk is done."""
        self.left -= 1
        self._latest = None

    def save(self) -> None:
        """Write what is remembered of frames whose masks were written; remove it at the end.

        Where that fails the spread goes on without, and a warning says so.
        """
        if not self.left:
            self.remove()
        elif self._latest is not None and time.monotonic() >= self._due:
            began = time.monotonic()
            try:
                self._write(self._latest)
            except FlowRVSError as error:  # of the disk, or of another package's tracker
                if not self._told:
                    self._warn(f"If this spread is stopped, it will begin anew: {error}")
            ended = time.monotonic()
            self._due = ended + max(PAUSE, SHARE * (ended - began))

    def _write(self, memory: TrackerMemory) -> None:
        self._project.flush()  # a memory never knows more than the masks on the disk
        data = memory.to_bytes()
        if len(data) > LARGEST:
            raise StorageError(f"The memory of so many objects takes {len(data)} bytes.")
        folder = self._path.parent
        try:
            self._check_folders()
            folder.mkdir(exist_ok=True)
            write_bytes(self._path, data)
            for other in folder.iterdir():  # of other spreads, and of writers that were killed
                if other != self._path:
                    other.unlink()
        except OSError as error:
            raise storage_error(error, folder) from error

    def remove(self) -> None:
        """Remove the file, as what it is for is done."""
        with suppress(OSError):
            self._check_folders()
            self._path.unlink(missing_ok=True)
            self._path.parent.rmdir()

    def _check_folders(self) -> None:
        for folder in (self._path.parent, self._path.parent.parent):
            if folder.is_symlink():
                raise StorageError(f"{folder} is a symbolic link; put the folder itself there.")

    def _warn(self, line: str) -> None:
        self._told = True
        warnings.warn(line, stacklevel=2)


def plan_memory(
    project: Project,
    name: str,
    tracker: Tracker | None,
    keys: Mapping[int, set[int]],
    stops: Mapping[int, set[int]],
    frames: range,
    *,
    resume: bool = True,
) -> tuple[str, list[Piece], KeptMemory | None]:
    """Plan what is to be walked for some objects.

    What is resumed equals what was not stopped: the same frames are walked, or those after the
    frame up to which the memory was kept. Only a tracker that is here and cannot keep its memory
    (`RememberingTracker`) walks a few frames before those that are left, instead of all.

    Parameters
    ----------
    project : Project
    name : str
        Of the tracker.
    tracker : Tracker, optional
        Itself, where this process walks.
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
    kept : KeptMemory or None
        Where the tracker's memory can be kept.
    """
    masks = KeyMasks(project, keys)
    digest, identity = _digests(project, name, tracker, masks)
    who = f"{name}, keys {digest}"
    objects = tuple(sorted(keys))
    layers = tuple(project.objects[i].layer for i in objects)
    kept = None
    if isinstance(tracker, RememberingTracker):
        kept = KeptMemory(project, tracker, identity, resume=resume)
    again = kept is not None or tracker is None
    ahead: dict[int, set[int]] = {}  # object: frames
    back: dict[int, set[int]] = {}
    done: dict[int, set[int]] = {}
    anchors: set[int] = set()
    for object_id, mine in keys.items():
        areas, provenance = project.areas(object_id), project.provenance(object_id)
        present = sorted(t for t in mine if areas[t])
        fixed = mine | stops[object_id]
        free = [t for t in frames if t not in fixed and provenance[t] < Provenance.HUMAN]
        done[object_id] = {
            t for t in free if resume and provenance[t] and _who(project, object_id, t) == who
        }
        if not again:
            free = [t for t in free if t not in done[object_id]]
        ahead[object_id], back[object_id] = set(), set()
        # Where it is absent, and at other frames of a person, it ends.
        ends = sorted({-1, len(areas), *fixed.difference(present)})
        for before, after in itertools.pairwise(ends):
            first = next(iter(_between(present, before, after)), None)
            if first is not None:
                anchors.add(first)
                ahead[object_id].update(_between(free, first, after))
                back[object_id].update(_between(free, before, first))
    pieces = []
    for wanted, way in ((ahead, 1), (back, -1)):
        left = {i: wanted[i] - done[i] for i in objects}
        for walk in _walks(set().union(*wanted.values()), anchors, way):
            asked = np.array([[t in left[i] for t in walk] for i in objects])
            if not asked.any():
                continue
            begin = 0 if kept is None else kept.begin(walk, asked)
            part = slice(begin, 1 + int(np.flatnonzero(asked.any(0))[-1]))
            pieces.append(
                Piece(
                    "memory",
                    walk[part],
                    masks,
                    objects,
                    wanted=asked[:, part],
                    layers=layers,
                    kept=kept,
                    behind=begin,
                )
            )
    if kept is not None:
        kept.left = len(pieces)
        if not pieces:
            kept.remove()
    return who, pieces, kept


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


def _digests(
    project: Project, name: str, tracker: Tracker | None, keys: KeyMasks
) -> tuple[str, str]:
    """Return eight digits that tell key frames from others, and what tells spreads apart."""
    short, made = hashlib.blake2s(digest_size=4), hashlib.blake2s(digest_size=16)
    video = project.video
    weights = getattr(tracker, "weights", "")
    about = (name, weights, video.fingerprint, video.frame_count, *keys.objects)
    made.update(repr(about).encode())
    for t in keys:
        for object_id, mask in sorted(keys[t].items()):
            for part in (f"{t} {object_id} ".encode(), np.packbits(mask).tobytes()):
                short.update(part)
                made.update(part)
    ids = "_".join(map(str, keys.objects))  # `Project.remove_object` looks at them
    if len(ids) > 100:  # a name of a file has an end
        ids = "many"
    return short.hexdigest(), f"{ids}-{made.hexdigest()}"
