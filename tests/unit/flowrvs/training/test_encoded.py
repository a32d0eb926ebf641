"""Encoded clips: what is kept and for how long, what is encoded, and by whom."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flowrvs.errors import Cancelled, StorageError
from flowrvs.models.vae import mask_cells
from flowrvs.progress import CancelToken, Progress
from flowrvs.training import encoded
from flowrvs.training.clips import Box
from flowrvs.training.dataset import ClipSettings, Sample, TrainingData
from flowrvs.training.encoded import (
    CachedData,
    ClipEncoder,
    LatentCache,
    MemoryCache,
    fill_cache,
    needed_draws,
)
from flowrvs.training.sources import open_sources

SETTINGS = ClipSettings(frames=5, box=Box(32, 48, 16), seed=3, variants=2)


class Mean(ClipEncoder):
    """Stands for the VAE: a latent that says what it is of."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []

    def latent(self, clip: Any) -> torch.Tensor:
        self.asked.append(clip.shape)
        return torch.full((16, 2, 4, 6), float(clip.mean()))


@pytest.fixture
def data(mevis_split: Path) -> TrainingData:
    return TrainingData(open_sources(mevis_split), SETTINGS)


def test_latents_are_kept_by_their_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = LatentCache(tmp_path / "new")
    assert cache.path("abcd") == tmp_path / "new" / "ab" / "abcd.safetensors"
    assert cache.get("abcd") is None and not cache.folder.exists()
    latent = torch.arange(6.0).view(2, 3).T  # not in one piece
    cache.put("abcd", latent.requires_grad_())
    found = cache.get("abcd")
    assert found is not None and torch.equal(found, latent) and not found.requires_grad
    assert [p.name for p in cache.path("abcd").parent.iterdir()] == ["abcd.safetensors"]
    cache.path("abcd").write_bytes(b"damaged")
    assert cache.get("abcd") is None

    def full(*_: Any) -> None:
        raise encoded.SafetensorError("no space")

    monkeypatch.setattr(encoded, "save_file", full)
    with pytest.raises(StorageError) as caught:
        cache.put("abcd", latent)
    said = f"Cannot write {cache.path('abcd')}: no space; free some space there."
    assert str(caught.value) == said


def test_memory_holds_as_much_as_it_may() -> None:
    cache = MemoryCache(100)
    latents = {name: torch.zeros(10, dtype=torch.float32) for name in "abc"}
    for name in "ab":
        cache.put(name, latents[name])
    assert cache.get("a") is latents["a"] and cache.get("x") is None
    cache.put("c", latents["c"])  # 120 of 100 bytes: b was asked for longest ago
    assert [cache.get(name) is None for name in "abc"] == [False, True, False]
    for _ in range(3):
        cache.put("c", latents["c"])  # the same one again takes no more
    assert cache.get("a") is not None
    cache.put("big", torch.zeros(30))
    assert [cache.get(name) is None for name in ("a", "c", "big")] == [True] * 3
    cache.put("a", torch.zeros(25))
    assert cache.get("a") is not None, "what went is not counted any more"


def test_a_sample_as_latents() -> None:
    mask = np.zeros((5, 32, 48), bool)
    mask[1:, :8, :8] = True
    objects = mask.copy()
    objects[0, 24:, 40:] = True
    video = np.full((5, 32, 48, 3), 7, np.uint8)
    sample = Sample(4, "text", video, mask, "clip", "target", objects)
    found = Mean().encode(sample)
    assert (found.number, found.text) == (4, "text")
    assert found.moments.flatten()[0] == 7 and found.target.flatten()[0] == pytest.approx(4 / 120)
    assert torch.equal(found.meant, mask_cells(mask, found.target))
    assert torch.equal(found.objects, mask_cells(objects, found.target))
    assert found.meant.sum() == 1 and found.objects.sum() == 2
    plain = Mean().encode(dataclasses.replace(sample, objects=None))
    assert plain.objects is None and plain.meant is None


