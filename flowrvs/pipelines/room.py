"""How much a pipeline computes at once, and how it goes on when the device is full."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from flowrvs.errors import DeviceMemoryError
from flowrvs.pipelines.devices import release
from flowrvs.pipelines.outputs import EncodedVideo, memory_guard

__all__ = ["LimitedRoom"]

_BATCH_TOKENS = 4096

T = TypeVar("T")


class LimitedRoom:
    """The part of a pipeline that knows about memory.

    Attributes
    ----------
    latent_group : int
        Latent frames that the VAE computes at once; halved when the device is full.
    sentence_batch : int
        Sentences that the transformer takes at once; 0 chooses by the size of the clip.
    memory_mode : str
        What is on the device when; see `flowrvs.load`.
    memory_line : str
        What memory a window is expected to need, for people; empty on a CPU.
    """

    _execution_device: torch.device

    latent_group: int = 4
    sentence_batch: int = 0
    memory_mode: str = "full"
    memory_line: str = ""

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
