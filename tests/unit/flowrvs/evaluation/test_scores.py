"""Scores of whole folders: means, missing items, odd pictures."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import zipfile
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
from PIL import Image

from flowrvs.data.mevis import MevisSplit
from flowrvs.errors import (
    Cancelled,
    DatasetError,
    FlowRVSError,
    InputError,
    MissingPathError,
)
from flowrvs.evaluation import evaluate, evaluate_masks, score_masks, scoring, verify_zip
from flowrvs.progress import CancelToken


def write_truth(split_folder, out, value=255):
    split = MevisSplit.open(split_folder)
    for video, exp_id in split:
        folder = out / video / exp_id
        folder.mkdir(parents=True)
        masks = split.target_masks(video, exp_id)
        for frame, mask in zip(split.videos[video].frames, masks, strict=True):
            Image.fromarray(mask.astype(np.uint8) * np.uint8(value)).save(folder / f"{frame}.png")
    return out


def test_the_truth_scores_one(split, tmp_path):
    scores = evaluate(write_truth(split, tmp_path / "pred"), split)
    assert (scores.j, scores.f, scores.j_and_f, scores.coverage) == (1, 1, 1, 1)
    value = json.loads(json.dumps(scores.to_dict()))
    assert list(value)[:5] == ["J", "F", "J&F", "coverage", "expressions"]
    assert value["expressions"]["two v1.0/1"] == {"J": 1.0, "F": 1.0}
    assert len(value["expressions"]) == 6


def test_means_go_over_frames_then_expressions(split, tmp_path, shapes_masks):
    meta = json.loads((split / "meta_expressions.json").read_text())
    rows = meta["videos"]["one"]["expressions"]
    for key in ("obj_id", "anno_id"):  # the second sentence means both squares
        rows["1"][key] = rows["0"][key] + rows["1"][key]
    (split / "meta_expressions.json").write_text(json.dumps(meta))
    pred = write_truth(split, tmp_path / "pred")
    folder = pred / "one" / "0"
    wrong = shapes_masks["green"]
    for index in range(12):
        Image.fromarray(wrong[index].astype(np.uint8)).save(folder / f"{index:05d}.png")
    scores = evaluate(pred, split)
    j, f = score_masks(wrong, shapes_masks["red"])
    assert scores.expressions[0].j == pytest.approx(j) and j == 0
    assert scores.expressions[0].f == pytest.approx(f) and 0 <= f < 1
    assert scores.j == pytest.approx((5 + j) / 6)
    assert scores.f == pytest.approx((5 + f) / 6)
    assert scores.j_and_f == pytest.approx((scores.j + scores.f) / 2)


def test_missing_items_score_zero_and_lower_the_coverage(split, tmp_path, shapes_masks):
    pred = write_truth(split, tmp_path / "pred")
    shutil.rmtree(pred / "one")
    shutil.rmtree(pred / "two v1.0" / "2")
    (pred / "two v1.0" / "0" / "00003.png").unlink()
    Image.new("L", (64, 48)).save(pred / "two v1.0" / "0" / "00004.png")
    scores = evaluate(pred, split)
    by_name = {(e.video, e.exp_id): e for e in scores.expressions}
    assert by_name["one", "2"].j == by_name["one", "2"].f == 0
    assert by_name["two v1.0", "2"].j == 0
    red, areas = by_name["two v1.0", "0"], shapes_masks["red"].sum(axis=(1, 2))
    assert red.j == pytest.approx(10 / 12)
    assert (red.intersection, red.union) == (areas.sum() - areas[3] - areas[4], areas.sum())
    # Changes of the error are between neighbours: the empty frame has only one after it.
    assert red.dtssd == pytest.approx(np.sqrt(areas[4] / (48 * 64)) / 9)
    assert scores.j == pytest.approx((10 / 12 + 1) / 6)
    assert scores.coverage == pytest.approx(23 / 72)


def test_a_mask_where_nothing_is_meant_scores_zero(split, tmp_path):
    pred = write_truth(split, tmp_path / "pred")
    full = np.zeros((48, 64), np.uint8)
    full[10:20, 10:20] = 1
    Image.fromarray(full).save(pred / "one" / "2" / "00000.png")
    scores = evaluate(pred, split, expressions=[("one", "2")])
    assert scores.j == pytest.approx(11 / 12)
    assert scores.f == pytest.approx(11 / 12)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
def test_any_nonzero_pixel_is_foreground_in_any_mode(split, tmp_path, mode):
    pred = write_truth(split, tmp_path / "pred", value=1)
    for path in pred.rglob("*.png"):
        with Image.open(path) as picture:
            mask = np.asarray(picture) > 0
        if mode == "P":
            image = Image.fromarray(mask.astype(np.uint8))
            image.putpalette(bytes([0, 0, 0, 128, 0, 0]))
        elif mode == "I;16":
            image = Image.fromarray(mask.astype(np.uint16) * np.uint16(65535))
        else:
            image = Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).convert(mode)
        assert image.mode == mode
        image.save(path)
    assert evaluate(pred, split).j_and_f == 1


@pytest.mark.parametrize("top", ["", "Annotations/"])
def test_the_zip_that_is_submitted_scores_the_same(split, tmp_path, top):
    pred = write_truth(split, tmp_path / "pred")
    (pred / "one" / "1" / "00000.png").unlink()
    archive = tmp_path / "pred.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in pred.rglob("*.png"):
            file.write(path, top + path.relative_to(pred).as_posix())
    folder = pred
    if top:
        folder = tmp_path / "whole"
        shutil.copytree(pred, folder / "Annotations")
    expected = evaluate(folder, split).to_dict()
    assert evaluate(archive, split).to_dict() == expected
    assert 0.9 < expected["J"] < 1


def test_unusable_predictions_get_one_line(split, tmp_path):
    with pytest.raises(MissingPathError):
        evaluate(tmp_path / "nowhere", split)
    (tmp_path / "file.txt").write_text("no")
    with pytest.raises(DatasetError, match="zip"):
        evaluate(tmp_path / "file.txt", split)
    pred = write_truth(split, tmp_path / "pred")
    picture = pred / "one" / "0" / "00000.png"
    Image.fromarray(np.zeros((64, 48), np.uint8)).save(picture)
    with pytest.raises(DatasetError, match="48x64, the truth 64x48"):
        evaluate(pred, split)
    for data in (b"", b"\x89PNG\r\n\x1a\nbroken"):
        picture.write_bytes(data)
        with pytest.raises(DatasetError, match="readable"):
            evaluate(pred, split)


def test_a_picture_that_unpacks_to_gigabytes_is_refused(split, tmp_path):
    """A bomb in a zip file, and one in a PNG's header, cost neither memory nor a score."""
    pred = write_truth(split, tmp_path / "pred")
    picture = pred / "one" / "0" / "00000.png"
    archive = tmp_path / "pred.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in pred.rglob("*.png"):
            if path != picture:
                file.write(path, path.relative_to(pred).as_posix())
        with file.open("one/0/00000.png", "w") as entry:
            for _ in range(80):
                entry.write(bytes(1 << 20))
    for judge in (evaluate, lambda path, split: verify_zip(split, path)):
        with pytest.raises(DatasetError, match="would unpack to 83886080 bytes"):
            judge(archive, split)
    for mode in ("L", "1"):
        Image.new(mode, (9000, 9000)).save(picture)
        with pytest.raises(DatasetError, match="9000x9000"):
            evaluate(pred, split)
    picture.unlink()
    picture.symlink_to(pred / "one" / "1" / "00000.png")
    with pytest.raises(DatasetError, match="symbolic link"):
        evaluate(pred, split)


