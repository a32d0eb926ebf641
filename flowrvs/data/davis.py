"""DAVIS 2017 in its own layout: palette PNGs, sets of videos, sentences from text files."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from flowrvs.data.clip import Clip, unused
from flowrvs.data.formats import Dataset
from flowrvs.data.ref_ytvos import (
    change_palette,
    folders_in,
    frames_in,
    read_palette,
    write_palette,
)
from flowrvs.disk import read_regular, replacing
from flowrvs.errors import DatasetError, counted

if TYPE_CHECKING:
    from flowrvs.data.job import Job
    from flowrvs.data.write_back import Changes

__all__ = ["Davis", "Sentence", "read_text", "write_davis"]

_SENTENCE = re.compile(r'^(?P<video>\S.*?)\s+(?P<id>\d{1,6})\s+["“”](?P<text>.*)["“”]\s*$')
_OWN = "text_annotations.txt"
_LARGEST = 64 << 20


@dataclass(frozen=True, slots=True)
class Sentence:
    """A line of a text file: where it stands, and what it says of which object."""

    path: Path
    line: int
    object_id: int
    text: str


class Davis(Dataset):
    """DAVIS 2017: a pixel's value is the object; sentences where there are some."""

    format = "davis"

    def __init__(self, folder: Path, pictures: Path | None = None) -> None:
        super().__init__(_davis_in(folder), pictures)
        self.unread: list[str] = []  # lines that are no sentences; filled with `sentences`

    @classmethod
    def recognises(cls, root: Path) -> bool:
        root = _davis_in(root)
        places = ("ImageSets", "JPEGImages/480p", "Annotations/480p")
        return any((root / place).is_dir() for place in places)

    @cached_property
    def _drawn(self) -> Path:
        """The folder of the masks; DAVIS's unsupervised half has a name of its own for it."""
        places = [self.folder / name for name in ("Annotations", "Annotations_unsupervised")]
        return next((place for place in places if place.is_dir()), places[0])

    @cached_property
    def _size(self) -> str:
        # The higher of the usual two, where both are there: with masks, if some have them.
        there = [n for n in ("Full-Resolution", "1080p", "480p") if (self.pictures / n).is_dir()]
        masked = [name for name in there if (self._drawn / name).is_dir()]
        for name in (*masked, *there):
            return name
        raise DatasetError(f"{self.pictures} has no 480p; give the folder of DAVIS.")

    @cached_property
    def _names(self) -> list[str]:
        return [path.name for path in folders_in(self.pictures / self._size)]

    @cached_property
    def sentences(self) -> dict[str, list[Sentence]]:
        """The sentences by video, those of names that are misspelt among them."""
        found: dict[str, list[Sentence]] = {}
        for path in self.texts():
            for number, line in enumerate(read_text(path)[0].splitlines()):
                match = _SENTENCE.match(line)
                if match:
                    row = Sentence(path, number, int(match["id"]), match["text"])
                    found.setdefault(match["video"], []).append(row)
                elif line.strip():
                    self.unread.append(f"{path.name}, line {number + 1}")
        for name in [name for name in found if name not in self._names]:
            # Published files say "clasic-car", "dog-scale" and "motor-bike".
            alike = [known for known in self._names if _one_letter_apart(name, known)]
            if len(alike) == 1:
                found.setdefault(alike[0], []).extend(found.pop(name))
        return found

    def texts(self) -> list[Path]:
        """Return the files of sentences: our own, and those published in or beside DAVIS.

        What lies there and is no plain file is among them: reading it says so.
        """
        own = [self.folder / _OWN]
        places = (self.folder, self.folder.parent)
        own += [p for place in places for p in sorted(place.glob("davis_text_annotations/*.txt"))]
        return [path for path in own if os.path.lexists(path)]

    @property
    def videos(self) -> dict[str, int]:
        return {name: len(self.sentences.get(name, ())) for name in self._names}

    def clip(self, name: str, *, also: Iterable[int] = ()) -> Clip:
        pictures = self.pictures / self._size / name
        clip = Clip(name, frames_in(pictures), pictures=pictures)
        self._codes = read_palette(clip, self.masks(name))
        looked = clip.looked is None or bool(clip.looked.any())
        for number, row in enumerate(self.sentences.get(name, ())):
            meant = [row.object_id] if row.object_id in clip.masks else []
            clip.sentences[str(number)] = (row.text, meant if looked else None)
        lost = [other for other in self.sentences if other not in self._names]
        if lost and not clip.sentences:
            clip.notes.append(f"the sentences of {', '.join(lost[:3])} belong to no video")
        if self.unread:
            clip.notes.append(
                f"not read: {counted(len(self.unread), 'line')} without a sentence "
                f"({'; '.join(self.unread[:3])})"
            )
        clip.digests = {"clip": clip.fingerprint()}
        return clip

    def write_back(self, before: Clip, changes: Changes) -> dict[str, str]:
        places: dict[str, tuple[Path, int]] = {}
        with contextlib.ExitStack() as stack:
            change_palette(self.masks(before.name), before, changes, self._codes, stack)
            rows = self.sentences.get(before.name, [])
            places.update((str(n), (row.path, row.line)) for n, row in enumerate(rows))
            files: dict[Path, list[str]] = {}
            for exp_id, change in changes.sentences.items():
                old = rows[int(exp_id)] if int(exp_id) < len(rows) else None
                path = old.path if old else (self.texts() or [self.folder / _OWN])[0]
                if path not in files:
                    there = read_text(path)[0] if path.is_file() else ""
                    files[path] = there.splitlines(keepends=True)
                line = "" if change is None else _line(before, *change)
                if old is not None:
                    files[path][old.line] = line
                else:
                    files[path][-1:] = [last.rstrip("\r\n") + "\n" for last in files[path][-1:]]
                    places[exp_id] = path, len(files[path])
                    files[path].append(line)
            for exp_id, (path, number) in places.items():
                removed = files[path][:number].count("") if path in files else 0
                places[exp_id] = path, number - removed
            for path, lines in files.items():
                encoding = read_text(path)[1] if path.is_file() else "utf-8"
                text = "".join(lines)
                try:
                    data = text.encode(encoding)
                except UnicodeEncodeError:
                    data = text.encode("utf-8")
                stack.enter_context(replacing(path)).write_bytes(data)
        # A sentence is known by its place among those of its video.
        del self.sentences
        rows = self.sentences.get(before.name, [])
        now = {(row.path, row.line): str(number) for number, row in enumerate(rows)}
        gone = {exp_id for exp_id, change in changes.sentences.items() if change is None}
        return {e: now[place] for e, place in places.items() if place in now and e not in gone}

    def masks(self, name: str) -> Path:
        """Return the folder of a video's masks."""
        return self._drawn / self._size / name


