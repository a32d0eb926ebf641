"""Two small plots as SVG; their colours come from the page's style sheet."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import numpy.typing as npt

__all__ = ["curves", "histogram"]

_WIDTH, _HEIGHT = 560, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 8, 8, 22


def histogram(values: Sequence[float], label: str, bins: int = 20) -> str:
    """Draw how often values of 0 to 1 occur; `label` describes it to who cannot see it."""
    counts, edges = np.histogram(np.asarray(values, dtype=float), bins=bins, range=(0, 1))
    top = max(int(counts.max()), 1)
    parts = []
    for count, low, high in zip(counts.tolist(), edges[:-1], edges[1:], strict=True):
        x, y = _x(low), _y(count / top)
        width, height = _x(high) - x - 1, _y(0) - y
        parts.append(
            f'<rect class="bar" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
            f'height="{height:.1f}"><title>{low:.2f} to {high:.2f}: {count}</title></rect>'
        )
    parts.append(f'<text x="{_LEFT - 5}" y="{_y(1) + 8}" text-anchor="end">{top}</text>')
    parts.append(f'<text x="{_LEFT - 5}" y="{_y(0)}" text-anchor="end">0</text>')
    ticks = [(f"{k / 5:.1f}", k / 5) for k in range(6)]
    return _frame(parts, ticks, label)


def curves(
    lines: Sequence[tuple[str, npt.NDArray[np.float64]]], missing: Sequence[int], label: str
) -> str:
    """Draw values of 0 to 1 by frame.

    Parameters
    ----------
    lines : sequence of (class, values)
        The class names the line's colour in the style sheet.
    missing : sequence of int
        Frames that are marked on the axis.
    label : str
        Describes the plot to who cannot see it.
    """
    count = max((len(values) for _, values in lines), default=0)
    last = max(count - 1, 1)
    parts = [
        _line("grid", v)
        + f'<text x="{_LEFT - 5}" y="{_y(v) + 4:.1f}" text-anchor="end">{v:.1f}</text>'
        for v in (0, 0.5, 1)
    ]
    for name, values in lines:
        points = " ".join(f"{_x(i / last):.1f},{_y(v):.1f}" for i, v in enumerate(values.tolist()))
        parts.append(f'<polyline class="{escape(name)}" points="{points}"/>')
        if len(values) == 1:
            parts.append(
                f'<circle class="{escape(name)}" cx="{_x(0):.1f}" cy="{_y(values[0]):.1f}" r="3"/>'
            )
    parts += [
        f'<circle class="missing" cx="{_x(i / last):.1f}" cy="{_y(0):.1f}" r="2"/>' for i in missing
    ]
    step = max(-(-count // 8), 1)
    ticks = [(f"{i}", i / last) for i in range(0, count, step)]
    return _frame(parts, ticks, label)


def _frame(parts: Sequence[str], ticks: Sequence[tuple[str, float]], label: str) -> str:
    axis = [
        _line("axis", 0),
        *(
            f'<text x="{_x(share):.1f}" y="{_HEIGHT - 6}" text-anchor="middle">'
            f"{escape(name)}</text>"
            for name, share in ticks
        ),
    ]
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{''.join(axis)}{''.join(parts)}</svg>"
    )


def _line(name: str, value: float) -> str:
    y = f"{_y(value):.1f}"
    return f'<line class="{name}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'


def _x(share: float) -> float:
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _y(value: float) -> float:
    return _TOP + (1 - value) * (_HEIGHT - _TOP - _BOTTOM)
