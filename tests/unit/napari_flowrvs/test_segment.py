from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import flowrvs
from flowrvs.errors import CheckpointError, InputError
from flowrvs.records import SegmentRequest
from flowrvs.store import Project
from napari_flowrvs.find import presenter as presenter_module
from napari_flowrvs.find.presenter import (
    AROUND,
    EVERY,
    MEMORY,
    PREVIEW,
    SegmentInputs,
    SegmentPresenter,
    Stray,
    Written,
    load_segmenter,
)
from napari_flowrvs.job import Failure
from napari_flowrvs.projects import open_projects
from napari_flowrvs.source import VideoSource, default_project
from tests.fixtures.segmenters import InstancesByColor, ThresholdSegmenter

Clip = npt.NDArray[np.uint8]
Load = Callable[[str, str], ThresholdSegmenter]


def source_of_folder(folder: Path, clip: Clip) -> VideoSource:
    return VideoSource("squares", len(clip), str(folder))


def follow(presenter: SegmentPresenter) -> dict[str, list[Any]]:
    seen: dict[str, list[Any]] = {"prompted": [], "written": [], "failed": [], "finished": []}
    seen["said"] = []
    presenter.job.progressed.connect(lambda event: seen["said"].append(event.message))
    presenter.prompted.connect(lambda project, prompts: seen["prompted"].append(prompts))
    presenter.written.connect(lambda project, written: seen["written"].append(written))
    presenter.job.failed.connect(lambda failure: seen["failed"].append(failure))
    presenter.job.cancelled.connect(lambda: seen["failed"].append("cancelled"))
    presenter.finished.connect(lambda text: seen["finished"].append(text))
    return seen


def test_masks_land_in_the_project_beside_the_video(
    image_folder: Path, clip: Clip, load: Load
) -> None:
    presenter = SegmentPresenter(load=load)
    seen = follow(presenter)
    texts = ("the red square", "  the   red square ", "", "the green square")
    presenter.run(SegmentInputs(source_of_folder(image_folder, clip), texts))
    assert seen["failed"] == []
    (prompts,) = seen["prompted"]
    assert [p.text for p in prompts] == ["the red square", "the green square"]
    assert seen["finished"] == ["Done: 2 sentences, 24 frames each."]
    assert seen["said"][:2] == ["Opening squares", "Loading the model tiny"]
    project = open_projects.get(image_folder.with_name("squares.flowrvs"))
    assert project is presenter.project
    red, green = (project.labels(p.layer_id)[:] for p in prompts)
    assert np.array_equal(red > 0, clip[..., 0] > 150)
    assert np.array_equal(green > 0, clip[..., 1] > 150)
    for prompt in prompts:
        spans = [(w.start, w.stop) for w in seen["written"] if w.layer_id == prompt.layer_id]
        frames = [t for start, stop in spans for t in range(start, stop)]
        assert frames == list(range(24))


def test_a_range_is_kept_and_a_second_run_finds_all_finished(
    image_folder: Path, clip: Clip, load: Load, fake: ThresholdSegmenter
) -> None:
    presenter = SegmentPresenter(load=load)
    seen = follow(presenter)
    inputs = SegmentInputs(source_of_folder(image_folder, clip), ("red",), start=5, stop=15)
    presenter.run(inputs)
    assert min(w.start for w in seen["written"]) == 5
    assert max(w.stop for w in seen["written"]) == 15
    calls = len(fake.calls)
    presenter.run(inputs)
    assert len(fake.calls) == calls
    assert seen["finished"][-1] == "Everything was finished already."
    presenter.run(replace(inputs, texts=("red", "green")))
    assert seen["finished"][-1] == "Done: 1 sentence, 10 frames each.", "of the new one"


