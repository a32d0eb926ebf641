"""`FlowRVSPipeline`: referring video segmentation as one flow (arXiv 2510.06139).

All parts are stock classes. The flow starts at the video's latent (t = 1) and ends at
the mask's latent (t = 0); there is no noise. The four parts of a call can be used one
by one, so that a video is encoded once for any number of sentences::

    embeddings = pipe.encode_prompt(["the red circle", "the blue square"])
    clip = pipe.encode_video(frames)
    for row in embeddings:
        for logits in pipe.decode_masks(pipe.deform(clip, row[None]), clip):
            ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from diffusers import (
    AutoencoderKLWan,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    WanTransformer3DModel,
)
from diffusers.utils import BaseOutput
from transformers import T5TokenizerFast, UMT5EncoderModel

from flowrvs.errors import CheckpointError, DeviceMemoryError
from flowrvs.models.devices import memory_guard, release
from flowrvs.models.locator import Locator
from flowrvs.models.presets import Preset
from flowrvs.models.vae import spatial_factor, temporal_factor
from flowrvs.pipelines.geometry import ClipGeometry, plan_clip
from flowrvs.pipelines.prompts import PromptEncoder
from flowrvs.pipelines.stages import check_finite, decode_clip, deform_latents, encode_clip
from flowrvs.progress import CancelToken
from flowrvs.records import FrameBlock

__all__ = ["EncodedVideo", "FlowRVSOutput", "FlowRVSPipeline"]

_BATCH_TOKENS = 4096

T = TypeVar("T")


@dataclass(frozen=True)
class EncodedVideo:
    """A clip as the flow's starting point.

    Attributes
    ----------
    latents : Tensor, shape (1, z_dim, t, h, w)
        Normalised latent mean of the video, ``x0``.
    geometry : ClipGeometry
        How the source was fitted to the model.
    """

    latents: torch.Tensor
    geometry: ClipGeometry


@dataclass
class FlowRVSOutput(BaseOutput):
    """Result of a call.

    Attributes
    ----------
    masks : ndarray of bool, shape (N, T, H, W)
        One mask clip per sentence, at source size.
    logits : ndarray of float32, shape (N, T, H, W)
        Values in [-1, 1]; foreground above 0.
    """

    masks: npt.NDArray[np.bool_]
    logits: npt.NDArray[np.float32]


class FlowRVSPipeline(DiffusionPipeline):
    """Deform a video into the masks of what a sentence refers to.

    Parameters
    ----------
    transformer : WanTransformer3DModel
        With as many input channels as the VAE's latent has, or twice as many: then the
        video latent is injected at every step (DVI).
    vae : AutoencoderKLWan
        Its decoder gives one channel: mask logits.
    text_encoder : UMT5EncoderModel or None
        None where `prompts` loads it when a sentence needs it.
    tokenizer : T5TokenizerFast
    scheduler : FlowMatchEulerDiscreteScheduler
        With shift 1.
    max_sequence_length : int
        Tokens that a sentence is padded or cut to.
    sample_height, sample_width : int
        Box in pixels that frames are fitted into.
    window_size, overlap : int
        Frames it prefers to see at once, and shared by neighbouring windows.
    lower_case : bool
        Lower-case sentences, for models whose vocabulary has no capitals.
    whole_video : bool
        A benchmark's videos are one clip each, however long, as in the published code.
    name : str
        Provenance of the masks that it makes.

    Attributes
    ----------
    portrait_box : bool
        Turn the box for portrait videos. The published code does not: a portrait video
        becomes 480 pixels high.
    clamp : bool
        Clamp logits to [-1, 1] as the published code does; without it the confidence far
        from 0 is told apart, and masks are the same.
    latent_group : int
        Latent frames that the VAE computes at once; halved when the device is full.
    sentence_batch : int
        Sentences that the transformer takes at once; 0 chooses by the size of the clip.
    memory_mode : str
        What is on the device when; see `flowrvs.load`.
    memory_line : str
        What memory a window is expected to need, for people; empty on a CPU.
    weights : str
        Hash of its weights' files: two models of one name do not continue each other's runs.
    locator : Locator or None
        Decodes only where it sees foreground (`flowrvs.models.tiles`); off by default.
    prompts : PromptEncoder or None
        Embeds sentences; made from the parts at first need.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _optional_components = ["text_encoder"]

    def __init__(
        self,
        transformer: WanTransformer3DModel,
        vae: AutoencoderKLWan,
        text_encoder: UMT5EncoderModel | None,
        tokenizer: T5TokenizerFast,
        scheduler: FlowMatchEulerDiscreteScheduler,
        max_sequence_length: int = 256,
        sample_height: int = 480,
        sample_width: int = 832,
        window_size: int = 81,
        overlap: int = 8,
        lower_case: bool = False,
        whole_video: bool = False,
        name: str = "flowrvs",
    ) -> None:
        super().__init__()
        self.register_modules(
            transformer=transformer,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler,
        )
        self.register_to_config(
            max_sequence_length=max_sequence_length,
            sample_height=sample_height,
            sample_width=sample_width,
            window_size=window_size,
            overlap=overlap,
            lower_case=lower_case,
            whole_video=whole_video,
            name=name,
        )
        # The label under which its masks are stored; a loader may make it more precise.
        self.name = name
        self.portrait_box = False
        self.clamp = True
        self.latent_group = 4
        self.sentence_batch = 0
        self.memory_mode = "full"
        self.memory_line = ""
        self.weights = ""
        self.prompts: PromptEncoder | None = None
        self.locator: Locator | None = None
        self.injects_video = _injects_video(transformer, vae)

    @classmethod
    def from_parts(
        cls,
        *,
        transformer: WanTransformer3DModel,
        vae: AutoencoderKLWan,
        text_encoder: UMT5EncoderModel,
        tokenizer: T5TokenizerFast,
        preset: Preset,
        name: str = "flowrvs",
    ) -> FlowRVSPipeline:
        """Compose a pipeline from parts and the settings of a preset."""
        return cls(
            transformer=transformer,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
            name=name,
            **preset.settings,
        )

    def save_pretrained(self, save_directory: str | PathLike[str], **options: Any) -> None:
        """Save it as any diffusers pipeline; the text encoder is loaded for that if need be."""
        if self.text_encoder is not None or self.prompts is None:
            super().save_pretrained(save_directory, **options)
            return
        self.register_modules(text_encoder=self.prompts.load_encoder())
        try:
            super().save_pretrained(save_directory, **options)
        finally:
            self.register_modules(text_encoder=None)

    @property
    def window_size(self) -> int:
        """Frames that it prefers to see at once."""
        return int(self.config.window_size)

    @property
    def overlap(self) -> int:
        """Frames that neighbouring windows should share."""
        return int(self.config.overlap)

    @property
    def whole_video(self) -> bool:
        """Whether a benchmark's videos are one clip each."""
        return bool(self.config.whole_video)

    @property
    def token_pixels(self) -> int:
        """Pixels per transformer token along a side, from the configs."""
        return spatial_factor(self.vae) * int(self.transformer.config.patch_size[1])

    # -- the four parts of a call ---------------------------------------------------

    @torch.no_grad()
    def encode_prompt(self, texts: str | Sequence[str]) -> torch.Tensor:
        """Embed sentences; a sentence seen before is not computed again.

        Parameters
        ----------
        texts : str or sequence of str

        Returns
        -------
        Tensor, shape (N, max_sequence_length, d_model)
            Zero after each sentence's true length.

        Raises
        ------
        InputError
            A sentence is empty.
        """
        if self.prompts is None:
            self.prompts = PromptEncoder(
                self.tokenizer,
                self.text_encoder,
                length=int(self.config.max_sequence_length),
                lower_case=bool(self.config.lower_case),
            )
        wanted = [texts] if isinstance(texts, str) else list(texts)
        embeddings = self.prompts.encode(wanted, self._execution_device)
        return embeddings.to(self.transformer.dtype)

    @torch.no_grad()
    def encode_video(
        self, frames: FrameBlock, *, cancel: CancelToken | None = None
    ) -> EncodedVideo:
        """Encode a clip; the result serves every sentence.

        Frames are read and resized on a thread, a group ahead of the device, so that
        memory does not grow with the length of the clip.

        Parameters
        ----------
        frames : FrameBlock of uint8, shape (T, H, W, 3)
            RGB, any T >= 1 and any size; an array or something that reads slices.
        cancel : CancelToken, optional
            Checked before every block of the VAE.

        Returns
        -------
        EncodedVideo
        """
        box = (int(self.config.sample_height), int(self.config.sample_width))
        if self.portrait_box and frames.shape[1] > frames.shape[2]:
            box = box[::-1]
        geometry = plan_clip(
            frames, box=box, multiple=self.token_pixels, temporal=temporal_factor(self.vae)
        )
        self._onload(self.vae)
        device = self._execution_device
        latents = self._in_groups(
            lambda group: encode_clip(self.vae, frames, geometry, group, device, cancel),
            f"{geometry.frames} frames",
        )
        return EncodedVideo(latents.to(self.transformer.dtype), geometry)

    @torch.no_grad()
    def deform(
        self,
        clip: EncodedVideo,
        embeddings: torch.Tensor,
        *,
        steps: int = 1,
        cancel: CancelToken | None = None,
        on_step: Callable[[], None] | None = None,
    ) -> torch.Tensor:
        """Carry the video's latent to the masks' latents with Euler steps.

        Parameters
        ----------
        clip : EncodedVideo
        embeddings : Tensor, shape (N, L, d_model)
            From `encode_prompt`.
        steps : int
            Euler steps; the paper's default is one.
        cancel : CancelToken, optional
            Checked before every block of the transformer.
        on_step : callable, optional
            Called after each step, for each sentence.

        Returns
        -------
        Tensor, shape (N, z_dim, t, h, w)
            Mask latents ``x1``; not to be de-normalised.
        """
        self._onload(self.transformer)
        start, inject = clip.latents, self.injects_video
        return deform_latents(
            self.transformer, self.scheduler, start, embeddings, steps, inject, cancel, on_step
        )

    @torch.no_grad()
    def decode_masks(
        self, latents: torch.Tensor, clip: EncodedVideo, *, cancel: CancelToken | None = None
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Decode the mask latent of one sentence to logits at source size, group by group.

        Parameters
        ----------
        latents : Tensor, shape (1, z_dim, t, h, w)
            From `deform`.
        clip : EncodedVideo
            Says how long and large the source is.
        cancel : CancelToken, optional
            Checked before every block of the VAE.

        Yields
        ------
        ndarray of float32, shape (n, H, W)
            Logits of the next frames, in [-1, 1] unless `clamp` is off; foreground
            above 0.

        Raises
        ------
        DeviceMemoryError
            Not even one latent frame at a time fits.
        """
        self._onload(self.vae)
        latents = latents.to(self.vae.dtype)
        parts = self._to_the_end(
            lambda skip: decode_clip(
                self.vae,
                latents,
                clip.geometry,
                group=self.latent_group,
                clamp=self.clamp,
                locator=self.locator,
                skip=skip,
                cancel=cancel,
            ),
            clip.geometry.frames,
        )
        for part in parts:
            logits = part.numpy()
            check_finite(logits, self.vae.dtype, self.name)
            yield logits

    @torch.no_grad()
    def segment_window(
        self,
        frames: FrameBlock,
        texts: Sequence[str],
        *,
        steps: int = 1,
        cancel: CancelToken | None = None,
        on_step: Callable[[], None] | None = None,
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the logits of each sentence; see `flowrvs.records.Segmenter`."""
        token = cancel or CancelToken()
        notify = on_step or (lambda: None)
        token.raise_if_cancelled()
        embeddings = self.encode_prompt(texts)
        token.raise_if_cancelled()
        clip = self.encode_video(frames, cancel=token)
        notify()

        def run(rows: torch.Tensor) -> torch.Tensor:
            return self.deform(clip, rows, steps=steps, cancel=token, on_step=notify)

        for latents in self._in_batches(run, clip, embeddings):
            for row in latents:
                token.raise_if_cancelled()
                yield from self.decode_masks(row[None], clip, cancel=token)
                notify()

    @torch.no_grad()
    def __call__(
        self,
        video: npt.NDArray[np.uint8],
        prompt: str | Sequence[str],
        num_inference_steps: int = 1,
        return_dict: bool = True,
    ) -> FlowRVSOutput | tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        """Segment a whole clip at once.

        Parameters
        ----------
        video : ndarray of uint8, shape (T, H, W, 3)
            RGB frames.
        prompt : str or sequence of str
            One or several sentences.
        num_inference_steps : int
            Euler steps.
        return_dict : bool
            Give a `FlowRVSOutput` instead of a tuple.

        Returns
        -------
        FlowRVSOutput or tuple of ndarray
            Masks and logits, each of shape (N, T, H, W).
        """
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        parts = list(self.segment_window(video, texts, steps=num_inference_steps))
        logits = np.concatenate(parts).reshape(len(texts), *video.shape[:3])
        output = FlowRVSOutput(masks=logits > 0, logits=logits)
        return output if return_dict else output.to_tuple()

    # -- memory: how much is computed at once, and what to do when the device is full --------

    @property
    def takes_turns(self) -> bool:
        """Whether its models are on the device one at a time."""
        return bool(getattr(self, "_all_hooks", None))

    def batch_size(self, clip: EncodedVideo) -> int:
        """Sentences that go through the transformer at once."""
        if self.sentence_batch:
            return self.sentence_batch
        _, _, frames, height, width = clip.latents.shape
        # Beyond some thousand tokens a device is busy with one sentence.
        return max(1, min(8, _BATCH_TOKENS * 4 // (frames * height * width)))

    def _onload(self, model: torch.nn.Module) -> None:
        """Bring a model to the device where models take turns (accelerate's own hook)."""
        hook = getattr(model, "_hf_hook", None)
        if hook is not None and hasattr(hook, "pre_forward"):
            hook.pre_forward(model)

    def _in_groups(self, run: Callable[[int], T], what: str) -> T:
        """Run with smaller and smaller groups of frames until the device has room."""
        while True:
            try:
                with memory_guard(what):
                    return run(self.latent_group)
            except DeviceMemoryError:
                if not self._smaller_groups():
                    raise

    def _smaller_groups(self) -> bool:
        """Halve the groups of latent frames; False if they cannot be smaller."""
        if self.latent_group == 1:
            return False
        self.latent_group //= 2
        release(self._execution_device)
        return True

    def _to_the_end(
        self, run: Callable[[int], Iterator[torch.Tensor]], frames: int
    ) -> Iterator[torch.Tensor]:
        """Yield groups of frames; when the device is full, go on with smaller ones.

        `run` is told how many frames it should not give again.
        """
        done = 0
        while done < frames:
            try:
                for part in run(done):
                    done += len(part)
                    yield part
            except DeviceMemoryError:
                if not self._smaller_groups():
                    raise

    def _in_batches(
        self,
        run: Callable[[torch.Tensor], torch.Tensor],
        clip: EncodedVideo,
        embeddings: torch.Tensor,
    ) -> Iterator[torch.Tensor]:
        """Yield what `run` gives for batches of sentences; all at once where models take turns."""
        done: list[torch.Tensor] = []
        first = 0
        while first < len(embeddings):
            count = min(self.batch_size(clip), len(embeddings) - first)
            try:
                latents = run(embeddings[first : first + count])
            except DeviceMemoryError:
                if count == 1:
                    raise
                self.sentence_batch = count // 2
                release(clip.latents.device)
                continue
            first += count
            if self.takes_turns:
                done.append(latents)
            else:
                yield latents
        yield from done


def _injects_video(transformer: WanTransformer3DModel, vae: AutoencoderKLWan) -> bool:
    """Whether the transformer takes the video latent too, by the shape of its weights.

    Raises
    ------
    CheckpointError
        The two do not belong together, or the VAE decodes no mask.
    """
    latent = int(vae.config.z_dim)
    found = int(transformer.patch_embedding.weight.shape[1])
    if found not in (latent, 2 * latent):
        raise CheckpointError(
            f"The transformer takes {found} channels, but the VAE's latent has {latent}; "
            f"it must take {latent}, or {2 * latent} with the video injected."
        )
    patch = int(vae.config.patch_size or 1)
    outputs = int(vae.config.out_channels) // patch**2
    if outputs != 1:
        raise CheckpointError(
            f"The VAE decodes {outputs} channels, not one mask; use a VAE whose decoder was "
            "tuned for masks."
        )
    return found == 2 * latent
