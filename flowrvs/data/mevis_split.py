"""A MeViS-style split as evaluation, prediction and training read it, larger than memory or not."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from flowrvs.data import json_parts
from flowrvs.data.formats import MASKS, meta_path, split_folder
from flowrvs.data.json_parts import read_json, whole_number
from flowrvs.data.pictures import PICTURES, frame_file, listed_names, open_picture, safe_name
from flowrvs.errors import DatasetError, FlowRVSError, MissingPathError, counted
from flowrvs.folders import NewFolder
from flowrvs.masks import rle

__all__ = ["MevisExpression", "MevisSplit", "MevisVideo"]

_LARGEST = 64 << 20  # bytes of a frame in an archive
_MOST = 5_000_000  # entries of an archive
_KEPT = 64  # annotations held in memory, of the ones that were asked for last


@dataclass(frozen=True, slots=True)
class MevisExpression:
    """A sentence of a split.

    Attributes
    ----------
    exp : str
        The sentence.
    obj_id : tuple of int
        Ids of the objects it means, within the video.
    anno_id : tuple of int
        Keys into ``mask_dict``, parallel to `obj_id`; empty for no target.
    known : bool
        False where the split does not say what the sentence means, as hidden test splits.
    """

    exp: str
    obj_id: tuple[int, ...] = ()
    anno_id: tuple[int, ...] = ()
    known: bool = True


@dataclass(frozen=True, slots=True)
class MevisVideo:
    """A video of a split.

    Attributes
    ----------
    name : str
        Its folder in ``JPEGImages``.
    frames : tuple of str
        Frame names without suffix, in order.
    expressions : dict of str to MevisExpression
        By exp_id.
    """

    name: str
    frames: tuple[str, ...]
    expressions: dict[str, MevisExpression]


class MevisSplit:
    """A split on disk; pictures and masks are read when they are asked for.

    Use :meth:`open`. Every name is checked to stay inside the split.

    Attributes
    ----------
    folder : Path
        The split's folder.
    videos : dict of str to MevisVideo
        By name, in the file's order.
    """

    def __init__(self, folder: Path, videos: dict[str, MevisVideo]) -> None:
        self.folder = folder
        self.videos = videos
        # Not `lru_cache`: a training's workers get a split as a pickle.
        self._read: dict[int, list[rle.RLE | None]] = {}

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> MevisSplit:
        """Open the split in `folder`.

        Raises
        ------
        MissingPathError
            There is no such folder.
        DatasetError
            It is not a MeViS-style split, or its expressions are malformed.
        """
        root = split_folder(folder)
        meta = meta_path(root)
        videos = read_json(meta).get("videos")
        if not isinstance(videos, dict):
            raise DatasetError(f"{meta} has no 'videos'; it is not a MeViS-style split.")
        return cls(root, {name: _video(name, entry, meta) for name, entry in videos.items()})

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Iterate over the (video, exp_id) pairs."""
        for video in self.videos.values():
            for exp_id in video.expressions:
                yield video.name, exp_id

    def __len__(self) -> int:
        return sum(len(video.expressions) for video in self.videos.values())

    @property
    def has_truth(self) -> bool:
        """True when the split comes with its masks.

        Raises
        ------
        DatasetError
            A link that leads nowhere, or no plain file, is in their place.
        """
        path = self.folder / MASKS
        if os.path.lexists(path) and not path.is_file():
            raise DatasetError(f"{path} is no plain file, or a link to none; copy it again.")
        return path.is_file()

    @cached_property
    def _spans(self) -> dict[str, tuple[int, int]]:
        """Where the masks of every annotation lie in the file: it may exceed the memory."""
        path = self.folder / MASKS
        if not path.is_file():
            raise DatasetError(
                f"{self.folder} has no mask_dict.json: its truth is not public; "
                "use a split with masks, such as valid_u."
            )
        try:
            with json_parts.mapped(path) as data:
                return {m.key: (m.start, m.stop) for m in json_parts.members(data)}
        except DatasetError as error:
            raise DatasetError(f"{path} is not readable JSON ({error}); copy it again.") from None

    def masks(self, anno_id: int) -> list[rle.RLE | None]:
        """Return the masks of one annotation, one entry a frame, None where absent.

        Raises
        ------
        DatasetError
            The split has no such annotation.
        """
        found = self._read.get(anno_id)
        if found is None:
            found = self._read_masks(str(anno_id))
            while len(self._read) >= _KEPT:
                self._read.pop(next(iter(self._read), anno_id), None)
            self._read[anno_id] = found
        return list(found)

    def has_masks(self, anno_id: int) -> bool:
        """Tell whether the split has an annotation."""
        return self.has_truth and str(anno_id) in self._spans

    def next_anno(self) -> int:
        """Return the first anno_id after those that the split has."""
        return json_parts.next_number(self._spans if self.has_truth else ())

    def _read_masks(self, key: str) -> list[rle.RLE | None]:
        path = self.folder / MASKS
        try:
            start, stop = self._spans[key]
        except KeyError:
            raise DatasetError(
                f"{path} has no anno_id {key}; run 'flowrvs check' on the split."
            ) from None
        try:
            with path.open("rb") as file:
                file.seek(start)
                entries = json.loads(file.read(stop - start))
        except (OSError, ValueError, RecursionError) as error:
            raise DatasetError(
                f"anno_id {key} in {path} is not readable ({error}); copy the file again."
            ) from None
        if not isinstance(entries, list):
            raise DatasetError(f"anno_id {key} in {path} is no list.")
        return [entry or None for entry in entries]

    def target_rle(self, video: str, exp_id: str, index: int) -> rle.RLE | None:
        """Return the union of an expression's masks on one frame; None when empty.

        Parameters
        ----------
        video, exp_id : str
            The expression.
        index : int
            Position in the video's `frames`.

        Raises
        ------
        DatasetError
            There is no such video, expression, annotation or frame.
        """
        entry = self._expression(video, exp_id)
        if not 0 <= index < len(self.videos[video].frames):
            raise DatasetError(f"{video!r} has no frame at position {index}.")
        found = []
        for anno_id in entry.anno_id:
            entries = self.masks(anno_id)
            if index >= len(entries):
                raise DatasetError(
                    f"anno_id {anno_id} has {counted(len(entries), 'mask')}, {video!r} "
                    f"{counted(len(self.videos[video].frames), 'frame')}; run 'flowrvs check' on "
                    "the split."
                )
            mask = entries[index]
            if mask is not None:
                found.append(mask)
        return found[0] if len(found) == 1 else rle.merge(found)

    def target_mask(self, video: str, exp_id: str, index: int) -> npt.NDArray[np.bool_]:
        """Return the target of an expression on one frame, shape (H, W).

        Its size is that of the masks; the picture is looked at only where none is
        present.
        """
        union = self.target_rle(video, exp_id, index)
        if union is not None:
            return rle.decode(union)
        return np.zeros(self.size(video), dtype=bool)

    def target_masks(self, video: str, exp_id: str) -> npt.NDArray[np.bool_]:
        """Return the target of an expression on every frame, shape (T, H, W)."""
        count = len(self.videos[video].frames) if video in self.videos else 0
        self._expression(video, exp_id)
        return np.stack([self.target_mask(video, exp_id, i) for i in range(count)])

    def frame_path(self, video: str, index: int) -> Path:
        """Return the picture of the frame at position `index`.

        Raises
        ------
        DatasetError
            There is no such video or frame.
        MissingPathError
            The picture is not there.
        """
        try:
            stem = self.videos[video].frames[index]
        except (KeyError, IndexError):
            raise DatasetError(f"{self.folder} has no frame {index} of {video!r}.") from None
        folder = self.pictures(video)
        path = frame_file(folder, stem)
        if path is None:
            raise MissingPathError(
                f"The frame {folder / stem}.jpg is missing; copy it again or run 'flowrvs check'."
            )
        return path

    def pictures(self, video: str) -> Path:
        """Return the folder of a video's frames, unpacked where they come as ``JPEGImages.tar``.

        Raises
        ------
        DatasetError
            The archive is damaged or lacks frames.
        StorageError
            They cannot be written beside it.
        """
        folder = self.folder / "JPEGImages" / video
        archive = self.folder / "JPEGImages.tar"
        if not folder.is_dir() and archive.is_file() and video in self.videos:
            _unpack(archive, self._packed, folder, self.videos[video].frames)
        return folder

    @cached_property
    def _packed(self) -> dict[str, dict[str, tuple[str, int, int]]]:
        """Where the frames of every video lie in ``JPEGImages.tar``: suffix, begin and size."""
        found: dict[str, dict[str, tuple[str, int, int]]] = {}
        path = self.folder / "JPEGImages.tar"
        try:
            with tarfile.open(path, "r:") as archive:
                for number, member in enumerate(archive):
                    archive.members = []  # type: ignore[attr-defined]  # it keeps them all otherwise
                    name = PurePosixPath(member.name)
                    plain = member.isreg() and not member.issparse() and member.size <= _LARGEST
                    if plain and name.suffix.lower() in PICTURES:
                        frames = found.setdefault(name.parent.name, {})
                        suffix = name.suffix.lower()  # as `frame_file` finds it
                        frames[name.stem] = (suffix, member.offset_data, member.size)
                    if number > _MOST:
                        raise DatasetError(f"{path} has more than {_MOST} entries; unpack it.")
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
            if isinstance(error, FlowRVSError):
                raise
            raise DatasetError(f"{path} cannot be read ({error}); copy it again.") from None
        return found

    def size(self, video: str) -> tuple[int, int]:
        """Return the height and width of a video's frames."""
        with open_picture(self.frame_path(video, 0)) as picture:
            return picture.height, picture.width

    def read_frames(
        self, video: str, start: int = 0, stop: int | None = None
    ) -> npt.NDArray[np.uint8]:
        """Return frames at positions `start` to `stop`, shape (T, H, W, 3) RGB.

        Raises
        ------
        DatasetError, MissingPathError
            A picture is missing, unreadable or of another size than the first.
        """
        if video not in self.videos:
            raise DatasetError(f"{self.folder} has no video {video!r}.")
        positions = range(len(self.videos[video].frames))[start:stop]
        frames: list[npt.NDArray[np.uint8]] = []
        for index in positions:
            path = self.frame_path(video, index)
            with open_picture(path) as picture:
                frames.append(np.asarray(picture.convert("RGB")))
            if frames[-1].shape != frames[0].shape:
                raise DatasetError(f"The frame {path} has another size than its neighbours.")
        return np.stack(frames) if frames else np.zeros((0, *self.size(video), 3), np.uint8)

    def _expression(self, video: str, exp_id: str) -> MevisExpression:
        try:
            return self.videos[video].expressions[exp_id]
        except KeyError:
            raise DatasetError(
                f"{self.folder} has no expression {exp_id!r} of {video!r}."
            ) from None


