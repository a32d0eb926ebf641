"""Steps of a training from scratch, made once more by hand; its samples, its loop, its score."""

from __future__ import annotations

import dataclasses
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from flowrvs.data.synth_scene import COLORS, MOTIONS, SHAPES, SIZES, render_scene, sample_scene
from flowrvs.data.synthetic import TRAINING_SEED_BASE, describe
from flowrvs.errors import Cancelled, CheckpointError, InputError, StorageError, TrainingError
from flowrvs.models.fast_vae import use_fast_layers
from flowrvs.models.presets import PRESETS, build_vae
from flowrvs.models.text import build_word_tokenizer, clean_prompt, tokenize
from flowrvs.models.vae import decode_frames, encode_moments, latent_statistics, mask_cells
from flowrvs.progress import CancelToken, Progress
from flowrvs.training.journal import read_log
from flowrvs.training.models import mask_vae_from
from flowrvs.training.objective import mask_iou, mask_loss, sample_timesteps
from flowrvs.training.scratch import (
    FlowStage,
    Phase,
    ScratchConfig,
    VaeStage,
    load_scratch_config,
    train_scratch,
)
from flowrvs.training.scratch import train as train_module
from flowrvs.training.scratch.attributes import token_labels
from flowrvs.training.scratch.loop import (
    Loop,
    cosine_rate,
    load_checkpoint,
    save_checkpoint,
    update,
)
from flowrvs.training.scratch.pool import (
    TRAINING_MIX,
    EncodedClip,
    LatentPool,
    encode_clip,
    source_latents,
    stack_pairs,
)
from flowrvs.training.scratch.samples import (
    draw_scene_seed,
    frame_indices,
    mask_clips,
    picture_clips,
)
from flowrvs.training.scratch.vae import train_vae
from flowrvs.training.scratch.validation import VALIDATION_SEEDS, validate_flow
from tests.fixtures.disk import small_disk
from tests.fixtures.micro import micro_pipeline
from tests.unit.flowrvs.training.by_hand import adam, same, step_of

CPU = torch.device("cpu")
VAE = VaeStage(
    phases=(Phase(1, 1, 2, 32, 48), Phase(1, 5, 1, 32, 48)),
    mask_phases=(Phase(2, 5, 2, 32, 48),),
    warmup=2,
    kl_weight=0.3,
    mask_share=0.5,
    latent_noise=0.4,
    autocast=False,
    seed=5,
    save_every=100,
    log_every=1,
)


# -- the VAE -----------------------------------------------------------------------------