def test_a_preview_of_some_frames_and_then_all(
    image_folder: Path, clip: Clip, load: Load, fake: ThresholdSegmenter
) -> None:
    presenter = SegmentPresenter(load=load)
    seen = follow(presenter)
    inputs = SegmentInputs(source_of_folder(image_folder, clip), ("red",), look=EVERY, every=5)
    presenter.run(inputs)
    assert [w.count for w in seen["written"]] == [5] and fake.calls == [(5, ("red",))]
    assert seen["finished"] == ["Done: 1 sentence, 5 frames each."]
    (prompt,) = seen["prompted"][0]
    drawn = presenter.project.labels(prompt.layer_id)[:].any(axis=(1, 2))
    assert np.flatnonzero(drawn).tolist() == [0, 5, 10, 15, 20]
    presenter.run(replace(inputs, look=PREVIEW, every=6))
    assert [count for count, _ in fake.calls] == [5, 4, 9, 9, 9, 9]  # 4 frames, then windows of 9
    assert seen["finished"][-1] == "Done: 1 sentence, 24 frames each."
    labels = presenter.project.labels(prompt.layer_id)[:]
    assert np.array_equal(labels > 0, clip[..., 0] > 150)
    with pytest.raises(InputError, match="no preview"):
        presenter.run(replace(inputs, every=1))


@pytest.mark.parametrize("count", [1, 2])
def test_what_is_removed_in_mid_run_is_not_looked_for_again(
    image_folder: Path, clip: Clip, load: Load, fake: ThresholdSegmenter, count: int
) -> None:
    presenter = SegmentPresenter(load=load)
    seen = follow(presenter)
    texts = ("the red square", "the green square")

    def remove(project: Project, written: Written) -> None:
        if len(seen["written"]) == 1:
            for prompt in seen["prompted"][0][:count]:
                project.remove_object(prompt.object_id)

    presenter.written.connect(remove)
    source = source_of_folder(image_folder, clip)
    presenter.run(SegmentInputs(source, texts, look=PREVIEW, every=6))
    assert seen["failed"] == [] and fake.calls[0] == (4, texts)
    if count == 2:
        assert seen["finished"] == ["Stopped: what was looked for was removed."]
        assert not presenter.project.objects and len(fake.calls) == 1
        return
    assert seen["finished"] == ["Done: 1 sentence, 24 frames each."]
    assert {said for _, said in fake.calls[1:]} == {texts[1:]}
    (left,) = presenter.project.objects
    green = presenter.project.object_mask(left, 0, 24)
    assert np.array_equal(green, clip[..., 1] > 150)


@pytest.mark.parametrize("what", ["object", "sentence"])
def test_an_instance_that_is_removed_does_not_stop_the_others(
    shapes_frames: Any, shapes_masks: dict[str, Any], tmp_path: Path, what: str
) -> None:
    presenter = SegmentPresenter(load=lambda model, device: InstancesByColor())
    seen = follow(presenter)

    def remove(project: Project, written: Written) -> None:
        if written.start == 6 and what == "object":
            project.remove_object(1)
        elif written.start == 6:
            project.remove_expression("0")

    presenter.written.connect(remove)
    source = VideoSource("shapes", len(shapes_frames), None, shapes_frames)
    presenter.run(SegmentInputs(source, ("things",), project=str(tmp_path / "a.flowrvs")))
    assert seen["finished"] == ["Done: 1 sentence, 12 frames each."]
    green = presenter.project.object_mask(2, 4, 12)
    assert np.array_equal(green, shapes_masks["green"][4:])


def test_a_sentence_is_looked_for_as_it_is_worded_by_then(
    image_folder: Path, clip: Clip, load: Load, fake: ThresholdSegmenter
) -> None:
    """One that is removed in mid run leaves its object alone, and comes not back."""
    presenter = SegmentPresenter(load=load)
    seen = follow(presenter)

    def change(project: Project, written: Written) -> None:
        if len(seen["written"]) == 1:
            project.set_expression_text("0", "the green thing")
            project.remove_expression("1")

    presenter.written.connect(change)
    texts = ("the red square", "the other green square")
    source = source_of_folder(image_folder, clip)
    presenter.run(SegmentInputs(source, texts, look=PREVIEW, every=6))
    project = presenter.project
    assert seen["failed"] == [] and seen["finished"] == ["Done: 1 sentence, 24 frames each."]
    assert [said for _, said in fake.calls] == [texts, *[("the green thing",)] * 4]
    assert list(project.objects) == [1, 2] and list(project.expressions) == ["0"]
    assert np.array_equal(project.object_mask(1, 0, 24), clip[..., 1] > 150)
    assert np.flatnonzero(project.present(2)).tolist() == [0, 6, 12, 18]


