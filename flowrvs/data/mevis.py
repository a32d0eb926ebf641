"""MeViS-style splits, read to be corrected, and written.

A split is a folder with ``JPEGImages/<video>/<frame>.jpg``, ``meta_expressions.json`` and,
where the truth is public, ``mask_dict.json`` (COCO RLE by anno_id, one entry per position in
``frames``, null where absent).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

import numpy as np
import numpy.typing as npt

from flowrvs.data import json_parts
from flowrvs.data.clip import Clip, coded_masks, digest
from flowrvs.data.formats import MASKS, META, Dataset, meta_path, new_split
from flowrvs.data.mevis_split import MevisExpression, MevisSplit, MevisVideo
from flowrvs.data.pictures import Frame, safe_name, write_frames
from flowrvs.disk import storage_error
from flowrvs.errors import DatasetError, FlowRVSError
from flowrvs.masks import rle

if TYPE_CHECKING:
    from flowrvs.data.job import Job
    from flowrvs.data.write_back import Changes

__all__ = [
    "Mevis",
    "MevisExpression",
    "MevisSplit",
    "MevisVideo",
    "MevisWriter",
    "write_mevis",
]

MaskLike = npt.NDArray[Any] | Mapping[str, Any] | None


class Mevis(Dataset):
    """A MeViS-style split, to be corrected."""

    format = "mevis"

    @classmethod
    def recognises(cls, root: Path) -> bool:
        if (root / MASKS).is_file():
            return True
        others = any((root / name).exists() for name in ("Annotations", "meta.json"))
        return meta_path(root).is_file() and not others

    @cached_property
    def _split(self) -> MevisSplit:
        return MevisSplit.open(self.folder)

    @property
    def videos(self) -> dict[str, int]:
        return {name: len(v.expressions) for name, v in self._split.videos.items()}

    def clip(self, name: str, *, also: Iterable[int] = ()) -> Clip:
        video = self._split.videos[name]
        pictures = self.pictures / name
        if not pictures.is_dir():
            pictures = self._split.pictures(name)
        clip = Clip(name, list(video.frames), pictures=pictures)
        if not self._split.has_truth:
            clip.looked = np.zeros(len(clip.frames), bool)
        for exp_id, entry in video.expressions.items():
            if not entry.known or (entry.obj_id and not (entry.anno_id and self._split.has_truth)):
                clip.sentences[exp_id] = (entry.exp, None)
                continue
            if entry.anno_id and len(entry.anno_id) != len(entry.obj_id):
                raise DatasetError(
                    f"{name}/{exp_id}: {len(entry.obj_id)} obj_ids stand beside "
                    f"{len(entry.anno_id)} anno_ids; run 'flowrvs check {self.folder}'."
                )
            for obj, anno in zip(entry.obj_id, entry.anno_id, strict=False):
                self._add(clip, anno, obj)
            clip.sentences[exp_id] = (entry.exp, list(dict.fromkeys(entry.anno_id)))
        for anno in also:
            if self._split.has_masks(anno):
                self._add(clip, anno, anno)
        if not self._split.has_truth and any(e.anno_id for e in video.expressions.values()):
            clip.notes.append(f"{MASKS} is missing: the sentences refer to masks in it")
        clip.digests = self._digests(clip)
        return clip

    def _add(self, clip: Clip, anno: int, obj: int) -> None:
        if anno not in clip.masks:
            clip.masks[anno] = coded_masks(self._split.masks(anno), clip, anno)
            clip.ids[anno] = (obj, anno)

    def _digests(self, clip: Clip) -> dict[str, str]:
        """Return the digests of a video's entry and of its masks."""
        with json_parts.mapped(meta_path(self.folder)) as data:
            entry = _entry(data, clip.name)
            found = {"video": digest(data[entry.start : entry.stop])}
        wanted = {str(key) for key in clip.masks}
        if wanted:
            with json_parts.mapped(self.folder / MASKS) as data:
                for item in json_parts.members(data):
                    if item.key in wanted:
                        if f"anno {item.key}" in found:
                            raise DatasetError(
                                f"{self.folder / MASKS} has the anno_id {item.key} twice; run "
                                f"'flowrvs check {self.folder}'."
                            )
                        found[f"anno {item.key}"] = digest(data[item.start : item.stop])
        return found

    def free_ids(self, clip: Clip, count: int) -> list[tuple[int, int]]:
        rows = self._split.videos[clip.name].expressions.values()
        used = [obj for row in rows for obj in row.obj_id] + [obj for obj, _ in clip.ids.values()]
        obj, anno = max(used, default=-1) + 1, self._split.next_anno()
        return [(obj + n, anno + n) for n in range(count)]

    def write_back(self, before: Clip, changes: Changes) -> None:
        if (changes.masks or changes.looked) and not self._split.has_truth:
            raise DatasetError(
                f"{self.folder} is a split without masks; export the project as a new split."
            )
        meta = meta_path(self.folder)
        with json_parts.mapped(meta) as data:
            entry = _entry(data, before.name)
            raw = data[entry.start : entry.stop]
            everything = json_parts.value(data, 0, len(data))["videos"]
        after = _changed_entry(raw, before, changes)
        everything[before.name] = json.loads(after)
        used = {
            str(anno)
            for video in everything.values()
            for row in video["expressions"].values()
            for anno in row.get("anno_id") or ()
        }
        masks: dict[str, bytes | None] = {
            str(key): None for key in changes.gone if str(key) not in used
        }
        new_masks = []
        # Not opened at all where no mask differs: it may hold gigabytes.
        with json_parts.mapped(self.folder / MASKS if changes.masks else meta) as data:
            places = {m.key: m.start for m in json_parts.members(data)} if changes.masks else {}
            for key, found in changes.masks.items():
                if key in changes.added:
                    text = json_parts.style(data[:4096]).encode(changes.whole[key])
                    new_masks.append((str(key), text.encode("ascii")))
                elif key not in changes.gone:
                    start = places[str(key)]
                    encoder = json_parts.style(data[start : start + 4096])
                    entries = {i: encoder.encode(m).encode("ascii") for i, m in found.items()}
                    pieces = json_parts.splice_list(data, start, entries)
                    masks[str(key)] = json_parts.joined(data, pieces)
        json_parts.amend(
            self.folder,
            meta=meta,
            videos={before.name: after} if after != raw else {},
            masks=masks,
            new_masks=new_masks or None,
        )


