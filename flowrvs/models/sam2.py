"""SAM 2, EdgeTAM and SAM 3's tracker: marks become a mask, and masks follow objects by memory.

The networks are the stock classes of transformers. Their processors want torchvision, so what they
do with pictures, marks and masks is done here, and must equal it.
"""

from __future__ import annotations

import importlib.util
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from torch.nn import functional

from flowrvs.checkpoints import MODELS, locate
from flowrvs.checkpoints.registry import read_config
from flowrvs.errors import CheckpointError, InputError, MissingExtraError
from flowrvs.models.devices import memory_guard
from flowrvs.models.networks import LazyFrames, load_network, scaled_picture
from flowrvs.models.sam2_memory import Memory
from flowrvs.progress import CancelToken
from flowrvs.protocols import Mark, ReadFrame, TrackedObject

__all__ = [
    "EncodedImage",
    "Memory",
    "Sam2Tracker",
    "load_tracker",
    "warm_up",
]

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

#: Stock class and the mean and deviation of its pictures, by what a config calls itself.
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_CLASSES = {
    "sam2_video": ("Sam2Video", _IMAGENET),
    "edgetam_video": ("EdgeTamVideo", _IMAGENET),
    "sam3_tracker_video": ("Sam3TrackerVideo", _HALF),
    "sam3_video": ("Sam3TrackerVideo", _HALF),  # the published folder holds the detector, too
}

#: Clicks that a stroke stands for at most, and the share of the picture's longer side that is
#: between two of them.
_STROKE_POINTS, _STROKE_STEP = 5, 0.05
#: Logits of an earlier answer are cut off there, as the authors' predictor does.
_LARGEST_LOGIT = 32.0
#: What a config may ask of timm: nothing that reads files or the network.
_TIMM_ARGUMENTS = {"in_chans", "features_only", "out_indices"}


def load_tracker(
    model: str | PathLike[str], *, device: str = "auto", precision: str = "auto"
) -> Sam2Tracker:
    """Load a tracker by name or folder, ready to pick and to follow.

    Parameters
    ----------
    model : str or path-like
        A name such as ``"sam2.1-tiny"`` that was fetched, or a folder in transformers layout.
    device : str
        ``"auto"`` (CUDA, then MPS, then CPU), or a torch device such as ``"cuda:1"``.
    precision : {"auto", "bfloat16", "float16", "float32"}
        ``"auto"`` is what the device does best: see `choose_dtype`.

    Returns
    -------
    Sam2Tracker

    Raises
    ------
    MissingPathError
        There is no such model here; the text says how to fetch it.
    CheckpointError
        The folder is damaged, incomplete or of another kind.
    MissingExtraError
        EdgeTAM's picture encoder needs timm.
    InputError
        Unknown device or number format.
    """
    folder = locate(model, kind="tracker")
    config = read_config(folder / "config.json")
    prefix, statistics = _CLASSES[config["model_type"]]
    _check_timm(folder, config)
    stock = getattr(transformers, f"{prefix}Model")
    network, weights, version = load_network(stock, folder, "a tracker", device, precision)
    name = str(model) if str(model) in MODELS else folder.resolve().name
    tracker = Sam2Tracker(network, f"{name}@{version}", *statistics)
    tracker.weights = weights
    return tracker


def warm_up(model: str | PathLike[str]) -> None:
    """Import what a tracker that is here is made of; its weights are not read.

    transformers imports a class when it is asked for, which takes as long as torch does.
    """
    config = read_config(locate(model, kind="tracker") / "config.json")
    getattr(transformers, f"{_CLASSES[config['model_type']][0]}Model")


def _check_timm(folder: Path, config: Mapping[str, Any]) -> None:
    """Look at a picture encoder of timm, which would open any file that its config names."""
    vision = config.get("vision_config")
    backbone = vision.get("backbone_config") if isinstance(vision, dict) else None
    if not isinstance(backbone, dict) or backbone.get("model_type") != "timm_wrapper":
        return
    arguments = backbone.get("model_args") or {}
    if not re.fullmatch(r"[a-z0-9_.]+", str(backbone.get("architecture"))) or not (
        isinstance(arguments, dict) and set(arguments) <= _TIMM_ARGUMENTS
    ):
        raise CheckpointError(
            f"{folder / 'config.json'} asks timm for more than a network; get the model from its "
            "authors."
        )
    if importlib.util.find_spec("timm") is None:
        raise MissingExtraError(
            f"{folder.name} needs timm (and with it torchvision) for its picture encoder: "
            "pip install timm, or take sam2.1-tiny."
        )


