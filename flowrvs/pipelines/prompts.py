"""From sentences to embeddings, loading the text encoder only for a sentence that is new.

The production encoder takes 11 GB, an embedding about 150 kB: embeddings are kept on disk,
filed under the encoder that made them and found by the cleaned sentence.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import torch
from diffusers.hooks import apply_layerwise_casting
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import T5TokenizerFast, UMT5EncoderModel

from flowrvs.disk import replacing
from flowrvs.errors import CheckpointError, DeviceMemoryError, InputError
from flowrvs.models.devices import free_memory, memory_guard, release, silent_libraries
from flowrvs.models.text import clean_prompt, embed_tokens, tokenize

__all__ = ["EmbeddingCache", "EncoderSource", "PromptEncoder", "cache_home"]

#: What a pass over 256 tokens needs beside the weights.
_ROOM = 2**30
_LARGE = 2**27


@dataclass(frozen=True, slots=True)
class EncoderSource:
    """Where a text encoder is loaded from when a sentence needs it.

    Attributes
    ----------
    folder : Path
        In transformers layout.
    dtype : torch.dtype
        What it computes in.
    float8 : bool
        Keep most of its weights in 8 bits (float8_e4m3fn): two thirds of bfloat16's memory.
    """

    folder: Path
    dtype: torch.dtype
    float8: bool = False

    @property
    def size(self) -> int:
        """Bytes of its weights as they will be kept in memory."""
        stored = sum(path.stat().st_size for path in self.folder.glob("*.safetensors"))
        return stored * 2 // 3 if self.float8 else stored

    def load(self) -> UMT5EncoderModel:
        """Load it, on the CPU.

        Raises
        ------
        CheckpointError
            Its files are damaged or missing.
        DeviceMemoryError
            The computer's memory is too small.
        """
        try:
            with silent_libraries():
                encoder = UMT5EncoderModel.from_pretrained(
                    self.folder, dtype=self.dtype, local_files_only=True, use_safetensors=True
                )
        except MemoryError as error:
            raise DeviceMemoryError(
                f"The memory is too small for the text encoder in {self.folder}; load it with "
                "text_precision='float8'."
            ) from error
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise CheckpointError(
                f"The text encoder in {self.folder} cannot be loaded: {reason}; run 'flowrvs "
                "models verify' on the model."
            ) from error
        encoder.eval().requires_grad_(False)
        if self.float8:
            apply_layerwise_casting(
                encoder,
                storage_dtype=torch.float8_e4m3fn,
                compute_dtype=self.dtype,
                # transformers casts what goes into `wo` to the format of its weights.
                skip_modules_pattern=("norm", "shared", "embed", r"\.wo$"),
            )
        return encoder


def cache_home() -> Path:
    """Folder of what can be computed again: ``$FLOWRVS_HOME/cache``, or the user's cache."""
    home = os.environ.get("FLOWRVS_HOME")
    if home:
        return Path(home).expanduser() / "cache"
    return platformdirs.user_cache_path("flowrvs", appauthor=False)


class EmbeddingCache:
    """Embeddings of one encoder, a small safetensors file each.

    It may be shared by processes and deleted at any time; whatever is wrong with it, it
    only forgets.

    Parameters
    ----------
    folder : Path
        Of this encoder alone (`fingerprint`); created when something is kept.
    limit : int
        Bytes that it may take; what was not used for longest goes first.
    """

    def __init__(self, folder: Path, *, limit: int = 2**30) -> None:
        self.folder = folder
        self.limit = limit

    def get(self, text: str) -> torch.Tensor | None:
        """Return the embedding of a cleaned sentence, (tokens, d_model), or None."""
        path = self._path(text)
        try:
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get("text") != text:
                    return None
                embedding = file.get_tensor("embedding")
        except (OSError, SafetensorError, ValueError):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return embedding

    def put(self, text: str, embedding: torch.Tensor) -> None:
        """Keep the embedding of a cleaned sentence, without its padding."""
        with contextlib.suppress(OSError, SafetensorError):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._shrink()
            tensor = embedding.detach().cpu().contiguous().clone()
            with replacing(self._path(text), durable=False) as part:
                save_file({"embedding": tensor}, part, metadata={"text": text})

    def _path(self, text: str) -> Path:
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:40]}.safetensors"

    def _shrink(self) -> None:
        files = [(p, p.stat()) for p in self.folder.glob("*.safetensors")]
        total = sum(stat.st_size for _, stat in files)
        for path, stat in sorted(files, key=lambda item: item[1].st_mtime):
            if total < self.limit:
                return
            path.unlink(missing_ok=True)
            total -= stat.st_size


