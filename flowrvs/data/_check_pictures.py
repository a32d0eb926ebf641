"""What can be wrong with a video's frames and with pictures of masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from flowrvs.data._faults import Finding

__all__ = ["check_mask_pictures", "check_pictures"]

_PICTURES = {".jpg", ".jpeg", ".png"}
_END = b"\xff\xd9"
Size = tuple[int, int]


def check_pictures(
    root: Path, name: str, frames: Sequence[str], deep: bool
) -> tuple[Size | None, list[Finding]]:
    """Return the height and width of a video's frames, and what is wrong with them."""
    place = f"JPEGImages/{name}"
    folder = root / place
    found: list[Finding] = []

    def error(code: str, file: str, what: str, remedy: str) -> None:
        found.append(Finding("error", file, "", what, remedy, code))

    if not folder.is_dir():
        error("no-folder", place, "the folder is missing", "copy the frames again")
        return None, found
    if not folder.resolve().is_relative_to(root.resolve()):
        what = "the folder is a link that leads outside the split"
        found.append(Finding("warning", place, "", what, "copy the frames", "link-outside"))
    there = {path.stem: path for path in folder.iterdir() if path.suffix.lower() in _PICTURES}
    missing = [frame for frame in frames if frame not in there]
    if missing:
        what = f"{len(missing)} of {len(frames)} frames missing, the first is {missing[0]!r}"
        error("missing-frame", place, what, "copy the frames again")
    extra = sorted(set(there) - set(frames))
    if extra:
        what = f"pictures that are not listed: {len(extra)}, the first is {extra[0]!r}"
        found.append(Finding("warning", place, "", what, "list or remove them", "unlisted-frame"))
    other = [frame for frame in frames if frame in there and there[frame].suffix != ".jpg"]
    if other:
        what = f"frames without .jpg: {len(other)}, the first is {there[other[0]].name!r}"
        error("not-jpg", place, what, "convert them: loaders look for <frame>.jpg")
    first: Size | None = None
    for frame in frames:
        path = there.get(frame)
        if path is None:
            continue
        where = f"{place}/{path.name}"
        try:
            size = _size(path, deep)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            error("bad-picture", where, "it is no readable picture", "copy it again")
            continue
        if _is_cut(path):
            error("cut-picture", where, "it is cut off", "copy it again")
        first = first or size
        if size != first:
            what = f"it is {size[1]}x{size[0]}, the first frame {first[1]}x{first[0]}"
            error("frame-size", where, what, "use one size a video")
    return first, found


def _size(path: Path, deep: bool) -> Size:
    with Image.open(path) as picture:
        if deep:
            picture.load()
        return picture.height, picture.width


def _is_cut(path: Path) -> bool:
    """True for a JPEG file without its end; some cameras write a little behind it."""
    if path.suffix.lower() == ".png":
        return False
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 1024))
        return _END not in file.read()


def check_mask_pictures(
    root: Path, video: str, frames: Sequence[str], exp_ids: Sequence[str], size: Size | None
) -> list[Finding]:
    """Return what is wrong with ``Annotations/<video>/<exp_id>/<frame>.png``, where it is."""
    base = root / "Annotations" / video
    found: list[Finding] = []
    for exp_id in exp_ids:
        folder = base / exp_id
        if not folder.is_dir():
            continue
        place = f"Annotations/{video}/{exp_id}"
        for frame in frames:
            path = folder / f"{frame}.png"
            file = f"{place}/{frame}.png"
            try:
                with Image.open(path) as picture:
                    values = np.unique(np.asarray(picture))
                    this = (picture.height, picture.width)
            except FileNotFoundError:
                what = "it is missing"
                found.append(Finding("error", file, "", what, "write it", "mask-picture"))
                continue
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
                what = "it is no readable picture"
                found.append(Finding("error", file, "", what, "write it again", "mask-picture"))
                continue
            if size is not None and this != size:
                what = f"it is {this[1]}x{this[0]}, the frames {size[1]}x{size[0]}"
                remedy = "write masks at the frames' size"
                found.append(Finding("error", file, "", what, remedy, "mask-picture"))
            odd = [int(v) for v in values if v not in (0, 255)]
            if odd:
                what = f"it holds the value {odd[0]}, where scorers want 0 and 255 only"
                found.append(Finding("error", file, "", what, "write 0 and 255", "not-binary"))
    return found
