"""Clips as the transformer sees them, encoded once and kept on disk.

With ``--cache`` the frozen encoder's work is done beforehand: the moments of the clips'
latents, the latents of what is meant in them, and the embeddings of the sentences. Then the
transformer trains alone, without VAE or text encoder on the device. The folder may be shared by
trainings and deleted at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKLWan
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from flowrvs.disk import free_bytes, replacing
from flowrvs.errors import StorageError
from flowrvs.inference.cluster.encode import EncodeCluster, Wanted
from flowrvs.models.vae import mask_cells
from flowrvs.pipelines.latents import encode_latent
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock
from flowrvs.training.dataset import (
    Draw,
    Sample,
    TrainingData,
    read_mask,
    read_objects,
    read_video,
)

__all__ = [
    "CachedData",
    "ClipEncoder",
    "EncodedSample",
    "LatentCache",
    "MemoryCache",
    "fill_cache",
    "needed_draws",
]


@dataclass(frozen=True, slots=True)
class EncodedSample:
    """A sample as latents.

    Attributes
    ----------
    number : int
    text : str
    moments : Tensor, shape (2 * z_dim, t, h, w)
        Mean and log-variance of the clip's latent, not normalised.
    target : Tensor, shape (z_dim, t, h, w)
        Mean of the mask video's latent, not normalised.
    objects : Tensor, shape (t, h, w), or None
        1 in cells where anything is that any sentence of the video means, if it was read.
    meant : Tensor, shape (t, h, w), or None
        1 in cells where what this sentence means is, if `objects` was read.
    """

    number: int
    text: str
    moments: torch.Tensor
    target: torch.Tensor
    objects: torch.Tensor | None = None
    meant: torch.Tensor | None = None


class ClipEncoder:
    """The VAE's frozen encoder.

    Parameters
    ----------
    vae : AutoencoderKLWan
        Stays where it is; its encoder is used and not changed.
    mixed : bool
        Compute in 16 bits, weights in 32.
    """

    def __init__(self, vae: AutoencoderKLWan, *, mixed: bool = False) -> None:
        self.vae, self.mixed = vae, mixed

    def latent(self, clip: npt.NDArray[Any]) -> torch.Tensor:
        """Return a clip's moments, or the mean of masks: see `encode_latent`."""
        return encode_latent(self.vae, clip, mixed=self.mixed)

    def latents(
        self, wanted: Iterable[Wanted], cancel: CancelToken | None = None
    ) -> Generator[dict[str, torch.Tensor], None, None]:
        """Yield the latents of clips and masks by key, in order."""
        for each in wanted:
            yield {key: self.latent(read()) for key, read in each.items()}

    def encode(self, sample: Sample) -> EncodedSample:
        """Return a sample as latents."""
        target, objects = self.latent(sample.mask), sample.objects
        cells = meant = None
        if objects is not None:
            cells, meant = mask_cells(objects, target), mask_cells(sample.mask, target)
        moments = self.latent(sample.video)
        return EncodedSample(sample.number, sample.text, moments, target, cells, meant)


class LatentCache:
    """Tensors on disk by key, a small safetensors file each.

    Parameters
    ----------
    folder : Path
        Of one VAE and number format alone; created when something is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        """Return the file of a key."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def get(self, key: str) -> torch.Tensor | None:
        """Return what is kept, or None; a damaged file is as good as none."""
        try:
            with safe_open(self.path(key), framework="pt") as file:
                return file.get_tensor("latent")
        except (OSError, SafetensorError, ValueError):
            return None

    def put(self, key: str, latent: torch.Tensor) -> None:
        """Keep a tensor.

        Raises
        ------
        StorageError
            The disk is full or cannot be written to.
        """
        path = self.path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path, durable=False) as part:
                save_file({"latent": latent.detach().cpu().contiguous()}, part)
        except SafetensorError as error:
            raise StorageError(f"Cannot write {path}: {error}; free some space there.") from None


class MemoryCache:
    """Tensors by key in memory; what was not asked for longest goes first.

    Parameters
    ----------
    limit : int
        Bytes that it may take.
    """

    def __init__(self, limit: int = 2**30) -> None:
        self._limit, self._size = limit, 0
        self._kept: dict[str, torch.Tensor] = {}

    def get(self, key: str) -> torch.Tensor | None:
        """Return what is kept, or None."""
        latent = self._kept.pop(key, None)
        if latent is not None:
            self._kept[key] = latent  # the last one now
        return latent

    def put(self, key: str, latent: torch.Tensor) -> None:
        """Keep a tensor."""
        if (former := self._kept.pop(key, None)) is not None:
            self._size -= former.nbytes
        self._kept[key] = latent
        self._size += latent.nbytes
        while self._size > self._limit:
            self._size -= self._kept.pop(next(iter(self._kept))).nbytes


