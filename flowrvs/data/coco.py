"""COCO's JSON: by video as YouTube-VIS has it, read and written; by image, written."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowrvs.data.clip import Clip, coded
from flowrvs.data.formats import Dataset
from flowrvs.data.json_parts import read_json
from flowrvs.data.pictures import safe_name
from flowrvs.masks import rle

if TYPE_CHECKING:
    from flowrvs.data.export import Job

__all__ = ["CocoVideo", "write_coco", "write_coco_images"]

_CATEGORIES = [{"id": 1, "name": "object", "supercategory": "object"}]
_FILE = "instances.json"


class CocoVideo(Dataset):
    """COCO-video (YouTube-VIS): ``instances.json`` with an RLE or null a frame."""

    format = "coco"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder.parent if folder.is_file() else folder)
        self._file = folder if folder.is_file() else folder / _FILE

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return root.is_file() or (root / _FILE).is_file()

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
        counts = dict.fromkeys(self._videos, 0)
        names = {video["id"]: name for name, video in self._videos.items()}
        for row in self._data.get("expressions", ()):
            if row.get("video_id") in names:
                counts[names[row["video_id"]]] += 1
        return counts

    def clip(self, name: str) -> Clip:
        video = self._videos[name]
        files = [str(f) for f in video["file_names"]]
        for file in files:
            for part in Path(file).parts:
                safe_name(part, "file", self._file)
        folder = self.folder / "JPEGImages" / Path(files[0]).parent
        if not folder.is_dir():
            folder = self.folder / Path(files[0]).parent
        clip = Clip(name, [Path(file).stem for file in files], pictures=folder)
        labels = {c["id"]: str(c["name"]) for c in self._data.get("categories", ())}
        for row in self._data.get("annotations") or ():
            if row["video_id"] != video["id"]:
                continue
            key = int(row["id"])
            clip.masks[key] = [coded(entry) for entry in row["segmentations"]]
            clip.ids[key] = (key, -1)
            label = labels.get(row.get("category_id"), "object")
            if label != "object":
                clip.names[key] = f"{label} {key}"
        for row in self._data.get("expressions", ()):
            if row["video_id"] == video["id"]:
                exp_id = str(row.get("exp_id", row["id"]))
                clip.sentences[exp_id] = (str(row["exp"]), [int(i) for i in row["annotation_ids"]])
        return clip


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
            annotations.append(
                {
                    "id": ids[key],
                    "video_id": video_id,
                    "category_id": 1,
                    "iscrowd": 0,
                    **shape,
                    "segmentations": masks,
                    "areas": [rle.area(m) if m else None for m in masks],
                    "bboxes": [rle.box(m) if m else None for m in masks],
                }
            )
        for exp_id, (text, keys) in clip.sentences.items():
            sentences.append(
                {
                    "id": len(sentences) + 1,
                    "video_id": video_id,
                    "exp_id": exp_id,
                    "exp": text,
                    "annotation_ids": [ids[key] for key in keys],
                }
            )
    _write(job, videos=videos, annotations=annotations, expressions=sentences)


def write_coco_images(folder: Path, job: Job) -> None:
    """COCO: every frame is an image, every mask on it an annotation with a track."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    tracks = 0
    for video_id, clip in _with_pictures(folder, job):
        numbers = {key: tracks + n for n, key in enumerate(clip.masks, start=1)}
        tracks += len(numbers)
        for index, frame in enumerate(clip.frames):
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
