"""Predict a whole split, as a benchmark wants it: one picture a sentence and frame."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowrvs.data._atomic import storage_error, write_atomic
from flowrvs.data.mevis import MevisSplit, read_json
from flowrvs.errors import DatasetError, InputError, StorageError
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock
from flowrvs.records import Segmenter

if TYPE_CHECKING:
    from flowrvs.video import Video

__all__ = ["PredictResult", "predict_split", "zip_predictions"]

_RECORD = ".flowrvs-predict.json"


@dataclass(frozen=True, slots=True)
class PredictResult:
    """What a prediction run did.

    Attributes
    ----------
    out : Path
        The folder of the predictions.
    videos, expressions, frames : int
        What the run was asked for.
    skipped : int
        Expressions that were complete before it began.
    """

    out: Path
    videos: int
    expressions: int
    frames: int
    skipped: int


def predict_split(
    split: str | os.PathLike[str] | MevisSplit,
    out: str | os.PathLike[str],
    segmenter: Segmenter,
    *,
    videos: Sequence[str] | None = None,
    steps: int = 1,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> PredictResult:
    """Write ``<out>/<video>/<exp_id>/<frame>.png`` for every sentence of a split.

    Pictures have the source's size and the values 0 and 255, and each appears whole.
    A run that was stopped goes on where it was: complete expressions are skipped. A
    video is encoded once for all its sentences.

    Parameters
    ----------
    split : path-like or MevisSplit
        The split; its masks are not needed.
    out : path-like
        Folder of the predictions; created when it is not there.
    segmenter : Segmenter
        The model.
    videos : sequence of str, optional
        Predict these alone; all by default.
    steps : int
        Euler steps of the flow, 1 or more.
    progress : callable, optional
        Called after every finished window of a sentence.
    cancel : CancelToken, optional
        Checked before every model step.

    Returns
    -------
    PredictResult

    Raises
    ------
    DatasetError
        The split is malformed, lacks a frame, or `out` holds another model's or
        split's predictions.
    InputError
        `videos` names one that the split does not have.
    StorageError
        The disk is full, read-only or failing.
    Cancelled
        `cancel` was set; finished pictures are kept.
    """
    source = split if isinstance(split, MevisSplit) else MevisSplit.open(split)
    root = Path(out)
    chosen = _choose(source, videos)
    _claim(root, {"model": segmenter.name, "steps": steps, "split": source.folder.name})
    pending = {
        name: [e for e in exps if not _complete(root, source, name, e)] for name, exps in chosen
    }
    lengths = {name: len(source.videos[name].frames) for name, _ in chosen}
    total = sum(lengths[name] * len(exps) for name, exps in chosen)
    todo = sum(lengths[name] * len(exps) for name, exps in pending.items())
    clock = ProgressClock(total, total - todo)
    if progress is not None:
        progress(clock.event("starting"))
    for name, exps in pending.items():
        if cancel is not None:
            cancel.raise_if_cancelled()
        if exps:
            _predict_video(source, root, name, exps, segmenter, steps, clock, progress, cancel)
    count = sum(len(exps) for _, exps in chosen)
    skipped = count - sum(len(exps) for exps in pending.values())
    return PredictResult(root, len(chosen), count, total, skipped)


def zip_predictions(
    split: str | os.PathLike[str] | MevisSplit,
    out: str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    *,
    videos: Sequence[str] | None = None,
) -> Path:
    """Write the zip file for a submission, and read it back.

    It holds the pictures that the split lists and nothing else, with the video
    folders at its root.

    Parameters
    ----------
    split : path-like or MevisSplit
    out : path-like
        Folder of the predictions.
    path : path-like, optional
        The zip file; ``<out>.zip`` by default.
    videos : sequence of str, optional
        These alone; all by default.

    Returns
    -------
    Path
        The zip file.

    Raises
    ------
    DatasetError
        A picture is missing.
    StorageError
        The disk is full, or what was written does not read back.
    """
    source = split if isinstance(split, MevisSplit) else MevisSplit.open(split)
    root = Path(out)
    target = Path(path) if path is not None else root.with_name(f"{root.name}.zip")
    names = [
        f"{name}/{exp_id}/{frame}.png"
        for name, exps in _choose(source, videos)
        for exp_id in exps
        for frame in source.videos[name].frames
    ]
    for name in names:
        if not (root / name).is_file():
            raise DatasetError(f"{root / name} is missing; run 'flowrvs predict' to the end first.")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        # The pictures are compressed already.
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for name in names:
                archive.write(root / name, name)
        with zipfile.ZipFile(temporary) as archive:
            if archive.testzip() is not None or archive.namelist() != names:
                raise StorageError(f"{target} does not read back as written; check the disk.")
        temporary.replace(target)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise storage_error(error, target) from error
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _predict_video(
    source: MevisSplit,
    root: Path,
    name: str,
    exp_ids: Sequence[str],
    segmenter: Segmenter,
    steps: int,
    clock: ProgressClock,
    progress: ProgressCallback | None,
    cancel: CancelToken | None,
) -> None:
    from flowrvs.inference import segment

    entry = source.videos[name]
    texts = [entry.expressions[exp_id].exp for exp_id in exp_ids]
    for exp_id, text in zip(exp_ids, texts, strict=True):
        if not text.strip():
            raise DatasetError(
                f"Expression {exp_id!r} of {name!r} in {source.folder} is empty; "
                "run 'flowrvs check' on the split."
            )
    try:
        for exp_id in exp_ids:
            (root / name / exp_id).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, root) from error
    with (
        _open(source, name) as video,
        closing(segment(video, texts, segmenter, steps=steps, cancel=cancel)) as parts,
    ):
        for part in parts:
            folder = root / name / exp_ids[part.expression]
            for offset, mask in enumerate(part.masks):
                frame = entry.frames[part.start + offset]
                write_atomic(folder / f"{frame}.png", _png(mask))
            if progress is not None:
                progress(clock.advance(f"predicting {name}", len(part.masks)))


def _open(source: MevisSplit, name: str) -> Video:
    """Open the frames that the split lists, in its order."""
    from flowrvs.video import open_video

    frames = list(source.videos[name].frames)
    source.frame_path(name, 0)
    video = open_video(source.folder / "JPEGImages" / name)
    there = list(video.info.frame_names)
    if there == frames:
        return video
    positions = {frame: index for index, frame in enumerate(there)}
    missing = [frame for frame in frames if frame not in positions]
    if missing:
        video.close()
        raise DatasetError(
            f"{source.folder / 'JPEGImages' / name} lacks {len(missing)} of the listed frames, "
            f"the first is {missing[0]!r}; copy the frames again."
        )
    return open_video(video.frames[[positions[frame] for frame in frames]])


def _choose(source: MevisSplit, videos: Sequence[str] | None) -> list[tuple[str, list[str]]]:
    unknown = [name for name in videos or () if name not in source.videos]
    if unknown:
        raise InputError(f"{source.folder} has no video {unknown[0]!r}; see its JPEGImages folder.")
    names = list(source.videos) if videos is None else list(dict.fromkeys(videos))
    return [(name, list(source.videos[name].expressions)) for name in names]


def _complete(root: Path, source: MevisSplit, video: str, exp_id: str) -> bool:
    """True when every frame's picture is there; a power cut may leave empty files."""
    folder = root / video / exp_id
    try:
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(folder)}
    except OSError:
        return False
    return all(sizes.get(f"{frame}.png", 0) > 0 for frame in source.videos[video].frames)


def _claim(root: Path, record: dict[str, object]) -> None:
    """Note what made the predictions in `root`; refuse to mix them with others."""
    path = root / _RECORD
    if root.exists() and not root.is_dir():
        raise DatasetError(f"{root} is a file; choose another folder for the predictions.")
    if path.is_file():
        before = read_json(path)
        if before != record:
            changed = next(key for key in record if before.get(key) != record[key])
            raise DatasetError(
                f"{root} holds predictions with {changed} {before.get(changed)!r}, not "
                f"{record[changed]!r}; choose another folder."
            )
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, root) from error
    write_atomic(path, (json.dumps(record) + "\n").encode())


def _png(mask: npt.NDArray[np.bool_]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG")
    return buffer.getvalue()