def test_one_window_around_the_frame_on_show(
    image_folder: Path, clip: Clip, load: Load, fake: ThresholdSegmenter
) -> None:
    presenter = SegmentPresenter(load=load)
    seen = follow(presenter)
    source = source_of_folder(image_folder, clip)
    presenter.run(SegmentInputs(source, ("red",), look=AROUND, frame=13, start=20))
    assert [(w.start, w.stop) for w in seen["written"]] == [(9, 18)]


def test_windows_stop_at_cuts(image_folder: Path, clip: Clip, fake: ThresholdSegmenter) -> None:
    clip[16:] = 255 - clip[16:]
    presenter = SegmentPresenter(load=lambda model, device: fake)
    seen = follow(presenter)
    inputs = SegmentInputs(VideoSource("two shots", 24, None, clip), ("red",))
    presenter.run(inputs)
    assert [(w.start, w.stop) for w in seen["written"]] == [(0, 7), (7, 16), (16, 24)]
    presenter.run(replace(inputs, cuts=False))
    assert [(w.start, w.stop) for w in seen["written"][3:]] == [(0, 7), (7, 14), (14, 15), (15, 24)]


def test_sentences_that_find_nothing_are_named(image_folder: Path, clip: Clip, load: Load) -> None:
    presenter = SegmentPresenter(load=load)
    seen = follow(presenter)
    inputs = SegmentInputs(source_of_folder(image_folder, clip), ("red", "the blue one"))
    presenter.run(inputs)
    assert seen["finished"][0].endswith("Nothing found for: the blue one.")


def test_cancel_keeps_what_is_finished_and_run_goes_on(
    image_folder: Path, clip: Clip, load: Load, fake: ThresholdSegmenter
) -> None:
    presenter = SegmentPresenter(load=load)
    seen = follow(presenter)
    stop = presenter.written.connect(lambda project, written: presenter.job.cancel())
    inputs = SegmentInputs(source_of_folder(image_folder, clip), ("red",))
    presenter.run(inputs)
    assert seen["failed"] == ["cancelled"]
    (first,) = seen["written"]
    presenter.written.disconnect(stop)
    presenter.run(inputs)
    assert min(w.start for w in seen["written"][1:]) == first.stop
    (prompt,) = seen["prompted"][0]
    labels = presenter.project.labels(prompt.layer_id)[:]
    assert np.array_equal(labels > 0, clip[..., 0] > 150)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"video": None}, "open one"),
        ({"texts": ("", " ")}, "no sentence"),
        ({"model": " "}, "no model"),
        ({"start": 9, "stop": 9}, "range"),
        ({"stop": 25}, "range"),
        ({"start": -1}, "range"),
        ({"project": "here"}, ".flowrvs"),
    ],
)
def test_incomplete_inputs_are_refused_before_anything_runs(
    clip: Clip, load: Load, changes: dict[str, Any], words: str
) -> None:
    values: dict[str, Any] = {"video": VideoSource("a", 24, None, clip), "texts": ("red",)}
    presenter = SegmentPresenter(load=load)
    with pytest.raises(InputError, match=words):
        presenter.run(SegmentInputs(**(values | changes)))
    assert not presenter.job.busy


