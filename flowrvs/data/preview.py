"""What an export would write, and what the linter would say of it, before it is written."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowrvs.data._assign import assign, stratum
from flowrvs.data._faults import Finding
from flowrvs.data._sources import Source, collect
from flowrvs.data.check import META, check_sentences

if TYPE_CHECKING:
    from flowrvs.store import Project
    from flowrvs.video import Video

__all__ = ["Preview", "PreviewRow", "preview_export"]


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
        places = assign({source.name: stratum(source) for source in sources}, shares, seed)
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
    seen = _seen(source)
    shares = [0, 0]
    for key in seen:
        known, inner = source.objects[key]
        present = known.project.present(inner)[source.positions]
        human = source.provenance(key)[present] >= 2
        shares[0] += int(human.sum())
        shares[1] += int(present.sum())
    without = sum(not set(ids) & seen for _, ids in source.expressions.values())
    return PreviewRow(
        split,
        source.name,
        len(source.frames),
        len(seen),
        len(source.expressions),
        without,
        shares[0] / shares[1] if shares[1] else 0.0,
    )


def _seen(source: Source) -> set[int]:
    found = set()
    for key, (known, inner) in source.objects.items():
        if known.project.present(inner)[source.positions].any():
            found.add(key)
    return found


def _findings(source: Source) -> Iterator[Finding]:
    rows = {exp_id: {"exp": text} for exp_id, (text, _) in source.expressions.items()}
    yield from check_sentences(source.name, rows)
    for key in sorted(set(source.objects) - _seen(source)):
        what = f"{source.object_name(key)!r} is seen on no frame and is left out"
        remedy = "its sentences become ones without target"
        yield Finding("warning", META, source.name, what, remedy, "never-seen")
