"""Offer to link a sentence to objects that exist, instead of keeping a copy of them."""

from __future__ import annotations

import numpy as np

from flowrvs.editing.preview import check_object, counted
from flowrvs.errors import InputError
from flowrvs.masks.match import Match, Overlaps
from flowrvs.progress import CancelToken, ProgressCallback
from flowrvs.store import Project

__all__ = ["accept_link", "link_offer"]


def link_offer(
    project: Project,
    object_id: int,
    threshold: float = 0.8,
    *,
    most: int = 240,
    cancel: CancelToken | None = None,
    progress: ProgressCallback | None = None,
) -> Match | None:
    """Return the objects that an object coincides with, one or several together.

    Parameters
    ----------
    project : Project
    object_id : int
        The object that may be superfluous, as a prompt has just made it.
    threshold : float
        IoU over all frames from which on it is.
    most : int
        Look at this many frames at most, evenly spread over those with any object.

    Returns
    -------
    Match or None
        Ids and IoU; None if nothing coincides.
    """
    check_object(project, object_id)
    present = {i: project.present(i) for i in project.objects}
    own = present.pop(object_id)
    others = {i: there for i, there in present.items() if (there & own).any()}
    if not others:
        return None
    frames = np.flatnonzero(np.logical_or.reduce([own, *others.values()]))
    if len(frames) > most:
        frames = frames[np.linspace(0, len(frames) - 1, most).astype(int)]
    overlaps = Overlaps()
    message = "comparing with other objects"
    for t in counted(frames.tolist(), len(frames), message, cancel, progress):
        drawn = {i: project.object_mask(i, t, t + 1)[0] for i, there in others.items() if there[t]}
        overlaps.add(project.object_mask(object_id, t, t + 1)[0], drawn)
    return overlaps.best(threshold)


def accept_link(project: Project, object_id: int, match: Match) -> None:
    """Let every sentence that means an object mean the matching ones, and remove it.

    One step; its masks come back with an undo.
    """
    if object_id in match.object_ids or object_id not in project.objects:
        raise InputError(f"Object {object_id} cannot be linked to objects {match.object_ids}.")
    name = project.objects[object_id].name
    with project.edit(f"link {name!r}", kind="human"):
        for exp_id, expression in project.expressions.items():
            if object_id in expression.object_ids:
                meant = (expression.object_ids - {object_id}) | set(match.object_ids)
                project.set_expression_objects(exp_id, meant)
        project.remove_object(object_id)
