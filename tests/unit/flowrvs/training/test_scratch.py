"""Training from scratch: both stages learn, save, resume; the objective is the paper's."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from flowrvs.errors import Cancelled, CheckpointError, InputError
from flowrvs.pipelines import load
from flowrvs.progress import CancelToken
from flowrvs.training.objective import flow_loss, interpolate, mask_loss, sample_timesteps
from flowrvs.training.scratch import FlowStage, Phase, ScratchConfig, VaeStage, train_scratch

VAE = VaeStage(
    phases=(Phase(6, 1, 2, 32, 48), Phase(2, 5, 1, 32, 48)),
    mask_phases=(Phase(4, 5, 1, 32, 48),),
    warmup=1,
    log_every=2,
    save_every=2,
)
FLOW = FlowStage(
    phases=(Phase(3, 1, 4), Phase(3, 5, 2)),
    learning_rate=1e-3,
    matrix_learning_rate=1e-3,
    train_text_encoder=True,
    object_weight=2.0,
    ema_decay=0.5,
    pool_size=4,
    expressions=3,
    warmup=1,
    log_every=1,
    save_every=3,
)


@pytest.fixture(scope="module", autouse=True)
def _few_scored() -> Iterator[None]:
    """Score three held-out scenes instead of two dozen."""
    with pytest.MonkeyPatch.context() as patch:
        seeds = range(900_000, 900_003)
        patch.setattr("flowrvs.training.scratch.flow.VALIDATION_SEEDS", seeds)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training, not to be changed."""
    out = tmp_path_factory.mktemp("scratch")
    config = ScratchConfig(out=str(out), preset="micro", vae=VAE, flow=FLOW, name="mine")
    told: list[str] = []
    made = train_scratch(config, progress=lambda event: told.append(event.message.split()[0]))
    assert made == out / "model"
    assert list(dict.fromkeys(told)) == ["picture", "mask", "flow"]
    return out


def _log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def _again(trained: Path, out: Path, **changes) -> ScratchConfig:
    """The config of a training that begins with the VAE of another one."""
    shutil.copytree(trained / "vae", out / "vae")
    flow = dataclasses.replace(FLOW, **changes)
    return ScratchConfig(out=str(out), preset="micro", vae=VAE, flow=flow)


def test_the_picture_loss_falls_and_the_mask_decoder_has_one_channel(trained: Path) -> None:
    lines = _log(trained / "vae")
    pictures = [x["reconstruction"] for x in lines if x["stage"] == "picture"]
    assert pictures[2] < pictures[0]
    assert [x["stage"] for x in lines].count("mask") == 2
    config = json.loads((trained / "model" / "vae" / "config.json").read_text())
    assert config["out_channels"] == 4
    assert config["latents_mean"] != [0.0] * 16


def test_the_encoder_stays_frozen_while_masks_are_tuned(trained: Path) -> None:
    from diffusers import AutoencoderKLWan

    tuned = AutoencoderKLWan.from_pretrained(trained / "vae" / "vae").state_dict()
    before = AutoencoderKLWan.from_pretrained(trained / "vae" / "vae_rgb").state_dict()
    for key, value in before.items():
        if key.startswith(("encoder.", "quant_conv.")):
            assert torch.equal(value, tuned[key])
    assert not torch.equal(before["decoder.conv_in.weight"], tuned["decoder.conv_in.weight"])


def test_the_averaged_weights_are_what_is_saved(trained: Path) -> None:
    state = torch.load(trained / "flow" / "checkpoint.pt", weights_only=True)
    pipeline = load(trained / "model", device="cpu")
    names = [name for name, _ in pipeline.transformer.named_parameters()]
    averages = dict(zip(names, state["ema"]["shadow_params"], strict=False))
    moved = 0
    for name, parameter in pipeline.transformer.named_parameters():
        torch.testing.assert_close(parameter.data, averages[name], rtol=0, atol=0)
        moved += not torch.equal(parameter.data, state["transformer"][name])
    assert moved > 10
    assert json.loads((trained / "model" / "model_index.json").read_text())["name"] == "mine"
    frames = np.zeros((5, 40, 60, 3), np.uint8)
    assert pipeline(frames, "the red circle").masks.shape == (1, 5, 40, 60)
    assert [x["step"] for x in _log(trained / "flow") if "validation" in x] == [3, 6]


