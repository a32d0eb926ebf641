"""The order in which a person looks at an object's frames: the most doubtful first."""

from __future__ import annotations

from collections.abc import Generator, Mapping

import numpy as np
import numpy.typing as npt

from flowrvs.editing.preview import check_object, counted
from flowrvs.errors import ProjectError
from flowrvs.masks import doubt as measures
from flowrvs.masks.flow import Flows
from flowrvs.progress import CancelToken, ProgressCallback
from flowrvs.records import frame_range
from flowrvs.store import Project, Provenance

__all__ = ["doubt", "quick_doubt", "review_order"]


def quick_doubt(
    project: Project, object_id: int, *, certainty: Mapping[int, float] | None = None
) -> npt.NDArray[np.float32]:
    """Return a first guess of `doubt` for all frames, without looking at a pixel.

    It knows of jumps of the area, of windows that disagreed, of how sure a spread was, and
    that nobody has drawn a frame yet; a hundred thousand frames take a moment.

    Parameters
    ----------
    project : Project
    object_id : int
    certainty : mapping of int to float, optional
        As for `doubt`.

    Returns
    -------
    ndarray of float32, shape (T,)
        0 to 1; 0 for frames that a person drew or checked.
    """
    check_object(project, object_id)
    provenance = project.provenance(object_id)
    spread = np.zeros(len(provenance), np.float32)
    for t, sure in (certainty or {}).items():
        spread[t] = 1 - sure
    areas = project.areas(object_id)
    jumps = measures.area_jumps(areas)
    values = measures.together(
        area=jumps,
        gone=np.where(areas == 0, jumps, 0),
        windows=project.disagreement(object_id, between=True),
        spread=spread,
        gap=measures.gaps(provenance > Provenance.EMPTY),
    )
    values[provenance >= Provenance.HUMAN] = 0
    return values


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
        Of the video. With it a mask is compared with others nearby, moved by optical flow,
        and with the picture; without it only what `quick_doubt` knows and the model's
        confidence (where it was kept) count, which takes a tenth of the time.
    certainty : mapping of int to float, optional
        How sure a spread was of the frames that it drew (`Preview.certainty`), as long as
        they are its.

    Yields
    ------
    frame : int
    doubt : float
        0 to 1; 0 for frames that a person drew or checked.
    """
    total = project.video.frame_count
    frames = frame_range(total, start, stop)
    quick = quick_doubt(project, object_id, certainty=certainty)
    areas, provenance = project.areas(object_id), project.provenance(object_id)
    sure = project.confidence_frames(object_id) & (provenance == Provenance.MODEL)
    layer = project.objects[object_id].layer
    masks: dict[int, npt.NDArray[np.bool_]] = {}
    message = "looking for doubtful frames"
    for t in counted(frames, len(frames), message, cancel, progress):
        near = [t + n for n in (-measures.FAR, -1, 0, 1, measures.FAR) if 0 <= t + n < total]
        found: dict[str, float] = {}
        if provenance[t] < Provenance.HUMAN and (areas[near].any() or sure[t]):
            window = range(t - measures.FAR, t + measures.FAR + 1)
            masks = {n: mask for n, mask in masks.items() if n in window}
            for n in near:
                if n not in masks:
                    masks[n] = project.object_mask(object_id, n, n + 1)[0]
            if sure[t]:
                confidence = _confidence(project, layer, t)
                unsure = None if confidence is None else measures.margin(confidence[0], masks[t])
                if unsure is not None:
                    found["margin"] = unsure
            if flows is not None:
                found["warp"] = measures.warp_disagreement(flows, t, {n: masks[n] for n in near})
                found["edge"] = measures.edge_likeness(flows, t, masks[t])
        value = float(quick[t])
        if found:
            value = 1 - (1 - value) * (1 - float(measures.together(**found)))
        yield t, value


def _confidence(project: Project, layer: int, t: int) -> npt.NDArray[np.uint8] | None:
    """Return the confidence of a frame; damaged is as good as not kept."""
    try:
        return project.confidence(layer, t, t + 1)
    except ProjectError:
        return None


def review_order(
    doubts: npt.ArrayLike, provenance: npt.ArrayLike, apart: int = 5, most: int | None = None
) -> list[int]:
    """Return the frames that no person has checked, most doubtful first.

    Parameters
    ----------
    doubts : array_like of float, shape (T,)
    provenance : array_like of uint8, shape (T,)
        As from `Project.provenance`.
    apart : int
        Frames nearer than this to one in the queue come after all others, as correcting
        that one may correct them; those nearer than this to one that a person has checked
        count as less doubtful.
    most : int, optional
        How many to return; all by default.
    """
    return measures.queue(doubts, np.asarray(provenance) < Provenance.HUMAN, apart, most)