def test_progress_and_cancel(split, tmp_path):
    pred = write_truth(split, tmp_path / "pred")
    seen = []
    evaluate(pred, split, progress=seen.append)
    assert [event.done for event in seen] == list(range(1, 73)) and seen[0].total == 72
    token = CancelToken()
    with pytest.raises(Cancelled):
        evaluate(pred, split, cancel=token, progress=lambda event: token.cancel())


def test_nothing_is_read_of_a_run_that_was_stopped(split, tmp_path):
    pred = write_truth(split, tmp_path / "pred")
    for path in pred.rglob("*.png"):
        path.write_bytes(b"unreadable")
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        evaluate(pred, split, cancel=token)


def test_as_many_processes_as_there_is_work_for(split, tmp_path, monkeypatch):
    pred = write_truth(split, tmp_path / "pred")
    asked = []

    def spread_out(path, jobs, workers, cancel):
        asked.append((path, workers))
        with scoring.Predictions(path) as pictures:
            for job in jobs:
                yield job, scoring._score(pictures, job, lambda: None, lambda n: None)

    monkeypatch.setattr(scoring, "_in_processes", spread_out)
    monkeypatch.setattr(scoring, "_cores", lambda: 4)
    alone = evaluate(pred, split, workers=0)
    assert asked == [], "of 72 pictures one process makes short work"
    seen = []
    for pictures, workers in ((36, 3), (73, None), (72, 2), (5, 4)):
        monkeypatch.setattr(scoring, "_PICTURES_A_PROCESS", pictures)
        asked.clear()
        assert evaluate(pred, split, workers=0, progress=seen.append).to_dict() == alone.to_dict()
        assert asked == ([] if workers is None else [(pred, workers)])
    assert [e.done for e in seen[-6:]] == [12, 24, 36, 48, 60, 72]
    assert [e.message for e in seen[-6:]] == ["one"] * 3 + ["two v1.0"] * 3


