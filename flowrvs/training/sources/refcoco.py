"""RefCOCO, RefCOCO+ and RefCOCOg: pictures of COCO with sentences about one object each.

Two forms are read: REFER's (``refs(unc).p`` beside ``instances.json``), and JSON files in which
every "image" of a COCO annotation file carries a ``caption`` (as the published training makes
them), or every annotation its ``sentences`` or ``caption``. The pictures are looked for beside
the file and in the usual folders of COCO above it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from flowrvs.data.pictures import is_safe_name
from flowrvs.errors import DatasetError
from flowrvs.masks import rle
from flowrvs.training.sources.base import (
    Picture,
    Sentence,
    TrainingVideo,
    read_json,
    read_picture,
)
from flowrvs.training.sources.pickled import read_plain_pickle

__all__ = ["RefCocoSource", "find_refcoco"]

_PLACES = ("", "images", "train2014", "images/train2014", "images/mscoco/images/train2014")


def find_refcoco(path: Path, split: str) -> list[Path]:
    """Return the files with sentences at `path`: itself, in it, or in folders in it.

    Parameters
    ----------
    path : Path
        A file, the folder of one data set, or of several.
    split : str
        ``train``, ``val``, …: part of the names of the JSON files.
    """
    if path.is_file():
        return [path] if path.suffix in (".p", ".json") else []
    found: list[Path] = []
    for folder in (path, *sorted(p for p in path.iterdir() if p.is_dir())):
        pickles = sorted(folder.glob("refs(*).p"))
        if pickles:
            # RefCOCOg comes in two divisions that overlap: the newer, umd, is the one in use.
            found += [p for p in pickles if p.name == "refs(umd).p"] or pickles[:1]
        else:
            found += sorted(folder.glob(f"instances_*_{split}.json"))
    return found


class RefCocoSource:
    """One file of sentences about COCO's pictures; see `Source`.

    Parameters
    ----------
    path : Path
        ``refs(*).p``, or a JSON file.
    split : str
        Part of it, where the file has several.
    """

    def __init__(self, path: Path, split: str = "train") -> None:
        self.label = str(path)
        self.identity = f"refcoco:{path.stat().st_size}:{split}:{path.absolute()}"
        self.skipped: dict[str, int] = {}
        self._shapes: dict[int, Any] = {}  # segmentations by our own number
        self._files: dict[str, tuple[Path, int, int]] = {}  # path, height, width
        root = _picture_root(path)
        texts: dict[str, dict[Sentence, None]] = {}
        read = _read_refs if path.suffix == ".p" else _read_captions
        for number, (image, segmentation, words) in enumerate(read(path, split)):
            fields: list[Any] = [image.get(key) for key in ("file_name", "height", "width")]
            name, height, width = fields
            if not is_safe_name(name) or not _is_size(height, width):
                raise DatasetError(f"{path} has a picture without a plain name and a size.")
            if not words:
                self._skip("objects without sentences")
                continue
            if not (root / name).is_file():
                self._skip("sentences about pictures that are not there", len(words))
                continue
            self._files[name] = (root / name, height, width)
            self._shapes[number] = segmentation
            for text in words:
                texts.setdefault(name, {})[Sentence(text, (number,), (0,))] = None
        pictures = str(root.resolve())
        self.videos = tuple(
            TrainingVideo(name, tuple(found), f"{pictures}/{name}") for name, found in texts.items()
        )

    def _skip(self, reason: str, count: int = 1) -> None:
        self.skipped[reason] = self.skipped.get(reason, 0) + count

    def size(self, video: TrainingVideo) -> tuple[int, int]:
        """Return height and width of a picture."""
        _, height, width = self._files[video.name]
        return height, width

    def pictures(self, video: TrainingVideo, frames: Sequence[int]) -> list[Picture]:
        """Return the picture, as often as asked for."""
        path, height, width = self._files[video.name]
        picture = read_picture(path)
        if picture.shape[:2] != (height, width):
            raise DatasetError(
                f"The picture {path} is {picture.shape[1]} x {picture.shape[0]}, its annotations "
                f"are for {width} x {height}; give the pictures they were made for."
            )
        return [picture] * len(frames)

    def masks(
        self, video: TrainingVideo, sentence: Sentence, frames: Sequence[int]
    ) -> npt.NDArray[np.bool_]:
        """Return the object's mask, as often as asked for."""
        height, width = self.size(video)
        mask = np.zeros((height, width), np.bool_)
        for number in sentence.objects:
            mask |= _decode(self._shapes[number], height, width, self.label)
        return np.repeat(mask[None], len(frames), axis=0)


