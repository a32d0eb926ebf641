"""Before an export: which split each video goes to, and what would be written. After it: the
datasheet, which says what is in a split, where it comes from and who drew it.
"""

from __future__ import annotations

import math
import os
import random
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flowrvs import __version__
from flowrvs.data.check import Finding, check_sentences
from flowrvs.data.clip import Source, collect
from flowrvs.data.formats import META, WRITTEN_BY
from flowrvs.errors import InputError
from flowrvs.store import Provenance

if TYPE_CHECKING:
    from flowrvs.data.export import Job
    from flowrvs.store import Project
    from flowrvs.video import Video

__all__ = [
    "Preview",
    "PreviewRow",
    "assign",
    "assign_kinds",
    "datasheet",
    "parse_shares",
    "preview_export",
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
        How many of each.
    without_target : int
        Sentences that mean nothing that is seen.
    human : float
        Share of its masks that a person drew, corrected or accepted, 0 to 1.
    """

    split: str
    video: str
    frames: int
    objects: int
    sentences: int
    without_target: int
    human: float


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
    videos: Sequence[Video | None] | None = None,
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
            rows.append(_row(source, places[source.name]))
            findings += list(_findings(source))
        finally:
            source.release()
    order = list(shares or (split,))
    rows.sort(key=lambda row: order.index(row.split))
    return Preview(tuple(rows), tuple(findings))


def _row(source: Source, split: str) -> PreviewRow:
    shares = [0, 0]
    seen = {key for key in source.objects if source.present(key).any()}
    for key in seen:
        human = source.provenance(key)[source.present(key)] >= Provenance.HUMAN
        shares[0] += int(human.sum())
        shares[1] += len(human)
    return PreviewRow(
        split,
        source.name,
        len(source.frames),
        len(seen),
        len(source.sentences),
        sum(not set(ids) & seen for _, ids in source.sentences.values()),
        shares[0] / shares[1] if shares[1] else 0.0,
    )


def _findings(source: Source) -> Iterator[Finding]:
    rows = {exp_id: {"exp": text} for exp_id, (text, _) in source.sentences.items()}
    yield from check_sentences(source.name, rows)
    meant = {key for _, ids in source.sentences.values() for key in ids}
    for key in sorted(meant):
        if not source.present(key).any():
            name = source.objects[key][1].name
            what = f"{name!r} is seen on no frame and is left out"
            remedy = "its sentences become ones without target"
            yield Finding("warning", META, source.name, what, remedy, "never-seen")


# -- the splits ----------------------------------------------------------------------------


def assign(sources: Sequence[Source], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Return the split of every video; see `assign_kinds`."""
    return assign_kinds({source.name: _stratum(source) for source in sources}, shares, seed)


def _stratum(source: Source) -> tuple[Hashable, ...]:
    """Return what videos of one kind share: kinds of sentences, how many, how long."""
    sizes = [len(ids) for _, ids in source.sentences.values()]
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
    texts = [row for source in sources for row in source.sentences.values()]
    words = [len(text.split()) for text, _ in texts]
    sizes = Counter(f"{s.info.width} x {s.info.height}" for s in sources)
    lengths = [len(source.frames) for source in sources]
    none = sum(not ids for _, ids in texts)
    several = sum(len(ids) > 1 for _, ids in texts)
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
    for source in sources[:_LISTED]:
        human = job.human.get(source.name)
        share = "" if human is None else f"{human:.0%}"
        lines.append(
            f"| {_cell(source.name)} | {len(source.frames)} | {len(source.objects)} "
            f"| {len(source.sentences)} | {share} |"
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