def test_a_model_that_cannot_be_loaded_leaves_no_project(image_folder: Path, clip: Clip) -> None:
    def load(model: str, device: str) -> ThresholdSegmenter:
        raise CheckpointError(f"{model}: there is no model here.")

    presenter = SegmentPresenter(load=load)
    seen = follow(presenter)
    presenter.run(SegmentInputs(source_of_folder(image_folder, clip), ("red",), model="/no"))
    (failure,) = seen["failed"]
    assert isinstance(failure, Failure)
    assert failure.summary == "/no: there is no model here."
    assert not image_folder.with_name("squares.flowrvs").exists()


def test_a_project_of_another_video_is_refused_before_the_model_is_loaded(
    image_folder: Path, clip: Clip, tmp_path: Path
) -> None:
    from flowrvs.records import VideoInfo

    other = tmp_path / "other.flowrvs"
    Project.create(other, VideoInfo(None, "array", 7, 40, 60)).close()
    loads: list[str] = []

    def load(model: str, device: str) -> ThresholdSegmenter:
        loads.append(model)
        return ThresholdSegmenter()

    presenter = SegmentPresenter(load=load)
    seen = follow(presenter)
    presenter.run(SegmentInputs(source_of_folder(image_folder, clip), ("red",), project=str(other)))
    assert "choose another project" in seen["failed"][0].summary
    assert loads == []


def test_an_error_in_mid_run_keeps_the_windows_before_it(
    image_folder: Path, clip: Clip, load: Load, fake: ThresholdSegmenter
) -> None:
    fake.fail_at = 2
    fake.error = RuntimeError("the device is full")
    presenter = SegmentPresenter(load=load)
    seen = follow(presenter)
    presenter.run(SegmentInputs(source_of_folder(image_folder, clip), ("red",)))
    assert "the device is full" in seen["failed"][0].summary
    written = max(w.stop for w in seen["written"])
    assert 0 < written < 24
    (prompt,) = seen["prompted"][0]
    found = presenter.project.labels(prompt.layer_id)[:] > 0
    assert found[:written].any(axis=(1, 2)).all()
    assert not found[written:].any()


def test_the_model_is_loaded_once_and_again_when_it_changes(image_folder: Path, clip: Clip) -> None:
    loads: list[tuple[str, str]] = []
    made: list[weakref.ref[ThresholdSegmenter]] = []

    def load(model: str, device: str) -> ThresholdSegmenter:
        gc.collect()
        assert not any(before() for before in made), "there may be no room for two"
        loads.append((model, device))
        segmenter = ThresholdSegmenter()
        made.append(weakref.ref(segmenter))
        return segmenter

    presenter = SegmentPresenter(load=load)
    seen = follow(presenter)
    source = source_of_folder(image_folder, clip)
    for text, device in (("red", "auto"), ("green", "auto"), ("blue", "cpu")):
        presenter.run(SegmentInputs(source, (text,), device=device))
    assert loads == [("tiny", "auto"), ("tiny", "cpu")] and not seen["failed"]


def test_a_memory_mode_reaches_the_model_and_what_it_needs_is_told(
    image_folder: Path, clip: Clip
) -> None:
    loads: list[tuple[str, ...]] = []

    def load(model: str, device: str, memory: str = "auto") -> ThresholdSegmenter:
        loads.append((model, device, memory))
        segmenter = ThresholdSegmenter()
        segmenter.memory_line = f"about {len(loads)} GB"  # type: ignore[attr-defined]
        return segmenter

    presenter = SegmentPresenter(load=load)
    told: list[str] = []
    presenter.estimated.connect(told.append)
    source = source_of_folder(image_folder, clip)
    for text, memory in (("red", "auto"), ("green", "low"), ("blue", "low")):
        presenter.run(SegmentInputs(source, (text,), memory=memory))
    assert loads == [("tiny", "auto", "auto"), ("tiny", "auto", "low")]
    assert told == ["about 1 GB", "about 2 GB", "about 2 GB"]
    assert presenter.segmenter_for("tiny", "auto", "low") and len(loads) == 2


def test_the_memory_modes_are_those_of_the_library() -> None:
    from flowrvs.pipelines.memory import MODES

    assert MEMORY == MODES


