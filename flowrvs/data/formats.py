"""The table of formats. Adding one is a file with its reading and writing, and a line here.

Importing this costs nothing: the format's own module is imported when it is used.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from flowrvs.disk import NewFolder
from flowrvs.errors import DatasetError, InputError, MissingPathError

if TYPE_CHECKING:
    from flowrvs.data.clip import Clip
    from flowrvs.data.export import Job

__all__ = [
    "DESCRIPTIONS",
    "FORMATS",
    "MASKS",
    "META",
    "WRITTEN_BY",
    "Dataset",
    "Format",
    "meta_path",
    "new_split",
    "open_dataset",
    "split_folder",
    "writer",
]

META, MASKS = "meta_expressions.json", "mask_dict.json"

WRITTEN_BY = "Written by flowrvs"
"""What the datasheet of an export says, by which it is known again."""


@dataclass(frozen=True, slots=True)
class Format:
    """A format of datasets.

    Attributes
    ----------
    about : str
        One line for people.
    write : str
        ``module:function`` that fills the folder of a split; blank where none is written.
    read : str
        ``module:class`` of its `Dataset`; blank where none is read.
    """

    about: str
    write: str = ""
    read: str = ""


_TABLE: Mapping[str, Format] = {
    "mevis": Format(
        "MeViS: sentences for any number of objects, RLE masks", "mevis:write_mevis", "mevis:Mevis"
    ),
    "ytvos": Format(
        "Ref-YouTube-VOS: palette PNGs, one object a sentence",
        "ref_ytvos:write_ytvos",
        "ref_ytvos:RefYtvos",
    ),
    "refdavis": Format(
        "Ref-DAVIS17: as Ref-YouTube-VOS, with DAVIS's categories", "ref_ytvos:write_refdavis"
    ),
    "davis": Format(
        "DAVIS 2017: palette PNGs, ImageSets, sentences as text", "davis:write_davis", "davis:Davis"
    ),
    "coco": Format("YouTube-VIS / COCO-video: RLE a frame", "coco:write_coco", "coco:CocoVideo"),
    "coco-images": Format("COCO: every frame an image", "coco:write_coco_images"),
    "png": Format(
        "PNG of 0 and 255 a sentence and frame, as predictions are", "png:write_png", "png:Png"
    ),
    "ome-zarr": Format("OME-Zarr 0.5: frames and labels", "ome_zarr:write_ome_zarr"),
    "csv": Format(
        "CSV: area, box and centroid of every object on every frame", "csv_tables:write_csv"
    ),
    "overlay": Format("MP4: masks laid over the video", "overlay:write_overlay"),
}

FORMATS = tuple(name for name, row in _TABLE.items() if row.write)
"""Formats that `flowrvs.data.export_projects` writes."""

DESCRIPTIONS: Mapping[str, str] = {name: _TABLE[name].about for name in FORMATS}
"""One line about each of them, for people."""


class Dataset(ABC):
    """A dataset that videos are read from.

    Attributes
    ----------
    format : str
        Its name in the table.
    folder : Path
        Where it lies.
    """

    format: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    @abstractmethod
    def recognises(cls, root: Path) -> bool:
        """Tell whether a folder or file looks like this format."""

    @property
    @abstractmethod
    def videos(self) -> dict[str, int]:
        """Number of sentences by video, in the dataset's order."""

    @abstractmethod
    def clip(self, name: str) -> Clip:
        """Read the annotations of one video.

        Raises
        ------
        DatasetError
            There is no such video, or it is broken.
        """


def writer(format: str) -> Callable[[Path, Job], None]:
    """Return the function that writes a format.

    Raises
    ------
    InputError
        There is none of that name.
    """
    if format not in FORMATS:
        raise InputError(f"There is no format {format!r}; choose one of {', '.join(FORMATS)}.")
    found: Callable[[Path, Job], None] = _load(_TABLE[format].write)
    return found


def open_dataset(folder: str | os.PathLike[str]) -> Dataset:
    """Recognise a dataset.

    Parameters
    ----------
    folder : path-like
        Of a split, or a JSON file.

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
    for reader in _readers():
        if reader.recognises(root):
            return reader(root)
    split_folder(root)  # says which splits are inside, or that there is none
    raise DatasetError(f"{root} is no dataset that can be read.")


def split_folder(folder: str | os.PathLike[str]) -> Path:
    """Return `folder` when it holds a split.

    Raises
    ------
    MissingPathError
        There is no such folder.
    DatasetError
        It is no split; the message names those inside it.
    """
    root = Path(folder)
    if not root.exists():
        raise MissingPathError(f"No split at {root}; give the folder of a split.")
    if (root / META).is_file():
        return root
    found = (p.parent.name for p in root.glob("*/meta_expressions.json"))
    # A hidden one is being written, or was left by a killed run.
    inner = sorted(name for name in found if not name.startswith("."))
    if not inner:
        raise DatasetError(
            f"{root} has no meta_expressions.json; give the folder of a MeViS-style split."
        )
    raise DatasetError(
        f"{root} holds the splits {', '.join(inner)}; give one of them, e.g. {root / inner[0]}."
    )


def meta_path(root: Path) -> Path:
    """Return where the sentences are: in the split, or beside it as Ref-YouTube-VOS has them."""
    beside = root.parent / META.removesuffix(".json") / root.name / META
    return root / META if (root / META).is_file() else beside


def new_split(folder: str | os.PathLike[str], overwrite: bool) -> NewFolder:
    """Begin the folder of a dataset; with `overwrite` it may replace one, and nothing else."""

    def may_replace(there: Path) -> bool:
        if not overwrite:
            raise DatasetError(
                f"{there} already exists with other content; choose another folder, or "
                "overwrite it (--overwrite)."
            )
        if any((there / mark).exists() for mark in (META, "instances.json", "ImageSets")):
            return True
        try:
            if WRITTEN_BY in (there / "README.md").read_text(encoding="utf-8", errors="replace"):
                return True
        except OSError:
            pass
        raise DatasetError(
            f"{there} holds something else than a split and is not replaced; choose another folder."
        )

    return NewFolder(folder, replace=may_replace, refuse=DatasetError)


def _readers() -> Iterator[type[Dataset]]:
    for row in _TABLE.values():
        if row.read:
            yield _load(row.read)


def _load(where: str) -> Any:
    module, _, name = where.partition(":")
    return getattr(import_module(f"flowrvs.data.{module}"), name)