def test_cancelled_training_resumes_where_it_stopped(trained: Path, tmp_path: Path) -> None:
    config = _again(trained, tmp_path, ema_decay=0.9)
    cancel = CancelToken()
    with pytest.raises(Cancelled):
        train_scratch(
            config,
            resume=True,
            progress=lambda event: cancel.cancel() if "flow step 2" in event.message else None,
            cancel=cancel,
        )
    state = torch.load(tmp_path / "flow" / "checkpoint.pt", weights_only=True)
    assert state["step"] == 2
    from flowrvs.training.scratch.flow import FlowTrainer

    trainer = FlowTrainer(config)
    fresh = [p.clone() for p in trainer.ema.shadow_params]
    trainer.restore(state)
    assert trainer.ema.optimization_step == 2
    for now, saved in zip(trainer.ema.shadow_params, state["ema"]["shadow_params"], strict=True):
        assert torch.equal(now, saved)
    assert not all(map(torch.equal, trainer.ema.shadow_params, fresh))
    other = dataclasses.replace(config.flow, attribute_weight=0.3, attribute_block=0)
    with pytest.raises(CheckpointError, match="belongs to a training with another config"):
        train_scratch(dataclasses.replace(config, flow=other), resume=True)
    seen = []
    train_scratch(config, resume=True, progress=lambda event: seen.append(event.done))
    assert seen == [3, 4, 5, 6]


def test_what_cannot_begin_gets_one_line(trained: Path, tmp_path: Path) -> None:
    config = ScratchConfig(out=str(tmp_path), preset="micro", vae=VAE, flow=FLOW)
    with pytest.raises(CheckpointError, match="Nothing to resume"):
        train_scratch(config, resume=True)
    with pytest.raises(InputError, match="lacks phases"):
        train_scratch(dataclasses.replace(config, flow=FlowStage()))
    with pytest.raises(InputError, match="holds a training already"):
        train_scratch(dataclasses.replace(config, out=str(trained)))


def test_the_objective() -> None:
    torch.manual_seed(0)
    start, end = torch.randn(2, 3, 2, 4, 4), torch.randn(2, 3, 2, 4, 4)
    torch.testing.assert_close(interpolate(start, end, torch.tensor([1000.0, 1000.0])), start)
    halfway = interpolate(start, end, torch.tensor([500.0, 250.0]))
    torch.testing.assert_close(halfway[1], 0.25 * start[1] + 0.75 * end[1])
    assert flow_loss(start - end, start, end) == 0
    objects = torch.zeros(2, 2, 4, 4)
    objects[:, :, 0, 0] = 1
    wrong_there = (start - end).clone()
    wrong_there[:, :, :, 0, 0] += 1
    # One of 16 cells is wrong by 1; weighted, it counts 5 of 20.
    torch.testing.assert_close(
        flow_loss(wrong_there, start, end, objects, 0.0), torch.tensor(1 / 16)
    )
    torch.testing.assert_close(
        flow_loss(wrong_there, start, end, objects, 4.0), torch.tensor(5 / 20)
    )


def test_the_mask_loss_is_cross_entropy_plus_dice() -> None:
    truth = torch.zeros(1, 1, 1, 2, 2)
    truth[..., 0, 0] = 1
    # Probabilities of one half: -log(0.5), and 1 - (2 * 0.5 + 1) / (2 + 1 + 1).
    expected = torch.tensor(np.log(2) + 1 - 2 / 4, dtype=torch.float32)
    torch.testing.assert_close(mask_loss(torch.zeros_like(truth), truth), expected)
    assert mask_loss(100 * (2 * truth - 1), truth) < 1e-6


def test_boundary_biased_times() -> None:
    torch.manual_seed(0)
    cpu = torch.device("cpu")
    times = sample_timesteps(4000, 0.5, 0.0, cpu)
    assert times.min() >= 1
    assert times.max() == 1000
    assert abs((times == 1000).float().mean() - 0.5) < 0.05
    assert abs(times[times < 1000].mean() - 500) < 30
    # u ** (1 / (1 + power)) has the mean (1 + power) / (2 + power).
    for power in (1.0, 3.0):
        biased = sample_timesteps(4000, 0.0, power, cpu)
        assert abs(biased.mean() / 1000 - (1 + power) / (2 + power)) < 0.02
        assert biased.max() == 1000 and (biased == biased.round()).all()
    assert (sample_timesteps(50, 1.0, 0.0, cpu) == 1000).all()