def test_drawing_by_hand_needs_a_video_but_no_model(image_folder: Path, clip: Clip) -> None:
    def load(model: str, device: str) -> ThresholdSegmenter:
        raise CheckpointError("there are no weights")

    presenter = SegmentPresenter(load=load)
    seen = follow(presenter)
    begun: list[int] = []
    presenter.begun.connect(lambda project, object_id: begun.append(object_id))
    with pytest.raises(InputError, match="no video"):
        presenter.begin_by_hand(SegmentInputs(None, ("a",)))
    source = source_of_folder(image_folder, clip)
    presenter.begin_by_hand(SegmentInputs(source, ("the red square", "the green one"), model=""))
    project = presenter.project
    assert seen["failed"] == [] and seen["finished"] == [] and begun == [1]
    assert [e.text for e in project.expressions.values()] == ["the red square", "the green one"]
    assert {o.layer for o in project.objects.values()} == {1, 2}
    # No sentence: an object that none means yet; a sentence twice: the object that it has.
    presenter.begin_by_hand(SegmentInputs(source))
    presenter.begin_by_hand(SegmentInputs(source, ("the green one",)))
    assert begun == [1, 3, 2]
    assert project.objects[3].name == "object 3" and len(project.expressions) == 2
    with Project.open(project.path, read_only=True) as again:
        assert set(again.objects) == {1, 2, 3}


def test_edits_made_before_a_window_is_finished_are_kept(
    image_folder: Path, clip: Clip, load: Load
) -> None:
    presenter = SegmentPresenter(load=load)
    drawn = np.zeros((40, 60), np.uint16)

    def paint(project: Project, prompts: Any) -> None:
        drawn[30:35, 2:9] = prompts[0].object_id
        project.labels(prompts[0].layer_id)[20] = drawn

    presenter.prompted.connect(paint)
    seen = follow(presenter)
    presenter.run(SegmentInputs(source_of_folder(image_folder, clip), ("red",)))
    labels = presenter.project.labels(seen["prompted"][0][0].layer_id)
    assert np.array_equal(labels[20], drawn)
    assert labels[19].any()
    assert any(isinstance(w, Written) and w.start <= 20 < w.stop for w in seen["written"])


def test_arrays_get_a_project_in_the_data_folder(clip: Clip, tmp_path: Path) -> None:
    source = VideoSource("my clip / 1", 24, None, clip)
    home = default_project(source, tmp_path)
    assert home.parent == tmp_path
    assert home.name.startswith("my-clip-1-") and home.suffix == ".flowrvs"
    assert default_project(VideoSource("my clip / 1", 24, None, clip.copy()), tmp_path) == home
    other = clip.copy()
    other[12] += 1
    assert default_project(VideoSource("my clip / 1", 24, None, other), tmp_path) != home


def test_close_flushes_what_a_person_drew(image_folder: Path, clip: Clip, load: Load) -> None:
    presenter = SegmentPresenter(load=load)
    seen = follow(presenter)
    presenter.run(SegmentInputs(source_of_folder(image_folder, clip), ("red",)))
    prompt = seen["prompted"][0][0]
    presenter.project.labels(prompt.layer_id)[3, :5] = prompt.object_id
    assert presenter.close()
    with Project.open(presenter.project.path, read_only=True) as again:
        assert (again.labels(prompt.layer_id)[3, :5] == prompt.object_id).all()


def test_a_cluster_takes_the_place_of_a_device(image_folder: Path, clip: Clip) -> None:
    source = source_of_folder(image_folder, clip)
    with pytest.raises(InputError, match="no cluster"):
        SegmentInputs(source, ("red",), device="").check()
    SegmentInputs(source, ("red",), device="tls://gpu-server:8786").check()
    with pytest.raises(InputError, match="not encrypted"):  # by the client, not a model's loader
        load_segmenter("tiny", "tcp://192.0.2.7:8786")


