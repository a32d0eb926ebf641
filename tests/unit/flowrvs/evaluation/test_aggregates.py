"""Numbers beyond J and F, each against its definition; invariants of all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from flowrvs.errors import InputError
from flowrvs.evaluation import (
    THRESHOLDS,
    ExpressionScore,
    Scores,
    compare_masks,
    evaluate_masks,
    jaccard,
    score_masks,
)

stacks = array_shapes(min_dims=3, max_dims=3, max_side=9).flatmap(
    lambda shape: st.tuples(arrays(bool, shape), arrays(bool, shape))
)


def plain_dtssd(pred, truth):
    """Erofeev et al. 2015, as it is written."""
    error = pred.astype(float) - truth.astype(float)
    return np.mean([np.sqrt(np.mean((b - a) ** 2)) for a, b in zip(error, error[1:], strict=False)])


@settings(max_examples=150, deadline=None)
@given(stacks)
def test_sums_and_stability_agree_with_their_definitions(pair):
    pred, truth = pair
    (score,) = evaluate_masks({("v", "0"): pair}).expressions
    assert (score.intersection, score.union) == ((pred & truth).sum(), (pred | truth).sum())
    assert (score.has_target, score.has_answer) == (truth.any(), pred.any())
    if len(pred) > 1:
        assert score.dtssd == pytest.approx(plain_dtssd(pred, truth), abs=1e-12)
    else:
        assert score.dtssd is None
    assert np.array_equal(score.frame_j, [jaccard(p, t) for p, t in zip(pred, truth, strict=True)])
    assert np.array_equal(score.frame_f, [frame.f for frame in compare_masks(pred, truth)])
    assert (score.j, score.f) == score_masks(pred, truth)


@settings(max_examples=150, deadline=None)
@given(stacks)
def test_scores_are_symmetric_bounded_and_one_for_the_truth(pair):
    pred, truth = pair
    there, back = list(compare_masks(pred, truth)), list(compare_masks(truth, pred))
    assert np.allclose(there, back, rtol=0, atol=1e-15)
    for pair_of_frames, (j, f) in zip(zip(pred, truth, strict=True), there, strict=True):
        assert 0 <= j <= 1 and 0 <= f <= 1
        assert (j == 1) == np.array_equal(*pair_of_frames)
    assert set(compare_masks(iter(truth), truth)) == {(1.0, 1.0)}
    # Transposing swaps E and S and changes neither measure.
    turned = list(compare_masks(pred.transpose(0, 2, 1), truth.transpose(0, 2, 1)))
    assert np.allclose(turned, there, rtol=0, atol=1e-15)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_precision_is_the_share_above_each_threshold(shares):
    truth = np.ones((1, 10, 10), bool)
    pairs = {}
    for number, share in enumerate(shares):
        pred = np.zeros((1, 10, 10), bool)
        pred.reshape(-1)[: int(share * 100)] = True
        pairs["v", str(number)] = pred, truth
    scores = evaluate_masks(pairs)
    js = [int(share * 100) / 100 for share in shares]
    for k in THRESHOLDS:
        assert scores.precision[k] == sum(j > k for j in js) / len(js)
    assert scores.frame_precision == scores.precision
    falling = list(scores.precision.values())
    assert falling == sorted(falling, reverse=True)
    assert scores.to_dict()["precision"]["mean"] == pytest.approx(np.mean(falling))


def test_rates_with_and_without_target():
    empty, full = np.zeros((2, 4, 6), bool), np.ones((2, 4, 6), bool)
    scores = evaluate_masks(
        {
            ("a", "0"): (empty, empty),
            ("a", "1"): (full, empty),
            ("a", "2"): (empty, empty),
            ("b", "0"): (full, full),
            ("b", "1"): (empty, full),
        }
    )
    assert scores.without_target == 3
    assert scores.n_acc == pytest.approx(2 / 3) and scores.t_acc == 0.5
    assert scores.overall_iou == pytest.approx(48 / (48 * 3))
    assert [(v.video, v.expressions, v.j) for v in scores.videos] == [
        ("a", 3, pytest.approx(2 / 3)),
        ("b", 2, 0.5),
    ]
    assert scores.worst(1)[0].j_and_f == 0.5
    only_targets = evaluate_masks({("b", "0"): (full, full)})
    assert only_targets.n_acc is None and only_targets.to_dict()["N-acc"] is None


def test_decay_is_the_first_quarter_less_the_last():
    truth = np.ones((8, 4, 4), bool)
    pred = truth.copy()
    pred[6:] = False
    (score,) = evaluate_masks({("v", "0"): (pred, truth)}).expressions
    # DAVIS's quarters share their ends: frames 0 to 2 and 5 to 7.
    assert score.decay == pytest.approx(1 - 1 / 3)
    (short,) = evaluate_masks({("v", "0"): (pred[:3], truth[:3])}).expressions
    assert short.decay is None


@pytest.mark.parametrize(("count", "drop"), [(4, -2), (5, -3), (10, -7)])
def test_the_quarters_are_those_of_davis(count, drop):
    score = ExpressionScore("v", "0", 0, 0, count, count, frame_j=np.arange(float(count)))
    assert score.decay == drop and score.to_dict()["decay"] == drop


def test_what_is_printed_as_json():
    def entry(video, exp_id, j, f, found, **more):
        return ExpressionScore(video, exp_id, j, f, 4, found, frame_j=np.full(4, j), **more)

    scores = Scores(
        (
            entry("b", "0", 1.0, 0.5, 4, intersection=30, union=40, dtssd=0.25),
            entry("a", "0", 0.5, 0.25, 1, intersection=0, union=20, dtssd=0.75),
            entry("b", "1", 0.0, 0.25, 0, has_target=False, has_answer=False),
        )
    )
    assert scores.to_dict() == {
        "J": 0.5,
        "F": pytest.approx(1 / 3),
        "J&F": pytest.approx(5 / 12),
        "coverage": pytest.approx(5 / 12),
        "expressions": {
            "b/0": {"J": 1, "F": 0.5},
            "a/0": {"J": 0.5, "F": 0.25},
            "b/1": {"J": 0, "F": 0.25},
        },
        "details": {
            name: {
                "J&F": both,
                "frames": 4,
                "found": found,
                "overall_iou": whole,
                "dtSSD": dtssd,
                "decay": 0,
                "has_target": target,
                "has_answer": target,
            }
            for name, both, found, whole, dtssd, target in (
                ("b/0", 0.75, 4, 0.75, 0.25, True),
                ("a/0", 0.375, 1, 0, 0.75, True),
                ("b/1", 0.125, 0, 1, None, False),
            )
        },
        "precision": {
            **dict.fromkeys(["0.5", "0.6", "0.7", "0.8", "0.9"], pytest.approx(1 / 3)),
            "mean": pytest.approx(1 / 3),
        },
        "frame_precision": {
            **dict.fromkeys(["0.5", "0.6", "0.7", "0.8", "0.9"], pytest.approx(1 / 3)),
            "mean": pytest.approx(1 / 3),
        },
        "overall_iou": 0.5,
        "dtSSD": 0.5,
        "decay": 0,
        "N-acc": 0,  # nothing was predicted: no answer is not right
        "T-acc": 1,
        "without_target": 1,
        "videos": {
            "b": {"J": 0.5, "F": 0.375, "J&F": 0.4375, "coverage": 0.5, "expressions": 2},
            "a": {"J": 0.5, "F": 0.25, "J&F": 0.375, "coverage": 0.25, "expressions": 1},
        },
    }
    assert list(scores.to_dict()["videos"]) == ["b", "a"]
    assert [e.exp_id + e.video for e in scores.worst(2)] == ["1b", "0a"]
    assert scores.worst(-1) == [] and len(scores.worst(9)) == 3
    nothing = Scores().to_dict()
    assert (nothing["J"], nothing["coverage"], nothing["dtSSD"], nothing["T-acc"]) == (
        0,
        0,
        None,
        None,
    )
    assert nothing["frame_precision"]["0.5"] == 0 and nothing["overall_iou"] == 1


def test_runs_that_do_not_fit_are_refused():
    masks = np.zeros((3, 4, 5), bool)
    with pytest.raises(InputError, match="second run of masks ends before frame 2"):
        list(compare_masks(masks, masks[:2]))
    with pytest.raises(InputError, match="shape"):
        list(compare_masks(masks, masks[:, :3]))
    with pytest.raises(InputError, match="first run of masks ends before frame 1"):
        list(compare_masks(masks[:1], masks))
    for pair in ((masks, masks[:2]), (masks[0], masks[0]), (masks[:0], masks[:0])):
        with pytest.raises(InputError, match="v/0"):
            evaluate_masks({("v", "0"): pair})


def test_frames_are_compared_one_at_a_time():
    """Nothing is asked for before it is needed."""
    asked = []

    def frames():
        for index in range(3):
            asked.append(index)
            yield np.ones((2, 2), bool)

    scores = compare_masks(frames(), frames())
    next(scores)
    assert asked == [0, 0]
