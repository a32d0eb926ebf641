"""DAVIS 2017 in its own layout: palette PNGs, sets of videos, sentences from text files."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from flowrvs.data.clip import Clip
from flowrvs.data.formats import Dataset
from flowrvs.data.pictures import PICTURES
from flowrvs.data.ref_ytvos import read_palette, write_palette
from flowrvs.errors import DatasetError

if TYPE_CHECKING:
    from flowrvs.data.export import Job

__all__ = ["Davis", "write_davis"]

_SENTENCE = re.compile(r'^(?P<video>.+?)\s+(?P<id>\d+)\s+"(?P<text>.*)"\s*$')


class Davis(Dataset):
    """DAVIS 2017: a pixel's value is the object; sentences where there are some."""

    format = "davis"

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return (root / "ImageSets").is_dir() or (root / "JPEGImages" / "480p").is_dir()

    @cached_property
    def _size(self) -> str:
        # The higher of the usual two, where both are there.
        for name in ("Full-Resolution", "1080p", "480p"):
            if (self.folder / "JPEGImages" / name).is_dir():
                return name
        raise DatasetError(f"{self.folder} has no JPEGImages/480p; give the folder of DAVIS.")

    @cached_property
    def _sentences(self) -> dict[str, list[tuple[int, str]]]:
        found: dict[str, list[tuple[int, str]]] = {}
        for path in [
            self.folder / "text_annotations.txt",
            *sorted(self.folder.glob("davis_text_annotations/*.txt")),
        ]:
            if not path.is_file():
                continue
            data = path.read_bytes()
            try:
                text = data.decode("utf-8")
            except UnicodeDecodeError:
                text = data.decode("latin-1")  # the published files are not UTF-8
            for line in text.splitlines():
                match = _SENTENCE.match(line)
                if match:
                    row = (int(match["id"]), match["text"])
                    found.setdefault(match["video"], []).append(row)
        return found

    @property
    def videos(self) -> dict[str, int]:
        root = self.folder / "JPEGImages" / self._size
        names = sorted(path.name for path in root.iterdir() if path.is_dir())
        return {name: len(self._sentences.get(name, ())) for name in names}

    def clip(self, name: str) -> Clip:
        pictures = self.folder / "JPEGImages" / self._size / name
        frames = sorted(p.stem for p in pictures.iterdir() if p.suffix.lower() in PICTURES)
        clip = Clip(name, frames, pictures=pictures)
        read_palette(clip, self.folder / "Annotations" / self._size / name)
        for number, (key, text) in enumerate(self._sentences.get(name, [])):
            clip.sentences[str(number)] = (text, [key] if key in clip.masks else [])
        return clip


def write_davis(folder: Path, job: Job) -> None:
    """DAVIS 2017: palette PNGs, ``ImageSets``, and the sentences as a text file."""
    lines, names = [], []
    for _, part in write_palette(folder, job, "480p"):
        names.append(part.name)
        for text, value in part.sentences.values():
            lines.append(f'{part.name} {value} "{" ".join(text.split())}"')
    sets = folder / "ImageSets" / "2017"
    sets.mkdir(parents=True)
    for path, rows in (
        (sets / f"{job.target.name}.txt", names),
        (folder / "text_annotations.txt", lines),
    ):
        path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
