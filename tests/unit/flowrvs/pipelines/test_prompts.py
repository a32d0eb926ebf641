"""Sentences: the encoder is loaded for new ones alone; options of the box and the clamp."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import UMT5EncoderModel

from flowrvs.checkpoints.files import fingerprint
from flowrvs.errors import CheckpointError, InputError
from flowrvs.pipelines import load
from flowrvs.pipelines.prompts import EmbeddingCache, cache_home
from flowrvs.pipelines.stages import prefetch
from tests.fixtures.micro import micro_pipeline

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model's folder, and a home of its own for what is kept."""
    monkeypatch.setenv("FLOWRVS_HOME", str(tmp_path / "home"))
    pipe = micro_pipeline(seed=3)
    pipe.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was loaded as a text encoder."""
    seen: list[str] = []
    stock = UMT5EncoderModel.from_pretrained

    def count(path: object, **more: object) -> object:
        seen.append(str(path))
        return stock(path, **more)

    monkeypatch.setattr(UMT5EncoderModel, "from_pretrained", count)
    return seen


def test_the_encoder_is_loaded_for_new_sentences_alone(folder: Path, loads: list[str]) -> None:
    pipe = load(folder, device="cpu")
    assert not loads and pipe.text_encoder is None
    first = pipe.encode_prompt(["a red circle", "a cross"])
    assert len(loads) == 1
    again = pipe.encode_prompt(["a cross"])
    assert len(loads) == 1

    other = load(folder, device="cpu")  # another session
    kept = other.encode_prompt(["a cross", "a red circle"])
    assert len(loads) == 1
    torch.testing.assert_close(kept.flip(0), first, rtol=0, atol=0)
    torch.testing.assert_close(again[0], first[1], rtol=0, atol=0)
    other.encode_prompt(["a cross", "a blue square"])
    assert len(loads) == 2


def test_embeddings_are_the_encoders(folder: Path) -> None:
    stock = micro_pipeline(seed=3)
    texts = ["the red circle", "x"]
    ids = stock.tokenizer(texts, padding="max_length", max_length=12, return_tensors="pt")
    with torch.no_grad():
        hidden = stock.text_encoder(ids.input_ids, ids.attention_mask).last_hidden_state
    torch.testing.assert_close(
        load(folder, device="cpu").encode_prompt(texts), hidden * ids.attention_mask[..., None]
    )


def test_a_loaded_model_is_saved_with_its_encoder(folder: Path, tmp_path: Path) -> None:
    first = load(folder, device="cpu")
    first.save_pretrained(tmp_path / "copy")
    assert first.text_encoder is None
    torch.testing.assert_close(
        load(tmp_path / "copy", device="cpu").encode_prompt(["a cross"]),
        first.encode_prompt(["a cross"]),
    )


def test_another_encoder_has_embeddings_of_its_own(folder: Path, loads: list[str]) -> None:
    load(folder, device="cpu").encode_prompt(["a cross"])
    micro_pipeline(seed=4).text_encoder.save_pretrained(folder / "text_encoder")
    load(folder, device="cpu").encode_prompt(["a cross"])
    assert len(loads) == 2


def test_other_weights_under_the_same_name_are_another_model(folder: Path) -> None:
    first = load(folder, device="cpu")
    assert load(folder, device="cpu").weights == first.weights
    micro_pipeline(seed=5).vae.save_pretrained(folder / "vae")
    other = load(folder, device="cpu")
    assert other.name == first.name and other.weights != first.weights


def test_eight_bits_change_embeddings_little(folder: Path, loads: list[str]) -> None:
    full = load(folder, device="cpu").encode_prompt(["the red circle"])[0]
    small = load(folder, device="cpu", text_precision="float8").encode_prompt(["the red circle"])
    assert len(loads) == 2  # not taken from the other's embeddings
    assert not torch.equal(full, small[0])
    filled = full.abs().sum(-1) > 0
    likeness = torch.cosine_similarity(full[filled], small[0][filled], dim=-1)
    assert likeness.min() > 0.98


def test_a_damaged_encoder_is_told_when_it_is_needed(folder: Path) -> None:
    weights = folder / "text_encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    pipe = load(folder, device="cpu")
    with pytest.raises(CheckpointError, match=r"text encoder in .* cannot be loaded") as caught:
        pipe.encode_prompt(["a cross"])
    assert "\n" not in str(caught.value)


class TestCache:
    def test_what_is_kept_comes_back(self, tmp_path: Path) -> None:
        cache = EmbeddingCache(tmp_path / "cache")
        assert cache.get("a") is None
        embedding = torch.randn(3, 8).bfloat16()
        cache.put("a", embedding)
        torch.testing.assert_close(cache.get("a"), embedding, rtol=0, atol=0)
        assert cache.get("b") is None
        assert not list(tmp_path.rglob("*.partial"))

    @pytest.mark.parametrize("damage", [b"", b"nonsense", None])
    def test_a_damaged_file_is_only_forgotten(self, tmp_path: Path, damage: bytes | None) -> None:
        cache = EmbeddingCache(tmp_path)
        cache.put("a", torch.ones(2, 4))
        (file,) = tmp_path.iterdir()
        file.write_bytes(file.read_bytes()[:-3] if damage is None else damage)
        assert cache.get("a") is None
        cache.put("a", torch.ones(2, 4))
        assert cache.get("a") is not None

    def test_a_file_under_another_sentences_name_is_not_believed(self, tmp_path: Path) -> None:
        cache = EmbeddingCache(tmp_path)
        cache.put("a", torch.ones(2, 4))
        (file,) = tmp_path.iterdir()
        file.rename(cache._path("b"))
        assert cache.get("b") is None

    @pytest.mark.parametrize("about", [None, {}, {"other": "a"}])
    def test_a_file_that_does_not_say_its_sentence_is_not_believed(
        self, tmp_path: Path, about: dict[str, str] | None
    ) -> None:
        cache = EmbeddingCache(tmp_path)
        save_file({"embedding": torch.ones(2, 4)}, cache._path("a"), about)
        assert cache.get("a") is None
        save_file({"embedding": torch.ones(2, 4)}, cache._path("a"), {"text": "a"})
        assert cache.get("a") is not None

    def test_a_full_or_missing_disk_is_no_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        cache = EmbeddingCache(tmp_path / "file" / "cache")
        cache.put("a", torch.ones(2, 4))
        assert cache.get("a") is None

    def test_it_does_not_grow_for_ever(self, tmp_path: Path) -> None:
        cache = EmbeddingCache(tmp_path, limit=5000)
        for index in range(10):
            cache.put(str(index), torch.ones(10, 32))
            os.utime(cache._path(str(index)), (index, index))
        cache.get("6")  # what is used stays
        cache.put("last", torch.ones(10, 32))
        kept = [str(i) for i in range(10) if cache.get(str(i)) is not None]
        assert cache.get("last") is not None
        assert kept == ["6", "8", "9"]

    def test_home_and_fingerprint(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FLOWRVS_HOME", str(tmp_path))
        assert cache_home() == tmp_path / "cache"
        monkeypatch.delenv("FLOWRVS_HOME")
        assert "flowrvs" in str(cache_home())
        a, b = tmp_path / "a", tmp_path / "b"
        for place in (a, b):
            place.mkdir()
            (place / "weights").write_bytes(bytes(9 * 2**20))
        assert fingerprint(a) == fingerprint(b)
        (b / "weights").write_bytes(bytes(9 * 2**20 - 1) + b"\1")
        assert fingerprint(a) != fingerprint(b)


class TestPrefetch:
    def test_items_come_in_order_and_ahead(self) -> None:
        made: list[int] = []

        def items() -> Iterator[int]:
            for index in range(5):
                made.append(index)
                yield index

        ahead = prefetch(items(), depth=2)
        assert next(ahead) == 0
        deadline = time.monotonic() + 5
        while len(made) < 3 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert made == [0, 1, 2]
        assert list(ahead) == [1, 2, 3, 4]

    def test_errors_come_through_and_closing_stops(self) -> None:
        def items() -> Iterator[int]:
            yield 1
            raise ValueError("broken")

        ahead = prefetch(items())
        assert next(ahead) == 1
        with pytest.raises(ValueError, match="broken"):
            next(ahead)
        endless = prefetch(iter(int, 1))
        next(endless)
        endless.close()


def test_the_portrait_box_is_an_option() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (1, 90, 60, 3), np.uint8)
    pipe = micro_pipeline()
    assert pipe.encode_video(frames).geometry.model_height == 32  # as the published code does
    pipe.portrait_box = True
    geometry = pipe.encode_video(frames).geometry
    assert (geometry.model_height, geometry.model_width) == (48, 32)
    assert load("tiny", device="cpu", portrait_box=True).name == "tiny+portrait"


def test_the_clamp_is_an_option() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 48, 3), np.uint8)
    pipe = micro_pipeline()
    with torch.no_grad():
        pipe.vae.decoder.conv_out.weight.mul_(100)
    clamped = pipe(frames, "x").logits
    pipe.clamp = False
    free = pipe(frames, "x").logits
    assert np.abs(clamped).max() == 1 and np.abs(free).max() > 1.5
    np.testing.assert_allclose(free.clip(-1, 1), clamped, atol=1e-5)


@pytest.mark.parametrize(
    "kept",
    [
        torch.zeros(99, 32),
        torch.zeros(32),
        torch.zeros(3, 32, dtype=torch.int32),
        torch.full((3, 32), torch.nan),
    ],
)
def test_what_cannot_be_an_embedding_is_computed_again(
    folder: Path, loads: list[str], kept: torch.Tensor
) -> None:
    wanted = load(folder, device="cpu").encode_prompt("a cross")
    (path,) = (cache_home() / "embeddings").rglob("*.safetensors")
    EmbeddingCache(path.parent).put("a cross", kept)
    torch.testing.assert_close(load(folder, device="cpu").encode_prompt("a cross"), wanted)
    assert len(loads) == 2


def test_missing_weights_are_named(folder: Path) -> None:
    path = folder / "transformer" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "num_layers": config["num_layers"] + 1}))
    with pytest.raises(CheckpointError, match=r"transformer lacks the weights blocks\.\d"):
        load(folder, device="cpu")


def test_damaged_weights_are_no_empty_masks(folder: Path) -> None:
    pipe = load(folder, device="cpu")
    next(pipe.transformer.parameters()).data.fill_(torch.nan)
    with pytest.raises(CheckpointError, match="its weights are damaged"):
        pipe(np.zeros((1, 32, 32, 3), np.uint8), "a cross")


@pytest.mark.parametrize(
    ("options", "name", "text"),
    [
        ({}, "model", "float32"),
        ({"dtype": "bfloat16"}, "model+bfloat16", "bfloat16"),
        ({"dtype": "bfloat16", "fast": True}, "model+bfloat16+fast", "bfloat16"),
        # umt5 overflows in float16.
        ({"dtype": "float16", "text_precision": "float8"}, "model+float16+float8", "float32"),
        ({"portrait_box": True}, "model+portrait", "float32"),
        ({"clamp": False}, "model", "float32"),
    ],
)
def test_what_is_asked_for_is_loaded_and_named_where_it_changes_masks(
    folder: Path, options: dict, name: str, text: str
) -> None:
    pipe = load(folder, device="cpu", **options)
    assert pipe.name == name
    assert (pipe.portrait_box, pipe.clamp) == (
        options.get("portrait_box", False),
        options.get("clamp", True),
    )
    number = getattr(torch, options.get("dtype", "float32"))
    parts = (pipe.transformer, pipe.vae)
    assert {p.dtype for part in parts for p in part.parameters()} == {number}
    assert not any(p.requires_grad for part in parts for p in part.parameters())
    assert not any(module.training for part in parts for module in part.modules())
    assert pipe.locator is None and pipe.memory_mode == "full"
    # Exactly as published: one latent frame at a time.
    exact = "dtype" in options and not options.get("fast")
    assert pipe.latent_group == (1 if exact else 4)
    assert pipe.prompts is not None and pipe.text_encoder is None
    encoder = pipe.prompts.load_encoder()
    norms = [p for n, p in encoder.named_parameters() if "layer_norm" in n]
    assert {p.dtype for p in norms} == {getattr(torch, text)}
    small = "text_precision" in options
    assert (encoder.encoder.block[0].layer[0].SelfAttention.q.weight.itemsize == 1) == small


def test_no_sentence_is_one_line(folder: Path) -> None:
    with pytest.raises(InputError, match="no sentence"):
        load(folder, device="cpu").encode_prompt([])


def test_the_encoder_goes_where_there_is_room_for_it_and_is_let_go(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flowrvs.pipelines import prompts

    source = prompts.EncoderSource(folder / "text_encoder", torch.float32)
    stored = sum(p.stat().st_size for p in (folder / "text_encoder").glob("*.safetensors"))
    assert source.size == stored
    small = prompts.EncoderSource(folder / "text_encoder", torch.float32, float8=True)
    assert small.size == stored * 2 // 3
    tokenizer = micro_pipeline().tokenizer
    moved: list[torch.device] = []
    released: list[torch.device] = []
    monkeypatch.setattr(UMT5EncoderModel, "to", lambda self, d: moved.append(d))
    monkeypatch.setattr(prompts, "release", released.append)
    for room, moves in ((stored + 2**30, 0), (stored + 2**30 + 1, 1), (None, 1), (0, 0)):
        monkeypatch.setattr(prompts, "free_memory", lambda device, room=room: room)
        moved.clear()
        encoder = prompts.PromptEncoder(tokenizer, source, length=12)
        assert encoder.encode(["a cross"], CPU).shape == (1, 12, 16)
        assert moved == [CPU] * moves
    assert released == []
    monkeypatch.setattr(prompts, "_LARGE", stored)
    prompts.PromptEncoder(tokenizer, source, length=12).encode(["a cross"], CPU)
    assert released == []
    monkeypatch.setattr(prompts, "_LARGE", stored - 1)
    prompts.PromptEncoder(tokenizer, source, length=12).encode(["a cross"], CPU)
    assert released == [CPU]


def test_the_cache_takes_its_limit_and_the_newest_files(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    cache.put("0", torch.ones(10, 32))
    size = cache._path("0").stat().st_size
    for limit, kept in ((2 * size, 2), (2 * size + 1, 3), (3 * size, 3)):
        folder = tmp_path / str(limit)
        cache = EmbeddingCache(folder, limit=limit)
        for n in range(5):
            cache.put(str(n), torch.ones(10, 32))
            os.utime(cache._path(str(n)), (n, n))
        left = [n for n in range(5) if cache._path(str(n)).exists()]
        assert left == list(range(5))[-kept:]


def test_sentences_are_lowered_cleaned_cut_and_padded() -> None:
    from flowrvs.pipelines.prompts import PromptEncoder

    pipe = micro_pipeline()
    low = PromptEncoder(pipe.tokenizer, pipe.text_encoder, length=5, lower_case=True)
    plain = PromptEncoder(pipe.tokenizer, pipe.text_encoder, length=5)
    texts = ["the RED  circle", "the red circle", "x", "the red circle moving left and right"]
    rows = low.encode(texts, CPU)
    assert rows.shape == (4, 5, 16) and torch.equal(rows[0], rows[1])
    assert not torch.equal(plain.encode(texts, CPU)[0], rows[0])
    lengths = [int((row.abs().sum(-1) > 0).sum()) for row in rows]
    assert lengths[0] == 4 and lengths[3] == 5 and len(low.embed("the red circle")) == 4
    torch.testing.assert_close(low.embed("the red circle"), rows[0, :4])
    for blank in ("", " \n", '"', "&quot;"):
        with pytest.raises(InputError) as caught:
            low.encode(["x", blank], CPU)
        assert str(caught.value) == f"The sentence {blank!r} is empty; type what to look for."


@pytest.mark.parametrize("wanted", [False, True])
def test_blocks_are_compiled_on_request(
    folder: Path, monkeypatch: pytest.MonkeyPatch, wanted: bool
) -> None:
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    pipe = load(folder, device="cpu", compile=wanted)
    assert compiled == (list(pipe.transformer.blocks) if wanted else [])