def test_sentences_of_the_same_objects_are_scored_together_and_told_apart(split, tmp_path):
    meta = json.loads((split / "meta_expressions.json").read_text())
    rows = meta["videos"]["one"]["expressions"]
    rows["1"] |= {key: rows["0"][key] for key in ("obj_id", "anno_id")}
    (split / "meta_expressions.json").write_text(json.dumps(meta))
    pred = write_truth(split, tmp_path / "pred")
    (pred / "one" / "1" / "00002.png").unlink()
    seen = []
    scores = evaluate(pred, split, progress=seen.append)
    assert [(e.video, e.exp_id) for e in scores.expressions] == list(MevisSplit.open(split))
    assert [e.j for e in scores.expressions[:3]] == [1, pytest.approx(11 / 12), 1]
    assert [e.missing for e in scores.expressions[:2]] == [(), (2,)]
    assert [e.done for e in seen][:13] == [*range(2, 25, 2), 25], "two pictures a frame, then one"


def test_masks_in_memory_score_as_files_do(split, tmp_path, shapes_masks):
    pairs = {
        ("one", "0"): (shapes_masks["green"], shapes_masks["red"]),
        ("one", "1"): (shapes_masks["green"], shapes_masks["green"]),
    }
    scores = evaluate_masks(pairs)
    assert [e.j for e in scores.expressions] == [0, 1]
    assert scores.coverage == 1


def test_processes_score_as_one_does(split, tmp_path):
    pred = write_truth(split, tmp_path / "pred")
    (pred / "one" / "1" / "00003.png").unlink()
    seen = []
    alone = evaluate(pred, split)
    together = evaluate(pred, split, workers=2, progress=seen.append)
    assert together.to_dict() == alone.to_dict()
    assert [e.missing for e in together.expressions][1] == (3,)
    assert seen[-1].done == seen[-1].total == 72 and seen[-1].remaining == 0

    token = CancelToken()
    with pytest.raises(Cancelled):
        evaluate(pred, split, workers=2, cancel=token, progress=lambda event: token.cancel())
    (pred / "one" / "1" / "00004.png").write_bytes(b"")
    with pytest.raises(DatasetError, match="00004.png is not a readable picture"):
        evaluate(pred, split, workers=2)
    assert multiprocessing.active_children() == []
    with pytest.raises(InputError, match="workers"):
        evaluate(pred, split, workers=-1)