def test_what_a_form_asks_for(clip: Clip) -> None:
    source = VideoSource("a", 24, None, clip)
    inputs = SegmentInputs(source, ("red",), start=1, stop=9, steps=2, every=3)
    video, request = inputs.check()
    wanted = SegmentRequest(("red",), 1, 9, 2, keep_confidence=True, every=1, cuts="find")
    assert (video, request) == (source, wanted)
    assert inputs.passes(request, 9) == (wanted,)
    some = replace(inputs, look=EVERY, cuts=False)
    sparse = replace(wanted, every=3, cuts=())
    assert some.check()[1] == sparse and some.passes(sparse, 9) == (sparse,)
    both = replace(some, look=PREVIEW)
    assert both.check()[1] == sparse
    assert both.passes(sparse, 9) == (sparse, replace(sparse, every=1))
    around = replace(inputs, look=AROUND, frame=23)
    assert around.passes(wanted, 9) == (replace(wanted, start=15, stop=24),)


def test_where_a_model_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    mine = SimpleNamespace(name="mine", adapter=True, base="tiny", folder="/models/mine")
    whole = SimpleNamespace(name="whole", adapter=False, base="tiny", folder="/models/whole")
    monkeypatch.setattr(presenter_module, "placed_models", lambda: [whole, mine])
    monkeypatch.setattr(flowrvs, "load", lambda *a, **k: asked.append(("load", *a, k)))
    monkeypatch.setattr(flowrvs, "load_segmenter", lambda *a, **k: asked.append((*a, k)))
    for name in ("mine", "whole", "tiny"):
        load_segmenter(name, "cpu", "low")
    assert asked == [
        ("load", "tiny", {"device": "cpu", "memory": "low", "lora": "/models/mine"}),
        ("whole", {"device": "cpu", "memory": "low"}),
        ("tiny", {"device": "cpu", "memory": "low"}),
    ]


@pytest.mark.parametrize("values", [(5,), (9, 70_000)])
def test_labels_of_others_are_copied_whole_or_not_at_all(
    clip: Clip, load: Load, values: tuple[int, ...]
) -> None:
    class Labels:
        """Somebody's file, which may end too early."""

        shape = (24, 40, 60)
        reads = 0
        most = 24 + 3

        def __getitem__(self, t: int) -> Any:
            self.reads += 1
            if self.reads > self.most:
                raise OSError("the file ends here")
            frame = np.zeros((40, 60), np.int64)
            for i, value in enumerate(values):
                frame[t, i : i + 2] = value
            return frame

    presenter = SegmentPresenter(load=load)
    seen = follow(presenter)
    begun: list[Any] = []
    presenter.begun.connect(lambda *what: begun.append(what))
    inputs = SegmentInputs(VideoSource("clip", 24, None, clip))
    theirs = Labels()
    presenter.take_over(inputs, Stray("theirs", theirs, 0))
    assert "the file ends here" in seen["failed"][0].summary and not begun
    project = open_projects.open(default_project(inputs.video))
    assert project.objects == {} and seen["prompted"] == []
    theirs.reads, theirs.most = 0, 48
    presenter.take_over(inputs, Stray("theirs", theirs, 0))
    names = ["theirs"] if len(values) == 1 else ["theirs 9", "theirs 70000"]
    things = list(project.objects.values())
    assert [thing.name for thing in things] == names
    assert begun == [(project, things[0].id)] and project.undo_name == "take over 'theirs'"
    theirs.reads = 0
    presenter.prompted.connect(lambda *_: presenter.job.cancel())
    presenter.take_over(inputs, Stray("theirs", theirs, 0))
    assert len(begun) == 2 and len(seen["failed"]) == 1, "a cancel that comes too late is none"
    theirs.reads = 0
    wanted = np.stack([theirs[t] for t in range(24)])
    for thing, value in zip(things, values, strict=True):
        assert np.array_equal(project.object_mask(thing.id, 0, 24), wanted == value)
    with pytest.raises(InputError, match="no video"):
        presenter.take_over(SegmentInputs(None), Stray("theirs", theirs, 0))
