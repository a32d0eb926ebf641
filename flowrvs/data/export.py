"""Export projects as dataset splits: a walk over their objects and sentences.

A split is written beside its place, checked, and only then given its name.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from flowrvs.data import json_parts
from flowrvs.data.check import check_split
from flowrvs.data.clip import Source, unused
from flowrvs.data.formats import (
    DESCRIPTIONS,
    FORMATS,
    MASKS,
    META,
    may_replace,
    new_split,
    writer,
)
from flowrvs.data.job import ExportResult, Job
from flowrvs.data.mevis_split import MevisSplit
from flowrvs.data.pictures import safe_name
from flowrvs.data.preview import assign, collect, datasheet, parse_shares
from flowrvs.disk import storage_error, write_bytes
from flowrvs.errors import DatasetError, FlowRVSError, InputError, StorageError, counted
from flowrvs.folders import NewFolder, same_tree
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock

if TYPE_CHECKING:
    from flowrvs.store import Project
    from flowrvs.video import Video

__all__ = [
    "DESCRIPTIONS",
    "FORMATS",
    "ExportOptions",
    "ExportResult",
    "Job",
    "append_projects",
    "assign_projects",
    "export_projects",
    "export_splits",
    "parse_shares",
]

Projects = Sequence["Project | str | os.PathLike[str]"]


class ExportOptions(TypedDict, total=False):
    """How an export writes; all of them may be left out.

    Attributes
    ----------
    format : str
        One of `FORMATS`; ``"mevis"`` by default.
    videos : sequence of Video or None
        The frames of each project where they are open already, or where the project was
        made from an array.
    name_as_sentence : bool
        Give an object that no sentence means its name as a sentence.
    annotated_only : bool
        Leave out the frames on which nobody, and no model, has looked for every object.
    overwrite : bool
        Replace a split that is already there. Without it, the very same content is
        accepted and any other is refused.
    quality : int
        JPEG quality, 1 to 100; 95 by default.
    every : int
        Write every n-th frame alone, under the name that it has among all; 1 by default.
    link : bool
        Make hard links of source frames that are JPEG files instead of copies. Whoever
        changes such a file in place then changes both.
    jobs : int or None
        Threads that encode; one a core by default.
    licence, date : str
        For the datasheet, as you state them.
    progress : callable or None
        Called as frames and masks are written.
    cancel : CancelToken or None
        Checked every few frames.
    """

    format: str
    videos: Sequence[Video | None] | None
    name_as_sentence: bool
    annotated_only: bool
    overwrite: bool
    quality: int
    every: int
    link: bool
    jobs: int | None
    licence: str
    date: str
    progress: ProgressCallback | None
    cancel: CancelToken | None


def export_projects(
    projects: Projects,
    to: str | os.PathLike[str],
    *,
    split: str = "train",
    **options: Unpack[ExportOptions],
) -> ExportResult:
    """Write projects as the split ``<to>/<split>``.

    A mask that several sentences mean is stored once; a sentence whose objects have
    no pixel is one without target. Projects of the same video become one video. The
    frames of a folder of JPEG files are copied byte by byte under their own names;
    others are compressed. The split appears whole or not at all.

    Parameters
    ----------
    projects : sequence of Project or path
        Open projects, or folders of projects: those are open only while they are read, so
        that a hundred of them need no more memory than one.
    to : path-like
        The dataset's folder; created when it is not there.
    split : str
        Name of the split: ``train``, ``valid_u``, or another. ``valid`` is written
        without masks in the MeViS format, as MeViS's own is.
    **options
        See `ExportOptions`.

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
    export = Export(**options)
    sources = export.gather(projects, [split], Path(to))
    return export.write({split: sources}, Path(to))[0]


def export_splits(
    projects: Projects,
    to: str | os.PathLike[str],
    shares: Mapping[str, float],
    *,
    seed: int = 0,
    **options: Unpack[ExportOptions],
) -> list[ExportResult]:
    """Write projects as several splits, assigned by video.

    A video is in one split only, however many projects it has. The splits are alike in
    their kinds of video (with sentences for several objects or none, many or few
    sentences, long or short) as far as whole videos allow, and they are the same for the
    same seed whatever order the projects come in. None appears before all are written.

    Parameters
    ----------
    projects, to : optional
        As in `export_projects`.
    shares : mapping of str to float
        Share of the videos by split: ``{"train": 0.8, "valid_u": 0.2}``.
    seed : int
        Of the assignment.
    **options
        See `ExportOptions`.

    Returns
    -------
    list of ExportResult
        Of the splits that got videos.

    Raises
    ------
    FlowRVSError
        As in `export_projects`.
    """
    export = Export(**options)
    sources = export.gather(projects, list(shares), Path(to))
    chosen = assign(sources, shares, seed)
    groups = {split: [s for s in sources if chosen[s.name] == split] for split in shares}
    return export.write({split: found for split, found in groups.items() if found}, Path(to))