def test_the_vae_is_trained_as_by_hand(tmp_path: Path) -> None:
    config = ScratchConfig(out=str(tmp_path), preset="micro", vae=VAE)
    assert train_vae(config) == tmp_path / "vae" / "vae"
    told = read_log(tmp_path / "vae" / "log.jsonl")
    torch.manual_seed(5)
    vae = build_vae(PRESETS["micro"])
    use_fast_layers(vae)
    expected: list[dict[str, Any]] = []
    weights = list(vae.parameters())
    optimizer = adam(weights, VAE.learning_rate, weight_decay=1e-4)
    for step, phase in enumerate(VAE.phases):
        optimizer.param_groups[0]["lr"] = VAE.learning_rate * (0.5, 1.0)[step]
        video = picture_clips(np.random.default_rng([5, step]), phase, 0.5)
        posterior = DiagonalGaussianDistribution(encode_moments(vae, video))
        decoded = decode_frames(vae, posterior.sample(), clamp=False)
        error = (decoded - video).abs().mean() + (decoded - video).square().mean()
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        step_of([optimizer], error + 0.3 * kl, weights)
        expected.append({"step": step + 1, "stage": "picture"})
        expected[-1] |= {"reconstruction": float(error.detach()), "kl": float(kl.detach())}
    with torch.no_grad():
        pictures = picture_clips(np.random.default_rng([5, 2**31]), Phase(1, 5, 16), 0.0)
        latents = encode_moments(vae, pictures)[:, :16].transpose(0, 1).flatten(1)
    torch.testing.assert_close(
        torch.tensor(AutoencoderKLWan.load_config(tmp_path / "vae" / "vae")["latents_mean"]),
        latents.mean(1),
        rtol=1e-4,
        atol=1e-5,
    )
    torch.testing.assert_close(
        torch.tensor(AutoencoderKLWan.load_config(tmp_path / "vae" / "vae")["latents_std"]),
        latents.std(1).clamp_min(1e-3),
        rtol=1e-4,
        atol=1e-5,
    )
    tuned = mask_vae_from(vae)
    use_fast_layers(tuned)
    weights = [*tuned.decoder.parameters(), *tuned.post_quant_conv.parameters()]
    optimizer = adam(weights, VAE.mask_learning_rate, weight_decay=1e-4)
    for step in range(2):
        optimizer.param_groups[0]["lr"] = VAE.mask_learning_rate * (0.5, 1.0)[step]
        truth = mask_clips(np.random.default_rng([5, 2 + step]), VAE.mask_phases[0])
        with torch.no_grad():
            moments = encode_moments(tuned, truth.repeat(1, 3, 1, 1, 1) * 2 - 1)
            clean = DiagonalGaussianDistribution(moments).sample()
            amount = torch.rand(2, 1, 1, 1, 1)
            noisy = clean + 0.8 * amount * torch.randn_like(clean)
        logits = 6 * decode_frames(tuned, noisy, clamp=False)
        loss = mask_loss(logits, truth)
        step_of([optimizer], loss, weights)
        expected.append({"step": 3 + step, "stage": "mask"})
        expected[-1] |= {"mask": float(loss.detach()), "iou": float(mask_iou(logits, truth))}
    told = [{k: v for k, v in line.items() if k != "seconds"} for line in told]
    assert [line.keys() for line in told] == [line.keys() for line in expected]
    for found, wanted in zip(told, expected, strict=True):
        assert found.pop("stage") == wanted.pop("stage")
        assert found == pytest.approx(wanted, rel=1e-3, abs=2e-6)
    same(
        AutoencoderKLWan.from_pretrained(tmp_path / "vae" / "vae_rgb").state_dict(),
        vae.state_dict(),
    )
    same(
        AutoencoderKLWan.from_pretrained(tmp_path / "vae" / "vae").state_dict(), tuned.state_dict()
    )


@pytest.mark.parametrize("stop", [1, 3])
def test_a_stopped_vae_goes_on_with_all_that_it_had(tmp_path: Path, stop: int) -> None:
    """Stopped again before its next step, it writes what it has read."""
    phases = (Phase(1, 1, 2, 32, 48), Phase(1, 1, 1, 32, 48))
    stage = dataclasses.replace(VAE, phases=phases, mask_phases=(Phase(2, 1, 1, 32, 48),))
    config = ScratchConfig(out=str(tmp_path), preset="micro", vae=stage)
    cancel, events = CancelToken(), list[Progress]()

    def watch(event: Progress) -> None:
        events.append(event)
        if event.done == stop:
            cancel.cancel()

    with pytest.raises(Cancelled):
        train_vae(config, progress=watch, cancel=cancel)
    file = tmp_path / "vae" / "checkpoint.pt"
    first = load_checkpoint(file)
    assert (first["step"], first["stage"]) == (stop, "picture" if stop < 2 else "mask")
    assert ("mask_vae" in first) == (stop > 2)
    assert events[-1].message == f"{first['stage']} step {stop}" and events[-1].total == 4
    with pytest.raises(Cancelled):
        train_vae(config, resume=True, cancel=cancel)
    again = load_checkpoint(file)
    assert again.keys() == first.keys() and again["step"] == stop
    for part in first.keys() & {"vae", "mask_vae"}:
        assert all(torch.equal(v, again[part][k]) for k, v in first[part].items())
    states = [x["optimizer"]["state"] for x in (first, again)]
    assert states[0].keys() == states[1].keys() and states[0]
    for key, state in states[0].items():
        assert all(torch.equal(v, states[1][key][k]) for k, v in state.items())
    events.clear()
    train_vae(config, resume=True, progress=events.append)
    assert [event.done for event in events] == list(range(stop + 1, 5))


def test_the_overlap_of_masks() -> None:
    truth = torch.zeros(3, 1, 1, 2, 2)
    truth[0, ..., 0] = truth[1, ..., 0] = 1
    logits = torch.full_like(truth, -1.0)
    logits[0, ..., 0, :] = 1  # one of three; nothing of two; nothing of nothing
    assert float(mask_iou(logits, truth)) == pytest.approx((1 / 3 + 0 + 1) / 3, abs=1e-5)
    assert float(mask_iou(torch.zeros(1, 1, 1, 2, 2), truth[:1])) == pytest.approx(0, abs=1e-5)