@dataclass(frozen=True, slots=True, eq=False)
class EncodedImage:
    """A frame as `Sam2Tracker.pick` wants it.

    Attributes
    ----------
    features : list of torch.Tensor
        Of the picture encoder, the finest first, on the model's device.
    height, width : int
        Of the picture.
    """

    features: list[torch.Tensor]
    height: int
    width: int


class Sam2Tracker:
    """A `flowrvs.protocols.Tracker`: clicks on a frame, and memory through a video.

    Parameters
    ----------
    network : torch.nn.Module
        ``Sam2VideoModel``, ``EdgeTamVideoModel`` or ``Sam3TrackerVideoModel``, in evaluation mode.
    name : str
        Provenance of the masks that it makes.
    mean, deviation : sequence of float
        Of the pictures' three channels, 0 to 1, as in training.

    Attributes
    ----------
    weights : str
        Fingerprint of the weights; "" where they are of no folder.
    """

    def __init__(
        self, network: Any, name: str, mean: Sequence[float], deviation: Sequence[float]
    ) -> None:
        self.name = name
        self.weights = ""
        self._network = network
        self._size = int(network.config.image_size)
        self._mean = 255 * torch.tensor(mean)[:, None, None]
        self._deviation = 255 * torch.tensor(deviation)[:, None, None]
        self._blocks = [
            block
            for module in network.modules()
            if isinstance(module, torch.nn.ModuleList)
            for block in module
        ]

    # -- a frame -----------------------------------------------------------------------

    def encode(
        self, image: npt.NDArray[np.uint8], *, cancel: CancelToken | None = None
    ) -> EncodedImage:
        """Run the picture encoder: the costly part of a frame, whatever is marked on it.

        Parameters
        ----------
        image : ndarray of uint8, shape (H, W, 3)
            RGB.
        cancel : CancelToken, optional
            Checked within the encoder.

        Returns
        -------
        EncodedImage
            16 MB at the published sizes in float32; to be kept by the caller.

        Raises
        ------
        DeviceMemoryError
            The device is too small.
        Cancelled
            On request.
        """
        height, width = image.shape[:2]
        with self._computing("a picture", cancel):
            pixels = self._pixels(image)[None].to(self._network.device)
            return EncodedImage(self._network.get_image_embeddings(pixels), height, width)

    def pick(
        self,
        encoded: EncodedImage,
        marks: Sequence[Mark],
        previous: Floats | None = None,
    ) -> Floats:
        """Return the logits of the object that marks mean.

        Equals what a stock session answers to ``add_inputs_to_inference_session`` with these
        points and box on its first frame. A stroke counts as up to five points along it; of several
        boxes the last counts.

        Parameters
        ----------
        encoded : EncodedImage
            From `encode`.
        marks : sequence of Mark
            In pixels of the picture. None may be left out: `previous` alone does not say where
            the object is.
        previous : ndarray of float32, shape (H, W), optional
            An earlier answer, or +-10 from a mask, which the marks mend: given to the network as
            its mask prompt, cut off at +-32.

        Returns
        -------
        ndarray of float32, shape (H, W)
            > 0 is the object; -1024 everywhere where the network sees none.

        Raises
        ------
        InputError
            There are no marks and no earlier answer.
        DeviceMemoryError
            The device is too small.
        """
        if not marks and previous is None:
            raise InputError("There is nothing to pick; set a mark on the object first.")
        with self._computing("a pick"):
            device, number = self._network.device, self._network.dtype
            prompt = self._prompt(marks, encoded.height, encoded.width) if marks else None
            mask = None
            if previous is not None:
                limited = np.clip(previous, -_LARGEST_LOGIT, _LARGEST_LOGIT)
                mask = torch.from_numpy(limited)[None, None].to(device, number)
            answer = self._network._single_frame_forward(
                input_points=prompt and prompt["point_coords"],
                input_labels=prompt and prompt["point_labels"],
                input_masks=mask,
                image_embeddings=encoded.features,
                multimask_output=self._network._use_multimask(True, prompt),
            )
            return self._logits(answer.pred_masks, encoded.height, encoded.width)

    # -- a video -----------------------------------------------------------------------

    def follow(
        self,
        read: ReadFrame,
        keys: Mapping[int, Mapping[int, Mask]],
        frames: Sequence[int],
        *,
        memory: Memory | None = None,
        frame_count: int | None = None,
        cancel: CancelToken | None = None,
    ) -> Iterator[tuple[int, dict[int, TrackedObject]]]:
        """Carry the masks of key frames over other frames by the network's memory.

        Equals the stock ``propagate_in_video_iterator`` in a session that was given the key frames'
        masks and nothing else. All of them condition every frame (the model's config may limit
        how many at once), whichever side they lie on, so that a corrected frame changes what comes
        after it. Objects do not influence each other. Frames are read one at a time, and of
        the network's outputs only what its memory reads is kept, so that memory does not grow.

        Parameters
        ----------
        read : callable
            Returns a frame of the video, uint8 (H, W, 3), RGB.
        keys : mapping of int to mapping of int to ndarray of bool, shape (H, W)
            Frame, object, mask; an empty mask says that the object is not there.
        frames : sequence of int
            In the order in which to go, ascending or descending.
        memory : Memory, optional
            What an earlier call remembered, to go on exactly as if it had not stopped: the next
            of `frames` follows its last one. It is brought up to date before every answer. Without
            it a run begins with the key frames alone. `Memory.to_bytes` and `recall` carry it to
            another process.
        frame_count : int, optional
            Frames of the whole video; by default up to the last one that is named. The stock
            code spaces its pointers otherwise where that is less than sixteen.
        cancel : CancelToken, optional
            Checked within every frame.

        Yields
        ------
        frame : int
        objects : dict of int to TrackedObject
            Every object of `keys`; where it has a key, the key as the network renders it.

        Raises
        ------
        InputError
            There is no key frame, masks differ in size, or `frames` go back and forth.
        DeviceMemoryError
            The device is too small.
        Cancelled
            On request; answers so far stay true, and so does `memory`.
        """
        frames = list(frames)
        _check_order(frames)
        if not frames:
            return
        alone = len(frames) == 1  # then the way is the one from the keys
        backwards = frames[-1] < frames[0] or (alone and min(keys, default=0) > frames[0])
        memory = Memory() if memory is None else memory
        session = self._session(read, keys, frame_count or 1 + max([*frames, *keys]), cancel)
        shape = session.video_height, session.video_width
        for key, outputs in zip(session.obj_ids, session.output_dict_per_obj.values(), strict=True):
            # What the network answered on frames that are key frames now, or that come again; and
            # what lacks the features that will be asked for, as after another way than this.
            kept = memory.frames.setdefault(key, {})
            for earlier, output in list(kept.items()):
                again = earlier <= frames[0] if backwards else earlier >= frames[0]
                near = abs(frames[0] - earlier) < self._network.config.num_maskmem
                lacks = near and "maskmem_features" not in output
                if again or lacks or earlier in outputs["cond_frame_outputs"]:
                    del kept[earlier]
            outputs["non_cond_frame_outputs"] = kept
        for frame in frames:
            try:
                with self._computing(f"frame {frame} with {len(session.obj_ids)} objects", cancel):
                    answer = self._network(session, frame_idx=frame, reverse=backwards)
                    scores = answer.object_score_logits.float().sigmoid().flatten().tolist()
                    logits = [self._logits(mask, *shape) for mask in answer.pred_masks]
            except BaseException:
                for kept in memory.frames.values():
                    kept.pop(frame, None)  # half of an answer
                raise
            self._prune(session, frame)
            yield frame, dict(zip(session.obj_ids, map(TrackedObject, logits, scores), strict=True))

    def recall(self, data: bytes = b"") -> Memory:
        """Return an empty memory, or one that `Memory.to_bytes` has made a file of.

        Parameters
        ----------
        data : bytes
            A safetensors file.

        Raises
        ------
        InputError
            It is damaged, or of a network of another kind.
        DeviceMemoryError
            The device is too small.
        """
        return Memory.from_bytes(data, self._blank()) if data else Memory()

    def _blank(self) -> dict[str, torch.Tensor]:
        """Return what the network would remember of a grey frame without objects."""
        network, device, number = self._network, self._network.device, self._network.dtype
        height, width = network.backbone_feature_sizes[-1]
        side = [4 * length for length in network.prompt_encoder.mask_input_size]
        with self._computing("a memory"):
            features, places = network._encode_new_memory(
                torch.zeros(height * width, 1, network.hidden_dim, dtype=number, device=device),
                torch.zeros(1, 1, *side, dtype=number, device=device),
                torch.zeros(1, 1, dtype=number, device=device),
                is_mask_from_pts=False,
            )
        return {
            "maskmem_features": features,
            "maskmem_pos_enc": places,
            "object_pointer": network.no_object_pointer[None],
        }

    def _session(
        self,
        read: ReadFrame,
        keys: Mapping[int, Mapping[int, Mask]],
        count: int,
        cancel: CancelToken | None,
    ) -> Any:
        """Return a stock session of all objects, conditioned on their key frames.

        Each key frame has a session of its own first: one of all objects would track those that
        have no key on it, and remember that. The masks of a frame are asked for once.
        """
        device, number = self._network.device, self._network.dtype
        kind = getattr(
            transformers, type(self._network).__name__.replace("Model", "InferenceSession")
        )

        def make(objects: Iterable[int]) -> Any:
            session = kind(inference_device=device, inference_state_device=device, dtype=number)
            session.processed_frames = LazyFrames(lambda index: self._pixels(read(index)), count)
            for key in objects:
                session.obj_id_to_idx(key)
            return session

        found: dict[int, dict[int, dict[str, Any]]] = {}
        shapes = set()
        for frame in sorted(keys):
            masks = keys[frame]
            if not masks:
                continue
            shapes |= {mask.shape for mask in masks.values()}
            if len(shapes) > 1:
                raise InputError(f"The masks of the key frames differ in size: {sorted(shapes)}.")
            # Objects so far fill the batch, as in a stock session: roundings depend on it.
            single = make([*found, *masks])
            nothing = np.zeros_like(next(iter(masks.values())))
            for index, key in enumerate(single.obj_ids):
                single.add_mask_inputs(index, frame, self._mask(masks.get(key, nothing)))
            single.obj_with_new_inputs = list(single.obj_ids)
            with self._computing(f"key frame {frame}", cancel):
                self._network(single, frame_idx=frame)
            for key in masks:
                outputs = single.output_dict_per_obj[single.obj_id_to_idx(key)]
                output = outputs["cond_frame_outputs"][frame]
                output.pop("high_res_masks", None)
                output["maskmem_features"] = output["maskmem_features"].clone()  # not the batch
                # EdgeTAM's lacks a dimension, and would not go together with tracked ones.
                output["object_score_logits"] = output["object_score_logits"].reshape(1, 1, 1)
                found.setdefault(key, {})[frame] = output
        if not found:
            raise InputError("There is no mask to follow; draw the object on a frame first.")
        whole = make(found)
        whole.video_height, whole.video_width = shapes.pop()
        for index, outputs in enumerate(found.values()):
            whole.output_dict_per_obj[index]["cond_frame_outputs"] = outputs
        return whole

    def _prune(self, session: Any, frame: int) -> None:
        """Forget of earlier frames what no later one will ask for."""
        config = self._network.config
        for index, outputs in session.output_dict_per_obj.items():
            kept = outputs["non_cond_frame_outputs"]
            for earlier in list(kept):
                age = abs(frame - earlier) + 1  # on the next frame
                if age >= max(config.num_maskmem, config.max_object_pointers_in_encoder):
                    del kept[earlier]
                    continue
                names = {"object_pointer"}
                if age < config.num_maskmem:
                    names |= {"maskmem_features", "maskmem_pos_enc"}
                kept[earlier] = {name: kept[earlier][name] for name in names & set(kept[earlier])}
            session.frames_tracked_per_obj[index].clear()

    # -- what processors do ------------------------------------------------------------

    def _pixels(self, image: npt.NDArray[np.uint8]) -> torch.Tensor:
        """Return a picture as the network takes it, shape (3, size, size), on the CPU."""
        picture = scaled_picture(image, self._size, self._mean, self._deviation)
        return picture.to(self._network.dtype)

    def _mask(self, mask: Mask) -> torch.Tensor:
        """Return a mask as ``process_new_mask_for_video_frame`` does, shape (1, 1, size, size)."""
        values = torch.from_numpy(np.ascontiguousarray(mask))[None, None].float()
        if values.shape[-2:] == (self._size, self._size):
            return values
        scaled = functional.interpolate(
            values, (self._size, self._size), mode="bilinear", align_corners=False, antialias=True
        )
        return (scaled >= 0.5).float()

    def _prompt(self, marks: Sequence[Mark], height: int, width: int) -> dict[str, torch.Tensor]:
        """Return marks as ``process_new_points_or_boxes_for_video_frame`` does, a box first."""
        points: list[tuple[float, float]] = []
        labels: list[int] = []
        boxes = [mark for mark in marks if mark.kind == "box"][-1:]
        for mark in [*boxes, *(mark for mark in marks if mark.kind != "box")]:
            if mark.kind == "box":
                points += mark.points
                labels += [2, 3]
            else:
                stroke = _along(mark.points, _STROKE_STEP * max(height, width))
                points += stroke
                labels += [int(mark.positive)] * len(stroke)
        coordinates = torch.tensor(points, dtype=torch.float32)[None, None]
        coordinates[..., 0] *= self._size / width
        coordinates[..., 1] *= self._size / height
        device = self._network.device
        return {
            "point_coords": coordinates.to(device),
            "point_labels": torch.tensor(labels, dtype=torch.int32)[None, None].to(device),
        }

    def _logits(self, masks: torch.Tensor, height: int, width: int) -> Floats:
        """Return logits at the picture's size, as ``post_process_masks`` does before its > 0."""
        scaled = functional.interpolate(
            masks.float().reshape(1, 1, *masks.shape[-2:]),
            (height, width),
            mode="bilinear",
            align_corners=False,
        )
        logits: Floats = scaled[0, 0].cpu().numpy()
        return logits

    @contextmanager
    def _computing(self, what: str, cancel: CancelToken | None = None) -> Iterator[None]:
        """Compute without gradients, stop between two layers, and tell of a full device."""
        thread = threading.get_ident()

        def look(*_: object) -> None:
            # Another thread may pick while this one follows.
            if cancel is not None and threading.get_ident() == thread:
                cancel.raise_if_cancelled()

        look()
        hooks = [] if cancel is None else [b.register_forward_pre_hook(look) for b in self._blocks]
        try:
            with (
                memory_guard(what, "follow fewer objects at once, take a smaller model or the CPU"),
                torch.inference_mode(),
            ):
                yield
        finally:
            for hook in hooks:
                hook.remove()


def _check_order(frames: Sequence[int]) -> None:
    steps = {a < b for a, b in zip(frames, frames[1:], strict=False) if a != b}
    if len(steps) > 1 or len(set(frames)) < len(frames) or min(frames, default=0) < 0:
        raise InputError("Frames are followed in one direction, each once, from 0 on.")


def _along(points: Sequence[tuple[float, float]], step: float) -> list[tuple[float, float]]:
    """Return a few points along a stroke, the farther apart the longer it is."""
    corners = np.array(points, np.float64)
    run = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(corners, axis=0).T))])
    count = min(_STROKE_POINTS, 1 + int(run[-1] / step))
    places = run[-1] * (np.arange(count) + 0.5) / count
    x, y = (np.interp(places, run, corners[:, axis]) for axis in (0, 1))
    return list(zip(x.tolist(), y.tolist(), strict=True))
