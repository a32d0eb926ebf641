"""Memory modes, their estimates, and what happens when a device is full."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.peak_memory import production, trace
from flowrvs.errors import DeviceMemoryError, InputError
from flowrvs.models.devices import choose_device, choose_dtype, is_out_of_memory
from flowrvs.pipelines import load, memory
from flowrvs.pipelines.memory import (
    Estimate,
    _first_that_fits,
    describe,
    estimate_peak,
    place,
)
from flowrvs.pipelines.pipeline import FlowRVSPipeline
from tests.fixtures.micro import micro_pipeline

TEXTS = ["the red circle", "the blue square moving left", "all crosses"]


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (22, 40, 70, 3), np.uint8)


@pytest.fixture(scope="module")
def expected(frames: np.ndarray) -> np.ndarray:
    return micro_pipeline()(frames, TEXTS).logits


@pytest.fixture(scope="module")
def full_size() -> FlowRVSPipeline:
    """The production model, without weights."""
    return production()


@pytest.mark.parametrize("group", [1, 2])
def test_the_estimate_is_near_a_trace_of_the_allocations(
    full_size: FlowRVSPipeline, group: int
) -> None:
    size = {"frames": 33, "height": 240, "width": 416}
    traced = trace(full_size, **size, group=group, sentences=2)
    guess = estimate_peak(full_size, "full", **size, group=group, sentences=2)
    for part, peak in traced.items():
        assert getattr(guess, part) == pytest.approx(peak, rel=0.25), part


@pytest.mark.parametrize(
    ("mode", "options", "weights", "encode", "deform", "decode", "peak"),
    [
        ("full", {}, 3091768290, 3899031552, 1878589440, 5235130368, 8326898658),
        ("offload", {}, 3091768290, 3899031552, 1878589440, 5235130368, 5488905058),
        ("low", {}, 442974263, 2672197632, 1878589440, 3701587968, 3955362658),
        (
            "full",
            {"frames": 33, "height": 240, "width": 416, "sentences": 2, "group": 3},
            *(3091768290, 1281466368, 402554880, 1692168192, 4783936482),
        ),
    ],
)
def test_an_estimate_changes_on_purpose_alone(
    full_size: FlowRVSPipeline,
    mode: str,
    options: dict,
    weights: int,
    encode: int,
    deform: int,
    decode: int,
    peak: int,
) -> None:
    expected = Estimate(mode, weights, encode, deform, decode, peak)
    assert estimate_peak(full_size, mode, **options) == expected


def test_estimates_of_a_vae_that_packs_pixels() -> None:
    pipe = micro_pipeline()
    expected = Estimate("low", 635344, 154214, 15552, 234700, 781308)
    assert estimate_peak(pipe, "low") == expected
    more = estimate_peak(pipe, "low", frames=6, height=64, width=96, sentences=3)
    assert more == Estimate("low", 635344, 616857, 186624, 938803, 1485411)


def test_what_is_told_of_the_memory(
    full_size: FlowRVSPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: int(24.06e9))
    monkeypatch.setattr(full_size, "memory_mode", "low")
    monkeypatch.setattr(full_size, "latent_group", 2)
    group = estimate_peak(full_size, "low", group=2).peak / 1e9
    assert describe(full_size, torch.device("cuda:1")) == (
        f"Memory mode low: about {group:.1f} GB of cuda:1 for 81 frames; 24.1 GB are free."
    )
    assert estimate_peak(full_size, "low").peak / 1e9 != pytest.approx(group, rel=0.01)


@pytest.mark.parametrize("mode", ["full", "offload", "low"])
def test_where_models_are_put_on_a_gpu(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """What is asked of diffusers, where there is no GPU to ask it for."""
    done: list[tuple[str, object]] = []
    pipe, cuda = micro_pipeline(), torch.device("cuda:1")
    monkeypatch.setattr(pipe, "to", lambda d: done.append(("pipe", d)))
    monkeypatch.setattr(pipe.vae, "to", lambda d: done.append(("vae", d)))
    monkeypatch.setattr(
        pipe, "enable_model_cpu_offload", lambda device: done.append(("turns", device))
    )
    monkeypatch.setattr(
        memory, "apply_group_offloading", lambda model, **how: done.append(("blocks", (model, how)))
    )
    assert place(pipe, cuda, mode) == mode == pipe.memory_mode
    assert (pipe.latent_group, pipe.sentence_batch) == ((1, 1) if mode == "low" else (2, 0))
    blocks = {
        "onload_device": cuda,
        "offload_device": torch.device("cpu"),
        "offload_type": "block_level",
        "num_blocks_per_group": 1,
        "use_stream": True,
    }
    assert (
        done
        == {
            "full": [("pipe", cuda)],
            "offload": [("turns", cuda)],
            "low": [("vae", cuda), ("blocks", (pipe.transformer, blocks))],
        }[mode]
    )


def test_frames_count_by_the_latents_that_hold_them(full_size: FlowRVSPipeline) -> None:
    first = estimate_peak(full_size, frames=1).deform
    deform = [estimate_peak(full_size, frames=frames).deform for frames in (2, 5, 6, 9)]
    assert deform == [2 * first, 2 * first, 3 * first, 3 * first]


def test_the_production_model_fits_where_it_should(full_size: FlowRVSPipeline) -> None:
    assert estimate_peak(full_size, "full").peak < 11e9
    assert estimate_peak(full_size, "low").peak < 6e9
    peaks = [estimate_peak(full_size, mode).peak for mode in ("full", "offload", "low")]
    assert peaks == sorted(peaks, reverse=True)
    # a tenth of what is free stays free
    assert _first_that_fits(full_size, int(peaks[0] / 0.89)) == "full"
    assert _first_that_fits(full_size, int(peaks[0] / 0.91)) == "offload"


@pytest.mark.parametrize(
    ("free", "mode"), [(80e9, "full"), (12e9, "full"), (7e9, "offload"), (5e9, "low"), (1, "low")]
)
def test_auto_takes_the_quickest_mode_that_fits(
    full_size: FlowRVSPipeline, free: float, mode: str
) -> None:
    assert _first_that_fits(full_size, int(free)) == mode


def test_where_memory_is_unknown_auto_is_full() -> None:
    pipe = micro_pipeline()
    assert place(pipe, torch.device("cpu"), "auto") == "full"
    assert describe(pipe, torch.device("cpu")) == ""


@pytest.mark.parametrize("mode", ["full", "offload", "low"])
def test_every_mode_gives_the_same_logits(
    frames: np.ndarray, expected: np.ndarray, mode: str
) -> None:
    pipe = micro_pipeline()
    assert place(pipe, torch.device("cpu"), mode) == mode
    np.testing.assert_allclose(pipe(frames, TEXTS).logits, expected, atol=1e-5)


def test_models_that_take_turns_give_the_same_logits(
    frames: np.ndarray, expected: np.ndarray
) -> None:
    """Accelerate's hooks, with the CPU as both sides: the order of the calls is what counts."""
    from accelerate import cpu_offload_with_hook

    pipe = micro_pipeline()
    seen = []
    before = None
    pipe._all_hooks = []
    for name in ("text_encoder", "transformer", "vae"):
        model = getattr(pipe, name)
        _, before = cpu_offload_with_hook(model, torch.device("cpu"), prev_module_hook=before)
        pipe._all_hooks.append(before)
        stock = model._hf_hook.pre_forward

        def count(*args: object, _stock: Callable = stock, _name: str = name, **more: object):
            seen.append(_name)
            return _stock(*args, **more)

        model._hf_hook.pre_forward = count
    assert pipe.takes_turns
    pipe.sentence_batch = 1
    np.testing.assert_allclose(pipe(frames, TEXTS).logits, expected, atol=1e-5)
    turns = [name for i, name in enumerate(seen) if not i or seen[i - 1] != name]
    # All sentences are deformed before the first is decoded: the models change places once.
    assert turns == ["text_encoder", "vae", "transformer", "vae"]


