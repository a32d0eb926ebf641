"""The order in which a person looks at an object's frames: the most doubtful first."""

from __future__ import annotations

from collections.abc import Generator, Mapping

import numpy as np
import numpy.typing as npt

from flowrvs.errors import InputError
from flowrvs.masks import doubt as measures
from flowrvs.masks.flow import Flows
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock
from flowrvs.store import Project, Provenance

__all__ = ["doubt", "review_order"]


def doubt(
    project: Project,
    object_id: int,
    start: int = 0,
    stop: int | None = None,
    *,
    flows: Flows | None = None,
    certainty: Mapping[int, float] | None = None,
    cancel: CancelToken | None = None,
    progress: ProgressCallback | None = None,
) -> Generator[tuple[int, float], None, None]:
    """Yield how doubtful an object's mask is on each frame, in order.

    Parameters
    ----------
    project : Project
    object_id : int
    start, stop : int
        The frames; all by default.
    flows : Flows, optional
        Of the video. With it a mask is compared with its neighbours, moved by optical flow;
        without it only the model's confidence (where it was kept) and jumps of the area
        count, which takes a tenth of the time.
    certainty : mapping of int to float, optional
        How sure a spread was of the frames that it drew (`Preview.certainty`). Its masks
        agree with the flow that made them, so that only this tells where it went astray.

    Yields
    ------
    frame : int
    doubt : float
        0 to 1; 0 for frames that a person drew or checked.
    """
    total = project.video.frame_count
    stop = total if stop is None else stop
    if object_id not in project.objects:
        raise InputError(f"There is no object {object_id} in {project.path}.")
    if not 0 <= start < stop <= total:
        raise InputError(f"Frames {start} to {stop} lie outside the {total} frames.")
    areas = project.areas(object_id)
    jumps = measures.area_jumps(areas)
    human = project.provenance(object_id) >= Provenance.HUMAN
    sure = project.confidence_frames(object_id)
    layer = project.objects[object_id].layer
    clock = ProgressClock(stop - start)
    masks: dict[int, npt.NDArray[np.bool_]] = {}
    for t in range(start, stop):
        if cancel is not None:
            cancel.raise_if_cancelled()
        near = [n for n in (t - 1, t, t + 1) if 0 <= n < total]
        value = 0.0
        if not human[t] and (areas[near].any() or sure[t]):
            masks = {
                n: masks[n] if n in masks else project.object_mask(object_id, n, n + 1)[0]
                for n in near
            }
            found = [float(jumps[t])]
            if sure[t]:
                confidence = project.confidence(layer, t, t + 1)
                if confidence is not None:
                    found.append(measures.margin(confidence[0], masks[t]))
            if certainty is not None and t in certainty:
                found.append(1 - certainty[t])
            if flows is not None:
                found.append(measures.warp_disagreement(flows, t, masks))
            value = float(measures.together(*found))
        if progress is not None:
            progress(clock.advance("looking for doubtful frames"))
        yield t, value


def review_order(doubts: npt.ArrayLike, provenance: npt.ArrayLike, apart: int = 5) -> list[int]:
    """Return the frames that no person has checked, most doubtful first.

    Parameters
    ----------
    doubts : array_like of float, shape (T,)
    provenance : array_like of uint8, shape (T,)
        As from `Project.provenance`.
    apart : int
        Frames nearer than this to one in the queue come after all others, as correcting
        that one may correct them.
    """
    return measures.queue(doubts, np.asarray(provenance) < Provenance.HUMAN, apart)
