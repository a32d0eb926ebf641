"""The sentences of a training: embedded once by a frozen encoder, or by one that learns, too."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import T5TokenizerFast, UMT5EncoderModel

from flowrvs.checkpoints.files import fingerprint
from flowrvs.inference.cluster.encode import EncodeCluster
from flowrvs.models.devices import free_memory, release
from flowrvs.models.text import add_words, clean_prompt, embed_tokens, tokenize
from flowrvs.pipelines import FlowRVSPipeline
from flowrvs.pipelines.prompts import EmbeddingCache, EncoderSource, PromptEncoder
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock

__all__ = ["LearningTexts", "SpokenTransformer", "TextBank", "learn_texts", "open_texts"]


class TextBank:
    """Embeddings of the sentences of a training, read from disk as they are needed.

    Parameters
    ----------
    tokenizer : T5TokenizerFast
    encoder : EncoderSource or UMT5EncoderModel
        Computes those that are not kept yet; a source is loaded once, for all of them.
    cache : EmbeddingCache
        Where they are kept.
    length : int
        Tokens that a sentence is padded to.
    lower_case : bool
        As in `PromptEncoder`.

    Attributes
    ----------
    prompts : PromptEncoder
        The same sentences for a pipeline.
    """

    def __init__(
        self,
        tokenizer: T5TokenizerFast,
        encoder: EncoderSource | UMT5EncoderModel,
        cache: EmbeddingCache,
        length: int,
        lower_case: bool,
    ) -> None:
        self._tokenizer, self._encoder, self._cache = tokenizer, encoder, cache
        self._length, self._lower_case = length, lower_case
        self.prompts = self._prompt_encoder(encoder)
        self._read = lru_cache(maxsize=1024)(self._read_one)

    def _prompt_encoder(self, encoder: EncoderSource | UMT5EncoderModel) -> PromptEncoder:
        return PromptEncoder(
            self._tokenizer,
            encoder,
            length=self._length,
            lower_case=self._lower_case,
            cache=self._cache,
        )

    def prepare(
        self,
        texts: list[str],
        device: torch.device,
        *,
        progress: ProgressCallback | None = None,
        cancel: CancelToken | None = None,
        cluster: EncodeCluster | None = None,
    ) -> None:
        """Embed the sentences that are new; the text encoder is loaded for those only."""
        new = [text for text in texts if self._cache.get(self._cleaned(text)) is None]
        if not new:
            return
        if cluster is not None:
            new = list({self._cleaned(text): text for text in new}.values())
            found = cluster.embed(new, self._length, self._lower_case, cancel)
            for text, embedding in zip(new, found, strict=True):
                self._cache.put(self._cleaned(text), embedding)
            return
        source, encoder = self._encoder, self._encoder
        if isinstance(source, EncoderSource):
            encoder = source.load()
            room = free_memory(device)
            if room is None or room > source.size + 2**30:
                encoder.to(device)
        clock = ProgressClock(len(new))
        for start in range(0, len(new), 256):
            prompts = self._prompt_encoder(encoder)  # each remembers what it computed
            for text in new[start : start + 256]:
                if cancel is not None:
                    cancel.raise_if_cancelled()
                prompts.encode([text], torch.device("cpu"))
                event = clock.advance("embedding sentences")
                if progress is not None:
                    progress(event)
        if isinstance(source, EncoderSource):
            del encoder, prompts
            release(device)

    def conditions(
        self, texts: list[str], device: torch.device, dtype: torch.dtype
    ) -> dict[str, torch.Tensor]:
        """Return what the transformer is told of sentences: their embeddings."""
        return {"encoder_hidden_states": self.get(texts, device, dtype)}

    def refresh(self, pipeline: FlowRVSPipeline) -> None:
        """Nothing to do: the embeddings of a frozen encoder do not change."""

    def get(self, texts: list[str], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """Return embeddings, (N, length, d_model), zero after each sentence's true length."""
        rows = [self._read(text) for text in texts]
        out = rows[0].new_zeros(len(rows), self._length, rows[0].shape[-1])
        for target, row in zip(out, rows, strict=True):
            target[: len(row)] = row
        return out.to(device, dtype)

    def _cleaned(self, text: str) -> str:
        return clean_prompt(text.lower() if self._lower_case else text)

    def _read_one(self, text: str) -> torch.Tensor:
        kept = self._cache.get(self._cleaned(text))
        if kept is None:  # somebody deletes the cache, or the disk is full
            kept = self.prompts.embed(text)
        return kept


