"""Between the library's records and napari's layer data; neither Qt nor napari in here."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import dask.array as da
import numpy as np
import numpy.typing as npt

from flowrvs.data.mevis import MevisSplit
from flowrvs.errors import DatasetError, FlowRVSError, InputError
from flowrvs.masks import rle
from flowrvs.store import LabelsArray, Project
from flowrvs.video import Video, open_video
from flowrvs.video.probe import IMAGE_SUFFIXES
from napari_flowrvs.projects import open_projects
from napari_flowrvs.source import ShownVideo, VideoSource

__all__ = [
    "LayerTuple",
    "NoVideo",
    "as_video",
    "label_layer",
    "layers_of",
    "no_video",
    "note_placement",
    "object_colors",
    "placement_of",
    "project_home",
    "project_layers",
    "recognise",
    "source_of",
    "split_layers",
    "video_layer",
]

#: What napari readers return: data, arguments of the layer, kind of layer.
LayerTuple: TypeAlias = tuple[Any, dict[str, Any], str]

#: The key of this plugin in a layer's metadata.
KEY = "flowrvs"


#: Names of the axes of every layer.
AXES = ("frame", "y", "x")

#: The key of this plugin in what a project keeps for others.
_NOTES = "napari"

_META = "meta_expressions.json"
_UNKNOWN = (0.6, 0.6, 0.6, 1.0)


def _silent(_: str) -> None:
    return None


def video_layer(video: Video, name: str | None = None) -> LayerTuple:
    """Return a lazy image layer of `video`, one that remembers its path."""
    info = video.info
    if name is None:
        name = Path(info.path).stem if info.path else "video"
    meta = {
        "name": name,
        "rgb": True,
        "axis_labels": AXES,
        "metadata": {KEY: {"video": info.path, "rate": info.rate}},
    }
    return ShownVideo(video), meta, "image"


def object_colors(project: Project, layer_id: int) -> dict[int | None, Any]:
    """Return the colour of every value in a layer, as napari's direct colormap takes it."""
    colors: dict[int | None, Any] = {None: _UNKNOWN, 0: (0.0, 0.0, 0.0, 0.0)}
    for thing in project.objects.values():
        if thing.layer == layer_id:
            colors[thing.id] = (*thing.color, 1.0)
    return colors


def placement_of(project: Project) -> dict[str, Any]:
    """Return where a project's video and masks lie in the world, as arguments of a layer.

    It was written by whoever made the project: what is odd about it is not taken.
    """
    notes = project.notes.get(_NOTES)
    noted = notes.get("placement") if isinstance(notes, dict) else None
    shapes = {"scale": (3,), "translate": (3,), "rotate": (3, 3), "shear": (3,), "affine": (4, 4)}
    found: dict[str, Any] = {}
    try:
        for name, shape in shapes.items():
            found[name] = np.array(noted[name], np.float64)  # type: ignore[index]
            if found[name].shape != shape or not np.isfinite(found[name]).all():
                return {}
        parts = (np.diag(found["scale"]), found["rotate"], found["affine"][:3, :3])
        usable = all(abs(np.linalg.det(part)) > 1e-12 for part in parts)
    except (TypeError, ValueError, KeyError):
        return {}
    return found if usable else {}


def note_placement(project: Project, layer: Any) -> None:
    """Keep in a project where its video lies."""
    names = ("scale", "translate", "rotate", "shear", "affine")
    values = {name: np.asarray(getattr(layer, name), np.float64).tolist() for name in names}
    before = project.notes.get(_NOTES)
    others = before if isinstance(before, dict) else {}
    project.note(_NOTES, {**others, "placement": values})


def label_layer(project: Project, layer_id: int) -> LayerTuple:
    """Return the editable labels layer of one layer of `project`.

    Its data *is* the project's: strokes are on disk a moment later.
    """
    record = project.layers[layer_id]
    meta = {
        "name": record.name,
        "colormap": object_colors(project, layer_id),
        "metadata": {KEY: {"project": str(project.path), "layer": layer_id}},
        **placement_of(project),
    }
    return project.labels(layer_id).shown(_silent), meta, "labels"


