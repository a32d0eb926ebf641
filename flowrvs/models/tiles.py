"""Decoding only where a mask is: exact tiles of the causal decoder.

Masks cover a small part of most frames, and the decoder's cost is in its last, largest
feature maps. Its middle block attends to the whole picture and is cheap (1.5 % of the
production decoder), so it runs on all of it; the blocks after it are convolutions, whose
results in a box depend on the box and a halo. Each block gets just the region that the
blocks after it need. Inside its box a tile equals the full decoding; outside, logits are -1.

`flowrvs.models.locator` says where the boxes have to be.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from scipy import ndimage

from flowrvs.models.vae import frame_groups

__all__ = ["Tile", "iter_decode_tiles", "plan_tiles", "tile_cost"]

#: Value of the logits that were not decoded: surely background.
BACKGROUND = -1.0
#: Beyond this share of the full cost the whole picture is decoded.
_WORTH = 0.8


@dataclass(frozen=True, slots=True)
class Tile:
    """A box of latent cells: rows `top` to `bottom`, columns `left` to `right` (excluded)."""

    top: int
    bottom: int
    left: int
    right: int

    def scaled(self, factor: int) -> Tile:
        """Return the box in units that are `factor` times smaller."""
        return Tile(*(factor * side for side in (self.top, self.bottom, self.left, self.right)))

    def grown(self, halo: int, height: int, width: int) -> Tile:
        """Return the box with a halo, as far as the picture reaches."""
        return Tile(
            max(0, self.top - halo),
            min(height, self.bottom + halo),
            max(0, self.left - halo),
            min(width, self.right + halo),
        )

    def halved(self) -> Tile:
        """Return the smallest box of cells twice as large that covers it."""
        return Tile(self.top // 2, -(-self.bottom // 2), self.left // 2, -(-self.right // 2))

    def joined(self, other: Tile) -> Tile:
        """Return the smallest box that covers both."""
        return Tile(
            min(self.top, other.top),
            max(self.bottom, other.bottom),
            min(self.left, other.left),
            max(self.right, other.right),
        )

    @property
    def area(self) -> int:
        """Cells in it."""
        return (self.bottom - self.top) * (self.right - self.left)


def plan_tiles(vae: AutoencoderKLWan, cells: npt.NDArray[np.bool_]) -> list[Tile] | None:
    """Cover the cells that may hold foreground with boxes.

    Parameters
    ----------
    vae : AutoencoderKLWan
    cells : ndarray of bool, shape (h, w)
        Latent cells with foreground in any frame.

    Returns
    -------
    list of Tile, or None
        None when decoding the whole picture costs about as much.
    """
    labels, _ = ndimage.label(cells, np.ones((3, 3), int))
    boxes = [
        Tile(rows.start, rows.stop, columns.start, columns.stop)
        for rows, columns in ndimage.find_objects(labels)
    ]
    height, width = cells.shape
    # Halos overlap: neighbours are cheaper together.
    merged = True
    while merged and len(boxes) > 1:
        merged = False
        for i, j in itertools.combinations(range(len(boxes)), 2):
            both = boxes[i].joined(boxes[j])
            apart = sum(tile_cost(vae, boxes[k], height, width) for k in (i, j))
            if tile_cost(vae, both, height, width) <= apart:
                boxes = [b for k, b in enumerate(boxes) if k not in (i, j)] + [both]
                merged = True
                break
    if sum(tile_cost(vae, box, height, width) for box in boxes) > _WORTH:
        return None
    return boxes


def tile_cost(vae: AutoencoderKLWan, tile: Tile, height: int, width: int) -> float:
    """Cost of a tile as a share of the full picture's, by the area of every block."""
    whole = Tile(0, height, 0, width)
    blocks = list(vae.decoder.up_blocks)
    cost = [0.0, 0.0]
    for index, box in enumerate((tile, whole)):
        for block, region in zip(blocks, _regions(vae, box, height, width), strict=True):
            weights = sum(p.numel() for p in block.parameters())
            cost[index] += weights * region.area
    return cost[0] / cost[1]


