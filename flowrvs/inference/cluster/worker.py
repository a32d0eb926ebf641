"""What a cluster's worker does: answer one message with another.

A worker keeps the weights of the model that was asked for last, and a few open videos; all
threads of a worker share them, and compute one after the other. An answer's ``state`` is

- ``done``;
- ``frames``: this worker does not see the video's file; the frames must be sent;
- ``unfit``: another worker may be able to do it, this one is not (``reason``);
- ``failed``: no worker could (``reason``).
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flowrvs import __version__
from flowrvs.errors import (
    Cancelled,
    CheckpointError,
    FlowRVSError,
    MissingPathError,
    VideoError,
    missing_extra,
)
from flowrvs.inference.cluster.wire import Packer, pack, unpack, unpack_frames
from flowrvs.inference.frames import SelectedFrames, WindowFrames
from flowrvs.inference.model import WindowModel
from flowrvs.masks.logits import confidence as to_confidence
from flowrvs.masks.logits import threshold as to_mask
from flowrvs.progress import CancelToken
from flowrvs.records import Segmenter, Window

if TYPE_CHECKING:
    from flowrvs.video import Video

__all__ = ["answer"]

_VIDEOS = 4


def answer(message: bytes) -> bytes:
    """Answer a message of the client; nothing is raised, so that nothing is pickled.

    Parameters
    ----------
    message : bytes
        From `flowrvs.inference.cluster.wire.pack`.

    Returns
    -------
    bytes
        Likewise.
    """
    try:
        header, blobs = unpack(message)
        if header["flowrvs"] != __version__:
            return _unfit(f"it has flowrvs {__version__}, not {header['flowrvs']}: install that")
        with _state.lock:
            return _answer(header, blobs)
    except ImportError as error:
        return _unfit(str(missing_extra(error) or error))
    except (CheckpointError, MissingPathError) as error:
        return _unfit(str(error))
    except MemoryError as error:
        return _unfit(str(error) or "its memory is too small")
    except FlowRVSError as error:
        kind = type(error).__name__
        return pack({"state": "failed", "kind": kind, "reason": _one_line(str(error))})
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, while a model is loaded
            return _unfit("its device's memory is too small for the model")
        reason = _one_line(f"internal error, {type(error).__name__}: {error}")
        return pack({"state": "failed", "kind": "", "reason": reason})


def _answer(header: dict[str, Any], blobs: list[memoryview]) -> bytes:
    segmenter = _state.model(header["model"], header["options"])
    if header["ask"] == "model":
        facts = {
            "name": segmenter.name,
            "weights": getattr(segmenter, "weights", ""),
            "window_size": int(segmenter.window_size),
            "overlap": int(segmenter.overlap),
            "whole_video": bool(getattr(segmenter, "whole_video", False)),
        }
        return pack({"state": "done", **facts})
    ours = [segmenter.name, getattr(segmenter, "weights", "")]
    if ours != header["expect"]:
        return _unfit(f"its model is {' '.join(ours)}, the others' {' '.join(header['expect'])}")
    window = Window(0, header["start"], header["stop"])
    if blobs:
        from flowrvs.video import open_video

        sent = open_video(unpack_frames(blobs[0], tuple(header["shape"])))
        return _segment(header, WindowFrames(sent, Window(0, 0, len(window))), segmenter)
    video = _state.video(header["video"])
    if video is None:
        return pack({"state": "frames"})
    frames = range(*header["frames"])
    source = SelectedFrames(video, frames) if frames.step > 1 else video
    return _segment(header, WindowFrames(source, window), segmenter)


def _segment(header: dict[str, Any], frames: WindowFrames, segmenter: Segmenter) -> bytes:
    """Run a window; masks where it alone decides, logits where neighbours do."""
    texts = header["texts"]
    sentences = [_Sentence(header, len(frames)) for _ in texts]
    model = WindowModel(
        segmenter,
        header["steps"],
        header["overlap"],
        header["threshold"],
        _Wanted(),
        lambda: None,
        limit=_state.limit,
    )
    for place, logits, known in model.run(frames, texts):
        sentences[place].add(logits, known)
    _state.limit = model.limit
    blobs = [blob for sentence in sentences for blob in sentence.blobs()]
    return pack({"state": "done", "limit": model.limit}, blobs)


class _Sentence:
    """The answer to one sentence: logits up to `head`, masks up to `kept`, logits again."""

    def __init__(self, header: dict[str, Any], count: int) -> None:
        self._head, self._kept = header["head"], header["kept"]
        self._stop = count if header["tail"] else max(self._head, self._kept)
        self._threshold = header["threshold"]
        self._confident = header["confidence"]
        self._received = 0
        self._before, self._masks, self._after = Packer(), Packer(), Packer()
        self._confidence, self._known = Packer(), Packer()

    def add(self, logits: npt.NDArray[np.float32], known: npt.NDArray[np.float32]) -> None:
        self._known.floats(known[:, None])
        tail = max(self._head, self._kept)
        self._before.floats(self._cut(logits, 0, self._head))
        self._after.floats(self._cut(logits, tail, self._stop))
        middle = self._cut(logits, self._head, tail)
        self._masks.masks(to_mask(middle, self._threshold))
        if self._confident:
            self._confidence.octets(to_confidence(middle))
        self._received += len(logits)

    def _cut(
        self, logits: npt.NDArray[np.float32], start: int, stop: int
    ) -> npt.NDArray[np.float32]:
        first = self._received
        return logits[max(0, start - first) : max(0, stop - first)]

    def blobs(self) -> list[bytes]:
        parts = [self._before, self._masks, self._confidence, self._after, self._known]
        return [part.end() for part in parts]


class _Wanted(CancelToken):
    """Set once the client no longer wants the task that this thread is running."""

    def __init__(self) -> None:
        super().__init__()
        self._task = None
        try:
            from distributed.worker import (  # type: ignore[attr-defined]
                get_worker,
                thread_state,
            )

            self._task = get_worker().state.tasks.get(thread_state.key)
        except (ImportError, AttributeError, ValueError):
            pass  # not on a worker, or one that tells it in another way

    @property
    def cancelled(self) -> bool:
        return getattr(self._task, "state", "") == "cancelled"

    def raise_if_cancelled(self) -> None:
        if self.cancelled:
            raise Cancelled("No longer wanted.")


class _State:
    """What a worker's process keeps between tasks."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        #: Frames that the device has room for, where that was found out.
        self.limit: int | None = None
        self._key = ""
        self._model: Segmenter | None = None
        self._videos: OrderedDict[str, Video] = OrderedDict()

    def model(self, name: str, options: dict[str, Any]) -> Segmenter:
        key = json.dumps([name, options], sort_keys=True)
        if self._model is None or key != self._key:
            import flowrvs

            self._model = None  # before the next: both may not fit
            self._model, self._key, self.limit = flowrvs.load_segmenter(name, **options), key, None
        return self._model

    def video(self, wanted: dict[str, Any] | None) -> Video | None:
        """Open a video where this worker sees the same content under the same path."""
        if wanted is None:
            return None
        key = json.dumps(wanted, sort_keys=True)
        video = self._videos.pop(key, None)
        if video is None:
            from flowrvs.video import open_video

            try:
                video = open_video(**wanted["recipe"])
            except (VideoError, OSError):
                return None
            if [video.info.fingerprint, *video.shape] != wanted["content"]:
                video.close()
                return None
        self._videos[key] = video
        while len(self._videos) > _VIDEOS:
            self._videos.popitem(last=False)[1].close()
        return video


_state = _State()


def _unfit(reason: str) -> bytes:
    return pack({"state": "unfit", "reason": _one_line(reason)})


def _one_line(text: str) -> str:
    return " ".join(text.split())[:1000]
