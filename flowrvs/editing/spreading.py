"""Spread what a person drew on some frames of an object to the others."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

from flowrvs.editing.memory import KeptMemory, plan_memory
from flowrvs.editing.pieces import Here, Lost, Method, Piece, PieceRunner
from flowrvs.editing.preview import KeyMasks, Preview, PreviewGroup, check_object, counted
from flowrvs.errors import InputError
from flowrvs.masks import flow
from flowrvs.masks.propagate import Spread
from flowrvs.progress import CancelToken, ProgressCallback
from flowrvs.protocols import Tracker
from flowrvs.records import frame_range
from flowrvs.store import Project, Provenance

if TYPE_CHECKING:
    from flowrvs.video import Video

__all__ = ["Flows", "Method", "copy_to_next", "spread", "spread_together"]

Found = Generator[tuple[int, Spread], None, None]
#: Plans a spread when its work begins: who is noted with it, what keeps the tracker's memory, and
#: what runs it.
Begin = Callable[
    [Lost, CancelToken | None, ProgressCallback | None], tuple[str | None, KeptMemory | None, Found]
]


class Flows(flow.Flows):
    """Optical flow of a video, computed once; keep one for a video and hand it around.

    Parameters
    ----------
    video : Video
        It must stay open as long as this is used.
    method, cache_bytes
        As for :class:`flowrvs.masks.flow.Flows`.
    """

    def __init__(
        self,
        video: Video,
        *,
        method: Literal["auto", "dis", "ilk"] = "auto",
        cache_bytes: int = 256 * 2**20,
    ) -> None:
        shape = (len(video), video.info.height, video.info.width)
        super().__init__(
            lambda t: video.read(t, t + 1)[0], shape, method=method, cache_bytes=cache_bytes
        )


def spread(
    project: Project,
    video: Video | None,
    object_id: int,
    *,
    keys: Sequence[int] | None = None,
    start: int = 0,
    stop: int | None = None,
    method: Method = "flow",
    flows: flow.Flows | None = None,
    tracker: Tracker | None = None,
    runner: PieceRunner | None = None,
    resume: bool = True,
) -> Preview:
    """Propose masks for the frames around those that a person drew.

    Parameters
    ----------
    project : Project
        Of this video.
    video : Video or None
        Open; ``"shape"`` and ``"copy"`` do without.
    object_id : int
        The object. `spread_together` takes several.
    keys : sequence of int, optional
        Frames to spread from, whoever drew them; by default all frames of the object that
        are a person's. A person's other frames end the spread. Frames where the object was
        marked absent end it too.
    start, stop : int
        Frames to propose masks for; frames that a person drew are left as they are.
    method : {"flow", "shape", "copy", "memory"}
        ``"flow"`` follows the video's motion and colours (:mod:`flowrvs.masks.propagate`);
        ``"shape"`` draws the shapes between neighbouring frames of a person without looking
        at the video (:mod:`flowrvs.masks.interpolate`); ``"copy"`` repeats the nearest key;
        ``"memory"`` asks a tracker, to which all keys are known all the time, and which may
        answer that the object is not there: then the mask is empty.
    flows : Flows, optional
        Of the video, to share what other spreads computed.
    tracker : Tracker, optional
        What remembers, for ``"memory"`` (`flowrvs.load_tracker`).
    runner : PieceRunner, optional
        What computes instead of this process, with its own tracker: a
        `flowrvs.inference.cluster.SpreadCluster`.
    resume : bool
        For ``"memory"``: frames that were kept from the same tracker and the same keys are
        left out, so that a spread that was stopped goes on, to what it would have been without
        the stop. False asks for them again.

    Returns
    -------
    Preview
        Not computed yet: `Preview.run` does it.

    Raises
    ------
    ProjectError
        The project is another video's.
    InputError
        There is no key frame, or the range or the method is unknown, or there is no tracker.
    """
    runner = runner or Here(flows, tracker)
    wanted = None if keys is None else {object_id: keys}
    name, begin = _plan(project, video, [object_id], method, wanted, start, stop, runner, resume)

    def work(
        cancel: CancelToken | None, progress: ProgressCallback | None
    ) -> Generator[Spread, None, None]:
        preview.who, preview.memory, parts = begin(
            lambda _, run: preview.note_lost(run), cancel, progress
        )
        with closing(parts):
            for _, found in parts:
                yield found

    preview = Preview(project, object_id, name, work)
    return preview


def spread_together(
    project: Project,
    video: Video | None,
    object_ids: Iterable[int],
    tracker: Tracker | None = None,
    *,
    keys: Mapping[int, Sequence[int]] | None = None,
    start: int = 0,
    stop: int | None = None,
    method: Method = "memory",
    runner: PieceRunner | None = None,
    resume: bool = True,
) -> PreviewGroup:
    """Propose masks of several objects, to be kept as one step.

    By a tracker's memory they are carried at once, and those of one layer do not overlap: a
    pixel is that one's of which the tracker is surest. Otherwise they come one after the other.

    Parameters
    ----------
    project, video, start, stop, tracker, runner, resume
        As for `spread`.
    object_ids : iterable of int
        The objects, each with a frame at least that a person drew.
    keys : mapping of int to sequence of int, optional
        Frames to spread from, by object; all that a person drew by default.
    method : str
        As for `spread`.

    Returns
    -------
    PreviewGroup
        Not computed yet: `PreviewGroup.run` does it.

    Raises
    ------
    ProjectError, InputError
        As for `spread`.
    """
    ids = list(dict.fromkeys(object_ids))
    runner = runner or Here(None, tracker)
    name, begin = _plan(project, video, ids, method, keys, start, stop, runner, resume)

    def work(cancel: CancelToken | None, progress: ProgressCallback | None) -> Found:
        group.who, group.memory, parts = begin(
            lambda object_id, run: group.previews[object_id].note_lost(run), cancel, progress
        )
        with closing(parts):
            yield from parts

    group = PreviewGroup(project, ids, name, work)
    return group


def _plan(
    project: Project,
    video: Video | None,
    object_ids: Sequence[int],
    method: Method,
    keys: Mapping[int, Sequence[int]] | None,
    start: int,
    stop: int | None,
    runner: PieceRunner,
    resume: bool,
) -> tuple[str, Begin]:
    """Check what is asked for; return the step's name, and what begins it."""
    if method not in get_args(Method):
        raise InputError(f"Method {method!r} is unknown; use {', '.join(get_args(Method))}.")
    known = isinstance(runner, Here) and runner.flows is not None
    if video is None and (method == "memory" or (method == "flow" and not known)):
        raise InputError(
            f"Spreading by {method} needs the video; open it, or use 'shape' or 'copy'."
        )
    if method == "memory" and not runner.name:
        raise InputError(
            "Spreading by memory needs a tracker; choose one that 'flowrvs models list' shows."
        )
    if video is not None:
        project.check_video(video.info)
    things = [check_object(project, i) for i in object_ids]
    if not things:
        raise InputError("There is no object to spread; choose one.")
    about = project.video
    frames = frame_range(about.frame_count, start, stop)
    chosen: dict[int, set[int]] = {}
    others: dict[int, set[int]] = {}
    for thing in things:
        drawn = {int(t) for t in np.flatnonzero(project.provenance(thing.id) >= Provenance.HUMAN)}
        wanted = None if keys is None else keys.get(thing.id)
        mine = drawn if wanted is None else {int(t) for t in wanted}
        if (
            not mine
            or not all(0 <= t < about.frame_count for t in mine)
            or (method == "memory" and not project.areas(thing.id)[sorted(mine)].any())
        ):
            raise InputError(
                f"{thing.name!r} has no key frame to spread from; draw it on one frame first."
            )
        chosen[thing.id], others[thing.id] = mine, drawn - mine

    def begin(
        lost: Lost, cancel: CancelToken | None, progress: ProgressCallback | None
    ) -> tuple[str | None, KeptMemory | None, Found]:
        # The keys are read when the work begins: later strokes on them count, and what was
        # removed since is left out.
        there = {i: mine for i, mine in chosen.items() if i in project.objects}
        who: str | None = None
        kept: KeptMemory | None = None
        pieces: list[Piece] = []
        if method == "memory":
            tracker = runner.tracker if isinstance(runner, Here) else None
            who, pieces, kept = plan_memory(
                project, runner.name, tracker, there, others, frames, resume=resume
            )
        else:
            for i, mine in there.items():
                pieces += _pieces(project, i, method, mine, others[i], frames)
        shape = about.frame_count, about.height, about.width
        found = runner.run(pieces, shape, video, lost=lost, cancel=cancel, progress=progress)
        return who, kept, found

    verb = {"shape": "fill in", "copy": "copy"}.get(method, "spread")
    names = ", ".join(repr(thing.name) for thing in things)
    by = f" with {runner.name}" if method == "memory" else ""
    return f"{verb} {names}{by}, frames {frames.start} to {frames.stop - 1}", begin


