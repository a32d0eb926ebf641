"""The sentences of a training: embedded once, read back padded, or learned along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import UMT5EncoderModel

from flowrvs.checkpoints.files import fingerprint
from flowrvs.errors import Cancelled
from flowrvs.models.text import embed_tokens, tokenize
from flowrvs.pipelines.prompts import EmbeddingCache, EncoderSource
from flowrvs.progress import CancelToken, Progress
from flowrvs.training import sentences
from flowrvs.training.engine import make_accelerator
from flowrvs.training.sentences import (
    LearningTexts,
    SpokenTransformer,
    TextBank,
    learn_texts,
    open_texts,
)
from tests.fixtures.micro import micro_pipeline

CPU = torch.device("cpu")
LENGTH = 12


def embedded(pipeline: Any, text: str) -> torch.Tensor:
    """A cleaned sentence by hand, padded with zeros."""
    with torch.no_grad():
        tokens, mask = tokenize(pipeline.tokenizer, [text], LENGTH)
        return embed_tokens(pipeline.text_encoder, tokens, mask)[0]


def test_sentences_are_embedded_once_and_read_back_padded(tmp_path: Path) -> None:
    pipeline = micro_pipeline()
    cache = EmbeddingCache(tmp_path / "kept")
    bank = TextBank(pipeline.tokenizer, pipeline.text_encoder, cache, LENGTH, True)
    texts = ["The red  circle", "a big blue square", "the red circle"]
    events: list[Progress] = []
    bank.prepare(texts[:2], CPU, progress=events.append)
    assert [(e.done, e.total, e.message) for e in events] == [
        (1, 2, "embedding sentences"),
        (2, 2, "embedding sentences"),
    ]
    bank.prepare(texts, CPU, progress=events.append)
    assert len(events) == 2, "nothing is new: not even in other letters"
    kept = cache.get("the red circle")
    assert kept is not None and len(kept) == 4  # its tokens and the end
    expected = torch.stack([embedded(pipeline, t) for t in ("the red circle", "a big blue square")])
    found = bank.get(texts[:2], CPU, torch.float64)
    assert found.shape == (2, LENGTH, 16) and found.dtype == torch.float64
    torch.testing.assert_close(found, expected.double())
    conditions = bank.conditions(texts[:2], CPU, torch.float32)
    assert list(conditions) == ["encoder_hidden_states"]
    assert torch.equal(conditions["encoder_hidden_states"], found.float())
    # Somebody deletes the folder while it trains: what is asked for again is computed again.
    for path in cache.folder.iterdir():
        path.unlink()
    other = TextBank(pipeline.tokenizer, pipeline.text_encoder, cache, LENGTH, True)
    torch.testing.assert_close(other.get(texts[:1], CPU, torch.float32), expected[:1])
    assert cache.get("the red circle") is not None
    torch.testing.assert_close(bank.prompts.encode(texts[:1], CPU), expected[:1])


def test_capitals_are_kept_where_the_model_has_them(tmp_path: Path) -> None:
    pipeline = micro_pipeline()
    cache = EmbeddingCache(tmp_path)
    bank = TextBank(pipeline.tokenizer, pipeline.text_encoder, cache, LENGTH, False)
    bank.prepare(["The Red circle"], CPU)
    assert cache.get("The Red circle") is not None and cache.get("the red circle") is None
    assert not torch.equal(
        bank.get(["The Red circle"], CPU, torch.float32)[0], embedded(pipeline, "the red circle")
    )
    texts = LearningTexts(pipeline.tokenizer, pipeline.text_encoder, LENGTH, False)
    unknown = texts.conditions(["RED"], CPU, torch.float32)["tokens"]
    texts = LearningTexts(pipeline.tokenizer, pipeline.text_encoder, LENGTH, True)
    told = texts.conditions(["RED", "  the red &amp; blue"], CPU, torch.float32)
    tokens, mask = tokenize(pipeline.tokenizer, ["red", "the red & blue"], LENGTH)
    assert torch.equal(told["tokens"], tokens) and torch.equal(told["mask"], mask)
    assert told.keys() == {"tokens", "mask"} and not torch.equal(told["tokens"][:1], unknown)


def test_the_encoder_is_loaded_for_new_sentences_only_and_let_go(
    micro_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = micro_pipeline()
    source = EncoderSource(micro_model / "text_encoder", torch.float32)
    cache = EmbeddingCache(tmp_path / "kept")
    bank = TextBank(pipeline.tokenizer, source, cache, LENGTH, True)
    said: list[Any] = []
    load = EncoderSource.load
    monkeypatch.setattr(EncoderSource, "load", lambda self: said.append("load") or load(self))
    monkeypatch.setattr(sentences, "release", lambda device: said.append(device))
    bank.prepare(["the red circle", "a square"], CPU)
    assert said == ["load", CPU]
    bank.prepare(["the red circle"], CPU)
    assert said == ["load", CPU]
    torch.testing.assert_close(
        bank.get(["a square"], CPU, torch.float32)[0], embedded(pipeline, "a square")
    )
    assert said == ["load", CPU]
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        bank.prepare(["a circle"], CPU, cancel=cancel)
    assert cache.get("a circle") is None


def test_the_encoder_goes_where_there_is_room(
    micro_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = EncoderSource(micro_model / "text_encoder", torch.float32)
    meta, moved = torch.device("meta"), []
    monkeypatch.setattr(sentences, "release", lambda device: None)
    monkeypatch.setattr(UMT5EncoderModel, "to", lambda self, place: moved.append(place) or self)
    for number, (room, goes) in enumerate(
        ((None, True), (source.size + 2**30 + 1, True), (source.size + 2**30, False))
    ):
        monkeypatch.setattr(sentences, "free_memory", lambda device, room=room: room)
        cache = EmbeddingCache(tmp_path / str(number))
        TextBank(micro_pipeline().tokenizer, source, cache, LENGTH, True).prepare(["red"], meta)
        assert moved == [meta] * goes
        moved.clear()


def test_a_cluster_embeds_each_sentence_once(tmp_path: Path) -> None:
    class Cluster:
        def embed(self, texts: list[str], length: int, lower: bool, cancel: Any) -> list[Any]:
            asked.append((texts, length, lower, cancel))
            return [torch.full((2, 16), float(n)) for n in range(len(texts))]

    asked: list[Any] = []
    cache, cancel = EmbeddingCache(tmp_path), CancelToken()
    bank = TextBank(micro_pipeline().tokenizer, None, cache, LENGTH, True)  # type: ignore[arg-type]
    texts = ["A square", "a  square", "a circle"]
    bank.prepare(texts, CPU, cancel=cancel, cluster=Cluster())  # type: ignore[arg-type]
    assert asked == [(["a  square", "a circle"], LENGTH, True, cancel)]
    found = bank.get(texts, CPU, torch.float32)
    assert found[:, 0, 0].tolist() == [0.0, 0.0, 1.0] and found[:, 2:].abs().max() == 0


def test_a_training_keeps_its_embeddings_by_encoder_format_and_length(
    micro_model: Path, tmp_path: Path
) -> None:
    pipeline = micro_pipeline()
    cpu = make_accelerator("float32", "cpu")
    texts, events = ["the red circle"], list[Progress]()
    bank = open_texts(
        micro_model, pipeline, tmp_path, torch.float32, texts, cpu, progress=events.append
    )
    (folder,) = tmp_path.iterdir()
    key = fingerprint(micro_model / "text_encoder", micro_model / "tokenizer")
    assert folder.name == f"embeddings-{key}-float32-12"
    assert len(list(folder.iterdir())) == len(events) == 1
    assert pipeline.prompts is bank.prompts
    prompts = bank.prompts
    bank.refresh(pipeline)
    assert pipeline.prompts is prompts
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        open_texts(micro_model, pipeline, tmp_path, torch.float32, ["red"], cpu, None, cancel)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_new_words_begin_as_the_known_ones_are_spread(
    micro_model: Path, dtype: torch.dtype
) -> None:
    pipeline = micro_pipeline()
    before = EncoderSource(micro_model / "text_encoder", dtype).load()
    known = before.get_input_embeddings().weight.detach()
    texts = learn_texts(micro_model, pipeline, ["The red zebra", "a zebra &amp; an okapi"], dtype)
    names = texts.tokenizer.convert_ids_to_tokens(range(len(known), len(texts.tokenizer)))
    assert names == ["\u2581zebra", "\u2581&", "\u2581a", "\u2581an", "\u2581okapi"]
    drawn = torch.randn(5, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    rows = texts.encoder.get_input_embeddings().weight
    assert torch.equal(rows[: len(known)], known)
    assert torch.equal(rows[len(known) :], known.mean(0) + known.std(0) * drawn)
    assert rows.dtype == dtype and all(p.requires_grad for p in texts.encoder.parameters())
    assert pipeline.text_encoder is texts.encoder and pipeline.tokenizer is texts.tokenizer
    # The pipeline embeds anew what the encoder has learned meanwhile.
    texts.refresh(pipeline)
    first = pipeline.prompts.encode(["The ZEBRA"], CPU)
    torch.testing.assert_close(first[0], embedded(pipeline, "the zebra"))
    assert first.shape == (1, LENGTH, 16)
    with torch.no_grad():
        rows += 1
    assert torch.equal(pipeline.prompts.encode(["The ZEBRA"], CPU), first)
    texts.refresh(pipeline)
    assert not torch.equal(pipeline.prompts.encode(["The ZEBRA"], CPU), first)
    same = learn_texts(micro_model, micro_pipeline(), ["the red circle"], dtype)
    assert len(same.encoder.get_input_embeddings().weight) == len(known)


def test_encoder_and_transformer_are_trained_as_one() -> None:
    pipeline = micro_pipeline()
    module = SpokenTransformer(pipeline.transformer, pipeline.text_encoder)
    assert module.transformer is pipeline.transformer
    assert module.text_encoder is pipeline.text_encoder
    tokens, mask = tokenize(pipeline.tokenizer, ["the red circle"], LENGTH)
    inputs = {
        "hidden_states": torch.randn(1, 16, 2, 4, 6),
        "timestep": torch.tensor([500.0]),
        "return_dict": False,
    }
    found = module(tokens=tokens, mask=mask, **inputs)[0]
    text = embed_tokens(pipeline.text_encoder, tokens, mask)
    torch.testing.assert_close(found, pipeline.transformer(encoder_hidden_states=text, **inputs)[0])
