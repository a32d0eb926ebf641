"""A whole split predicted: layout, resuming, stopping, the zip."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from flowrvs.data.mevis import MevisSplit
from flowrvs.errors import Cancelled, DatasetError, InputError, MissingPathError, StorageError
from flowrvs.evaluation import evaluate, predict_split
from flowrvs.inference.run import run_jobs
from flowrvs.progress import CancelToken
from tests.fixtures.segmenters import ThresholdSegmenter

PICTURES = 2 * 3 * 12


def test_every_sentence_and_frame_is_predicted(split, tmp_path):
    segmenter = ThresholdSegmenter()
    result = predict_split(split, tmp_path / "out", segmenter)
    assert (result.videos, result.expressions, result.frames, result.skipped) == (2, 6, 72, 0)
    pictures = sorted((tmp_path / "out").rglob("*.png"))
    assert len(pictures) == PICTURES
    assert not [p for p in (tmp_path / "out").rglob("*") if "partial" in p.name]
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.mode == "L" and picture.size == (64, 48)
            assert set(np.unique(picture)) <= {0, 255}
    scores = evaluate(tmp_path / "out", split)
    assert scores.coverage == 1 and scores.j_and_f > 0.9


def test_a_window_is_encoded_once_for_all_sentences(split, tmp_path):
    segmenter = ThresholdSegmenter()
    predict_split(split, tmp_path / "out", segmenter, videos=["one"])
    assert {texts for _, texts in segmenter.calls} == {
        ("the red square", "the green square", "nothing at all")
    }
    assert len(segmenter.calls) == 2
    assert [p.name for p in sorted((tmp_path / "out").iterdir()) if p.is_dir()] == ["one"]


def test_a_stopped_run_goes_on(split, tmp_path):
    out = tmp_path / "out"
    token = CancelToken()
    seen = []

    def stop(event):
        seen.append(event)
        if event.done >= 40:
            token.cancel()

    with pytest.raises(Cancelled):
        predict_split(split, out, ThresholdSegmenter(), cancel=token, progress=stop)
    assert 0 < len(list(out.rglob("*.png"))) < PICTURES
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("*.png")}
    segmenter = ThresholdSegmenter()
    events = []
    result = predict_split(split, out, segmenter, progress=events.append)
    assert result.skipped == 3
    assert events[0].done == seen[-1].done and events[-1].done == events[-1].total == 72
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    whole = tmp_path / "whole"
    predict_split(split, whole, ThresholdSegmenter())
    for path in whole.rglob("*.png"):
        assert (out / path.relative_to(whole)).read_bytes() == path.read_bytes()
    again = ThresholdSegmenter()
    assert predict_split(split, out, again).skipped == 6
    assert again.calls == []


def test_an_emptied_picture_is_predicted_again(split, tmp_path):
    out = tmp_path / "out"
    predict_split(split, out, ThresholdSegmenter())
    (out / "one" / "0" / "00004.png").write_bytes(b"")
    segmenter = ThresholdSegmenter()
    assert predict_split(split, out, segmenter).skipped == 5
    assert {texts for _, texts in segmenter.calls} == {("the red square",)}
    assert evaluate(out, split).coverage == 1


def test_a_cluster_takes_what_is_longest_first(split, tmp_path):
    out, order = tmp_path / "out", []

    class Several(ThresholdSegmenter):
        def run_jobs(self, jobs, **options):
            jobs = list(jobs)
            order.extend(job.name for job in jobs)
            yield from run_jobs(jobs, ThresholdSegmenter(), **options)

    predict_split(split, out, ThresholdSegmenter(), videos=["one"])
    shutil.rmtree(out / "one" / "0")
    assert predict_split(split, out, Several()).skipped == 2
    assert order == ["two v1.0", "one"]
    assert len(list(out.rglob("*.png"))) == PICTURES


@pytest.mark.parametrize("place", ["out", "out/one", "out/one/1"])
def test_a_file_in_the_way_of_a_folder_is_one_line(split, tmp_path, place):
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    out = path / "deeper" if place == "out" else tmp_path / "out"
    with pytest.raises(StorageError, match=f"^Cannot write to {re.escape(str(out))}") as caught:
        predict_split(split, out, ThresholdSegmenter())
    assert "\n" not in str(caught.value) and path.read_text() == "mine"


def test_models_are_not_mixed(split, tmp_path):
    predict_split(split, tmp_path / "out", ThresholdSegmenter())
    with pytest.raises(DatasetError, match="'threshold', not 'other'"):
        predict_split(split, tmp_path / "out", ThresholdSegmenter(name="other"))
    with pytest.raises(DatasetError, match="steps 1, not 2"):
        predict_split(split, tmp_path / "out", ThresholdSegmenter(), steps=2)
    other = ThresholdSegmenter()
    other.weights = "other"  # type: ignore[attr-defined]
    with pytest.raises(DatasetError, match="weights '', not 'other'"):
        predict_split(split, tmp_path / "out", other)
    with pytest.raises(TypeError, match="start"):
        predict_split(split, tmp_path / "more", ThresholdSegmenter(), start=3)


def test_only_listed_frames_are_predicted(split, tmp_path):
    """A split may list every other frame of a folder."""
    path = split / "meta_expressions.json"
    meta = json.loads(path.read_text())
    meta["videos"]["one"]["frames"] = meta["videos"]["one"]["frames"][1::2]
    path.write_text(json.dumps(meta))
    source = MevisSplit.open(split)
    predict_split(split, tmp_path / "out", ThresholdSegmenter(), videos=["one"])
    names = sorted(p.stem for p in (tmp_path / "out" / "one" / "0").iterdir())
    assert names == list(source.videos["one"].frames)
    with Image.open(tmp_path / "out" / "one" / "0" / "00003.png") as picture:
        found = np.asarray(picture) > 0
    # The square of native frame 3, not of the third listed one.
    assert found[6:22, 11:27].mean() > 0.9 and found.sum() < 340


def test_bad_input_gets_one_line(split, tmp_path):
    with pytest.raises(InputError, match="no video 'three'"):
        predict_split(split, tmp_path / "out", ThresholdSegmenter(), videos=["three"])
    with pytest.raises(DatasetError, match="valid_u"):
        predict_split(split.parent, tmp_path / "out", ThresholdSegmenter())
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="is a file"):
        predict_split(split, tmp_path / "file", ThresholdSegmenter())
    (split / "JPEGImages" / "one" / "00005.jpg").unlink()
    with pytest.raises(DatasetError, match="'00005'"):
        predict_split(split, tmp_path / "out", ThresholdSegmenter())
    shutil.rmtree(split / "JPEGImages" / "one")
    with pytest.raises(MissingPathError, match="00000.jpg"):
        predict_split(split, tmp_path / "out", ThresholdSegmenter(), videos=["one"])


@pytest.mark.parametrize("fault", ["cut", "lacking", "half a letter", "nothing said"])
def test_a_video_that_fails_does_not_stop_the_others(split, tmp_path, fault):
    first = split / "JPEGImages" / "one" / "00000.jpg"
    path = split / "meta_expressions.json"
    meta = json.loads(path.read_text())
    if fault == "cut":
        first.write_bytes(first.read_bytes()[:200])
    elif fault == "half a letter":
        meta["videos"]["one"]["expressions"]["1"]["exp"] = "a \ud800"
    else:
        first.unlink()
    if fault == "nothing said":
        for row in meta["videos"]["one"]["expressions"].values():
            row["exp"] = ""
    path.write_text(json.dumps(meta))
    told = {}
    with pytest.raises(DatasetError, match=r"^1 of 2 videos could not be predicted: one \("):
        predict_split(split, tmp_path / "out", ThresholdSegmenter(), failed=told.__setitem__)
    assert list(told) == ["one"]
    assert len(list((tmp_path / "out").rglob("*.png"))) == PICTURES // 2


@pytest.mark.parametrize(
    "wrong", [{"window": 4, "overlap": 9}, {"window": 0}, {"steps": 0}, {"steps": 1001}]
)
def test_a_refused_request_is_not_in_the_way(split, tmp_path, wrong):
    out = tmp_path / "out"
    with pytest.raises(InputError) as caught:
        predict_split(split, out, ThresholdSegmenter(), **wrong)
    assert "videos could not be predicted" not in str(caught.value)  # it is no fault of theirs
    assert not out.exists()
    assert predict_split(split, out, ThresholdSegmenter()).frames == 72


def test_a_record_of_more_than_is_known_is_refused(split, tmp_path):
    out = tmp_path / "out"
    predict_split(split, out, ThresholdSegmenter())
    path = out / ".flowrvs-predict.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "new": 1}))
    with pytest.raises(DatasetError, match="with new 1"):
        predict_split(split, out, ThresholdSegmenter())


@pytest.mark.parametrize("text", ["", " \t", '""', "\\", "&nbsp;", "&quot;"])
def test_a_sentence_that_says_nothing_is_background(split, tmp_path, text):
    path = split / "meta_expressions.json"
    meta = json.loads(path.read_text())
    meta["videos"]["one"]["expressions"]["0"]["exp"] = text
    for entry in meta["videos"]["two v1.0"]["expressions"].values():
        entry["exp"] = text
    path.write_text(json.dumps(meta))
    out = tmp_path / "out"
    segmenter = ThresholdSegmenter()
    result = predict_split(split, out, segmenter)
    assert result.blank == ("one/0", *(f"two v1.0/{n}" for n in "012"))
    assert (result.expressions, result.frames, result.skipped) == (6, 72, 0)
    assert {texts for _, texts in segmenter.calls} == {("the green square", "nothing at all")}
    pictures = sorted((out / "one" / "0").iterdir())
    assert len(pictures) == 12
    for picture in pictures:
        with Image.open(picture) as shown:
            assert shown.mode == "L" and shown.size == (64, 48) and not np.asarray(shown).any()
    assert evaluate(out, split).coverage == 1
    pictures[3].unlink()
    events = []
    again = predict_split(split, out, segmenter, progress=events.append)
    assert again.skipped == 5 and pictures[3].is_file()
    assert (events[0].done, events[-1].done) == (71, 72)


def test_what_is_asked_for_reaches_the_model_and_is_noted(split, tmp_path):
    """Windows, steps and the threshold: by calls, by pixels, and in the record."""
    out, events = tmp_path / "out", []

    class Watched(ThresholdSegmenter):
        def segment_window(self, frames, texts, *, steps: int = 1, **options):
            seen.append((len(frames), steps))
            return super().segment_window(frames, texts, steps=steps, **options)

    seen: list[tuple[int, int]] = []
    options = {"steps": 3, "window": 5, "overlap": 2, "threshold": 0.8}
    predict_split(split, out, Watched(), videos=["one"], progress=events.append, **options)
    assert seen == [(5, 3)] * 4
    assert json.loads((out / ".flowrvs-predict.json").read_text()) == {
        "model": "threshold",
        "weights": "",
        "split": "valid_u",
        **options,
    }
    # The square's red leads by 0.7.
    with Image.open(out / "one" / "0" / "00004.png") as picture:
        assert not np.asarray(picture).any()
    assert (events[0].message, events[0].done, events[0].total) == ("starting", 0, 36)
    assert {e.message for e in events[1:]} == {"predicting one"}
    for name, value in options.items():  # nothing of it may differ when it goes on
        other = options | {name: value + 1 if name != "threshold" else 0.5}
        with pytest.raises(DatasetError, match=f"with {name} {value}, not"):
            predict_split(split, out, ThresholdSegmenter(), videos=["one"], **other)
    # by itself: one step, the model's window, its overlap, one half
    events.clear()
    predict_split(split, tmp_path / "more", Watched(), progress=events.append)
    with Image.open(tmp_path / "more" / "one" / "0" / "00004.png") as picture:
        assert np.asarray(picture)[8:20, 16:28].all()
    record = json.loads((tmp_path / "more" / ".flowrvs-predict.json").read_text())
    assert {name: record[name] for name in options} == {
        "steps": 1,
        "window": 9,
        "overlap": None,
        "threshold": 0.0,
    }
    assert [e.message for e in events[1:]][::4][:2] == ["predicting one (1 of 2)"] * 2
    assert events[-1].message == "predicting two v1.0 (2 of 2)"


def test_a_model_that_takes_whole_videos_gets_them(split, tmp_path):
    segmenter = ThresholdSegmenter()
    segmenter.whole_video = True  # type: ignore[attr-defined]
    predict_split(split, tmp_path / "out", segmenter)
    assert [count for count, _ in segmenter.calls] == [12, 12]
    segmenter.calls.clear()
    predict_split(split, tmp_path / "more", segmenter, window=9)
    assert {count for count, _ in segmenter.calls} == {9}


def test_what_a_kill_left_is_swept_away_and_nothing_else(split, tmp_path):
    out = tmp_path / "out"
    folder = out / "one" / "0"
    folder.mkdir(parents=True)
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    ended.wait()
    others = f".00001.png.{os.getppid()}-{'a' * 8}.partial.png"  # another run's, at this moment
    (folder / f".00000.png.{ended.pid}-{'a' * 8}.partial.png").write_bytes(b"half")
    (folder / others).write_bytes(b"half")
    (folder / "notes.txt").write_text("mine")
    (folder / "00000.png").write_bytes(b"somebody's")  # nothing is asked of what is there
    predict_split(split, out, ThresholdSegmenter(), videos=["one"])
    names = {path.name for path in folder.iterdir()}
    assert names == {"notes.txt", others, *(f"{n:05d}.png" for n in range(12))}
