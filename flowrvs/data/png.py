"""One picture of 0 and 255 a sentence and frame, laid out as predictions are."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowrvs.data.clip import Clip
from flowrvs.data.formats import MASKS, META, meta_path
from flowrvs.data.pictures import frame_file, open_picture, read_codes, safe_name, write_masks
from flowrvs.data.ref_ytvos import RefYtvos, Sentences
from flowrvs.disk import replacing
from flowrvs.masks import rle

if TYPE_CHECKING:
    from flowrvs.data.job import Job
    from flowrvs.data.write_back import Changes

__all__ = ["Png", "write_png"]


class Png(Sentences):
    """``Annotations/<video>/<exp_id>/<frame>.png``; equal masks are one object."""

    format = "png"
    sentences_only = True

    @classmethod
    def recognises(cls, root: Path) -> bool:
        annotated = meta_path(root).is_file() and (root / "Annotations").is_dir()
        return annotated and not (root / MASKS).is_file() and not RefYtvos.recognises(root)

    def clip(self, name: str, *, also: Iterable[int] = ()) -> Clip:
        clip, rows = self._begin(name)
        known: dict[str, int] = {}
        clip.looked = looked = np.ones(len(clip.frames), bool)
        for exp_id, row in rows.items():
            folder = self.folder / "Annotations" / name / safe_name(exp_id, "exp_id", name)
            masks: list[rle.RLE | None] = []
            for index, frame in enumerate(clip.frames):
                read = read_codes(folder / f"{frame}.png")
                looked[index] &= read is not None
                masks.append(rle.encode(read[0]) if read is not None and read[1] else None)
            ids: list[int] | None = [] if folder.is_dir() else None
            if any(masks):
                key = known.setdefault(json.dumps(masks), len(known) + 1)
                clip.masks[key], clip.ids[key] = masks, (key, -1)
                ids = [key]
            clip.sentences[exp_id] = (row["exp"], ids)
        clip.digests = {"clip": clip.fingerprint()}
        return clip

    def write_back(self, before: Clip, changes: Changes) -> None:
        objects, texts = changes.objects(before), changes.texts(before)
        place = self.folder / "Annotations" / before.name
        looked = (
            np.ones(len(before.frames), bool) if before.looked is None else before.looked.copy()
        )
        looked[changes.looked] = True
        with contextlib.ExitStack() as stack:
            self._change_sentences(before.name, changes, stack)
            for exp_id, (_, keys) in texts.items():
                if keys is None:
                    continue
                old = _columns(before.masks, (before.sentences.get(exp_id) or ("", None))[1])
                new = _columns(objects, keys)
                folder = place / exp_id
                folder.mkdir(parents=True, exist_ok=True)
                for index, frame in enumerate(before.frames):
                    path = folder / f"{frame}.png"
                    then, now = (rle.merge(column.get(index, [])) for column in (old, new))
                    # Where nobody has looked, a black picture would say "absent".
                    if then == now and (path.is_file() or not looked[index]):
                        continue
                    shown = rle.decode(now) if now else np.zeros(_size(before, objects), bool)
                    temporary = stack.enter_context(replacing(path, durable=False))
                    Image.fromarray(shown.astype(np.uint8) * np.uint8(255)).save(temporary, "PNG")
        for path in (place / exp_id for exp_id, row in changes.sentences.items() if row is None):
            shutil.rmtree(path, ignore_errors=True)


def _columns(
    masks: Mapping[int, Sequence[rle.RLE | None]], keys: Sequence[int] | None
) -> dict[int, list[rle.RLE]]:
    """Return the masks of some objects by frame."""
    found: dict[int, list[rle.RLE]] = {}
    for key in keys or ():
        for index, mask in enumerate(masks.get(key, ())):
            if mask:
                found.setdefault(index, []).append(mask)
    return found


def _size(clip: Clip, objects: Mapping[int, Sequence[rle.RLE | None]]) -> tuple[int, int]:
    """Return the height and width of a video's frames: from a mask, or its first picture."""
    for masks in (*objects.values(), *clip.masks.values()):
        for mask in masks:
            if mask:
                return mask["size"][0], mask["size"][1]
    with open_picture(frame_file(clip.pictures, clip.frames[0]) or clip.pictures) as picture:
        return picture.height, picture.width


def write_png(folder: Path, job: Job) -> None:
    """One picture of 0 and 255 a sentence and frame, laid out as predictions are."""
    videos: dict[str, Any] = {}
    for clip in job.clips():
        job.write_pictures(folder / "JPEGImages" / clip.name, clip)
        for exp_id, (_, keys) in clip.sentences.items():
            place = folder / "Annotations" / clip.name / exp_id
            values = partial(_union, clip, keys or [])
            names = dict(enumerate(clip.frames))
            write_masks(place, names, values, palette=False, jobs=job.options.jobs)
        videos[clip.name] = {
            "expressions": {exp_id: {"exp": text} for exp_id, (text, _) in clip.sentences.items()},
            "frames": clip.frames,
        }
    job.write_json(META, {"videos": videos})


def _union(clip: Clip, keys: list[int], index: int) -> npt.NDArray[np.uint8]:
    union = rle.merge([mask for key in keys if (mask := clip.masks[key][index])])
    seen = np.zeros(clip.size, bool) if union is None else rle.decode(union)
    return seen.astype(np.uint8) * np.uint8(255)
