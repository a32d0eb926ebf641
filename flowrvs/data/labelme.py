"""labelme, X-AnyLabeling: a JSON file of shapes beside every annotated frame."""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flowrvs.data.clip import Clip
from flowrvs.data.coco import add_rows, pairs_of, polygon_mask, size_in
from flowrvs.data.formats import Dataset
from flowrvs.data.json_parts import list_keys, read_json
from flowrvs.data.pictures import frame_file, open_picture
from flowrvs.data.ref_ytvos import frames_in
from flowrvs.errors import DatasetError, counted
from flowrvs.masks import rle

__all__ = ["Labelme"]

_AREAS = ("polygon", "rectangle", "rotation", "quadrilateral", "circle", "mask")
_CORNERS = 64  # of the polygon that is drawn for a circle


class Labelme(Dataset):
    """labelme, X-AnyLabeling: a JSON file of shapes beside every annotated frame."""

    format = "labelme"

    def __init__(self, folder: Path, pictures: Path | None = None) -> None:
        super().__init__(folder.parent if folder.is_file() else folder, pictures)
        self.source = folder
        self._place = pictures or self.folder

    @classmethod
    def recognises(cls, root: Path) -> bool:
        files = [root] if root.is_file() else sorted(root.glob("*.json"))[:3]
        return any("shapes" in list_keys(path) for path in files)

    @property
    def videos(self) -> dict[str, int]:
        return {self.folder.absolute().name: 0}

    def clip(self, name: str, *, also: Iterable[int] = ()) -> Clip:
        clip = Clip(name, frames_in(self._place), pictures=self._place)
        clip.looked = np.zeros(len(clip.frames), bool)
        rows: dict[tuple[str, str], dict[int, Any]] = {}
        skipped = 0
        for index, frame in enumerate(clip.frames):
            path = self.folder / f"{frame}.json"
            if not path.is_file():
                continue
            data = read_json(path)
            size = size_in({"height": data.get("imageHeight"), "width": data.get("imageWidth")})
            size = size if size[0] else self._shown(frame)
            shapes = data.get("shapes")
            if not isinstance(shapes, list) or not all(isinstance(s, dict) for s in shapes):
                raise DatasetError(f"'shapes' in {path} is no list of objects.")
            clip.looked[index] = True
            for shape in shapes:
                known = (shape.get("shape_type") or "polygon") in _AREAS
                mask = _drawn(shape, size, str(path)) if known else None
                if mask is None:
                    # There is something whose outline nobody has drawn: it is not absent.
                    clip.looked[index] = False
                    skipped += 1
                    continue
                group = shape.get("group_id")
                key = (str(shape.get("label")), "" if group is None else str(group))
                before = rows.setdefault(key, {}).get(index)
                # Parts of one label and group are one object.
                rows[key][index] = rle.merge([m for m in (before, mask) if m is not None])
        if skipped:
            clip.notes.append(f"left out: {counted(skipped, 'shape')} without an area")
        add_rows(clip, rows)
        return clip

    def _shown(self, frame: str) -> tuple[int, int]:
        """Return the height and width of a picture, for annotations that do not say them."""
        path = frame_file(self._place, frame)
        if path is None:
            return 0, 0
        with open_picture(path) as picture:
            return picture.height, picture.width


def _drawn(shape: Mapping[str, Any], size: tuple[int, int], where: str) -> Any:
    """Return the mask of a shape that has an area."""
    kind, pairs = shape.get("shape_type"), pairs_of(shape.get("points"), where)
    if kind == "mask":
        return _pasted(shape.get("mask"), pairs[0], size, where)
    if kind == "circle" and len(pairs) == 2:
        (x, y), edge = pairs
        radius = math.dist((x, y), edge)
        turns = [2 * math.pi * n / _CORNERS for n in range(_CORNERS)]
        pairs = [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in turns]
    elif kind == "rectangle" and len(pairs) == 2:
        (x0, y0), (x1, y1) = pairs
        pairs = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    return polygon_mask([[n for pair in pairs for n in pair]], size, where)


def _pasted(
    text: object, corner: tuple[float, float], size: tuple[int, int], where: str
) -> rle.RLE | None:
    """Return a mask that stands as a PNG in the file, its upper left corner at a pixel."""
    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except binascii.Error:
        data = b""
    left, top = (int(n) for n in corner)
    if not data or min(left, top) < 0:
        raise DatasetError(f"{where}: a mask is no PNG in base64 within its frame.")
    whole = np.zeros(size, bool)
    try:
        with open_picture(io.BytesIO(data), ["PNG"]) as picture:
            part = np.asarray(picture.convert("L")) > 0
    except DatasetError:
        raise DatasetError(f"{where}: a mask is no readable PNG; save it again.") from None
    room = whole[top : top + part.shape[0], left : left + part.shape[1]]
    room |= part[: room.shape[0], : room.shape[1]]
    return rle.encode(whole) if whole.any() else None
