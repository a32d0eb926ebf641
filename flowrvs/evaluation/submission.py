"""The zip file that a benchmark's server takes: written whole, read back, judged."""

from __future__ import annotations

import io
import os
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

from PIL import Image

from flowrvs.data.mevis import MevisSplit
from flowrvs.disk import replacing
from flowrvs.errors import (
    DatasetError,
    FlowRVSError,
    InputError,
    MissingPathError,
    StorageError,
)
from flowrvs.evaluation.pictures import ZIP_ERRORS, Predictions, choose_videos, read_entry
from flowrvs.evaluation.scoring import mask_size
from flowrvs.folders import remove_leftovers
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock

__all__ = ["ZIP_LAYOUTS", "ZipLayout", "verify_zip", "zip_predictions"]

ZipLayout = Literal["mevis", "ytvos"]
"""``"mevis"``: video folders at the root; ``"ytvos"``: under ``Annotations/``."""

ZIP_LAYOUTS: tuple[str, ...] = get_args(ZipLayout)

_TOP = {"mevis": "", "ytvos": "Annotations/"}
_EPOCH = (1980, 1, 1, 0, 0, 0)  # The earliest date of a zip: equal input, equal bytes.


def zip_predictions(
    split: str | os.PathLike[str] | MevisSplit,
    out: str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    *,
    layout: ZipLayout = "mevis",
    videos: Sequence[str] | None = None,
    cancel: CancelToken | None = None,
    progress: ProgressCallback | None = None,
) -> Path:
    """Write the zip file for a submission, and judge it as :func:`verify_zip` does.

    It holds the pictures that the split lists and nothing else; equal pictures give
    equal bytes. It gets its name only when it is found good.

    Parameters
    ----------
    split : path-like or MevisSplit
        The split; its masks are not needed.
    out : path-like
        Folder of the predictions.
    path : path-like, optional
        The zip file; ``<out>.zip`` by default.
    layout : {"mevis", "ytvos"}
        Where the video folders lie: at the root (MeViS), or in a top folder
        ``Annotations`` (Ref-YouTube-VOS).
    videos : sequence of str, optional
        These alone; all by default.
    cancel : CancelToken, optional
        Checked before every picture; nothing is left.
    progress : callable, optional
        Called while pictures are packed and while they are read back.

    Returns
    -------
    Path
        The zip file.

    Raises
    ------
    DatasetError
        A picture is missing, damaged, of another size than its frame, or not of 0 and
        255 alone.
    InputError
        `layout` is none, or `videos` names one that the split does not have.
    StorageError
        The disk is full, or what was written does not read back.
    Cancelled
        `cancel` was set.
    """
    top = _top(layout)
    source = split if isinstance(split, MevisSplit) else MevisSplit.open(split)
    root = Path(out)
    target = Path(path) if path is not None else root.with_name(f"{root.name}.zip")
    names = list(_pictures(source, choose_videos(source, videos)))
    clock = ProgressClock(2 * len(names))
    remove_leftovers(target)
    try:
        with Predictions(root) as pictures, replacing(target) as temporary:
            for name in names:
                if not pictures.has(name):
                    raise DatasetError(
                        f"{root / name} is missing; run 'flowrvs predict' to the end first."
                    )
            # The pictures are compressed already.
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
                for name in names:
                    _step(clock, "packing", cancel, progress)
                    archive.writestr(_entry(top + name), pictures.data(name))
            _verify(source, temporary, names, top, root, clock, cancel, progress)
    except zipfile.BadZipFile:
        raise StorageError(f"{target} does not read back as written; check the disk.") from None
    return target


def verify_zip(
    split: str | os.PathLike[str] | MevisSplit,
    path: str | os.PathLike[str],
    *,
    layout: ZipLayout = "mevis",
    videos: Sequence[str] | None = None,
    cancel: CancelToken | None = None,
    progress: ProgressCallback | None = None,
) -> int:
    """Judge a zip file for a submission as its server would, and stricter.

    Every listed frame of every sentence must be there once, nothing else may, every
    checksum must hold, and every picture must be a PNG of the frame's size, grey or
    with a palette, of the values 0 and 255 alone.

    Parameters
    ----------
    split : path-like or MevisSplit
        The split; its masks are not needed.
    path : path-like
        The zip file, made by whomever.
    layout : {"mevis", "ytvos"}
        As in :func:`zip_predictions`.
    videos : sequence of str, optional
        It is to hold these alone; all by default.
    cancel : CancelToken, optional
        Checked before every picture.
    progress : callable, optional
        Called after every picture.

    Returns
    -------
    int
        The number of pictures.

    Raises
    ------
    MissingPathError
        There is no such file.
    DatasetError
        What is wrong with it first.
    Cancelled
        `cancel` was set.
    """
    top = _top(layout)
    source = split if isinstance(split, MevisSplit) else MevisSplit.open(split)
    names = list(_pictures(source, choose_videos(source, videos)))
    file = Path(path)
    if not file.is_file():
        raise MissingPathError(f"No zip file at {file}; write it with 'flowrvs predict --zip'.")
    clock = ProgressClock(len(names))
    try:
        _verify(source, file, names, top, file, clock, cancel, progress)
    except ZIP_ERRORS as error:
        if isinstance(error, FlowRVSError):
            raise
        raise DatasetError(f"{file} is a damaged zip file ({error}); zip it again.") from None
    return len(names)