def append_projects(
    projects: Projects, split: str | os.PathLike[str], **options: Unpack[ExportOptions]
) -> ExportResult:
    """Add the videos of projects to a MeViS-style split that is there; say what was added.

    What the split holds stays byte for byte as it is; new masks get the next anno_ids, and
    a video whose name is taken gets a number. The datasheet is not written again.

    Parameters
    ----------
    projects : sequence of Project or path
        As in `export_projects`.
    split : path-like
        The split's folder.
    **options
        See `ExportOptions`; the format is MeViS's.

    Raises
    ------
    FlowRVSError
        As in `export_projects`; the split is as it was.
    """
    export = Export(**options)
    return export.append(export.gather(projects, [], None), Path(split))


def assign_projects(
    projects: Projects,
    shares: Mapping[str, float],
    *,
    seed: int = 0,
    videos: Sequence[Video | None] | None = None,
) -> dict[str, str]:
    """Return the split that `export_splits` would put every video into."""
    return assign(Export(videos=videos).gather(projects, list(shares), None), shares, seed)


@dataclass
class Export:
    """An export with its options; see `ExportOptions`."""

    format: str = "mevis"
    videos: Sequence[Video | None] | None = None
    name_as_sentence: bool = False
    annotated_only: bool = False
    overwrite: bool = False
    quality: int = 95
    every: int = 1
    link: bool = False
    jobs: int | None = None
    licence: str = ""
    date: str = ""
    progress: ProgressCallback | None = None
    cancel: CancelToken | None = None

    def gather(self, projects: Projects, splits: Sequence[str], to: Path | None) -> list[Source]:
        """Check what was asked for and arrange the projects into videos."""
        writer(self.format)
        if not 1 <= self.quality <= 100:
            raise InputError(f"The JPEG quality is 1 to 100, not {self.quality}.")
        if self.every < 1:
            raise InputError(f"Every {self.every} frames is impossible; use 1 or more.")
        for split in splits:
            safe_name(split, "split")
        if not projects:
            raise InputError("There is no project to export; give one at least.")
        given = list(self.videos) if self.videos is not None else [None] * len(projects)
        if len(given) != len(projects):
            videos, count = counted(len(given), "video"), counted(len(projects), "project")
            raise InputError(f"{videos} given for {count}.")
        sources = collect(projects, given)
        for source in sources:
            if self.name_as_sentence:
                source.name_silent()
            source.keep_every(self.every)
            if self.annotated_only:
                source.keep_looked_at()
                if not source.frames:
                    raise InputError(
                        f"{source.name} has no frame on which somebody has looked for every object."
                    )
            source.release()
        for split in splits if to is not None else ():
            assert to is not None
            _keep_apart(to / split, sources)
        return sources

    def write(self, groups: Mapping[str, list[Source]], to: Path) -> list[ExportResult]:
        """Write every group beside its place, check it, and give all of them their names."""
        for split, sources in groups.items():
            self._refuse_early(to / split, sources)
        clock = self._clock([source for group in groups.values() for source in group])
        folders: list[NewFolder] = []
        jobs = []
        with contextlib.ExitStack() as stack:
            for split, sources in groups.items():
                for source in sources:
                    stack.callback(source.release)
                folder = new_split(to / split, self.overwrite)
                stack.callback(folder.abort)
                folders.append(folder)
                job = Job(sources, to / split, folder.path, self, clock)
                jobs.append(job)
                with _failing(job.target, folder.path):
                    writer(self.format)(folder.path, job)
                    text = datasheet(job, licence=self.licence, date=self.date)
                    (folder.path / "README.md").write_text(text, encoding="utf-8")
                self._verify(job)
            copies = [(to / place, job.target / name) for job in jobs for place, name in job.beside]
            for copy, _ in copies:  # what is in the way is told before anything gets its name
                with _failing(copy):
                    copy.parent.mkdir(parents=True, exist_ok=True)
            for folder in folders:
                folder.commit()
            for copy, written in copies:
                with _failing(copy):
                    write_bytes(copy, written.read_bytes())
        return [job.result() for job in jobs]

    def _refuse_early(self, target: Path, sources: Sequence[Source]) -> None:
        """Refuse what cannot be replaced before anything is encoded."""
        if not target.is_dir() or next(target.iterdir(), None) is None:
            return
        if self.overwrite:
            may_replace(target, True)
        pictures = target / "JPEGImages"
        there = {path.name for path in pictures.iterdir()} if pictures.is_dir() else None
        wanted = {source.name for source in sources}
        other = self.format != "davis" and there is not None and not wanted <= there
        if self.format == "mevis" and (target / META).is_file():
            videos = MevisSplit.open(target).videos.values()
            there_now = {v.name: {e.exp for e in v.expressions.values()} for v in videos}
            for source in sources:
                known = {text for text, ids in source.sentences.values() if ids is not None}
                other = other or not known <= there_now.get(source.name, set())
        if other and not self.overwrite:
            may_replace(target, False)

    def append(self, sources: list[Source], target: Path) -> ExportResult:
        """Add videos to a MeViS-style split; see `append_projects`."""
        from flowrvs.data.mevis import write_mevis

        if not (target / META).is_file():
            raise DatasetError(f"{target} is no MeViS-style split; export without --append first.")
        truth = (target / MASKS).is_file()
        with contextlib.ExitStack() as stack:
            for source in sources:
                stack.callback(source.release)
            stack.enter_context(json_parts.locked(target))
            taken = {name.casefold() for name in _video_names(target)}
            for source in sources:
                source.name = unused(source.name, taken)
            first = 0
            if truth:
                with json_parts.mapped(target / MASKS) as data:
                    first = json_parts.next_number(m.key for m in json_parts.members(data))
            beside = new_split(target.with_name(f"{target.name}.added"), False)
            stack.callback(beside.abort)
            job = Job(sources, target, beside.path, self, self._clock(sources))
            with _failing(target):
                write_mevis(beside.path, job, first_anno=first, truth=truth)
            self._verify(job)
            folders = [
                (beside.path / "JPEGImages" / name, target / "JPEGImages" / name)
                for name in job.names
            ]
            for new, there in [pair for pair in folders if pair[1].exists()]:
                if not same_tree(new, there):  # else it is what a killed append has moved
                    raise DatasetError(f"{there} is there, but not in the split; remove it first.")
                folders.remove((new, there))
            meta = stack.enter_context(json_parts.mapped(beside.path / META))
            inner = json_parts.member(meta, "videos")
            assert inner is not None
            members = json_parts.members(meta, inner.start)
            masks: Any = None
            if truth:
                data = stack.enter_context(json_parts.mapped(beside.path / MASKS))
                masks = ((m.key, data[m.start : m.stop]) for m in json_parts.members(data))
            with _failing(target):
                (target / "JPEGImages").mkdir(exist_ok=True)
            entries = {m.key: meta[m.start : m.stop] for m in members}
            json_parts.amend(target, new_videos=entries, new_masks=masks, folders=folders)
            return job.result()

    def _clock(self, sources: Sequence[Source]) -> ProgressClock:
        """Return a clock over the frames and masks of all that will be written."""
        return ProgressClock(sum(len(s.frames) * (1 + len(s.objects)) for s in sources))

    def _verify(self, job: Job) -> None:
        """Read what was written before it gets its name."""
        if self.format == "mevis":
            found = check_split(job.folder, cancel=self.cancel)
            errors = [finding for finding in found if finding.severity == "error"]
            if errors:
                raise DatasetError(
                    f"What was written to {job.target} does not pass its own check "
                    f"({errors[0].file}: {errors[0].problem}); nothing was changed, try again."
                )
            return
        for path in job.folder.rglob("*"):
            if path.is_file() and path.stat().st_size == 0 and path.suffix != ".txt":
                raise DatasetError(f"{path.name} came out empty; {job.target} is as it was.")
        for path in job.folder.glob("*.json"):
            try:
                json.loads(path.read_bytes())
            except ValueError:
                raise DatasetError(
                    f"{path.name} came out damaged; {job.target} is as it was."
                ) from None


@contextlib.contextmanager
def _failing(target: Path, hidden: Path | None = None) -> Iterator[None]:
    """Say in words what the disk refuses, of `target` also where its hidden folder is meant."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StorageError) and hidden is not None:
            raise StorageError(str(error).replace(str(hidden), str(target))) from error
        if isinstance(error, FlowRVSError):
            raise
        raise storage_error(error, target) from error


def _video_names(split: Path) -> list[str]:
    with json_parts.mapped(split / META) as data:
        found = json_parts.member(data, "videos")
        if found is None:
            raise DatasetError(f"{split / META} has no 'videos'; run 'flowrvs check'.")
        return [m.key for m in json_parts.members(data, found.start)]


def _keep_apart(target: Path, sources: Sequence[Source]) -> None:
    """Refuse a target that replacing would destroy the sources."""
    place = target.resolve()
    for source in sources:
        kept = [folder.resolve() for folder in source.folders]
        inside = any(folder in place.parents for folder in kept)
        if source.info.path is not None:
            kept.append(Path(source.info.path).resolve())
        if inside or any(place in (s, *s.parents) for s in kept):
            raise InputError(f"{target} would replace what is exported; choose another folder.")