def _picture_root(path: Path) -> Path:
    folder = path.absolute().parent
    for above in (folder, *list(folder.parents)[:3]):
        for place in _PLACES:
            root = above / place
            if next(root.glob("*.jpg"), None) is not None:
                return root
    raise DatasetError(f"No COCO pictures (train2014) beside or above {path}; put them there.")


def _read_refs(path: Path, split: str) -> Iterator[tuple[Mapping[str, Any], Any, list[str]]]:
    """Yield picture, segmentation and sentences of the objects in REFER's files."""
    refs = read_plain_pickle(path)
    document = read_json(path.with_name("instances.json"))
    images = _by_id(document, "images", path)
    annotations = _by_id(document, "annotations", path)
    if not isinstance(refs, list) or not all(isinstance(ref, dict) for ref in refs):
        raise DatasetError(f"{path} holds no list of references; get it from its authors.")
    for ref in refs:
        if ref.get("split") != split:
            continue
        try:
            image, annotation = (
                rows[_plain(ref[key], int)]
                for rows, key in ((images, "image_id"), (annotations, "ann_id"))
            )
            words = [_plain(item["sent"], str) for item in ref["sentences"]]
            segmentation = annotation["segmentation"]
        except (KeyError, TypeError):
            raise DatasetError(
                f"{path} names a picture or an object that instances.json has not."
            ) from None
        yield image, segmentation, [text for text in words if text.strip()]


def _read_captions(path: Path, split: str) -> Iterator[tuple[Mapping[str, Any], Any, list[str]]]:
    """Yield picture, segmentation and sentences of the objects in a JSON file."""
    document = read_json(path)
    images = _by_id(document, "images", path)
    for annotation in _rows(document, "annotations", path):
        number = annotation.get("image_id")
        image = images.get(number) if isinstance(number, (int, str)) else None
        if image is None or "segmentation" not in annotation:
            raise DatasetError(f"{path} has an annotation without picture or segmentation.")
        found = annotation.get("sentences", annotation.get("caption", image.get("caption")))
        words = found if isinstance(found, list) else [found]
        texts = [item.get("sent") if isinstance(item, dict) else item for item in words]
        yield (
            image,
            annotation["segmentation"],
            [text for text in texts if isinstance(text, str) and text.strip()],
        )


def _plain(value: Any, kind: type) -> Any:
    """Return a value of a pickle; tuples in tuples may be of any size once they are looked at."""
    if not isinstance(value, kind):
        raise TypeError(kind)
    return value


def _rows(document: Any, key: str, path: Path) -> list[Mapping[str, Any]]:
    rows = document.get(key) if isinstance(document, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DatasetError(f"The annotations of {path} have no list of {key}.")
    return rows


def _by_id(document: Any, key: str, path: Path) -> dict[Any, Mapping[str, Any]]:
    rows = _rows(document, key, path)
    if not all(isinstance(row.get("id"), (int, str)) for row in rows):
        raise DatasetError(f"The annotations of {path} have {key} without a plain id.")
    return {row["id"]: row for row in rows}


def _is_size(height: Any, width: Any) -> bool:
    """Whether a mask of this size can be drawn; a file of a few bytes may claim any."""
    sides = [side for side in (height, width) if isinstance(side, int) and 0 < side <= 65_535]
    return len(sides) == 2 and height * width <= rle.MAX_PIXELS


def _decode(segmentation: Any, height: int, width: int, where: str) -> npt.NDArray[np.bool_]:
    """Return the mask of polygons or a run-length code."""
    try:
        if isinstance(segmentation, dict):
            mask = rle.decode(segmentation)
            if mask.shape != (height, width):
                raise ValueError("it is of another size than its picture")
            return mask
        polygons = [np.asarray(points, np.float64) for points in segmentation if len(points) >= 6]
        # The C code walks along every edge: points far outside would take it for ever.
        kept = [np.clip(p, -1, max(height, width) + 1).tolist() for p in polygons]
        if not kept or not all(np.isfinite(p).all() and p.ndim == 1 for p in polygons):
            raise ValueError("no polygons")
        code = coco_mask.merge(coco_mask.frPyObjects(kept, height, width))
        return np.asarray(coco_mask.decode(code), np.bool_)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"An object in {where} has no readable mask ({error}).") from None
