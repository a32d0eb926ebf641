"""Encoded clips put together anew: a part of one, the ground of another, what is meant covered.

A few clips are soon known by heart: by their ground, and by where things are in them. Here both
change, and nothing is encoded for it. What a sentence says of looks and motion stays true, and
whatever any sentence of the video means is known, so that it can be kept, or covered.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

__all__ = ["exchange_grounds", "part_of"]

#: Of each side of an encoded clip, what a part of it shows.
_PART = 2 / 3


def part_of(
    rng: np.random.Generator, size: tuple[int, int], patch: tuple[int, int]
) -> tuple[slice, slice]:
    """Draw the rows and columns of a part of an encoded clip.

    Parameters
    ----------
    rng : numpy.random.Generator
    size : tuple of int
        Height and width in cells.
    patch : tuple of int
        Cells of a token: the part begins and ends between two.
    """
    places = []
    for side, cells in zip(size, patch, strict=True):
        length = max(1, round(_PART * side / cells)) * cells
        first = int(rng.integers((side - length) // cells + 1)) * cells
        places.append(slice(first, first + length))
    return places[0], places[1]


def exchange_grounds(
    start: torch.Tensor,
    end: torch.Tensor,
    objects: torch.Tensor,
    meant: torch.Tensor,
    exchanged: torch.Tensor,
    covered: torch.Tensor,
    nothing: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Show clips on the ground of the clip before them in the batch.

    Parameters
    ----------
    start, end : Tensor, shape (B, C, t, h, w)
        Latents of clips, and of what is meant in them.
    objects, meant : Tensor of float32, shape (B, t, h, w)
        1 in cells where whatever any sentence means is, and where what this one means is.
    exchanged : Tensor of bool, shape (B,)
        Get the other's ground wherever neither clip has an object.
    covered : Tensor of bool, shape (B,)
        Have what is meant covered by the other's ground, if there is no object just there: then
        nothing is meant any more.
    nothing : Tensor, shape (C, t, h, w)
        Latent of an empty mask.

    Returns
    -------
    start, end : Tensor
    """
    here, wanted = _widened(objects), _widened(meant)
    there = here.roll(1, 0)
    hidden = (wanted & there).flatten(1).any(1)
    covered = (covered & wanted.flatten(1).any(1) & ~hidden).view(-1, 1, 1, 1)
    lent = (exchanged.view(-1, 1, 1, 1) & ~here & ~there) | (covered & wanted)
    start = torch.where(lent[:, None], start.roll(1, 0), start)
    return start, torch.where(covered[:, None], nothing, end)


def _widened(cells: torch.Tensor) -> torch.Tensor:
    """Whether a cell or one beside it is 1: what is there shows in these, too."""
    return F.max_pool3d(cells, (1, 3, 3), stride=1, padding=(0, 1, 1)) > 0