def _entry(data: json_parts.Buffer, video: str) -> json_parts.Member:
    videos = json_parts.member(data, "videos")
    entry = json_parts.member(data, video, videos.start) if videos else None
    if entry is None:
        raise DatasetError(f"there is no video {video!r} any more")
    return entry


def _changed_entry(raw: bytes, before: Clip, changes: Changes) -> bytes:
    """Return a video's entry with the sentences that differ; the rest keeps its bytes."""
    rows = json.loads(raw)["expressions"]
    encoder = json_parts.style(raw)
    objects = {**{anno: obj for obj, anno in before.ids.values()}, **changes.ids}
    values: dict[str, bytes | None] = {}
    for exp_id, change in changes.sentences.items():
        if change is None:
            values[exp_id] = None
            continue
        text, keys = change
        row = rows.get(exp_id, {})
        # What the sentence meant before keeps its place and spelling.
        pairs = dict(zip(row.get("anno_id") or (), row.get("obj_id") or (), strict=False))
        kept = {anno: obj for anno, obj in pairs.items() if int(anno) in keys}
        have = {int(anno) for anno in kept}
        kept.update({key: objects[key] for key in keys if key not in have})
        new = {**row, "exp": text}
        if set(pairs) != set(kept) or "anno_id" not in row:
            new.update(obj_id=list(kept.values()), anno_id=list(kept))
        values[exp_id] = encoder.encode(new).encode("ascii")
    if not values:
        return raw
    found = json_parts.member(raw, "expressions")
    assert found is not None
    extra = {k: v for k, v in values.items() if k not in rows and v is not None}
    pieces = json_parts.splice(raw, found.start, {k: values[k] for k in values if k in rows}, extra)
    return raw[: found.start] + json_parts.joined(raw, pieces) + raw[found.stop :]


# -- writing ---------------------------------------------------------------------------


