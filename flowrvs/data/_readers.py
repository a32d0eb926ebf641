"""Datasets as they are read: which format a folder has, and the clips in it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowrvs.data import _spans
from flowrvs.data._clips import Clip
from flowrvs.data._names import is_safe_name, safe_name
from flowrvs.data._origin import digest
from flowrvs.data.mevis import MevisSplit, read_json
from flowrvs.errors import DatasetError, MissingPathError
from flowrvs.masks import rle

__all__ = ["Dataset", "open_dataset"]

META, MASKS = "meta_expressions.json", "mask_dict.json"
_SENTENCE = re.compile(r'^(?P<video>.+?)\s+(?P<id>\d+)\s+"(?P<text>.*)"\s*$')


class Dataset:
    """A dataset that videos can be read from.

    Attributes
    ----------
    format : str
        As in `flowrvs.data.FORMATS`.
    folder : Path
        Where it lies.
    """

    format: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def videos(self) -> dict[str, int]:
        """Number of sentences by video, in the dataset's order."""
        raise NotImplementedError

    def clip(self, name: str) -> Clip:
        """Read one video's annotations.

        Raises
        ------
        DatasetError
            There is no such video, or it is broken.
        """
        raise NotImplementedError

    def _pictures(self, name: str) -> Path:
        return self.folder / "JPEGImages" / name


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
                    objects[anno] = [_coded(e) for e in split.masks(anno)]
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


class _Palette(Dataset):
    """Ref-YouTube-VOS and Ref-DAVIS17: a pixel's value is the object."""

    format = "ytvos"

    @cached_property
    def _videos(self) -> dict[str, Any]:
        return _videos(_meta(self.folder))

    @property
    def videos(self) -> dict[str, int]:
        return {name: len(entry["expressions"]) for name, entry in self._videos.items()}

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


class _Davis(Dataset):
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


class _Png(Dataset):
    """One picture of 0 and 255 a sentence and frame."""

    format = "png"

    @cached_property
    def _videos(self) -> dict[str, Any]:
        return _videos(_meta(self.folder))

    @property
    def videos(self) -> dict[str, int]:
        return {name: len(entry["expressions"]) for name, entry in self._videos.items()}

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
            objects[int(row["id"])] = [_coded(e) for e in row["segmentations"]]
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
        return _Davis(root)
    if (root / META).is_file() or _beside(root).is_file():
        if not (root / "Annotations").is_dir():
            return _Mevis(root)
        return _Palette(root) if (root / "meta.json").is_file() else _Png(root)
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


_PICTURES = {".jpg", ".jpeg", ".png"}


def _beside(root: Path) -> Path:
    return root.parent / META.removesuffix(".json") / root.name / META


def _meta(root: Path) -> Path:
    return root / META if (root / META).is_file() else _beside(root)


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


def _coded(entry: Any) -> rle.RLE | None:
    """Return a mask in the compressed encoding; None for an absent or an empty one."""
    if not entry or not rle.area(entry):
        return None
    return entry if isinstance(entry.get("counts"), str) else rle.merge([entry])


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


FORMATS_IN: Mapping[str, Callable[[Path], Dataset]] = {
    kind.format: kind for kind in (_Mevis, _Palette, _Davis, _Coco, _Png)
}
