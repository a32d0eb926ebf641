"""Splits with a ``meta_expressions.json``: MeViS and MeViSv2, Ref-YouTube-VOS, Ref-DAVIS17.

They differ in where the truth is: run-length masks in ``mask_dict.json`` by anno_id (MeViS), or
palette pictures in ``Annotations`` by obj_id (the others). All exports of this project with
sentences have one of the two forms.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flowrvs.data.mevis import MevisSplit
from flowrvs.data.pictures import is_safe_name
from flowrvs.errors import DatasetError
from flowrvs.masks import rle
from flowrvs.training.sources.base import (
    Picture,
    Sentence,
    TrainingVideo,
    open_listed,
    read_json,
    read_picture,
)

__all__ = ["MevisSource", "PaletteSource", "find_meta", "ref_davis", "ref_youtube_vos"]

#: Names of the file with the sentences, newest first: a folder may hold two editions.
META_NAMES = ("meta_expressions_v2.json", "meta_expressions.json")

_SUFFIXES = (".jpg", ".jpeg", ".png")


def find_meta(folder: Path) -> Path | None:
    """Return the file with the sentences of the split in `folder`, or None.

    It lies in the folder, or as in the official Ref-YouTube-VOS in
    ``../meta_expressions/<split>/``.
    """
    beside = folder.absolute().parent / "meta_expressions" / folder.absolute().name
    for place in (folder, beside):
        for name in META_NAMES:
            if (place / name).is_file():
                return place / name
    return None


class _Pictures:
    """The frames of a split's videos: ``JPEGImages/<video>/<frame>.jpg``."""

    def __init__(self, folder: Path, images: Path) -> None:
        self.label = str(folder)
        self.images = images
        self.skipped: dict[str, int] = {}
        self._names: dict[str, list[str]] = {}  # file names by frame index, by video

    def skip(self, reason: str, count: int = 1) -> None:
        if count:
            self.skipped[reason] = self.skipped.get(reason, 0) + count

    def list_frames(self, video: str, frames: Sequence[str]) -> tuple[int, ...]:
        """Return the indices of the listed frames that are there."""
        found = _stems(self.images / video)
        self._names[video] = [found.get(stem, "") for stem in frames]
        present = tuple(i for i, name in enumerate(self._names[video]) if name)
        self.skip("frames without a picture", len(frames) - len(present))
        return present

    def origin(self, video: str) -> str:
        return f"{self.images.resolve()}/{video}"

    def path(self, video: str, index: int) -> Path:
        return self.images / video / self._names[video][index]

    def size(self, video: TrainingVideo) -> tuple[int, int]:
        path = self.path(video.name, video.sentences[0].frames[0])
        with open_listed(path) as picture:
            return picture.height, picture.width

    def pictures(self, video: TrainingVideo, frames: Sequence[int]) -> list[Picture]:
        read = {index: read_picture(self.path(video.name, index)) for index in set(frames)}
        return [read[index] for index in frames]


