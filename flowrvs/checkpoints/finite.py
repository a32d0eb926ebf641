"""Looking for NaN and infinity in weights, a few megabytes at a time.

An IEEE number is neither when its exponent is not all ones, so that no number has to be
converted and every width, bfloat16 included, is looked at alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from flowrvs.checkpoints.disk import CHUNK
from flowrvs.progress import CancelToken

__all__ = ["first_damaged"]

#: Width of a number in bytes, and its exponent's bits, by safetensors' codes.
_EXPONENTS = {
    "F64": (8, 0x7FF0_0000_0000_0000),
    "F32": (4, 0x7F80_0000),
    "F16": (2, 0x7C00),
    "BF16": (2, 0x7F80),
}


def first_damaged(
    path: Path,
    *,
    cancel: CancelToken | None = None,
    step: Callable[[int], object] | None = None,
) -> str | None:
    """Return the first tensor of a shard with a number that is NaN or infinite, or None.

    Parameters
    ----------
    path : Path
        A safetensors file whose header and length are known to be right.
    cancel : CancelToken, optional
    step : callable, optional
        Called with every count of bytes read.

    Raises
    ------
    Cancelled
        On request, within a few MB.
    """
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        for name, entry in header.items():
            if name == "__metadata__" or entry["dtype"] not in _EXPONENTS:
                continue  # whole numbers and the like
            width, exponent = _EXPONENTS[entry["dtype"]]
            start, stop = entry["data_offsets"]
            stream.seek(8 + length + start)
            left = stop - start
            while left:
                if cancel is not None:
                    cancel.raise_if_cancelled()
                block = stream.read(min(CHUNK, left))
                if not block:
                    return str(name)  # cut off since its length was checked
                numbers = np.frombuffer(block, f"<u{width}")
                if ((numbers & exponent) == exponent).any():
                    return str(name)
                left -= len(block)
                if step is not None:
                    step(len(block))
    return None