def test_what_is_not_kept_is_encoded_and_kept(data: TrainingData) -> None:
    encoder, cache = Mean(), MemoryCache()
    cached = CachedData(data, cache, encoder)
    assert len(cached) == len(data)
    draw = data.draw(2)
    found, direct = cached[2], Mean().encode(data[2])
    assert isinstance(found, encoded.EncodedSample) and (found.number, found.text) == (2, draw.text)
    assert torch.equal(found.moments, direct.moments) and torch.equal(found.target, direct.target)
    assert torch.equal(cache.get(draw.clip_key), found.moments)
    assert torch.equal(cache.get(draw.target_key), found.target)
    assert len(encoder.asked) == 2
    cached[2]
    assert len(encoder.asked) == 2
    # Without an encoder, what lacks a part is read as it is.
    for key in (draw.clip_key, draw.target_key):
        kept = MemoryCache()
        kept.put(key, torch.zeros(16, 2, 4, 6))
        assert isinstance(CachedData(data, kept)[2], Sample)
    data.settings = dataclasses.replace(data.settings, objects=True)
    found, direct = cached[2], Mean().encode(data[2])
    assert torch.equal(found.objects, direct.objects) and torch.equal(found.meant, direct.meant)
    assert torch.equal(cache.get(f"{draw.clip_key}-objects"), found.objects)
    assert torch.equal(cache.get(f"{draw.target_key}-cells"), found.meant)


def test_where_nothing_is_meant_another_clip_stands_in(data: TrainingData) -> None:
    data.settings = dataclasses.replace(data.settings, no_target=False)
    cached = CachedData(data, MemoryCache(), Mean())
    for number in range(data.epoch_length):
        found, direct = cached[number], data[number]
        assert (found.text, found.number) == (direct.text, number)
        assert found.target.flatten()[0] == pytest.approx(direct.mask.mean()) and direct.mask.any()


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_what_will_be_asked_for(data: TrainingData, processes: int) -> None:
    every = 2 * data.epoch_length

    def keys(samples: int) -> list[list[tuple[str, str]]]:
        found = []
        for rank in range(processes):
            draws, total = needed_draws(data, samples, rank, processes)
            found.append([(d.clip_key, d.target_key) for d in draws])
            assert total == len(found[-1])
        return found

    def of(draws: Any) -> list[tuple[str, str]]:
        return [(draw.clip_key, draw.target_key) for draw in draws]

    variants = of(data.variant_draws())
    assert len(variants) == every
    for samples in (every, 10**6):
        assert keys(samples) == [variants[rank::processes] for rank in range(processes)]
    numbers = of(map(data.draw, range(every - 1)))
    assert keys(every - 1) == [numbers[rank::processes] for rank in range(processes)]
    shown = sum(encoded.read_mask(draw).any() for draw in data.variant_draws())
    data.settings = dataclasses.replace(data.settings, no_target=False)
    for samples in (4, every):
        draws, total = needed_draws(data, samples)
        found = list(draws)
        assert all(encoded.read_mask(draw).any() for draw in found)
        assert (len(found), total) == ((4, 4) if samples == 4 else (shown, every))


def test_a_cache_is_filled_once_and_says_how_far_it_is(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = list(data.variant_draws())[:8]
    keys = {key for draw in draws for key in (draw.clip_key, draw.target_key)}
    cache, encoder, events = LatentCache(tmp_path), Mean(), list[Progress]()
    assert fill_cache(draws, 9, cache, encoder, progress=events.append) == len(keys)
    assert {path.stem for path in tmp_path.rglob("*.safetensors")} == keys
    assert len(encoder.asked) == len(keys) < 16
    said = [(e.done, e.total, e.message) for e in events]
    assert said == [(n, 9, "encoding clips") for n in range(1, 9)]
    for draw in draws:
        assert cache.get(draw.target_key).flatten()[0] == pytest.approx(
            encoded.read_mask(draw).mean()
        )
        assert cache.get(draw.clip_key).flatten()[0] == pytest.approx(
            encoded.read_video(draw).mean()
        )
    cache.path(draws[0].clip_key).unlink()
    events.clear()
    assert fill_cache(draws, 8, cache, encoder, progress=events.append) == 1
    assert len(events) == 8
    monkeypatch.setattr(encoded, "free_bytes", lambda folder: 2**26 - (folder == tmp_path))
    with pytest.raises(StorageError) as caught:
        fill_cache(data.variant_draws(), 40, cache, encoder)
    assert str(caught.value) == f"The disk is full at {tmp_path}; free some space, run again."
    monkeypatch.setattr(encoded, "free_bytes", lambda folder: 2**26)
    assert fill_cache(list(data.variant_draws())[:10], 10, cache, encoder) > 0
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        fill_cache(draws, 8, cache, encoder, cancel=cancel)


def test_the_encoder_computes_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(
        encoded, "encode_latent", lambda vae, clip, *, mixed: calls.append((vae, clip, mixed))
    )
    vae: Any = object()
    ClipEncoder(vae).latent("clip")  # type: ignore[arg-type]
    ClipEncoder(vae, mixed=True).latent("clip")  # type: ignore[arg-type]
    assert calls == [(vae, "clip", False), (vae, "clip", True)]