def _stems(folder: Path) -> dict[str, str]:
    """File names of pictures by stem."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError:
        return {}
    return {Path(n).stem: n for n in names if Path(n).suffix.lower() in _SUFFIXES}


def _read_videos(meta: Path) -> Iterator[tuple[str, list[str], dict[str, Mapping[str, Any]]]]:
    """Yield name, frames and expressions of each video of a file, checked."""
    document = read_json(meta)
    videos = document.get("videos") if isinstance(document, dict) else None
    if not isinstance(videos, dict):
        raise DatasetError(f"{meta} has no 'videos'; it is not a file of expressions.")
    for name, entry in videos.items():
        frames = entry.get("frames") if isinstance(entry, dict) else None
        expressions = entry.get("expressions") if isinstance(entry, dict) else None
        if not isinstance(frames, list) or not isinstance(expressions, dict):
            raise DatasetError(f"The video {name!r} in {meta} lacks 'frames' or 'expressions'.")
        if not all(is_safe_name(part) for part in (name, *frames)):
            raise DatasetError(f"The video {name!r} in {meta} has a name that is a path.")
        for exp_id, item in expressions.items():
            if not isinstance(item, dict) or not isinstance(item.get("exp"), str):
                raise DatasetError(f"Expression {exp_id!r} of {name!r} in {meta} has no 'exp'.")
        yield name, frames, expressions


def _ids(value: Any, where: str) -> tuple[int, ...]:
    # Ref-YouTube-VOS has one id as a string where MeViS has a list.
    try:
        return tuple(int(part) for part in (value if isinstance(value, list) else [value]))
    except (TypeError, ValueError, OverflowError):
        raise DatasetError(f"{where} has ids that are not integers.") from None


class MevisSource(_Pictures):
    """A MeViS or MeViSv2 split with its ``mask_dict.json``; see `Source`.

    Parameters
    ----------
    folder : Path
        The split, such as ``MeViS/train``.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, folder / "JPEGImages")
        meta = _meta(folder)
        packed = folder / "JPEGImages.tar"
        if packed.is_file() and not self.images.is_dir():
            raise DatasetError(f"The frames of {folder} are packed; unpack {packed.name} there.")
        self._split = MevisSplit(folder, {})
        self.identity = f"mevis:{meta.stat().st_size}:{folder.absolute()}"
        videos = []
        for name, frames, expressions in _read_videos(meta):
            present = self.list_frames(name, frames)
            sentences = [
                sentence
                for exp_id, item in expressions.items()
                if (sentence := self._sentence(item, present, f"{name}/{exp_id} in {meta}"))
            ]
            if sentences:
                videos.append(TrainingVideo(name, tuple(sentences), self.origin(name)))
        self.videos = tuple(videos)

    def _sentence(
        self, item: Mapping[str, Any], present: tuple[int, ...], where: str
    ) -> Sentence | None:
        if not item["exp"].strip():
            self.skip("empty sentences")
        elif "anno_id" not in item or (not item["anno_id"] and item.get("obj_id")):
            self.skip("sentences whose truth is not given")
        elif not present:
            self.skip("sentences about videos without pictures")
        elif not all(map(self._split.has_masks, ids := _ids(item["anno_id"], where))):
            self.skip("sentences whose masks are missing")
        else:
            return Sentence(item["exp"], ids, present)
        return None

    def masks(
        self, video: TrainingVideo, sentence: Sentence, frames: Sequence[int]
    ) -> npt.NDArray[np.bool_]:
        """Return the union of the annotations, (T, H, W); see `Source`."""
        size = self.size(video)
        out = np.zeros((len(frames), *size), np.bool_)
        for anno_id in sentence.objects:
            entries = self._split.masks(anno_id)
            for row, index in enumerate(frames):
                entry = entries[index] if index < len(entries) else None
                if entry is None:
                    continue
                try:
                    mask = rle.decode(entry)
                except DatasetError as error:
                    raise DatasetError(
                        f"anno_id {anno_id} of {self.label}, frame {index}: {error}"
                    ) from None
                if mask.shape != size:
                    raise DatasetError(
                        f"anno_id {anno_id} of {self.label} is {mask.shape[1]} x {mask.shape[0]} "
                        f"on frame {index}, the picture {size[1]} x {size[0]}; run 'flowrvs check'."
                    )
                out[row] |= mask
        return out


class PaletteSource(_Pictures):
    """Videos whose masks are palette pictures by object id; see `Source`.

    Made by `ref_youtube_vos` and `ref_davis`.

    Parameters
    ----------
    folder, images, annotations : Path
        The data set, and the folders of the videos' folders of pictures and masks.
    identity : str
        See `Source`.
    entries : iterable of (str, list of str, list of (str, tuple of int))
        Videos: name, stems of the frames, and sentences with the objects that they mean.
    """

    def __init__(
        self,
        folder: Path,
        images: Path,
        annotations: Path,
        identity: str,
        entries: Iterable[tuple[str, Sequence[str], Sequence[tuple[str, tuple[int, ...]]]]],
    ) -> None:
        super().__init__(folder, images)
        self.annotations = annotations
        self.identity = f"{identity}:{folder.absolute()}"
        videos = (self._video(*entry) for entry in entries)
        self.videos = tuple(video for video in videos if video is not None)

    def _video(
        self, name: str, frames: Sequence[str], texts: Sequence[tuple[str, tuple[int, ...]]]
    ) -> TrainingVideo | None:
        """Return a video with the frames that have both a picture and masks, if any has."""
        present = self.list_frames(name, frames)
        masks = _stems(self.annotations / name)
        usable = tuple(i for i in present if Path(self._names[name][i]).stem in masks)
        self.skip("frames without masks", len(present) - len(usable))
        known = [(text, ids) for text, ids in texts if text.strip() and ids]
        self.skip("sentences whose truth is not given", len(texts) - len(known))
        if not usable:
            self.skip("sentences about videos without pictures or masks", len(known))
        if not usable or not known:
            return None
        sentences = tuple(Sentence(text, ids, usable) for text, ids in known)
        return TrainingVideo(name, sentences, self.origin(name))

    def masks(
        self, video: TrainingVideo, sentence: Sentence, frames: Sequence[int]
    ) -> npt.NDArray[np.bool_]:
        """Return the union of the objects, (T, H, W); see `Source`."""
        size = self.size(video)
        out = np.zeros((len(frames), *size), np.bool_)
        for row, index in enumerate(frames):
            stem = Path(self._names[video.name][index]).stem
            path = self.annotations / video.name / f"{stem}.png"
            labels = _read_labels(path)
            if labels.shape != size:
                raise DatasetError(
                    f"{path} is {labels.shape[1]} x {labels.shape[0]}, its picture "
                    f"{size[1]} x {size[0]}; run 'flowrvs check'."
                )
            out[row] = np.isin(labels, sentence.objects)
        return out


