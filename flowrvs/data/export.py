"""Export projects as dataset splits: a walk over their objects and sentences."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowrvs.data import _spans
from flowrvs.data._assign import assign, stratum
from flowrvs.data._atomic import AtomicFolder
from flowrvs.data._content import ExportResult, Work, clock_for
from flowrvs.data._formats import DESCRIPTIONS, WRITERS, write_mevis
from flowrvs.data._merge import MASKS, META, amend
from flowrvs.data._sources import Source, unused
from flowrvs.data._writing import Options, Projects, gather, release, told, verify, write_splits
from flowrvs.errors import DatasetError
from flowrvs.progress import CancelToken, ProgressCallback

if TYPE_CHECKING:
    from flowrvs.video import Video

__all__ = [
    "DESCRIPTIONS",
    "FORMATS",
    "ExportResult",
    "append_projects",
    "assign_projects",
    "export_projects",
    "export_splits",
]

FORMATS = tuple(WRITERS)
"""Formats that :func:`export_projects` writes."""


def export_projects(
    projects: Projects,
    to: str | os.PathLike[str],
    *,
    format: str = "mevis",
    split: str = "train",
    videos: Sequence[Video | None] | None = None,
    overwrite: bool = False,
    quality: int = 95,
    link: bool = False,
    jobs: int | None = None,
    licence: str = "",
    date: str = "",
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> ExportResult:
    """Write projects as the split ``<to>/<split>``.

    A mask that several sentences mean is stored once; a sentence whose objects have
    no pixel is one without target. Projects of the same video become one video. The
    frames of a folder of JPEG files are copied byte by byte under their own names;
    others are compressed. The split is written beside its place, checked, and only then
    given its name: it appears whole or not at all.

    Parameters
    ----------
    projects : sequence of Project or path
        Open projects, or folders of projects: those are open only while they are read, so
        that a hundred of them need no more memory than one.
    to : path-like
        The dataset's folder; created when it is not there.
    format : str
        One of `FORMATS`.
    split : str
        Name of the split: ``train``, ``valid_u``, or another. ``valid`` is written
        without masks in the MeViS format, as MeViS's own is.
    videos : sequence of Video or None, optional
        The frames of each project where they are open already, or where the project
        was made from an array.
    overwrite : bool
        Replace a split that is already there. Without it, the very same content is
        accepted and any other is refused.
    quality : int
        JPEG quality, 1 to 100.
    link : bool
        Make hard links of source frames that are JPEG files instead of copies. Whoever
        changes such a file in place then changes both.
    jobs : int, optional
        Threads that encode; one a core by default.
    licence, date : str
        For the datasheet, as you state them.
    progress : callable, optional
        Called as frames and masks are written.
    cancel : CancelToken, optional
        Checked every few frames.

    Returns
    -------
    ExportResult

    Raises
    ------
    InputError
        The format, the quality or the split's name is unusable, or there is nothing
        to export.
    DatasetError
        Another split is there, or something does not fit together.
    ProjectError
        A project's video is another one now.
    MissingPathError, VideoError
        A project's video is not there any more, or cannot be read.
    StorageError
        The disk is full, read-only or failing.
    Cancelled
        `cancel` was set; nothing was written.
    """
    sources = gather(projects, videos, to, [split], format, quality)
    options = Options(
        format, overwrite, quality, link, jobs, licence, date, progress=progress, cancel=cancel
    )
    (result,) = write_splits({split: sources}, to, options)
    return result


def export_splits(
    projects: Projects,
    to: str | os.PathLike[str],
    shares: Mapping[str, float],
    *,
    seed: int = 0,
    format: str = "mevis",
    videos: Sequence[Video | None] | None = None,
    overwrite: bool = False,
    quality: int = 95,
    link: bool = False,
    jobs: int | None = None,
    licence: str = "",
    date: str = "",
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> list[ExportResult]:
    """Write projects as several splits, assigned by video.

    A video is in one split only, however many projects it has. The splits are alike in
    their kinds of video (with sentences for several objects or none, many or few
    sentences, long or short) as far as whole videos allow, and they are the same for the
    same seed whatever order the projects come in. None appears before all are written.

    Parameters
    ----------
    projects, to, format, videos, overwrite, quality, link, jobs, licence, date, progress, cancel
        As in `export_projects`.
    shares : mapping of str to float
        Share of the videos by split: ``{"train": 0.8, "valid_u": 0.2}``.
    seed : int
        Of the assignment.

    Returns
    -------
    list of ExportResult
        Of the splits that got videos.

    Raises
    ------
    FlowRVSError
        As in `export_projects`.
    """
    sources = gather(projects, videos, to, list(shares), format, quality)
    chosen = _assigned(sources, shares, seed)
    groups = {s: [x for x in sources if chosen[x.name] == s] for s in shares}
    groups = {split: found for split, found in groups.items() if found}
    options = Options(
        format, overwrite, quality, link, jobs, licence, date, progress=progress, cancel=cancel
    )
    return write_splits(groups, to, options)


def assign_projects(
    projects: Projects,
    shares: Mapping[str, float],
    *,
    seed: int = 0,
    videos: Sequence[Video | None] | None = None,
) -> dict[str, str]:
    """Return the split that `export_splits` would put every video into."""
    return _assigned(gather(projects, videos, None, list(shares), "mevis", 95), shares, seed)


def append_projects(
    projects: Projects,
    split: str | os.PathLike[str],
    *,
    videos: Sequence[Video | None] | None = None,
    quality: int = 95,
    link: bool = False,
    jobs: int | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> ExportResult:
    """Add the videos of projects to a MeViS-style split that is there.

    What the split holds stays byte for byte as it is; new masks get the next anno_ids, and
    a video whose name is taken gets a number. The datasheet is not written again.

    Parameters
    ----------
    projects, videos, quality, link, jobs, progress, cancel
        As in `export_projects`.
    split : path-like
        The split's folder.

    Returns
    -------
    ExportResult
        Of what was added.

    Raises
    ------
    FlowRVSError
        As in `export_projects`; the split is as it was.
    """
    target = Path(split)
    if not (target / META).is_file():
        raise DatasetError(f"{target} is no MeViS-style split; export without --append first.")
    truth = (target / MASKS).is_file()
    sources = gather(projects, videos, None, [target.name], "mevis", quality)
    with _spans.mapped(target / META) as data:
        found = _spans.member(data, "videos")
        if found is None:
            raise DatasetError(f"{target / META} has no 'videos'; run 'flowrvs check'.")
        names = [m.key for m in _spans.members(data, found.start)]
    taken = {name.casefold() for name in names}
    for source in sources:
        source.name = unused(source.name, taken)
    first = 0
    if truth:
        with _spans.mapped(target / MASKS) as data:
            used = (int(m.key) for m in _spans.members(data) if m.key.isdecimal())
            first = max(used, default=-1) + 1
    beside = target.with_name(f"{target.name}.added")
    with contextlib.ExitStack() as stack:
        atomic = AtomicFolder(beside)
        stack.callback(atomic.abort)
        stack.callback(release, sources)
        work = Work(
            sources,
            target,
            clock_for(sources),
            quality=quality,
            link=link,
            jobs=jobs,
            progress=progress,
            cancel=cancel,
        )
        try:
            write_mevis(atomic.path, work, first_anno=first, truth=truth)
        except OSError as error:
            raise told(error, target) from error
        verify(atomic.path, "mevis", target, cancel)
        with contextlib.ExitStack() as files:
            meta = files.enter_context(_spans.mapped(atomic.path / META))
            inner = _spans.member(meta, "videos")
            assert inner is not None
            entries = {m.key: meta[m.start : m.stop] for m in _spans.members(meta, inner.start)}
            masks: Any = ()
            if truth:
                data = files.enter_context(_spans.mapped(atomic.path / MASKS))
                masks = ((m.key, data[m.start : m.stop]) for m in _spans.members(data))
            (target / "JPEGImages").mkdir(exist_ok=True)
            folders = [
                (atomic.path / "JPEGImages" / s.name, target / "JPEGImages" / s.name)
                for s in sources
            ]
            stray = [new for _, new in folders if new.exists()]
            if stray:
                raise DatasetError(f"{stray[0]} is there, but not in the split; remove it first.")
            amend(target, new_videos=entries, new_masks=masks, folders=folders)
        return work.result("mevis")


def _assigned(sources: Sequence[Source], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    return assign({source.name: stratum(source) for source in sources}, shares, seed)
