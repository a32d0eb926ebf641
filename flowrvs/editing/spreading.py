"""Spread what a person drew on some frames of an object to the others."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from flowrvs.editing.preview import Preview, check_object, counted
from flowrvs.errors import InputError
from flowrvs.masks import flow, interpolate
from flowrvs.masks.propagate import Spread, propagate
from flowrvs.progress import CancelToken, ProgressCallback
from flowrvs.records import frame_range
from flowrvs.store import Project, Provenance

if TYPE_CHECKING:
    from flowrvs.video import Video

__all__ = ["Flows", "Method", "copy_to_next", "spread"]

Method = Literal["flow", "shape", "copy"]


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
) -> Preview:
    """Propose masks for the frames around those that a person drew.

    Parameters
    ----------
    project : Project
        Of this video.
    video : Video or None
        Open; ``"shape"`` and ``"copy"`` do without.
    object_id : int
        The object.
    keys : sequence of int, optional
        Frames to spread from, whoever drew them; by default all frames of the object that
        are a person's. A person's other frames end the spread. Frames where the object was
        marked absent end it too.
    start, stop : int
        Frames to propose masks for; frames that a person drew are left as they are.
    method : {"flow", "shape", "copy"}
        ``"flow"`` follows the video's motion and colours (:mod:`flowrvs.masks.propagate`);
        ``"shape"`` draws the shapes between neighbouring frames of a person without looking
        at the video (:mod:`flowrvs.masks.interpolate`); ``"copy"`` repeats the nearest key.
    flows : Flows, optional
        Of the video, to share what other spreads computed.

    Returns
    -------
    Preview
        Not computed yet: `Preview.run` does it.

    Raises
    ------
    ProjectError
        The project is another video's.
    InputError
        There is no key frame, or the range or the method is unknown.
    """
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
