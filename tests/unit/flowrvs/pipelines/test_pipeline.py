"""The pipeline against its definition, on real components with random weights."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from flowrvs.errors import Cancelled, CheckpointError, InputError, VideoError
from flowrvs.models.presets import PRESETS, build_transformer, build_vae
from flowrvs.pipelines import FlowRVSPipeline
from flowrvs.pipelines.geometry import (
    ClipGeometry,
    fit_inside,
    iter_clip,
    normalise,
    plan_clip,
    resize_logits,
)
from flowrvs.pipelines.loading import load
from flowrvs.pipelines.pipeline import EncodedVideo
from flowrvs.pipelines.stages import flow_sigmas
from flowrvs.progress import CancelToken
from flowrvs.records import Segmenter
from tests.fixtures.micro import micro_pipeline

TEXTS = ["the red circle", "the blue square moving left"]


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 40, 70, 3), np.uint8)


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("video_injection", [False, True])
@torch.no_grad()
def test_logits_follow_the_written_method(
    frames: np.ndarray, steps: int, video_injection: bool
) -> None:
    """Recomputed here step by step from the stock parts alone (facts of the method)."""
    pipe = micro_pipeline(video_injection=video_injection)
    count = len(pipe.vae.config.latents_mean)
    pipe.vae.register_to_config(
        latents_mean=np.linspace(-0.4, 0.5, count).tolist(),
        latents_std=np.linspace(0.5, 2.0, count).tolist(),
    )
    ours = pipe(frames, TEXTS, num_inference_steps=steps).logits

    geometry = plan_clip(frames, box=(32, 48), multiple=16, temporal=4)
    (clip,) = iter_clip(frames, geometry, [(0, 9)])
    video = normalise(clip, torch.float32)
    assert video.shape == (1, 3, 9, 16, 48)
    latents = pipe.vae.encode(video).latent_dist.mean
    mean = torch.tensor(pipe.vae.config.latents_mean).view(1, -1, 1, 1, 1)
    std = torch.tensor(pipe.vae.config.latents_std).view(1, -1, 1, 1, 1)
    start = (latents - mean) / std
    for text, logits in zip(TEXTS, ours, strict=True):
        ids = pipe.tokenizer(text, padding="max_length", max_length=12, return_tensors="pt")
        hidden = pipe.text_encoder(ids.input_ids, ids.attention_mask).last_hidden_state
        hidden = hidden * ids.attention_mask[..., None]
        grid = np.linspace(1.0, 0.001, steps + 1)[:-1]
        times = np.round(3 * grid / (1 + 2 * grid) * 1000)
        state = start
        for time, after in zip(times, [*times[1:], 0.0], strict=True):
            inputs = torch.cat([state, start], 1) if video_injection else state
            velocity = pipe.transformer(inputs, torch.tensor([time]), hidden).sample
            state = state + (after - time) / 1000 * velocity
        decoded = pipe.vae.decode(state).sample[0, 0, : geometry.frames]
        resized = F.interpolate(decoded[:, None], (40, 70), mode="bilinear")[:, 0]
        assert logits.shape == (6, 40, 70)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, resized.numpy(), atol=1e-4)


def test_step_times() -> None:
    assert flow_sigmas(1) == [1.0]
    assert flow_sigmas(2) == [1.0, 0.75]
    assert flow_sigmas(4) == [1.0, 0.9, 0.75, 0.501]
    assert len(flow_sigmas(1000)) == 1000
    for steps in (0, 1001):
        with pytest.raises(InputError, match=f"Cannot take {steps} flow steps"):
            flow_sigmas(steps)


def test_steps_are_told_of_one_by_one(frames: np.ndarray) -> None:
    """One encoding, then the steps of each sentence, then a decoding of each."""
    pipe = micro_pipeline()
    told: list[str] = []
    pipe.vae.encoder.register_forward_hook(lambda *_: told.append("encode"))
    pipe.transformer.register_forward_hook(lambda *_: told.append("deform"))
    pipe.vae.decoder.register_forward_hook(lambda *_: told.append("decode"))
    pipe.sentence_batch = 1
    list(pipe.segment_window(frames, TEXTS, steps=3, on_step=lambda: told.append("step")))
    short = [what for n, what in enumerate(told) if n == 0 or what == "step" or told[n - 1] != what]
    sentence = ["deform", "step"] * 3 + ["decode", "step"]
    assert short == ["encode", "step", *sentence, *sentence]
    pipe.sentence_batch = 2
    counted: list[int] = []
    list(pipe.segment_window(frames, TEXTS, steps=3, on_step=lambda: counted.append(1)))
    assert len(counted) == 1 + 2 * 3 + 2


def test_sentences_that_go_together_depend_on_the_size_of_the_clip(frames: np.ndarray) -> None:
    pipe = micro_pipeline()
    clip = pipe.encode_video(frames)
    assert clip.latents.shape == (1, 16, 3, 2, 6)
    assert pipe.batch_size(clip) == 8, "at most"
    for cells, count in ((2049, 7), (8192, 2), (8193, 1), (10**6, 1)):
        large = EncodedVideo(torch.zeros(1, 1, 1, 1, cells), clip.geometry)
        assert pipe.batch_size(large) == count
    pipe.sentence_batch = 3
    assert pipe.batch_size(clip) == 3


@pytest.mark.parametrize(
    ("size", "fitted"),
    [((480, 832), (480, 832)), ((1080, 1920), (464, 832)), ((1920, 1080), (480, 256))],
)
def test_frames_fit_inside_the_production_box(
    size: tuple[int, int], fitted: tuple[int, int]
) -> None:
    assert fit_inside(*size, 480, 832, 16) == fitted


def test_a_very_long_picture_keeps_one_token_row() -> None:
    assert fit_inside(4, 4000, 96, 160, 16) == (16, 160)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_masks_are_those_of_a_sigmoid_in_the_models_format(dtype: torch.dtype) -> None:
    """The published code resizes, takes the sigmoid and compares with 0.5 in bfloat16."""
    logits = (torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0)) / 50).to(dtype)
    geometry = ClipGeometry(3, 37, 20, 5, 16, 16)
    published = F.interpolate(logits[:, None], (37, 20), mode="bilinear", align_corners=False)
    expected = torch.sigmoid(published[:, 0]) > 0.5
    ours = resize_logits(logits, geometry)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours > 0, expected)


def test_saving_and_loading_gives_equal_logits(frames: np.ndarray, tmp_path: Path) -> None:
    pipe = micro_pipeline(video_injection=True)
    before = pipe(frames, TEXTS).logits
    pipe.save_pretrained(tmp_path / "model")
    again = FlowRVSPipeline.from_pretrained(tmp_path / "model")
    assert again.injects_video
    np.testing.assert_allclose(again(frames, TEXTS).logits, before, atol=1e-5)
    loaded = load(tmp_path / "model", device="cpu")
    assert isinstance(loaded, Segmenter)
    assert (loaded.name, loaded.window_size, loaded.overlap) == ("model", 9, 2)
    np.testing.assert_allclose(loaded(frames, TEXTS).logits, before, atol=1e-4)


def test_the_video_is_encoded_once_for_all_sentences(frames: np.ndarray) -> None:
    pipe = micro_pipeline()
    calls = []
    pipe.vae.encoder.register_forward_hook(lambda *_: calls.append(1))
    list(pipe.segment_window(frames, TEXTS[:1]))
    once = len(calls)
    list(pipe.segment_window(frames, [*TEXTS, "all crosses"]))
    assert len(calls) == 2 * once


def test_a_known_sentence_is_not_embedded_again(frames: np.ndarray) -> None:
    pipe = micro_pipeline()
    calls = []
    pipe.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    first = pipe.encode_prompt(TEXTS)
    assert len(calls) == 2
    again = pipe.encode_prompt([TEXTS[1], " the  RED circle "])
    assert len(calls) == 2
    torch.testing.assert_close(again[0], first[1])
    torch.testing.assert_close(again[1], first[0])


def test_cancelling_stops_before_the_next_step(frames: np.ndarray) -> None:
    pipe = micro_pipeline()
    cancel = CancelToken()
    steps = []

    def count() -> None:
        steps.append(threading.get_ident())
        if len(steps) == 2:
            cancel.cancel()

    with pytest.raises(Cancelled):
        list(pipe.segment_window(frames, TEXTS[:1], steps=4, cancel=cancel, on_step=count))
    assert len(steps) == 2


@pytest.mark.parametrize("part", ["transformer", "encoder", "decoder"])
def test_cancelling_stops_within_a_pass_of_a_model(frames: np.ndarray, part: str) -> None:
    pipe = micro_pipeline()
    blocks = {
        "transformer": pipe.transformer.blocks,
        "encoder": pipe.vae.encoder.down_blocks,
        "decoder": pipe.vae.decoder.up_blocks,
    }[part]
    cancel = CancelToken()
    blocks[0].register_forward_hook(lambda *_: cancel.cancel())
    seen: list[int] = []
    blocks[1].register_forward_hook(lambda *_: seen.append(1))
    with pytest.raises(Cancelled):
        list(pipe.segment_window(frames, TEXTS[:1], cancel=cancel))
    assert not seen
    assert not any(block._forward_pre_hooks for block in blocks)


def test_wrong_parts_are_refused_by_name() -> None:
    pipe = micro_pipeline()
    parts = {k: getattr(pipe, k) for k in ("text_encoder", "tokenizer")}
    preset = PRESETS["micro"]
    with pytest.raises(CheckpointError, match="not one mask"):
        FlowRVSPipeline.from_parts(
            transformer=pipe.transformer, vae=build_vae(preset), preset=preset, **parts
        )
    odd = build_transformer(preset)
    odd.patch_embedding = torch.nn.Conv3d(20, 24, (1, 2, 2), (1, 2, 2))
    with pytest.raises(CheckpointError, match="20 channels"):
        FlowRVSPipeline.from_parts(transformer=odd, vae=pipe.vae, preset=preset, **parts)


@pytest.mark.parametrize(
    ("frames", "texts", "error"),
    [
        (np.zeros((2, 40, 40), np.uint8), ["x"], VideoError),
        (np.zeros((0, 40, 40, 3), np.uint8), ["x"], VideoError),
        (np.zeros((2, 40, 40, 3), np.float32), ["x"], VideoError),
        (np.zeros((2, 40, 40, 3), np.uint8), ["  "], InputError),
    ],
)
def test_unusable_input_gets_one_line(
    frames: np.ndarray, texts: list[str], error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        list(micro_pipeline().segment_window(frames, texts))
    assert "\n" not in str(caught.value)


def test_loading_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"lacks model_index\.json"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match="neither a folder"):
        load(tmp_path / "missing")
    with pytest.raises(InputError, match="device"):
        load("tiny", device="abacus")
    with pytest.raises(InputError, match="memory"):
        load("tiny", memory="infinite")


def test_a_damaged_weight_file_gets_one_line(tmp_path: Path) -> None:
    micro_pipeline().save_pretrained(tmp_path / "model")
    weights = tmp_path / "model" / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be loaded") as caught:
        load(tmp_path / "model", device="cpu")
    assert "\n" not in str(caught.value)
