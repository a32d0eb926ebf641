"""Scores for people: one HTML file with plots and the worst frames, or text for a terminal."""

from __future__ import annotations

import base64
import io
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowrvs.data.mevis import MevisSplit
from flowrvs.disk import write_bytes
from flowrvs.errors import DatasetError, MissingPathError
from flowrvs.evaluation import packed
from flowrvs.evaluation.metrics import boundary_map
from flowrvs.evaluation.pictures import Predictions
from flowrvs.evaluation.scores import THRESHOLDS, ExpressionScore, Scores
from flowrvs.progress import CancelToken

__all__ = ["format_scores", "write_report"]

_PICTURE = 480
_BINS = 20
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
    with Predictions(Path(predictions)) as pictures:
        cases = []
        for entry in scores.worst(worst):
            if cancel is not None:
                cancel.raise_if_cancelled()
            cases.append(_case(entry, pictures, source))
    page = _template().render(
        title=f"{Path(predictions).name} against {source.folder.name}",
        scores=scores,
        numbers=[*_means(scores), *_rates(scores)],
        histogram=np.histogram([e.j for e in scores.expressions], _BINS, (0, 1))[0].tolist(),
        precision=_precision(scores),
        cases=cases,
        videos=(
            ("video", "expressions", "J&F", "J", "F", "coverage"),
            [
                (v.video, v.expressions, *_fixed(v.j_and_f, v.j, v.f, v.coverage))
                for v in scores.videos
            ],
        ),
        expressions=(
            ("expression", "sentence", "J&F", "J", "F", "decay", "dtSSD", "found", "target"),
            [_row(entry, source) for entry in scores.expressions],
        ),
    )
    # A sentence may hold half a character (a lone surrogate), which has no UTF-8.
    write_bytes(path, page.encode("utf-8", "replace"))
    return Path(path)


def format_scores(
    scores: Scores,
    worst: int = 5,
    text: Callable[[str, str], str] | None = None,
    *,
    width: int = 80,
) -> str:
    """Return the scores as aligned text.

    Parameters
    ----------
    scores : Scores
    worst : int
        How many of the lowest videos and expressions to list.
    text : callable of (video, exp_id), optional
        Gives an expression's sentence, which then stands beside its numbers.
    width : int
        Columns of the terminal.
    """
    from rich.console import Console

    stream = io.StringIO()
    console = Console(
        file=stream, width=width, color_system=None, highlight=False, markup=False, emoji=False
    )
    count = f"({len(scores.expressions)} expressions, {len(scores.videos)} videos)"
    for name, value, _ in _means(scores):
        console.print(f"{name:<8} {value}" + (f"   {count}" if name == "coverage" else ""))
    lacking = sum(e.found < e.frames for e in scores.expressions)
    if lacking:
        what = "expression lacks" if lacking == 1 else "expressions lack"
        console.print(f"{lacking} {what} pictures; missing ones score 0.")
    console.print()
    for name, value, meaning in _rates(scores):
        console.print(f"{name:<12} {value:>7}   {meaning}")
    console.print("", _table(*_precision(scores)), sep="\n")
    videos = sorted(scores.videos, key=lambda v: v.j_and_f)[: max(worst, 0)]
    if videos and len(scores.videos) > 1:
        title = "video" if len(videos) == len(scores.videos) else "lowest videos"
        head = (title, "expr.", "J&F", "J", "F", "coverage")
        rows = [(v.video, v.expressions, *_fixed(v.j_and_f, v.j, v.f, v.coverage)) for v in videos]
        console.print("", _table(head, rows), sep="\n")
    lowest = scores.worst(worst)
    if lowest:
        head = ("lowest expressions", "J&F", "J", "F", "decay", "dtSSD")
        rows = [
            (
                f"{e.video}/{e.exp_id}",
                *_fixed(e.j_and_f, e.j, e.f),
                _maybe(e.decay, 3),
                _maybe(e.dtssd, 3),
            )
            for e in lowest
        ]
        last = None
        if text is not None:
            last = ("sentence", [text(e.video, e.exp_id) for e in lowest])
        console.print("", _table(head, rows, last), sep="\n")
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def _table(
    head: Sequence[str],
    rows: Iterable[Sequence[object]],
    last: tuple[str, list[str]] | None = None,
) -> Any:
    """Return a table of a name, numbers, and a text in the `last` column."""
    from rich.table import Column, Table

    table = Table(
        Column(head[0], no_wrap=True, overflow="ellipsis", max_width=24),
        *(Column(name, justify="right", no_wrap=True) for name in head[1:]),
        box=None,
        pad_edge=False,
    )
    texts: Iterable[Sequence[str]] = itertools.repeat(())
    if last is not None:
        table.add_column(last[0], overflow="fold")
        texts = [(_plain(text),) for text in last[1]]
    for row, end in zip(rows, texts, strict=False):
        table.add_row(_plain(str(row[0])), *map(str, row[1:]), *end)
    return table


