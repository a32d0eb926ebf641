"""The table of formats. Adding one is a file with its reading and writing, and a line here.

Importing this costs nothing: the format's own module is imported when it is used.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from flowrvs.errors import DatasetError, InputError, MissingPathError
from flowrvs.folders import NewFolder

if TYPE_CHECKING:
    from flowrvs.data.clip import Clip
    from flowrvs.data.job import Job
    from flowrvs.data.write_back import Changes

__all__ = [
    "DESCRIPTIONS",
    "FORMATS",
    "LEFT_OUT",
    "MASKS",
    "META",
    "TABLE",
    "WRITTEN_BY",
    "Dataset",
    "Format",
    "holds_unknown",
    "may_replace",
    "meta_path",
    "new_split",
    "open_dataset",
    "reader",
    "split_folder",
    "writer",
]

META, MASKS = "meta_expressions.json", "mask_dict.json"

_METAS = (
    "meta_expressions_v2.json",
    "meta_expressions_v2_release.json",
    "meta_expressions_text_release.json",
)
"""Names that MeViS's second version gives to the sentences."""

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
    silent : str
        What becomes of an object that no sentence means, where it is not written as any other.
    home : bool
        Whether corrections of what was read are written back into it.
    absence : {"frame", "object", ""}
        What cannot say "nobody has looked", only "absent": a frame without a mask of an object,
        though another object was looked for (``"object"``), or any frame (``"frame"``).
    unknown : {"valid", "any", ""}
        The split in which sentences whose target nobody knows have a place.
    """

    about: str
    write: str = ""
    read: str = ""
    silent: str = ""
    home: bool = False
    absence: Literal["frame", "object", ""] = ""
    unknown: Literal["valid", "any", ""] = ""


LEFT_OUT = "is left out"
_UNSEEN = "has its pixels, but loaders that go by sentences do not see it"

TABLE: Mapping[str, Format] = {
    "mevis": Format(
        "MeViS: sentences for any number of objects, RLE masks",
        "mevis:write_mevis",
        "mevis:Mevis",
        silent=LEFT_OUT,
        home=True,
        absence="frame",
        unknown="valid",
    ),
    "ytvos": Format(
        "Ref-YouTube-VOS: palette PNGs, one object a sentence",
        "ref_ytvos:write_ytvos",
        "ref_ytvos:RefYtvos",
        home=True,
        silent=_UNSEEN,
        absence="frame",
    ),
    "refdavis": Format(
        "Ref-DAVIS17: as Ref-YouTube-VOS, with DAVIS's categories",
        "ref_ytvos:write_refdavis",
        silent=_UNSEEN,
        absence="frame",
    ),
    "davis": Format(
        "DAVIS 2017: palette PNGs, ImageSets, sentences as text",
        "davis:write_davis",
        "davis:Davis",
        home=True,
        absence="object",
    ),
    "coco": Format(
        "YouTube-VIS / COCO-video: RLE a frame",
        "coco:write_coco",
        "coco:CocoVideo",
        home=True,
        absence="frame",
    ),
    "coco-images": Format(
        "COCO: every frame an image", "coco:write_coco_images", "coco:CocoImages", absence="object"
    ),
    "png": Format(
        "PNG of 0 and 255 a sentence and frame, as predictions are",
        "png:write_png",
        "png:Png",
        home=True,
        silent=LEFT_OUT,
        absence="frame",
    ),
    "ome-zarr": Format(
        "OME-Zarr 0.5: frames and labels", "ome_zarr:write_ome_zarr", absence="frame"
    ),
    "csv": Format(
        "CSV: area, box and centroid of every object on every frame",
        "csv_tables:write_csv",
        unknown="any",
    ),
    "overlay": Format("MP4: masks laid over the video", "overlay:write_overlay"),
    "sa-v": Format("SA-V: a JSON file a video, RLEs of all objects", read="sa_v:SaV", home=True),
    "labelme": Format("labelme, X-AnyLabeling: shapes beside every frame", read="labelme:Labelme"),
    "vos": Format(
        "YouTube-VOS, MOSE, LVOS: palette PNGs, no sentences",
        read="ref_ytvos:PaletteVideos",
        home=True,
    ),
}

FORMATS = tuple(name for name, row in TABLE.items() if row.write)
"""Formats that `flowrvs.data.export_projects` writes."""

DESCRIPTIONS: Mapping[str, str] = {name: TABLE[name].about for name in FORMATS}
"""One line about each of them, for people."""


class Dataset(ABC):
    """A dataset that videos are read from.

    Parameters
    ----------
    folder : Path
        Where it lies.
    pictures : Path, optional
        Where the folders of frames lie, when it is not where the format has them.

    Attributes
    ----------
    format : str
        Its name in the table.
    folder, pictures : Path
        Where it lies, and its frames.
    source : Path
        What it was opened by: the folder, or a file in it.
    elsewhere : bool
        Whether the frames' place was handed in.
    sentences_only : bool
        Whether an object that no sentence means has no place in it.
    masks_only : bool
        Whether sentences have no place in it.
    """

    format: ClassVar[str]
    sentences_only: ClassVar[bool] = False
    masks_only: ClassVar[bool] = False

    def __init__(self, folder: Path, pictures: Path | None = None) -> None:
        self.folder = self.source = folder
        self.pictures = pictures or folder / "JPEGImages"
        self.elsewhere = pictures is not None

    @classmethod
    @abstractmethod
    def recognises(cls, root: Path) -> bool:
        """Tell whether a folder or file looks like this format."""

    @property
    @abstractmethod
    def videos(self) -> dict[str, int]:
        """Number of sentences by video, in the dataset's order."""

    @abstractmethod
    def clip(self, name: str, *, also: Iterable[int] = ()) -> Clip:
        """Read the annotations of one video.

        Parameters
        ----------
        name : str
            One of `videos`.
        also : iterable of int
            Objects that were found before, in formats where only sentences lead to them.

        Raises
        ------
        DatasetError
            It is broken.
        """

    def free_ids(self, clip: Clip, count: int) -> list[tuple[int, int]]:
        """Return the next (obj_id, anno_id) for new objects; -1 where there are no anno_ids."""
        first = max((obj for obj, _ in clip.ids.values()), default=0) + 1
        return [(first + n, -1) for n in range(count)]

    def write_back(self, before: Clip, changes: Changes) -> Mapping[str, str] | None:
        """Change the files so that they hold what a project holds, whole or not at all.

        Returns
        -------
        mapping of str to str, or None
            The exp_ids that sentences have from now on, by those they had; None where all
            stay.

        Raises
        ------
        DatasetError
            The format cannot hold it.
        StorageError
            The disk is full, read-only or failing.
        """
        raise DatasetError(f"The format {self.format} is not written back to.")


