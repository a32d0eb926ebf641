"""Before an export: the videos of projects, the split of each, and what would be written. After
it: the datasheet, which says what is in a split, where it comes from and who drew it.
"""

from __future__ import annotations

import math
import os
import random
import re
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flowrvs import __version__
from flowrvs.data.check import Finding, check_sentences
from flowrvs.data.clip import Source, unused
from flowrvs.data.formats import LEFT_OUT, META, TABLE, WRITTEN_BY, Format, holds_unknown
from flowrvs.data.origin import Origin
from flowrvs.data.pictures import frame_names, is_safe_name, sorted_and_unique
from flowrvs.errors import InputError, ProjectError
from flowrvs.records import VideoInfo
from flowrvs.store import Provenance

if TYPE_CHECKING:
    from flowrvs.data.job import Job
    from flowrvs.store import Project
    from flowrvs.video import Video

__all__ = [
    "Preview",
    "PreviewRow",
    "assign",
    "assign_kinds",
    "collect",
    "datasheet",
    "parse_shares",
    "preview_export",
    "shortcomings",
]

_LISTED = 200


@dataclass(frozen=True, slots=True)
class PreviewRow:
    """One video of an export.

    Attributes
    ----------
    split, video : str
        Where it goes and how it is called.
    frames, objects, sentences : int
        How many of each would be written.
    without_target : int
        Sentences that mean nothing that is seen.
    human : float
        Share of its masks that a person drew, corrected or accepted, 0 to 1.
    unlooked : int
        Frames on which nobody, and no model, has looked for every object.
    """

    split: str
    video: str
    frames: int
    objects: int
    sentences: int
    without_target: int
    human: float
    unlooked: int = 0


@dataclass(frozen=True, slots=True)
class Preview:
    """What an export would write.

    Attributes
    ----------
    rows : tuple of PreviewRow
        By split, then by video.
    findings : tuple of Finding
        What `check_split` would say of the sentences and objects.
    """

    rows: tuple[PreviewRow, ...]
    findings: tuple[Finding, ...]


def preview_export(
    projects: Sequence[Project | str | os.PathLike[str]],
    *,
    split: str = "train",
    shares: Mapping[str, float] | None = None,
    seed: int = 0,
    format: str = "mevis",
    videos: Sequence[Video | None] | None = None,
    name_as_sentence: bool = False,
    annotated_only: bool = False,
) -> Preview:
    """Return what `export_projects`, or with `shares` `export_splits`, would write.

    Raises
    ------
    FlowRVSError
        As they would.
    """
    sources = collect(projects, list(videos) if videos is not None else [None] * len(projects))
    places = dict.fromkeys((source.name for source in sources), split)
    if shares:
        places = assign(sources, shares, seed)
    rows, findings = [], []
    for source in sources:
        try:
            if name_as_sentence:
                source.name_silent()
            if annotated_only:
                source.keep_looked_at()
            rows.append(_row(source, places[source.name], format))
            findings += list(_findings(source, TABLE[format]))
        finally:
            source.release()
    order = list(shares or (split,))
    rows.sort(key=lambda row: order.index(row.split))
    return Preview(tuple(rows), tuple(findings))


def _row(source: Source, split: str, format: str) -> PreviewRow:
    shares = [0, 0]
    seen = source.seen()
    if TABLE[format].silent == LEFT_OUT:
        meant = source.meant()
        seen = [key for key in seen if key in meant]
    sentences = [
        ids
        for _, ids in source.sentences.values()
        if ids is not None or holds_unknown(format, split)
    ]
    for key in seen:
        human = source.provenance(key)[source.present(key)] >= Provenance.HUMAN
        shares[0] += int(human.sum())
        shares[1] += len(human)
    return PreviewRow(
        split,
        source.name,
        len(source.frames),
        len(seen),
        len(sentences),
        sum(ids is not None and not set(ids) & set(seen) for ids in sentences),
        shares[0] / shares[1] if shares[1] else 0.0,
        int(source.unlooked().sum()),
    )


