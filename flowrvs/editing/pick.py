"""Pick an object on a frame of a project by marks: points, a box, scribbles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from flowrvs.editing.trackers import Encodings, TrackerPicker
from flowrvs.errors import InputError
from flowrvs.masks.compose import combine
from flowrvs.masks.flow import Flows, Region, sample
from flowrvs.masks.pick import ColorCounts, Mark, Picker
from flowrvs.store import ObjectRecord, Project, Provenance

if TYPE_CHECKING:
    from flowrvs.video import Video

__all__ = ["Mark", "Picker", "TrackerPicker", "find_object", "keep_pick", "open_picker"]

PickRule = Literal["replace", "union", "subtract"]

_REACH = 8  # frames to each side from which colours are taken
_NEAR = 2  # frames from which the place is taken, too
_WIDTH = 400  # working pixels across for flow: what moves, not how exactly


def open_picker(
    project: Project | None,
    video: Video,
    t: int,
    object_id: int | None = None,
    *,
    flows: Flows | None = None,
    choose: bool = False,
    inside_box: bool = False,
    start: npt.ArrayLike | None = None,
    encodings: Encodings | None = None,
) -> Picker | TrackerPicker:
    """Return a picker for a frame that knows what the project knows of the object there.

    An object that is on the frame is mended; where a model drew it there, a first "this" on
    another thing, apart from it, gives its mask up. Of one that is not, the colours on neighbouring
    frames are used, and its place if it is on the next ones. What moves is seen from the
    flow to the next frame. Reading and computing takes a moment; adding marks is quick.

    Parameters
    ----------
    project : Project or None
        Only needed with an object.
    video : Video
    t : int
        The frame.
    object_id : int, optional
        An object of the project; without one the marks alone say what is meant.
    flows : Flows, optional
        Of the video, to share what a spread has computed.
    choose : bool
        The first clicks choose among the connected parts that the object has here.
    inside_box : bool
        See `Picker`.
    start : array_like of bool, shape (H, W), optional
        What is mended, instead of what the project knows.
    encodings : Encodings, optional
        Of a tracker, which picks then; without it nothing needs weights.

    Raises
    ------
    InputError
        There is no such frame or object.
    """
    if not 0 <= t < len(video):
        raise InputError(f"There is no frame {t}; the video has frames 0 to {len(video) - 1}.")
    flows = flows or _flows(video)
    known, colors = None, None
    if object_id is not None:
        if project is None or object_id not in project.objects:
            where = "without a project" if project is None else f"in {project.path}"
            raise InputError(f"There is no object {object_id} {where}.")
        known, colors = _known(project, video, t, object_id, flows)
    doubtful = start is None and known is not None and _is_models(project, object_id, t)
    start = known if start is None else start
    if encodings is not None:
        return TrackerPicker(
            encodings,
            (video, t),
            lambda: video.read(t, t + 1)[0],
            (video.info.height, video.info.width),
            start=start,
            choose=choose,
            inside_box=inside_box,
        )
    return Picker(
        video.read(t, t + 1)[0],
        start=start,
        flow=_flow(flows, t, t + 1 if t + 1 < len(video) else t - 1),
        colors=colors,
        choose=choose,
        inside_box=inside_box,
        doubtful=doubtful,
    )


def keep_pick(
    project: Project,
    t: int,
    mask: npt.ArrayLike,
    object_id: int,
    rule: PickRule = "replace",
    *,
    tool: str = "",
) -> bool:
    """Write a picked mask as a person's step, which can be undone.

    Parameters
    ----------
    project : Project
    t : int
        The frame.
    mask : array_like of bool, shape (H, W)
    object_id : int
        The object. As under a brush, pixels of others in its layer become this one's.
    rule : {"replace", "union", "subtract"}
        What becomes of the object's own mask there.
    tool : str
        What has picked, for the name of the step: that of a tracker.

    Returns
    -------
    bool
        Whether the frame was written: a locked one is left as it is.
    """
    if object_id not in project.objects:
        raise InputError(f"There is no object {object_id} in {project.path}.")
    old = project.object_mask(object_id, t, t + 1)[0]
    new = combine(old, mask, rule)
    by = f" with {tool}" if tool else ""
    with project.edit(f"pick {project.objects[object_id].name!r}{by}, frame {t}", kind="human"):
        done = project.write_masks(
            object_id, t, new[None], provenance=Provenance.HUMAN, overwrite="human"
        )
    return bool(done[0])


def find_object(
    project: Project, text: str, t: int, marks: tuple[Mark, ...]
) -> ObjectRecord | None:
    """Return the object of a sentence that marks on a frame mean, None if it has none yet.

    Of several the one under most of the marks that say "this" is meant; without such the only
    one that is on the frame.

    Raises
    ------
    InputError
        It is not clear which.
    """
    words = text.split()
    found = [e for e in project.expressions.values() if e.text.split() == words]
    ids = sorted({i for e in found for i in e.object_ids})
    if len(ids) > 1:
        masks = {i: project.object_mask(i, t, t + 1)[0] for i in ids}
        points = [p for m in marks if m.kind != "box" and m.positive for p in m.points]
        hits = {i: sum(masks[i][int(y), int(x)] for x, y in points) for i in ids}
        best = max(hits.values())
        ids = [i for i in ids if hits[i] == best and (best or masks[i].any())]
        if len(ids) != 1:
            raise InputError(
                f"{text!r} means several objects, and the marks do not say which; name it by "
                "its number."
            )
    return project.objects[ids[0]] if ids else None


def _is_models(project: Project | None, object_id: int | None, t: int) -> bool:
    if project is None or object_id is None:
        return False
    return bool(project.provenance(object_id)[t] == Provenance.MODEL)


def _flows(video: Video) -> Flows:
    shape = (len(video), video.info.height, video.info.width)
    return Flows(lambda t: video.read(t, t + 1)[0], shape, cache_bytes=64 * 2**20)


def _flow(flows: Flows, t: int, other: int) -> npt.NDArray[np.float32] | None:
    if not 0 <= other < flows.shape[0]:
        return None
    return flows.between(t, other, _region(flows))


def _region(flows: Flows) -> Region:
    step = max(1, flows.shape[2] // _WIDTH)
    return Region(0, max(1, flows.shape[1] // step), 0, max(1, flows.shape[2] // step), step)


def _known(
    project: Project, video: Video, t: int, object_id: int, flows: Flows
) -> tuple[npt.NDArray[np.bool_] | None, ColorCounts | None]:
    """Return where an object is believed to be, and its colours on frames nearby."""
    own = project.object_mask(object_id, t, t + 1)[0]
    drawn = np.flatnonzero(project.present(object_id))
    near = sorted((abs(int(n) - t), int(n)) for n in drawn if 0 < abs(n - t) <= _REACH)
    counts = [
        ColorCounts.of(video.read(n, n + 1)[0], project.object_mask(object_id, n, n + 1)[0])
        for _, n in near[:2]
    ]
    colors = ColorCounts.together([c for c in counts if c is not None])
    if own.any():
        return own, colors
    if near and near[0][0] <= _NEAR:
        n = near[0][1]
        flow = flows.between(t, n, _region(flows))
        return _moved(project.object_mask(object_id, n, n + 1)[0], flow), colors
    return None, colors


def _moved(mask: npt.NDArray[np.bool_], flow: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Return a mask of the other frame where the flow sees it here."""
    rows, columns = np.indices(mask.shape, dtype=np.float32)
    step = mask.shape[0] / flow.shape[0], mask.shape[1] / flow.shape[1]
    at = sample(flow, rows / step[0], columns / step[1])
    moved = sample(
        mask.astype(np.float32), rows + at[..., 0] * step[0], columns + at[..., 1] * step[1]
    )
    return moved > 0.5