def _line(clip: Clip, text: str, keys: Sequence[int]) -> str:
    """Return the line of a sentence."""
    if len(keys) > 1:
        raise DatasetError(
            f"the sentence {text!r} means {len(keys)} objects, which this format cannot hold; "
            "export to mevis."
        )
    # An id without a pixel says "no target".
    return f'{clip.name} {keys[0] if keys else 255} "{" ".join(text.split())}"\n'


def _davis_in(root: Path) -> Path:
    """Return the folder of DAVIS, which is published beside that of its sentences."""
    inner = root / "DAVIS"
    return inner if inner.is_dir() and not (root / "JPEGImages").is_dir() else root


def read_text(path: Path) -> tuple[str, str]:
    """Return a text file's content and its encoding: not all that are published are UTF-8."""
    data = read_regular(path, _LARGEST)
    marked = data.startswith(b"\xef\xbb\xbf")
    for encoding in ("utf-8-sig" if marked else "utf-8", "cp1252"):
        try:
            return data.decode(encoding), encoding
        except UnicodeDecodeError:
            pass
    return data.decode("latin-1"), "latin-1"


def _one_letter_apart(a: str, b: str) -> bool:
    """True when two names differ in one letter that was added, lost or changed."""
    head = len(os.path.commonprefix([a, b]))
    tail = len(os.path.commonprefix([a[head:][::-1], b[head:][::-1]]))
    return a != b and max(len(a), len(b)) - head - tail <= 1


def write_davis(folder: Path, job: Job) -> None:
    """DAVIS 2017: palette PNGs, ``ImageSets``, and the sentences as a text file."""
    lines, names = [], []
    # Readers split a line of the text file at white space.
    taken = {name.casefold() for name in job.names}
    for source in job.sources:
        if re.search(r"\s", source.name):
            before, source.name = source.name, unused(re.sub(r"\s+", "_", source.name), taken)
            job.notes.append(f"{before}: written as {source.name}, for names here have no spaces")
    # The tools look into this folder by default; pictures keep their own size.
    for _, part in write_palette(folder, job, "480p", gaps=True):
        names.append(part.name)
        for text, value in part.sentences.values():
            lines.append(f'{part.name} {value} "{" ".join(text.split())}"')
    sets = folder / "ImageSets" / "2017"
    sets.mkdir(parents=True)
    for path, rows in (
        (sets / f"{job.target.name}.txt", names),
        (folder / _OWN, lines),
    ):
        path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
