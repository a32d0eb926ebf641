"""An extra training signal for models that start from random weights.

The published model inherits from a text-to-video model what things look like and how
they move; a small model trained from nothing has to learn it, and the flow's loss alone
teaches it slowly. A linear head reads the tokens in the middle of the transformer and
names shape, colour, size and motion of the object that a token shows. The head is
thrown away after training.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel

from flowrvs.data.synth_scene import COLORS, MOTIONS, SHAPES, SIZES, SceneObject

__all__ = ["AttributeHead", "token_labels"]

_CLASSES: dict[str, list[str]] = {
    "shape": list(SHAPES),
    "color": list(COLORS),
    "size": list(SIZES),
    "motion": list(MOTIONS),
}
_IGNORE = -100
_COVERED = 0.15


def token_labels(
    objects: Sequence[SceneObject], masks: npt.NDArray[np.bool_], pixels: int, temporal: int
) -> torch.Tensor:
    """Class of each attribute for each token.

    Parameters
    ----------
    objects : sequence of SceneObject
    masks : ndarray of bool, shape (N, T, H, W)
        Their visible masks.
    pixels, temporal : int
        Pixels per token along a side, and frames per latent frame after the first.

    Returns
    -------
    Tensor of int64, shape (4, tokens)
        Shape, colour, size and motion; -100 where no object covers enough of the token,
        and for the motion in single frames.
    """
    visible = torch.from_numpy(masks).float()
    first = F.avg_pool3d(visible[:, :1], (1, pixels, pixels))
    parts = [first]
    if visible.shape[1] > 1:
        parts.append(F.avg_pool3d(visible[:, 1:], (temporal, pixels, pixels)))
    coverage, owner = torch.cat(parts, dim=1).flatten(1).max(dim=0)
    rows = []
    for name, classes in _CLASSES.items():
        table = torch.tensor([classes.index(getattr(item, name)) for item in objects])
        label = torch.where(coverage > _COVERED, table[owner], _IGNORE)
        if name == "motion" and visible.shape[1] == 1:
            label = torch.full_like(label, _IGNORE)
        rows.append(label)
    return torch.stack(rows)


class AttributeHead(torch.nn.Module):
    """Names the attributes of tokens from the transformer's middle.

    Parameters
    ----------
    transformer : WanTransformer3DModel
        A hook on one block keeps that block's input until `loss` reads it.
    block : int
        Index of the block.
    """

    def __init__(self, transformer: WanTransformer3DModel, block: int) -> None:
        super().__init__()
        width = transformer.config.num_attention_heads * transformer.config.attention_head_dim
        self.norm = torch.nn.LayerNorm(width)
        self.heads = torch.nn.ModuleList(
            torch.nn.Linear(width, len(classes)) for classes in _CLASSES.values()
        )
        self._tokens: torch.Tensor | None = None
        transformer.blocks[block].register_forward_pre_hook(self._keep)

    def _keep(self, _module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._tokens = inputs[0]

    def loss(self, labels: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy over the attributes; `labels` of shape (B, 4, tokens)."""
        assert self._tokens is not None, "the transformer has not run yet"
        hidden = self.norm(self._tokens.float())
        self._tokens = None
        terms = []
        for index, head in enumerate(self.heads):
            wanted = labels[:, index]
            if (wanted != _IGNORE).any():
                logits = head(hidden).transpose(1, 2)
                terms.append(F.cross_entropy(logits, wanted, ignore_index=_IGNORE))
        return torch.stack(terms).mean() if terms else hidden.sum() * 0
