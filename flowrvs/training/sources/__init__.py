"""Training data by kind of source; `open_sources` tells what a path is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flowrvs.errors import DatasetError, MissingPathError
from flowrvs.training.sources.base import Sentence, Source, TrainingVideo
from flowrvs.training.sources.expressions import (
    MevisSource,
    find_meta,
    ref_davis,
    ref_youtube_vos,
)
from flowrvs.training.sources.refcoco import RefCocoSource, find_refcoco

__all__ = ["Sentence", "Source", "TrainingVideo", "open_sources"]


def open_sources(path: str | Path, *, confirmed: bool = True, split: str = "train") -> list[Source]:
    """Open what is at `path` as training data.

    Parameters
    ----------
    path : path-like
        A MeViS, MeViSv2 or Ref-YouTube-VOS split (or the folder that holds ``train``), the
        original Ref-DAVIS17, files or folders of RefCOCO, a project, or a folder of projects.
    confirmed : bool
        Of projects, only frames that a person drew, accepted or locked.
    split : str
        Part of RefCOCO.

    Returns
    -------
    list of Source
        At least one of them with sentences; the others only say what was left out.

    Raises
    ------
    MissingPathError
        Nothing is there.
    DatasetError, ProjectError
        It is none of these, malformed, or holds nothing to train on.
    """
    place = Path(path).expanduser()
    if not place.exists():
        raise MissingPathError(f"No data at {place}; give a split, a project or RefCOCO's folder.")
    found = list(_open(place, confirmed, split))
    if not found:
        raise DatasetError(
            f"{place} is no training data: no meta_expressions.json with masks, no "
            "davis_text_annotations, no refs(*).p or instances_*.json, no *.flowrvs project."
        )
    if not any(source.videos for source in found):
        reasons = {reason for source in found for reason in source.skipped}
        why = f": it has only {', '.join(sorted(reasons))}" if reasons else ""
        raise DatasetError(f"{place} has no sentence that can be trained on{why}.")
    return found


def _open(place: Path, confirmed: bool, split: str) -> Iterator[Source]:
    if place.suffix == ".flowrvs":
        from flowrvs.training.sources.project import ProjectSource

        yield ProjectSource(place, confirmed=confirmed)
        return
    if place.is_file():
        yield from (RefCocoSource(file, split) for file in find_refcoco(place, split))
        return
    projects = sorted(place.glob("*.flowrvs"))
    for folder in (place, place / "train"):
        if find_meta(folder) is None:
            continue
        if projects:
            raise DatasetError(
                f"{place} holds projects and a split; put the projects into a folder of their own, "
                "or give one of them by its path."
            )
        if (folder / "mask_dict.json").is_file():
            yield MevisSource(folder)
        elif (folder / "Annotations").is_dir():
            yield ref_youtube_vos(folder)
        else:
            raise DatasetError(
                f"{folder} has sentences but no masks (mask_dict.json or Annotations): its truth "
                "is not public; train on another split."
            )
        return
    if (place / "davis_text_annotations").is_dir():
        yield ref_davis(place)
        return
    for folder in projects:
        yield from _open(folder, confirmed, split)
    if not projects:
        yield from (RefCocoSource(file, split) for file in find_refcoco(place, split))
