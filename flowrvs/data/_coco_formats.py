"""COCO's JSON: by video as YouTube-VIS has it, and by image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flowrvs.data._content import Work
from flowrvs.data._parts import write_json, write_pictures
from flowrvs.masks import rle

__all__ = ["write_coco", "write_coco_images"]

_CATEGORIES = [{"id": 1, "name": "object", "supercategory": "object"}]


def write_coco(folder: Path, work: Work) -> None:
    """COCO-video (YouTube-VIS): ``instances.json`` with an RLE or null a frame."""
    videos: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    sentences: list[dict[str, Any]] = []
    for video_id, source in enumerate(work.sources, start=1):
        content = work.content(source)
        write_pictures(folder / "JPEGImages" / source.name, source, work)
        height, width = source.size
        shape = {"width": width, "height": height, "length": len(source.frames)}
        names = [f"{source.name}/{frame}.jpg" for frame in source.frames]
        videos.append({"id": video_id, "name": source.name, "file_names": names, **shape})
        ids = {}
        for key, masks in content.masks.items():
            ids[key] = len(annotations) + 1
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
        for exp_id, (text, keys) in content.expressions.items():
            sentences.append(
                {
                    "id": len(sentences) + 1,
                    "video_id": video_id,
                    "exp_id": exp_id,
                    "exp": text,
                    "annotation_ids": [ids[key] for key in keys],
                }
            )
        work.wrote(source, content)
    write_json(
        folder / "instances.json",
        {
            "info": {"description": work.target.name},
            "licenses": [],
            "categories": _CATEGORIES,
            "videos": videos,
            "annotations": annotations,
            "expressions": sentences,
        },
    )


def write_coco_images(folder: Path, work: Work) -> None:
    """COCO: every frame is an image, every mask on it an annotation with a track."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    tracks = 0
    for video_id, source in enumerate(work.sources, start=1):
        content = work.content(source)
        write_pictures(folder / "JPEGImages" / source.name, source, work)
        height, width = source.size
        numbers = {key: tracks + n for n, key in enumerate(content.masks, start=1)}
        tracks += len(numbers)
        for index, frame in enumerate(source.frames):
            image_id = len(images) + 1
            images.append(
                {
                    "id": image_id,
                    "file_name": f"{source.name}/{frame}.jpg",
                    "width": width,
                    "height": height,
                    "video_id": video_id,
                    "frame_id": index,
                }
            )
            for key, masks in content.masks.items():
                mask = masks[index]
                if mask is None:
                    continue
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": 1,
                        "iscrowd": 0,
                        "segmentation": mask,
                        "area": rle.area(mask),
                        "bbox": rle.box(mask),
                        "track_id": numbers[key],
                        "sentences": [t for t, ids in content.expressions.values() if key in ids],
                    }
                )
        work.wrote(source, content)
    write_json(
        folder / "instances.json",
        {
            "info": {"description": work.target.name},
            "licenses": [],
            "categories": _CATEGORIES,
            "images": images,
            "annotations": annotations,
        },
    )