def ref_youtube_vos(folder: Path) -> PaletteSource:
    """Open a Ref-YouTube-VOS-like split: ``JPEGImages``, ``Annotations`` and its sentences."""
    meta = _meta(folder)

    def entries() -> Iterator[tuple[str, list[str], list[tuple[str, tuple[int, ...]]]]]:
        for name, frames, expressions in _read_videos(meta):
            texts = []
            for exp_id, item in expressions.items():
                # The official valid/ keeps its truth to itself.
                given = item.get("obj_id") is not None
                where = f"{name}/{exp_id} in {meta}"
                texts.append((item["exp"], _ids(item["obj_id"], where) if given else ()))
            yield name, frames, texts

    identity = f"palette:{meta.stat().st_size}"
    return PaletteSource(folder, folder / "JPEGImages", folder / "Annotations", identity, entries())


def ref_davis(folder: Path) -> PaletteSource:
    """Open the original Ref-DAVIS17: DAVIS itself with ``davis_text_annotations/*.txt``.

    Each line of those is a video, an object and a sentence in quotation marks. Where
    ``ImageSets/2017/train.txt`` is there, only its videos count.
    """
    files = sorted((folder / "davis_text_annotations").glob("*.txt"))
    images, annotations = (folder / kind / "480p" for kind in ("JPEGImages", "Annotations"))
    try:
        listed = set((folder / "ImageSets" / "2017" / "train.txt").read_text().split())
    except (OSError, UnicodeDecodeError):
        listed = set()
    texts: dict[str, dict[tuple[str, tuple[int, ...]], None]] = {}
    for path in files:
        try:
            lines = path.read_text("utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise DatasetError(f"{path} is no text in UTF-8; save it as such.") from None
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            name, _, rest = line.strip().partition(" ")
            object_id, _, text = rest.strip().partition(" ")
            text = text.strip().strip('"\u201c\u201d').strip()
            if not is_safe_name(name) or not object_id.isdecimal() or not text:
                raise DatasetError(
                    f"Line {number} of {path} is not 'video object \"sentence\"'; mend that line."
                )
            if not listed or name in listed:
                texts.setdefault(name, {})[text, (int(object_id),)] = None
    entries = ((name, sorted(_stems(images / name)), list(found)) for name, found in texts.items())
    total = sum(path.stat().st_size for path in files)
    return PaletteSource(folder, images, annotations, f"davis:{total}", entries)


def _meta(folder: Path) -> Path:
    meta = find_meta(folder)
    if meta is None:
        raise DatasetError(f"{folder} has no meta_expressions.json; give a split's folder.")
    return meta


def _read_labels(path: Path) -> npt.NDArray[np.uint8]:
    """Object ids of a palette or grey picture, (H, W); a mask of 0 and 255 is object 1."""
    with open_listed(path, ["PNG"]) as picture:
        if picture.mode in ("RGB", "RGBA"):
            colours = np.asarray(picture.convert("RGB"))
            if (colours != colours[..., :1]).any():
                raise DatasetError(
                    f"{path} shows objects in colours; save it as a palette or grey picture of "
                    "their numbers."
                )
        flat = picture if picture.mode in ("P", "L") else picture.convert("L")
        labels = np.array(flat, np.uint8)
    if np.isin(labels, (0, 255)).all():
        labels[labels == 255] = 1
    return labels
