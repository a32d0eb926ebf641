"""COCO by video (YouTube-VIS) and by image: annotation in one JSON file.

COCO by video is read and written. Its masks are run-length encoded as lists, as YouTube-VIS has
them: pycocotools takes those, and not every other reader takes the compressed form.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from pycocotools import mask as coco_mask

from flowrvs.data import json_parts
from flowrvs.data.clip import Clip, coded_masks
from flowrvs.data.formats import Dataset
from flowrvs.data.json_parts import list_keys, read_json, whole_number
from flowrvs.data.pictures import LARGEST, safe_name
from flowrvs.data.ref_ytvos import folders_in
from flowrvs.disk import replacing
from flowrvs.errors import DatasetError, counted
from flowrvs.masks import rle
from flowrvs.video.probe import natural_key

if TYPE_CHECKING:
    from flowrvs.data.job import Job
    from flowrvs.data.write_back import Changes

__all__ = [
    "CocoImages",
    "CocoVideo",
    "add_rows",
    "pairs_of",
    "polygon_mask",
    "size_in",
    "write_coco",
    "write_coco_images",
]

_CATEGORIES = [{"id": 1, "name": "object", "supercategory": "object"}]
_FILE = "instances.json"
_LONGEST = 2_000_000  # pixels of an outline; drawing takes 80 bytes for each


# -- reading ---------------------------------------------------------------------------


class _Coco(Dataset):
    """A JSON file of COCO, given by name or as ``instances.json`` of a folder."""

    key: str  # a list at the top that this kind has

    def __init__(self, folder: Path, pictures: Path | None = None) -> None:
        super().__init__(folder.parent if folder.is_file() else folder, pictures)
        self.source = folder
        self._file = folder if folder.is_file() else folder / _FILE

    @classmethod
    def recognises(cls, root: Path) -> bool:
        lists = list_keys(root if root.is_file() else root / _FILE)
        return cls.key in lists and "annotations" in lists

    @cached_property
    def _data(self) -> dict[str, Any]:
        return read_json(self._file)

    def _rows(self, key: str) -> list[dict[str, Any]]:
        """Return the rows of a list; none where there is no such list."""
        rows = self._data.get(key) or []
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DatasetError(f"{key!r} in {self._file} is no list of objects.")
        return rows

    @cached_property
    def _categories(self) -> dict[str, str]:
        return {_id(row, "id"): str(row.get("name")) for row in self._rows("categories")}

    def _note_strays(self, clip: Clip, key: str, known: Collection[str], *lists: str) -> None:
        """Note how many rows of the file belong to none of its videos or images."""
        rows = (row for name in lists for row in self._rows(name))
        strays = sum(_id(row, key) not in known for row in rows)
        if strays:
            clip.notes.append(f"left out: {counted(strays, 'row')} with an unknown {key!r}")

    def _frames(self, files: Sequence[Any], name: str) -> tuple[Path, list[str]]:
        """Return the folder of a video's frames, and their names."""
        if not files or not all(isinstance(file, str) for file in files):
            raise DatasetError(f"The video {name!r} in {self._file} lists no frames.")
        paths = [PurePosixPath(file.replace("\\", "/")) for file in files]
        for path in paths:
            for part in path.parts:
                safe_name(part, "file", self._file)
        parents = {path.parent for path in paths}
        if len(parents) > 1 or len({path.stem for path in paths}) < len(paths):
            raise DatasetError(
                f"The frames of {name!r} in {self._file} lie in several folders, or one is there "
                "twice."
            )
        return self._place(paths[0]), [path.stem for path in paths]

    def _place(self, first: PurePosixPath) -> Path:
        """Return the folder where a frame lies: where it should, or near the file."""
        bases = [self.pictures, self.pictures / "JPEGImages", self.folder]
        for near in (self.folder, self.folder.parent):
            for inner in folders_in(near):
                bases += [inner, inner / "JPEGImages"]
        for base in bases:
            if (base / first).is_file():
                return base / first.parent
        raise DatasetError(
            f"The frame {first} of {self._file} is not near it; say where it is (--frames)."
        )