class TestFullDevice:
    def _overflow(
        self, pipe: FlowRVSPipeline, model: torch.nn.Module, axis: int, room: int
    ) -> list[int]:
        """Let a model fail as CUDA does when it is given more than `room` along an axis."""
        sizes: list[int] = []

        def check(_: object, args: tuple, kwargs: dict) -> None:
            given = args[0] if args else kwargs["hidden_states"]
            sizes.append(given.shape[axis])
            if given.shape[axis] > room:
                raise torch.OutOfMemoryError("CUDA out of memory.")

        model.register_forward_pre_hook(check, with_kwargs=True)
        return sizes

    def test_the_encoder_goes_on_with_smaller_groups(
        self, frames: np.ndarray, expected: np.ndarray
    ) -> None:
        pipe = micro_pipeline()
        sizes = self._overflow(pipe, pipe.vae.encoder, 2, 4)
        np.testing.assert_allclose(pipe(frames, TEXTS).logits, expected, atol=1e-5)
        assert pipe.latent_group == 1
        assert {16, 8, 4} <= set(sizes) <= {16, 8, 4, 1}, "the groups are halved each time"

    def test_the_decoder_goes_on_where_it_was(
        self, frames: np.ndarray, expected: np.ndarray
    ) -> None:
        pipe = micro_pipeline()
        self._overflow(pipe, pipe.vae.decoder, 2, 2)
        np.testing.assert_allclose(pipe(frames, TEXTS).logits, expected, atol=1e-5)
        assert pipe.latent_group == 2

    def test_sentences_go_in_smaller_batches(
        self, frames: np.ndarray, expected: np.ndarray
    ) -> None:
        pipe = micro_pipeline()
        sizes = self._overflow(pipe, pipe.transformer, 0, 1)
        np.testing.assert_allclose(pipe(frames, TEXTS).logits, expected, atol=1e-5)
        assert sizes[0] == 3 and sizes[-3:] == [1, 1, 1]

    @pytest.mark.parametrize("part", ["encoder", "decoder", "transformer"])
    def test_a_device_that_holds_nothing_is_one_line(self, frames: np.ndarray, part: str) -> None:
        pipe = micro_pipeline()
        model = pipe.transformer if part == "transformer" else getattr(pipe.vae, part)
        self._overflow(pipe, model, 0, 0)
        with pytest.raises(DeviceMemoryError, match="smaller window") as caught:
            pipe(frames, TEXTS)
        assert "\n" not in str(caught.value)

    def test_other_errors_of_a_model_are_not_taken_for_it(self, frames: np.ndarray) -> None:
        pipe = micro_pipeline()
        pipe.vae.decoder.register_forward_pre_hook(lambda *_: torch.zeros(2) @ torch.zeros(3))
        with pytest.raises(RuntimeError, match="inconsistent tensor size") as caught:
            pipe(frames, TEXTS)
        assert not is_out_of_memory(caught.value)

    def test_the_cpus_allocator_is_understood(self) -> None:
        with pytest.raises(RuntimeError) as caught:
            torch.empty(2**60)
        assert is_out_of_memory(caught.value)
        assert is_out_of_memory(RuntimeError("could not create a primitive")), "of oneDNN"


def test_float16_that_overflows_is_told(frames: np.ndarray) -> None:
    pipe = micro_pipeline()
    pipe.vae.to(torch.float16)
    with torch.no_grad():
        pipe.vae.decoder.conv_out.bias.fill_(float("nan"))
    with pytest.raises(InputError, match="--dtype float32"):
        pipe(frames[:1], TEXTS[:1])


def test_number_formats_and_devices(tmp_path: Path) -> None:
    cpu = choose_device("cpu")
    assert choose_dtype("auto", cpu) == torch.float32
    assert choose_dtype("bfloat16", cpu) == torch.bfloat16
    with pytest.raises(InputError, match="number format"):
        load("tiny", dtype="int4")
    with pytest.raises(InputError, match="text precision"):
        load("tiny", text_precision="half")
    pipe = load("tiny", device="cpu", dtype="bfloat16")
    kinds = {p.dtype for part in (pipe.transformer, pipe.vae) for p in part.parameters()}
    assert kinds == {torch.bfloat16}