# -- samples -----------------------------------------------------------------------------


def drawn(rng: np.random.Generator, phase: Phase) -> tuple[np.ndarray, np.ndarray]:
    """A clip of a scene by hand: a place in time, a part of the picture, mirrored or not."""
    scene = sample_scene(TRAINING_SEED_BASE + int(rng.integers(2**40)), frames=33)
    first = int(rng.integers(33 - phase.frames + 1))
    pictures, masks = render_scene(scene, list(range(first, first + phase.frames)))
    if phase.height:
        top = int(rng.integers(96 - phase.height + 1))
        left = int(rng.integers(160 - phase.width + 1))
        pictures = pictures[:, top : top + phase.height, left : left + phase.width]
        masks = masks[:, :, top : top + phase.height, left : left + phase.width]
    if rng.random() < 0.5:
        pictures, masks = pictures[:, :, ::-1], masks[:, :, :, ::-1]
    return pictures, masks


def united(rng: np.random.Generator, masks: np.ndarray) -> np.ndarray:
    chosen = rng.random(len(masks)) < 0.45
    if not chosen.any() and rng.random() < 0.8:
        chosen[int(rng.integers(len(masks)))] = True
    return masks[chosen].any(0)


@pytest.mark.parametrize("phase", [Phase(1, 5, 3, 48, 64), Phase(1, 33, 1), Phase(1, 1, 12)])
def test_clips_for_the_vae_are_drawn_as_by_hand(phase: Phase) -> None:
    rng, again = np.random.default_rng(7), np.random.default_rng(7)
    found = picture_clips(rng, phase, 0.5)
    kinds = set()
    for clip in found:
        pictures, masks = drawn(again, phase)
        if again.random() < 0.5:
            kinds.add("mask")
            expected = np.repeat(united(again, masks)[..., None] * 2.0 - 1, 3, axis=-1)
        else:
            kinds.add("picture")
            expected = pictures / 127.5 - 1
        np.testing.assert_allclose(clip.permute(1, 2, 3, 0), expected, atol=1e-6)
    assert len(kinds) == 2 or phase.batch < 12
    truth = mask_clips(rng, phase)
    assert truth.dtype == torch.float32
    size = (phase.height or 96, phase.width or 160)
    assert truth.shape == (phase.batch, 1, phase.frames, *size)
    for clip in truth:
        np.testing.assert_array_equal(clip[0].numpy() > 0, united(again, drawn(again, phase)[1]))
    assert rng.random() == again.random()


def test_frames_of_a_clip_are_neighbours_anywhere() -> None:
    rng = np.random.default_rng(0)
    clips = [frame_indices(rng, 3, 5) for _ in range(40)]
    assert {tuple(clip) for clip in clips} == {(0, 1, 2), (1, 2, 3), (2, 3, 4)}
    seeds = [draw_scene_seed(rng) for _ in range(50)]
    assert min(seeds) >= TRAINING_SEED_BASE and max(seeds) - TRAINING_SEED_BASE > 2**38


# -- encoded clips -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return micro_pipeline().tokenizer


@pytest.mark.parametrize("frames", [1, 5])
def test_a_clip_is_encoded_with_all_its_sentences(vae: Any, tokenizer: Any, frames: int) -> None:
    seed = TRAINING_SEED_BASE + 3
    clip = encode_clip(
        vae, tokenizer, seed, np.random.default_rng(1), frames=frames, expressions=6, length=12
    )
    rng = np.random.default_rng(1)
    total = max(frames, int(rng.choice((17, 33, 33, 65, 97))))
    scene = sample_scene(seed, frames=total)
    first = int(rng.integers(total - frames + 1))
    pictures, masks = render_scene(scene, list(range(first, first + frames)))
    said = describe(scene.objects, rng, 6 if frames > 1 else 18, TRAINING_MIX)
    if frames == 1:
        assert any(s.says_motion for s in said)
        said = [s for s in said if not s.says_motion][:6]
    assert clip.kinds == tuple(s.kind for s in said)
    tokens, mask = tokenize(tokenizer, [clean_prompt(s.text) for s in said], 12)
    assert torch.equal(clip.tokens, tokens) and torch.equal(clip.mask, mask)
    video = torch.from_numpy(pictures / np.float32(127.5) - 1).permute(3, 0, 1, 2)[None]
    torch.testing.assert_close(clip.moments, encode_moments(vae, video)[0], rtol=1e-4, atol=1e-4)
    seen = masks.any(0)
    assert torch.equal(clip.objects, mask_cells(seen, clip.moments))
    for sentence, place in zip(said, clip.target_of, strict=True):
        union = masks[list(sentence.objects)].any(0)
        shown = torch.from_numpy(np.repeat(union[None], 3, 0)[None]).float() * 2 - 1
        latent = encode_moments(vae, shown)[0, :16]
        torch.testing.assert_close(clip.targets[place], latent, rtol=1e-4, atol=1e-4)
    assert len(clip.targets) == len(set(clip.target_of)) == len({s.objects for s in said})
    assert torch.equal(clip.labels, token_labels(scene.objects, masks, 16, 4))


