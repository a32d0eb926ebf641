"""What can be wrong with the masks of a split, read one video at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flowrvs.data import _spans
from flowrvs.data._faults import Finding
from flowrvs.errors import DatasetError
from flowrvs.masks import rle

__all__ = ["MaskCheck", "is_plain"]

MASKS = "mask_dict.json"


def is_plain(entry: Any) -> bool:
    """True for an RLE whose counts are a list: COCO's uncompressed form."""
    return isinstance(entry, Mapping) and isinstance(entry.get("counts"), list)


class MaskCheck:
    """Checks ``mask_dict.json``.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    DatasetError
        It is cut off or no JSON object.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[str, tuple[int, int]] = {}
        self._twice: list[str] = []
        self._owners: dict[str, str] = {}
        with _spans.mapped(path) as data:
            for one in _spans.members(data):
                if one.key in self._places:
                    self._twice.append(one.key)
                self._places[one.key] = (one.start, one.stop)

    def __contains__(self, anno_id: str) -> bool:
        return anno_id in self._places

    def keys(self) -> Iterator[Finding]:
        """Check the keys alone."""
        for key in self._twice:
            what = "the key is there twice, loaders see the last one only"
            yield _error("repeated-key", f"anno_id {key}", what, "number one of them anew")
        for key in self._places:
            if not key.isdecimal():
                what = "the key is no whole number"
                yield _warning("bad-key", f"anno_id {key}", what, "number the masks")

    def unused(self) -> Iterator[Finding]:
        """Name the annotations that no video asked for; their masks are checked too."""
        for key in sorted(set(self._places) - set(self._owners), key=_number):
            what = "no expression uses it"
            yield _warning("unused-masks", f"anno_id {key}", what, "remove it or refer to it")

    def video(
        self,
        video: str,
        annotations: Mapping[str, set[str]],
        frames: Sequence[str],
        size: tuple[int, int] | None,
    ) -> Iterator[Finding]:
        """Check the annotations of a video.

        Parameters
        ----------
        video : str
            Its name.
        annotations : mapping of str to set of str
            The obj_ids by which its sentences call each anno_id.
        frames : sequence of str
            Its frames.
        size : (int, int) or None
            Their height and width.
        """
        entries: dict[str, list[Any]] = {}
        seen: dict[str, str] = {}
        for anno_id, objects in annotations.items():
            key = f"anno_id {anno_id}"
            owner = self._owners.setdefault(anno_id, video)
            if owner != video:
                what = f"{key} belongs to the video {owner!r}"
                yield Finding(
                    "error",
                    "meta_expressions.json",
                    video,
                    what,
                    "give every video its own masks",
                    "foreign-id",
                )
                continue
            if len(objects) > 1:
                what = f"{key} goes by the obj_ids {', '.join(sorted(objects, key=_number))}"
                yield Finding(
                    "warning", "meta_expressions.json", video, what, "use one", "two-objects"
                )
            found: list[Finding] = []
            masks = self._annotation(key, anno_id, frames, size, found)
            yield from found
            if masks is None:
                continue
            text = repr(masks)
            if any(masks) and text in seen:
                what = f"its masks are those of anno_id {seen[text]}"
                remedy = "store them once and refer to them twice"
                yield _warning("same-masks", key, what, remedy)
            seen.setdefault(text, anno_id)
            if not any(f.severity == "error" for f in found):
                entries[anno_id] = masks
        yield from _overlaps(video, entries, frames)

    def _annotation(
        self,
        key: str,
        anno_id: str,
        frames: Sequence[str],
        size: tuple[int, int] | None,
        found: list[Finding],
    ) -> list[Any] | None:
        """Check one annotation; return its masks, None where nothing can be said of them."""
        try:
            with _spans.mapped(self.path) as data:
                entries = _spans.value(data, *self._places[anno_id])
        except DatasetError as error:
            found.append(_error("bad-json", key, str(error), "copy the file again"))
            return None
        if not isinstance(entries, list):
            found.append(_error("bad-masks", key, "it is no list", "write one entry a frame"))
            return None
        if len(entries) != len(frames):
            what = f"it has {len(entries)} entries for {len(frames)} frames"
            remedy = "write one entry a frame, null where the object is absent"
            found.append(_error("mask-count", key, what, remedy))
        falsy = [n for n, e in enumerate(entries) if not e and e is not None]
        if falsy:
            what = f"absent masks written as {entries[falsy[0]]!r} or the like: {len(falsy)}"
            where = f"{key} frame {falsy[0]}"
            found.append(_error("not-null", where, what, "write null: loaders test for it"))
        for code, what, remedy in (
            ("plain-rle", "uncompressed masks", "compress them with pycocotools"),
            ("empty-rle", "masks without a pixel", "write null where the object is absent"),
        ):
            places = [n for n, e in enumerate(entries) if e and _IS[code](e)]
            if places:
                make = _error if code == "plain-rle" else _warning
                where = f"{key} frame {places[0]}"
                found.append(make(code, where, f"{what}: {len(places)}", remedy))
        masks: list[Any] = []
        for index, entry in enumerate(entries):
            fault = _fault(entry, size) if entry else None
            if fault is not None:
                code, what, remedy = fault
                found.append(_error(code, f"{key} frame {index}", what, remedy))
                return None
            masks.append(entry if entry and rle.area(entry) else None)
        if not any(masks):
            what = "the object is seen on no frame"
            found.append(_warning("never-seen", key, what, "use empty lists for no target"))
        return masks


def _fault(entry: Any, size: tuple[int, int] | None) -> tuple[str, str, str] | None:
    try:
        rle.area(entry)
    except (DatasetError, TypeError, ValueError, OverflowError) as error:
        return "bad-rle", str(error).rstrip("."), "encode the mask again"
    height, width = entry["size"]
    if size is None or (height, width) == size:
        return None
    what = f"the mask is {width}x{height}, the frames {size[1]}x{size[0]}"
    if (width, height) == size:
        return "turned-rle", what, "'size' is [height, width]: encode the mask again, not turned"
    return "mask-size", what, "encode masks at the frames' size"


def _is_empty(entry: Any) -> bool:
    try:
        return rle.area(entry) == 0
    except (DatasetError, TypeError, ValueError, OverflowError):
        return False


_IS = {"plain-rle": is_plain, "empty-rle": _is_empty}


def _overlaps(
    video: str, entries: Mapping[str, list[Any]], frames: Sequence[str]
) -> Iterator[Finding]:
    """Say once for each pair of objects on how many frames they share pixels."""
    pairs: dict[tuple[str, str], list[int]] = {}
    for index in range(len(frames)):
        here = [(key, masks[index]) for key, masks in entries.items() if masks[index]]
        if len(here) < 2:
            continue
        try:
            shared = rle.overlaps([entry for _, entry in here])
        except DatasetError:
            continue
        for row in range(len(here)):
            for column in range(row + 1, len(here)):
                if shared[row, column]:
                    pair = (here[row][0], here[column][0])
                    pairs.setdefault(pair, []).append(index)
    for (one, other), places in pairs.items():
        what = f"it overlaps anno_id {other}, first on frame {frames[places[0]]} (of {len(places)})"
        remedy = "see whether both are meant; palette PNGs could not hold it"
        yield _warning("overlap", f"anno_id {one}", what, remedy)


def _error(code: str, key: str, problem: str, remedy: str) -> Finding:
    return Finding("error", MASKS, key, problem.rstrip("."), remedy, code)


def _warning(code: str, key: str, problem: str, remedy: str) -> Finding:
    return Finding("warning", MASKS, key, problem.rstrip("."), remedy, code)


def _number(key: str) -> tuple[int, str]:
    return (int(key), key) if key.isdecimal() else (-1, key)
