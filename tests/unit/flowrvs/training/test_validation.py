"""Scores on held-out clips, the picture of what was seen, and the mask decoder's training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from scipy import ndimage

from flowrvs.errors import Cancelled
from flowrvs.evaluation import score_masks
from flowrvs.models.vae import decode_frames, encode_moments
from flowrvs.progress import CancelToken
from flowrvs.training import DecoderConfig
from flowrvs.training.clips import plan_clip
from flowrvs.training.dataset import Sample
from flowrvs.training.decoder import DecoderTrainee
from flowrvs.training.engine import make_accelerator
from flowrvs.training.objective import mask_loss
from flowrvs.training.setup import prepare_data
from flowrvs.training.sources import open_sources
from flowrvs.training.validation import Examples, HeldOut, score_held_out
from tests.fixtures.micro import micro_pipeline
from tests.fixtures.training_data import draw_video


def items_of(split: Path) -> list[HeldOut]:
    """Two sentences of a video, and one of another that is scored apart."""
    (source,) = open_sources(split)
    first, second = source.videos[:2]
    return [
        HeldOut(source, first, first.sentences[0], (0, 1, 2, 4, 5)),
        HeldOut(source, first, first.sentences[1], (4, 5, 6)),
        HeldOut(source, second, second.sentences[0], (5,), "old "),
        HeldOut(source, second, second.sentences[2], (5, 6), "old "),
    ]


class Shifted:
    """Finds the truth, one pixel to the right, in two parts."""

    def __init__(self, items: list[HeldOut]) -> None:
        self.items, self.said = list(items), list[str]()

    def segment_window(self, clip: np.ndarray, texts: list[str]) -> Any:
        item = self.items.pop(0)
        assert len(clip) == len(item.frames)
        self.said += texts
        masks = np.roll(item.source.masks(item.video, item.sentence, item.frames), 1, axis=2)
        yield from np.split(np.where(masks, 0.1, 0.0), [1])


def test_scores_by_kind_and_what_is_shown(mevis_split: Path, tmp_path: Path) -> None:
    items = items_of(mevis_split)
    pipeline: Any = Shifted(items)
    cpu = make_accelerator("float32", "cpu")
    found = score_held_out(pipeline, items, cpu, tmp_path / "seen.png")
    assert pipeline.said == ["the red box on the left", "both boxes"] + [
        "the red box on the left", "the green ball",
    ]  # fmt: skip
    rows = []
    for item in items:
        truth = item.source.masks(item.video, item.sentence, item.frames)
        rows.append(score_masks(np.roll(truth, 1, axis=2), truth))
    expected: dict[str, float] = {}
    for kind, part in (("", rows[:2]), ("old ", rows[2:])):
        j, f = np.mean(part, axis=0)
        expected |= {f"{kind}J": j, f"{kind}F": f, f"{kind}J&F": (j + f) / 2}
    assert found == pytest.approx(expected) and 0.5 < expected["J"] < 1
    with Image.open(tmp_path / "seen.png") as picture:
        # One video: a pair of 60 + 60 by 40 pixels, brought to 320, under a line of 14.
        assert picture.size == (320, 14 + 107)
    other = SimpleNamespace(process_index=1, num_processes=1, is_main_process=False)
    again: Any = Shifted(items[1:])
    score_held_out(again, items, other, tmp_path / "not.png")  # type: ignore[arg-type]
    assert len(again.said) == 3 and not (tmp_path / "not.png").exists()
    assert score_held_out(pipeline, [], cpu, tmp_path / "not.png") == {}
    cancel = CancelToken()
    anew: Any = Shifted(items)
    assert score_held_out(anew, items, cpu, None, cancel) == found
    cancel.cancel()
    anew.said.clear()
    with pytest.raises(Cancelled):
        score_held_out(anew, items, cpu, tmp_path / "not.png", cancel)
    assert anew.said == [], "a window takes seconds, a validation minutes"
    assert not (tmp_path / "not.png").exists()


def test_the_picture_shows_the_largest_truth_beside_what_was_found(tmp_path: Path) -> None:
    clip = np.random.default_rng(0).integers(0, 256, (3, 40, 160, 3)).astype(np.uint8)
    truth, found = np.zeros((2, 3, 40, 160), bool)
    truth[0, 5:10, 5:10] = truth[1, 4:30, 20:60] = truth[2, :5, :5] = True
    found[1, 8:30, 30:70] = True
    examples = Examples()

    def item(name: str, kind: str = "", text: str = "x") -> Any:
        video = SimpleNamespace(name=name)
        return SimpleNamespace(video=video, sentence=SimpleNamespace(text=text), kind=kind)

    examples.add(item("old", "old "), clip, found, truth)
    examples.add(item("nothing"), clip, found, np.zeros_like(truth))
    examples.add(item("a", text="the \u4f60 box"), clip, found, truth)
    examples.add(item("a"), clip[::-1], found, truth)
    examples.write(tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as picture:
        shown = np.asarray(picture)
    assert shown.shape == (14 + 40, 320, 3)
    expected = []
    for mask in (truth[1], found[1]):
        side = clip[1].astype(np.float64)
        side[mask] = 0.7 * side[mask] + 0.3 * np.array([190, 255, 0])
        inside = ndimage.binary_erosion(mask, iterations=2)
        side[mask & ~inside] = (190, 255, 0)
        expected.append(side)
    assert abs(shown[14:] - np.concatenate(expected, axis=1)).max() <= 1
    assert shown[:14].max() > 200 and (shown[:14, 250:] == 0).all()
    for name in "bcdef":
        examples.add(item(name), clip, found, truth)
    examples.write(tmp_path / "four.png")
    with Image.open(tmp_path / "four.png") as picture:
        assert picture.size == (320, 4 * 54)  # not more than four videos
        rows = np.asarray(picture).reshape(4, 54, 320, 3)
    assert (rows[:, 14:] == shown[14:]).all()
    Examples().write(tmp_path / "none.png")
    with Image.open(tmp_path / "none.png") as picture:
        assert picture.size == (320, 1)


def test_the_decoders_loss_by_hand(mevis_split: Path) -> None:
    pipeline, config = micro_pipeline(), DecoderConfig(frames=5, latent_noise=0.5, seed=11)
    data = prepare_data([mevis_split], config, pipeline)
    vae = pipeline.vae
    trainee = DecoderTrainee(vae, config, make_accelerator("float32", "cpu"), data)
    trained = {name for name, p in vae.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in vae.named_parameters() if n.startswith(("decoder.", "post_"))}
    truth = draw_video(0, 5, (32, 48))[1]

    def sample(number: int, mask: np.ndarray) -> Sample:
        return Sample(number, "x", np.zeros((*mask.shape, 3), np.uint8), mask, "", "")

    samples = [sample(3, truth[0]), sample(4, truth[0][:, :16]), sample(8, truth[1])]
    groups = trainee.groups(samples)
    assert [[s.number for s in group] for group in groups] == [[3, 8], [4]]
    wanted = torch.from_numpy(truth[:, None]).float()
    with torch.no_grad():
        posterior = DiagonalGaussianDistribution(
            encode_moments(vae, wanted.repeat(1, 3, 1, 1, 1) * 2 - 1)
        )
        latents = []
        for row, number in enumerate((3, 8)):
            generator = torch.Generator().manual_seed(11 * 1_000_003 + number)
            noise = torch.randn(2, *posterior.mean.shape[1:], generator=generator)
            amount = 0.5 * float(torch.rand(1, generator=generator))
            drawn = posterior.mean[row] + posterior.std[row] * noise[0]
            latents.append(drawn + amount * noise[1])
        logits = decode_frames(vae, torch.stack(latents), clamp=False)
    loss = trainee.loss(trainee.module, groups[0])
    torch.testing.assert_close(loss.detach(), mask_loss(6 * logits, wanted), rtol=1e-4, atol=1e-5)
    loss.backward()
    assert all(p.grad is not None for p in vae.decoder.parameters())
    assert all(p.grad is None for p in vae.encoder.parameters())


def test_the_decoder_is_scored_on_held_out_masks(mevis_split: Path) -> None:
    pipeline, config = micro_pipeline(), DecoderConfig(frames=5, seed=1)
    data = prepare_data([mevis_split], config, pipeline)
    data = dataclasses.replace(data, held_out=items_of(mevis_split)[:3])
    trainee = DecoderTrainee(pipeline.vae, config, make_accelerator("float32", "cpu"), data)
    rows, seen = [], []
    for item in data.held_out:
        plan = plan_clip(
            np.random.default_rng(0),
            item.frames,
            item.source.size(item.video),
            data.train.settings.box,
        )
        truth = plan.apply_to_masks(item.source.masks(item.video, item.sentence, item.frames))
        frames = 1 + 4 * -(-(len(truth) - 1) // 4)
        padded = np.concatenate([truth, *[truth[-1:]] * (frames - len(truth))])
        video = torch.from_numpy(padded)[None, None].float().repeat(1, 3, 1, 1, 1) * 2 - 1
        with torch.no_grad():
            mean = encode_moments(pipeline.vae, video)[:, :16]
            logits = decode_frames(pipeline.vae, mean, clamp=False)[0, 0, : len(truth)]
        seen.append(mean)
        rows.append(score_masks((logits > 0).numpy(), truth))
    j, f = np.mean(rows, axis=0)
    calls = list[torch.Tensor]()

    def module(latents: torch.Tensor) -> torch.Tensor:
        calls.append(latents)
        return trainee.module(latents)

    found = trainee.validate(module)  # type: ignore[arg-type]
    assert found == pytest.approx({"J": j, "F": f, "J&F": (j + f) / 2})
    assert len(calls) == 3 and not calls[0].requires_grad
    for latents, expected in zip(calls, seen, strict=True):
        torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-5)
    none = dataclasses.replace(data, held_out=[])
    assert DecoderTrainee(pipeline.vae, config, trainee._accelerator, none).validate(module) == {}  # type: ignore[arg-type]
