"""One picture of 0 and 255 a sentence and frame, laid out as predictions are."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flowrvs.data.clip import Clip
from flowrvs.data.formats import META, meta_path
from flowrvs.data.pictures import read_values, safe_name, write_masks
from flowrvs.data.ref_ytvos import Sentences
from flowrvs.masks import rle

if TYPE_CHECKING:
    from flowrvs.data.export import Job

__all__ = ["Png", "write_png"]


class Png(Sentences):
    """``Annotations/<video>/<exp_id>/<frame>.png``; equal masks are one object."""

    format = "png"

    @classmethod
    def recognises(cls, root: Path) -> bool:
        annotated = meta_path(root).is_file() and (root / "Annotations").is_dir()
        return annotated and not (root / "meta.json").is_file()

    def clip(self, name: str) -> Clip:
        clip, rows = self._begin(name)
        known: dict[str, int] = {}
        for exp_id, row in rows.items():
            folder = self.folder / "Annotations" / name / safe_name(exp_id, "exp_id", name)
            masks: list[rle.RLE | None] = []
            for frame in clip.frames:
                values = read_values(folder / f"{frame}.png")
                masks.append(rle.encode(values) if values is not None and values.any() else None)
            ids = []
            if any(masks):
                key = known.setdefault(json.dumps(masks), len(known) + 1)
                clip.masks[key], clip.ids[key] = masks, (key, -1)
                ids = [key]
            clip.sentences[exp_id] = (str(row.get("exp", "")), ids)
        return clip


def write_png(folder: Path, job: Job) -> None:
    """One picture of 0 and 255 a sentence and frame, laid out as predictions are."""
    videos: dict[str, Any] = {}
    for clip in job.clips():
        job.write_pictures(folder / "JPEGImages" / clip.name, clip)
        for exp_id, (_, keys) in clip.sentences.items():
            place = folder / "Annotations" / clip.name / exp_id
            values = partial(_union, clip, keys)
            write_masks(place, clip.frames, values, palette=False, jobs=job.options.jobs)
        videos[clip.name] = {
            "expressions": {exp_id: {"exp": text} for exp_id, (text, _) in clip.sentences.items()},
            "frames": clip.frames,
        }
    job.write_json(META, {"videos": videos})


def _union(clip: Clip, keys: list[int], index: int) -> npt.NDArray[np.uint8]:
    union = rle.merge([mask for key in keys if (mask := clip.masks[key][index])])
    seen = np.zeros(clip.size, bool) if union is None else rle.decode(union)
    return seen.astype(np.uint8) * np.uint8(255)