def project_layers(project: Project, note: Callable[[str], None] = _silent) -> list[LayerTuple]:
    """Return the video of `project`, where it can be found, and its labels layers."""
    layers = []
    video = _find_video(project, note)
    if video is not None:
        shown = video_layer(video)
        shown[1]["metadata"][KEY]["home"] = str(project.path)
        shown[1].update(placement_of(project))
        layers.append(shown)
    layers += [label_layer(project, layer_id) for layer_id in project.layers]
    if not layers:
        note(f"{project.path.name} has no layers, and its video was not found.")
    return layers


def _find_video(project: Project, note: Callable[[str], None] = _silent) -> Video | None:
    name = project.path.name
    if project.video.path is None:
        note(f"{name} was made from an array: add its video as a layer yourself.")
        return None
    given = project.video.path
    try:
        found = project.find_video()
        if found is not None:
            return open_video(found)
    except FlowRVSError as error:
        note(str(error))
        return None
    note(f"The video of {name} was not found at {given}, nor near it: only its masks are shown.")
    return None


class _Truth:
    """Masks of a split as labels of one video, decoded when a frame is looked at."""

    ndim = 3
    dtype = np.dtype(np.uint16)

    def __init__(
        self, entries: dict[int, list[rle.RLE | None]], positions: list[int | None], size: Any
    ) -> None:
        self._entries = entries
        self._positions = positions
        self.shape = (len(positions), *size)

    def __getitem__(self, index: Any) -> npt.NDArray[np.uint16]:
        first, *rest = index if isinstance(index, tuple) else (index,)
        frames = np.atleast_1d(np.arange(self.shape[0])[first])
        labels = np.stack([self._frame(int(i)) for i in frames])
        if not isinstance(first, slice):
            labels = labels[0]
            return labels[tuple(rest)]
        return labels[(slice(None), *rest)]

    def _frame(self, index: int) -> npt.NDArray[np.uint16]:
        labels = np.zeros(self.shape[1:], np.uint16)
        position = self._positions[index]
        if position is None:
            return labels
        found = []
        for value, masks in self._entries.items():
            mask = masks[position]
            if mask is not None:
                found.append((value, mask))
        # Small objects are drawn over large ones, so that none disappears.
        drawn = sorted(found, key=lambda pair: -rle.area(pair[1]))
        for value, mask in drawn:
            labels[rle.decode(mask)] = value
        return labels


def split_layers(
    folder: Path, name: str | None = None, note: Callable[[str], None] = _silent
) -> list[LayerTuple]:
    """Return a video of a MeViS-style split and, where the split has them, its masks.

    Parameters
    ----------
    folder : Path
        The split.
    name : str, optional
        Name of the video; the split's first one by default.
    note : callable, optional
        Gets what the user should know.

    Raises
    ------
    DatasetError, VideoError, MissingPathError
        The split, or this video of it, is broken.
    """
    split = MevisSplit.open(folder)
    if not split.videos:
        raise DatasetError(f"{folder} lists no videos; there is nothing to show.")
    if name is None:
        name = next(iter(split.videos))
        if len(split.videos) > 1:
            note(
                f"{folder.name} has {len(split.videos)} videos; {name} is shown. "
                f"Open a folder in {folder.name}/JPEGImages for another."
            )
    video = open_video(folder / "JPEGImages" / name)
    layers = [video_layer(video, name)]
    entry = split.videos.get(name)
    if entry is None or not split.has_truth:
        return layers
    sentences: dict[int, list[str]] = {}
    annotations: dict[int, int] = {}
    for expression in entry.expressions.values():
        for obj, anno in zip(expression.obj_id, expression.anno_id, strict=False):
            sentences.setdefault(obj + 1, []).append(expression.exp)
            annotations[obj + 1] = anno
    entries = {value: split.masks(anno) for value, anno in annotations.items()}
    if any(len(masks) != len(entry.frames) for masks in entries.values()):
        raise DatasetError(
            f"{folder}: the masks of {name} do not have one entry a frame; run 'flowrvs check'."
        )
    where = {frame: i for i, frame in enumerate(entry.frames)}
    positions = [where.get(frame) for frame in video.info.frame_names]
    truth = _Truth(entries, positions, (video.info.height, video.info.width))
    lazy = da.from_array(
        truth,
        chunks=(1, *truth.shape[1:]),
        name=False,
        asarray=False,
        meta=np.empty((0, 0, 0), np.uint16),
    )
    order = sorted(sentences)
    features = {
        "index": [0, *order],
        "sentences": ["", *(" | ".join(sentences[value]) for value in order)],
    }
    meta = {"name": f"{name} truth", "features": features, "cache": False, "axis_labels": AXES}
    layers.append((lazy, meta, "labels"))
    return layers


