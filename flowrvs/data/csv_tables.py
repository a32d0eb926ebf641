"""Measurements: ``objects.csv``, a row an object and frame, and ``expressions.csv``."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flowrvs.masks import rle
from flowrvs.store import Provenance

if TYPE_CHECKING:
    from flowrvs.data.job import Job

__all__ = ["write_csv"]

_OBJECTS = "video frame index object name provenance area left top width height".split()


def write_csv(folder: Path, job: Job) -> None:
    """``objects.csv``, a row an object and frame, and ``expressions.csv``."""
    # skimage costs a second to import, and only this format needs it.
    from skimage.measure import regionprops

    with (
        (folder / "objects.csv").open("w", newline="", encoding="utf-8") as objects,
        (folder / "expressions.csv").open("w", newline="", encoding="utf-8") as expressions,
    ):
        rows, sentences = csv.writer(objects), csv.writer(expressions)
        rows.writerow([*_OBJECTS, "centroid_x", "centroid_y"])
        sentences.writerow(["video", "exp_id", "exp", "objects"])
        for clip in job.clips():
            for key, masks in clip.masks.items():
                for index, mask in enumerate(masks):
                    if mask is None:
                        continue
                    (region,) = regionprops(rle.decode(mask).astype(np.uint8))
                    top, left, bottom, right = (int(n) for n in region.bbox)
                    y, x = region.centroid
                    made_by = Provenance(int(clip.provenance[key][index])).name.lower()
                    rows.writerow(
                        [defused(clip.name), defused(clip.frames[index]), index, key]
                        + [defused(clip.names[key]), made_by]
                        + [int(region.area), left, top, right - left, bottom - top]
                        + [f"{x:.3f}", f"{y:.3f}"]
                    )
            for exp_id, (text, ids) in clip.sentences.items():
                meant = "unknown" if ids is None else " ".join(map(str, ids))
                sentences.writerow([*map(defused, (clip.name, exp_id, text)), meant])


def defused(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula: such ones get a quote in front."""
    return f"'{text}" if text.lstrip()[:1] in tuple("=+-@") or text[:1] in ("\t", "\r") else text