def _pieces(
    project: Project,
    object_id: int,
    method: Method,
    chosen: set[int],
    others: set[int],
    frames: range,
) -> list[Piece]:
    """Return the gaps between the frames that a person drew, with the keys that fill them."""
    places, drawn = sorted(chosen), chosen | others
    rivals = _drawn_beside(project, object_id) if method == "flow" else {}
    pieces = []
    for before, after in itertools.pairwise([-1, *sorted(drawn), 2**62]):
        gap = range(max(frames.start, before + 1), min(frames.stop, after))
        if not gap:
            continue
        beside = {before, after} & drawn
        ends, stops = beside & chosen, beside - chosen
        if method == "shape":  # shapes that a person drew are known better than any mixture
            ends, stops = (beside if len(beside) == 2 else set()), set()
        elif method == "copy":  # the nearest key may lie beyond a stop, and then gives nothing
            at = bisect.bisect_left(places, after)
            ends = set(places[max(0, at - 1) : at + 1])
        if ends:
            near = {other: {t for t in ends if there[t]} for other, there in rivals.items()}
            near = {other: there for other, there in near.items() if there}
            keys = KeyMasks(project, {object_id: ends, **near})
            pieces.append(Piece(method, gap, keys, (object_id,), tuple(sorted(stops))))
    # What has one key is final at once, so it comes first.
    return sorted(pieces, key=lambda piece: len(piece.keys)) if method == "flow" else pieces