def recognise(path: str | os.PathLike[str]) -> str | None:
    """Say what a folder is: "project", "split", "splits", "video of a split" or "images".

    Only names are looked at, so it is quick; None for anything else, files included.
    """
    path = Path(path)
    if not path.is_dir():
        return None
    if path.suffix == ".flowrvs":
        return "project"
    if (path / _META).is_file():
        return "split"
    if path.parent.name == "JPEGImages" and (path.parent.parent / _META).is_file():
        return "video of a split"
    try:
        if any(p.suffix.lower() in IMAGE_SUFFIXES for p in path.iterdir()):
            return "images"
        if any(path.glob(f"*/{_META}")):
            return "splits"
    except OSError:
        return None
    return None


def layers_of(
    path: str | os.PathLike[str], note: Callable[[str], None] = _silent
) -> list[LayerTuple]:
    """Open anything the plugin knows: a video, a folder of images, a split, a project.

    Parameters
    ----------
    path : path
        What to open.
    note : callable, optional
        Gets sentences that the user should read although it went well.

    Raises
    ------
    FlowRVSError
        It cannot be read.
    """
    path = Path(path)
    kind = recognise(path)
    if kind == "project":
        return project_layers(open_projects.open(path), note)
    if kind == "split":
        return split_layers(path, None, note)
    if kind == "video of a split":
        return split_layers(path.parent.parent, path.name, note)
    if kind == "splits":
        first = sorted(path.glob(f"*/{_META}"))[0].parent
        note(f"{path.name} holds several splits; {first.name} is shown.")
        return split_layers(first, None, note)
    return [video_layer(open_video(path))]


@dataclass(frozen=True, slots=True)
class NoVideo:
    """Why an image layer is no video, and how one could be made of it.

    Attributes
    ----------
    reason : str
        One line for the user.
    axis : int or None
        The axis of which one index is a video; the last one of ``(y, x, frame)`` stands for
        the frames. None where nothing can be done.
    count : int
        How many indices there are to choose from; 1 where there is no choice.
    """

    reason: str
    axis: int | None = None
    count: int = 1


