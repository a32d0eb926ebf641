"""The writers that the manifest names; ``File > Save`` would write nothing of lazy labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_flowrvs.layers import LayerTuple

__all__ = ["write_labels", "write_project"]


def write_labels(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write one labels layer as a multi-page TIFF, a frame at a time.

    Parameters
    ----------
    path : str
        The file.
    data : array of integers, shape (T, H, W) or (H, W)
        Labels; lazy arrays are read one frame at a time.
    attributes : dict
        Of the layer; not needed.

    Returns
    -------
    list of str
        The file that was written.
    """
    import os

    import numpy as np
    import tifffile

    target = Path(path)
    part = target.with_name(f".{target.name}.part")
    try:
        if data.ndim == 3:
            frames = (np.asarray(data[t]) for t in range(data.shape[0]))
            tifffile.imwrite(
                part,
                frames,
                shape=tuple(data.shape),
                dtype=data.dtype,
                metadata={"axes": "TYX"},
                bigtiff=int(np.prod(data.shape)) * data.dtype.itemsize > 2**31,
            )
        else:
            tifffile.imwrite(part, np.asarray(data))
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return [path]


def write_project(path: str, layers: list[LayerTuple]) -> list[str]:
    """Save labels layers as a project.

    Layers of one project are saved with everything that belongs to it, sentences and
    provenance too. Any other labels layers become a new project in which every layer is
    one sentence, its name, and every value an object.

    Parameters
    ----------
    path : str
        Folder to make; it ends in ``.flowrvs``.
    layers : list of (data, attributes, kind)
        Labels layers, and perhaps the image layer of their video.

    Returns
    -------
    list of str
        The folder that was written.

    Raises
    ------
    ProjectError
        Layers of several projects, or of different shapes, were chosen together.
    """
    from flowrvs.errors import ProjectError
    from napari_flowrvs.layers import project_home
    from napari_flowrvs.projects import open_projects

    labels = [layer for layer in layers if layer[2] == "labels"]
    folders = {None if (home := project_home(layer)) is None else home[0] for layer in labels}
    if folders == {None}:
        return [_new_project(path, labels, layers)]
    if len(folders) > 1:
        raise ProjectError(
            "Layers of different projects cannot be saved as one: select those of one project."
        )
    project = open_projects.open(str(folders.pop()))
    if Path(path).resolve() == project.path.resolve():
        project.flush()
    else:
        project.copy_to(path)
    return [path]


def _new_project(path: str, labels: list[LayerTuple], layers: list[LayerTuple]) -> str:
    import shutil

    import numpy as np

    from flowrvs.errors import ProjectError
    from flowrvs.records import VideoInfo
    from flowrvs.store import Project
    from flowrvs.video import open_video

    shapes = {tuple(data.shape) for data, _, _ in labels}
    if len(shapes) > 1 or any(len(shape) != 3 for shape in shapes):
        raise ProjectError("A project needs labels layers of one shape (frames, height, width).")
    count, height, width = shapes.pop()
    info = VideoInfo(None, "array", count, height, width)
    for data, meta, kind in layers:
        if kind == "image":
            source = ((meta.get("metadata") or {}).get("flowrvs") or {}).get("video")
            with open_video(data if source is None else source) as video:
                info = video.info
    if (info.frame_count, info.height, info.width) != (count, height, width):
        raise ProjectError("The image layer and the labels layers differ in shape.")
    project = Project.create(path, info)
    try:
        with project:
            for data, meta, _ in labels:
                name = str(meta.get("name", "labels"))
                record = project.add_layer(name)
                ids: dict[int, int] = {}
                array = project.labels(record.id)
                for t in range(count):
                    frame = np.asarray(data[t])
                    painted = np.zeros(frame.shape, np.uint16)
                    for value in np.unique(frame[frame > 0]).tolist():
                        if value not in ids:
                            ids[value] = project.add_object(f"{name} {value}", record.id).id
                        painted[frame == value] = ids[value]
                    if painted.any():
                        array[t] = painted
                project.add_expression(name, ids.values())
    except BaseException:
        shutil.rmtree(project.path, ignore_errors=True)
        raise
    return str(project.path)
