"""What a dataset that is read has, whatever its format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from flowrvs.data._clips import Clip
from flowrvs.masks import rle

__all__ = ["MASKS", "META", "Dataset", "coded", "meta_path"]

META, MASKS = "meta_expressions.json", "mask_dict.json"


class Dataset(ABC):
    """A dataset that videos can be read from.

    Attributes
    ----------
    format : str
        As in `flowrvs.data.FORMATS`.
    folder : Path
        Where it lies.
    """

    format: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    @abstractmethod
    def videos(self) -> dict[str, int]:
        """Number of sentences by video, in the dataset's order."""

    @abstractmethod
    def clip(self, name: str) -> Clip:
        """Read one video's annotations.

        Raises
        ------
        DatasetError
            There is no such video, or it is broken.
        """

    def _pictures(self, name: str) -> Path:
        return self.folder / "JPEGImages" / name


def meta_path(root: Path) -> Path:
    """Return where the sentences are: in the split, or beside it as Ref-YouTube-VOS has them."""
    beside = root.parent / META.removesuffix(".json") / root.name / META
    return root / META if (root / META).is_file() else beside


def coded(entry: Any) -> rle.RLE | None:
    """Return a mask in the compressed encoding; None for an absent or an empty one."""
    if not entry or not rle.area(entry):
        return None
    return entry if isinstance(entry.get("counts"), str) else rle.merge([entry])