def _drawn_beside(project: Project, object_id: int) -> dict[int, npt.NDArray[np.bool_]]:
    """Return on which frames a person drew the layer's other objects, which do not overlap."""
    layer = project.objects[object_id].layer
    return {
        i: (project.areas(i) > 0) & (project.provenance(i) >= Provenance.HUMAN)
        for i, other in project.objects.items()
        if other.layer == layer and i != object_id
    }


def copy_to_next(project: Project, object_id: int, t: int, n: int = 1) -> Preview:
    """Propose the mask of frame `t` for the `n` frames after it, or before it if negative.

    Frames beyond a person's next one, or the video's end, are left out.
    """
    total = project.video.frame_count
    if not 0 <= t < total or not n:
        raise InputError(f"Frame {t} cannot be copied by {n} frames; there are {total} frames.")
    thing = check_object(project, object_id)
    provenance = project.provenance(object_id)
    way = 1 if n > 0 else -1
    targets = []
    for to in range(t + way, t + n + way, way):
        if not 0 <= to < total or provenance[to] >= Provenance.HUMAN:
            break
        targets.append(to)
    last = targets[-1] if targets else t

    def work(cancel: CancelToken | None, progress: ProgressCallback | None) -> Iterator[Spread]:
        mask = project.object_mask(object_id, t, t + 1)[0]
        parts = (Spread(to, mask, 1 / (1 + abs(to - t))) for to in targets)
        return counted(parts, len(targets), "copying", cancel, progress)

    return Preview(project, object_id, f"copy {thing.name!r}, frame {t} to {last}", work)
