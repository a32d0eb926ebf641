"""Formats that nothing is read back from: measurements, OME-Zarr, overlay videos."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flowrvs.data._clips import separate
from flowrvs.data._content import Content, Work
from flowrvs.data._sources import Source
from flowrvs.masks import rle
from flowrvs.masks.compose import paint
from flowrvs.store import Provenance
from flowrvs.video import encode

__all__ = ["write_csv", "write_ome_zarr", "write_overlay"]

_OME = "0.5"


def write_csv(folder: Path, work: Work) -> None:
    """``objects.csv``, a row an object and frame, and ``expressions.csv``."""
    # skimage costs a second to import, and only this format needs it.
    from skimage.measure import regionprops

    head = "video frame index object name provenance area left top width height"
    with (
        (folder / "objects.csv").open("w", newline="", encoding="utf-8") as objects,
        (folder / "expressions.csv").open("w", newline="", encoding="utf-8") as expressions,
    ):
        rows, sentences = csv.writer(objects), csv.writer(expressions)
        rows.writerow([*head.split(), "centroid_x", "centroid_y"])
        sentences.writerow(["video", "exp_id", "exp", "objects"])
        for source in work.sources:
            content = work.content(source)
            for key, masks in content.masks.items():
                origin = source.provenance(key)
                for index, mask in enumerate(masks):
                    if mask is None:
                        continue
                    (region,) = regionprops(rle.decode(mask).astype(np.uint8))
                    top, left, bottom, right = (int(n) for n in region.bbox)
                    y, x = region.centroid
                    rows.writerow(
                        [source.name, source.frames[index], index, key, source.object_name(key)]
                        + [Provenance(int(origin[index])).name.lower(), int(region.area)]
                        + [left, top, right - left, bottom - top, f"{x:.3f}", f"{y:.3f}"]
                    )
            for exp_id, (text, ids) in content.expressions.items():
                sentences.writerow([source.name, exp_id, text, " ".join(map(str, ids))])
            work.wrote(source, content)


def write_overlay(folder: Path, work: Work) -> None:
    """``<video>.mp4``, the masks laid over the frames in the objects' colours."""
    for source in work.sources:
        content = work.content(source)
        colors = {n: source.color(key) for n, key in enumerate(content.masks, start=1)}
        encode.write_overlay(
            folder / f"{source.name}.mp4",
            work.arrays(source),
            (_labels(source, content, index) for index in range(len(source.frames))),
            rate=source.video.info.rate,
            colors=colors,
        )
        work.wrote(source, content)


def write_ome_zarr(folder: Path, work: Work) -> None:
    """``<video>.ome.zarr``: frames (t, c, y, x) and, by layer, labels (t, y, x); OME-Zarr 0.5."""
    import zarr

    for source in work.sources:
        content = work.content(source)
        root = zarr.open_group(folder / f"{source.name}.ome.zarr", mode="w", zarr_format=3)
        count, (height, width) = len(source.frames), source.size
        rate = source.video.info.rate
        image = root.create_array(
            "0",
            shape=(count, 3, height, width),
            chunks=(1, 3, height, width),
            dtype="uint8",
            dimension_names=["t", "c", "y", "x"],
        )
        for index, frame in enumerate(work.arrays(source)):
            image[index] = np.moveaxis(frame, 2, 0)
        root.attrs["ome"] = {
            "version": _OME,
            "multiscales": [_multiscale(source.name, "tcyx", rate)],
            "omero": {"channels": [_channel(*pair) for pair in zip("RGB", _CHANNELS, strict=True)]},
        }
        groups = _layers(content)
        values = _label_values(content)
        holder = root.create_group("labels")
        names = ["objects" if n == 1 else f"objects_{n}" for n in range(1, len(groups) + 1)]
        holder.attrs["ome"] = {"version": _OME, "labels": names}
        for name, keys in zip(names, groups, strict=True):
            group = holder.create_group(name)
            array = group.create_array(
                "0",
                shape=(count, height, width),
                chunks=(1, height, width),
                dtype="uint16",
                dimension_names=["t", "y", "x"],
            )
            for index in range(count):
                array[index] = _painted(source, {values[k]: content.masks[k][index] for k in keys})
            group.attrs["ome"] = {
                "version": _OME,
                "multiscales": [_multiscale(name, "tyx", rate)],
                "image-label": {
                    "colors": [
                        {
                            "label-value": values[key],
                            "rgba": [round(255 * c) for c in source.color(key)] + [255],
                        }
                        for key in keys
                    ],
                    "properties": [
                        {
                            "label-value": values[key],
                            "name": source.object_name(key),
                            "sentences": [
                                t for t, ids in content.expressions.values() if key in ids
                            ],
                        }
                        for key in keys
                    ],
                    "source": {"image": "../../"},
                },
            }
        work.wrote(source, content)


_CHANNELS = ("FF0000", "00FF00", "0000FF")


def _channel(label: str, color: str) -> dict[str, Any]:
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    return {"label": label, "color": color, "active": True, "window": window}


def _multiscale(name: str, axes: str, rate: float | None) -> dict[str, Any]:
    kinds = {"t": "time", "c": "channel", "y": "space", "x": "space"}
    described: list[dict[str, str]] = [{"name": a, "type": kinds[a]} for a in axes]
    if rate:
        described[0]["unit"] = "second"
    scale = [1 / rate if rate and a == "t" else 1.0 for a in axes]
    steps = [{"type": "scale", "scale": scale}]
    return {
        "name": name,
        "axes": described,
        "datasets": [{"path": "0", "coordinateTransformations": steps}],
    }


def _label_values(content: Content) -> dict[int, int]:
    """Return the pixel value of every object: its id, unless an id is 0 or too large."""
    keys = list(content.masks)
    if all(0 < key <= 65535 for key in keys):
        return dict(zip(keys, keys, strict=True))
    return {key: value for value, key in enumerate(keys, start=1)}


def _layers(content: Content) -> list[list[int]]:
    return separate(content.masks) or [[]]


def _labels(source: Source, content: Content, index: int) -> npt.NDArray[np.unsignedinteger]:
    found = enumerate(content.masks.values(), start=1)
    return _painted(source, {number: masks[index] for number, masks in found})


def _painted(source: Source, masks: dict[int, rle.RLE | None]) -> npt.NDArray[np.unsignedinteger]:
    seen = {key: rle.decode(mask) for key, mask in masks.items() if mask}
    return paint(seen, source.size, np.uint16)
