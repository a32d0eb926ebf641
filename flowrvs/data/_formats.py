"""The formats of an export, each a function that fills the folder of one split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flowrvs.data._coco_formats import write_coco, write_coco_images
from flowrvs.data._content import Work
from flowrvs.data._mevis_writer import MevisFiles
from flowrvs.data._other_formats import write_csv, write_ome_zarr, write_overlay
from flowrvs.data._palette_formats import write_davis, write_refdavis, write_ytvos
from flowrvs.data._parts import write_json, write_pictures
from flowrvs.masks import rle

__all__ = ["DESCRIPTIONS", "WRITERS"]


def write_mevis(
    folder: Path, work: Work, *, first_anno: int = 0, truth: bool | None = None
) -> None:
    """MeViS: ``meta_expressions.json`` and ``mask_dict.json``."""
    if truth is None:
        truth = work.target.name != "valid"
    files = MevisFiles(
        folder,
        work.target,
        quality=work.quality,
        truth=truth,
        jobs=work.jobs,
        first_anno=first_anno,
    )
    try:
        for source in work.sources:
            content = work.content(source)
            files.add_video(
                source.name,
                work.pictures(source),
                frame_names=source.frames,
                objects=content.masks,
                expressions=content.expressions,
            )
            work.wrote(source, content)
        files.finish()
    finally:
        files.drop()
    if not truth:
        work.notes.append("the split 'valid' is written without masks, as MeViS's own is")


def write_png(folder: Path, work: Work) -> None:
    """One picture of 0 and 255 a sentence and frame, laid out as predictions are."""
    expressions: dict[str, Any] = {}
    for source in work.sources:
        content = work.content(source)
        write_pictures(folder / "JPEGImages" / source.name, source, work)
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
        work.wrote(source, content)
    write_json(folder / "meta_expressions.json", {"videos": expressions})


WRITERS: Mapping[str, Callable[[Path, Work], None]] = {
    "mevis": write_mevis,
    "ytvos": write_ytvos,
    "refdavis": write_refdavis,
    "davis": write_davis,
    "coco": write_coco,
    "coco-images": write_coco_images,
    "png": write_png,
    "ome-zarr": write_ome_zarr,
    "csv": write_csv,
    "overlay": write_overlay,
}

DESCRIPTIONS: Mapping[str, str] = {
    "mevis": "MeViS: sentences for any number of objects, RLE masks",
    "ytvos": "Ref-YouTube-VOS: palette PNGs, one object a sentence",
    "refdavis": "Ref-DAVIS17: as Ref-YouTube-VOS, with DAVIS's categories",
    "davis": "DAVIS 2017: palette PNGs, ImageSets, sentences as text",
    "coco": "YouTube-VIS / COCO-video: RLE a frame",
    "coco-images": "COCO: every frame an image",
    "png": "PNG of 0 and 255 a sentence and frame, as predictions are",
    "ome-zarr": "OME-Zarr 0.5: frames and labels",
    "csv": "CSV: area, box and centroid of every object on every frame",
    "overlay": "MP4: masks laid over the video",
}
"""One line about each format, for people."""
