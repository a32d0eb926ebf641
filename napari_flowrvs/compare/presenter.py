"""Two layers compared frame by frame, as a view-model."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from flowrvs.errors import InputError
from flowrvs.evaluation import compare_masks
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock
from napari_flowrvs.job import Job, Runner, run_here

__all__ = ["ComparePresenter", "Curve", "Side"]

_BATCH = 8


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two layers.

    Attributes
    ----------
    name : str
        As the user knows it.
    data : array of integers, shape (T, H, W)
        Its labels; read one frame at a time.
    value : int or None
        The label that counts as foreground; None for all of them.
    """

    name: str
    data: Any
    value: int | None = None

    def masks(self, cancel: CancelToken) -> Iterator[npt.NDArray[np.bool_]]:
        """Yield its masks, one a frame."""
        for t in range(len(self.data)):
            cancel.raise_if_cancelled()
            labels = np.asarray(self.data[t])
            yield labels != 0 if self.value is None else labels == self.value


@dataclass(frozen=True, eq=False)
class Curve:
    """J and F of every frame, as far as they are known.

    Attributes
    ----------
    names : (str, str)
        The two layers.
    j, f : ndarray of float64, shape (T,)
        Fractions of 1; NaN for frames that are not scored yet.
    """

    names: tuple[str, str]
    j: npt.NDArray[np.float64]
    f: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.j)

    @property
    def done(self) -> int:
        """Number of frames that are scored."""
        return int(np.isfinite(self.j).sum())

    @property
    def mean_j(self) -> float:
        """Mean of J over the frames that are scored."""
        return float(np.nanmean(self.j)) if self.done else float("nan")

    @property
    def mean_f(self) -> float:
        """Mean of F over the frames that are scored."""
        return float(np.nanmean(self.f)) if self.done else float("nan")

    def worst(self) -> int | None:
        """Return the frame with the lowest J&F, None where none is scored."""
        return int(np.nanargmin(self.j + self.f)) if self.done else None

    def next_worse(self, frame: int, limit: float = 0.5, step: int = 1) -> int | None:
        """Return the next frame whose J&F is below `limit`, the one before for step -1."""
        below = np.flatnonzero((self.j + self.f) / 2 < limit)
        there = below[below > frame] if step > 0 else below[below < frame][::-1]
        return int(there[0]) if len(there) else None

    def text(self) -> str:
        """Return one line for a person."""
        if not self.done:
            return "No frame is scored yet."
        worst = self.worst()
        assert worst is not None
        both = (self.mean_j + self.mean_f) / 2
        return (
            f"J {self.mean_j:.3f}, F {self.mean_f:.3f}, J&F {both:.3f} over {self.done} frames; "
            f"lowest on frame {worst} (J {self.j[worst]:.3f}, F {self.f[worst]:.3f})."
        )


class ComparePresenter:
    """Scores one layer against another.

    Parameters
    ----------
    runner : Runner
        Where jobs run.
    """

    #: More frames were scored.
    scored = Signal(Curve)

    def __init__(self, runner: Runner = run_here) -> None:
        self.job = Job(runner)
        self.curve: Curve | None = None

    def run(self, first: Side, second: Side) -> None:
        """Start to compare.

        Raises
        ------
        InputError
            The layers do not fit together; nothing was started.
        """
        shapes = [tuple(int(n) for n in side.data.shape) for side in (first, second)]
        if len(shapes[0]) != 3 or shapes[0] != shapes[1]:
            raise InputError(
                f"{first.name} {shapes[0]} and {second.name} {shapes[1]} cannot be compared: "
                "choose two labels layers of the same frames, height and width."
            )
        count = shapes[0][0]
        curve = Curve((first.name, second.name), np.full(count, np.nan), np.full(count, np.nan))
        self.curve = curve

        def work(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
            clock = ProgressClock(count)
            batch: list[tuple[int, float, float]] = []
            scores = compare_masks(first.masks(cancel), second.masks(cancel))
            for t, score in enumerate(scores):
                batch.append((t, score.j, score.f))
                report(clock.advance(f"Comparing frame {t}"))
                if len(batch) == _BATCH:
                    yield batch
                    batch = []
            yield batch

        self.job.start(work, self._on_item)

    def _on_item(self, item: object) -> None:
        curve = self.curve
        if isinstance(item, list) and curve is not None:
            for t, j, f in item:
                curve.j[t], curve.f[t] = j, f
            self.scored.emit(curve)

    def close(self, timeout: float = 5.0) -> bool:
        """Cancel a running comparison and wait for it."""
        return self.job.close(timeout)
