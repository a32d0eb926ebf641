"""Predict a whole split, as a benchmark wants it: one picture a sentence and frame."""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowrvs.data.json_parts import read_json
from flowrvs.data.mevis import MevisSplit
from flowrvs.disk import storage_error, write_bytes
from flowrvs.errors import DatasetError, FlowRVSError, StorageError, some_failed
from flowrvs.evaluation.pictures import choose_videos
from flowrvs.folders import remove_temporaries
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock
from flowrvs.records import Segmenter, SegmentRequest, says_nothing

if TYPE_CHECKING:
    from flowrvs.inference.run import Plan
    from flowrvs.video import Video

__all__ = ["PredictResult", "predict_split"]

_RECORD = ".flowrvs-predict.json"

#: What a request for a whole split may say, and what it says by itself.
_OPTIONS = {"steps": 1, "window": None, "overlap": None, "threshold": 0.0}


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
    blank : tuple of str
        ``<video>/<exp_id>`` of the sentences that say nothing, and were predicted as
        background without asking the model.
    """

    out: Path
    videos: int
    expressions: int
    frames: int
    skipped: int
    blank: tuple[str, ...] = ()


def predict_split(
    split: str | os.PathLike[str] | MevisSplit,
    out: str | os.PathLike[str],
    segmenter: Segmenter,
    *,
    videos: Sequence[str] | None = None,
    failed: Callable[[str, FlowRVSError], object] | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    **options: Any,
) -> PredictResult:
    """Write ``<out>/<video>/<exp_id>/<frame>.png`` for every sentence of a split.

    Pictures have the source's size and the values 0 and 255, and each appears whole.
    A run that was stopped goes on where it was: windows whose pictures are there are
    not predicted again. A video is encoded once for all its sentences. A sentence that
    says nothing (blank, or quotation marks alone) means nothing: its pictures are background,
    so that the split is complete, and the result names it. A video that cannot be predicted
    does not stop the others.

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
    failed : callable, optional
        Called with every video that could not be predicted, and why, as soon as that is known.
    progress : callable, optional
        Called after every finished window of a sentence.
    cancel : CancelToken, optional
        Checked before every model step.
    **options
        What else `flowrvs.records.SegmentRequest` takes: ``steps``, ``window``, ``overlap``,
        ``threshold``. The window's default is the model's: the whole video as one clip for
        the official weights, as in the published code (a device that is too small for that
        halves it by itself), and its window for models of short clips.

    Returns
    -------
    PredictResult

    Raises
    ------
    DatasetError
        The split is malformed, or `out` holds another model's or split's predictions. At the
        end: some videos could not be predicted, such as those that lack a frame; they are
        named.
    InputError
        `videos` names one that the split does not have.
    StorageError
        The disk is full, read-only or failing.
    Cancelled
        `cancel` was set; finished pictures are kept.
    """
    source = split if isinstance(split, MevisSplit) else MevisSplit.open(split)
    root = Path(out)
    names = choose_videos(source, videos)
    if unknown := options.keys() - _OPTIONS.keys():
        raise TypeError(f"predict_split() takes no {', '.join(sorted(unknown))}")
    options = {**_OPTIONS, **options}
    if options["window"] is None:
        whole = getattr(segmenter, "whole_video", False)
        options["window"] = "whole" if whole else segmenter.window_size
    record = {
        "model": segmenter.name,
        "weights": getattr(segmenter, "weights", ""),
        "split": source.folder.name,
        **options,
    }
    claimed = _is_claimed(root, record)
    lost: dict[str, FlowRVSError] = {}

    def lose(video: str, error: FlowRVSError) -> None:
        lost[video] = error
        if failed is not None:
            failed(video, error)

    jobs = []
    for name in names:
        try:
            jobs.append(_job(source, root, name, segmenter, options))
        except FlowRVSError as error:
            lose(name, error)
    if lost and not any(job.plan for job in jobs):
        raise some_failed(lost, len(names), "predicted")
    # After the plans: a request that was refused must not stand in the way of the next.
    if not claimed:
        _claim(root, record)
    clock = ProgressClock(sum(j.total for j in jobs), sum(j.finished for j in jobs))
    if progress is not None:
        progress(clock.event("starting"))
    todo = [job for job in jobs if job.finished < job.total]
    _predict(source, root, todo, segmenter, clock, progress, cancel, lose)
    if lost:
        raise some_failed(lost, len(names), "predicted")
    count = sum(len(job.exp_ids) + len(job.blank) for job in jobs)
    skipped = sum(len(done) == len(job.kept) for job in jobs for done in job.done.values())
    skipped += sum(not missing for job in jobs for missing in job.blank.values())
    blank = tuple(f"{job.video}/{exp_id}" for job in jobs for exp_id in job.blank)
    return PredictResult(root, len(jobs), count, clock.total, skipped, blank)


@dataclass(frozen=True, slots=True)
class _Job:
    """A video, its plan, and the windows whose pictures are there, by sentence.

    `blank` are the frames that the sentences without content lack.
    """

    video: str
    frames: tuple[str, ...]
    exp_ids: list[str]
    blank: dict[str, list[str]]
    plan: Plan | None
    kept: tuple[range, ...]
    done: dict[int, frozenset[int]]

    @property
    def total(self) -> int:
        return (len(self.exp_ids) + len(self.blank)) * len(self.frames)

    @property
    def finished(self) -> int:
        done = sum(len(self.kept[index]) for done in self.done.values() for index in done)
        return done + sum(len(self.frames) - len(missing) for missing in self.blank.values())


def _job(
    source: MevisSplit, root: Path, name: str, segmenter: Segmenter, options: dict[str, Any]
) -> _Job:
    from flowrvs.inference import kept_frames, make_plan

    entry = source.videos[name]
    exp_ids, blank = [], {}
    for exp_id, expression in entry.expressions.items():
        if says_nothing(expression.exp):
            there = _pictures(root / name / exp_id)
            blank[exp_id] = [frame for frame in entry.frames if f"{frame}.png" not in there]
        else:
            exp_ids.append(exp_id)
    if not exp_ids:
        return _Job(name, entry.frames, [], blank, None, (), {})
    texts = [entry.expressions[exp_id].exp for exp_id in exp_ids]
    plan = make_plan(len(entry.frames), SegmentRequest.of(texts, **options), segmenter)
    kept = kept_frames(plan.windows)
    done = {}
    for number, exp_id in enumerate(exp_ids):
        there = _pictures(root / name / exp_id)
        done[number] = frozenset(
            index
            for index, frames in enumerate(kept)
            if all(f"{entry.frames[frame]}.png" in there for frame in frames)
        )
    return _Job(name, entry.frames, exp_ids, blank, plan, kept, done)


def _predict(
    source: MevisSplit,
    root: Path,
    todo: list[_Job],
    segmenter: Segmenter,
    clock: ProgressClock,
    progress: ProgressCallback | None,
    cancel: CancelToken | None,
    lose: Callable[[str, FlowRVSError], None],
) -> None:
    from flowrvs.inference.run import JobRunner, VideoJob, run_jobs

    if isinstance(segmenter, JobRunner):
        # The longest first: whoever computes the last one keeps the others waiting least.
        todo = sorted(todo, key=lambda job: job.total - job.finished, reverse=True)
    places = {job.video: n for n, job in enumerate(todo, 1)}

    def tell(job: _Job, count: int) -> None:
        place = f" ({places[job.video]} of {len(todo)})" if len(todo) > 1 else ""
        event = clock.advance(f"predicting {job.video}{place}", count)
        if progress is not None:
            progress(event)

    def video_jobs() -> Iterator[VideoJob]:
        for job in todo:
            try:
                tell(job, _prepare(source, root, job))
            except StorageError:
                raise
            except FlowRVSError as error:
                lose(job.video, error)
                continue
            if job.plan is not None:
                yield VideoJob(partial(_open, source, job.video), job.plan, job.done, job.video)

    def failed(job: VideoJob, error: FlowRVSError) -> None:
        lose(job.name, error)

    by_name = {job.video: job for job in todo}
    with (
        ThreadPoolExecutor(thread_name_prefix="flowrvs-png") as pool,
        closing(run_jobs(video_jobs(), segmenter, cancel=cancel, failed=failed)) as parts,
    ):
        for asked, part in parts:
            job = by_name[asked.name]
            folder = root / job.video / job.exp_ids[part.expression]
            paths = [folder / f"{job.frames[frame]}.png" for frame in part.frames]
            for _ in pool.map(_write, paths, part.masks):
                pass
            tell(job, len(part.masks))


def _prepare(source: MevisSplit, root: Path, job: _Job) -> int:
    """Make the folders of a video and the pictures of sentences that say nothing."""
    folders = [root / job.video / job.exp_ids[n] for n in job.done]
    blank = {root / job.video / exp_id: missing for exp_id, missing in job.blank.items() if missing}
    try:
        for folder in (*folders, *blank):
            folder.mkdir(parents=True, exist_ok=True)
            remove_temporaries(folder)
    except OSError as error:
        raise storage_error(error, root) from error
    if not blank:
        return 0
    with _open(source, job.video) as video:
        background = _png(np.zeros((video.info.height, video.info.width), bool))
    for folder, missing in blank.items():
        for frame in missing:
            write_bytes(folder / f"{frame}.png", background, durable=False)
    return sum(map(len, blank.values()))


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


def _pictures(folder: Path) -> set[str]:
    """Return the pictures that are whole; a power cut may leave empty files."""
    try:
        return {entry.name for entry in os.scandir(folder) if entry.stat().st_size > 0}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _is_claimed(root: Path, record: dict[str, object]) -> bool:
    """Return True where these predictions were begun; refuse to mix them with others."""
    path = root / _RECORD
    if root.exists() and not root.is_dir():
        raise DatasetError(f"{root} is a file; choose another folder for the predictions.")
    if path.is_file():
        before = read_json(path)
        if before != record:
            keys = [*record, *before]
            changed = next(key for key in keys if before.get(key) != record.get(key))
            raise DatasetError(
                f"{root} holds predictions with {changed} {before.get(changed)!r}, not "
                f"{record.get(changed)!r}; choose another folder."
            )
        return True
    return False


def _claim(root: Path, record: dict[str, object]) -> None:
    """Note what makes the predictions in `root`."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, root) from error
    write_bytes(root / _RECORD, (json.dumps(record) + "\n").encode())


def _write(path: Path, mask: npt.NDArray[np.bool_]) -> None:
    write_bytes(path, _png(mask), durable=False)


def _png(mask: npt.NDArray[np.bool_]) -> bytes:
    buffer = io.BytesIO()
    # Half the time of zlib's usual way, and smaller.
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG", compress_type=zlib.Z_RLE)
    return buffer.getvalue()