class PromptEncoder:
    """Embeds sentences: from memory, from disk, or with the encoder.

    Parameters
    ----------
    tokenizer : T5TokenizerFast
    encoder : UMT5EncoderModel or EncoderSource
        A module stays where it is; a source is loaded for the sentences that are new, and
        let go at once.
    length : int
        Tokens that a sentence is padded or cut to.
    lower_case : bool
        Lower-case sentences, for models whose vocabulary has no capitals.
    cache : EmbeddingCache, optional
        Keeps embeddings on disk.
    """

    def __init__(
        self,
        tokenizer: T5TokenizerFast,
        encoder: UMT5EncoderModel | EncoderSource,
        *,
        length: int,
        lower_case: bool = False,
        cache: EmbeddingCache | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._length = length
        self._lower_case = lower_case
        self._cache = cache
        self._known: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def encode(self, texts: Sequence[str], device: torch.device) -> torch.Tensor:
        """Embed sentences.

        Parameters
        ----------
        texts : sequence of str
        device : torch.device
            Where the encoder computes when it is loaded and there is room, and where the
            result will be.

        Returns
        -------
        Tensor, shape (N, length, d_model)
            Zero after each sentence's true length.

        Raises
        ------
        InputError
            A sentence is empty, or there is none.
        """
        if not texts:
            raise InputError("There is no sentence; type what to look for.")
        rows = self._rows(texts, device)
        out = rows[0].new_zeros(len(rows), self._length, rows[0].shape[-1])
        for row, embedding in zip(out, rows, strict=True):
            row[: len(embedding)] = embedding
        return out.to(device)

    @torch.no_grad()
    def embed(self, text: str) -> torch.Tensor:
        """Embed one sentence, where its encoder is: (tokens, d_model), without padding, on CPU."""
        return self._rows([text], torch.device("cpu"))[0]

    def _rows(self, texts: Sequence[str], device: torch.device) -> list[torch.Tensor]:
        cleaned = [clean_prompt(t.lower() if self._lower_case else t) for t in texts]
        for text, source in zip(cleaned, texts, strict=True):
            if not text.strip():
                raise InputError(f"The sentence {source!r} is empty; type what to look for.")
        new = []
        for text in dict.fromkeys(cleaned):
            if text not in self._known:
                kept = self._cache.get(text) if self._cache is not None else None
                if kept is None or not self._fits(kept):
                    new.append(text)
                else:
                    self._known[text] = kept
        if new:
            self._compute(new, device)
        return [self._known[text] for text in cleaned]

    def _fits(self, kept: torch.Tensor) -> bool:
        """Whether what the disk gave can be an embedding; the encoder is asked otherwise."""
        return (
            kept.ndim == 2
            and 1 <= len(kept) <= self._length
            and kept.is_floating_point()
            and bool(kept.isfinite().all())
        )

    def load_encoder(self) -> UMT5EncoderModel:
        """Return the encoder itself; a source is loaded, on the CPU."""
        source = self._encoder
        return source.load() if isinstance(source, EncoderSource) else source

    def _compute(self, texts: list[str], device: torch.device) -> None:
        tokens, mask = tokenize(self._tokenizer, texts, self._length)
        source = self._encoder
        if isinstance(source, EncoderSource):
            encoder = source.load()
            room = free_memory(device)
            if room is None or room > source.size + _ROOM:
                encoder.to(device)
        else:
            encoder = source
        with memory_guard("the sentence"):
            place = encoder.device
            # One at a time: a batch would round differently in the last bit, and the
            # same sentence should always have the same embedding.
            for text, ids, keep in zip(texts, tokens, mask, strict=True):
                embedded = embed_tokens(encoder, ids[None].to(place), keep[None].to(place))[0]
                embedding = embedded[: int(keep.sum())].cpu()
                self._known[text] = embedding
                if self._cache is not None:
                    self._cache.put(text, embedding)
        if isinstance(source, EncoderSource):
            del encoder
            if source.size > _LARGE:  # collecting takes longer than a small one is worth
                release(device)
