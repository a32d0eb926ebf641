"""``README.md`` of a split: what is in it, where it comes from, who drew it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from flowrvs import __version__
from flowrvs.data._atomic import WRITTEN_BY
from flowrvs.data._content import ExportResult, Work
from flowrvs.store import Provenance

__all__ = ["datasheet"]

_LISTED = 200


def datasheet(work: Work, result: ExportResult, *, licence: str = "", date: str = "") -> str:
    """Return the datasheet of a split as Markdown.

    Parameters
    ----------
    work : Work
        What was written; it has counted the masks by their provenance.
    result : ExportResult
        Its counts.
    licence : str
        Of the data, as the author states it.
    date : str
        When it was made, as the author states it: nothing here reads a clock, so that the
        same export gives the same bytes.
    """
    sources = work.sources
    texts = [(text, ids) for source in sources for text, ids in source.expressions.values()]
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
    lines = [f"# {work.target.name}", "", f"{WRITTEN_BY} {__version__}.", "", "| | |", "|---|---|"]
    lines += [f"| {key} | {_cell(value)} |" for key, value in rows]
    lines += ["", "## Who drew the masks", ""]
    lines += _provenance(work.shares)
    imported = sorted({Path(p.origin.split).name for s in sources for p in s.projects if p.origin})
    if imported:
        names = ", ".join(map(_cell, imported))
        lines += ["", f"Videos were read from the dataset {names}; its masks count as human."]
    lines += ["", "## Videos", "", "| video | frames | objects | sentences | human |"]
    lines += ["|---|---|---|---|---|"]
    for source in sources[:_LISTED]:
        human = work.human.get(source.name)
        share = "" if human is None else f"{human:.0%}"
        lines.append(
            f"| {_cell(source.name)} | {len(source.frames)} | {len(source.objects)} "
            f"| {len(source.expressions)} | {share} |"
        )
    if len(sources) > _LISTED:
        lines.append(f"| and {len(sources) - _LISTED} more | | | | |")
    if result.notes:
        lines += ["", "## Notes", "", *(f"- {note}" for note in result.notes)]
    return "\n".join(lines) + "\n"


def _provenance(shares: list[int]) -> list[str]:
    total = sum(shares)
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
