"""Predicted masks, from a folder or from the zip file that would be submitted."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from flowrvs.errors import DatasetError, InputError, MissingPathError
from flowrvs.evaluation import _bits
from flowrvs.evaluation._png import read_words

if TYPE_CHECKING:
    from flowrvs.data.mevis import MevisSplit

__all__ = ["Predictions", "choose_videos"]


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
        OSError, KeyError
            The file cannot be read, the zip file does not have it.
        """
        name = self._prefix + name
        if self._zip is None:
            with open(f"{self.path}{os.sep}{name}", "rb", buffering=0) as file:
                return file.read()
        try:
            return self._zip.read(name)
        except (zipfile.BadZipFile, OSError, EOFError):
            raise DatasetError(f"{name} in {self.path} is damaged; zip it again.") from None

    def read(self, name: str) -> tuple[_bits.Words, int] | None:
        """Return one predicted mask, packed, and its width; None when it is missing.

        Raises
        ------
        DatasetError
            The picture is damaged.
        """
        where = f"{self.path}{os.sep}{self._prefix}{name}"
        try:
            data = self.data(name)
        except (FileNotFoundError, KeyError):
            return None
        except OSError as error:
            reason = error.strerror or str(error)
            raise DatasetError(f"{where} cannot be read: {reason}.") from None
        return read_words(data, where)

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
