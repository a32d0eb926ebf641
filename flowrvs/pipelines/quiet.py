"""Holding back what diffusers and transformers print while models are loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

__all__ = ["quiet"]


@contextmanager
def quiet() -> Iterator[None]:
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
