"""Encoding a training's clips and sentences on the workers of a cluster: both ends of it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flowrvs.checkpoints import locate
from flowrvs.errors import ClusterError, FlowRVSError
from flowrvs.inference.cluster.dispatch import Session
from flowrvs.inference.cluster.link import Scheduler
from flowrvs.inference.cluster.wire import (
    FOREIGN,
    Packer,
    masks_of,
    pack,
    pack_frames,
    unpack_frames,
)
from flowrvs.progress import CancelToken

if TYPE_CHECKING:
    import torch

    from flowrvs.pipelines.latents import FrozenEncoders

__all__ = ["EncodeCluster", "Wanted", "encode"]

#: Keys of latents, and what reads a clip, uint8 (T, H, W, 3), or masks, bool (T, H, W).
Wanted = Mapping[str, Callable[[], npt.NDArray[Any]]]
_SENTENCES = 16  # that a task has


@dataclass(frozen=True, slots=True)
class _Task:
    names: Sequence[str]  # of the tensors that are asked for
    make: Callable[[], bytes]
    about: str

    def message(self, *, send_frames: bool) -> bytes:
        return self.make()


class EncodeCluster:
    """Encodes clips and sentences for a training, to the bit as on equal hardware here.

    Parameters
    ----------
    scheduler : Scheduler or str
        Where it is; a string is checked by `Scheduler.at`.
    model : str or path-like
        As the workers know it, too; their weights must be those that are here.
    dtype : torch.dtype
        Of the weights.
    mixed : bool
        Compute latents in 16 bits.

    Raises
    ------
    InputError, MissingExtraError, MissingPathError
        As for `Scheduler.at` and `flowrvs.checkpoints.locate`.
    """

    def __init__(
        self,
        scheduler: Scheduler | str,
        model: str | Path,
        dtype: torch.dtype,
        *,
        mixed: bool = False,
    ) -> None:
        from flowrvs.pipelines.latents import encoder_prints

        folder = locate(model)
        self._dtype = dtype
        about = {
            "model": str(folder.resolve()) if Path(model).is_dir() else str(model),
            "dtype": str(dtype).removeprefix("torch."),
            "mixed": mixed,
            "expect": encoder_prints(folder),
        }
        self._session = Session(scheduler, about)

    def latents(
        self, wanted: Iterable[Wanted], cancel: CancelToken | None = None
    ) -> Generator[dict[str, torch.Tensor], None, None]:
        """Yield latents by key, in order: see `flowrvs.training.encoded.ClipEncoder`."""

        def message(each: Wanted) -> bytes:
            arrays = [read() for read in each.values()]
            blobs = [pack_frames(a) if a.ndim == 4 else _pack_masks(a) for a in arrays]
            return pack(
                self._session.header("encode") | {"shapes": [a.shape for a in arrays]}, blobs
            )

        tasks = (_Task([*w], partial(message, w), "the latents of a clip") for w in wanted)
        return self._run(tasks, 4, cancel)

    def embed(
        self,
        texts: Sequence[str],
        length: int,
        lower_case: bool,
        cancel: CancelToken | None = None,
    ) -> Iterator[torch.Tensor]:
        """Yield the embeddings of different sentences, (tokens, d_model), without padding."""

        def message(part: Sequence[str]) -> bytes:
            header = {"texts": part, "length": length, "lower_case": lower_case}
            return pack(self._session.header("encode") | header)

        parts = [texts[at : at + _SENTENCES] for at in range(0, len(texts), _SENTENCES)]
        tasks = (_Task(p, partial(message, p), "the embeddings of sentences") for p in parts)
        for found in self._run(tasks, 2, cancel):
            yield from found.values()

    def _run(
        self, tasks: Iterable[_Task], ndim: int, cancel: CancelToken | None
    ) -> Generator[dict[str, torch.Tensor], None, None]:
        """Yield the tensors of every answer, which are of the kind that was asked for."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        with self._session.dispatcher(cancel or CancelToken()) as dispatcher:
            for task, reply in dispatcher.results(tasks):
                if isinstance(reply, FlowRVSError):
                    raise reply
                try:
                    found = load(bytes(reply[1][0]))
                    tensors = [found[str(place)] for place in range(len(task.names))]
                except (IndexError, SafetensorError, ValueError, KeyError):
                    raise ClusterError(FOREIGN) from None
                if not all(
                    t.ndim == ndim and t.dtype == self._dtype and bool(t.isfinite().all())
                    for t in tensors
                ):
                    raise ClusterError(FOREIGN)
                yield dict(zip(task.names, tensors, strict=True))


def _pack_masks(masks: npt.NDArray[np.bool_]) -> bytes:
    packer = Packer()
    packer.masks(masks)
    return packer.end()


def encode(encoders: FrozenEncoders, header: Mapping[str, Any], blobs: list[memoryview]) -> bytes:
    """Answer a client on a worker."""
    from safetensors.torch import save

    if "texts" in header:
        found = encoders.embed(header["texts"], header["length"], header["lower_case"])
    else:
        found = []
        for shape, blob in zip(header["shapes"], blobs, strict=True):
            if len(shape) == 4:
                found.append(encoders.latent(unpack_frames(blob, tuple(shape))))
            else:
                found.append(encoders.latent(np.concatenate([*masks_of(blob, tuple(shape))])))
    named = {str(place): t.cpu().contiguous() for place, t in enumerate(found)}
    return pack({"state": "done"}, [save(named)])