def _findings(source: Source, about: Format) -> Iterator[Finding]:
    rows = {exp_id: {"exp": text} for exp_id, (text, _) in source.sentences.items()}
    yield from check_sentences(source.name, rows)
    seen = source.seen()
    for key in sorted(source.meant() - set(seen)):
        name = source.objects[key][1].name
        what = f"{name!r} is seen on no frame and is left out"
        remedy = "its sentences become ones without target"
        yield Finding("warning", META, source.name, what, remedy, "never-seen")
    for exp_id, (text, ids) in source.sentences.items():
        if ids is None:
            what = f"nobody has looked for what {text!r} means"
            where = f"{source.name}/{exp_id}"
            yield Finding("warning", META, where, what, "run it, or draw it", "unknown-sentence")
    for code, line, remedy in shortcomings(about, source):
        yield Finding("warning", META, source.name, line, remedy, code)


def shortcomings(about: Format, source: Source) -> Iterator[tuple[str, str, str]]:
    """Yield what of a video a format cannot hold: the fault's name, what it is, what to do."""
    if about.silent:
        for key in source.seen():
            if key not in source.meant():
                what = f"no sentence means {source.objects[key][1].name!r}: it {about.silent}"
                yield "no-sentence", what, "add a sentence, or write its name as one"
    if beyond := source.unlisted():
        yield "not-listed", beyond, "list these frames in the dataset and import it again"
    unlooked = source.unlooked()
    if about.absence != "frame":
        unlooked &= source.looked()
    if about.absence and unlooked.any():
        what = (
            f"on {unlooked.sum()} of {len(unlooked)} frames nobody has looked for every object: "
            "this format can only call it absent"
        )
        yield "not-looked", what, "look at them, or export only the annotated frames"


# -- the videos ------------------------------------------------------------------------


def collect(
    projects: Sequence[Project | str | os.PathLike[str]], videos: Sequence[Video | None]
) -> list[Source]:
    """Arrange projects into videos; projects of one video are merged into it.

    Parameters
    ----------
    projects : sequence of Project or path
    videos : sequence of Video or None
        The frames of each project where somebody else has opened them.

    Raises
    ------
    ProjectError
        A video is not the one that its project was made for, or was an array.
    InputError
        A project is given twice.
    """
    sources: list[Source] = []
    folders: set[Path] = set()
    by_content: dict[tuple[object, ...], Source] = {}
    taken: set[str] = set()
    for given, video in zip(projects, videos, strict=True):
        with _opened(given) as project:
            folder = Path(project.path).resolve()
            if folder in folders:
                raise InputError(f"{project.path} is given twice; its objects would be doubled.")
            folders.add(folder)
            origin = Origin.load(folder)
            info = _video_info(project, video)
            key = (info.fingerprint, info.frame_count, info.height, info.width)
            source = by_content.get(key) if info.fingerprint else None
            if source is None:
                name = unused(_video_name(project, origin), taken)
                frames, positions = _frame_names(info, origin)
                source = Source(name, info, frames, positions, video)
                source.beyond = sorted(set(range(info.frame_count)) - set(positions))
                sources.append(source)
                by_content[key] = source
            source.add(given, project, origin)
    return sources


@contextmanager
def _opened(given: Project | str | os.PathLike[str]) -> Iterator[Project]:
    """Give a project, opened for reading where it is a path."""
    if not isinstance(given, (str, os.PathLike)):
        yield given
        return
    from flowrvs.store import Project

    with Project.open(given, read_only=True) as project:
        yield project


def _video_info(project: Project, given: Video | None) -> VideoInfo:
    from flowrvs.video import open_video

    if given is not None:
        project.check_video(given.info)
        return given.info
    if project.video.path is None:
        raise ProjectError(
            f"{project.path} was made from an array in memory; hand its frames in as well."
        )
    path = Path(project.video.path)
    # A project and its video may have been moved together.
    beside = Path(project.path).parent / path.name
    with open_video(beside if not path.exists() and beside.exists() else path) as video:
        project.check_video(video.info)
        return video.info


