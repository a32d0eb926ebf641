"""The hub's settings in the environment, before huggingface_hub stumbles over them."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from flowrvs.errors import InputError

__all__ = ["check_settings"]

_NUMBERS = ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT")


def check_settings() -> None:
    """Refuse settings with which huggingface_hub, and so diffusers, cannot be imported.

    Raises
    ------
    InputError
        Names the variable.
    """
    endpoint = os.environ.get("HF_ENDPOINT", "")
    try:
        # The host is parsed when it is asked for, and so is the port.
        _ = urlsplit(endpoint).hostname, urlsplit(endpoint).port
    except ValueError as error:
        raise InputError(
            f"HF_ENDPOINT is {endpoint!r}, which is no address ({error}); unset it, or give one "
            "such as https://huggingface.co."
        ) from error
    for name in _NUMBERS:
        value = os.environ.get(name)
        if value is not None and not value.strip().isdecimal():
            raise InputError(f"{name} is {value!r}; unset it, or give whole seconds.")