def _plain(text: str) -> str:
    """Return `text` as one line without control characters, which a terminal would obey."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    return line if len(line) <= 160 else line[:159] + "…"


def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html")


def _means(scores: Scores) -> list[tuple[str, str, str]]:
    return [
        ("J", f"{scores.j:.4f}", ""),
        ("F", f"{scores.f:.4f}", ""),
        ("J&F", f"{scores.j_and_f:.4f}", ""),
        ("coverage", f"{scores.coverage:.4f}", "missing frames score 0"),
    ]


def _rates(scores: Scores) -> list[tuple[str, str, str]]:
    return [
        ("overall IoU", f"{scores.overall_iou:.4f}", "all frames as one picture"),
        ("J decay", _maybe(scores.decay), "first minus last quarter of the frames"),
        ("dtSSD", _maybe(scores.dtssd), "temporal instability, 0 is best"),
        ("T-acc", _maybe(scores.t_acc), "with a target: something was found"),
        (
            "N-acc",
            _maybe(scores.n_acc),
            f"without a target ({scores.without_target}): nothing was found",
        ),
    ]


def _precision(scores: Scores) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    head = ("share with J above", *(f"{k:.1f}" for k in THRESHOLDS), "mean")
    both = (("expressions", scores.precision), ("frames", scores.frame_precision))
    return head, [
        (name, *_fixed(*(values[k] for k in THRESHOLDS), sum(values.values()) / len(values)))
        for name, values in both
    ]


def _row(entry: ExpressionScore, split: MevisSplit) -> tuple[str, ...]:
    return (
        f"{entry.video}/{entry.exp_id}",
        _sentence(entry, split),
        *_fixed(entry.j_and_f, entry.j, entry.f),
        _maybe(entry.decay),
        _maybe(entry.dtssd),
        f"{entry.found}/{entry.frames}",
        "yes" if entry.has_target else "none",
    )


def _case(entry: ExpressionScore, pictures: Predictions, split: MevisSplit) -> dict[str, Any]:
    """Return what the page shows of an expression: two curves and its worst frame."""
    step = max(-(-entry.frames // 8), 1)
    last = max(entry.frames - 1, 1)
    case = {
        "name": f"{entry.video}/{entry.exp_id}",
        "score": f"{entry.j_and_f:.3f}",
        "sentence": _sentence(entry, split),
        "frames": entry.frames,
        "lines": [("f", entry.frame_f.tolist()), ("j", entry.frame_j.tolist())],
        "ticks": [(f"{i}", i / last) for i in range(0, entry.frames, step)],
        "missing": entry.missing,
    }
    if entry.frames:
        index = int(np.argmin(entry.frame_j + entry.frame_f))
        case["picture"] = base64.b64encode(_picture(pictures, split, entry, index)).decode("ascii")
        case["caption"] = (
            f"frame {split.videos[entry.video].frames[index]}"
            f"{', not predicted' if index in entry.missing else ''}: "
            f"J {entry.frame_j[index]:.3f}, F {entry.frame_f[index]:.3f}"
        )
    return case


def _picture(pictures: Predictions, split: MevisSplit, entry: ExpressionScore, index: int) -> bytes:
    """Return a frame as a JPEG, with the outlines of truth and prediction."""
    frame = split.videos[entry.video].frames[index]
    found = pictures.read(f"{entry.video}/{entry.exp_id}/{frame}.png")
    pred = None if found is None else packed.unpack(*found)
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


def _maybe(value: float | None, digits: int = 4) -> str:
    # Adding 0.0 makes -0.0 a plain 0.
    return "-" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"
