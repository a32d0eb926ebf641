"""What a training tells: one JSON line a report, TensorBoard and a picture if asked for."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from flowrvs.disk import replacing, storage_error, write_bytes
from flowrvs.errors import missing_extra

__all__ = ["Journal", "plot_log", "read_log"]


class Journal:
    """Appends one JSON line per report to ``log.jsonl`` and keeps running means.

    Parameters
    ----------
    folder : Path
        Made if need be.
    tensorboard : bool
        Write events for TensorBoard into ``<folder>/tensorboard``, too.
    """

    def __init__(self, folder: Path, *, tensorboard: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "log.jsonl"
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._start = time.monotonic()
        self._board = _summary_writer(folder / "tensorboard") if tensorboard else None

    def rewind(self, step: int) -> None:
        """Forget what was reported after `step`: a killed training goes on from there."""
        if self.path.is_file():
            kept = [line for line in read_log(self.path) if line.get("step", 0) <= step]
            write_bytes(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def add(self, **values: float) -> None:
        """Collect values of a step; each is averaged over the steps that gave it."""
        for key, value in values.items():
            self._sums[key] = self._sums.get(key, 0.0) + value
            self._counts[key] = self._counts.get(key, 0) + 1

    def report(self, **extra: Any) -> dict[str, Any]:
        """Write and return the means since the last report.

        Raises
        ------
        StorageError
            The disk is full, or the folder has vanished.
        """
        means = {key: round(total / self._counts[key], 6) for key, total in self._sums.items()}
        line = {**extra, **means, "seconds": round(time.monotonic() - self._start, 1)}
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
        except OSError as error:
            raise storage_error(error, self.path) from error
        if self._board is not None:
            for key, value in line.items():
                if key != "step" and isinstance(value, (int, float)):
                    self._board.add_scalar(key, value, line.get("step", 0))
            self._board.flush()
        self._sums.clear()
        self._counts.clear()
        return line

    def close(self) -> None:
        """Finish the files of TensorBoard."""
        if self._board is not None:
            self._board.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log; one that a kill cut short is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines


def plot_log(log: Path, picture: Path) -> None:
    """Draw loss and validation of a log into a PNG.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra(error) or error from None
    lines = read_log(log)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    steps = [line["step"] for line in lines if "loss" in line]
    axes.plot(steps, [line["loss"] for line in lines if "loss" in line], color="tab:blue")
    axes.set_xlabel("step")
    axes.set_ylabel("loss", color="tab:blue")
    if any(value > 0 for value in (line.get("loss", 0) for line in lines)):
        axes.set_yscale("log")
    scored = [line for line in lines if "J&F" in line]
    if scored:
        right = axes.twinx()
        right.plot(
            [line["step"] for line in scored],
            [line["J&F"] for line in scored],
            color="tab:orange",
            marker="o",
        )
        right.set_ylim(0, 1)
        right.set_ylabel("J&F on held-out videos", color="tab:orange")
    with replacing(picture) as part:
        figure.savefig(part, format="png", dpi=120)


def _summary_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise missing_extra(error) or error from None
    return SummaryWriter(str(folder))
