"""What a cluster's worker does: answer one message with another.

A worker keeps the weights of the model or tracker that was asked for last, and a few open
videos; all threads of a worker share them, and compute one after the other. An answer's
``state`` is

- ``done``;
- ``frames``: this worker does not see the video's file; the frames must be sent;
- ``unfit``: another worker may be able to do it, this one is not (``reason``);
- ``failed``: no worker could (``reason``).
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from flowrvs import __version__
from flowrvs.errors import (
    Cancelled,
    CheckpointError,
    FlowRVSError,
    MissingPathError,
    PluginError,
    VideoError,
    missing_extra,
)
from flowrvs.inference.cluster.wire import Packer, pack, pack_arrays, unpack, unpack_frames
from flowrvs.inference.frames import SelectedFrames, WindowFrames
from flowrvs.inference.model import WindowModel
from flowrvs.masks.logits import confidence as to_confidence
from flowrvs.masks.logits import threshold as to_mask
from flowrvs.progress import CancelToken
from flowrvs.records import Segmenter, Tracker, Window

if TYPE_CHECKING:
    from flowrvs.video import Video

__all__ = ["answer"]

T = TypeVar("T")
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
    except (CheckpointError, MissingPathError, PluginError) as error:
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
    ask: Callable[[dict[str, Any], list[memoryview]], bytes] | None = _ASKS.get(header["ask"])
    if ask is None:
        return _unfit(f"it does not know how to {header['ask']}")
    return ask(header, blobs)


def _describe_model(header: dict[str, Any], _blobs: list[memoryview]) -> bytes:
    segmenter = _state.model(header)
    facts = {
        "name": segmenter.name,
        "weights": getattr(segmenter, "weights", ""),
        "window_size": int(segmenter.window_size),
        "overlap": int(segmenter.overlap),
        "whole_video": bool(getattr(segmenter, "whole_video", False)),
    }
    return pack({"state": "done", **facts})


def _window(header: dict[str, Any], blobs: list[memoryview]) -> bytes:
    segmenter = _state.model(header)
    ours = [segmenter.name, getattr(segmenter, "weights", "")]
    if ours != header["expect"]:
        return _unfit(f"its model is {' '.join(ours)}, the others' {' '.join(header['expect'])}")
    window = Window(0, header["start"], header["stop"])
    if header["video"] is None:
        from flowrvs.video import open_video

        sent = open_video(unpack_frames(blobs[-1], tuple(header["shape"])))
        return _segment(header, WindowFrames(sent, Window(0, 0, len(window))), segmenter)
    video = _state.video(header["video"])
    if video is None:
        return pack({"state": "frames"})
    frames = range(*header["frames"])
    source = SelectedFrames(video, frames) if frames.step > 1 else video
    return _segment(header, WindowFrames(source, window), segmenter)


def _describe_spread(header: dict[str, Any], _blobs: list[memoryview]) -> bytes:
    tracker = _state.tracker(header)
    return pack({"state": "done", "name": "" if tracker is None else tracker.name, "flow": _flow()})


def _spread(header: dict[str, Any], blobs: list[memoryview]) -> bytes:
    """Compute a piece of a spread, or a part of it."""
    # Not sooner: the client's bridge imports this module, too.
    from flowrvs.editing.pieces import compute
    from flowrvs.inference.cluster.spread import PieceAnswer, unpack_piece

    tracker = _state.tracker(header)
    ours = ["" if tracker is None else tracker.name, _flow()]
    if ours != header["expect"]:
        return _unfit(
            f"its tracker and flow are {ours[0] or 'none'} and {ours[1]}, the others' "
            f"{header['expect'][0] or 'none'} and {header['expect'][1]}"
        )
    piece, begin = unpack_piece(header, blobs)
    source: Any = None  # of all that shape and copy look at
    places: dict[int, int] | None = None
    if header["video"] is not None:
        source = _state.video(header["video"])
        if source is None:
            return pack({"state": "frames"})
    elif "shape" in header:
        from flowrvs.video import open_video

        source = open_video(unpack_frames(blobs[-1], tuple(header["shape"])))
        places = {t: place for place, t in enumerate(piece.looks(header["walked"], header["part"]))}

    def read(t: int) -> npt.NDArray[np.uint8]:
        if places is not None and t not in places:
            raise IndexError(f"frame {t} was not sent")
        at = t if places is None else places[t]
        frame: npt.NDArray[np.uint8] = source.read(at, at + 1)[0]
        return frame

    lost: list[tuple[int, range]] = []
    carried: list[bytes] = []
    answer = PieceAnswer()
    for object_id, found in compute(
        piece,
        tuple(header["size"]),
        read,
        tracker=tracker,
        lost=lambda *run: lost.append(run),
        cancel=_Wanted(),
        begin=begin,
        limit=header["part"],
        carry=lambda arrays: carried.append(pack_arrays(arrays)),
    ):
        answer.add(object_id, found)
    return answer.message(lost, b"".join(carried))


def _encode(header: dict[str, Any], blobs: list[memoryview]) -> bytes:
    """Encode a training's clip, or its sentences."""
    import torch

    from flowrvs.checkpoints import locate
    from flowrvs.inference.cluster.encode import encode
    from flowrvs.pipelines.latents import FrozenEncoders, encoder_prints

    def load() -> FrozenEncoders:
        folder = locate(header["model"])
        if encoder_prints(folder) != header["expect"]:
            raise CheckpointError(f"{folder} has other weights than the client's.")
        return FrozenEncoders(folder, getattr(torch, header["dtype"]), mixed=header["mixed"])

    key = [header[name] for name in ("model", "dtype", "mixed", "expect")]
    return encode(_state.keep(key, load), header, blobs)


def _flow() -> str:
    from flowrvs.masks.flow import has_dis

    return "dis" if has_dis() else "ilk"


_ASKS = {
    "model": _describe_model,
    "window": _window,
    "tracker": _describe_spread,
    "spread": _spread,
    "encode": _encode,
}


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
        self._kept: Any = None
        self._videos: OrderedDict[str, Video] = OrderedDict()

    def keep(self, key: list[Any], load: Callable[[], T]) -> T:
        """Return what was loaded under a key; what was there before goes: both may not fit."""
        text = json.dumps(key, sort_keys=True)
        if text != self._key:
            self._kept, self._key, self.limit = None, "", None
            self._kept, self._key = load(), text
        kept: T = self._kept
        return kept

    def model(self, header: dict[str, Any]) -> Segmenter:
        import flowrvs

        name, options = header["model"], header["options"]
        return self.keep([name, options], lambda: flowrvs.load_segmenter(name, **options))

    def tracker(self, header: dict[str, Any]) -> Tracker | None:
        """Return the tracker that is asked for: by name, or "" for the best that is here."""
        from flowrvs import plugins
        from flowrvs.inference.loading import CLASSICAL, default_tracker

        if header["tracker"] is None:
            return None
        name, options = header["tracker"] or default_tracker(), header["options"]
        if name == CLASSICAL:
            raise MissingPathError("It has no tracker: fetch one there (flowrvs models list).")
        return self.keep(["tracker", name, options], lambda: plugins.load_tracker(name, **options))

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
