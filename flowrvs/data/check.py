"""Lint a MeViS-style split: what would break a loader, and what looks like a slip."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from flowrvs.data._names import is_safe_name
from flowrvs.data.mevis import read_json, split_folder
from flowrvs.errors import DatasetError
from flowrvs.masks import rle
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock

__all__ = ["Finding", "check_split"]

META, MASKS = "meta_expressions.json", "mask_dict.json"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong or odd.

    Attributes
    ----------
    severity : {"error", "warning"}
        An error breaks a loader or the scores; a warning looks like a slip.
    file : str
        Where, relative to the split's folder.
    key : str
        Which entry of the file: ``video/exp_id``, ``anno_id 17 frame 3``, ...
    problem : str
        What is wrong.
    remedy : str
        What to do about it.
    """

    severity: Literal["error", "warning"]
    file: str
    key: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        key = f" {self.key}:" if self.key else ""
        return f"{self.severity}: {self.file}:{key} {self.problem}; {self.remedy}"

    def to_dict(self) -> dict[str, str]:
        """Return the finding as plain values."""
        return asdict(self)


def check_split(
    folder: str | os.PathLike[str],
    *,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> list[Finding]:
    """Return everything that is wrong or odd with the split in `folder`.

    Parameters
    ----------
    folder : path-like
        The folder with ``meta_expressions.json``.
    progress : callable, optional
        Called after every video.
    cancel : CancelToken, optional
        Checked before every video.

    Returns
    -------
    list of Finding
        Errors first.

    Raises
    ------
    MissingPathError
        There is no such folder.
    DatasetError
        The folder has no ``meta_expressions.json``.
    Cancelled
        `cancel` was set.
    """
    root = split_folder(folder)
    findings = list(_Linter(root).run(progress, cancel))
    return sorted(findings, key=lambda f: f.severity != "error")


class _Linter:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.masks: dict[str, Any] | None = None
        self.used: dict[str, str] = {}

    def run(
        self, progress: ProgressCallback | None, cancel: CancelToken | None
    ) -> Iterator[Finding]:
        try:
            videos = read_json(self.root / META).get("videos")
        except DatasetError as error:
            yield _error(META, "", str(error), "write it again")
            return
        if not isinstance(videos, Mapping):
            yield _error(META, "", "there is no object 'videos'", "write it again")
            return
        if not videos:
            yield _warning(META, "", "there are no videos", "add some")
        if (self.root / MASKS).exists():
            try:
                self.masks = read_json(self.root / MASKS)
            except DatasetError as error:
                yield _error(MASKS, "", str(error), "write it again")
                return
        clock = ProgressClock(len(videos))
        for name, entry in videos.items():
            if cancel is not None:
                cancel.raise_if_cancelled()
            yield from self.video(name, entry)
            if progress is not None:
                progress(clock.advance(f"checked {name}"))
        for anno_id in sorted(set(self.masks or ()) - set(self.used), key=_number):
            yield _warning(
                MASKS, f"anno_id {anno_id}", "no expression uses it", "remove it or refer to it"
            )
        folder = self.root / "JPEGImages"
        if folder.is_dir():
            for path in sorted(folder.iterdir()):
                if path.name not in videos:
                    yield _warning(
                        f"JPEGImages/{path.name}", "", f"{META} does not list it", "remove it"
                    )

    def video(self, name: str, entry: Any) -> Iterator[Finding]:
        if not is_safe_name(name):
            yield _error(META, repr(name), "the video name leaves its folder", "rename it")
            return
        frames = entry.get("frames") if isinstance(entry, Mapping) else None
        expressions = entry.get("expressions") if isinstance(entry, Mapping) else None
        if not isinstance(frames, list) or not isinstance(expressions, Mapping):
            yield _error(META, name, "it needs 'frames' and 'expressions'", "write them")
            return
        bad = [f for f in frames if not is_safe_name(f)]
        if bad:
            yield _error(META, name, f"the frame name {bad[0]!r} leaves its folder", "rename it")
            return
        yield from self.frames(name, frames)
        size = None
        for finding, found in self.pictures(name, frames):
            size = size or found
            if finding is not None:
                yield finding
        yield from self.expressions(name, expressions, frames, size)

    def frames(self, name: str, frames: list[str]) -> Iterator[Finding]:
        if not frames:
            yield _error(META, name, "it lists no frames", "list them")
        if len(set(frames)) < len(frames):
            twice = Counter(frames).most_common(1)[0][0]
            yield _error(META, name, f"the frame {twice!r} is listed twice", "list it once")
        elif frames != sorted(frames):
            yield _error(
                META, name, "the frames are not sorted, masks would shift", "sort and zero-pad them"
            )

    def pictures(
        self, name: str, frames: list[str]
    ) -> Iterator[tuple[Finding | None, tuple[int, int] | None]]:
        place = f"JPEGImages/{name}"
        folder = self.root / place
        if not folder.is_dir():
            yield _error(place, "", "the folder is missing", "copy the frames again"), None
            return
        there = {path.stem: path for path in folder.iterdir() if path.suffix.lower() in _PICTURES}
        missing = [f for f in frames if f not in there]
        if missing:
            what = f"{len(missing)} frames are missing, the first is {missing[0]!r}"
            yield _error(place, "", what, "copy the frames again"), None
        extra = sorted(set(there) - set(frames))
        if extra:
            what = f"{len(extra)} pictures are not listed, the first is {extra[0]!r}"
            yield _warning(place, "", what, "list or remove them"), None
        first: tuple[int, int] | None = None
        for frame in frames:
            path = there.get(frame)
            if path is None:
                continue
            try:
                with Image.open(path) as picture:
                    size = (picture.height, picture.width)
            except (OSError, Image.DecompressionBombError):
                where = f"{place}/{path.name}"
                yield _error(where, "", "it is no readable picture", "copy it again"), None
                continue
            first = first or size
            if size != first:
                what = f"it is {size[1]}x{size[0]}, the first frame {first[1]}x{first[0]}"
                yield _error(f"{place}/{path.name}", "", what, "use one size a video"), None
        yield None, first

    def expressions(
        self,
        video: str,
        expressions: Mapping[str, Any],
        frames: list[str],
        size: tuple[int, int] | None,
    ) -> Iterator[Finding]:
        if not expressions:
            yield _warning(META, video, "it has no expressions", "add some or remove the video")
        seen: dict[str, str] = {}
        for exp_id, entry in expressions.items():
            key = f"{video}/{exp_id}"
            if not is_safe_name(exp_id):
                yield _error(META, repr(key), "the exp_id leaves its folder", "rename it")
                continue
            if not isinstance(entry, Mapping) or not isinstance(entry.get("exp"), str):
                yield _error(META, key, "there is no text 'exp'", "write it")
                continue
            text = " ".join(entry["exp"].split()).casefold()
            if not text:
                yield _error(META, key, "the sentence is empty", "write it")
            elif text in seen:
                yield _warning(
                    META, key, f"it repeats the sentence of {seen[text]!r}", "keep one of them"
                )
            seen.setdefault(text, exp_id)
            yield from self.targets(video, key, entry, frames, size)

    def targets(
        self,
        video: str,
        key: str,
        entry: Mapping[str, Any],
        frames: list[str],
        size: tuple[int, int] | None,
    ) -> Iterator[Finding]:
        objects, annotations = entry.get("obj_id"), entry.get("anno_id")
        if self.masks is None:
            if annotations:
                yield _error(META, key, f"it has anno_ids, but {MASKS} is missing", "add the file")
            return
        if not isinstance(objects, list) or not isinstance(annotations, list):
            yield _error(
                META, key, "'obj_id' and 'anno_id' must be lists", "write [] for no target"
            )
            return
        if len(objects) != len(annotations):
            yield _error(
                META,
                key,
                f"{len(objects)} obj_ids stand beside {len(annotations)} anno_ids",
                "make the lists parallel",
            )
        if len(set(map(str, annotations))) < len(annotations):
            yield _warning(META, key, "an anno_id is listed twice", "list it once")
        for anno_id in map(str, annotations):
            if anno_id not in self.masks:
                yield _error(META, key, f"anno_id {anno_id} is not in {MASKS}", "add its masks")
                continue
            owner = self.used.get(anno_id)
            if owner is not None:
                if owner != video:
                    what = f"anno_id {anno_id} belongs to the video {owner!r}"
                    yield _error(META, key, what, "give every video its own masks")
                continue
            self.used[anno_id] = video
            yield from self.annotation(anno_id, frames, size)

    def annotation(
        self, anno_id: str, frames: list[str], size: tuple[int, int] | None
    ) -> Iterator[Finding]:
        key = f"anno_id {anno_id}"
        entries = (self.masks or {})[anno_id]
        if not isinstance(entries, list):
            yield _error(MASKS, key, "it is no list", "write one entry a frame")
            return
        if len(entries) != len(frames):
            yield _error(
                MASKS,
                key,
                f"it has {len(entries)} entries for {len(frames)} frames",
                "write one entry a frame, null where the object is absent",
            )
        present = False
        for index, entry in enumerate(entries):
            if not entry:
                continue
            where = f"{key} frame {index}"
            try:
                present |= rle.area(entry) > 0
            except (DatasetError, TypeError) as error:
                yield _error(MASKS, where, str(error).rstrip("."), "encode the mask again")
                return
            if size is not None and tuple(entry["size"]) != size:
                height, width = entry["size"]
                yield _error(
                    MASKS,
                    where,
                    f"the mask is {width}x{height}, the frames {size[1]}x{size[0]}",
                    "encode masks at the frames' size",
                )
                return
        if not present:
            yield _warning(
                MASKS, key, "the object is seen on no frame", "use empty lists for no target"
            )


_PICTURES = {".jpg", ".jpeg", ".png"}


def _error(file: str, key: str, problem: str, remedy: str) -> Finding:
    return Finding("error", file, key, problem.rstrip("."), remedy)


def _warning(file: str, key: str, problem: str, remedy: str) -> Finding:
    return Finding("warning", file, key, problem.rstrip("."), remedy)


def _number(key: str) -> tuple[int, str]:
    return (int(key), key) if key.isdecimal() else (-1, key)
