"""Which optimizer trains which weights, at which rate."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch

__all__ = ["make_optimizers"]

_BLOCKS = re.compile(r"(^|\.)blocks\.\d+\.")
_WORDS = ("shared.weight", "embed_tokens.weight")


def make_optimizers(
    named: Iterable[tuple[str, torch.nn.Parameter]],
    rate: float,
    *,
    matrix_rate: float = 0.0,
    word_rate: float = 0.0,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
) -> list[tuple[torch.optim.Optimizer, float]]:
    """Return AdamW, and Muon for the matrices of the transformer's blocks, with their rates.

    Parameters
    ----------
    named : iterable of (str, Parameter)
        What is trained.
    rate : float
        Of all that has no rate of its own.
    matrix_rate : float
        Of the matrices, by Muon, whose steps have the size of AdamW's; 0: as all.
    word_rate : float
        Of the words' embeddings, by AdamW without decay; 0: as all.
    weight_decay : float
    betas : tuple of float
        Of AdamW.
    """
    matrices: list[torch.nn.Parameter] = []
    words: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, parameter in named:
        if word_rate and name.endswith(_WORDS):
            words.append(parameter)
        elif matrix_rate and parameter.ndim == 2 and _BLOCKS.search(name):
            matrices.append(parameter)
        else:
            rest.append(parameter)
    made: list[tuple[torch.optim.Optimizer, float]] = []
    if rest:
        adam = torch.optim.AdamW(rest, lr=rate, betas=betas, weight_decay=weight_decay)
        made.append((adam, rate))
    if matrices:
        muon = torch.optim.Muon(
            matrices, lr=matrix_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        made.append((muon, matrix_rate))
    if words:
        adam = torch.optim.AdamW(words, lr=word_rate, betas=betas, weight_decay=0.0)
        made.append((adam, word_rate))
    return made
