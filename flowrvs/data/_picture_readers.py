"""Datasets whose masks are pictures: palettes, and 0 and 255."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowrvs.data._clips import Clip
from flowrvs.data._dataset import Dataset, meta_path
from flowrvs.data._names import is_safe_name, safe_name
from flowrvs.data.mevis import read_json
from flowrvs.errors import DatasetError, MissingPathError
from flowrvs.masks import rle

__all__ = ["Davis", "Palette", "Png"]

_SENTENCE = re.compile(r'^(?P<video>.+?)\s+(?P<id>\d+)\s+"(?P<text>.*)"\s*$')
_PICTURES = {".jpg", ".jpeg", ".png"}


class _Sentences(Dataset):
    """Sentences in ``meta_expressions.json``, masks in pictures."""

    @cached_property
    def _videos(self) -> dict[str, Any]:
        return _videos(meta_path(self.folder))

    @property
    def videos(self) -> dict[str, int]:
        return {name: len(entry["expressions"]) for name, entry in self._videos.items()}


class Palette(_Sentences):
    """Ref-YouTube-VOS and Ref-DAVIS17: a pixel's value is the object."""

    format = "ytvos"

    def clip(self, name: str) -> Clip:
        entry = self._videos[name]
        frames = _frames(entry, name, self.folder)
        expressions, values = {}, []
        for exp_id, item in entry["expressions"].items():
            given = item.get("obj_id")
            given = given if isinstance(given, list) else [] if given is None else [given]
            try:
                meant = [int(i) for i in given]
            except (TypeError, ValueError):
                raise DatasetError(f"{name}/{exp_id} has an obj_id that is no number.") from None
            expressions[exp_id] = (str(item.get("exp", "")), meant)
            values += meant
        folder = self.folder / "Annotations" / name
        objects = _from_palette(folder, frames, dict.fromkeys(values))
        # An id without a pixel says "no target", as the writer of this format has it.
        seen = {key: masks for key, masks in objects.items() if any(masks)}
        expressions = {
            exp_id: (text, [i for i in meant if i in seen])
            for exp_id, (text, meant) in expressions.items()
        }
        ids = {key: (key, -1) for key in seen}
        return Clip(name, self._pictures(name), frames, seen, expressions, ids)


class Davis(Dataset):
    """DAVIS 2017 in its own layout, sentences from a text file."""

    format = "davis"

    @cached_property
    def _size(self) -> str:
        # The higher of the usual two, where both are there.
        for name in ("Full-Resolution", "1080p", "480p"):
            if (self.folder / "JPEGImages" / name).is_dir():
                return name
        raise DatasetError(f"{self.folder} has no JPEGImages/480p; give the folder of DAVIS.")

    @cached_property
    def _sentences(self) -> dict[str, list[tuple[int, str]]]:
        found: dict[str, list[tuple[int, str]]] = {}
        for path in [
            self.folder / "text_annotations.txt",
            *sorted(self.folder.glob("davis_text_annotations/*.txt")),
        ]:
            if not path.is_file():
                continue
            data = path.read_bytes()
            try:
                text = data.decode("utf-8")
            except UnicodeDecodeError:
                text = data.decode("latin-1")  # the published files are not UTF-8
            for line in text.splitlines():
                match = _SENTENCE.match(line)
                if match:
                    row = (int(match["id"]), match["text"])
                    found.setdefault(match["video"], []).append(row)
        return found

    @property
    def videos(self) -> dict[str, int]:
        root = self.folder / "JPEGImages" / self._size
        names = sorted(path.name for path in root.iterdir() if path.is_dir())
        return {name: len(self._sentences.get(name, ())) for name in names}

    def clip(self, name: str) -> Clip:
        pictures = self.folder / "JPEGImages" / self._size / name
        frames = sorted(p.stem for p in pictures.iterdir() if p.suffix.lower() in _PICTURES)
        objects = _from_palette(self.folder / "Annotations" / self._size / name, frames, None)
        rows = self._sentences.get(name, [])
        expressions = {
            str(n): (text, [key] if key in objects else []) for n, (key, text) in enumerate(rows)
        }
        return Clip(name, pictures, frames, objects, expressions, {k: (k, -1) for k in objects})


class Png(_Sentences):
    """One picture of 0 and 255 a sentence and frame."""

    format = "png"

    def clip(self, name: str) -> Clip:
        entry = self._videos[name]
        frames = _frames(entry, name, self.folder)
        objects: dict[int, list[rle.RLE | None]] = {}
        known: dict[str, int] = {}
        expressions = {}
        for exp_id, item in entry["expressions"].items():
            folder = self.folder / "Annotations" / name / safe_name(exp_id, "exp_id", name)
            masks: list[rle.RLE | None] = []
            for frame in frames:
                values = _values(folder / f"{frame}.png")
                masks.append(rle.encode(values) if values is not None and values.any() else None)
            key = json.dumps(masks)
            if any(masks) and key not in known:
                known[key] = len(known) + 1
                objects[known[key]] = masks
            expressions[exp_id] = (str(item.get("exp", "")), [known[key]] if any(masks) else [])
        ids = {key: (key, -1) for key in objects}
        return Clip(name, self._pictures(name), frames, objects, expressions, ids)


def _videos(path: Path) -> dict[str, Any]:
    videos = read_json(path).get("videos")
    if not isinstance(videos, Mapping):
        raise DatasetError(f"{path} has no 'videos'; it is no dataset of sentences.")
    for name, entry in videos.items():
        safe_name(name, "video", path)
        rows = entry.get("expressions") if isinstance(entry, Mapping) else None
        if not isinstance(rows, Mapping) or not all(isinstance(r, Mapping) for r in rows.values()):
            raise DatasetError(f"The video {name!r} in {path} has no 'expressions'.")
    return dict(videos)


def _frames(entry: Mapping[str, Any], name: str, where: Path) -> list[str]:
    frames = entry.get("frames")
    if not isinstance(frames, list) or not frames:
        raise DatasetError(f"The video {name!r} in {where} lists no frames.")
    return [safe_name(frame, "frame", name) for frame in frames]


def _values(path: Path) -> npt.NDArray[np.uint8] | None:
    """Return the values of a picture, None where there is none."""
    try:
        with Image.open(path) as picture:
            plain = picture.mode in ("P", "L", "1")
            shown = picture if plain else picture.convert("P" if picture.mode == "PA" else "L")
            return np.asarray(shown, np.uint8)
    except FileNotFoundError:
        return None
    except (OSError, Image.DecompressionBombError):
        raise DatasetError(f"{path} is not a readable picture; copy it again.") from None


def _from_palette(
    folder: Path, frames: list[str], wanted: Mapping[int, object] | None
) -> dict[int, list[rle.RLE | None]]:
    """Return the masks of the values of palette PNGs; of all values but 0 by default."""
    if not folder.is_dir():
        raise MissingPathError(f"The masks {folder} are missing; copy them again.")
    objects: dict[int, list[rle.RLE | None]] = {k: [None] * len(frames) for k in wanted or ()}
    for index, frame in enumerate(frames):
        if not is_safe_name(frame):
            continue
        values = _values(folder / f"{frame}.png")
        if values is None:
            continue
        for value in np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist():
            if value == 0 or value == 255 or (wanted is not None and value not in wanted):
                continue
            objects.setdefault(value, [None] * len(frames))[index] = rle.encode(values == value)
    return dict(sorted(objects.items()))
