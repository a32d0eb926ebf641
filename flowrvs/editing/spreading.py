"""Spread what a person drew on some frames of an object to the others."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from flowrvs.editing.memory import MemoryPlan
from flowrvs.editing.preview import Preview, PreviewGroup, check_object, counted
from flowrvs.errors import InputError
from flowrvs.masks import flow, interpolate
from flowrvs.masks.propagate import Spread, propagate
from flowrvs.progress import CancelToken, ProgressCallback
from flowrvs.records import Tracker, frame_range
from flowrvs.store import Project, Provenance

if TYPE_CHECKING:
    from flowrvs.video import Video

__all__ = ["Flows", "Method", "copy_to_next", "spread", "spread_together"]

Method = Literal["flow", "shape", "copy", "memory"]


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
        The object. `spread_together` takes several, for the method ``"memory"``.
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
    resume : bool
        For ``"memory"``: frames that were kept from the same tracker and the same keys are
        left out, so that a spread that was stopped goes on. False asks for them again.

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
    if method == "memory":
        wanted = None if keys is None else {object_id: keys}
        name, plan_now = _memory(project, video, [object_id], tracker, wanted, start, stop, resume)

        def walk(cancel: CancelToken | None, progress: ProgressCallback | None) -> Iterator[Spread]:
            plan = plan_now()
            preview.who = plan.who
            return (found for _, found in plan.run(cancel, progress))

        preview = Preview(project, object_id, name, walk)
        return preview
    if video is not None:
        project.check_video(video.info)
    thing = check_object(project, object_id)
    total = project.video.frame_count
    frames = frame_range(total, start, stop)
    if method not in get_args(Method):
        raise InputError(f"Method {method!r} is unknown; use {', '.join(get_args(Method))}.")
    if method == "flow" and video is None and flows is None:
        raise InputError("Spreading by flow needs the video; open it, or use 'shape' or 'copy'.")
    drawn = {int(t) for t in np.flatnonzero(project.provenance(object_id) >= Provenance.HUMAN)}
    chosen = drawn if keys is None else {int(t) for t in keys}
    if not chosen or not all(0 <= t < total for t in chosen):
        raise InputError(
            f"{thing.name!r} has no key frame to spread from; draw it on one frame first."
        )
    # The keys are read when the work begins: later strokes on them count.
    masks = _Keys(project, object_id, chosen)
    others = drawn - chosen

    def work(cancel: CancelToken | None, progress: ProgressCallback | None) -> Iterator[Spread]:
        if method == "flow":
            known = Flows(cast("Video", video)) if flows is None else flows
            return propagate(
                known,
                masks,
                frames.start,
                frames.stop,
                stops=others,
                lost=preview.note_lost,
                cancel=cancel,
                progress=progress,
            )
        if method == "shape":
            parts = _shapes(_Keys(project, object_id, chosen | others), frames)
        else:
            parts = _copies(masks, others, frames)
        each = counted(parts, len(frames), "spreading", cancel, progress)
        return (part for part in each if part.frame not in chosen | others)

    verb = {"flow": "spread", "shape": "fill in", "copy": "copy"}[method]
    name = f"{verb} {thing.name!r}, frames {frames.start} to {frames.stop - 1}"
    preview = Preview(project, object_id, name, work)
    return preview


def spread_together(
    project: Project,
    video: Video | None,
    object_ids: Sequence[int],
    tracker: Tracker | None,
    *,
    keys: Mapping[int, Sequence[int]] | None = None,
    start: int = 0,
    stop: int | None = None,
    resume: bool = True,
) -> PreviewGroup:
    """Propose masks of several objects at once, by a tracker's memory.

    The objects of one layer do not overlap: a pixel is that one's of which the tracker is
    surest.

    Parameters
    ----------
    project, video, start, stop, tracker, resume
        As for `spread`.
    object_ids : sequence of int
        The objects, each with a frame at least that a person drew.
    keys : mapping of int to sequence of int, optional
        Frames to spread from, by object; all that a person drew by default.

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
    name, plan_now = _memory(project, video, ids, tracker, keys, start, stop, resume)

    def work(
        cancel: CancelToken | None, progress: ProgressCallback | None
    ) -> Iterator[tuple[int, Spread]]:
        plan = plan_now()
        group.who = plan.who
        return plan.run(cancel, progress)

    group = PreviewGroup(project, ids, name, work)
    return group


