"""The formats of an export, each a function that writes one split folder.

Every one keeps the frames in ``JPEGImages`` and appears whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flowrvs.data._atomic import AtomicFolder
from flowrvs.data._content import Content, ExportResult, Work
from flowrvs.data._frames import write_frames
from flowrvs.data._mevis_writer import MevisWriter
from flowrvs.data._sources import Source
from flowrvs.errors import DatasetError
from flowrvs.masks import rle
from flowrvs.masks.compose import overlap, paint

__all__ = ["WRITERS"]


def write_mevis(target: Path, work: Work) -> ExportResult:
    """MeViS: ``meta_expressions.json`` and ``mask_dict.json``."""
    truth = target.name != "valid"
    with MevisWriter(target, overwrite=work.overwrite, quality=work.quality, truth=truth) as writer:
        for source in work.sources:
            content = work.content(source)
            writer.add_video(
                source.name,
                work.pictures(source),
                frame_names=source.frames,
                objects=content.masks,
                expressions=content.expressions,
            )
            work.wrote(len(source.frames), len(content.expressions), len(content.masks))
    if not truth:
        work.notes.append("the split 'valid' is written without masks, as MeViS's own is")
    return work.result(target, "mevis")


def write_ytvos(target: Path, work: Work) -> ExportResult:
    """Ref-YouTube-VOS: palette PNGs, one object a sentence, ``meta.json``."""
    expressions: dict[str, Any] = {}
    meta: dict[str, Any] = {}
    with _folder(target, work) as atomic:
        folder = atomic.path
        for source in work.sources:
            content = work.content(source)
            _pictures(folder / "JPEGImages" / source.name, source, work)
            labels = _palette(folder / "Annotations" / source.name, source, content, work)
            single = {
                exp_id: {"exp": text, "obj_id": str(labels[ids[0]])}
                for exp_id, (text, ids) in content.expressions.items()
                if len(ids) == 1
            }
            left = len(content.expressions) - len(single)
            if left:
                work.notes.append(_left_out(source, left))
            expressions[source.name] = {"expressions": single, "frames": source.frames}
            meta[source.name] = {
                "objects": {
                    str(labels[key]): {"category": "object", "frames": _seen(source, masks)}
                    for key, masks in content.masks.items()
                }
            }
            work.wrote(len(source.frames), len(single), len(content.masks))
        _json(folder / "meta_expressions.json", {"videos": expressions})
        _json(folder / "meta.json", {"videos": meta})
    return work.result(target, "ytvos")


def write_davis(target: Path, work: Work) -> ExportResult:
    """DAVIS 2017: palette PNGs, ``ImageSets``, and the sentences as a text file."""
    # The tools look into this folder by default; pictures keep their own size.
    size_name = "480p"
    lines = []
    with _folder(target, work) as atomic:
        folder = atomic.path
        for source in work.sources:
            content = work.content(source)
            _pictures(folder / "JPEGImages" / size_name / source.name, source, work)
            labels = _palette(
                folder / "Annotations" / size_name / source.name, source, content, work
            )
            count = 0
            for text, ids in content.expressions.values():
                for key in ids if len(ids) == 1 else ():
                    count += 1
                    lines.append(f'{source.name} {labels[key]} "{" ".join(text.split())}"')
            if count < len(content.expressions):
                work.notes.append(_left_out(source, len(content.expressions) - count))
            work.wrote(len(source.frames), count, len(content.masks))
        sets = folder / "ImageSets" / "2017"
        sets.mkdir(parents=True)
        names = "".join(f"{source.name}\n" for source in work.sources)
        (sets / f"{target.name}.txt").write_text(names, encoding="utf-8")
        text = "".join(f"{line}\n" for line in lines)
        (folder / "text_annotations.txt").write_text(text, encoding="utf-8")
    return work.result(target, "davis")


def write_coco(target: Path, work: Work) -> ExportResult:
    """COCO-video (YouTube-VIS): ``instances.json`` with an RLE or null a frame."""
    videos: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    sentences: list[dict[str, Any]] = []
    with _folder(target, work) as atomic:
        folder = atomic.path
        for video_id, source in enumerate(work.sources, start=1):
            content = work.content(source)
            _pictures(folder / "JPEGImages" / source.name, source, work)
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
            work.wrote(len(source.frames), len(content.expressions), len(content.masks))
        _json(
            folder / "instances.json",
            {
                "info": {"description": target.name},
                "licenses": [],
                "categories": [{"id": 1, "name": "object", "supercategory": "object"}],
                "videos": videos,
                "annotations": annotations,
                "expressions": sentences,
            },
        )
    return work.result(target, "coco")


def write_png(target: Path, work: Work) -> ExportResult:
    """One picture of 0 and 255 a sentence and frame, laid out as predictions are."""
    expressions: dict[str, Any] = {}
    with _folder(target, work) as atomic:
        folder = atomic.path
        for source in work.sources:
            content = work.content(source)
            _pictures(folder / "JPEGImages" / source.name, source, work)
            for exp_id, (_, keys) in content.expressions.items():
                place = folder / "Annotations" / source.name / exp_id
                place.mkdir(parents=True)
                for index, frame in enumerate(source.frames):
                    present = [m for m in (content.masks[key][index] for key in keys) if m]
                    union = rle.merge(present)
                    mask = np.zeros(source.size, bool) if union is None else rle.decode(union)
                    Image.fromarray(mask.astype(np.uint8) * 255).save(place / f"{frame}.png")
            expressions[source.name] = {
                "expressions": {
                    exp_id: {"exp": text} for exp_id, (text, _) in content.expressions.items()
                },
                "frames": source.frames,
            }
            work.wrote(len(source.frames), len(content.expressions), len(content.masks))
        _json(folder / "meta_expressions.json", {"videos": expressions})
    return work.result(target, "png")


WRITERS: Mapping[str, Callable[[Path, Work], ExportResult]] = {
    "mevis": write_mevis,
    "ytvos": write_ytvos,
    "davis": write_davis,
    "coco": write_coco,
    "png": write_png,
}


def _folder(target: Path, work: Work) -> AtomicFolder:
    return AtomicFolder(target, overwrite=work.overwrite)


def _left_out(source: Source, count: int) -> str:
    return (
        f"{source.name}: left out {count} {'sentence' if count == 1 else 'sentences'} for several "
        "objects or none; this format knows one object a sentence"
    )


def _pictures(folder: Path, source: Source, work: Work) -> None:
    folder.mkdir(parents=True)
    write_frames(folder, source.name, work.pictures(source), source.frames, quality=work.quality)


def _palette(folder: Path, source: Source, content: Content, work: Work) -> dict[int, int]:
    """Write palette PNGs and return the pixel value of every object, from 1."""
    if len(content.masks) > 255:
        raise DatasetError(
            f"{source.name} has {len(content.masks)} objects, a palette PNG holds 255; "
            "export to mevis or coco."
        )
    labels = {key: value for value, key in enumerate(content.masks, start=1)}
    folder.mkdir(parents=True)
    crossing = 0
    for index, frame in enumerate(source.frames):
        seen = {
            labels[key]: rle.decode(mask)
            for key, masks in content.masks.items()
            if (mask := masks[index]) is not None
        }
        crossing += bool(overlap(seen.values(), source.size).any())
        picture = Image.fromarray(paint(seen, source.size, np.uint8))
        picture.putpalette(_davis_palette())
        picture.save(folder / f"{frame}.png")
    if crossing:
        work.notes.append(
            f"{source.name}: objects overlap on {crossing} frames, where the later one hides "
            "the earlier; export to mevis or coco to keep both"
        )
    return labels


def _seen(source: Source, masks: list[rle.RLE | None]) -> list[str]:
    return [frame for frame, mask in zip(source.frames, masks, strict=True) if mask]


def _davis_palette() -> bytes:
    """The PASCAL VOC colours that DAVIS uses: the bits of the index, spread over RGB."""
    colors = []
    for index in range(256):
        for channel in range(3):
            colors.append(
                sum(((index >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(8)) & 255
            )
    return bytes(colors)


def _json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value) + "\n", encoding="ascii")
