"""Which device and numbers are chosen, what is said of memory, and libraries left as they were."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from flowrvs.errors import CheckpointError, DeviceMemoryError, InputError
from flowrvs.models.devices import (
    choose_device,
    choose_dtype,
    free_memory,
    is_out_of_memory,
    loading,
    memory_guard,
    mixed_precision,
    release,
    silent_libraries,
)

CPU, CUDA, MPS = map(torch.device, ("cpu", "cuda", "mps"))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Says what the machine has."""

    def has(*, gpus: int = 0, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return has


def test_the_device_is_the_best_there_is_or_the_one_that_is_named(machine) -> None:
    machine(gpus=2, mps=True)
    assert choose_device("auto") == CUDA and choose_device("cpu") == CPU
    assert choose_device("cuda:1") == torch.device("cuda:1") and choose_device("mps") == MPS
    with pytest.raises(InputError, match=r"no device 'cuda:2' here; use --device auto or cpu"):
        choose_device("cuda:2")
    machine(mps=True)
    assert choose_device("auto") == MPS
    machine()
    assert choose_device("auto") == CPU
    for name in ("cuda", "mps", "meta"):
        with pytest.raises(InputError, match=f"There is no device '{name}' here"):
            choose_device(name)
    with pytest.raises(InputError, match="Unknown device 'abacus'; use auto, cpu, cuda"):
        choose_device("abacus")


@pytest.mark.parametrize(
    ("capability", "number"),
    [((7, 5), "float16"), ((8, 0), "bfloat16"), ((8, 6), "bfloat16"), ((9, 0), "bfloat16")],
)
def test_16_bits_on_gpus_by_what_they_are_capable_of(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], number: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_dtype("auto", CUDA) == getattr(torch, number)
    assert choose_dtype("float32", CUDA) == torch.float32
    newer = capability >= (8, 0)
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(
        torch.backends.mps, "is_macos_or_newer", lambda *v: asked.append(v) or newer
    )
    assert choose_dtype("auto", MPS) == getattr(torch, number) and asked == [(14, 0)]
    assert choose_dtype("auto", CPU) == torch.float32
    assert choose_dtype("float16", CPU) == torch.float16


def test_free_memory_is_what_the_device_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (7, 90))
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 100)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 30)
    assert [free_memory(d) for d in (CUDA, MPS, CPU)] == [7, 70, None]


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("[enforce fail] not enough memory: you tried to allocate"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_a_full_device_is_told_from_other_errors(error: Exception, full: bool) -> None:
    assert is_out_of_memory(error) == full
    with pytest.raises(DeviceMemoryError if full else type(error)) as caught, memory_guard("x"):
        raise error
    if full:
        assert str(caught.value) == (
            "The device ran out of memory on x; choose a smaller window, --memory low or "
            "--device cpu."
        )
        assert caught.value.__cause__ is error
    else:
        assert caught.value is error


def test_our_own_memory_error_goes_through_as_it_is() -> None:
    ours = DeviceMemoryError("It is too small: out of memory.")
    with pytest.raises(DeviceMemoryError) as caught, memory_guard("x", "try y"):
        raise ours
    assert caught.value is ours


@pytest.mark.parametrize("fails", [False, True])
def test_libraries_are_as_loud_afterwards_as_before(fails: bool) -> None:
    libraries = (diffusers_logging, transformers_logging)
    before = [(log.is_progress_bar_enabled(), log.get_verbosity()) for log in libraries]
    try:
        for log in libraries:
            log.enable_progress_bar()
            log.set_verbosity_info()
        try:
            with silent_libraries():
                for log in libraries:
                    assert not log.is_progress_bar_enabled()
                    assert log.get_verbosity() == log.ERROR
                if fails:
                    raise KeyError("x")
        except KeyError:
            assert fails
        assert all(log.is_progress_bar_enabled() for log in libraries)
        assert all(log.get_verbosity() == log.INFO for log in libraries)
        diffusers_logging.disable_progress_bar()
        with silent_libraries():
            pass
        assert not diffusers_logging.is_progress_bar_enabled(), "it was off before"
    finally:
        for log, (bar, level) in zip(libraries, before, strict=True):
            (log.enable_progress_bar if bar else log.disable_progress_bar)()
            log.set_verbosity(level)


def test_what_a_library_says_of_a_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught, loading(tmp_path, "a tracker"):
        raise OSError("no\nsuch config")
    assert str(caught.value).startswith(f"{tmp_path} cannot be loaded as a tracker: no")
    assert "\n" not in str(caught.value)
    for error in (InputError("x"), MemoryError("y")):
        with pytest.raises(type(error)) as caught, loading(tmp_path, "a tracker"):
            raise error
        assert caught.value is error


def test_mixed_precision_computes_in_16_bits_where_it_is_on() -> None:
    for enabled, number in ((True, torch.bfloat16), (False, torch.float32)):
        with mixed_precision(CPU, enabled):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == number


def test_memory_is_given_back_to_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    import gc

    called: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: called.append("cuda"))
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: called.append("mps"))
    monkeypatch.setattr(gc, "collect", lambda: called.append("gc"))
    for device, expected in ((CUDA, ["gc", "cuda"]), (MPS, ["gc", "mps"]), (CPU, ["gc"])):
        called.clear()
        release(device)
        assert called == expected
