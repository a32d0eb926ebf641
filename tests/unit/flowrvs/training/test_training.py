"""Both stages really train, save, resume; the objective is what the paper says."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from flowrvs.errors import Cancelled, CheckpointError, InputError, MissingPathError
from flowrvs.pipelines import load
from flowrvs.progress import CancelToken
from flowrvs.training import FlowConfig, Phase, VaeConfig, load_config, train_flow, train_vae
from flowrvs.training.objective import flow_loss, interpolate, sample_timesteps

ROOT = Path(__file__).resolve().parents[4]


def _vae_config(out: Path) -> VaeConfig:
    return VaeConfig(
        out=str(out),
        preset="micro",
        phases=(Phase(6, 1, 2, 32, 48), Phase(2, 5, 1, 32, 48)),
        mask_phases=(Phase(4, 5, 1, 32, 48),),
        warmup=1,
        log_every=2,
        save_every=2,
    )


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_vae(_vae_config(tmp_path_factory.mktemp("vae")))


def _flow_config(out: Path, vae: Path) -> FlowConfig:
    return FlowConfig(
        out=str(out),
        vae=str(vae),
        preset="micro",
        phases=(Phase(3, 1, 4), Phase(3, 5, 2)),
        learning_rate=1e-3,
        matrix_learning_rate=1e-3,
        train_text_encoder=True,
        object_weight=2.0,
        ema_decay=0.5,
        pool_size=4,
        expressions=3,
        warmup=1,
        log_every=2,
        save_every=3,
    )


def test_the_picture_loss_falls_and_the_mask_decoder_has_one_channel(vae_folder: Path) -> None:
    lines = [json.loads(x) for x in (vae_folder.parent / "log.jsonl").read_text().splitlines()]
    pictures = [x["reconstruction"] for x in lines if x["stage"] == "picture"]
    assert pictures[2] < pictures[0]
    assert [x["stage"] for x in lines].count("mask") == 2
    config = json.loads((vae_folder / "config.json").read_text())
    assert config["out_channels"] == 4
    assert config["latents_mean"] != [0.0] * 16


def test_the_encoder_stays_frozen_while_masks_are_tuned(vae_folder: Path) -> None:
    from diffusers import AutoencoderKLWan

    tuned = AutoencoderKLWan.from_pretrained(vae_folder).state_dict()
    before = AutoencoderKLWan.from_pretrained(vae_folder.parent / "vae_rgb").state_dict()
    for key, value in before.items():
        if key.startswith(("encoder.", "quant_conv.")):
            assert torch.equal(value, tuned[key])
    assert not torch.equal(before["decoder.conv_in.weight"], tuned["decoder.conv_in.weight"])


def test_the_flow_trains_and_saves_a_usable_pipeline(vae_folder: Path, tmp_path: Path) -> None:
    folder = train_flow(_flow_config(tmp_path, vae_folder))
    lines = [json.loads(x) for x in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines if "validation" in x] == [3, 6]
    assert all(np.isfinite(x["loss"]) for x in lines if "loss" in x)
    frames = np.zeros((5, 40, 60, 3), np.uint8)
    assert load(folder, device="cpu")(frames, "the red circle").masks.shape == (1, 5, 40, 60)


def test_cancelled_training_resumes_where_it_stopped(vae_folder: Path, tmp_path: Path) -> None:
    config = _flow_config(tmp_path, vae_folder)
    cancel = CancelToken()
    with pytest.raises(Cancelled):
        train_flow(
            dataclasses.replace(config, log_every=1),
            progress=lambda event: cancel.cancel() if event.done == 2 else None,
            cancel=cancel,
        )
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == 2
    seen = []
    train_flow(
        dataclasses.replace(config, log_every=1),
        resume=True,
        progress=lambda event: seen.append(event.done),
    )
    assert seen == [3, 4, 5, 6]


def test_injection_starts_from_weights_without_it(vae_folder: Path, tmp_path: Path) -> None:
    config = _flow_config(tmp_path / "plain", vae_folder)
    plain = train_flow(dataclasses.replace(config, phases=(Phase(1, 1, 2),)))
    injected = train_flow(
        dataclasses.replace(
            config,
            out=str(tmp_path / "dvi"),
            phases=(Phase(1, 1, 2),),
            initial=str(plain),
            video_injection=True,
        )
    )
    assert load(injected, device="cpu").injects_video


def test_nothing_to_resume_gets_one_line(vae_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Nothing to resume"):
        train_flow(_flow_config(tmp_path, vae_folder), resume=True)


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
    plain = flow_loss(wrong_there, start, end, objects, 0.0)
    heavy = flow_loss(wrong_there, start, end, objects, 4.0)
    assert heavy > 2 * plain > 0


def test_boundary_biased_times() -> None:
    torch.manual_seed(0)
    times = sample_timesteps(4000, 0.5, 0.0, torch.device("cpu"))
    assert times.min() >= 1
    assert times.max() == 1000
    assert abs((times == 1000).float().mean() - 0.5) < 0.05
    assert abs(times[times < 1000].mean() - 500) < 30


def test_shipped_configs_are_valid() -> None:
    folder = ROOT / "flowrvs" / "training" / "configs"
    assert load_config(folder / "tiny_vae.toml", VaeConfig).preset == "tiny"
    assert load_config(folder / "tiny_flow.toml", FlowConfig).preset == "tiny"


def test_bad_configs_get_one_line(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    with pytest.raises(MissingPathError, match="No config file"):
        load_config(path, FlowConfig)
    for text, message in (
        ("out = ", "not a TOML"),
        ('out = "x"\nlerning_rate = 1', "unknown keys lerning_rate"),
        ('out = "x"', "lacks vae"),
        ("vae = 1", "lacks out"),
        ('out="x"\nvae="y"\n[[phases]]\nstep=1', "cannot be used"),
        ('out="x"\nvae="y"\n[[phases]]\nsteps=1\nframes=4\nbatch=1', "4k"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message) as caught:
            load_config(path, FlowConfig)
        assert "\n" not in str(caught.value)


def test_the_decoder_adapts_to_the_flow_and_nothing_else_changes() -> None:
    from flowrvs.training.scratch.adapt import adapt_decoder
    from tests.fixtures.micro import micro_pipeline

    pipe = micro_pipeline()
    before = {k: v.clone() for k, v in pipe.vae.state_dict().items()}
    flow = {k: v.clone() for k, v in pipe.transformer.state_dict().items()}
    losses = adapt_decoder(pipe, Phase(4, 5, 2), learning_rate=1e-3)
    assert len(losses) == 4
    assert np.isfinite(losses).all()
    after = pipe.vae.state_dict()
    for key, value in before.items():
        if key.startswith(("encoder.", "quant_conv.")):
            assert torch.equal(value, after[key]), key
    assert not torch.equal(before["decoder.conv_in.weight"], after["decoder.conv_in.weight"])
    assert all(torch.equal(v, pipe.transformer.state_dict()[k]) for k, v in flow.items())
