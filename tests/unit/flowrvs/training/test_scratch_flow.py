"""The flow's training from scratch, made once more by hand; its checkpoints, phases and starts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from flowrvs.data.synth_scene import render_scene, sample_scene
from flowrvs.data.synthetic import TRAINING_SEED_BASE, describe
from flowrvs.errors import Cancelled
from flowrvs.models.text import embed_tokens
from flowrvs.models.vae import decode_frames, latent_statistics
from flowrvs.pipelines import load
from flowrvs.progress import CancelToken, Progress
from flowrvs.training.journal import read_log
from flowrvs.training.objective import mask_loss, sample_timesteps
from flowrvs.training.scratch import (
    FlowStage,
    Phase,
    ScratchConfig,
)
from flowrvs.training.scratch.adapt import adapt_decoder
from flowrvs.training.scratch.attributes import AttributeHead
from flowrvs.training.scratch.flow import FlowTrainer, train_flow
from flowrvs.training.scratch.loop import (
    load_checkpoint,
)
from flowrvs.training.scratch.pool import (
    TRAINING_MIX,
    LatentPool,
)
from tests.fixtures.micro import micro_pipeline
from tests.unit.flowrvs.training.by_hand import adam, same, step_of

CPU = torch.device("cpu")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two held-out scenes instead of two dozen."""
    monkeypatch.setattr("flowrvs.training.scratch.flow.VALIDATION_SEEDS", range(900_000, 900_002))


FLOW = FlowStage(
    phases=(Phase(3, 1, 2, refresh=0.5),),
    learning_rate=2e-3,
    weight_decay=0.1,
    clip_norm=0.5,
    matrix_learning_rate=4e-3,
    warmup=2,
    ema_decay=0.6,
    boundary_probability=0.5,
    time_power=1.0,
    video_injection=True,
    object_weight=3.0,
    attribute_weight=0.7,
    attribute_block=1,
    train_text_encoder=True,
    pool_size=3,
    expressions=4,
    autocast=False,
    seed=9,
    save_every=100,
    log_every=1,
)


@pytest.fixture
def flow_config(tmp_path: Path, vae: AutoencoderKLWan) -> ScratchConfig:
    vae.save_pretrained(tmp_path / "vae" / "vae")
    return ScratchConfig(out=str(tmp_path), preset="micro", flow=FLOW, name="mine")