def _video_name(project: Project, origin: Origin | None) -> str:
    """Return a folder name for the project's video: its own, made safe."""
    if origin is not None:
        return origin.video
    path = project.video.path
    if path is None:
        name = Path(project.path).stem
    else:
        # A folder's name may hold dots that are no suffix.
        whole = project.video.kind in ("images", "zarr")
        name = Path(path).name if whole else Path(path).stem
    if not is_safe_name(name):
        name = re.sub(r"[\x00-\x1f\x7f/\\:]", "_", name).strip(". ")[:60]
    return name if is_safe_name(name) else "video"


def _frame_names(info: VideoInfo, origin: Origin | None) -> tuple[list[str], list[int]]:
    """Return the names to write and the index of each in the video."""
    native = list(info.frame_names)
    everything = list(range(info.frame_count))
    if origin is not None:
        where = {name: index for index, name in enumerate(native)}
        if origin.frames and all(name in where for name in origin.frames):
            return list(origin.frames), [where[name] for name in origin.frames]
        if len(origin.frames) == info.frame_count:
            return list(origin.frames), everything
    if (
        len(native) == info.frame_count
        and all(is_safe_name(name) for name in native)
        and sorted_and_unique(native)
    ):
        return native, everything
    return frame_names(info.frame_count), everything


# -- the splits ----------------------------------------------------------------------------


