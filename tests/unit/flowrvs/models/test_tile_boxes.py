"""Boxes of latent cells, and what each block of the decoder has to see of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from hypothesis import given, settings
from hypothesis import strategies as st

from flowrvs.models.presets import PRESETS, build_vae
from flowrvs.models.tiles import Tile, plan_tiles, tile_cost

BOX = Tile(2, 5, 7, 11)


def test_arithmetic_of_boxes() -> None:
    assert BOX.area == 12 and Tile(2, 3, 4, 9).area == 5 and Tile(0, 7, 0, 1).area == 7
    assert BOX.scaled(8) == Tile(16, 40, 56, 88)
    assert BOX.halved() == Tile(1, 3, 3, 6) and Tile(0, 4, 2, 6).halved() == Tile(0, 2, 1, 3)
    assert BOX.grown(2, 100, 100) == Tile(0, 7, 5, 13)
    assert BOX.grown(3, 6, 12) == Tile(0, 6, 4, 12)
    assert BOX.joined(Tile(0, 3, 9, 20)) == Tile(0, 5, 7, 20)
    assert BOX.joined(Tile(3, 9, 1, 8)) == Tile(2, 9, 1, 11)
    assert BOX.joined(BOX) == BOX


@pytest.fixture(scope="module")
def vaes() -> dict[str, AutoencoderKLWan]:
    with torch.device("meta"):
        return {
            "Wan": AutoencoderKLWan(base_dim=4, out_channels=1),
            "micro": build_vae(PRESETS["micro"], mask_decoder=True),
        }


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9), st.integers(1, 9), st.data())
def test_growing_and_halving_lose_no_cell(
    top: int, left: int, height: int, width: int, data: st.DataObject
) -> None:
    box = Tile(top, top + height, left, left + width)
    half = box.halved().scaled(2)
    assert half.joined(box) == half and half.area <= (height + 2) * (width + 2)
    halo = data.draw(st.integers(0, 4))
    grown = box.grown(halo, 20, 20)
    inside = np.zeros((20, 20), bool)
    inside[box.top : box.bottom, box.left : box.right] = True
    padded = np.pad(inside, halo)
    near = np.lib.stride_tricks.sliding_window_view(padded, (2 * halo + 1,) * 2).any((2, 3))
    expected = np.zeros((20, 20), bool)
    expected[grown.top : grown.bottom, grown.left : grown.right] = True
    np.testing.assert_array_equal(expected, near)


@pytest.mark.parametrize(
    ("box", "wan", "micro"),
    [
        (Tile(3, 6, 4, 9), 0.021288764061294877, 0.024010907825943197),
        (Tile(0, 2, 0, 3), 0.009306207072634957, 0.010231669318711497),
        (Tile(0, 12, 0, 16), 0.05460521399922312, 0.05788066314897603),
        (Tile(40, 41, 90, 104), 0.03173009991182714, 0.035522317933104175),
        (Tile(0, 60, 0, 104), 1, 1),
    ],
)
def test_the_cost_of_a_box_is_of_no_more_than_its_halos(
    vaes: dict[str, AutoencoderKLWan], box: Tile, wan: float, micro: float
) -> None:
    """Masks are right with any larger halo, too, but slower: so the halos are pinned here."""
    assert tile_cost(vaes["Wan"], box, 60, 104) == pytest.approx(wan, rel=1e-9)
    assert tile_cost(vaes["micro"], box, 60, 104) == pytest.approx(micro, rel=1e-9)


@pytest.mark.parametrize(
    ("there", "boxes"),
    [
        ([], []),
        ([(5, 5)], [Tile(5, 6, 5, 6)]),
        ([(5, 5), (6, 6)], [Tile(5, 7, 5, 7)]),  # joined by a corner
        ([(5, 5), (5, 12)], [Tile(5, 6, 5, 13)]),
        ([(2, 2), (55, 100)], [Tile(2, 3, 2, 3), Tile(55, 56, 100, 101)]),
        ([(2, 2), (55, 100), (4, 9)], [Tile(55, 56, 100, 101), Tile(2, 5, 2, 10)]),
        ([(0, 0), (59, 103), (0, 103), (59, 0)], 4),
    ],
)
def test_boxes_of_cells(
    vaes: dict[str, AutoencoderKLWan], there: list[tuple[int, int]], boxes: list[Tile] | int
) -> None:
    cells = np.zeros((60, 104), bool)
    for row, column in there:
        cells[row, column] = True
    for vae in vaes.values():
        found = plan_tiles(vae, cells)
        assert found is not None
        assert found == boxes if isinstance(boxes, list) else len(found) == boxes


@pytest.mark.parametrize(("rows", "worth"), [(40, True), (42, True), (50, False), (60, False)])
def test_boxes_of_nearly_all_are_not_worth_it(
    vaes: dict[str, AutoencoderKLWan], rows: int, worth: bool
) -> None:
    cells = np.zeros((60, 104), bool)
    cells[:rows] = True
    vae = vaes["Wan"]
    cost = tile_cost(vae, Tile(0, rows, 0, 104), 60, 104)
    assert (cost <= 0.8) == worth
    assert plan_tiles(vae, cells) == ([Tile(0, rows, 0, 104)] if worth else None)
