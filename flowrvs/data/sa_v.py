"""SA-V: a JSON file a video, with run-length encoded masks of all objects on every fourth frame."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowrvs.data import json_parts
from flowrvs.data.clip import Clip, coded_masks
from flowrvs.data.formats import Dataset
from flowrvs.data.json_parts import list_keys, read_json, whole_number
from flowrvs.data.pictures import is_safe_name
from flowrvs.data.ref_ytvos import frames_in
from flowrvs.disk import replacing
from flowrvs.errors import DatasetError
from flowrvs.masks import rle

if TYPE_CHECKING:
    from flowrvs.data.write_back import Changes

__all__ = ["SaV"]

_EVERY = 4


class SaV(Dataset):
    """SA-V: a JSON file a video, with the RLEs of all objects on every annotated frame."""

    format = "sa-v"
    masks_only = True

    def __init__(self, folder: Path, pictures: Path | None = None) -> None:
        super().__init__(folder.parent if folder.is_file() else folder, pictures)
        self.source = folder
        files = [folder] if folder.is_file() else sorted(folder.glob("*.json"))
        self._files = [path for path in files if "masklet" in list_keys(path)]

    @classmethod
    def recognises(cls, root: Path) -> bool:
        files = [root] if root.is_file() else sorted(root.glob("*.json"))[:3]
        return any("masklet" in list_keys(path) for path in files)

    @property
    def videos(self) -> dict[str, int]:
        return {path.stem: 0 for path in self._files if is_safe_name(path.stem)}

    def clip(self, name: str, *, also: Iterable[int] = ()) -> Clip:
        path = next(path for path in self._files if path.stem == name)
        data = read_json(path)
        rows, total = data.get("masklet"), data.get("video_frame_count")
        if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows) or not rows:
            raise DatasetError(f"'masklet' in {path} is no list of lists.")
        pictures = self._video(path, data.get("video_id"))
        frames = self._frames(pictures, rows, total, path)
        clip = Clip(name, frames, pictures=pictures)
        ids = data.get("masklet_id")
        count = max(len(row) for row in rows)
        keys = [whole_number(i) + 1 for i in ids] if isinstance(ids, list) else range(1, count + 1)
        if len(keys) != count or len(set(keys)) < count or any(len(row) != count for row in rows):
            raise DatasetError(f"{path} has {count} objects on one frame and not on all.")
        step = _step(len(frames), len(rows))
        clip.looked = np.zeros(len(frames), bool)
        clip.looked[::step] = True
        for column, key in enumerate(keys):
            entries: list[Any] = [None] * len(frames)
            entries[::step] = [row[column] for row in rows]
            clip.masks[key] = coded_masks(entries, clip, key)
            clip.ids[key] = (key, -1)
        return clip

    def write_back(self, before: Clip, changes: Changes) -> None:
        path = next(path for path in self._files if path.stem == before.name)
        data = read_json(path)
        objects = changes.objects(before)
        step = _step(len(before.frames), len(data["masklet"]))
        beyond = [index for index in changes.frames() if index % step]
        if beyond:
            raise DatasetError(
                f"{before.name}, frame {before.frames[beyond[0]]} was corrected, but {path.name} "
                f"holds every {step}th frame only; export the project as a new split."
            )
        place = {key: column for column, key in enumerate(before.masks)}
        drawn = [m for masks in (*before.masks.values(), *objects.values()) for m in masks if m]
        # Not null, which SA-V's readers do not know.
        absent = rle.encode(np.zeros(drawn[0]["size"], bool)) if drawn else None
        rows = []
        for index, row in zip(range(0, len(before.frames), step), data["masklet"], strict=True):
            kept = {key: row[place[key]] for key in objects if key in place}
            new = {key: m[index] or absent for key, m in changes.masks.items() if index in m}
            rows.append([new[key] if key in new else kept.get(key, absent) for key in objects])
        values: dict[str, Any] = {"masklet": rows, "masklet_id": [key - 1 for key in objects]}
        if "masklet_num" in data:
            values["masklet_num"] = len(objects)
        # What else is said of each object keeps its place beside it; of new ones it is not known.
        for name, said in data.items():
            each = isinstance(said, list) and len(said) == len(place)
            if each and name.startswith("masklet_") and name not in values:
                values[name] = [said[place[key]] if key in place else None for key in objects]
        with json_parts.mapped(path) as raw:
            encoder = json_parts.style(raw[:4096])
        texts = {key: encoder.encode(value).encode("ascii") for key, value in values.items()}
        extra = {key: text for key, text in texts.items() if key not in data}
        with replacing(path) as temporary:
            json_parts.rewrite(
                path, temporary, lambda raw: json_parts.whole(raw, texts, extra.items())
            )

    def _video(self, path: Path, video_id: object) -> Path:
        stem = video_id if is_safe_name(video_id) else re.sub(r"_(manual|auto)$", "", path.stem)
        bases = (self.folder, self.pictures, self.folder / "JPEGImages_24fps", self.folder.parent)
        for base in bases:
            for found in (base / f"{stem}.mp4", base / str(stem)):
                if found.exists():
                    return found
        raise DatasetError(f"There is no video {stem}.mp4 near {path}; say where it is (--frames).")

    def _frames(self, pictures: Path, rows: list[Any], total: object, path: Path) -> list[str]:
        if pictures.is_dir():
            frames = frames_in(pictures)
        else:
            count = len(rows)
            if isinstance(total, (int, float)) and 0 < total < 1 << 20:
                count = int(total)
            frames = [f"{index:05d}" for index in range(count)]
        if -(-len(frames) // _step(len(frames), len(rows))) != len(rows):
            raise DatasetError(
                f"{path} annotates {len(rows)} of {len(frames)} frames: they are not evenly spaced."
            )
        return frames


def _step(frames: int, rows: int) -> int:
    """Return the distance of the annotated frames.

    It is SA-V's own, every fourth one of 24 a second, where that gives so many rows: of nine
    frames every third would give three, too.
    """
    return _EVERY if -(-frames // _EVERY) == rows else -(-frames // rows)
