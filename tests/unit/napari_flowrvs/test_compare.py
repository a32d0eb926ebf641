"""Two layers compared: the scores of the library, drawn, and a click goes to the frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flowrvs.errors import InputError
from flowrvs.evaluation import compare_masks
from napari_flowrvs.compare.presenter import ComparePresenter, Curve, Side


@pytest.fixture
def layers() -> tuple[Any, Any]:
    """Labels of 20 frames; the second drifts away and loses the object on frame 15."""
    one = np.zeros((20, 40, 60), np.uint16)
    one[:, 10:30, 10:30] = 3
    one[:, 32:36, 40:50] = 4
    other = np.stack([np.roll(frame, t // 3, axis=1) for t, frame in enumerate(one)])
    other[15] = 0
    return one, other


def test_the_curve_is_the_librarys(layers: tuple[Any, Any]) -> None:
    presenter = ComparePresenter()
    seen: list[int] = []
    presenter.scored.connect(lambda curve: seen.append(curve.done))
    presenter.run(Side("a", layers[0]), Side("b", layers[1]))
    curve = presenter.curve
    assert curve is not None and seen == [8, 16, 20]
    wanted = np.array(list(compare_masks(layers[0] > 0, layers[1] > 0)))
    assert np.array_equal(curve.j, wanted[:, 0]) and np.array_equal(curve.f, wanted[:, 1])
    assert curve.worst() == 15
    assert curve.next_worse(0, 0.2) == 15 and curve.next_worse(15, 0.2) is None
    assert curve.next_worse(19, 0.2, step=-1) == 15
    assert "lowest on frame 15" in curve.text()


def test_one_label_alone(layers: tuple[Any, Any]) -> None:
    presenter = ComparePresenter()
    presenter.run(Side("a", layers[0], 4), Side("b", layers[0], 4))
    assert presenter.curve is not None and presenter.curve.mean_j == 1
    presenter.run(Side("a", layers[0], 4), Side("b", layers[0], 3))
    assert presenter.curve.mean_j == 0


def test_layers_that_do_not_fit(layers: tuple[Any, Any]) -> None:
    with pytest.raises(InputError, match="cannot be compared"):
        ComparePresenter().run(Side("a", layers[0]), Side("b", layers[1][:5]))
    assert Curve(("a", "b"), np.full(3, np.nan), np.full(3, np.nan)).worst() is None


def test_a_long_curve_is_painted_at_once(qtbot: Any) -> None:
    import time

    from napari_flowrvs.compare.curve import CurveView

    view = CurveView()
    qtbot.addWidget(view)
    view.resize(280, 160)
    rng = np.random.default_rng(0)
    view.show_curve(Curve(("a", "b"), rng.random(100_000), rng.random(100_000)))
    view.grab()
    start = time.thread_time()
    view.grab()
    assert time.thread_time() - start < 0.5  # a few milliseconds on an idle machine


def test_the_next_worse_frame_goes_by_the_mean_of_both() -> None:
    j, f = np.array([0.9, 0.9, 0.6, 0.2]), np.array([0.9, 0.05, 0.6, 0.9])
    curve = Curve(("a", "b"), j, f)
    assert curve.next_worse(0) == 1 and curve.next_worse(1) is None
    assert curve.next_worse(3, step=-1) == 1
    assert curve.next_worse(0, limit=0.56) == 1 and curve.next_worse(1, limit=0.56) == 3
