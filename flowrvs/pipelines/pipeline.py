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

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import (
    AutoencoderKLWan,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    WanTransformer3DModel,
)
from transformers import T5TokenizerFast, UMT5EncoderModel

from flowrvs.errors import CheckpointError, DeviceMemoryError, InputError
from flowrvs.models.locator import Locator
from flowrvs.models.presets import Preset
from flowrvs.models.tiles import iter_decode_tiles, plan_tiles
from flowrvs.models.vae import (
    frame_groups,
    iter_decode,
    iter_encode,
    latent_statistics,
    spatial_factor,
    temporal_factor,
)
from flowrvs.pipelines.devices import release
from flowrvs.pipelines.geometry import iter_clip, normalise, plan_clip, resize_logits
from flowrvs.pipelines.interrupt import interruptible
from flowrvs.pipelines.outputs import EncodedVideo, FlowRVSOutput, memory_guard
from flowrvs.pipelines.prefetch import prefetch
from flowrvs.pipelines.prompts import PromptEncoder
from flowrvs.pipelines.schedule import set_flow_timesteps
from flowrvs.progress import CancelToken
from flowrvs.records import FrameBlock

__all__ = ["EncodedVideo", "FlowRVSOutput", "FlowRVSPipeline"]

_BATCH_TOKENS = 4096


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
    latent_group : int
        Latent frames that the VAE computes at once; halved when the device is full.
    sentence_batch : int
        Sentences that the transformer takes at once; 0 chooses by the size of the clip.
    portrait_box : bool
        Turn the box for portrait videos. The published code does not: a portrait video
        becomes 480 pixels high.
    clamp : bool
        Clamp logits to [-1, 1] as the published code does; without it the confidence far
        from 0 is told apart, and masks are the same.
    memory_mode : str
        See `flowrvs.load`.
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
        self.latent_group = 4
        self.sentence_batch = 0
        self.portrait_box = False
        self.clamp = True
        self.memory_mode = "full"
        self.memory_line = ""
        self.weights = ""
        self.prompts: PromptEncoder | None = None
        self.locator: Locator | None = None
        self.injects_video = self._check_channels()

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
            max_sequence_length=preset.max_sequence_length,
            sample_height=preset.sample_height,
            sample_width=preset.sample_width,
            window_size=preset.window_size,
            overlap=preset.overlap,
            lower_case=preset.lower_case,
            name=name,
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

    def _check_channels(self) -> bool:
        """Whether the transformer takes the video latent too, by the shape of its weights."""
        latent = int(self.vae.config.z_dim)
        found = int(self.transformer.patch_embedding.weight.shape[1])
        if found not in (latent, 2 * latent):
            raise CheckpointError(
                f"The transformer takes {found} channels, but the VAE's latent has {latent}; "
                f"it must take {latent}, or {2 * latent} with the video injected."
            )
        patch = int(self.vae.config.patch_size or 1)
        outputs = int(self.vae.config.out_channels) // patch**2
        if outputs != 1:
            raise CheckpointError(
                f"The VAE decodes {outputs} channels, not one mask; use a VAE whose decoder was "
                "tuned for masks."
            )
        return found == 2 * latent

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
        wanted = [texts] if isinstance(texts, str) else list(texts)
        if self.prompts is None:
            self.prompts = PromptEncoder(
                self.tokenizer,
                self.text_encoder,
                length=int(self.config.max_sequence_length),
                lower_case=bool(self.config.lower_case),
            )
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
        temporal = temporal_factor(self.vae)
        box = (int(self.config.sample_height), int(self.config.sample_width))
        if self.portrait_box and frames.shape[1] > frames.shape[2]:
            box = box[::-1]
        geometry = plan_clip(frames, box=box, multiple=self.token_pixels, temporal=temporal)
        mean, std = (s.to(self._execution_device) for s in latent_statistics(self.vae))

        def run(group: int) -> torch.Tensor:
            bounds = frame_groups(geometry.model_frames, group, temporal)
            clip = prefetch(iter_clip(frames, geometry, bounds))
            with closing(clip), interruptible(self.vae.encoder.down_blocks, cancel):
                return torch.cat(list(iter_encode(self.vae, self._inputs(clip))), dim=2)

        self._onload(self.vae)
        moments = self._shrinking(run, f"{geometry.frames} frames")
        latents = moments[:, : self.vae.config.z_dim]
        latents = (latents - mean.to(latents)) / std.to(latents)
        return EncodedVideo(latents.to(self.transformer.dtype), geometry)

    def _inputs(self, clip: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        device = self._execution_device
        for frames in clip:
            if device.type == "cuda":
                frames = frames.pin_memory()
            # Bytes travel, floats are made on the device.
            yield normalise(frames.to(device, non_blocking=True), self.vae.dtype)

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
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(self.scheduler.config)
        set_flow_timesteps(scheduler, steps, clip.latents.device)
        start = clip.latents.expand(len(embeddings), -1, -1, -1, -1)
        state = start
        self._onload(self.transformer)
        for time in scheduler.timesteps:
            inputs = torch.cat([state, start], dim=1) if self.injects_video else state
            with (
                memory_guard(f"{len(embeddings)} sentence(s)"),
                interruptible(self.transformer.blocks, cancel),
            ):
                velocity = self.transformer(
                    hidden_states=inputs,
                    timestep=time.expand(len(inputs)),
                    encoder_hidden_states=embeddings,
                    return_dict=False,
                )[0]
            state = scheduler.step(velocity, time, state, return_dict=False)[0]
            if on_step is not None:
                for _ in range(len(embeddings)):
                    on_step()
        return state

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
        geometry = clip.geometry
        self._onload(self.vae)
        latents = latents.to(self.vae.dtype)
        done = 0
        while done < geometry.frames:
            # After an overflow it begins again with smaller groups, and skips what is out.
            skip, position = done, 0
            parts = self._decode(latents)
            try:
                with (
                    memory_guard("the masks"),
                    interruptible(self.vae.decoder.up_blocks, cancel),
                ):
                    for part in parts:
                        stop = min(position + part.shape[2], geometry.frames)
                        fresh = part[0, 0, max(0, skip - position) : stop - position]
                        position += part.shape[2]
                        if len(fresh):
                            logits = resize_logits(fresh, geometry).cpu().numpy()
                            self._check_finite(logits)
                            done += len(fresh)
                            yield logits
            except DeviceMemoryError:
                if not self._smaller_groups():
                    raise

    def _decode(self, latents: torch.Tensor) -> Iterator[torch.Tensor]:
        """Decode the whole picture, or only where the locator sees foreground."""
        tiles = None
        if self.locator is not None:
            tiles = plan_tiles(self.vae, self.locator.cells(latents))
        group, clamp = self.latent_group, self.clamp
        if tiles is None:
            return iter_decode(self.vae, latents, group=group, clamp=clamp)
        return iter_decode_tiles(self.vae, latents, tiles, group=group, clamp=clamp)

    # -- together -------------------------------------------------------------------

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
        for latents in self._deform_all(clip, embeddings, steps, token, notify):
            for row in latents:
                token.raise_if_cancelled()
                yield from self.decode_masks(row[None], clip, cancel=token)
                notify()

    def _deform_all(
        self,
        clip: EncodedVideo,
        embeddings: torch.Tensor,
        steps: int,
        cancel: CancelToken,
        notify: Callable[[], None],
    ) -> Iterator[torch.Tensor]:
        """Yield mask latents in batches of sentences; all at once where models take turns."""
        done: list[torch.Tensor] = []
        first = 0
        while first < len(embeddings):
            count = min(self.batch_size(clip), len(embeddings) - first)
            rows = embeddings[first : first + count]
            try:
                latents = self.deform(clip, rows, steps=steps, cancel=cancel, on_step=notify)
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

    # -- memory ---------------------------------------------------------------------

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

    def _shrinking(self, run: Callable[[int], torch.Tensor], what: str) -> torch.Tensor:
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

    def _check_finite(self, logits: npt.NDArray[np.float32]) -> None:
        if np.isfinite(logits).all():
            return
        if self.vae.dtype == torch.float16:
            raise InputError(
                "The model overflows in float16 on this device; choose --dtype float32."
            )
        raise CheckpointError(
            f"The model {self.name} computes no numbers: its weights are damaged; run 'flowrvs "
            "models verify' on it, or fetch it again."
        )

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
        masks = logits > 0
        if not return_dict:
            return masks, logits
        return FlowRVSOutput(masks=masks, logits=logits)
