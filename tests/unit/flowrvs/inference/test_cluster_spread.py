"""Pieces of a spread on the way to a worker and back: exact, and bounded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flowrvs.editing.pieces import Piece
from flowrvs.errors import ClusterError, InputError, VideoError
from flowrvs.inference.cluster import SpreadCluster, dispatch, worker
from flowrvs.inference.cluster.spread import (
    PieceAnswer,
    _next_part,
    _PieceTask,
    _unpack_answer,
    unpack_piece,
)
from flowrvs.inference.cluster.wire import pack, pack_arrays, unpack
from flowrvs.masks.propagate import Spread
from flowrvs.progress import Progress
from flowrvs.video import open_video
from tests.fixtures.network import ADDRESS, Network

SHAPE = (30, 5, 7)
HEADER = {"part": 4}


def piece_of(**changes: Any) -> Piece:
    rng = np.random.default_rng(0)
    keys = {t: {i: rng.random(SHAPE[1:]) > 0.5 for i in (3, 8)} for t in (2, 20)}
    given = {
        "method": "memory",
        "frames": range(19, 9, -1),
        "keys": keys,
        "objects": (3, 8),
        "stops": (4,),
        "wanted": rng.random((2, 10)) > 0.5,
        "layers": (1, 2),
    }
    return Piece(**(given | changes))


def answer_of(*found: tuple[int, int, float], lost: Any = ()) -> tuple[Any, Any]:
    made = PieceAnswer()
    for object_id, t, certainty in found:
        mask = np.zeros(SHAPE[1:], bool)
        mask[t % 5] = True
        made.add(object_id, Spread(t, mask, certainty))
    made.add(3, Spread(10, np.ones(SHAPE[1:], bool), 0.1, final=False))
    return unpack(made.message(lost))


def test_a_piece_comes_back() -> None:
    piece = piece_of()
    header, blobs = unpack(_PieceTask(piece, SHAPE, None, HEADER).message(send_frames=False))
    back, begin = unpack_piece(header, blobs)
    assert begin is None
    for name in ("method", "frames", "objects", "stops", "layers"):
        assert getattr(back, name) == getattr(piece, name)
    assert piece.wanted is not None and back.wanted is not None
    np.testing.assert_array_equal(back.wanted, piece.wanted)
    assert list(back.keys) == [2, 20]
    for t, masks in piece.keys.items():
        assert back.keys[t].keys() == masks.keys()
        for object_id, mask in masks.items():
            np.testing.assert_array_equal(back.keys[t][object_id], mask)


def test_what_is_looked_at() -> None:
    assert list(piece_of().looks(0, 4)) == [2, *range(10, 20), 20]
    flow = piece_of(method="flow", frames=range(12, 15), objects=(3,), wanted=None, layers=())
    assert list(flow.looks(0, 30)) == list(range(2, 21))
    between = piece_of(**(far := {"method": "flow", "frames": range(3, 15), "objects": (3,)}))
    assert list(between.looks(0, 4)) == list(range(2, 21)), "both keys know of all frames"
    alone = piece_of(**far, keys={2: between.keys[2]})
    assert list(alone.looks(0, 4)) == list(range(2, 7))
    assert list(alone.looks(8, 4)) == [2, *range(10, 15)]
    assert flow.steps == 14 - 2 + 20 - 12  # from both sides
    assert not piece_of(method="copy").looks(0, 4)


def test_frames_that_are_too_many_are_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    video = open_video(np.zeros((*SHAPE, 3), np.uint8))
    task = _PieceTask(piece_of(), SHAPE, video, HEADER)
    header, blobs = unpack(task.message(send_frames=False))  # an array: nobody sees a file
    assert header["shape"] == [12, 5, 7, 3] and len(blobs) == 4
    monkeypatch.setattr(dispatch, "_SENT", 12 * 5 * 7 * 3 - 1)
    with pytest.raises(InputError, match="12 frames are too many to be sent"):
        task.message(send_frames=True)


def test_the_next_part_begins_with_what_this_one_has_learnt() -> None:
    task = _PieceTask(piece_of(method="flow"), SHAPE, None, HEADER)
    learnt = {"at": np.array(6), "mask": np.full((2, 3), 0.1, np.float32)}
    header, blobs = answer_of((3, 19, 0.5))
    (about, kept), following = _next_part(task, (header, blobs))
    assert (about["goes_on"], following, kept) == (False, None, blobs[:2])
    answer = header, [*blobs[:2], memoryview(pack_arrays(learnt))]
    (about, kept), following = _next_part(task, answer)
    assert (about["goes_on"], kept) == (True, blobs[:2]), "what was learnt does not wait, too"
    assert following is not None and (task.walked, following.walked) == (0, 4)
    sent, parts = unpack(following.message(send_frames=False))
    _, begin = unpack_piece(sent, parts)
    assert sent["walked"] == 4
    assert begin is not None and begin.keys() == learnt.keys()
    assert all(begin[k].dtype == v.dtype and (begin[k] == v).all() for k, v in learnt.items())
    for foreign in (blobs[:2], [*blobs[:2], memoryview(bytes(2**26 + 1))]):
        with pytest.raises(ClusterError, match="no message of flowrvs"):
            _next_part(task, (header, foreign))
    # What a worker has learnt is for workers: nothing is unpacked here.
    _, following = _next_part(task, (header, [*blobs[:2], memoryview(b"no arrays")]))
    assert following is not None
    assert unpack(following.message(send_frames=False))[1][2] == b"no arrays"
    with pytest.raises(ClusterError, match="no message of flowrvs"):  # it would never end
        _next_part(replace(task, walked=task.piece.steps - 4), answer)


def test_a_frame_that_cannot_be_read_costs_its_piece_alone(network: Network) -> None:
    def answer(name: str, message: bytes) -> bytes:
        frames = unpack(message)[0].get("frames")
        if frames and frames[0] == 10:
            return pack({"state": "failed", "kind": "VideoError", "reason": "Frame 12."})
        return worker.answer(message)

    network.answer = answer
    mask = np.ones(SHAPE[1:], bool)
    pieces = [
        Piece("copy", range(first, first + 5), {first: {3: mask}}, (3,)) for first in (0, 10, 20)
    ]
    found: list[int] = []
    told: list[Progress] = []
    run = SpreadCluster(ADDRESS).run(pieces, SHAPE, None, lost=print, progress=told.append)
    with pytest.raises(VideoError, match=r"^Frame 12\.$"):
        found.extend(part.frame for _, part in run)
    assert found == [*range(5), *range(20, 25)] and told[-1].fraction == 1


def test_an_answer_comes_back_without_first_looks() -> None:
    lost: list[Any] = []
    reply = answer_of((3, 19, 0.1), (8, 10, 1 / 3), lost=[(3, range(11, 15))])
    found = list(_unpack_answer(reply, piece_of(), SHAPE, lambda *run: lost.append(run)))
    assert [(i, part.frame, part.certainty) for i, part in found] == [(3, 19, 0.1), (8, 10, 1 / 3)]
    assert [part.mask.any(1).tolist().index(True) for _, part in found] == [4, 0]
    assert all(part.final for _, part in found) and lost == [(3, range(11, 15))]


@pytest.mark.parametrize(
    "reply",
    [
        answer_of((4, 19, 0.5)),
        answer_of((3, 20, 0.5)),
        answer_of((3, 19, 1.5)),
        answer_of((3, 19, float("nan"))),
        answer_of(lost=[(3, range(11, 25))]),
        answer_of(lost=[(5, range(11, 15))]),
        answer_of(*[(3, 19, 0.5)] * 21),
        ({**answer_of((3, 19, 0.5))[0], "count": 2}, answer_of((3, 19, 0.5))[1]),
        ({**answer_of((3, 19, 0.5))[0], "count": -1}, answer_of((3, 19, 0.5))[1]),
        ({**answer_of((3, 19, 0.5))[0], "lost": [["a", 1]]}, answer_of((3, 19, 0.5))[1]),
        ({**answer_of((3, 19, 0.5))[0], "lost": [[3, 11, "b"]]}, answer_of((3, 19, 0.5))[1]),
        ({**answer_of((3, 19, 0.5))[0], "lost": 3}, answer_of((3, 19, 0.5))[1]),
        unpack(pack({"state": "done", "count": 0, "lost": []})),
    ],
)
def test_what_was_not_asked_is_refused(reply: Any) -> None:
    with pytest.raises(ClusterError, match="no message of flowrvs"):
        kept, _ = _next_part(_PieceTask(piece_of(), SHAPE, None, HEADER), reply)
        list(_unpack_answer(kept, piece_of(), SHAPE, lambda *_: None))
