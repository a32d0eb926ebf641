"""SAM 3 by noun phrase: every instance of what a sentence names is an object of its own.

The network is the stock class of transformers, `Sam3VideoModel`. Its processor wants torchvision,
and what it does after the network (duplicates, holes) a kernel that would be downloaded: both are
done here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from scipy import ndimage
from torch.nn import functional
from transformers.models.sam3_video import modeling_sam3_video as stock

from flowrvs.checkpoints import locate
from flowrvs.checkpoints.registry import read_config
from flowrvs.errors import CheckpointError
from flowrvs.models.devices import loading, memory_guard
from flowrvs.models.networks import LazyFrames, load_network, scaled_picture
from flowrvs.progress import CancelToken
from flowrvs.protocols import FrameBlock, ReadFrame, TrackedObject

__all__ = ["Sam3Segmenter", "load_segmenter"]

Floats = npt.NDArray[np.float32]

#: Tokens of a sentence, as in training; longer ones are cut.
_TOKENS = 32
_NOTHING = -10.0  # the logit where an instance gives way to another one


class _Kernels:
    """Stands in for the kernels that transformers would download for SAM 3."""

    @staticmethod
    def generic_nms(
        ious: torch.Tensor, scores: torch.Tensor, threshold: float, **_: object
    ) -> torch.Tensor:
        """Return the indices of detections that no better one overlaps by more than `threshold`."""
        left = scores.argsort(descending=True).tolist()
        kept = []
        while left:
            best = left.pop(0)
            kept.append(best)
            left = [other for other in left if ious[best, other] <= threshold]
        return torch.tensor(kept, dtype=torch.long, device=ious.device)

    @staticmethod
    def cc_2d(mask: torch.Tensor, get_counts: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
        """Return connected parts (of eight neighbours) of masks (N, 1, H, W), and their sizes."""
        labels = np.zeros(mask.shape, np.int32)
        counts = np.zeros(mask.shape, np.int32)
        for index, part in enumerate(mask.cpu().numpy()[:, 0]):
            labels[index, 0], _ = ndimage.label(part, np.ones((3, 3)))
            sizes = np.bincount(labels[index, 0].ravel()).astype(np.int32)
            sizes[0] = 0
            counts[index, 0] = sizes[labels[index, 0]]
        return torch.from_numpy(labels).to(mask.device), torch.from_numpy(counts).to(mask.device)


def load_segmenter(
    model: str | PathLike[str] = "sam3", *, device: str = "auto", precision: str = "auto"
) -> Sam3Segmenter:
    """Load SAM 3 by name or folder, ready to find what nouns name.

    Parameters
    ----------
    model : str or path-like
        ``"sam3"`` (the folder of the tracker ``sam3-tracker``, which holds the detector, too),
        or a folder in transformers layout.
    device, precision : str
        As for `flowrvs.models.sam2.load_tracker`.

    Raises
    ------
    MissingPathError
        There is no such model here; the text says how to fetch it.
    CheckpointError
        The folder is damaged, incomplete or of another kind.
    InputError
        Unknown device or number format.
    """
    folder = locate("sam3-tracker" if str(model) == "sam3" else model, kind="tracker")
    if read_config(folder / "config.json").get("model_type") != "sam3_video":
        raise CheckpointError(f"{folder} finds no sentences: it lacks SAM 3's detector.")
    if not any((folder / words).is_file() for words in ("tokenizer.json", "vocab.json")):
        # Without its words transformers would make an empty tokenizer.
        raise CheckpointError(f"{folder} lacks tokenizer.json; fetch or copy the model again.")
    network, weights, version = load_network(
        transformers.Sam3VideoModel, folder, "SAM 3", device, precision
    )
    with loading(folder, "the words of SAM 3"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    segmenter = Sam3Segmenter(network, tokenizer, f"sam3@{version}")
    segmenter.weights = weights
    return segmenter


class Sam3Segmenter:
    """A `flowrvs.protocols.InstanceSegmenter` for nouns and short phrases.

    Parameters
    ----------
    network : Sam3VideoModel
        In evaluation mode.
    tokenizer : callable
        Turns a sentence into ``input_ids`` and ``attention_mask``.
    name : str
        Provenance of the masks that it makes.

    Attributes
    ----------
    weights : str
        Fingerprint of the weights; "" where they are of no folder.
    """

    #: Where one mask a sentence is wanted; instances are followed through the whole range.
    window_size = 64
    overlap = 0

    def __init__(self, network: Any, tokenizer: Callable[..., Any], name: str = "sam3") -> None:
        self.name = name
        self.weights = ""
        self._network = network
        self._tokenizer = tokenizer
        self._size = int(network.config.image_size)
        stock.cv_utils_kernel = _Kernels()  # otherwise it would look for one on the network

    def segment_window(
        self,
        frames: FrameBlock,
        texts: Sequence[str],
        *,
        steps: int = 1,
        cancel: CancelToken | None = None,
        on_step: Callable[[], None] | None = None,
    ) -> Iterator[Floats]:
        """Yield for every sentence the union of its instances, frame by frame."""
        shape = frames.shape[1:3]
        for text in texts:
            places = range(len(frames))
            found = self.find_instances(lambda t: frames[t : t + 1][0], text, places, cancel=cancel)
            for _, instances in found:
                union = np.full(shape, _NOTHING, np.float32)
                for instance in instances.values():
                    np.maximum(union, instance.logits, out=union)
                yield union[None]
            if on_step is not None:
                on_step()

    def find_instances(
        self,
        read: ReadFrame,
        text: str,
        frames: Sequence[int],
        *,
        cancel: CancelToken | None = None,
    ) -> Iterator[tuple[int, dict[int, TrackedObject]]]:
        """Yield the instances of what a sentence names; see `InstanceSegmenter`.

        A frame is answered some frames late: what turns out to be no object is left out.
        """
        token = cancel or CancelToken()
        session = self._session(read, text, frames)
        waiting: deque[tuple[int, Any]] = deque()
        delay = max(1, int(self._network.hotstart_delay))
        shape: tuple[int, int] | None = None
        for index, frame in enumerate(frames):
            token.raise_if_cancelled()
            with memory_guard(f"frame {frame}", "take a smaller model or the CPU"):
                out = self._network(inference_session=session, frame_idx=index)
            session.hotstart_removed_obj_ids.update(out.removed_obj_ids)
            self._prune(session, index)
            waiting.append((frame, out))
            shape = shape or read(frame).shape[:2]
            if len(waiting) >= delay:
                yield self._found(session, *waiting.popleft(), shape)
        while waiting and shape is not None:
            token.raise_if_cancelled()
            yield self._found(session, *waiting.popleft(), shape)

    def _session(self, read: ReadFrame, text: str, frames: Sequence[int]) -> Any:
        device, number = self._network.device, self._network.dtype
        session = transformers.Sam3VideoInferenceSession(
            inference_device=device, inference_state_device=device, dtype=number
        )
        half = torch.full((3, 1, 1), 127.5)
        session.processed_frames = LazyFrames(
            lambda i: scaled_picture(read(frames[i]), self._size, half, half).to(number),
            len(frames),
        )
        prompt = session.add_prompt(text)
        tokens = self._tokenizer(
            text, return_tensors="pt", padding="max_length", max_length=_TOKENS, truncation=True
        )
        session.prompt_input_ids[prompt] = tokens["input_ids"].to(device)
        session.prompt_attention_masks[prompt] = tokens["attention_mask"].to(device)
        return session

    def _prune(self, session: Any, index: int) -> None:
        """Forget of earlier frames what no later one will ask for."""
        config = self._network.config.tracker_config
        reach = max(config.num_maskmem, config.max_object_pointers_in_encoder)
        for outputs in session.output_dict_per_obj.values():
            recent = outputs["non_cond_frame_outputs"]
            for earlier in [t for t in recent if index - t + 1 >= reach]:
                del recent[earlier]
        for known in (session.mask_inputs_per_obj, session.frames_tracked_per_obj):
            for by_frame in known.values():
                for earlier in [t for t in by_frame if t < index]:
                    del by_frame[earlier]
        for by_frame in (session.obj_id_to_tracker_score_frame_wise, session.suppressed_obj_ids):
            for earlier in [t for t in by_frame if t < index - 1]:
                del by_frame[earlier]

    def _found(
        self, session: Any, frame: int, out: Any, shape: tuple[int, int]
    ) -> tuple[int, dict[int, TrackedObject]]:
        """Return a frame's instances, as the stock processor does before its > 0."""
        hidden = {*(out.suppressed_obj_ids or ()), *session.hotstart_removed_obj_ids}
        ids = [i for i in sorted(out.obj_id_to_mask) if i not in hidden]
        if not ids:
            return frame, {}
        masks = torch.cat([out.obj_id_to_mask[i] for i in ids])[:, None].float()
        logits = functional.interpolate(masks, shape, mode="bilinear", align_corners=False)[:, 0]
        # A pixel is that instance's of which the tracker is surest.
        sure = torch.tensor([out.obj_id_to_tracker_score.get(i, 0.0) for i in ids])
        claims = torch.where(logits > 0, sure.to(logits.device)[:, None, None], -1.0)
        first = claims.argmax(0)
        found = {}
        for place, instance in enumerate(ids):
            mine = torch.where(first == place, logits[place], logits[place].clamp(max=_NOTHING))
            mine = torch.where(logits[place] > 0, mine, logits[place])
            if (mine > 0).any():
                score = min(1.0, max(0.5, float(out.obj_id_to_score[instance])))
                found[instance] = TrackedObject(mine.cpu().numpy().astype(np.float32), score)
        return frame, found