def _top(layout: str) -> str:
    try:
        return _TOP[layout]
    except KeyError:
        raise InputError(
            f"There is no zip layout {layout!r}; choose {' or '.join(ZIP_LAYOUTS)}."
        ) from None


def _pictures(split: MevisSplit, videos: Sequence[str]) -> Iterator[str]:
    for name in videos:
        for exp_id in split.videos[name].expressions:
            for frame in split.videos[name].frames:
                yield f"{name}/{exp_id}/{frame}.png"


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.create_system = 3  # Unix on every system, so that the bytes are equal.
    entry.external_attr = 0o100644 << 16
    return entry


def _step(
    clock: ProgressClock,
    message: str,
    cancel: CancelToken | None,
    progress: ProgressCallback | None,
) -> None:
    if cancel is not None:
        cancel.raise_if_cancelled()
    event = clock.advance(message)
    if progress is not None:
        progress(event)


def _verify(
    split: MevisSplit,
    path: Path,
    names: Sequence[str],
    top: str,
    where: Path,
    clock: ProgressClock,
    cancel: CancelToken | None,
    progress: ProgressCallback | None,
) -> None:
    wanted = [top + name for name in names]
    sizes: dict[str, tuple[int, int]] = {}
    with zipfile.ZipFile(path) as archive:
        _compare(archive.namelist(), wanted, where)
        for name, entry in zip(names, wanted, strict=True):
            _step(clock, "reading back", cancel, progress)
            video = name.partition("/")[0]
            if video not in sizes:
                sizes[video] = _size(split, video)
            # Reading to the end checks the checksum.
            _judge(read_entry(archive, entry), sizes[video], where / name)


def _compare(there: Sequence[str], wanted: Sequence[str], where: Path) -> None:
    counts = Counter(there)
    missing = [name for name in wanted if name not in counts]
    if missing:
        raise DatasetError(
            f"{where} lacks {len(missing)} of {len(wanted)} pictures, the first is "
            f"{missing[0]!r}; predict the whole split, or choose another layout."
        )
    extra = counts.keys() - set(wanted)
    if extra:
        raise DatasetError(
            f"{where} holds {len(extra)} files that the split does not list, such as "
            f"{min(extra)!r}; zip the listed pictures alone."
        )
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise DatasetError(f"{where} holds {twice[0]!r} twice; zip it again.")


def _size(split: MevisSplit, video: str) -> tuple[int, int]:
    """Return (H, W) of a video: of its frames, or of its masks where those are not there."""
    try:
        return split.size(video)
    except MissingPathError:
        size = mask_size(split, video) if split.has_truth else None
        if size is None:
            raise
        return size


def _judge(data: bytes, size: tuple[int, int], where: Path) -> None:
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            if picture.mode not in ("L", "P"):
                raise DatasetError(
                    f"{where} has the mode {picture.mode}; save it as 8-bit grey (L) of 0 and 255."
                )
            if (picture.height, picture.width) != size:
                raise DatasetError(
                    f"{where} is {picture.width}x{picture.height}, its frame "
                    f"{size[1]}x{size[0]}; predict at the source's size."
                )
            levels = picture.histogram()
            if any(levels[1:255]):
                value = next(v for v in range(1, 255) if levels[v])
                raise DatasetError(f"{where} holds the value {value}; only 0 and 255 may be there.")
            if picture.mode == "P":
                _judge_palette(picture, where)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, FlowRVSError):
            raise
        raise DatasetError(f"{where} is not a readable PNG; predict it again.") from None


def _judge_palette(picture: Image.Image, where: Path) -> None:
    """A server that turns colours to grey must see the same foreground."""
    shown = picture.convert("RGB").convert("L").histogram()
    if shown[0] != picture.histogram()[0]:
        raise DatasetError(f"{where} has a palette whose 0 is not black or 255 is; save it as L.")