class CachedData:
    """`TrainingData` whose samples come encoded where they are in the cache.

    Parameters
    ----------
    data : TrainingData
        With ``settings.variants`` above 0: its clips come back.
    cache : LatentCache or MemoryCache
    encoder : ClipEncoder, optional
        Encodes and keeps what is not there yet.
    """

    def __init__(
        self,
        data: TrainingData,
        cache: LatentCache | MemoryCache,
        encoder: ClipEncoder | None = None,
    ) -> None:
        self.data = data
        self.cache = cache
        self.encoder = encoder

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, number: int) -> EncodedSample | Sample:
        for draw in self.data.candidates(number):
            # The latent of an empty mask does not look empty.
            if self.data.settings.no_target or read_mask(draw).any():
                return self._encoded(number, draw) or self.data[number]
        return self.data[number]

    def _encoded(self, number: int, draw: Draw) -> EncodedSample | None:
        target = self.cache.get(draw.target_key)
        if target is None and self.encoder is not None:
            target = self.encoder.latent(read_mask(draw))
            self.cache.put(draw.target_key, target)
        moments = self.cache.get(draw.clip_key) if target is not None else None
        if moments is None and self.encoder is not None:
            moments = self.encoder.latent(read_video(draw))
            self.cache.put(draw.clip_key, moments)
        if target is None or moments is None:
            return None
        cells = meant = None
        if self.data.settings.objects:
            cells = self._cells(f"{draw.clip_key}-objects", lambda: read_objects(draw), target)
            meant = self._cells(f"{draw.target_key}-cells", lambda: read_mask(draw), target)
        return EncodedSample(number, draw.text, moments, target, cells, meant)

    def _cells(
        self, key: str, read: Callable[[], npt.NDArray[np.bool_]], latent: torch.Tensor
    ) -> torch.Tensor:
        cells = self.cache.get(key)
        if cells is None:
            cells = mask_cells(read(), latent)
            self.cache.put(key, cells)
        return cells


def needed_draws(
    data: TrainingData, samples: int, rank: int = 0, processes: int = 1
) -> tuple[Iterator[Draw], int]:
    """Return one process's share of what a training will ask for, and how many that are.

    Parameters
    ----------
    data : TrainingData
        With ``settings.variants`` above 0.
    samples : int
        Samples of the whole training.
    rank, processes : int
        Which process this is, and of how many.
    """
    every = sum(e.variants * len(e.rows) for e in data.entries if e.count)

    def all_that_can_be() -> Iterator[Draw]:
        for draw in islice(data.variant_draws(), rank, None, processes):
            if data.settings.no_target or read_mask(draw).any():
                yield draw

    def by_number() -> Iterator[Draw]:
        for number in range(rank, samples, processes):
            for draw in data.candidates(number):
                if data.settings.no_target or read_mask(draw).any():
                    yield draw
                    break

    if every <= samples:
        return all_that_can_be(), len(range(rank, every, processes))
    return by_number(), len(range(rank, samples, processes))


def fill_cache(
    draws: Iterable[Draw],
    total: int,
    cache: LatentCache,
    encoder: ClipEncoder | EncodeCluster,
    *,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> int:
    """Encode what is not in the cache yet; may be stopped and started again.

    Parameters
    ----------
    draws : iterable of Draw
    total : int
        How many they are at most.
    cache : LatentCache
    encoder : ClipEncoder or EncodeCluster
        A cluster encodes several clips at once, which are read here and sent.
    progress : callable, optional
        Receives a `Progress` after every clip.
    cancel : CancelToken, optional
        Checked before every clip.

    Returns
    -------
    int
        How many files were written.

    Raises
    ------
    StorageError
        The disk has no room.
    """
    clock = ProgressClock(total)
    written = 0

    def missing() -> Iterator[Wanted]:
        asked: set[str] = set()
        for draw in draws:
            if cancel is not None:
                cancel.raise_if_cancelled()
            both = {draw.clip_key: read_video, draw.target_key: read_mask}
            wanted = {
                key: partial(read, draw)
                for key, read in both.items()
                if key not in asked and not cache.path(key).is_file()
            }
            asked |= wanted.keys()
            if wanted:
                yield wanted
            else:
                count()

    def count() -> None:
        event = clock.advance("encoding clips")
        if progress is not None:
            progress(event)

    found = encoder.latents(missing(), cancel)
    with closing(found):
        for latents in found:
            if free_bytes(cache.folder) < 2**26:
                raise StorageError(
                    f"The disk is full at {cache.folder}; free some space, run again."
                )
            for key, latent in latents.items():
                cache.put(key, latent)
            written += len(latents)
            count()
    return written
