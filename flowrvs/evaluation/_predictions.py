"""Predicted masks, from a folder or from the zip file that would be submitted."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowrvs.data.mevis import MevisSplit
from flowrvs.errors import DatasetError, InputError, MissingPathError

__all__ = ["Predictions", "choose_videos", "read_mask"]


def choose_videos(split: MevisSplit, videos: Sequence[str] | None) -> list[str]:
    """Return the names of `videos`, each once; all of the split's where it is None.

    Raises
    ------
    InputError
        The split has no such video.
    """
    unknown = [name for name in videos or () if name not in split.videos]
    if unknown:
        raise InputError(f"{split.folder} has no video {unknown[0]!r}; see its JPEGImages folder.")
    return list(split.videos) if videos is None else list(dict.fromkeys(videos))


class Predictions:
    """The pictures ``<video>/<exp_id>/<frame>.png`` under a folder or in a zip file.

    A context manager. A top folder ``Annotations`` (Ref-YouTube-VOS) is looked through.

    Raises
    ------
    MissingPathError
        There is nothing at `path`.
    DatasetError
        `path` is neither a folder nor a zip file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        self._prefix = ""
        if not path.exists():
            raise MissingPathError(f"No predictions at {path}; run 'flowrvs predict' first.")
        if path.is_dir():
            if (path / "Annotations").is_dir():
                self._prefix = "Annotations/"
            return
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError):
            raise DatasetError(
                f"{path} is neither a folder nor a zip file of predictions."
            ) from None
        self._names = set(self._zip.namelist())
        if any(name.startswith("Annotations/") for name in self._names):
            self._prefix = "Annotations/"

    def has(self, name: str) -> bool:
        """True when the picture ``<video>/<exp_id>/<frame>.png`` is there."""
        if self._zip is not None:
            return self._prefix + name in self._names
        return (self.path / (self._prefix + name)).is_file()

    def data(self, name: str) -> bytes:
        """Return the bytes of the picture ``<video>/<exp_id>/<frame>.png``.

        Raises
        ------
        DatasetError
            The zip file is damaged.
        OSError
            The file cannot be read.
        """
        name = self._prefix + name
        if self._zip is None:
            return (self.path / name).read_bytes()
        try:
            return self._zip.read(name)
        except (zipfile.BadZipFile, OSError, EOFError):
            raise DatasetError(f"{name} in {self.path} is damaged; zip it again.") from None

    def read(self, video: str, exp_id: str, frame: str) -> npt.NDArray[np.bool_] | None:
        """Return one predicted mask, shape (H, W); None when it is missing.

        Raises
        ------
        DatasetError
            The picture is damaged.
        """
        name = f"{video}/{exp_id}/{frame}.png"
        if not self.has(name):
            return None
        try:
            data = self.data(name)
        except OSError as error:
            reason = error.strerror or str(error)
            raise DatasetError(f"{self.path / name} cannot be read: {reason}.") from None
        return read_mask(
            io.BytesIO(data), f"{self.path}:{name}" if self._zip else str(self.path / name)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._zip is not None:
            self._zip.close()


def read_mask(file: BinaryIO, where: str) -> npt.NDArray[np.bool_]:
    """Read a mask picture: any pixel that is not black is foreground.

    Colours, palettes included, count by their grey value, as the official script
    (``cv2.IMREAD_GRAYSCALE``) takes them.

    Parameters
    ----------
    file : binary file
        The picture.
    where : str
        Its name, for the message.

    Returns
    -------
    ndarray of bool, shape (H, W)

    Raises
    ------
    DatasetError
        It is damaged or no picture.
    """
    try:
        with Image.open(file) as picture:
            grey = picture if picture.mode in ("1", "L", "I", "I;16", "F") else _grey(picture)
            return np.asarray(grey) != 0
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise DatasetError(f"{where} is not a readable picture; predict it again.") from None


def _grey(picture: Image.Image) -> Image.Image:
    return picture.convert("RGB").convert("L")
