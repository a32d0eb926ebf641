"""The attribute head: labels by token, and a loss that falls to zero on right answers."""

from __future__ import annotations

import numpy as np
import torch

from flowrvs.data.synth_scene import COLORS, MOTIONS, SHAPES
from flowrvs.data.synthetic import generate_clip
from flowrvs.models.presets import PRESETS, build_transformer
from flowrvs.training.scratch.attributes import AttributeHead, token_labels


def test_labels_name_the_object_that_a_token_shows() -> None:
    clip = generate_clip(7, frames=5)
    labels = token_labels(clip.scene.objects, clip.masks, 16, 4)
    assert labels.shape == (4, 2 * 6 * 10)
    grid = labels.view(4, 2, 6, 10)
    seen = 0
    for index, item in enumerate(clip.scene.objects):
        rows, columns = np.nonzero(clip.masks[index, 0])
        if len(rows) < 200:
            continue
        row, column = int(rows.mean()) // 16, int(columns.mean()) // 16
        box = clip.masks[:, 0, row * 16 : row * 16 + 16, column * 16 : column * 16 + 16]
        if box.mean((1, 2)).argmax() != index or box[index].mean() < 0.2:
            continue
        assert grid[0, 0, row, column] == SHAPES.index(item.shape)
        assert grid[1, 0, row, column] == list(COLORS).index(item.color)
        assert grid[3, 0, row, column] == list(MOTIONS).index(item.motion)
        seen += 1
    assert seen >= 1
    empty = token_labels(clip.scene.objects, np.zeros_like(clip.masks), 16, 4)
    assert (empty == -100).all()


def test_single_frames_do_not_ask_for_the_motion() -> None:
    clip = generate_clip(7, frames=1)
    labels = token_labels(clip.scene.objects, clip.masks, 16, 4)
    assert (labels[3] == -100).all()
    assert (labels[0] != -100).any()


def test_the_head_learns_from_the_tokens_of_its_block() -> None:
    torch.manual_seed(0)
    transformer = build_transformer(PRESETS["micro"])
    head = AttributeHead(transformer, 1)
    labels = torch.randint(0, 2, (1, 4, 6))
    latents, text = torch.randn(1, 16, 1, 4, 6), torch.randn(1, 3, 16)
    optimizer = torch.optim.Adam([*transformer.parameters(), *head.parameters()], lr=2e-2)
    losses = []
    for _ in range(40):
        transformer(latents, torch.tensor([1000.0]), text)
        loss = head.loss(labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    # Nothing after the block it listens to is touched.
    assert transformer.blocks[1].ffn.net[2].weight.grad is None
