"""`FlowRVSPipeline`: referring video segmentation as one flow (arXiv 2510.06139).

All parts are stock classes. The flow starts at the video's latent (t = 1) and ends at
the mask's latent (t = 0); there is no noise. The four parts of a call can be used one
by one, so that a video is encoded once for any number of sentences::

    embeddings = pipe.encode_prompt(["the red circle", "the blue square"])
    clip = pipe.encode_video(frames)
    for row in embeddings:
        logits = pipe.decode_masks(pipe.deform(clip, row[None]), clip)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

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

from flowrvs.errors import CheckpointError, InputError
from flowrvs.models.presets import Preset
from flowrvs.models.text import clean_prompt, embed_tokens, tokenize
from flowrvs.models.vae import (
    encode_moments,
    iter_decode,
    latent_statistics,
    spatial_factor,
    temporal_factor,
)
from flowrvs.pipelines.geometry import preprocess, resize_logits
from flowrvs.pipelines.outputs import EncodedVideo, FlowRVSOutput, memory_guard
from flowrvs.pipelines.schedule import set_flow_timesteps
from flowrvs.progress import CancelToken

__all__ = ["EncodedVideo", "FlowRVSOutput", "FlowRVSPipeline"]


class FlowRVSPipeline(DiffusionPipeline):
    """Deform a video into the masks of what a sentence refers to.

    Parameters
    ----------
    transformer : WanTransformer3DModel
        With as many input channels as the VAE's latent has, or twice as many: then the
        video latent is injected at every step (DVI).
    vae : AutoencoderKLWan
        Its decoder gives one channel: mask logits.
    text_encoder : UMT5EncoderModel
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
    name : str
        Provenance of the masks that it makes.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"

    def __init__(
        self,
        transformer: WanTransformer3DModel,
        vae: AutoencoderKLWan,
        text_encoder: UMT5EncoderModel,
        tokenizer: T5TokenizerFast,
        scheduler: FlowMatchEulerDiscreteScheduler,
        max_sequence_length: int = 256,
        sample_height: int = 480,
        sample_width: int = 832,
        window_size: int = 81,
        overlap: int = 8,
        lower_case: bool = False,
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
            name=name,
        )
        # The label under which its masks are stored; a loader may make it more precise.
        self.name = name
        self.latent_group = 4
        self._embeddings: dict[str, torch.Tensor] = {}
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
        cleaned = [clean_prompt(t.lower() if self.config.lower_case else t) for t in wanted]
        for text, source in zip(cleaned, wanted, strict=True):
            if not text:
                raise InputError(f"The sentence {source!r} is empty; type what to look for.")
        new = [t for t in dict.fromkeys(cleaned) if t not in self._embeddings]
        if new:
            length = int(self.config.max_sequence_length)
            device = self._execution_device
            tokens, mask = tokenize(self.tokenizer, new, length)
            with memory_guard("the sentence"):
                embedded = embed_tokens(self.text_encoder, tokens.to(device), mask.to(device))
            self._embeddings.update(zip(new, embedded.to(self.transformer.dtype), strict=True))
        return torch.stack([self._embeddings[text] for text in cleaned])

    @torch.no_grad()
    def encode_video(self, frames: npt.NDArray[np.uint8]) -> EncodedVideo:
        """Encode a clip; the result serves every sentence.

        Parameters
        ----------
        frames : ndarray of uint8, shape (T, H, W, 3)
            RGB, any T >= 1 and any size.

        Returns
        -------
        EncodedVideo
        """
        video, geometry = preprocess(
            frames,
            box=(int(self.config.sample_height), int(self.config.sample_width)),
            multiple=self.token_pixels,
            temporal=temporal_factor(self.vae),
        )
        with memory_guard(f"{len(frames)} frames"):
            video = video.to(self._execution_device, self.vae.dtype)
            moments = encode_moments(self.vae, video, group=self.latent_group)
            mean, std = (s.to(moments) for s in latent_statistics(self.vae))
            latents = (moments[:, : self.vae.config.z_dim] - mean) / std
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
            Checked before each step.
        on_step : callable, optional
            Called after each step.

        Returns
        -------
        Tensor, shape (N, z_dim, t, h, w)
            Mask latents ``x1``; not to be de-normalised.
        """
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(self.scheduler.config)
        set_flow_timesteps(scheduler, steps, clip.latents.device)
        start = clip.latents.expand(len(embeddings), -1, -1, -1, -1)
        state = start
        for time in scheduler.timesteps:
            if cancel is not None:
                cancel.raise_if_cancelled()
            inputs = torch.cat([state, start], dim=1) if self.injects_video else state
            with memory_guard(f"{len(embeddings)} sentence(s)"):
                velocity = self.transformer(
                    hidden_states=inputs,
                    timestep=time.expand(len(inputs)),
                    encoder_hidden_states=embeddings,
                    return_dict=False,
                )[0]
            state = scheduler.step(velocity, time, state, return_dict=False)[0]
            if on_step is not None:
                on_step()
        return state

    @torch.no_grad()
    def decode_masks(
        self, latents: torch.Tensor, clip: EncodedVideo, *, cancel: CancelToken | None = None
    ) -> npt.NDArray[np.float32]:
        """Decode the mask latent of one sentence to logits at source size.

        Parameters
        ----------
        latents : Tensor, shape (1, z_dim, t, h, w)
            From `deform`.
        clip : EncodedVideo
            Says how long and large the source is.
        cancel : CancelToken, optional
            Checked between groups of frames.

        Returns
        -------
        ndarray of float32, shape (T, H, W)
            Logits in [-1, 1]; foreground above 0.
        """
        geometry = clip.geometry
        logits = np.empty((geometry.frames, geometry.height, geometry.width), np.float32)
        done = 0
        with memory_guard("the masks"):
            for part in iter_decode(self.vae, latents.to(self.vae.dtype), group=self.latent_group):
                if cancel is not None:
                    cancel.raise_if_cancelled()
                count = min(part.shape[2], geometry.frames - done)
                if count:
                    resized = resize_logits(part[0, 0, :count], geometry)
                    logits[done : done + count] = resized.cpu().numpy()
                    done += count
        return logits

    # -- together -------------------------------------------------------------------

    def segment_window(
        self,
        frames: npt.NDArray[np.uint8],
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
        clip = self.encode_video(frames)
        notify()
        for row in embeddings:
            token.raise_if_cancelled()
            latents = self.deform(clip, row[None], steps=steps, cancel=token, on_step=notify)
            logits = self.decode_masks(latents, clip, cancel=token)
            notify()
            yield logits

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
        logits = np.stack(list(self.segment_window(video, texts, steps=num_inference_steps)))
        masks = logits > 0
        if not return_dict:
            return masks, logits
        return FlowRVSOutput(masks=masks, logits=logits)
