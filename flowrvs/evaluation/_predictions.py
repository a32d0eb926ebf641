"""Predicted masks, from a folder or from the zip file that would be submitted."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowrvs.errors import DatasetError, MissingPathError

__all__ = ["Predictions", "read_mask"]


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

    def read(self, video: str, exp_id: str, frame: str) -> npt.NDArray[np.bool_] | None:
        """Return one predicted mask, shape (H, W); None when it is missing.

        Raises
        ------
        DatasetError
            The picture is damaged.
        """
        name = f"{self._prefix}{video}/{exp_id}/{frame}.png"
        if self._zip is not None:
            if name not in self._names:
                return None
            try:
                data = self._zip.read(name)
            except (zipfile.BadZipFile, OSError, EOFError):
                raise DatasetError(f"{name} in {self.path} is damaged; zip it again.") from None
            return read_mask(io.BytesIO(data), f"{self.path}:{name}")
        path = self.path / name
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return read_mask(file, str(path))

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