def no_video(layer: Any) -> NoVideo | None:
    """Say why an image layer is no video; None for one that is."""
    name = f"The layer {str(layer.name)!r}"
    shape = tuple(int(n) for n in layer.data.shape)
    if layer.rgb:
        shape = shape[:-1]
    found, frames, alone = None, 0, [0]
    if getattr(layer, "multiscale", False):
        found = NoVideo(f"{name} has several resolutions: use the finest one as the video.", -1)
    elif 0 in shape or len(shape) < 3:
        return NoVideo(f"{name} is one picture, and a video has frames: open a video.")
    elif len(shape) > 4:
        return NoVideo(f"{name} has {len(shape)} axes {shape}: a video has frames, height, width.")
    elif len(shape) == 4:
        axis = 1 + int(np.argmin(shape[1:]))
        alone.append(axis)
        found = NoVideo(
            f"{name} has four axes {shape}, and a video three: use one of {shape[axis]} channels "
            "or planes as the video.",
            axis,
            shape[axis],
        )
    elif not layer.rgb and 4 * shape[2] < min(shape[:2]):
        frames, alone = 2, [2]
        found = NoVideo(f"{name} seems to have its frames last {shape}: put them first.", 2)
    for axis in alone:
        if not _is_alone(layer, axis):
            what = "time" if axis == frames else "its channels or planes"
            return NoVideo(
                f"{name} is turned or sheared through {what}, which no mask can follow: reset its "
                "rotation, shear and affine of that axis."
            )
    return found


def _matrix(layer: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return how the axes of a layer's data lie in the world, a column each, and the origin."""
    origin = np.array(layer.data_to_world(np.zeros(layer.ndim)))
    units = np.eye(layer.ndim)
    return np.stack([np.array(layer.data_to_world(u)) - origin for u in units], axis=1), origin


def _is_alone(layer: Any, axis: int) -> bool:
    """True when an axis of the data is that axis of the world, and no other one mixes with it."""
    matrix, _ = _matrix(layer)
    mixed = np.abs([*np.delete(matrix[axis], axis), *np.delete(matrix[:, axis], axis)])
    return bool(mixed.max() <= 1e-6 * np.abs(matrix).max())


def as_video(layer: Any, index: int = 0) -> LayerTuple:
    """Return a layer of frames, height and width made of one that `no_video` tells of.

    It lies where the layer does, turned and sheared as that is.
    """
    found = no_video(layer)
    if found is None or found.axis is None:
        raise InputError("There is no video in this layer.")
    data, axes = layer.data[0] if layer.multiscale else layer.data, [*range(layer.ndim)]
    if not layer.multiscale:
        data = data if isinstance(data, np.ndarray) else da.asarray(data)
        if len(axes) == 3:  # frames last
            data, axes = np.moveaxis(data, 2, 0), [2, 0, 1]
        else:
            data = data[(slice(None),) * found.axis + (index,)]
            axes.remove(found.axis)
    name = f"{layer.name} {index + 1} of {found.count}" if found.count > 1 else str(layer.name)
    matrix, origin = _matrix(layer)
    matrix, origin = matrix[np.ix_(axes, axes)], origin[axes]
    meta: dict[str, Any] = {
        "name": name,
        "rgb": layer.rgb,
        "axis_labels": AXES if len(axes) == len(AXES) else layer.axis_labels,
        "units": tuple(layer.units[axis] for axis in axes),
    }
    if np.count_nonzero(matrix - np.diag(np.diag(matrix))):
        meta["affine"] = np.eye(len(axes) + 1)
        meta["affine"][:-1] = np.column_stack([matrix, origin])
    else:
        meta |= {"scale": np.diag(matrix), "translate": origin}
    return data, meta, "image"


def source_of(layer: Any) -> VideoSource | None:
    """Return the video that an image layer shows; None for one that is not a video.

    A layer read by this plugin is opened again by its path; of any other layer the array
    is used, as it is shown.
    """
    if no_video(layer) is not None:
        return None
    about = layer.metadata.get(KEY)
    path = about.get("video") if isinstance(about, dict) else None
    array = None if path else layer.data
    return VideoSource(str(layer.name), int(layer.data.shape[0]), path, array)


def project_home(layer: LayerTuple) -> tuple[str, int] | None:
    """Return the project folder and the layer id of labels that lie in a project.

    A copy of such a layer keeps its metadata, but its pixels are its own: None.
    """
    data, meta, _ = layer
    about = (meta.get("metadata") or {}).get(KEY)
    if not isinstance(data, LabelsArray) or not isinstance(about, dict):
        return None
    return str(about["project"]), int(about["layer"])
