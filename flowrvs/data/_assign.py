"""Assign videos to splits: stratified, seeded, the same whatever order they come in."""

from __future__ import annotations

import math
import random
from collections.abc import Hashable, Mapping

from flowrvs.data._sources import Source
from flowrvs.errors import InputError

__all__ = ["assign", "parse_shares", "stratum"]


def stratum(source: Source) -> tuple[Hashable, ...]:
    """Return what videos of one kind share: kinds of sentences, how many, how long."""
    sizes = [len(ids) for _, ids in source.expressions.values()]
    return (
        0 in sizes,
        any(size > 1 for size in sizes),
        math.floor(math.log2(len(sizes) + 1)),
        math.floor(math.log2(len(source.frames) + 1) / 2),
    )


def assign(
    kinds: Mapping[str, tuple[Hashable, ...]], shares: Mapping[str, float], seed: int
) -> dict[str, str]:
    """Return the split of every video.

    Every split gets its share of all videos, rounded, and at least one while there are
    enough; within each kind of video the shares hold as nearly as whole videos can.

    Parameters
    ----------
    kinds : dict of str to tuple
        The stratum of each video.
    shares : dict of str to float
        By split; they need not add up to 1.
    seed : int
        Equal seeds give equal splits.

    Raises
    ------
    InputError
        A share is negative, or all are zero.
    """
    total = sum(shares.values())
    if not shares or min(shares.values()) < 0 or not 0 < total < math.inf:
        raise InputError("The shares of the splits must be 0 or more, and not all 0: 0.8,0.1,0.1.")
    quota = _quotas({k: v / total for k, v in shares.items()}, len(kinds))
    rng = random.Random(seed)
    mixed = sorted(kinds)
    rng.shuffle(mixed)
    mixed.sort(key=lambda name: repr(kinds[name]))  # stable: mixed within a kind
    done = dict.fromkeys(quota, 0)
    found = {}
    for position, name in enumerate(mixed, start=1):
        # The split that lags most behind its share so far.
        lag = {s: quota[s] * position / len(mixed) - done[s] for s in quota if done[s] < quota[s]}
        chosen = max(lag, key=lambda s: lag[s])
        done[chosen] += 1
        found[name] = chosen
    return found


def parse_shares(text: str, format: str = "mevis") -> dict[str, float]:
    """Return the share of every split that ``--assign`` names.

    Raises
    ------
    InputError
        It is neither two or three numbers nor ``name=share,...``.
    """
    # MeViS's "valid" goes without masks; "valid_u" is the one with them.
    names = ("train", "valid_u" if format == "mevis" else "valid", "test")
    parts = [part.strip() for part in text.split(",")]
    try:
        if all("=" in part for part in parts):
            pairs = [part.rsplit("=", 1) for part in parts]
            return {name.strip(): float(share) for name, share in pairs}
        if 2 <= len(parts) <= 3:
            return dict(zip(names, map(float, parts), strict=False))
    except ValueError:
        pass
    raise InputError(
        f"The shares {text!r} are not understood; write 0.8,0.1,0.1 or train=0.8,valid_u=0.2."
    )


def _quotas(shares: Mapping[str, float], count: int) -> dict[str, int]:
    """Return whole numbers that add up to `count`, by the largest remainder."""
    wanted = [name for name, share in shares.items() if share > 0]
    quota = {name: math.floor(shares[name] * count) for name in wanted}
    rest = sorted(wanted, key=lambda name: quota[name] - shares[name] * count)
    for name in rest[: count - sum(quota.values())]:
        quota[name] += 1
    for name in wanted:
        largest = max(quota, key=lambda key: quota[key])
        if quota[name] == 0 and quota[largest] > 1:
            quota[largest] -= 1
            quota[name] = 1
    return quota