class MevisWriter:
    """Write one split: ``JPEGImages/``, ``meta_expressions.json``, ``mask_dict.json``.

    The split grows in a hidden folder beside its final place and gets its name when
    it is closed. Use it as a context manager: an exception removes what was written.
    Frames and masks are streamed, so that a split may be larger than the memory.

    Parameters
    ----------
    folder : path-like
        The split's folder, such as ``out/train``; its parents are created.
    overwrite : bool
        Replace a folder that is already there. Without it, the very same content is
        accepted and anything else is refused when the writer closes.
    quality : int
        JPEG quality of frames handed in as arrays, 1 to 100.
    truth : bool
        False leaves out the masks and the ids, as in MeViS's own ``valid`` split.
    jobs : int, optional
        Threads that encode frames; one a core by default.
    first_anno : int
        The first anno_id.
    place : Path, optional
        An empty folder to write into, which somebody else gives its name.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        quality: int = 95,
        truth: bool = True,
        jobs: int | None = None,
        first_anno: int = 0,
        place: Path | None = None,
    ) -> None:
        self._new = new_split(folder, overwrite) if place is None else None
        self.place = self._new.path if self._new is not None else Path(place or "")
        self.folder = Path(folder)
        self.quality = quality
        self.truth = truth
        self.jobs = jobs
        self._videos: dict[str, Any] = {}
        self._next_anno = self._first_anno = first_anno
        self._masks: TextIO | None = None
        if truth:
            try:
                self._masks = (self.place / MASKS).open("w", encoding="ascii")
                self._masks.write("{")
            except OSError as error:
                self.abort()
                raise storage_error(error, folder) from error

    def add_video(
        self,
        name: str,
        frames: Iterable[Frame],
        *,
        frame_names: Sequence[str] | None = None,
        objects: Mapping[int, Iterable[MaskLike]] | None = None,
        expressions: Mapping[str, tuple[str, Iterable[int] | None]] | None = None,
    ) -> dict[int, int]:
        """Add one video with its objects and sentences.

        Parameters
        ----------
        name : str
            Folder name of the video, unique in the split.
        frames : iterable of ndarray of uint8, shape (H, W, 3), or of bytes
            RGB frames, or whole JPEG files, which are copied as they are.
        frame_names : sequence of str, optional
            One ascending name a frame, without suffix; zero-padded numbers by default.
        objects : mapping of int to iterable of masks, optional
            By an id that is unique in the video: one entry a frame, an (H, W) mask
            (non-zero is foreground), an RLE, or None where the object is absent.
        expressions : mapping of str to (text, object ids), optional
            By exp_id; no ids for a sentence without target, None where it is not known.

        Returns
        -------
        dict of int to int
            The anno_id, global to the split, of every object.

        Raises
        ------
        DatasetError
            A name is unusable or taken, sizes or lengths disagree, or a sentence
            names an unknown object; the split is as before the call.
        StorageError
            The disk is full, read-only or failing.
        """
        safe_name(name, "video")
        if name.casefold() in {known.casefold() for known in self._videos}:
            raise DatasetError(f"The video name {name!r} is used twice; rename one of the videos.")
        folder = self.place / "JPEGImages" / name
        try:
            folder.mkdir(parents=True)
            names, size = write_frames(
                folder, name, frames, frame_names, quality=self.quality, jobs=self.jobs
            )
            ids = {key: self._next_anno + i for i, key in enumerate(objects or {})}
            rows = [
                f'"{ids[key]}": {json.dumps(list(_rles(masks, len(names), size, name, key)))}'
                for key, masks in (objects or {}).items()
                if self.truth
            ]
            entry = self._expressions(name, ids, expressions or {})
            if self._masks is not None and rows:
                self._masks.write(",\n" if self._next_anno > self._first_anno else "\n")
                self._masks.write(",\n".join(rows))
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            # What the frames' own source raises, some of it OSErrors too, says more.
            if isinstance(error, OSError) and not isinstance(error, FlowRVSError):
                raise storage_error(error, self.folder) from error
            raise
        self._next_anno += len(ids)
        self._videos[name] = {"expressions": entry, "frames": names}
        return ids

    def add_file(self, name: str, text: str) -> None:
        """Add a file of one's own beside ``meta_expressions.json``.

        Raises
        ------
        DatasetError
            The name is unusable or one of the split's own.
        StorageError
            The disk is full, read-only or failing.
        """
        safe_name(name, "file")
        path = self.place / name
        if path.exists() or name in ("JPEGImages", META, MASKS):
            raise DatasetError(f"The split has a file {name!r} already; choose another name.")
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise storage_error(error, self.folder) from error

    def close(self) -> Path:
        """Finish the split and give it its name.

        Returns
        -------
        Path
            The split's folder.

        Raises
        ------
        DatasetError
            Another split is there and `overwrite` is false.
        StorageError
            The disk is full, read-only or failing.
        """
        try:
            if self._masks is not None:
                self._masks.write("\n}\n")
                self._masks.close()
                self._masks = None
            (self.place / "JPEGImages").mkdir(exist_ok=True)
            with (self.place / META).open("w", encoding="ascii") as out:
                json.dump({"videos": self._videos}, out, indent=1)
                out.write("\n")
        except OSError as error:
            self.abort()
            raise storage_error(error, self.folder) from error
        if self._new is not None:
            self._new.commit()
        return self.folder

    def abort(self) -> None:
        """Drop everything that was written."""
        if self._masks is not None:
            # A full disk fails again when the buffer is flushed; it goes anyway.
            with contextlib.suppress(OSError):
                self._masks.close()
            self._masks = None
        if self._new is not None:
            self._new.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _expressions(
        self,
        video: str,
        ids: Mapping[int, int],
        expressions: Mapping[str, tuple[str, Iterable[int] | None]],
    ) -> dict[str, Any]:
        entry: dict[str, Any] = {}
        for exp_id, (text, targets) in expressions.items():
            safe_name(exp_id, "exp_id", video)
            chosen = list(dict.fromkeys(int(t) for t in targets or ()))
            unknown = [t for t in chosen if t not in ids]
            if unknown:
                raise DatasetError(
                    f"Expression {exp_id!r} of {video!r} means object {unknown[0]}, which the "
                    "video does not have."
                )
            entry[exp_id] = {"exp": str(text)}
            if self.truth and targets is not None:
                entry[exp_id]["obj_id"] = chosen
                entry[exp_id]["anno_id"] = [ids[t] for t in chosen]
        return entry


def _rles(
    masks: Iterable[MaskLike], count: int, size: tuple[int, int], video: str, key: int
) -> Iterator[rle.RLE | None]:
    """Yield one RLE, or None for an absent object, for every frame."""
    seen = 0
    for mask in masks:
        seen += 1
        if mask is None:
            yield None
            continue
        if isinstance(mask, Mapping):
            shape: tuple[int, ...] = tuple(int(n) for n in mask["size"])
            present = rle.area(mask) > 0
            coded = rle.merge([mask]) if present else None
        else:
            array = np.asarray(mask)
            shape = array.shape
            coded = rle.encode(array) if array.any() else None
        if shape != size:
            raise DatasetError(
                f"The mask of object {key} on frame {seen - 1} of {video!r} has the shape "
                f"{shape}, the frames {size}; masks must have the frames' size."
            )
        yield coded
    if seen != count:
        raise DatasetError(
            f"Object {key} of {video!r} has masks for {seen} frames, the video {count} frames."
        )


def write_mevis(folder: Path, job: Job, *, first_anno: int = 0, truth: bool | None = None) -> None:
    """MeViS: ``meta_expressions.json`` and ``mask_dict.json``."""
    if truth is None:
        truth = job.target.name != "valid"
    writer = MevisWriter(
        job.target,
        quality=job.options.quality,
        truth=truth,
        jobs=job.options.jobs,
        first_anno=first_anno,
        place=folder,
    )
    with writer:
        for clip in job.clips(unknown=not truth):
            writer.add_video(
                clip.name,
                job.pictures(clip),
                frame_names=clip.frames,
                objects=clip.masks,
                expressions=clip.sentences,
            )
    if not truth:
        job.notes.append("the split 'valid' is written without masks, as MeViS's own is")
