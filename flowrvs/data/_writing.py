"""Writing splits beside their place, checked before they get their names."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flowrvs.data._atomic import AtomicFolder, write_atomic
from flowrvs.data._content import ExportResult, Work, clock_for
from flowrvs.data._datasheet import datasheet
from flowrvs.data._formats import WRITERS
from flowrvs.data._merge import META
from flowrvs.data._names import safe_name
from flowrvs.data._sources import Source, collect
from flowrvs.data.check import check_split
from flowrvs.disk import storage_error
from flowrvs.errors import DatasetError, FlowRVSError, InputError
from flowrvs.progress import CancelToken, ProgressCallback

if TYPE_CHECKING:
    from flowrvs.store import Project
    from flowrvs.video import Video

__all__ = ["Options", "Projects", "gather", "release", "told", "verify", "write_splits"]

Projects = Sequence["Project | str | os.PathLike[str]"]


@dataclass(frozen=True, slots=True)
class Options:
    """How an export writes; see ``export_projects``."""

    format: str = "mevis"
    overwrite: bool = False
    quality: int = 95
    link: bool = False
    jobs: int | None = None
    licence: str = ""
    date: str = ""
    progress: ProgressCallback | None = None
    cancel: CancelToken | None = None


def gather(
    projects: Projects,
    videos: Sequence[Video | None] | None,
    to: str | os.PathLike[str] | None,
    splits: Sequence[str],
    format: str,
    quality: int,
) -> list[Source]:
    """Check what was asked for and arrange the projects into videos."""
    if format not in WRITERS:
        raise InputError(f"There is no format {format!r}; choose one of {', '.join(WRITERS)}.")
    if not 1 <= quality <= 100:
        raise InputError(f"The JPEG quality is 1 to 100, not {quality}.")
    for split in splits:
        safe_name(split, "split")
    if not projects:
        raise InputError("There is no project to export; give one at least.")
    given = list(videos) if videos is not None else [None] * len(projects)
    if len(given) != len(projects):
        raise InputError(f"{len(given)} videos were given for {len(projects)} projects.")
    sources = collect(projects, given)
    if to is not None:
        for split in splits:
            _keep_apart(Path(to) / split, sources)
    return sources


def write_splits(
    groups: Mapping[str, list[Source]], to: str | os.PathLike[str], options: Options
) -> list[ExportResult]:
    """Write every group beside its place, check it, and give all of them their names."""
    clock = clock_for([source for group in groups.values() for source in group])
    folders: list[AtomicFolder] = []
    results = []
    with contextlib.ExitStack() as stack:
        for split, sources in groups.items():
            target = Path(to) / split
            stack.callback(release, sources)
            folder = AtomicFolder(target, overwrite=options.overwrite)
            stack.callback(folder.abort)
            folders.append(folder)
            work = Work(
                sources,
                target,
                clock,
                quality=options.quality,
                link=options.link,
                jobs=options.jobs,
                progress=options.progress,
                cancel=options.cancel,
            )
            try:
                WRITERS[options.format](folder.path, work)
                result = work.result(options.format)
                text = datasheet(work, result, licence=options.licence, date=options.date)
                (folder.path / "README.md").write_text(text, encoding="utf-8")
            except OSError as error:
                raise told(error, target) from error
            verify(folder.path, options.format, target, options.cancel)
            results.append(result)
        for folder in folders:
            folder.commit()
        if options.format in ("ytvos", "refdavis"):
            # Where the loaders of these formats look for the sentences.
            for folder in folders:
                copy = Path(to) / "meta_expressions" / folder.target.name / META
                try:
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    write_atomic(copy, (folder.target / META).read_bytes())
                except OSError as error:
                    raise told(error, copy) from error
    return results


def told(error: OSError, target: Path) -> FlowRVSError:
    """Return what to raise for a failed write."""
    # Errors of the exception tree, some of which are OSErrors too, say more.
    return error if isinstance(error, FlowRVSError) else storage_error(error, target)


def verify(folder: Path, format: str, target: Path, cancel: CancelToken | None) -> None:
    """Read what was written before it gets its name."""
    if format == "mevis":
        errors = [f for f in check_split(folder, cancel=cancel) if f.severity == "error"]
        if errors:
            raise DatasetError(
                f"What was written to {target} does not pass its own check "
                f"({errors[0].file}: {errors[0].problem}); nothing was changed, try again."
            )
        return
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size == 0 and path.suffix != ".txt":
            raise DatasetError(f"{path.name} of {target} came out empty; nothing was changed.")
    for path in folder.glob("*.json"):
        json.loads(path.read_bytes())


def release(sources: Sequence[Source]) -> None:
    """Close the videos and projects that were opened for the export."""
    for source in sources:
        source.release()


def _keep_apart(target: Path, sources: Sequence[Source]) -> None:
    """Refuse a target that replacing would destroy the sources."""
    place = target.resolve()
    for source in sources:
        kept = [known.path.resolve() for known in source.projects]
        inside = any(folder in place.parents for folder in kept)
        if source.info.path is not None:
            kept.append(Path(source.info.path).resolve())
        if inside or any(place in (s, *s.parents) for s in kept):
            raise InputError(
                f"{target} would replace or lie in what is being exported; choose another folder."
            )
