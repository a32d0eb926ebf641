"""What a source of training data gives: videos, sentences, pictures and masks on request.

A picture data set (RefCOCO) is a source whose videos have one frame each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowrvs import disk
from flowrvs.data.pictures import open_picture
from flowrvs.errors import DatasetError, MissingPathError, first_line

__all__ = [
    "Picture",
    "Sentence",
    "Source",
    "TrainingVideo",
    "open_listed",
    "read_json",
    "read_picture",
]

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence about a video, with its truth.

    Attributes
    ----------
    text : str
        As the annotator wrote it.
    objects : tuple of int
        The source's keys of the objects that are meant; empty where nothing is.
    frames : tuple of int
        Native indices of the frames that may be trained on, ascending, at least one.
    """

    text: str
    objects: tuple[int, ...]
    frames: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TrainingVideo:
    """A video, or a picture.

    Attributes
    ----------
    name : str
        Unique in its source.
    sentences : tuple of Sentence
    origin : str
        The path of its pictures, which other sources may speak of, too; empty where it has none.
    """

    name: str
    sentences: tuple[Sentence, ...]
    origin: str = ""


class Source(Protocol):
    """Where clips come from; can be pickled, and opens its files in each process itself.

    Attributes
    ----------
    label : str
        Names it in messages.
    identity : str
        Part of the key under which encoded clips are kept: changes with what it reads.
    videos : tuple of TrainingVideo
    skipped : dict of str to int
        How many items were left out, by reason in words.
    """

    label: str
    identity: str
    videos: tuple[TrainingVideo, ...]
    skipped: dict[str, int]

    def size(self, video: TrainingVideo) -> tuple[int, int]:
        """Return height and width of a video's pictures."""
        ...

    def pictures(self, video: TrainingVideo, frames: Sequence[int]) -> list[Picture]:
        """Read frames, each (H, W, 3) RGB; one may be asked for twice."""
        ...

    def masks(
        self, video: TrainingVideo, sentence: Sentence, frames: Sequence[int]
    ) -> npt.NDArray[np.bool_]:
        """Return what a sentence means on frames, (T, H, W): the union of its objects."""
        ...


@contextmanager
def open_listed(path: Path, formats: Sequence[str] = ("JPEG", "PNG")) -> Iterator[Image.Image]:
    """Open a picture that was there when its folder was listed.

    Raises
    ------
    DatasetError
        It is missing by now, damaged, or no plain file.
    """
    try:
        with open_picture(path, formats) as picture:
            yield picture
    except FileNotFoundError:
        raise DatasetError(f"The picture {path} is missing; copy it again.") from None


def read_picture(path: Path) -> Picture:
    """Read a picture as RGB, (H, W, 3); see `open_listed`."""
    with open_listed(path) as picture:
        return np.asarray(picture.convert("RGB"))


def read_json(path: Path, limit: int = 2**33) -> Any:
    """Read a JSON file.

    Raises
    ------
    MissingPathError
        There is no such file.
    DatasetError
        It is not JSON, or larger than `limit` bytes.
    """
    try:
        return disk.read_json(path, limit)
    except FileNotFoundError:
        raise MissingPathError(f"{path} is missing; copy it again.") from None
    except ValueError as error:
        raise DatasetError(
            f"{path} is not readable JSON ({first_line(error)}); copy it again."
        ) from None