def holds_unknown(format: str, split: str) -> bool:
    """Tell whether sentences whose target nobody knows have a place in a split."""
    unknown = TABLE[format].unknown
    return unknown == "any" or (unknown != "" and unknown == split)


def writer(format: str) -> Callable[[Path, Job], None]:
    """Return the function that writes a format.

    Raises
    ------
    InputError
        There is none of that name.
    """
    if format not in FORMATS:
        raise InputError(f"There is no format {format!r}; choose one of {', '.join(FORMATS)}.")
    found: Callable[[Path, Job], None] = _load(TABLE[format].write)
    return found


def reader(format: str) -> type[Dataset]:
    """Return the class that reads a format."""
    found: type[Dataset] = _load(TABLE[format].read)
    return found


def open_dataset(
    folder: str | os.PathLike[str], pictures: str | os.PathLike[str] | None = None
) -> Dataset:
    """Recognise a dataset.

    Parameters
    ----------
    folder : path-like
        Of a split, or a JSON file.
    pictures : path-like, optional
        The folder that holds the videos' folders of frames, where it lies elsewhere.

    Raises
    ------
    MissingPathError
        There is nothing, or no such folder of frames.
    DatasetError
        It is none of the formats, or has no videos.
    """
    root = Path(folder)
    if not root.exists():
        raise MissingPathError(f"No dataset at {root}; give the folder of a split.")
    frames = None if pictures is None else Path(pictures)
    if frames is not None and not frames.is_dir():
        raise MissingPathError(f"There is no folder of frames {frames}.")
    for name in (name for name, row in TABLE.items() if row.read):
        if reader(name).recognises(root):
            found = reader(name)(root, frames)
            if not found.videos:
                raise DatasetError(f"{root} ({name}) lists no video.")
            return found
    if root.is_file():
        raise DatasetError(
            f"{root} is no annotation that can be read: JSON of COCO by video or by image (with "
            "'annotations'), SA-V ('masklet') or labelme ('shapes')."
        )
    inner = [path.name for path in sorted(_entries(root)) if _is_dataset(path)]
    if inner:
        raise DatasetError(
            f"{root} holds the splits {', '.join(inner[:5])}; give one of them, e.g. "
            f"{root / inner[0]}."
        )
    split_folder(root)  # says which splits are inside, or what is there instead
    raise DatasetError(f"{root} is no dataset that can be read.")