def assign(sources: Sequence[Source], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Return the split of every video; see `assign_kinds`."""
    return assign_kinds({source.name: _stratum(source) for source in sources}, shares, seed)


def _stratum(source: Source) -> tuple[Hashable, ...]:
    """Return what videos of one kind share: kinds of sentences, how many, how long."""
    sizes = [len(ids or ()) for _, ids in source.sentences.values()]
    return (
        0 in sizes,
        any(size > 1 for size in sizes),
        math.floor(math.log2(len(sizes) + 1)),
        math.floor(math.log2(len(source.frames) + 1) / 2),
    )


def assign_kinds(
    kinds: Mapping[str, tuple[Hashable, ...]], shares: Mapping[str, float], seed: int
) -> dict[str, str]:
    """Return the split of every video.

    Every split gets its share of all videos, rounded, and at least one while there are
    enough; within each kind of video the shares hold as nearly as whole videos can.

    Parameters
    ----------
    kinds : dict of str to tuple
        The stratum of each video.
    shares : dict of str to float
        By split; they need not add up to 1.
    seed : int
        Equal seeds give equal splits.

    Raises
    ------
    InputError
        A share is negative, or all are zero.
    """
    total = sum(shares.values())
    if not shares or min(shares.values()) < 0 or not 0 < total < math.inf:
        raise InputError("The shares of the splits must be 0 or more, and not all 0: 0.8,0.1,0.1.")
    quota = _quotas({k: v / total for k, v in shares.items()}, len(kinds))
    rng = random.Random(seed)
    mixed = sorted(kinds)
    rng.shuffle(mixed)
    mixed.sort(key=lambda name: repr(kinds[name]))  # stable: mixed within a kind
    done = dict.fromkeys(quota, 0)
    found = {}
    for position, name in enumerate(mixed, start=1):
        # The split that lags most behind its share so far.
        lag = {s: quota[s] * position / len(mixed) - done[s] for s in quota if done[s] < quota[s]}
        chosen = max(lag, key=lambda s: lag[s])
        done[chosen] += 1
        found[name] = chosen
    return found


def parse_shares(text: str, format: str = "mevis") -> dict[str, float]:
    """Return the share of every split that ``--assign`` names.

    Raises
    ------
    InputError
        It is neither two or three numbers nor ``name=share,...``.
    """
    # MeViS's "valid" goes without masks; "valid_u" is the one with them.
    names = ("train", "valid_u" if format == "mevis" else "valid", "test")
    parts = [part.strip() for part in text.split(",")]
    try:
        if all("=" in part for part in parts):
            pairs = [part.rsplit("=", 1) for part in parts]
            return {name.strip(): float(share) for name, share in pairs}
        if 2 <= len(parts) <= 3:
            return dict(zip(names, map(float, parts), strict=False))
    except ValueError:
        pass
    raise InputError(
        f"The shares {text!r} are not understood; write 0.8,0.1,0.1 or train=0.8,valid_u=0.2."
    )


def _quotas(shares: Mapping[str, float], count: int) -> dict[str, int]:
    """Return whole numbers that add up to `count`, by the largest remainder."""
    wanted = [name for name, share in shares.items() if share > 0]
    quota = {name: math.floor(shares[name] * count) for name in wanted}
    rest = sorted(wanted, key=lambda name: quota[name] - shares[name] * count)
    for name in rest[: count - sum(quota.values())]:
        quota[name] += 1
    for name in wanted:
        largest = max(quota, key=lambda key: quota[key])
        if quota[name] == 0 and quota[largest] > 1:
            quota[largest] -= 1
            quota[name] = 1
    return quota


# -- the datasheet -------------------------------------------------------------------------


def datasheet(job: Job, *, licence: str = "", date: str = "") -> str:
    """Return the datasheet of a split as Markdown.

    Parameters
    ----------
    job : Job
        What was written and counted.
    licence : str
        Of the data, as the author states it.
    date : str
        When it was made, as the author states it: nothing here reads a clock, so that the
        same export gives the same bytes.
    """
    sources, result = job.sources, job.result()
    texts = [sentence for row in job.rows for sentence in row.sentences]
    words = [len(text.split()) for text, _ in texts]
    sizes = Counter(f"{s.info.width} x {s.info.height}" for s in sources)
    lengths = [row.frames for row in job.rows]
    none = sum(ids == [] for _, ids in texts)
    several = sum(len(ids or ()) > 1 for _, ids in texts)
    rows = [
        ("format", result.format),
        ("videos", result.videos),
        ("frames", f"{result.frames}, {_range(lengths)} a video"),
        ("frame sizes", ", ".join(f"{size} ({n})" for size, n in sizes.most_common(5)) or "none"),
        ("objects", result.objects),
        ("sentences", f"{result.expressions}, {_range(words)} words each"),
        ("for several objects", several),
        ("without target", none),
        ("licence", licence.strip() or "not stated"),
        ("date", date.strip() or "not stated"),
        ("tool", f"napari-flowrvs {__version__}"),
    ]
    lines = [f"# {job.target.name}", "", f"{WRITTEN_BY} {__version__}.", "", "| | |", "|---|---|"]
    lines += [f"| {key} | {_cell(value)} |" for key, value in rows]
    lines += ["", "## Who drew the masks", ""]
    lines += _provenance(job.shares)
    imported = sorted({Path(o.split).name for s in sources for o in s.origins if o})
    if imported:
        names = ", ".join(map(_cell, imported))
        lines += ["", f"Videos were read from the dataset {names}; its masks count as human."]
    lines += ["", "## Videos", "", "| video | frames | objects | sentences | human |"]
    lines += ["|---|---|---|---|---|"]
    for row in job.rows[:_LISTED]:
        share = "" if row.human is None else f"{row.human:.0%}"
        lines.append(
            f"| {_cell(row.name)} | {row.frames} | {row.objects} | {len(row.sentences)} | {share} |"
        )
    if len(sources) > _LISTED:
        lines.append(f"| and {len(sources) - _LISTED} more | | | | |")
    if result.notes:
        lines += ["", "## Notes", "", *(f"- {note}" for note in result.notes)]
    return "\n".join(lines) + "\n"


def _provenance(shares: npt.NDArray[np.int_]) -> list[str]:
    total = int(shares.sum())
    if not total:
        return ["There are no masks."]
    human = shares[Provenance.HUMAN] + shares[Provenance.LOCKED]
    return [
        f"Of {total} masks (one an object and frame it is seen on), {human / total:.1%} were "
        f"drawn, corrected or accepted by a person and {1 - human / total:.1%} are a model's "
        "as it gave them."
    ]


def _range(values: list[int]) -> str:
    if not values:
        return "0"
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