def numbered(n: int, sentences: int = 2) -> EncodedClip:
    """A clip in which every number says which it is of."""
    rows = torch.arange(sentences)
    return EncodedClip(
        moments=torch.full((4, 1, 1, 1), float(n)),
        targets=(10 * n + rows.float()).view(-1, 1, 1, 1, 1).expand(-1, 2, 1, 1, 1),
        tokens=(100 * n + rows).view(-1, 1),
        mask=(200 * n + rows).view(-1, 1),
        target_of=tuple(reversed(range(sentences))),
        kinds=tuple(f"{n}{i}" for i in range(sentences)),
        objects=torch.full((1, 1, 1), float(n)),
        labels=torch.full((4, 1), n),
    )


def test_a_pool_keeps_the_newest_clips_and_draws_any(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[EncodedClip] = []

    def encode(vae: Any, tokenizer: Any, seed: int, rng: Any, **settings: Any) -> EncodedClip:
        assert (vae, tokenizer, settings) == ("vae", "tokenizer", {"frames": 5})
        assert seed >= TRAINING_SEED_BASE
        made.append(numbered(len(made)))
        return made[-1]

    monkeypatch.setattr("flowrvs.training.scratch.pool.encode_clip", encode)
    pool: Any = LatentPool("vae", "tokenizer", 3, np.random.default_rng(0), frames=5)  # type: ignore
    for count, kept in ((2, [0, 1]), (1, [0, 1, 2]), (2, [3, 4, 2]), (2, [6, 4, 5])):
        pool.refresh(count)
        assert [int(clip.labels[0]) for clip in pool.clips] == kept
    batch = pool.draw(60)
    assert len(set(batch.kinds)) == 6 and batch.moments.shape == (60, 4, 1, 1, 1)
    for row, kind in enumerate(batch.kinds):
        n, i = map(int, kind)
        assert batch.targets[row].flatten().tolist() == [10 * n + 1 - i] * 2
        assert (int(batch.tokens[row]), int(batch.mask[row])) == (100 * n + i, 200 * n + i)
        assert {int(x[row].flatten()[0]) for x in (batch.moments, batch.objects, batch.labels)} == {
            n
        }


def test_the_start_is_a_sample_or_the_mean_normalised() -> None:
    mean, logvar = torch.full((2, 3, 1, 2, 2), 5.0), torch.full((2, 3, 1, 2, 2), math.log(4))
    moments = torch.cat([mean, logvar], 1)
    shift, scale = torch.full((1, 3, 1, 1, 1), 1.0), torch.full((1, 3, 1, 1, 1), 2.0)
    assert (source_latents(moments, shift, scale, sample=False) == 2).all()
    torch.manual_seed(0)
    found = source_latents(moments, shift, scale, sample=True)
    torch.manual_seed(0)
    torch.testing.assert_close(found, (5 + 2 * torch.randn(2, 3, 1, 2, 2) - 1) / 2)


def test_labels_by_hand() -> None:
    scene = sample_scene(5)
    first, second = scene.objects[:2]
    masks = np.zeros((2, 5, 20, 40), bool)
    masks[0, 0, :3, :20] = True  # 0.15 of the first token: not enough
    masks[1, 0, :4, 20:] = True
    masks[0, 1:, :, :20] = True
    masks[1, 1:3, :, 20:] = True  # half of the time
    labels = token_labels((first, second), masks, 20, 4)
    of = [
        [list(names).index(getattr(item, kind)) for item in (first, second)]
        for kind, names in zip(
            ("shape", "color", "size", "motion"), (SHAPES, COLORS, SIZES, MOTIONS), strict=True
        )
    ]
    assert labels.tolist() == [[-100, b, a, b] for a, b in of]


# -- the flow ----------------------------------------------------------------------------


def test_times_from_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = [torch.tensor([0.0, 0.0005, 0.001, 0.0011, 0.25, 0.9999, 0.25]), torch.full((7,), 0.5)]
    drawn[1][-1] = 0.4
    given: list[Any] = []

    def rand(count: int, **options: Any) -> torch.Tensor:
        given.append((count, options))
        return drawn[(len(given) - 1) % 2].clone()

    monkeypatch.setattr(torch, "rand", rand)
    generator = torch.Generator()
    plain = sample_timesteps(7, 0.5, 0.0, CPU, generator)
    assert plain.tolist() == [1, 1, 1, 2, 250, 1000, 1000]
    assert given == [(7, {"device": CPU, "generator": generator})] * 2
    assert sample_timesteps(7, 0.0, 1.0, CPU)[4] == 500  # the root of a quarter


def test_stages_begin_or_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    for name in ("vae", "flow"):
        monkeypatch.setattr(
            train_module,
            f"train_{name}",
            lambda config, name=name, **options: calls.append((name, config, options)) or name,
        )
    flow = FlowStage(phases=(Phase(3, 1, 2),))
    config = ScratchConfig(out=str(tmp_path), vae=VAE, flow=flow)
    rest = {"progress": print, "cancel": CancelToken()}
    assert train_scratch(config, **rest) == "flow"
    assert calls == [(n, config, {"resume": False, **rest}) for n in ("vae", "flow")]
    for begun, expected in (("vae", [("vae", True), ("flow", False)]), ("flow", [("flow", True)])):
        calls.clear()
        (tmp_path / begun).mkdir()
        (tmp_path / begun / "checkpoint.pt").touch()
        train_scratch(config, resume=True)
        assert [(name, options["resume"]) for name, _, options in calls] == expected
    said = f"{tmp_path} holds a training already; give --resume or another folder."
    with pytest.raises(InputError) as caught:
        train_scratch(config)
    assert str(caught.value) == said
    for change in ({"phases": ()}, {"mask_phases": ()}):
        lacking = dataclasses.replace(config, vae=dataclasses.replace(VAE, **change))
        with pytest.raises(
            InputError, match="^The config lacks phases: each of vae .two lists. and"
        ):
            train_scratch(lacking, resume=True)


# -- loop, checkpoints, score, options ---------------------------------------------------


def test_the_loop_reports_scores_and_saves_when_it_is_time(tmp_path: Path) -> None:
    saved, events = list[int](), list[Progress]()
    loop = Loop(tmp_path, 9, saved.append, log_every=2, save_every=3, progress=events.append)
    loop.run("a", range(2, 7), lambda step: {"x": float(step)}, lambda: {"s": 0.5}, kind="k")
    lines = [
        {k: v for k, v in x.items() if k != "seconds"} for x in read_log(tmp_path / "log.jsonl")
    ]
    assert lines == [
        {"step": 3, "validation": True, "x": 2.0, "s": 0.5},
        {"step": 4, "kind": "k", "x": 3.0},
        {"step": 6, "kind": "k", "x": 4.5},
        {"step": 6, "validation": True, "s": 0.5},
        {"step": 7, "validation": True, "x": 6.0, "s": 0.5},
    ]
    assert saved == [3, 6, 7]
    assert [(e.done, e.total, e.message) for e in events] == [
        (4, 9, "a step 4"),
        (6, 9, "a step 6"),
    ]
    cancel = CancelToken()
    cancel.cancel()
    stopped = Loop(tmp_path, 9, saved.append, log_every=1, save_every=1, cancel=cancel)
    with pytest.raises(Cancelled):
        stopped.run("a", range(7, 9), lambda step: {})
    assert saved == [3, 6, 7, 7]
    quiet = Loop(tmp_path / "b", 2, saved.append, log_every=1, save_every=9)
    quiet.run("a", range(2), lambda step: {"x": 1.0})
    assert saved[4:] == [2] and len(read_log(tmp_path / "b" / "log.jsonl")) == 2


def test_rates_rise_and_fall_as_a_cosine() -> None:
    assert [cosine_rate(s, 12, 4) for s in (0, 1, 3, 4)] == [0.25, 0.5, 1.0, 1.0]
    assert cosine_rate(8, 12, 4) == pytest.approx(0.05 + 0.95 / 2)
    assert cosine_rate(6, 12, 4) == pytest.approx(0.05 + 0.475 * (1 + math.cos(math.pi / 4)))
    assert cosine_rate(12, 12, 4) == cosine_rate(99, 12, 4) == pytest.approx(0.05)
    assert cosine_rate(5, 5, 5) == 1.0 and cosine_rate(9, 12, 0, 0.5) == pytest.approx(
        0.5 + 0.25 * (1 + math.cos(math.pi * 0.75))
    )


def test_an_update_has_each_rate_and_a_clipped_norm() -> None:
    a, b = (torch.nn.Parameter(torch.tensor([1.0])) for _ in "ab")
    pairs = [(torch.optim.SGD([a], lr=9), 0.5), (torch.optim.SGD([b], lr=9), 0.25)]
    for _ in range(2):  # gradients do not add up
        assert update(3 * a.sum() + 4 * b.sum(), [a, b], pairs, 2.5) == pytest.approx(5)
    assert (a.item(), b.item()) == pytest.approx((1 - 2 * 0.5 * 1.5, 1 - 2 * 0.25 * 2), abs=1e-5)
    assert update(a.sum(), [a], pairs[:1]) == pytest.approx(1)
    assert a.item() == pytest.approx(-1.0, abs=1e-5)
    with pytest.raises(TrainingError, match=r"^The loss is nan \(gradient nan\): stopped before"):
        update(a.sum() * float("nan"), [a], pairs[:1])
    assert a.item() == pytest.approx(-1.0, abs=1e-5), "no step was made"


def test_a_state_is_written_whole_and_read_without_code(tmp_path: Path) -> None:
    path = tmp_path / "new" / "checkpoint.pt"
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    said = f"Nothing to resume: there is no checkpoint at {path}; leave out --resume."
    assert str(caught.value) == said
    save_checkpoint(path, {"step": 3, "x": torch.ones(2)})
    save_checkpoint(path, {"step": 4, "x": torch.ones(2)})
    assert load_checkpoint(path)["step"] == 4 and len(list(path.parent.iterdir())) == 1
    if sys.platform != "win32":  # which has no limits of files
        with small_disk(100), pytest.raises(StorageError, match="^Cannot write to "):
            save_checkpoint(path, {"step": 5, "x": torch.ones(2000)})
        assert load_checkpoint(path)["step"] == 4 and len(list(path.parent.iterdir())) == 1
    for damaged in (b"nothing", None):
        if damaged is None:
            torch.save({"step": Path}, path)  # a class is code
        else:
            path.write_bytes(damaged)
        with pytest.raises(
            CheckpointError, match=r"^The checkpoint .+ cannot be read \(\w+\); delete"
        ):
            load_checkpoint(path)


def test_the_score_is_the_error_beside_answering_nothing(vae: AutoencoderKLWan) -> None:
    tokenizer = build_word_tokenizer(["circle"])
    rng = np.random.default_rng(3)
    clips = [
        encode_clip(vae, tokenizer, 40 + n, rng, frames=5 if n else 1, expressions=7, length=4)
        for n in range(4)
    ]
    assert max(len(clip.kinds) for clip in clips) > 5 and VALIDATION_SEEDS == range(
        900_000, 900_024
    )
    mean, std = latent_statistics(vae)
    empty = {}
    for frames in (1, 5):
        empty[frames] = encode_moments(vae, torch.full((1, 3, frames, 96, 160), -1.0))[:, :16]

    def nothing(state: torch.Tensor, start: torch.Tensor, times: Any, batch: Any) -> torch.Tensor:
        assert torch.equal(state, start) and (times == 1000).all() and len(times) == len(start)
        assert len(start) <= 16
        torch.testing.assert_close(start, (batch.moments[:, :16] - mean) / std)
        return start - empty[1 if start.shape[2] == 1 else 5]

    def perfect(state: torch.Tensor, start: torch.Tensor, times: Any, batch: Any) -> torch.Tensor:
        return start - batch.targets

    def off(state: torch.Tensor, start: torch.Tensor, times: Any, batch: Any) -> torch.Tensor:
        return start - batch.targets - 0.5

    for found in (clips[:1], clips[1:]):
        scores = validate_flow(nothing, vae, found)
        assert {k: v for k, v in scores.items() if k != "none"} == pytest.approx(
            dict.fromkeys(set(scores) - {"none"}, 1.0), abs=1e-4
        )
        assert scores.get("none", 0) == pytest.approx(0, abs=1e-6)
        assert max(validate_flow(perfect, vae, found).values()) < 1e-9
    assert "none" in scores and len(scores) > 2
    pairs = [(clip, i) for clip in clips[1:] for i in range(min(5, len(clip.kinds)))]
    batch = stack_pairs(pairs)
    cells = batch.objects[:, None]
    wrong = (0.25 * torch.ones_like(batch.targets) * cells).sum((1, 2, 3, 4))
    spread = ((empty[5] - batch.targets).square() * cells).sum((1, 2, 3, 4))
    of = {kind: [n for n, k in enumerate(batch.kinds) if k == kind] for kind in set(batch.kinds)}
    asked = [n for kind, rows in of.items() if kind != "none" for n in rows]
    expected = {
        kind: float(
            wrong[rows].sum()
            / (spread[rows].sum() if kind != "none" else len(rows) * spread[asked].mean())
        )
        for kind, rows in of.items()
    }
    assert validate_flow(off, vae, clips[1:]) == pytest.approx(expected, rel=1e-4)


def test_what_the_options_are_by_themselves(tmp_path: Path) -> None:
    assert dataclasses.asdict(Phase(1, 2, 3)) == {
        "steps": 1, "frames": 2, "batch": 3, "height": 0, "width": 0, "refresh": 1.0,
    }  # fmt: skip
    assert dataclasses.asdict(VaeStage()) == {
        "phases": (), "mask_phases": (), "learning_rate": 1.5e-3, "mask_learning_rate": 1e-3,
        "warmup": 50, "kl_weight": 2e-4, "mask_share": 0.34, "latent_noise": 0.1,
        "autocast": True, "seed": 0, "save_every": 200, "log_every": 25,
    }  # fmt: skip
    assert dataclasses.asdict(FlowStage()) == {
        "phases": (), "decoder_phases": (), "learning_rate": 5e-5, "weight_decay": 5e-4,
        "clip_norm": 1.0, "matrix_learning_rate": 0.0, "warmup": 100, "ema_decay": 0.9999,
        "boundary_probability": 0.5, "time_power": 0.0, "start_point_augmentation": True,
        "video_injection": False, "object_weight": 0.0, "attribute_weight": 0.0,
        "attribute_block": 3, "train_text_encoder": False, "pool_size": 1000, "expressions": 10,
        "autocast": True, "compile": False, "seed": 0, "save_every": 200, "log_every": 25,
        "initial": "",
    }  # fmt: skip
    path = tmp_path / "c.toml"
    path.write_text("out='x'")
    assert load_scratch_config(path) == ScratchConfig(
        "x", VaeStage(), FlowStage(), "tiny", "flowrvs", False
    )
    for stage, key in (
        ("vae", "phases"),
        ("vae", "mask_phases"),
        ("flow", "phases"),
        ("flow", "decoder_phases"),
    ):
        for steps, frames, batch, good in (
            (1, 1, 1, True),
            (0, 1, 1, False),
            (1, 3, 1, False),
            (1, 5, 0, False),
        ):
            path.write_text(
                f"out='x'\n[[{stage}.{key}]]\nsteps={steps}\nframes={frames}\nbatch={batch}"
            )
            if good:
                assert getattr(getattr(load_scratch_config(path), stage), key) == (Phase(1, 1, 1),)
                continue
            with pytest.raises(InputError) as caught:
                load_scratch_config(path)
            assert str(caught.value) == (
                f"{path}: bad phase {Phase(steps, frames, batch)}: frames must be 4k + 1, steps "
                "and batch at least 1."
            )
    path.write_text("out='x'\npreset='huge'")
    with pytest.raises(
        InputError, match=f"^{re.escape(str(path))}: no preset 'huge'; choose from "
    ):
        load_scratch_config(path)