def test_processes_that_end_from_outside_are_told(split, tmp_path, monkeypatch):
    """They find no predictions any more, which were there when they were asked for."""
    pred = write_truth(split, tmp_path / "pred")
    masks = MevisSplit.masks

    def taken_away(self, anno_id):
        if pred.exists():
            pred.rename(tmp_path / "gone")
        return masks(self, anno_id)

    monkeypatch.setattr(MevisSplit, "masks", taken_away)
    masks_signals = hasattr(signal, "pthread_sigmask")  # Windows has none
    blocked = masks_signals and signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with pytest.raises(FlowRVSError, match="ended from outside, .* run again with fewer workers"):
        evaluate(pred, split, workers=2)
    assert multiprocessing.active_children() == []
    if masks_signals:
        now = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        assert now == blocked, "Ctrl-C is heard again"


@pytest.mark.parametrize("asked", [True, False])
def test_processes_that_end_with_this_one_are_no_fault(tmp_path, asked):
    """A batch system sends SIGTERM to all of them."""
    token = CancelToken()

    def jobs():
        if asked:
            token.cancel()
        raise BrokenProcessPool
        yield

    with pytest.raises(Cancelled if asked else FlowRVSError) as caught:
        list(scoring._in_processes(tmp_path, jobs(), 2, token))
    assert ("ended from outside" in str(caught.value)) == (not asked)


@pytest.mark.parametrize(("count", "cores"), [(7, 7), (None, 1)])
def test_the_cores_of_a_system_that_does_not_say_which_are_ours(monkeypatch, count, cores):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert scoring._cores() == cores


def test_an_answer_needs_a_picture(split, tmp_path):
    """A missing prediction is not right about a missing target, nor does it score."""
    pred = write_truth(split, tmp_path / "pred")
    shutil.rmtree(pred / "one" / "2")
    scores = evaluate(pred, split)
    entry = next(e for e in scores.expressions if (e.video, e.exp_id) == ("one", "2"))
    assert (entry.j, entry.f, entry.found, entry.dtssd) == (0, 0, 0, None)
    assert scores.n_acc == 0.5 and scores.t_acc == 1
    shutil.rmtree(pred / "one" / "1")
    scores = evaluate(pred, split)
    entry = next(e for e in scores.expressions if (e.video, e.exp_id) == ("one", "1"))
    assert (entry.has_target, entry.has_answer, entry.intersection) == (True, False, 0)
    assert entry.union > 0 and scores.t_acc == 0.75, "a target is there, predicted or not"


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda masks: masks.pop("0"), "no anno_id 0"),
        (lambda masks: masks["0"].pop(), "11 masks, 'one' 12 frames"),
        (lambda masks: masks["0"].__setitem__(0, {"counts": "1"}), "no 'size'"),
        (lambda masks: masks["0"][0].update(counts="1"), "damaged"),
        (lambda masks: masks["0"][3].update(size=[64, 48]), "differ in size"),
    ],
)
def test_damaged_truth_gets_one_line(split, tmp_path, damage, message):
    pred = write_truth(split, tmp_path / "pred")
    path = split / "mask_dict.json"
    masks = json.loads(path.read_text())
    damage(masks)
    path.write_text(json.dumps(masks))
    with pytest.raises(DatasetError, match=message) as caught:
        evaluate(pred, split)
    assert "\n" not in str(caught.value)


def test_unknown_expressions_are_refused(split, tmp_path):
    pred = write_truth(split, tmp_path / "pred")
    with pytest.raises(DatasetError, match="no expression '9' of 'one'"):
        evaluate(pred, split, expressions=[("one", "9")])
    assert len(evaluate(pred, split, expressions=[("one", "1")] * 2).expressions) == 1
    with pytest.raises(DatasetError) as caught:
        evaluate(pred, split, expressions=[])
    assert str(caught.value) == f"{split} has no expressions to score."