def _is_dataset(path: Path) -> bool:
    hidden = path.name.startswith(".") or not path.is_dir()
    return not hidden and any(reader(n).recognises(path) for n, row in TABLE.items() if row.read)


def split_folder(folder: str | os.PathLike[str]) -> Path:
    """Return `folder` when it holds a split of sentences.

    Raises
    ------
    MissingPathError
        There is no such folder.
    DatasetError
        It is no split; the message names those inside it, or what is there instead.
    """
    root = Path(folder)
    if not root.exists():
        raise MissingPathError(f"No split at {root}; give the folder of a split.")
    if meta_path(root).is_file():
        return root
    for path in (meta_path(root), *sorted(_entries(root))):
        if path.suffix == ".json" and os.path.lexists(path) and not path.is_dir():
            if not path.is_file():
                raise DatasetError(f"{path} is no plain file; copy it again.")
    # Hidden ones are being written, or were left by a killed run.
    places = [p for p in sorted(_entries(root)) if p.is_dir() and not p.name.startswith(".")]
    inner = [p.name for p in places if meta_path(p).is_file()]
    if inner:
        raise DatasetError(
            f"{root} holds the splits {', '.join(inner)}; give one of them, e.g. {root / inner[0]}."
        )
    there = [p.name for p in sorted(_entries(root)) if p.suffix == ".json"]
    found = f"; it has {', '.join(there[:3])}" if there else ""
    raise DatasetError(
        f"{root} has no {META}{found}: give the folder of a MeViS-style split, or a JSON file."
    )


def _entries(root: Path) -> list[Path]:
    try:
        return list(root.iterdir())
    except OSError:
        return []


def meta_path(root: Path) -> Path:
    """Return where the sentences of a split are.

    That is in it, under the name of MeViS or of its second version, or beside it as
    Ref-YouTube-VOS has them; where nothing is found, the path that was looked for first.
    """
    places = [root / name for name in (META, *_METAS)]
    places.append(root.parent / META.removesuffix(".json") / root.name / META)
    there = [path for path in places if os.path.lexists(path)] or places[:1]
    return next((path for path in there if path.is_file()), there[0])


def new_split(folder: str | os.PathLike[str], overwrite: bool) -> NewFolder:
    """Begin the folder of a dataset; with `overwrite` it may replace one, and nothing else."""
    return NewFolder(
        folder, replace=lambda there: may_replace(there, overwrite), refuse=DatasetError
    )


def may_replace(there: Path, overwrite: bool) -> bool:
    """Return True when a folder may be replaced by a dataset of other content.

    Raises
    ------
    DatasetError
        It may not.
    """
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


def _load(where: str) -> Any:
    module, _, name = where.partition(":")
    return getattr(import_module(f"flowrvs.data.{module}"), name)