class SpokenTransformer(torch.nn.Module):
    """Text encoder and transformer as the module that is trained: tokens in, velocity out."""

    def __init__(self, transformer: torch.nn.Module, text_encoder: UMT5EncoderModel) -> None:
        super().__init__()
        self.transformer = transformer
        self.text_encoder = text_encoder

    def forward(self, *, tokens: torch.Tensor, mask: torch.Tensor, **inputs: Any) -> Any:
        """Return what the transformer returns for `inputs` and the sentences."""
        embeddings = embed_tokens(self.text_encoder, tokens, mask)
        return self.transformer(encoder_hidden_states=embeddings, **inputs)


class LearningTexts:
    """Sentences as tokens, for an encoder that is trained along.

    Parameters
    ----------
    tokenizer : T5TokenizerFast
    encoder : UMT5EncoderModel
    length : int
        Tokens that a sentence is padded to.
    lower_case : bool
        As in `PromptEncoder`.
    """

    def __init__(
        self,
        tokenizer: T5TokenizerFast,
        encoder: UMT5EncoderModel,
        length: int,
        lower_case: bool,
    ) -> None:
        self.tokenizer, self.encoder = tokenizer, encoder
        self._length, self._lower_case = length, lower_case

    def conditions(
        self, texts: list[str], device: torch.device, dtype: torch.dtype
    ) -> dict[str, torch.Tensor]:
        """Return what a `SpokenTransformer` is told of sentences: their tokens."""
        cleaned = [clean_prompt(text.lower() if self._lower_case else text) for text in texts]
        tokens, mask = tokenize(self.tokenizer, cleaned, self._length)
        return {"tokens": tokens.to(device), "mask": mask.to(device)}

    def refresh(self, pipeline: FlowRVSPipeline) -> None:
        """Let a pipeline embed anew: it remembers embeddings, and the encoder has learned."""
        pipeline.prompts = PromptEncoder(
            self.tokenizer, self.encoder, length=self._length, lower_case=self._lower_case
        )


def learn_texts(
    base: Path, pipeline: FlowRVSPipeline, texts: list[str], dtype: torch.dtype
) -> LearningTexts:
    """Load a model's text encoder to be trained; new words get tokens and embeddings.

    Parameters
    ----------
    base : Path
        The model's folder, with the text encoder.
    pipeline : FlowRVSPipeline
        Gets the encoder, and the tokenizer with the new words.
    texts : list of str
        Every sentence of the training.
    dtype : torch.dtype
        Of the weights.
    """
    lower_case = bool(pipeline.config.lower_case)
    encoder = EncoderSource(base / "text_encoder", dtype).load()
    cleaned = [clean_prompt(text.lower() if lower_case else text) for text in texts]
    tokenizer, new = add_words(pipeline.tokenizer, cleaned)
    if new:
        known = encoder.get_input_embeddings().weight.detach().clone()
        encoder.resize_token_embeddings(len(known) + len(new), mean_resizing=False)
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn(len(new), known.shape[1], generator=generator).to(dtype)
        rows = encoder.get_input_embeddings().weight.data
        rows[len(known) :] = known.mean(0) + known.std(0) * drawn
    encoder.requires_grad_(True)
    pipeline.register_modules(text_encoder=encoder, tokenizer=tokenizer)
    length = int(pipeline.config.max_sequence_length)
    return LearningTexts(tokenizer, encoder, length, lower_case)


def open_texts(
    base: Path,
    pipeline: FlowRVSPipeline,
    folder: Path,
    dtype: torch.dtype,
    texts: list[str],
    accelerator: Accelerator,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    cluster: EncodeCluster | None = None,
) -> TextBank:
    """Embed the sentences that are new, and give the pipeline the encoder for its own use.

    Parameters
    ----------
    base : Path
        The model's folder, with the text encoder.
    pipeline : FlowRVSPipeline
    folder : Path
        Where embeddings are kept.
    dtype : torch.dtype
        What the encoder computes in.
    texts : list of str
    accelerator : Accelerator
        One process embeds, the others wait.
    progress, cancel
        See `flowrvs.progress`.
    cluster : EncodeCluster, optional
        Embeds instead of this process.
    """
    length = int(pipeline.config.max_sequence_length)
    lower_case = bool(pipeline.config.lower_case)
    encoder = base / "text_encoder"
    key = fingerprint(encoder, base / "tokenizer")
    kept = folder / f"embeddings-{key}-{str(dtype).removeprefix('torch.')}-{length}"
    cache = EmbeddingCache(kept, limit=2**42)
    bank = TextBank(pipeline.tokenizer, EncoderSource(encoder, dtype), cache, length, lower_case)
    pipeline.prompts = bank.prompts
    if accelerator.is_main_process:
        bank.prepare(texts, accelerator.device, progress=progress, cancel=cancel, cluster=cluster)
    accelerator.wait_for_everyone()
    return bank
