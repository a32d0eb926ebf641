"""Clean up, combine and split the masks of an object in a project."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from flowrvs.editing.preview import Preview, check_object, counted
from flowrvs.errors import InputError
from flowrvs.masks import clean as clean_tools
from flowrvs.masks import compose
from flowrvs.masks.propagate import Spread
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock
from flowrvs.records import frame_range
from flowrvs.store import ObjectRecord, Project

__all__ = ["clean", "combine", "split_components"]

Mask = npt.NDArray[np.bool_]

_TOGETHER = 64  # frames that are split at once


def clean(
    project: Project,
    object_id: int,
    start: int = 0,
    stop: int | None = None,
    tool: str = "largest",
    **options: Any,
) -> Preview:
    """Propose cleaned-up masks on a frame, a range or all frames of an object.

    Parameters
    ----------
    project : Project
    object_id : int
    start, stop : int
        The frames; all by default.
    tool : {"largest", "fill", "smooth", "specks"}
        See :mod:`flowrvs.masks.clean`.
    **options
        The tool's: ``largest`` for ``"fill"``, ``radius`` for ``"smooth"``, ``smallest``
        for ``"specks"``.

    Returns
    -------
    Preview
        Holds only frames that change. A person's frames are changed too, and stay theirs.
    """
    if tool not in clean_tools.TOOLS:
        raise InputError(f"Tool {tool!r} is unknown; use one of {', '.join(clean_tools.TOOLS)}.")
    apply = clean_tools.TOOLS[tool]
    try:
        apply(np.zeros((1, 1), bool), **options)
    except TypeError as error:
        raise InputError(f"Tool {tool!r} does not take {', '.join(options)}.") from error
    thing = check_object(project, object_id)
    frames = frame_range(project.video.frame_count, start, stop)

    def work(cancel: CancelToken | None, progress: ProgressCallback | None) -> Iterator[Spread]:
        present = project.present(object_id)
        shown = [t for t in frames if present[t]]
        each = counted(((t, None) for t in shown), len(shown), "cleaning", cancel, progress)
        return _changed(project, object_id, each, lambda old, new: apply(old, **options))

    name = f"{tool} {thing.name!r}, frames {frames.start} to {frames.stop - 1}"
    return Preview(project, object_id, name, work, redraw=True)


def combine(
    project: Project,
    object_id: int,
    masks: Iterable[tuple[int, npt.ArrayLike]],
    rule: compose.Rule = "replace",
) -> Preview:
    """Propose what becomes of an object where new masks meet its own, as after a re-prompt.

    Parameters
    ----------
    project : Project
    object_id : int
    masks : iterable of (frame, mask)
        New masks (H, W); a generator is read when the preview runs.
    rule : {"keep", "replace", "union", "intersect", "subtract"}
        See :func:`flowrvs.masks.compose.combine`.

    Returns
    -------
    Preview
        Holds only frames that change. A person's frames are left as they are.
    """
    thing = check_object(project, object_id)
    compose.combine(np.zeros((1, 1)), np.zeros((1, 1)), rule)

    def work(cancel: CancelToken | None, progress: ProgressCallback | None) -> Iterator[Spread]:
        total = project.video.frame_count
        each = counted(masks, total, "combining", cancel, progress)
        return _changed(project, object_id, each, lambda a, b: compose.combine(a, b, rule))

    return Preview(project, object_id, f"{rule} {thing.name!r}", work)


def split_components(
    project: Project,
    object_id: int,
    start: int = 0,
    stop: int | None = None,
    *,
    smallest: int = 16,
    cancel: CancelToken | None = None,
    progress: ProgressCallback | None = None,
) -> list[ObjectRecord]:
    """Make objects of the connected parts of an object, as one step.

    Parts of neighbouring frames that overlap most are the same object; the one that is
    largest where there are first two keeps the id.

    Parameters
    ----------
    project : Project
    object_id : int
    start, stop : int
        The frames; all by default.
    smallest : int
        Parts of fewer pixels go with the nearest larger one.

    Returns
    -------
    list of ObjectRecord
        The new objects; none if the object never has two parts.
    """
    thing = check_object(project, object_id)
    frames = frame_range(project.video.frame_count, start, stop)
    clock = ProgressClock(len(frames))
    tracks: list[Mask] = []  # each part where it was seen last
    made: list[ObjectRecord] = []
    with project.edit(f"split {thing.name!r}", kind="human"):
        for chunk in frames[::_TOGETHER]:
            end = min(frames.stop, chunk + _TOGETHER)
            parts: dict[int, Mask] = {}
            for t, mask in enumerate(project.object_mask(object_id, chunk, end)):
                if cancel is not None:
                    cancel.raise_if_cancelled()
                for track, found in _follow(tracks, clean_tools.components(mask, smallest)):
                    parts.setdefault(track, np.zeros((end - chunk, *mask.shape), bool))[t] |= found
                if progress is not None:
                    progress(clock.advance("splitting"))
            for track in sorted(parts.keys() - {0}):
                part = project.split_object(object_id, chunk, end, masks=parts[track])
                if track <= len(made):
                    project.merge_objects(made[track - 1].id, part.id)
                else:
                    made.append(part)
    return made


def _follow(tracks: list[Mask], parts: list[Mask]) -> Iterator[tuple[int, Mask]]:
    """Yield which track each part belongs to, and note where the tracks are now."""
    free = set(range(len(tracks)))
    single = len(parts) == 1 and len(tracks) < 2
    for part in parts:
        shared = {i: np.count_nonzero(tracks[i] & part) for i in free}
        best = max(shared, key=lambda i: (shared[i], -i), default=None)
        if best is not None and (shared[best] or single):
            track = best
        elif best is not None and len(tracks) >= len(parts):
            track = min(free, key=lambda i: _center_distance(tracks[i], part))
        else:
            track = len(tracks)
            tracks.append(part)
        free.discard(track)
        tracks[track] = part
        yield track, part


def _center_distance(a: Mask, b: Mask) -> float:
    return float(np.hypot(*(np.argwhere(a).mean(0) - np.argwhere(b).mean(0))))


def _changed(
    project: Project,
    object_id: int,
    masks: Iterable[tuple[int, npt.ArrayLike | None]],
    change: Any,
) -> Iterator[Spread]:
    """Yield what `change` makes of an object's masks, where it makes a difference."""
    for t, new in masks:
        old = project.object_mask(object_id, t, t + 1)[0]
        result = change(old, new)
        if not np.array_equal(old, result):
            yield Spread(t, result, 1.0)