def _regions(vae: AutoencoderKLWan, tile: Tile, height: int, width: int) -> list[Tile]:
    """What each block has to see, in cells of its input."""
    blocks = list(vae.decoder.up_blocks)
    ups = [block.upsamplers is not None for block in blocks]
    need = tile.scaled(2 ** sum(ups))
    regions = []
    for index in reversed(range(len(blocks))):
        # Two convolutions a residual block; the upsampler's one, or the decoder's last.
        halo = 2 * len(blocks[index].resnets) + 1
        if ups[index]:
            need = need.halved()
        scale = 2 ** sum(ups[:index])
        need = need.grown(halo, scale * height, scale * width)
        regions.append(need)
    return regions[::-1]


def iter_decode_tiles(
    vae: AutoencoderKLWan,
    latents: torch.Tensor,
    tiles: list[Tile],
    *,
    group: int = 4,
    clamp: bool = True,
) -> Iterator[torch.Tensor]:
    """Decode latents inside of tiles; as `flowrvs.models.vae.iter_decode` otherwise.

    Parameters
    ----------
    vae : AutoencoderKLWan
    latents : Tensor, shape (1, z_dim, t, h, w)
    tiles : list of Tile
        In latent cells; none gives background everywhere, for nothing.
    group : int
        Latent frames computed at once after the first.
    clamp : bool
        Clamp to [-1, 1] as the stock ``decode`` does.

    Yields
    ------
    Tensor, shape (1, out_channels, n, H, W)
        -1 outside of the tiles.
    """
    decoder = vae.decoder
    _, _, _, height, width = latents.shape
    patch = int(vae.config.patch_size or 1)
    scale = 2 ** sum(block.upsamplers is not None for block in decoder.up_blocks)
    channels = int(vae.config.out_channels) // patch**2
    factor = 2 ** sum(bool(flag) for flag in vae.config.temperal_downsample)
    count = vae._cached_conv_counts["decoder"]
    shared: list[Any] = [None] * count
    caches: list[list[Any]] = [[None] * count for _ in tiles]
    plans = [_regions(vae, tile, height, width) for tile in tiles]
    for start, stop in frame_groups(latents.shape[2], group, 1):
        frames = (stop - start) * factor if start else 1
        size = (1, channels, frames, height * scale * patch, width * scale * patch)
        canvas = latents.new_full(size, BACKGROUND)
        if tiles:
            index = [0]
            middle = vae.post_quant_conv(latents[:, :, start:stop])
            middle = _cached(decoder.conv_in, middle, shared, index)
            middle = decoder.mid_block(middle, feat_cache=shared, feat_idx=index)
        for tile, regions, cache in zip(tiles, plans, caches, strict=True):
            part = _decode_tile(vae, middle, regions, cache, first=start == 0)
            at = regions[-1]  # the last block has no upsampler
            need = tile.scaled(scale)
            part = part[
                ...,
                need.top - at.top : need.bottom - at.top,
                need.left - at.left : need.right - at.left,
            ]
            if patch > 1:
                part = unpatchify(part, patch_size=patch)
            need = need.scaled(patch)
            canvas[..., need.top : need.bottom, need.left : need.right] = (
                part.clamp(-1.0, 1.0) if clamp else part
            )
        yield canvas


def _decode_tile(
    vae: AutoencoderKLWan,
    x: torch.Tensor,
    regions: list[Tile],
    cache: list[Any],
    *,
    first: bool,
) -> torch.Tensor:
    decoder, index = vae.decoder, [0]
    top = left = 0
    for block, region in zip(decoder.up_blocks, regions, strict=True):
        x = x[..., region.top - top : region.bottom - top, region.left - left : region.right - left]
        x = block(x, feat_cache=cache, feat_idx=index, first_chunk=first)
        scale = 1 if block.upsamplers is None else 2
        top, left = scale * region.top, scale * region.left
    x = decoder.nonlinearity(decoder.norm_out(x))
    return _cached(decoder.conv_out, x, cache, index)


def _cached(
    conv: torch.nn.Module, x: torch.Tensor, cache: list[Any], index: list[int]
) -> torch.Tensor:
    """Apply a causal convolution to a stream, as the stock decoder does."""
    place = index[0]
    index[0] += 1
    before = cache[place]
    recent = x[:, :, -2:].clone()
    if recent.shape[2] < 2 and before is not None:
        recent = torch.cat([before[:, :, -1:], recent], dim=2)
    cache[place] = recent
    return conv(x, before)
