"""Scores as plain text for a terminal of 80 columns."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

from flowrvs.evaluation.scores import THRESHOLDS, Scores

__all__ = ["format_scores"]

_NAME = 34


def format_scores(
    scores: Scores, worst: int = 5, text: Callable[[str, str], str] | None = None
) -> str:
    """Return the scores as aligned text.

    Parameters
    ----------
    scores : Scores
    worst : int
        How many of the lowest videos and expressions to list.
    text : callable of (video, exp_id), optional
        Gives an expression's sentence, which then stands under its numbers.
    """
    lines = [
        f"J        {scores.j:.4f}",
        f"F        {scores.f:.4f}",
        f"J&F      {scores.j_and_f:.4f}",
        f"coverage {scores.coverage:.4f}   ({len(scores.expressions)} expressions, "
        f"{len(scores.videos)} videos)",
    ]
    lacking = sum(e.found < e.frames for e in scores.expressions)
    if lacking:
        what = "expression lacks" if lacking == 1 else "expressions lack"
        lines.append(f"{lacking} {what} pictures; missing ones score 0.")
    lines += ["", *_rates(scores), "", *_precision(scores)]
    videos = sorted(scores.videos, key=lambda v: v.j_and_f)[: max(worst, 0)]
    if videos and len(scores.videos) > 1:
        rows = [
            [v.video, f"{v.expressions}", *_three(v.j_and_f, v.j, v.f), f"{v.coverage:.3f}"]
            for v in videos
        ]
        title = "video" if len(videos) == len(scores.videos) else "lowest videos"
        lines += ["", *_table([title, "expr.", "J&F", "J", "F", "coverage"], rows)]
    lowest = scores.worst(worst)
    if lowest:
        rows = [
            [
                f"{e.video}/{e.exp_id}",
                *_three(e.j_and_f, e.j, e.f),
                _number(e.decay),
                _number(e.dtssd),
            ]
            for e in lowest
        ]
        table = _table(["lowest expressions", "J&F", "J", "F", "decay", "dtSSD"], rows)
        lines += ["", table[0]]
        for line, entry in zip(table[1:], lowest, strict=True):
            lines.append(line)
            if text is not None:
                lines.append(f"  {_cut(text(entry.video, entry.exp_id), 76)}")
    return "\n".join(lines)


def _rates(scores: Scores) -> list[str]:
    rows = [
        ("overall IoU", f"{scores.overall_iou:.4f}", "all frames as one picture"),
        ("J decay", _number(scores.decay, 4), "first minus last quarter of the frames"),
        ("dtSSD", _number(scores.dtssd, 4), "temporal instability, 0 is best"),
        ("T-acc", _number(scores.t_acc, 4), "with a target: something was found"),
        (
            "N-acc",
            _number(scores.n_acc, 4),
            f"without a target ({scores.without_target}): nothing was found",
        ),
    ]
    return [f"{name:<12} {value:>7}   {meaning}" for name, value, meaning in rows]


def _precision(scores: Scores) -> list[str]:
    rows = [
        [name, *(f"{values[k]:.3f}" for k in THRESHOLDS), f"{sum(values.values()) / 5:.3f}"]
        for name, values in (("expressions", scores.precision), ("frames", scores.frame_precision))
    ]
    return _table(["share with J above", *(f"{k:.1f}" for k in THRESHOLDS), "mean"], rows)


def _three(*values: float) -> list[str]:
    return [f"{value:.3f}" for value in values]


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    first = [_cut(row[0], _NAME) for row in (head, *rows)]
    space = max(_columns(name) for name in first)
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(1, len(head))]
    return [
        name
        + " " * (space - _columns(name))
        + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths, strict=True))
        for name, row in zip(first, (head, *rows), strict=True)
    ]


def _columns(text: str) -> int:
    """Return the columns that `text` takes in a terminal."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def _cut(text: str, columns: int) -> str:
    """Return `text` in one line of at most `columns`, control characters shown as ``?``."""
    text = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    if _columns(text) <= columns:
        return text
    while _columns(text) > columns - 3:
        text = text[:-1]
    return text + "..."
