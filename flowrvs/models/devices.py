"""What the machine can do, devices, number formats, memory; and libraries kept silent."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from flowrvs.errors import (
    CheckpointError,
    DeviceMemoryError,
    FlowRVSError,
    InputError,
    first_line,
)

__all__ = [
    "choose_device",
    "choose_dtype",
    "free_memory",
    "is_out_of_memory",
    "loading",
    "memory_guard",
    "mixed_precision",
    "release",
    "silent_libraries",
]

_DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}


def choose_device(name: str) -> torch.device:
    """Return the device of that name; ``"auto"`` is CUDA, then MPS, then the CPU.

    Raises
    ------
    InputError
        It is not a device, or not one of this machine's.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"Unknown device {name!r}; use auto, cpu, cuda, cuda:N or mps.") from None
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }.get(device.type, False)
    if not available:
        raise InputError(f"There is no device {name!r} here; use --device auto or cpu.")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the number format of that name, or for ``"auto"`` the best for a device.

    bfloat16 on GPUs that have it (the published masks were made in it), float16 on older
    ones, float32 on a CPU.

    Raises
    ------
    InputError
        Unknown format.
    """
    if name != "auto":
        if name not in _DTYPES:
            raise InputError(f"Unknown number format {name!r}; use auto, {', '.join(_DTYPES)}.")
        return _DTYPES[name]
    if device.type == "cuda":
        capable = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if capable else torch.float16
    if device.type == "mps":
        newer = torch.backends.mps.is_macos_or_newer(14, 0)
        return torch.bfloat16 if newer else torch.float16
    return torch.float32


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a device; None where nobody knows (or it is the CPU's)."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        limit = torch.mps.recommended_max_memory()
        return int(limit - torch.mps.driver_allocated_memory())
    return None


def release(device: torch.device) -> None:
    """Give memory that nothing holds any more back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch means by this error that a device or the computer is full."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The CPU's allocator, MPS, cuDNN and oneDNN ("a primitive") say it in words alone.
    words = "out of memory|can't allocate memory|ALLOC_FAILED|not enough memory|create a primitive"
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words.split("|"))


@contextmanager
def memory_guard(
    what: str, remedy: str = "choose a smaller window, --memory low or --device cpu"
) -> Iterator[None]:
    """Turn torch's out-of-memory error, a RuntimeError, into ours: one line with a remedy."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, FlowRVSError) or not is_out_of_memory(error):
            raise
        raise DeviceMemoryError(f"The device ran out of memory on {what}; {remedy}.") from error


@contextmanager
def silent_libraries() -> Iterator[None]:
    """Hold back the libraries' progress bars and warnings, and leave them as they were."""
    libraries = (diffusers_logging, transformers_logging)
    bars = [log for log in libraries if log.is_progress_bar_enabled()]
    levels = [(log, log.get_verbosity()) for log in libraries]
    for log in bars:
        log.disable_progress_bar()
    for log, _ in levels:
        log.set_verbosity_error()
    try:
        yield
    finally:
        for log in bars:
            log.enable_progress_bar()
        for log, level in levels:
            log.set_verbosity(level)


@contextmanager
def loading(folder: Path, kind: str) -> Iterator[None]:
    """Say in one line why a folder cannot be loaded: configs of others fail in many ways."""
    try:
        with silent_libraries():
            yield
    except (FlowRVSError, MemoryError):
        raise
    except Exception as error:
        raise CheckpointError(
            f"{folder} cannot be loaded as {kind}: {first_line(error)}"
        ) from error


@contextmanager
def mixed_precision(device: torch.device, enabled: bool) -> Iterator[None]:
    """Autocast to bfloat16, without torch's hint that float32 norms are not fused."""
    with warnings.catch_warnings(), torch.autocast(device.type, torch.bfloat16, enabled=enabled):
        warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
        yield
