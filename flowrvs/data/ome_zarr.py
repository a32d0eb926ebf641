"""OME-Zarr 0.5: frames (t, c, y, x) and labels (t, y, x) that image viewers open."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowrvs.data.clip import Clip, painted, separate

if TYPE_CHECKING:
    from flowrvs.data.job import Job

__all__ = ["write_ome_zarr"]

_VERSION = "0.5"
_CHANNELS = {"R": "FF0000", "G": "00FF00", "B": "0000FF"}
_KINDS = {"t": "time", "c": "channel", "y": "space", "x": "space"}


def write_ome_zarr(folder: Path, job: Job) -> None:
    """``<video>.ome.zarr``: frames and, in as many as overlaps need, label pictures."""
    import zarr

    for clip in job.clips():
        root = zarr.open_group(folder / f"{clip.name}.ome.zarr", mode="w", zarr_format=3)
        image = _array(root, (len(clip.frames), 3, *clip.size), "tcyx", "uint8")
        for index, frame in enumerate(job.arrays(clip)):
            image[index] = np.moveaxis(frame, 2, 0)
        root.attrs["ome"] = {
            "version": _VERSION,
            "multiscales": [_multiscale(clip.name, "tcyx", clip.rate)],
            "omero": {"channels": [_channel(*item) for item in _CHANNELS.items()]},
        }
        groups = separate(clip.masks) or [[]]
        values = _label_values(clip)
        holder = root.create_group("labels")
        names = ["objects" if n == 1 else f"objects_{n}" for n in range(1, len(groups) + 1)]
        holder.attrs["ome"] = {"version": _VERSION, "labels": names}
        for name, keys in zip(names, groups, strict=True):
            group = holder.create_group(name)
            array = _array(group, (len(clip.frames), *clip.size), "tyx", "uint16")
            masks = {values[key]: clip.masks[key] for key in keys}
            for index in range(len(clip.frames)):
                array[index] = painted(masks, index, clip.size)
            group.attrs["ome"] = {
                "version": _VERSION,
                "multiscales": [_multiscale(name, "tyx", clip.rate)],
                "image-label": _image_label(clip, {key: values[key] for key in keys}),
            }


def _array(group: Any, shape: Sequence[int], axes: str, dtype: str) -> Any:
    """Make an array of one chunk a frame."""
    chunks = (1, *shape[1:])
    return group.create_array(
        "0", shape=shape, chunks=chunks, dtype=dtype, dimension_names=list(axes)
    )


def _image_label(clip: Clip, values: dict[int, int]) -> dict[str, Any]:
    colors, properties = [], []
    for key, value in values.items():
        rgba = [round(255 * c) for c in clip.colors[key]] + [255]
        colors.append({"label-value": value, "rgba": rgba})
        about = {"name": clip.names[key], "sentences": clip.spoken_of(key)}
        properties.append({"label-value": value, **about})
    return {"colors": colors, "properties": properties, "source": {"image": "../../"}}


def _channel(label: str, color: str) -> dict[str, Any]:
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    return {"label": label, "color": color, "active": True, "window": window}


def _multiscale(name: str, axes: str, rate: float | None) -> dict[str, Any]:
    described: list[dict[str, str]] = [{"name": axis, "type": _KINDS[axis]} for axis in axes]
    if rate:
        described[0]["unit"] = "second"
    scale = [1 / rate if rate and axis == "t" else 1.0 for axis in axes]
    steps = [{"type": "scale", "scale": scale}]
    return {
        "name": name,
        "axes": described,
        "datasets": [{"path": "0", "coordinateTransformations": steps}],
    }


def _label_values(clip: Clip) -> dict[int, int]:
    """Return the pixel value of every object: its id, unless an id is 0 or too large."""
    keys = list(clip.masks)
    if all(0 < key <= 65535 for key in keys):
        return dict(zip(keys, keys, strict=True))
    return {key: value for value, key in enumerate(keys, start=1)}