def test_the_flow_is_trained_as_by_hand(flow_config: ScratchConfig, few: None) -> None:
    out = Path(flow_config.out)
    assert train_flow(flow_config) == out / "model"
    told = [x for x in read_log(out / "flow" / "log.jsonl") if "validation" not in x]
    mine = FlowTrainer(flow_config)  # random weights again
    assert mine.transformer.config.in_channels == 32
    named = [*mine.transformer.named_parameters(), *mine.text_encoder.named_parameters()]
    weights = [p for _, p in named]
    matrices = [
        p for n, p in mine.transformer.named_parameters() if n.startswith("blocks.") and p.ndim == 2
    ]
    chosen = {id(p) for p in matrices}
    rest = [p for p in [*weights, *mine.attributes.parameters()] if id(p) not in chosen]
    optimizers = [
        adam(rest, 1.0, weight_decay=0.1),
        torch.optim.Muon(matrices, lr=1.0, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    ]
    average = [p.detach().clone() for p in weights]
    rng = np.random.default_rng([9, 0])
    settings = {"frames": 1, "expressions": 4, "length": 12, "patch": 2}
    pool = LatentPool(mine.vae, mine.tokenizer, 3, rng, **settings)
    pool.refresh(3)
    mean, std = latent_statistics(mine.vae)
    for step in range(3):
        factor = (0.5, 1.0, 1.0)[step]
        optimizers[0].param_groups[0]["lr"] = 2e-3 * factor
        optimizers[1].param_groups[0]["lr"] = 4e-3 * factor
        pool.refresh((0, 1, 0)[step])
        batch = pool.draw(2)
        drawn = DiagonalGaussianDistribution(batch.moments).sample()
        start = (drawn - mean) / std
        times = sample_timesteps(2, 0.5, 1.0, CPU)
        share = times.view(-1, 1, 1, 1, 1) / 1000
        state = share * start + (1 - share) * batch.targets
        text = embed_tokens(mine.text_encoder, batch.tokens, batch.mask)
        velocity = mine.transformer(torch.cat([state, start], 1), times, text, return_dict=False)[0]
        error = (velocity - (start - batch.targets)).square().mean(1)
        heavy = 1 + 3.0 * batch.objects
        loss = (error * heavy).sum() / heavy.sum()
        attributes = mine.attributes.loss(batch.labels)
        norm = step_of(optimizers, loss + 0.7 * attributes, weights, 0.5)
        decay = min(0.6, 1 - (1 + step) ** -0.75) if step else 0.0
        for kept, weight in zip(average, weights, strict=True):
            kept += (1 - decay) * (weight.detach() - kept)
        line = told[step]
        assert (line["step"], line["frames"]) == (step + 1, 1)
        values = {
            "loss": float(loss.detach()),
            "attributes": float(attributes.detach()),
            "norm": norm,
        }
        assert {k: line[k] for k in values} == pytest.approx(values, rel=1e-3)
    state = load_checkpoint(out / "flow" / "checkpoint.pt")
    same(state["transformer"], dict(mine.transformer.state_dict()))
    same(state["text_encoder"], dict(mine.text_encoder.state_dict()))
    for found, wanted in zip(state["ema"]["shadow_params"], average, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    pipeline = load(out / "model", device="cpu")
    assert pipeline.injects_video
    assert json.loads((out / "model" / "model_index.json").read_text())["name"] == "mine"
    names = [name for name, _ in mine.transformer.named_parameters()]
    saved = dict(pipeline.transformer.named_parameters())
    for name, wanted in zip(names, average, strict=False):
        torch.testing.assert_close(saved[name], wanted, rtol=1e-4, atol=1e-6)


def test_a_checkpoint_of_the_flow_holds_all_of_it(flow_config: ScratchConfig, few: None) -> None:
    trainer = FlowTrainer(flow_config)
    trainer.train()
    first = load_checkpoint(trainer.out / "checkpoint.pt")
    again = FlowTrainer(dataclasses.replace(flow_config, flow=dataclasses.replace(FLOW, seed=1)))
    again.restore(first)
    assert again.step == 3
    again.save(again.step)
    second = load_checkpoint(trainer.out / "checkpoint.pt")
    for part in ("transformer", "text_encoder", "attributes"):
        assert first[part] and all(torch.equal(v, second[part][k]) for k, v in first[part].items())
    for a, b in zip(first["ema"]["shadow_params"], second["ema"]["shadow_params"], strict=True):
        assert torch.equal(a, b)
    states = [[o["state"] for o in x["optimizers"]] for x in (first, second)]
    assert len(states[0]) == 2
    for a, b in zip(*states, strict=True):
        assert a and all(torch.equal(v, b[k][n]) for k, s in a.items() for n, v in s.items())
    calls: list[Any] = []
    again._run_phase = lambda *args: calls.append(args)  # type: ignore[method-assign]
    again.train()
    assert calls == [], "it is done"
    # Scoring leaves the weights as they are.
    before = [p.detach().clone() for p in again.parameters]
    scores = again.validate(again._validation_clips({"frames": 1, "expressions": 4, "length": 12}))
    assert scores and all(map(torch.equal, before, (p.detach() for p in again.parameters)))


def test_phases_follow_each_other_from_where_it_is(flow_config: ScratchConfig) -> None:
    phases = (Phase(2, 1, 1), Phase(3, 5, 1), Phase(1, 5, 2))
    stage = dataclasses.replace(FLOW, phases=phases, attribute_weight=0.0, train_text_encoder=False)
    trainer = FlowTrainer(dataclasses.replace(flow_config, flow=stage))
    assert trainer.total == 6 and trainer.attributes is None
    assert not any(p.requires_grad for p in trainer.text_encoder.parameters())
    calls: list[Any] = []
    trainer._run_phase = lambda *args: calls.append(args)  # type: ignore[method-assign]
    for step, run in ((0, 0), (1, 0), (2, 1), (4, 1), (5, 2), (6, 3)):
        trainer.step = step
        trainer.train()
        stops = (2, 5, 6)
        assert calls == list(zip(phases, stops, strict=True))[run:]
        calls.clear()


def test_the_decoder_is_adapted_last_and_halves_are_written(
    flow_config: ScratchConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(
        "flowrvs.training.scratch.flow.adapt_decoder",
        lambda pipeline, phase, **options: calls.append((pipeline.name, phase, options)),
    )
    phases = (Phase(1, 5, 2), Phase(2, 9, 1))
    stage = dataclasses.replace(FLOW, decoder_phases=phases)
    config = dataclasses.replace(flow_config, flow=stage, half_precision=True)
    cancel = CancelToken()
    trainer = FlowTrainer(config, print, cancel)
    for average in trainer.ema.shadow_params:
        average += 1
    expected = trainer.ema.shadow_params[0].half()
    folder = trainer.save_pipeline()
    given = {"seed": 9, "autocast": False, "progress": print, "cancel": cancel}
    assert calls == [("mine", phase, given) for phase in phases]
    pipeline = load(folder, device="cpu", dtype="float16")
    assert torch.equal(next(iter(pipeline.transformer.parameters())), expected)


def test_what_a_model_is_started_from(
    flow_config: ScratchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = micro_pipeline(seed=3)
    pipeline.save_pretrained(tmp_path / "first")
    for inject in (False, True):
        stage = dataclasses.replace(FLOW, initial=str(tmp_path / "first"), video_injection=inject)
        trainer = FlowTrainer(dataclasses.replace(flow_config, flow=stage))
        same(dict(trainer.text_encoder.state_dict()), dict(pipeline.text_encoder.state_dict()))
        for name, value in pipeline.transformer.state_dict().items():
            found = trainer.transformer.state_dict()[name]
            if name == "patch_embedding.weight":
                assert found[:, 16:].abs().sum() == 0
                found = found[:, :16]
            assert torch.equal(found, value)
    # Blocks are compiled, but for the one that is listened to.
    for weight, expected in ((0.5, [0]), (0.0, [0, 1])):
        compiled: list[Any] = []
        monkeypatch.setattr(torch.nn.Module, "compile", lambda self, c=compiled: c.append(self))
        stage = dataclasses.replace(FLOW, compile=True, attribute_weight=weight)
        trainer = FlowTrainer(dataclasses.replace(flow_config, flow=stage))
        assert compiled == [trainer.transformer.blocks[n] for n in expected]


def test_attributes_are_asked_for_where_they_are_known() -> None:
    transformer = micro_pipeline().transformer
    head = AttributeHead(transformer, 1)
    tokens = torch.randn(2, 3, 24)
    labels = torch.randint(0, 2, (2, 4, 3))
    labels[:, 2] = -100  # nobody knows the size
    labels[0, 0, :] = -100
    with pytest.raises(AssertionError):
        head.loss(labels)
    head._keep(transformer, (tokens,))
    expected = []
    for place in (0, 1, 3):
        logits = head.heads[place](head.norm(tokens))
        known = labels[:, place] != -100
        expected.append(F.cross_entropy(logits[known], labels[:, place][known]))
    torch.testing.assert_close(head.loss(labels), torch.stack(expected).mean())
    head._keep(transformer, (tokens,))
    nothing = head.loss(torch.full_like(labels, -100))
    assert nothing == 0 and nothing.requires_grad
    with pytest.raises(AssertionError):
        head.loss(labels)  # each answer is asked about once


def test_the_decoder_is_adapted_as_by_hand() -> None:
    phase, events = Phase(2, 5, 3), list[Progress]()
    pipeline, mine = micro_pipeline(), micro_pipeline()
    losses = adapt_decoder(
        pipeline, phase, learning_rate=1e-2, seed=4, autocast=False, progress=events.append
    )
    weights = [*mine.vae.decoder.parameters(), *mine.vae.post_quant_conv.parameters()]
    optimizer = adam(weights, 1e-2)
    for step in range(2):
        optimizer.param_groups[0]["lr"] = 1e-2 * (0.1, 0.2)[step]
        rng = np.random.default_rng([4, 5, step])
        scene = sample_scene(TRAINING_SEED_BASE + int(rng.integers(2**40)), frames=33)
        first = int(rng.integers(33 - 5 + 1))
        pictures, masks = render_scene(scene, list(range(first, first + 5)))
        mix = np.roll(TRAINING_MIX, int(rng.integers(8))).tolist()
        said = describe(scene.objects, rng, 3, mix)
        with torch.no_grad():
            text = mine.encode_prompt([s.text for s in said])
            latents = mine.deform(mine.encode_video(pictures), text)
        truth = torch.from_numpy(np.stack([masks[list(s.objects)].any(0) for s in said])).float()
        logits = decode_frames(mine.vae, latents.float(), clamp=False)
        logits = F.interpolate(logits, (5, 96, 160), mode="trilinear", align_corners=False)
        loss = mask_loss(6 * logits, truth[:, None])
        assert losses[step] == pytest.approx(float(loss.detach()), rel=1e-3)
        step_of([optimizer], loss, weights)
    same(pipeline.vae.state_dict(), mine.vae.state_dict())
    same(pipeline.transformer.state_dict(), mine.transformer.state_dict())
    assert not any(p.requires_grad for p in pipeline.vae.parameters())
    said = [f"decoder step {n}, loss {loss:.3f}" for n, loss in enumerate(losses, 1)]
    assert [(e.done, e.total, e.message) for e in events] == [(1, 2, said[0]), (2, 2, said[1])]
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        adapt_decoder(pipeline, phase, cancel=cancel)