def _memory(
    project: Project,
    video: Video | None,
    object_ids: Sequence[int],
    tracker: Tracker | None,
    keys: Mapping[int, Sequence[int]] | None,
    start: int,
    stop: int | None,
    resume: bool,
) -> tuple[str, Callable[[], MemoryPlan]]:
    """Check what is asked of a memory; return the step's name, and what plans it."""
    if video is None:
        raise InputError("Spreading by memory needs the video; open it, or use 'shape' or 'copy'.")
    if tracker is None:
        raise InputError(
            "Spreading by memory needs a tracker; choose one that 'flowrvs models list' shows."
        )
    project.check_video(video.info)
    things = [check_object(project, i) for i in object_ids]
    if not things:
        raise InputError("There is no object to spread; choose one.")
    total = project.video.frame_count
    frames = frame_range(total, start, stop)
    chosen: dict[int, set[int]] = {}
    others: dict[int, set[int]] = {}
    for thing in things:
        drawn = {int(t) for t in np.flatnonzero(project.provenance(thing.id) >= Provenance.HUMAN)}
        wanted = None if keys is None else keys.get(thing.id)
        mine = drawn if wanted is None else {int(t) for t in wanted}
        if not all(0 <= t < total for t in mine) or not project.areas(thing.id)[sorted(mine)].any():
            raise InputError(
                f"{thing.name!r} has no key frame to spread from; draw it on one frame first."
            )
        chosen[thing.id], others[thing.id] = mine, drawn - mine

    names = ", ".join(repr(thing.name) for thing in things)
    name = f"spread {names} with {tracker.name}, frames {frames.start} to {frames.stop - 1}"
    # The keys are read when the work begins: later strokes on them count.
    return name, lambda: MemoryPlan(project, video, tracker, chosen, others, frames, resume=resume)


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


class _Keys(Mapping[int, npt.NDArray[np.bool_]]):
    """Masks of key frames, read when they are asked for: there may be thousands."""

    def __init__(self, project: Project, object_id: int, frames: set[int]) -> None:
        self._project = project
        self._object = object_id
        self._known = frozenset(frames)
        self._frames = sorted(frames)

    def __contains__(self, t: object) -> bool:
        return t in self._known

    def __getitem__(self, t: int) -> npt.NDArray[np.bool_]:
        if t not in self._known:
            raise KeyError(t)
        mask: npt.NDArray[np.bool_] = self._project.object_mask(self._object, t, t + 1)[0]
        return mask

    def __iter__(self) -> Iterator[int]:
        return iter(self._frames)

    def __len__(self) -> int:
        return len(self._frames)


def _shapes(keys: _Keys, frames: range) -> Iterator[Spread]:
    for before, after in itertools.pairwise(keys):
        if after - before > 1 and before < frames.stop and after > frames.start:
            pair = {before: keys[before], after: keys[after]}
            for t, mask in interpolate.interpolate(pair, frames.start, frames.stop):
                yield Spread(t, mask, 1 / (1 + min(t - before, after - t)))


def _copies(keys: _Keys, ends: set[int], frames: range) -> Iterator[Spread]:
    """Repeat the nearest key, not beyond the frames in `ends`."""
    places = np.array(list(keys))
    fixed = np.array(sorted(ends), int)
    nearest, mask = -1, np.zeros((0, 0), bool)
    for t in frames:
        near = int(places[np.argmin(np.abs(places - t))])
        if ((fixed >= min(near, t)) & (fixed <= max(near, t))).any():
            continue
        if near != nearest:
            nearest, mask = near, keys[near]
        yield Spread(t, mask, 1 / (1 + abs(t - near)))
