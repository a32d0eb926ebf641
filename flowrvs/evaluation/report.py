"""A report of scores as one HTML file: numbers, plots, tables, the worst frames."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowrvs.data._atomic import write_atomic
from flowrvs.data.mevis import MevisSplit
from flowrvs.errors import DatasetError, MissingPathError
from flowrvs.evaluation import _bits
from flowrvs.evaluation._page import POLICY, SCRIPT, STYLE
from flowrvs.evaluation._predictions import Predictions
from flowrvs.evaluation._svg import curves, histogram
from flowrvs.evaluation.metrics import boundary_map
from flowrvs.evaluation.scores import THRESHOLDS, ExpressionScore, Scores
from flowrvs.progress import CancelToken

__all__ = ["write_report"]

_PICTURE = 480
_TRUTH, _FOUND = (0, 213, 255), (255, 157, 46)
Mask = npt.NDArray[np.bool_]


def write_report(
    path: str | os.PathLike[str],
    scores: Scores,
    predictions: str | os.PathLike[str],
    split: str | os.PathLike[str] | MevisSplit,
    *,
    worst: int = 12,
    cancel: CancelToken | None = None,
) -> Path:
    """Write the report; it needs no other file and no network.

    Parameters
    ----------
    path : path-like
        The HTML file; it appears whole or not at all.
    scores : Scores
        What :func:`~flowrvs.evaluation.evaluate` returned.
    predictions : path-like
        The predictions that were scored.
    split : path-like or MevisSplit
        The split that they were scored against.
    worst : int
        How many of the lowest expressions to show with a curve and a picture.
    cancel : CancelToken, optional
        Checked before every picture.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    DatasetError
        A picture or a mask cannot be read.
    StorageError
        The file cannot be written.
    Cancelled
        `cancel` was set.
    """
    source = split if isinstance(split, MevisSplit) else MevisSplit.open(split)
    target = Path(path)
    with Predictions(Path(predictions)) as pictures:
        cases = []
        for entry in scores.worst(worst):
            if cancel is not None:
                cancel.raise_if_cancelled()
            cases.append(_case(entry, pictures, source))
    title = f"{Path(predictions).name} against {source.folder.name}"
    page = "".join(_page(title, scores, source, cases))
    # A sentence may hold half a character (a lone surrogate), which has no UTF-8.
    write_atomic(target, page.encode("utf-8", "replace"))
    return target


def _page(title: str, scores: Scores, split: MevisSplit, cases: Sequence[str]) -> Iterator[str]:
    yield (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<h1>{escape(title)}</h1>"
        f'<p class="soft">{len(scores.expressions)} expressions in {len(scores.videos)} videos. '
        "J is the region similarity, F the boundary measure; both are means over the frames, "
        "then over the expressions, as the MeViS benchmark takes them.</p>"
    )
    yield "<dl>"
    for name, value, note in _numbers(scores):
        yield f"<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>"
    yield "</dl><h2>How J is spread over the expressions</h2>"
    yield histogram([e.j for e in scores.expressions], "Histogram of J over the expressions")
    yield "<h2>Precision: share with J above K</h2>"
    yield _table(
        ["share of the", *(f"{k:.1f}" for k in THRESHOLDS), "mean"],
        (
            [name, *(f"{values[k]:.3f}" for k in THRESHOLDS), f"{sum(values.values()) / 5:.3f}"]
            for name, values in (
                ("expressions", scores.precision),
                ("frames", scores.frame_precision),
            )
        ),
    )
    if cases:
        yield (
            '<h2>The lowest expressions</h2><p class="soft">'
            '<span class="word-j">J</span> and <span class="word-f">F</span> by frame, and the '
            'worst frame with the outlines of <span class="key truth">truth</span> and '
            '<span class="key found">prediction</span>.</p>'
        )
        yield from cases
    yield "<h2>Videos</h2>"
    yield _table(
        ["video", "expressions", "J&F", "J", "F", "coverage"],
        (
            [v.video, f"{v.expressions}", *_fixed(v.j_and_f, v.j, v.f, v.coverage)]
            for v in scores.videos
        ),
    )
    yield "<h2>Expressions</h2>"
    yield _table(
        ["expression", "sentence", "J&F", "J", "F", "decay", "dtSSD", "found", "target"],
        (_row(entry, split) for entry in scores.expressions),
        text=1,
    )
    yield f"<script>{SCRIPT}</script></body></html>\n"


def _numbers(scores: Scores) -> list[tuple[str, str, str]]:
    return [
        ("J&amp;F", f"{scores.j_and_f:.4f}", ""),
        ("J", f"{scores.j:.4f}", ""),
        ("F", f"{scores.f:.4f}", ""),
        ("coverage", f"{scores.coverage:.4f}", "missing frames score 0"),
        ("overall IoU", f"{scores.overall_iou:.4f}", "all frames as one picture"),
        ("J decay", _maybe(scores.decay), "first minus last quarter of the frames"),
        ("dtSSD", _maybe(scores.dtssd), "temporal instability, 0 is best"),
        ("T-acc", _maybe(scores.t_acc), "with a target: something was found"),
        (
            "N-acc",
            _maybe(scores.n_acc),
            f"{scores.without_target} without a target: nothing was found",
        ),
    ]


def _row(entry: ExpressionScore, split: MevisSplit) -> list[str]:
    return [
        f"{entry.video}/{entry.exp_id}",
        _sentence(entry, split),
        *_fixed(entry.j_and_f, entry.j, entry.f),
        _maybe(entry.decay),
        _maybe(entry.dtssd),
        f"{entry.found}/{entry.frames}",
        "yes" if entry.has_target else "none",
    ]


def _table(head: Sequence[str], rows: Iterator[list[str]], text: int | None = None) -> str:
    kinds = {0, text, head.index("target") if "target" in head else None}
    cells = "".join(
        f'<th data-kind="{"text" if i in kinds else "number"}"'
        f'{" class=text" if i == text else ""}><button type="button">{escape(name)}</button></th>'
        for i, name in enumerate(head)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{' class=text' if i == text else ''}>{escape(cell)}</td>"
            for i, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{cells}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _case(entry: ExpressionScore, pictures: Predictions, split: MevisSplit) -> str:
    name = f"{entry.video}/{entry.exp_id}"
    index = int(np.argmin(entry.frame_j + entry.frame_f)) if entry.frames else None
    figure = ""
    if index is not None:
        frame = split.videos[entry.video].frames[index]
        data = base64.b64encode(_picture(pictures, split, entry, index)).decode("ascii")
        state = ", not predicted" if index in entry.missing else ""
        caption = (
            f"frame {frame}{state}: J {entry.frame_j[index]:.3f}, F {entry.frame_f[index]:.3f}"
        )
        figure = (
            f'<figure><img alt="{escape(f"{name}, {caption}")}" '
            f'src="data:image/jpeg;base64,{data}"><figcaption>{escape(caption)}</figcaption>'
            "</figure>"
        )
    plot = curves(
        [("f", entry.frame_f), ("j", entry.frame_j)], entry.missing, f"J and F of {name} by frame"
    )
    return (
        f"<article><h3>{escape(name)} &middot; J&amp;F {entry.j_and_f:.3f}</h3>"
        f"<p>{escape(_sentence(entry, split))}</p><div>{plot}</div>{figure}</article>"
    )


def _picture(pictures: Predictions, split: MevisSplit, entry: ExpressionScore, index: int) -> bytes:
    """Return a frame as a JPEG, with the outlines of truth and prediction."""
    frame = split.videos[entry.video].frames[index]
    found = pictures.read(f"{entry.video}/{entry.exp_id}/{frame}.png")
    pred = None if found is None else _bits.unpack(*found)
    try:
        image = split.read_frames(entry.video, index, index + 1)[0]
    except (MissingPathError, DatasetError):  # The split may come without its frames.
        image = None
    try:
        truth = split.target_mask(entry.video, entry.exp_id, index)
    except MissingPathError:
        truth = None
    size = next((a.shape[:2] for a in (image, truth, pred) if a is not None), (9, 16))
    scale = min(_PICTURE / size[1], 1)
    shape = max(round(size[1] * scale), 1), max(round(size[0] * scale), 1)
    if image is None:
        image = np.full((*size, 3), 64, np.uint8)
    drawn = np.array(Image.fromarray(image).resize(shape, Image.Resampling.BILINEAR))
    for mask, colour in ((truth, _TRUTH), (pred, _FOUND)):
        if mask is not None:
            small = np.asarray(Image.fromarray(mask).resize(shape, Image.Resampling.NEAREST))
            drawn[_outline(small)] = colour
    buffer = io.BytesIO()
    Image.fromarray(drawn).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _outline(mask: Mask) -> Mask:
    """Return the boundary of a mask, two pixels wide."""
    edge = boundary_map(mask)
    wide = edge.copy()
    wide[1:] |= edge[:-1]
    wide[:, 1:] |= edge[:, :-1]
    return wide


def _sentence(entry: ExpressionScore, split: MevisSplit) -> str:
    return split.videos[entry.video].expressions[entry.exp_id].exp


def _fixed(*values: float) -> list[str]:
    return [f"{value:.3f}" for value in values]


def _maybe(value: float | None) -> str:
    return "-" if value is None else f"{round(value, 4) + 0.0:.4f}"
