"""Tiles equal the full decoding inside of them; the locator finds where they must be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import save

from flowrvs.errors import Cancelled, CheckpointError, MissingPathError, StorageError
from flowrvs.models.fast_vae import use_fast_layers
from flowrvs.models.locator import Locator, fit_locator, foreground_pixels
from flowrvs.models.presets import PRESETS, build_vae
from flowrvs.models.tiles import Tile, iter_decode_tiles, plan_tiles, tile_cost
from flowrvs.models.vae import decode_frames
from flowrvs.pipelines import load
from flowrvs.pipelines.calibrate import calibrate, synthetic_clips
from flowrvs.progress import CancelToken, Progress
from tests.fixtures.disk import small_disk
from tests.fixtures.micro import micro_pipeline

TILES = {
    "inside": [Tile(3, 6, 4, 9)],
    "corner": [Tile(0, 2, 0, 3)],
    "two": [Tile(0, 3, 12, 16), Tile(9, 12, 1, 4)],
    "whole": [Tile(0, 12, 0, 16)],
    "none": [],
}


@pytest.fixture(scope="module", params=["space to depth", "Wan"])
def vae(request: pytest.FixtureRequest) -> AutoencoderKLWan:
    torch.manual_seed(0)
    if request.param == "Wan":
        return AutoencoderKLWan(base_dim=4, out_channels=1)
    return use_fast_layers(build_vae(PRESETS["micro"], mask_decoder=True))


@pytest.mark.parametrize("tiles", TILES.values(), ids=TILES)
@pytest.mark.parametrize("group", [1, 3])
@torch.no_grad()
def test_a_tile_is_what_the_full_decoding_has_there(
    vae: AutoencoderKLWan, tiles: list[Tile], group: int
) -> None:
    latents = 3 * torch.randn(1, 16, 4, 12, 16, generator=torch.Generator().manual_seed(0))
    full = decode_frames(vae, latents, group=group)
    parts = list(iter_decode_tiles(vae, latents, tiles, group=group))
    expected = torch.full_like(full, -1.0)
    for tile in tiles:
        box = tile.scaled(8)
        where = (..., slice(box.top, box.bottom), slice(box.left, box.right))
        expected[where] = full[where]
    assert full.std() > 0.01
    torch.testing.assert_close(torch.cat(parts, dim=2), expected, atol=1e-5, rtol=1e-4)


def test_boxes_cover_the_cells_and_join_where_that_is_cheaper(vae: AutoencoderKLWan) -> None:
    cells = np.zeros((60, 104), bool)
    cells[5:9, 7:12] = cells[6, 14] = cells[50:55, 90:100] = True
    tiles = plan_tiles(vae, cells)
    assert tiles is not None and len(tiles) == 2  # the two near ones are one
    covered = np.zeros_like(cells)
    for tile in tiles:
        covered[tile.top : tile.bottom, tile.left : tile.right] = True
    assert (covered >= cells).all()
    assert 0 < sum(tile_cost(vae, tile, 60, 104) for tile in tiles) < 0.4
    assert plan_tiles(vae, np.zeros((60, 104), bool)) == []
    assert plan_tiles(vae, np.ones((60, 104), bool)) is None


def _samples(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    samples = []
    for _ in range(count):
        pixels = (torch.rand(1, 3, 6, 8, generator=generator) > 0.9).float() * 20
        latents = 0.3 * torch.randn(1, 4, 3, 6, 8, generator=generator)
        latents[:, 2] += pixels / 10
        samples.append((latents, pixels))
    return samples


def test_a_locator_learns_what_is_foreground(tmp_path: Path) -> None:
    locator, kept, foreground = fit_locator(_samples(24), steps=200)
    assert foreground <= kept < 1.5 * foreground + 0.02
    for latents, pixels in _samples(6):
        truth = (pixels[0] > 0).any(0).numpy()
        found = locator.cells(latents)
        assert found[truth].all()  # recall: no cell with foreground is left out
        near = np.pad(truth, 1)
        near = np.lib.stride_tricks.sliding_window_view(near, (3, 3)).any((2, 3))
        assert found[near].all()  # nor a neighbour of one
        assert (near[found]).mean() > 0.9  # precision: their neighbours, and hardly any other
    again, *_ = fit_locator(_samples(24), steps=200)
    assert again.threshold == locator.threshold
    locator.save(tmp_path / "locator.safetensors")
    read = Locator.load(tmp_path / "locator.safetensors")
    latents = _samples(1)[0][0]
    assert read.threshold == locator.threshold
    torch.testing.assert_close(read(latents), locator(latents))


def test_a_fit_follows_from_its_seed() -> None:
    """How it learns is pinned: nothing else would tell of another pace or weight."""
    for seed, threshold, share in ((3, 0.0466, 0.3762), (4, 0.162, 0.3009)):
        locator, kept, foreground = fit_locator(_samples(24), steps=60, seed=seed)
        assert locator.threshold == pytest.approx(threshold, abs=0.02)
        assert kept == pytest.approx(share, abs=0.03)
        assert foreground == pytest.approx(0.0868, abs=1e-4)


def test_too_little_to_learn_from_and_damaged_files(tmp_path: Path) -> None:
    empty = [(latents, torch.zeros_like(pixels)) for latents, pixels in _samples(12)]
    with pytest.raises(CheckpointError, match="too little"):
        fit_locator(empty)
    state = dict(Locator(4).state_dict())
    for content in (
        b"nonsense",
        save(state),  # without its threshold
        save(state, {"threshold": "high"}),
        save({"near.weight": state["near.weight"]}, {"threshold": "1"}),
    ):
        (tmp_path / "l").write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            Locator.load(tmp_path / "l")
        assert str(caught.value) == (
            f"{tmp_path / 'l'} is not a locator: run 'flowrvs models calibrate' again."
        )


def test_pixels_are_counted_by_cell_and_latent_frame() -> None:
    logits = torch.full((1, 1, 5, 16, 24), -1.0)
    logits[0, 0, 0, 0:2, 0:3] = logits[0, 0, 4, 9, 20] = 1.0
    counts = foreground_pixels(logits, torch.zeros(1, 16, 2, 2, 3))
    assert counts.shape == (1, 2, 2, 3) and counts.sum() == 7
    assert counts[0, 0, 0, 0] == 6 and counts[0, 1, 1, 2] == 1


def test_sparse_masks_are_the_full_ones() -> None:
    full, sparse = load("tiny", device="cpu"), load("tiny", device="cpu", sparse=True)
    assert sparse.name == "tiny+sparse"
    both = either = 0
    ((frames, texts),) = synthetic_clips(1, frames=17, height=96, width=160)
    for text in texts:
        a, b = full(frames, text).masks, sparse(frames, text).masks
        both, either = both + int((a & b).sum()), either + int((a | b).sum())
    assert either > 1000 and both / either > 0.999


def test_a_model_without_a_locator_says_so(tmp_path: Path) -> None:
    load("tiny", device="cpu").save_pretrained(tmp_path / "m")
    with pytest.raises(MissingPathError, match="models calibrate"):
        load(tmp_path / "m", sparse=True)


def test_calibrating_the_bundled_model() -> None:
    pipe = load("tiny", device="cpu")
    result = calibrate(pipe, synthetic_clips(3, frames=5, height=96, width=160), total=3)
    assert result.foreground < result.kept < 0.9


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="the folder has vanished"):
        Locator().save(tmp_path / "missing" / "locator.safetensors")


def test_a_fit_stops_at_once_and_a_save_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = CancelToken()
    seen: list[int] = []
    forward = Locator.forward

    def count(self: Locator, latents: torch.Tensor) -> torch.Tensor:
        seen.append(1)
        if len(seen) == 3:
            token.cancel()
        return forward(self, latents)

    monkeypatch.setattr(Locator, "forward", count)
    with pytest.raises(Cancelled):
        fit_locator(_samples(24), cancel=token)
    assert len(seen) == 3
    path = tmp_path / "locator.safetensors"
    path.write_bytes(b"before")
    with small_disk(1000), pytest.raises(OSError, match="so large a file"):
        Locator().save(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name] and path.read_bytes() == b"before"


def test_a_calibration_hands_on_its_cancel_and_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    from flowrvs.pipelines import calibrate as calibrating

    token, asked, told = CancelToken(), list[object](), list[Progress]()
    fitted = Locator(), 0.25, 0.125

    def fit(samples: list, **how: object) -> tuple[Locator, float, float]:
        asked.append((len(samples), how))
        return fitted

    monkeypatch.setattr(calibrating, "fit_locator", fit)
    clips = [(np.zeros((1, 32, 48, 3), np.uint8), ["a cross", "x"])] * 2
    result = calibrate(micro_pipeline(), clips, total=2, cancel=token, progress=told.append)
    assert asked == [(4, {"cancel": token})]
    assert (result.locator, result.kept, result.foreground) == fitted
    assert [(e.message, e.done, e.total) for e in told] == [
        ("calibrating", 1, 2),
        ("calibrating", 2, 2),
        ("fitting", 2, 2),
    ]
    token.cancel()
    with pytest.raises(Cancelled):
        calibrate(micro_pipeline(), clips, cancel=token)


def test_clips_of_the_synthetic_world_are_always_the_same() -> None:
    first, second = (list(synthetic_clips(2, frames=3, height=32, width=48)) for _ in range(2))
    assert len(first) == 2 and not np.array_equal(first[0][0], first[1][0])
    for (frames, texts), (again, same) in zip(first, second, strict=True):
        assert frames.shape == (3, 32, 48, 3) and 1 <= len(texts) <= 6
        np.testing.assert_array_equal(frames, again)
        assert texts == same
    ((_, few),) = synthetic_clips(1, frames=3, height=32, width=48, sentences=2)
    assert few == first[0][1][:2]