class CocoVideo(_Coco):
    """COCO-video (YouTube-VIS): an RLE, polygons or null a frame."""

    format = "coco"
    key = "videos"

    @classmethod
    def recognises(cls, root: Path) -> bool:
        # Those with images, too, say which image an annotation is on (CocoVID).
        return super().recognises(root) and not CocoImages.recognises(root)

    @cached_property
    def _videos(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        ids = set()
        for video in self._rows("videos"):
            files = video.get("file_names")
            name = video.get("name")
            if not name and isinstance(files, list) and files and isinstance(files[0], str):
                name = PurePosixPath(files[0].replace("\\", "/")).parent.name
            safe_name(name, "video", self._file)
            if name in found or _id(video, "id") in ids:
                raise DatasetError(
                    f"{self._file} has the video {name!r}, or its id {video.get('id')!r}, twice."
                )
            ids.add(_id(video, "id"))
            found[str(name)] = video
        return found

    def _of(self, key: str, video: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [r for r in self._rows(key) if _id(r, "video_id") == _id(video, "id")]

    @property
    def videos(self) -> dict[str, int]:
        return {name: len(self._of("expressions", row)) for name, row in self._videos.items()}

    def clip(self, name: str, *, also: Iterable[int] = ()) -> Clip:
        video = self._videos[name]
        files = video.get("file_names")
        folder, frames = self._frames(files if isinstance(files, list) else [], name)
        clip = Clip(name, frames, pictures=folder)
        looked = np.ones(len(frames), bool)
        boxes = 0
        for row in self._of("annotations", video):
            key = whole_number(row.get("id"))
            if key in clip.masks:
                raise DatasetError(f"{self._file} has the annotation id {key} twice.")
            entries, boxed = row.get("segmentations"), _boxed(row, len(frames))
            if boxed and entries is None:
                entries = [None] * len(frames)
            if isinstance(entries, list):
                size = size_in(row, video)
                entries = [polygon_mask(e, size, f"{name}, annotation {key}") for e in entries]
            clip.masks[key] = coded_masks(entries, clip, key)
            clip.ids[key] = (key, -1)
            # There is something whose outline nobody has drawn: it is not absent.
            bare = [i for i in boxed if clip.masks[key][i] is None]
            looked[bare] = False
            boxes += len(bare)
            label = self._categories.get(_id(row, "category_id"), "object")
            if isinstance(row.get("name"), str) and row["name"].strip():
                clip.names[key] = " ".join(row["name"].split())[:60]
            elif label != "object":
                clip.names[key] = f"{' '.join(label.split())[:60]} {key}"
        for row in self._of("expressions", video):
            exp_id, ids = str(row.get("exp_id", row.get("id"))), row.get("annotation_ids")
            if exp_id in clip.sentences:
                raise DatasetError(f"{self._file} has the sentence {name}/{exp_id} twice.")
            if not isinstance(row.get("exp"), str) or not isinstance(ids, list):
                raise DatasetError(f"{name}/{exp_id} in {self._file} lacks 'exp' or its ids.")
            meant = [whole_number(i) for i in ids]
            lost = [i for i in meant if i not in clip.masks]
            if lost:
                raise DatasetError(
                    f"{name}/{exp_id} means the annotation {lost[0]}: there is none."
                )
            clip.sentences[exp_id] = (row["exp"], meant)
        if boxes:
            clip.looked = looked
            clip.notes.append(_boxes_text(boxes))
        known = {_id(row, "id") for row in self._videos.values()}
        self._note_strays(clip, "video_id", known, "annotations", "expressions")
        clip.digests = {"clip": clip.fingerprint()}
        return clip

    def free_ids(self, clip: Clip, count: int) -> list[tuple[int, int]]:
        used = [whole_number(row.get("id")) for row in self._rows("annotations")]
        first = max(used, default=0) + 1
        return [(first + n, -1) for n in range(count)]

    def write_back(self, before: Clip, changes: Changes) -> None:
        video = self._videos[before.name]
        values: dict[int, dict[str, Any] | None] = {}
        for place, row in enumerate(self._rows("annotations")):
            key = whole_number(row.get("id"))
            if _id(row, "video_id") == _id(video, "id") and key in changes.masks:
                gone = key in changes.gone
                values[place] = None if gone else _annotated(row, changes.whole[key], changes)
        shape: dict[str, Any] = {k: video[k] for k in ("width", "height", "length") if k in video}
        new = []
        for key in changes.added:
            name = changes.names[key]
            about = {"video_id": video.get("id"), "category_id": self._category(name), "name": name}
            new.append(
                {"id": key, **about, "iscrowd": 0, **shape, **annotation(changes.whole[key])}
            )
        edits: dict[str, tuple[Mapping[int, Any], Sequence[Any]]] = {"annotations": (values, new)}
        if changes.sentences:
            edits["expressions"] = self._sentences(video, changes)
        with replacing(self._file) as temporary:
            json_parts.rewrite(self._file, temporary, lambda data: _edited(data, edits))

    def _category(self, name: str) -> Any:
        """Return the id of the category that an object's name holds; else of the first one."""
        words, rows = f" {name.casefold()} ", self._rows("categories")
        named = (row for row in rows if f" {row.get('name')} ".casefold() in words)
        return next(named, rows[0] if rows else {"id": 1}).get("id")

    def _sentences(
        self, video: Mapping[str, Any], changes: Changes
    ) -> tuple[dict[int, dict[str, Any] | None], list[dict[str, Any]]]:
        """Return the rows of sentences that differ by their place, and the new ones."""
        values: dict[int, dict[str, Any] | None] = {}
        seen = set()
        rows = self._rows("expressions")
        for place, row in enumerate(rows):
            exp_id = str(row.get("exp_id", row.get("id")))
            if _id(row, "video_id") == _id(video, "id") and exp_id in changes.sentences:
                seen.add(exp_id)
                change = changes.sentences[exp_id]
                values[place] = change and {**row, "exp": change[0], "annotation_ids": change[1]}
        following = max((whole_number(row.get("id", 0)) for row in rows), default=0) + 1
        new: list[dict[str, Any]] = []
        for exp_id, change in changes.sentences.items():
            if exp_id not in seen and change is not None:
                about = {"id": following + len(new), "video_id": video.get("id"), "exp_id": exp_id}
                new.append({**about, "exp": change[0], "annotation_ids": change[1]})
        return values, new


def _boxed(row: Mapping[str, Any], count: int) -> list[int]:
    """Return on which frames an annotation has a box."""
    boxes = row.get("bboxes")
    if not isinstance(boxes, list) or len(boxes) != count:
        return []
    return [i for i, box in enumerate(boxes) if isinstance(box, list) and any(box)]


def _boxes_text(count: int) -> str:
    return f"left out: {counted(count, 'box', 'boxes')} without a mask"


def _annotated(
    row: Mapping[str, Any], masks: Sequence[rle.RLE | None], changes: Changes
) -> dict[str, Any]:
    """Return an annotation with other masks, in the encoding that it had; boxes alone stay."""
    new = annotation(masks)
    before = row.get("segmentations")
    for index in _boxed(row, len(masks)):
        if not (masks[index] or (before and before[index]) or index in changes.looked):
            for name in ("bboxes", "areas"):
                old = row.get(name)
                if isinstance(old, list) and len(old) == len(masks):
                    new[name][index] = old[index]
    if any(isinstance(e, dict) and isinstance(e.get("counts"), str) for e in before or ()):
        new["segmentations"] = list(masks)
    return {**row, **{key: value for key, value in new.items() if key in row}}


def _edited(
    data: json_parts.Buffer, edits: Mapping[str, tuple[Mapping[int, Any], Sequence[Any]]]
) -> Iterator[json_parts.Piece]:
    """Yield a file in which rows of some lists at the top are replaced, removed or added."""
    encoder = json_parts.style(data[:4096])

    def text(row: object) -> bytes:
        return encoder.encode(row).encode("ascii")

    found = list(json_parts.members(data))
    done = 0
    for place in (m for m in found if m.key in edits):
        values, new = edits[place.key]
        yield done, place.start
        rows = {index: None if row is None else text(row) for index, row in values.items()}
        yield from json_parts.splice_list(data, place.start, rows, map(text, new))
        done = place.stop
    there = {m.key for m in found}
    for key, (_, new) in edits.items():
        if new and key not in there:
            yield done, found[-1].stop
            yield b", " + text(key) + b": " + text(list(new))
            done = found[-1].stop
    yield done, len(data)


class CocoImages(_Coco):
    """COCO by image: the images of one folder are a video, annotations with a track its objects."""

    format = "coco-images"
    key = "images"

    @cached_property
    def _videos(self) -> dict[str, list[dict[str, Any]]]:
        folders: dict[PurePosixPath, list[dict[str, Any]]] = {}
        for image in self._rows("images"):
            file = image.get("file_name")
            if not isinstance(file, str) or not 0 < len(file) < 4096:
                raise DatasetError(f"An image in {self._file} has no usable 'file_name'.")
            folders.setdefault(PurePosixPath(file.replace("\\", "/")).parent, []).append(image)
        found: dict[str, list[dict[str, Any]]] = {}
        alike = Counter(folder.name for folder in folders)
        for folder, rows in folders.items():
            name = folder.name if alike[folder.name] == 1 else "-".join(folder.parts)
            found[safe_name(name or self._file.stem, "video", self._file)] = rows
        for images in found.values():
            images.sort(key=lambda image: natural_key(image["file_name"]))
        return found

    @property
    def videos(self) -> dict[str, int]:
        return dict.fromkeys(self._videos, 0)

    def clip(self, name: str, *, also: Iterable[int] = ()) -> Clip:
        images = self._videos[name]
        folder, frames = self._frames([image["file_name"] for image in images], name)
        clip = Clip(name, frames, pictures=folder)
        place = {_id(image, "id"): index for index, image in enumerate(images)}
        if len(place) < len(images):
            raise DatasetError(f"{self._file} has two images of one id in {name!r}.")
        rows: dict[tuple[str, str], dict[int, Any]] = {}
        nth: dict[tuple[int, str], int] = {}
        names: dict[tuple[str, str], str] = {}
        looked = np.ones(len(frames), bool)
        tracked, boxes = True, 0
        for row in self._rows("annotations"):
            index = place.get(_id(row, "image_id"))
            if index is None:
                continue
            label = self._categories.get(_id(row, "category_id"), "object")
            track = _track(row)
            if track is None:
                tracked = False
                nth[index, label] = nth.get((index, label), 0) + 1
                track = str(nth[index, label])
            where = f"{name}, annotation {row.get('id')}"
            if not row.get("segmentation") and row.get("bbox"):
                # There is something whose outline nobody has drawn: it is not absent.
                looked[index] = False
                boxes += 1
                continue
            entry = polygon_mask(row.get("segmentation"), size_in(images[index]), where)
            if index in rows.setdefault((label, track), {}):
                raise DatasetError(f"{where}: track {track} is twice on frame {frames[index]}.")
            rows[label, track][index] = entry
            if isinstance(row.get("name"), str):
                names[label, track] = " ".join(row["name"].split())[:60]
        if boxes:
            clip.looked = looked
            clip.notes.append(_boxes_text(boxes))
        known = {_id(image, "id") for images in self._videos.values() for image in images}
        self._note_strays(clip, "image_id", known, "annotations")
        if rows and not tracked:
            clip.notes.append("objects without a track are joined by category and order")
        add_rows(clip, rows)
        for key, about in enumerate(rows, start=1):
            clip.names[key] = names.get(about) or clip.names[key]
        return clip


def add_rows(clip: Clip, rows: Mapping[tuple[str, str], Mapping[int, Any]]) -> None:
    """Add objects that are known by a label and a number of their own."""
    for key, ((label, number), found) in enumerate(rows.items(), start=1):
        entries = [found.get(index) for index in range(len(clip.frames))]
        clip.masks[key] = coded_masks(entries, clip, f"{label} {number}".strip())
        clip.ids[key] = (key, -1)
        clip.names[key] = " ".join(f"{label} {number}".split())[:60] or f"object {key}"


def _id(row: Mapping[str, Any], key: str) -> str:
    """Return an id as text: files give 7, "7" and, through pandas, 7.0 for the same."""
    value = row.get(key)
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _track(row: Mapping[str, Any]) -> str | None:
    attributes = row.get("attributes")
    for place in (row, attributes if isinstance(attributes, dict) else {}):
        for key in ("track_id", "instance_id"):
            if isinstance(place.get(key), (int, str)):
                return str(place[key])
    return None


def size_in(*rows: Mapping[str, Any]) -> tuple[int, int]:
    """Return the first height and width that rows give, (0, 0) where they give none."""
    for row in rows:
        height, width = row.get("height"), row.get("width")
        if isinstance(height, int) and isinstance(width, int) and 0 < height * width <= LARGEST:
            return height, width
    return 0, 0


def pairs_of(points: Any, where: str) -> list[tuple[float, float]]:
    """Return points as pairs of finite numbers; there is at least one."""
    try:
        pairs = [(float(x), float(y)) for x, y in points]
    except (TypeError, ValueError, OverflowError):
        pairs = []
    if not pairs or not all(math.isfinite(n) for pair in pairs for n in pair):
        raise DatasetError(f"{where}: the points of a shape are no pairs of numbers.")
    return pairs


def _length(pairs: Sequence[tuple[float, float]]) -> float:
    """Return how many pixels the outline of a polygon has."""
    ends = zip(pairs, (*pairs[1:], *pairs[:1]), strict=True)
    return sum(max(abs(x1 - x0), abs(y1 - y0)) for (x0, y0), (x1, y1) in ends)


def polygon_mask(polygons: Any, size: tuple[int, int], where: str) -> Any:
    """Draw polygons, lists of x and y in turn, as COCO does; RLEs are returned as they are."""
    if not polygons or not isinstance(polygons, list):
        return polygons
    height, width = size
    if not height:
        raise DatasetError(f"{where}: polygons need the 'height' and 'width' of the frame.")
    drawn = []
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) % 2:
            raise DatasetError(f"{where}: a polygon is no list of x and y.")
        pairs = pairs_of(list(zip(polygon[::2], polygon[1::2], strict=True)), where)
        flat = [n for pair in pairs for n in pair]
        # What lies far outside would be drawn too: outlines cost memory by their length.
        if max(map(abs, flat)) > 4 * max(size):
            raise DatasetError(f"{where}: a polygon lies far outside its frame.")
        if _length(pairs) > min(4 * (height + 2) * (width + 2), _LONGEST):
            raise DatasetError(f"{where}: a polygon's outline is longer than its frame allows.")
        if len(flat) >= 6:
            drawn.append(flat)
    if not drawn:
        return None
    return rle.merge(coco_mask.frPyObjects(drawn, height, width))


# -- writing ---------------------------------------------------------------------------


def write_coco(folder: Path, job: Job) -> None:
    """COCO-video (YouTube-VIS): ``instances.json`` with an RLE or null a frame."""
    videos: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    sentences: list[dict[str, Any]] = []
    for video_id, clip in _with_pictures(folder, job):
        shape = {"width": clip.size[1], "height": clip.size[0], "length": len(clip.frames)}
        names = [f"{clip.name}/{frame}.jpg" for frame in clip.frames]
        videos.append({"id": video_id, "name": clip.name, "file_names": names, **shape})
        ids = {key: len(annotations) + n for n, key in enumerate(clip.masks, start=1)}
        for key, masks in clip.masks.items():
            about = {"id": ids[key], "video_id": video_id, "category_id": 1, "iscrowd": 0, **shape}
            annotations.append({**about, "name": clip.names[key], **annotation(masks)})
        for exp_id, (text, keys) in clip.sentences.items():
            sentences.append(
                {
                    "id": len(sentences) + 1,
                    "video_id": video_id,
                    "exp_id": exp_id,
                    "exp": text,
                    "annotation_ids": [ids[key] for key in keys or ()],
                }
            )
    _write(job, videos=videos, annotations=annotations, expressions=sentences)


def annotation(masks: Sequence[rle.RLE | None]) -> dict[str, list[Any]]:
    """Return what an annotation of COCO-video says of an object's masks."""
    # Uncompressed: see the first lines of this module.
    listed = [m and {"size": m["size"], "counts": rle.runs(m).tolist()} for m in masks]
    return {
        "segmentations": listed,
        "areas": [rle.area(m) if m else None for m in masks],
        "bboxes": [rle.box(m) if m else None for m in masks],
    }


def write_coco_images(folder: Path, job: Job) -> None:
    """COCO: every frame is an image, every mask on it an annotation with a track."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    tracks = 0
    for video_id, clip in _with_pictures(folder, job):
        numbers = {key: tracks + n for n, key in enumerate(clip.masks, start=1)}
        tracks += len(numbers)
        for index, frame in enumerate(clip.frames):
            if clip.looked is not None and not clip.looked[index]:
                continue  # an image in the list says that its objects were looked for
            images.append(
                {
                    "id": len(images) + 1,
                    "file_name": f"{clip.name}/{frame}.jpg",
                    "width": clip.size[1],
                    "height": clip.size[0],
                    "video_id": video_id,
                    "frame_id": index,
                }
            )
            for key, masks in clip.masks.items():
                mask = masks[index]
                if mask is not None:
                    annotations.append(
                        {
                            "id": len(annotations) + 1,
                            "image_id": len(images),
                            "category_id": 1,
                            "iscrowd": 0,
                            "segmentation": mask,
                            "area": rle.area(mask),
                            "bbox": rle.box(mask),
                            "track_id": numbers[key],
                            "name": clip.names[key],
                            "sentences": clip.spoken_of(key),
                        }
                    )
    _write(job, images=images, annotations=annotations)


def _with_pictures(folder: Path, job: Job) -> Iterator[tuple[int, Clip]]:
    """Write the frames of every video, and yield it with its number."""
    for video_id, clip in enumerate(job.clips(), start=1):
        job.write_pictures(folder / "JPEGImages" / clip.name, clip)
        yield video_id, clip


def _write(job: Job, **lists: list[dict[str, Any]]) -> None:
    about = {"info": {"description": job.target.name}, "licenses": [], "categories": _CATEGORIES}
    job.write_json(_FILE, {**about, **lists})