def _unpack(
    archive: Path,
    packed: Mapping[str, Mapping[str, tuple[str, int, int]]],
    folder: Path,
    frames: Sequence[str],
) -> None:
    """Write the listed frames of one video, and nothing else, into a new folder."""
    here = packed.get(folder.name, {})
    missing = [frame for frame in frames if frame not in here]
    if missing:
        raise DatasetError(
            f"{archive} lacks {counted(len(missing), 'frame')} of {folder.name}, the first is "
            f"{missing[0]}."
        )
    with NewFolder(folder, refuse=DatasetError) as new, archive.open("rb") as file:
        for frame in frames:
            suffix, start, size = here[frame]
            file.seek(start)
            (new.path / f"{frame}{suffix}").write_bytes(file.read(size))


def _video(name: str, entry: Any, where: Path) -> MevisVideo:
    safe_name(name, "video", where)
    if not isinstance(entry, Mapping):
        raise DatasetError(f"The video {name!r} in {where} is not an object.")
    frames = listed_names(entry.get("frames"), name, where)
    expressions = entry.get("expressions")
    if not isinstance(expressions, Mapping):
        raise DatasetError(f"The video {name!r} in {where} has no 'expressions'.")
    parsed = {}
    for exp_id, item in expressions.items():
        safe_name(exp_id, "exp_id", where)
        if not isinstance(item, Mapping) or not isinstance(item.get("exp"), str):
            raise DatasetError(f"Expression {exp_id!r} of {name!r} in {where} has no text 'exp'.")
        parsed[exp_id] = MevisExpression(
            item["exp"],
            _ids(item.get("obj_id"), exp_id, name, where),
            _ids(item.get("anno_id"), exp_id, name, where),
            "obj_id" in item or "anno_id" in item,
        )
    return MevisVideo(name, tuple(frames), parsed)


def _ids(value: Any, exp_id: str, video: str, where: Path) -> tuple[int, ...]:
    # Ref-YouTube-VOS has one id as a string where MeViS has a list.
    items = value if isinstance(value, list) else [] if value is None else [value]
    try:
        return tuple(whole_number(item) for item in items)
    except DatasetError:
        raise DatasetError(
            f"Expression {exp_id!r} of {video!r} in {where} has ids that are not integers."
        ) from None
