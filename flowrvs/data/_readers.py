"""Datasets as they are read: which format a folder has, and the clips in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from flowrvs.data import _spans
from flowrvs.data._clips import Clip
from flowrvs.data._dataset import MASKS, META, Dataset, coded, meta_path
from flowrvs.data._names import safe_name
from flowrvs.data._origin import digest
from flowrvs.data._picture_readers import Davis, Palette, Png
from flowrvs.data.mevis import MevisSplit, read_json
from flowrvs.errors import DatasetError, MissingPathError
from flowrvs.masks import rle

__all__ = ["FORMATS_IN", "Dataset", "digests", "open_dataset"]


class _Mevis(Dataset):
    format = "mevis"

    @cached_property
    def _split(self) -> MevisSplit:
        return MevisSplit.open(self.folder)

    @property
    def videos(self) -> dict[str, int]:
        return {name: len(v.expressions) for name, v in self._split.videos.items()}

    def clip(self, name: str) -> Clip:
        split = self._split
        video = split.videos[name]
        objects: dict[int, list[rle.RLE | None]] = {}
        ids: dict[int, tuple[int, int]] = {}
        expressions = {}
        for exp_id, entry in video.expressions.items():
            if entry.anno_id and len(entry.anno_id) != len(entry.obj_id):
                raise DatasetError(
                    f"{name}/{exp_id}: {len(entry.obj_id)} obj_ids stand beside "
                    f"{len(entry.anno_id)} anno_ids; run 'flowrvs check {self.folder}'."
                )
            for obj, anno in zip(entry.obj_id, entry.anno_id, strict=False):
                if anno not in objects:
                    objects[anno] = [coded(e) for e in split.masks(anno)]
                    ids[anno] = (obj, anno)
            expressions[exp_id] = (entry.exp, list(dict.fromkeys(entry.anno_id)))
        return Clip(
            name,
            self._pictures(name),
            list(video.frames),
            objects,
            expressions,
            ids,
            digests=digests(self.folder, name, objects),
        )


class _Coco(Dataset):
    """COCO-video (YouTube-VIS): ``instances.json`` with an RLE or null a frame."""

    format = "coco"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder.parent if folder.is_file() else folder)
        self._file = folder if folder.is_file() else folder / "instances.json"

    @cached_property
    def _data(self) -> dict[str, Any]:
        return read_json(self._file)

    @cached_property
    def _videos(self) -> dict[str, dict[str, Any]]:
        found = {}
        for video in self._data.get("videos", ()):
            names = video.get("file_names") or []
            name = video.get("name") or (Path(names[0]).parent.name if names else "")
            found[safe_name(name, "video", self._file)] = video
        return found

    @property
    def videos(self) -> dict[str, int]:
        rows = self._data.get("expressions", ())
        counts = dict.fromkeys(self._videos, 0)
        names = {video["id"]: name for name, video in self._videos.items()}
        for row in rows:
            if row.get("video_id") in names:
                counts[names[row["video_id"]]] += 1
        return counts

    def clip(self, name: str) -> Clip:
        video = self._videos[name]
        files = [str(f) for f in video["file_names"]]
        for file in files:
            for part in Path(file).parts:
                safe_name(part, "file", self._file)
        objects, names = {}, {}
        labels = {c["id"]: str(c["name"]) for c in self._data.get("categories", ())}
        for row in self._data.get("annotations") or ():
            if row["video_id"] != video["id"]:
                continue
            objects[int(row["id"])] = [coded(e) for e in row["segmentations"]]
            label = labels.get(row.get("category_id"), "object")
            if label != "object":
                names[int(row["id"])] = f"{label} {row['id']}"
        expressions: dict[str, tuple[str, list[int]]] = {}
        for row in self._data.get("expressions", ()):
            if row["video_id"] == video["id"]:
                exp_id = str(row.get("exp_id", row["id"]))
                expressions[exp_id] = (str(row["exp"]), [int(i) for i in row["annotation_ids"]])
        folder = self.folder / "JPEGImages" / Path(files[0]).parent
        if not folder.is_dir():
            folder = self.folder / Path(files[0]).parent
        ids = {key: (key, -1) for key in objects}
        frames = [Path(file).stem for file in files]
        return Clip(name, folder, frames, objects, expressions, ids, names)


def open_dataset(folder: str | os.PathLike[str]) -> Dataset:
    """Recognise a dataset.

    Parameters
    ----------
    folder : path-like
        Of a split, or a COCO-video JSON file.

    Raises
    ------
    MissingPathError
        There is nothing.
    DatasetError
        It is none of the formats.
    """
    root = Path(folder)
    if not root.exists():
        raise MissingPathError(f"No dataset at {root}; give the folder of a split.")
    if root.is_file():
        return _Coco(root)
    if (root / MASKS).is_file():
        return _Mevis(root)
    if (root / "instances.json").is_file():
        return _Coco(root)
    if (root / "ImageSets").is_dir() or (root / "JPEGImages" / "480p").is_dir():
        return Davis(root)
    if meta_path(root).is_file():
        if not (root / "Annotations").is_dir():
            return _Mevis(root)
        return Palette(root) if (root / "meta.json").is_file() else Png(root)
    MevisSplit.open(root)  # says which splits are inside, or that there is none
    raise DatasetError(f"{root} is no dataset that can be read.")


def digests(folder: Path, video: str, anno_ids: Any) -> dict[str, str]:
    """Return the digests of a video's entry and of its masks in a MeViS-style split."""
    found = {}
    with _spans.mapped(folder / META) as data:
        videos = _spans.member(data, "videos")
        entry = _spans.member(data, video, videos.start) if videos else None
        if entry is not None:
            found["video"] = digest(data[entry.start : entry.stop])
    wanted = {str(i) for i in anno_ids}
    if wanted:
        with _spans.mapped(folder / MASKS) as data:
            for one in _spans.members(data):
                if one.key in wanted:
                    found[f"anno {one.key}"] = digest(data[one.start : one.stop])
    return found


FORMATS_IN: Mapping[str, Callable[[Path], Dataset]] = {
    kind.format: kind for kind in (_Mevis, Palette, Davis, _Coco, Png)
}
