"""The whole document, what listeners hear of every change, and each refusal in its words."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowrvs.errors import InputError, MissingPathError, StorageError
from flowrvs.masks.rle import MAX_PIXELS
from flowrvs.records import Expression, VideoInfo
from flowrvs.store import ObjectRecord, Project, ProjectEvent
from flowrvs.store.document import (
    ConfidenceRecord,
    Document,
    LayerRecord,
    RunRecord,
    WriterLock,
    clipped,
    login_name,
    relative_path,
    run_frames,
    with_full_path,
)

FULL = np.ones((10, 12, 16), bool)
LEFT = FULL & (np.arange(16) < 8)
CATALOG, HISTORY = ProjectEvent("catalog"), ProjectEvent("history")


@pytest.fixture
def cat(project: Project) -> ObjectRecord:
    return project.add_prompt("the cat")[1]


def _attributes() -> dict[str, Any]:
    """Return the attributes of an empty project, as JSON gives them back."""
    document = Document(VideoInfo(None, "array", 10, 12, 16))
    attributes: dict[str, Any] = json.loads(json.dumps(document.to_attributes()))
    return attributes


def said(call: Callable[[], object]) -> str:
    """Return what a refused call says; it changes nothing."""
    with pytest.raises((InputError, MissingPathError, StorageError)) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_listeners_hear(project: Project) -> None:
    """Each change in its words, and nothing of what changes nothing that is shown."""
    told: list[ProjectEvent] = []
    disconnect = project.connect(told.append)

    def heard(call: Callable[[], object]) -> list[ProjectEvent]:
        told.clear()
        call()
        return [*told]

    def pixels(layer: int, start: int, stop: int) -> ProjectEvent:
        return ProjectEvent("pixels", layer, start, stop)

    brush = (slice(0, 2), slice(0, 2), np.ones((2, 2), bool), 1)
    values = np.full((3, 12, 16), 200, np.uint8)
    marked = [HISTORY, ProjectEvent("provenance", 1, 2, 4)]
    for call, wanted in (
        (lambda: project.add_layer("pets"), [CATALOG]),
        (lambda: project.add_object("cat", 1), [CATALOG]),
        (lambda: project.add_object("dog", 1), [CATALOG]),
        (lambda: project.add_prompt("the bird"), [CATALOG] * 3),
        (lambda: project.add_prompt("the  bird"), []),
        (lambda: project.rename_layer(1, "x"), [HISTORY, CATALOG]),
        (lambda: project.update_object(1, name="Tom"), [HISTORY, CATALOG]),
        (lambda: project.add_expression("cats", [1]), [HISTORY, CATALOG]),
        (lambda: project.set_expression_objects("1", [2]), [HISTORY, CATALOG]),
        (lambda: project.set_expression_text("1", "dogs"), [HISTORY, CATALOG]),
        (lambda: project.remove_expression("1"), [HISTORY, CATALOG]),
        (lambda: project.labels(1).__setitem__((3, 4), 1), [pixels(1, 3, 4), HISTORY]),
        (
            lambda: project.labels(1).__setitem__((slice(3, 5), 4), 2),
            [pixels(1, 3, 4), pixels(1, 4, 5), HISTORY],
        ),
        (lambda: project.labels(1).__setitem__((3, 5), 7), [CATALOG, pixels(1, 3, 4), HISTORY]),
        (lambda: project.labels(1).paint(3, *brush), [pixels(1, 3, 4), HISTORY]),
        (lambda: project.labels(1).paint(3, *brush), []),
        (lambda: project.write_masks(1, 2, LEFT[:3]), [HISTORY, pixels(1, 2, 5)]),
        (lambda: project.begin_run({"range": [0, 9]}, 2), []),
        (lambda: project.write_model(1, 2, 2, FULL[:3], confidence=values), [pixels(1, 2, 5)]),
        (lambda: project.mark_window_done("1", 0), []),
        (lambda: project.end_run(2), [HISTORY]),
        (lambda: project.end_run(2), []),
        (lambda: project.remove_run("1"), [HISTORY, pixels(1, 0, 9)]),
        (lambda: project.lock_frames(1, 2, 4), marked),
        (lambda: project.unlock_frames(1, 2, 4), marked),
        (lambda: project.release_frames(1, 2, 4), marked),
        (lambda: project.accept_frames(1, 2, 4), marked),
        (lambda: project.undo(), marked[::-1]),
        (lambda: project.redo(), marked[::-1]),
        (lambda: project.mark_absent(1, 2, 4), [HISTORY, CATALOG, pixels(1, 2, 4)]),
        (lambda: project.undo(), [pixels(1, 3, 4), pixels(1, 2, 3), HISTORY]),
        (lambda: project.split_object(1, 0, 4), [HISTORY, CATALOG, pixels(1, 0, 4)]),
        (
            lambda: project.swap_objects(8, 3, 0, 5),
            [HISTORY, CATALOG, pixels(1, 0, 5), pixels(2, 0, 5)],
        ),
        (
            lambda: project.move_object(3),
            [HISTORY, CATALOG, pixels(2, 0, 10), pixels(3, 0, 10)],
        ),
        (
            lambda: project.merge_objects(1, 3),
            [HISTORY, CATALOG, pixels(1, 0, 10), pixels(3, 0, 10)],
        ),
        (lambda: project.remove_object(8), [HISTORY, CATALOG, pixels(1, 0, 10)]),
        (
            lambda: project.write_model(1, 2, 6, FULL[:3], confidence=values),
            [HISTORY, pixels(1, 6, 9)],
        ),
        (lambda: project.rethreshold(2, 5, 9, 100), [HISTORY, pixels(1, 5, 9)]),
        (lambda: project.note("a", 1), []),
        (lambda: project.flush(), []),
        (lambda: disconnect(), []),
        (lambda: project.add_layer("unheard"), []),
    ):
        assert heard(call) == wanted


def test_a_reader_sees_names_at_once(project: Project) -> None:
    """What is done to names is on the disk when the call is back; a kill takes nothing of it."""
    run: list[str] = []

    def begin() -> None:
        run[:] = [project.begin_run({"range": [0, 9]}, 1).id]

    for call in (
        lambda: project.add_layer("pets"),
        lambda: project.add_object("cat", 1),
        lambda: project.add_prompt("the bird"),
        lambda: project.rename_layer(1, "x"),
        lambda: project.update_object(1, name="Tom"),
        lambda: project.add_expression("cats", [1]),
        lambda: project.set_expression_objects("1", [2]),
        lambda: project.set_expression_text("1", "dogs"),
        begin,
        lambda: project.write_model(1, 1, 0, FULL[:9]),
        lambda: project.mark_window_done(run[0], 3),
        lambda: project.end_run(1),
        lambda: project.remove_run(run[0]),
        lambda: project.write_masks(1, 0, FULL),
        lambda: project.split_object(1, 0, 4),
        lambda: project.move_object(1),
        lambda: project.merge_objects(2, 1),
        lambda: project.remove_expression("1"),
        lambda: project.remove_object(2),
    ):
        call()
        shown = json.loads((project.path / "zarr.json").read_text())["attributes"]
        held = json.loads(json.dumps(project._state.document.to_attributes()))
        for section in ("layers", "objects", "expressions", "runs", "prompts", "removed"):
            assert shown[section] == held[section], section
        with Project.open(project.path, read_only=True) as seen:
            assert seen.objects == project.objects and seen.runs == project.runs


def test_the_whole_document(project: Project) -> None:
    """What other tools read; the copy for a disk that damages it says the same."""
    _, cat = project.add_prompt("the  cat ")
    dog = project.add_object("dog", cat.layer, (1, 0.5, 0))
    gone = project.add_object("gone", project.add_layer("second").id)
    project.add_expression("both  pets", [dog.id, cat.id])
    key = {"text": "the cat", "model": "tiny", "range": (2, 9), "steps": 4}
    run = project.begin_run(key, cat.id)
    confidence = np.full((10, 12, 16), 200, np.uint8)
    project.write_model(cat.layer, cat.id, 2, FULL[:4], confidence=confidence[:4])
    for index in (0, 1, 4):
        project.mark_window_done(run.id, index)
    project.end_run(cat.id)
    project.write_model(cat.layer, dog.id, 3, LEFT[:1], confidence=confidence[:1])
    project.remove_object(gone.id)
    project.note("lab", {"room": 7})
    color, moment = [*project.objects[cat.id].color], project.history.moment
    project.close()
    document = json.loads((project.path / "zarr.json").read_text())
    assert document.keys() == {"zarr_format", "node_type", "attributes"}
    assert (document["zarr_format"], document["node_type"]) == (3, "group")
    attributes = document["attributes"]
    assert [row.pop("time")[:2] for row in attributes["history"]] == ["20", "20"]
    assert attributes == {
        "lab": {"room": 7},
        "format": "flowrvs-project",
        "format_version": 2,
        "video": {
            "path": "/clips/a.mp4",
            "kind": "video",
            "frame_count": 10,
            "height": 12,
            "width": 16,
            "rate": 25.0,
            "frame_names": [],
            "fingerprint": "f" * 64,
        },
        "video_relative": Path(os.path.relpath("/clips/a.mp4", project.path)).as_posix(),
        "model": "tiny",
        "history": [
            {"event": "created"},
            {
                "event": "run",
                "run": "1",
                "text": "the cat",
                "model": "tiny",
                "range": [2, 9],
                "steps": 4,
            },
        ],
        "layers": [{"id": 1, "name": "the cat"}],
        "objects": [
            {"id": 1, "name": "the cat", "color": color, "layer": 1},
            {"id": 2, "name": "dog", "color": [1.0, 0.5, 0.0], "layer": 1},
        ],
        "expressions": [
            {"exp_id": "0", "text": "the  cat", "object_ids": [1]},
            {"exp_id": "1", "text": "both  pets", "object_ids": [1, 2]},
        ],
        "prompts": {"0": 1},
        "confidence": [{"layer": 1, "frames": {"1": [[2, 3], [4, 6]], "2": [[3, 4]]}}],
        "runs": [
            {
                "id": "1",
                "object_id": 1,
                "key": {"text": "the cat", "model": "tiny", "range": [2, 9], "steps": 4},
                "done": [[0, 2], [4, 5]],
            }
        ],
        "next_ids": {"layer": 3, "object": 4, "expression": 2, "run": 2},
        "removed": [[3, 4]],
        "moment": moment,
    }
    read = Document.from_attributes(document["attributes"], project.path)
    again = json.loads(json.dumps(read.to_attributes()))
    assert again == document["attributes"] and read.damage == []
    copy = json.loads((project.path / "history" / "document.json").read_text())
    for row in copy["history"]:
        del row["time"]
    assert copy == attributes
    assert sorted(p.name for p in project.path.iterdir() if p.is_dir()) == [
        *("areas", "confidence", "history", "layers", "provenance", "writer"),
    ]


def test_a_document_that_contradicts_itself_is_mended() -> None:
    document = _attributes()
    cat, dog = ({"id": i, "name": "x", "color": [0, 2, 1], "layer": 3 * i} for i in (1, 2))
    found = Document.from_attributes(
        {
            **document,
            "layers": [{"id": 6, "name": "kept"}],
            "objects": [cat, dog],
            "expressions": [{"exp_id": "7", "text": "a", "object_ids": [1, 9]}],
            "prompts": {"7": 1, "8": 1, "x": 9},
            "runs": [{"id": str(i), "object_id": i, "key": {}, "done": []} for i in (2, 5)],
            "confidence": [3, {"layer": 6, "frames": {"2": None}}],
            "next_ids": {"layer": "9", "object": 2, "run": 30},
            "removed": [[4, 6]],
        },
        Path("/p"),
    )
    assert found.layers == {6: LayerRecord(6, "kept"), 3: LayerRecord(3, "layer 3")}
    assert found.objects[1] == ObjectRecord(1, "x", (0.0, 1.0, 1.0), 3)
    assert found.expressions == {"7": Expression("7", "a", frozenset({1}))}
    assert found.damage == ["objects of 'a' that are not there"]
    assert found.prompts == {"7": 1}
    assert found.runs == {"2": RunRecord("2", 2, {})}
    assert found.confidence == {
        3: ConfidenceRecord(3, {1: None}),
        6: ConfidenceRecord(6, {2: None}),
    }
    assert found.removed == {4, 5}
    assert found.next_ids == {"layer": 7, "object": 6, "expression": 8, "run": 30}


@pytest.mark.parametrize(
    ("video", "opens"),
    [
        ({"frame_count": 10**7, "height": 1, "width": 1}, True),
        ({"frame_count": 10**7 + 1}, False),
        ({"frame_count": 1}, True),
        ({"height": MAX_PIXELS, "width": 1}, True),
        ({"height": MAX_PIXELS, "width": 2}, False),
        ({"frame_count": 0}, False),
        ({"width": 2.0}, False),
        ({"height": True}, False),
    ],
)
def test_how_large_a_video_may_be(video: dict[str, Any], opens: bool) -> None:
    document = _attributes()
    attributes = {**document, "video": {**document["video"], **video, "theirs": 5}}
    if opens:
        assert Document.from_attributes(attributes, Path("/p")).damage == []
    else:
        text = said(lambda: Document.from_attributes(attributes, Path("/p")))
        assert text.startswith("/p has damaged attributes (ValueError('a video ")


def test_what_a_project_can_do_without_of_its_video() -> None:
    needed = {"frame_count": 10, "height": 12, "width": 16, "path": None, "kind": "video"}
    document = _attributes()
    found = Document.from_attributes({**document, "video": needed}, Path("/p"))
    assert found.video == VideoInfo(None, "video", 10, 12, 16) and found.damage == []
    for name, odd, instead in (
        ("path", 5, None),
        ("kind", None, "array"),
        ("rate", "fast", None),
        ("rate", 0, None),
        ("rate", float("inf"), None),
        ("rate", True, None),
        ("frame_names", ["a", 5], ()),
        ("frame_names", "ab", ()),
        ("fingerprint", ["x"], None),
    ):
        video = {**needed, name: odd}
        found = Document.from_attributes({**document, "video": video}, Path("/p"))
        assert getattr(found.video, name) == instead, (name, odd)
        assert found.damage == [f"a damaged {name!r} of the video"]
    for name, value in (("rate", 0.5), ("rate", 25), ("fingerprint", "f"), ("path", "/a")):
        video = {**needed, name: value}
        found = Document.from_attributes({**document, "video": video}, Path("/p"))
        assert getattr(found.video, name) == value and found.damage == []
    named = {**needed, "frame_names": ["a", "b"]}
    found = Document.from_attributes({**document, "video": named}, Path("/p"))
    assert found.video.frame_names == ("a", "b")


def test_which_runs_a_new_one_takes_the_place_of(project: Project, cat: ObjectRecord) -> None:
    """Those of its object on any of its frames, but for one of the same key, which goes on."""
    dog = project.add_object("dog", cat.layer)

    def begin(start: int, stop: int, of: ObjectRecord = cat, **how: bool) -> str:
        key = {"text": "a", "range": (start, stop)}
        return project.begin_run(key, of.id, **how).id

    first, beside, theirs = begin(2, 5), begin(5, 8), begin(2, 5, dog)
    assert set(project.runs) == {first, beside, theirs} and len({first, beside, theirs}) == 3
    assert begin(5, 8) == beside and set(project.runs) == {first, beside, theirs}
    anew = begin(5, 8, resume=False)
    assert anew != beside and set(project.runs) == {first, anew, theirs}
    before = begin(0, 2)
    assert set(project.runs) == {first, anew, theirs, before}
    over = begin(4, 6)
    assert set(project.runs) == {before, over, theirs}
    last = begin(5, 10)
    assert set(project.runs) == {before, last, theirs}
    everything = project.begin_run({"text": "a"}, cat.id).id  # of no range
    assert set(project.runs) == {everything, theirs}
    assert begin(0, 1) not in (everything, theirs) and everything not in project.runs


def test_ids_are_counted_from_where_their_kind_begins() -> None:
    document = Document(VideoInfo(None, "array", 10, 12, 16))
    ids = [document.new_id(kind, first) for kind, first in (("object", 1), ("expression", 0)) * 2]
    assert ids == [1, 0, 2, 1] and document.next_ids == {"object": 3, "expression": 2}


def test_small_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert clipped([-1, 0.5, 7]) == (0.0, 0.5, 1.0)
    assert run_frames({}) == "" and run_frames({"range": [4, 9]}) == ", frames 4-8"
    assert relative_path("/a/b/c.mp4", Path("/a/x/y")) == "../../b/c.mp4"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.mp4").write_bytes(b"")
    info = VideoInfo("a.mp4", "video", 1, 1, 1)
    assert with_full_path(info).path == str(tmp_path / "a.mp4")
    for path in (None, "gone.mp4"):
        assert with_full_path(replace(info, path=path)).path == path

    def nobody() -> str:
        raise KeyError("uid")

    for user, name in ((lambda: "ada", "ada"), (nobody, "a person")):
        monkeypatch.setattr(getpass, "getuser", user)
        assert login_name() == name


class TestRefusals:
    """Each says what, where and what to do, and changes nothing."""

    def test_names(self, project: Project, cat: ObjectRecord, info: VideoInfo) -> None:
        where, before = project.path, project._state.document.to_attributes()
        other = replace(info, path="/b.mp4", frame_count=11, width=9)
        for call, text in (
            (lambda: project.labels(9), f"{where} has no layer 9."),
            (lambda: project.rename_layer(9, "x"), f"{where} has no layer 9."),
            (lambda: project.add_object("x", 9), f"{where} has no layer 9."),
            (lambda: project.areas(9), f"{where} has no object 9."),
            (lambda: project.update_object(9, name="x"), f"{where} has no object 9."),
            (lambda: project.add_expression("x", [1, 9]), f"{where} has no object 9."),
            (lambda: project.changes(9, 0), f"{where} has no object 9."),
            (lambda: project.expression_mask("9", 0, 1), f"{where} has no expression '9'."),
            (lambda: project.set_expression_text("9", "x"), f"{where} has no expression '9'."),
            (lambda: project.remove_run("9"), f"{where} has no run 9."),
            (
                lambda: project.add_prompt(" \n"),
                "The sentence is blank; describe what to find.",
            ),
            (
                lambda: project.set_expression_text("0", " "),
                "The sentence is blank; describe what to find.",
            ),
            (
                lambda: project.check_video(other),
                f"{where} holds the masks of /clips/a.mp4 (10 frames, 16x12), not of /b.mp4 "
                "(11 frames, 9x12); choose another project.",
            ),
            (
                lambda: project.check_video(replace(info, path=None, fingerprint="0" * 64)),
                f"{where} holds the masks of /clips/a.mp4 (10 frames, 16x12), not of this one "
                "(10 frames, 16x12); choose another project.",
            ),
        ):
            assert said(call) == text
        assert project._state.document.to_attributes() == before
        assert project.history.steps == ()

    def test_masks(self, project: Project, cat: ObjectRecord) -> None:
        _, dog = project.add_prompt("the dog")
        project.lock_frames(dog.id, 4, 6)
        seven = {"start": 3, "stop": 7}
        steps = project.history.steps
        for call, text in (
            (
                lambda: project.write_model(dog.layer, cat.id, 0, FULL),
                "'the cat' lives in layer 1, not in 2.",
            ),
            (
                lambda: project.write_model(1, 1, 0, FULL, confidence=np.zeros((9, 12, 16), "u1")),
                "Confidence of shape (9, 12, 16) does not fit masks of (10, 12, 16).",
            ),
            (
                lambda: project.write_masks(1, 0, FULL[:, :3]),
                "Masks of shape (10, 3, 16) do not fit the video's (12, 16) pixels.",
            ),
            (
                lambda: project.write_masks(1, 0, FULL, overwrite="all"),  # type: ignore[arg-type]
                "overwrite='all': choose 'model' or 'human'.",
            ),
            (
                lambda: project.write_masks(1, 1, FULL),
                "Frames 1 to 10 are not all in the video, which has 0 to 9.",
            ),
            (
                lambda: project.object_mask(1, -1, 3),
                "Frames -1 to 2 are not all in the video, which has 0 to 9.",
            ),
            (
                lambda: project.lock_frames(1, 5, 4),
                "Frames 5 to 3 are not all in the video, which has 0 to 9.",
            ),
            (
                lambda: project.rethreshold(1, 0, 3, 256),
                "The threshold 256 is not in 0 to 255; choose another.",
            ),
            (
                lambda: project.rethreshold(1, 0, 3, -1),
                "The threshold -1 is not in 0 to 255; choose another.",
            ),
            (
                lambda: project.merge_objects(1, 1),
                "An object cannot be merged with itself; choose another one.",
            ),
            (
                lambda: project.swap_objects(1, 1, 0),
                "An object cannot be swapped with itself; choose another one.",
            ),
            (
                lambda: project.mark_absent(dog.id, **seven),
                "'the dog' is locked on 2 of these frames, the first is 4: unlock them first.",
            ),
            (
                lambda: project.split_object(1, 3, 7, FULL[:3]),
                "Masks of shape (3, 12, 16) do not fit 4 frames of (12, 16) pixels.",
            ),
            (
                lambda: project.labels(1).__setitem__((0, 0, 0), 2),
                "Label 2 is 'the dog' in the layer 'the dog'; choose another label here, the "
                "next free one is 3.",
            ),
            (
                lambda: project.labels(1).__setitem__((0, 0, 0), -1),
                "A label is a whole number from 0 to 65535; choose one of those.",
            ),
        ):
            assert said(call) == text
        assert project.history.steps == steps
        assert not any(project.labels(i)[:].any() for i in project.layers)

    def test_a_project_that_is_closed_or_only_read(
        self, project: Project, cat: ObjectRecord
    ) -> None:
        with Project.open(project.path, read_only=True) as seen:
            reading = f"{project.path} is open for reading only; open it for writing."
            for call in (
                lambda: seen.add_layer("x"),
                lambda: seen.add_object("x", 1),
                lambda: seen.add_prompt("x"),
                lambda: seen.add_expression("x"),
                lambda: seen.rename_layer(1, "x"),
                lambda: seen.note("x", 1),
                lambda: seen.write_masks(1, 0, FULL),
                lambda: seen.write_model(1, 1, 0, FULL),
                lambda: seen.lock_frames(1, 0, 1),
                lambda: seen.mark_absent(1, 0, 1),
                lambda: seen.move_object(1),
                lambda: seen.remove_object(1),
                lambda: seen.rethreshold(1, 0, 1, 5),
                lambda: seen.keep_disagreement(1, 0, np.zeros(1, np.float32)),
                lambda: seen.begin_run({}, 1),
                lambda: seen.remove_run("1"),
                lambda: seen.edit("x").__enter__(),
                seen.undo,
                seen.redo,
                seen.flush,
            ):
                assert said(call) == reading
            text = "This project is open for reading only; reopen it for writing."
            assert said(lambda: seen.labels(1).__setitem__((0, 0), 1)) == text
            brush = (slice(0, 1), slice(0, 1), np.ones((1, 1), bool), 1)
            assert said(lambda: seen.labels(1).paint(0, *brush)) == text
            assert not seen.writable and project.writable
        labels = project.labels(1)
        project.close()
        project.close()
        assert not project.writable
        again = f"{project.path} was closed; open it again."
        for call in (
            lambda: project.labels(1),
            lambda: project.add_layer("x"),
            lambda: project.write_masks(1, 0, FULL),
            lambda: project.copy_to(project.path.with_name("x")),
            lambda: project.changes(1, 0),
            project.flush,
            project.undo,
        ):
            assert said(call) == again
        edit = f"{project.path} was closed; open it again to edit."
        assert said(lambda: labels.__setitem__((0, 0), 1)) == edit

    def test_where_none_can_be_made_or_opened(self, tmp_path: Path, info: VideoInfo) -> None:
        (tmp_path / "f.flowrvs").write_text("x")
        (tmp_path / "d.flowrvs").mkdir()
        project = Project.create(tmp_path / "a", info)
        for call, text in (
            (lambda: Project.open(tmp_path / "no"), f"There is no project at {tmp_path / 'no'}."),
            (
                lambda: Project.open(tmp_path / "f"),
                f"{tmp_path / 'f.flowrvs'} is a file; a project is a folder named *.flowrvs.",
            ),
            (
                lambda: Project.open(tmp_path / "d"),
                f"{tmp_path / 'd.flowrvs'} is not a readable project: its zarr.json is missing or "
                "damaged.",
            ),
            (
                lambda: Project.open(tmp_path / "a"),
                f"{tmp_path / 'a.flowrvs'} is open for writing in this program; close it there "
                "first.",
            ),
            (
                lambda: Project.create(tmp_path / "a", info),
                f"{tmp_path / 'a.flowrvs'} already exists; open it or choose another name.",
            ),
            (
                lambda: project.copy_to(tmp_path / "d"),
                f"{tmp_path / 'd.flowrvs'} already exists; choose another name.",
            ),
            *(
                (
                    lambda size=size: Project.create(tmp_path / "x", replace(info, **size)),
                    "/clips/a.mp4 has no frames to make masks for.",
                )
                for size in ({"frame_count": 0}, {"height": 0}, {"width": -1})
            ),
            (
                lambda: Project.create(tmp_path / "x", replace(info, path=None, width=0)),
                "The video has no frames to make masks for.",
            ),
        ):
            assert said(call) == text
        project.close()
        (tmp_path / "l.flowrvs").symlink_to(tmp_path / "gone")
        assert "already exists" in said(lambda: Project.create(tmp_path / "l", info))
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {"a.flowrvs", "d.flowrvs", "f.flowrvs", "l.flowrvs"}

    def test_what_its_document_may_not_be(self, project: Project) -> None:
        project.close()
        where, file = project.path, project.path / "zarr.json"
        shutil.rmtree(where / "writer")
        good = json.loads(file.read_text())
        for document, text in (
            ([], f"{where} is not a project: its zarr.json is not a zarr v3 group."),
            (
                {**good, "node_type": "array"},
                f"{where} is not a project: its zarr.json is not a zarr v3 group.",
            ),
            ({**good, "attributes": 5}, f"{where} is not a project: its attributes are damaged."),
            ({**good, "attributes": None}, f"{where} is not a flowrvs project."),
            ({**good, "attributes": {"format": "x"}}, f"{where} is not a flowrvs project."),
            (
                {**good, "attributes": {**good["attributes"], "format_version": "2"}},
                f"{where} is not a flowrvs project.",
            ),
            (
                {**good, "attributes": {**good["attributes"], "format_version": 3}},
                f"{where} was written by a newer flowrvs (format 3; this one reads up to 2): "
                "upgrade napari-flowrvs to open it.",
            ),
            (
                {**good, "attributes": {**good["attributes"], "next_ids": 5}},
                f"{where} has damaged attributes (AttributeError(\"'int' object has no attribute "
                "'get'\")).",
            ),
        ):
            file.write_text(json.dumps(document))
            for read_only in (True, False):
                assert (
                    said(lambda read_only=read_only: Project.open(where, read_only=read_only))
                    == text
                )
        assert not (where / "writer").exists(), "nothing is written into what is none"
        file.write_text(json.dumps(good))
        Project.open(where).close()


class TestWriterLock:
    def test_what_it_says_of_its_holder(self, project: Project) -> None:
        project.close()
        file = project.path / "writer" / "zarr.json"
        lock = WriterLock(project.path)
        data = file.read_bytes()
        assert len(data) == 512 and json.loads(data) == {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": {"pid": os.getpid(), "host": socket.gethostname()},
        }
        who = f"another process (pid {os.getpid()} on elsewhere)"
        for attributes, holder in (
            ({"pid": os.getpid(), "host": socket.gethostname()}, "this program"),
            ({"pid": os.getpid(), "host": "elsewhere"}, who),
            ({"pid": os.getpid(), "host": "elsewhere" + "x" * 90}, who[:-1] + "x" * 71 + ")"),
            ({"pid": "a", "host": "b"}, "another process"),
            ({}, "another process"),
        ):
            file.write_text(json.dumps({"attributes": attributes}))
            assert said(lambda: WriterLock(project.path)) == (
                f"{project.path} is open for writing in {holder}; close it there first."
            )
        lock.release()
        lock.release()
        WriterLock(project.path).release()

    def test_a_disk_that_is_full_keeps_nobody_out(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        project.close()
        write = os.write

        def full(*_: object) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        text = said(lambda: Project.open(project.path))
        monkeypatch.setattr(os, "write", write)
        assert text == (
            f"Cannot write to {project.path}: the disk is full; free some space. Nothing in "
            "memory is lost."
        )
        Project.open(project.path).close()

    def test_where_what_is_written_would_land_elsewhere(self, project: Project) -> None:
        project.close()
        lock, away = WriterLock(project.path), project.path.with_name("away")
        lock.check()
        project.path.rename(away)
        assert said(lock.check) == (
            f"Cannot write to {project.path}: the folder has vanished; put it back. Nothing in "
            "memory is lost."
        )
        shutil.copytree(away, project.path)
        assert said(lock.check) == (
            f"Cannot write to {project.path}: another folder lies in its place; put the old one "
            "back. Nothing in memory is lost."
        )
        lock.release()


def test_names_of_steps(project: Project, cat: ObjectRecord) -> None:
    """What *Undo* says it takes back."""
    for i in range(3):
        project.add_object(f"dog {i}", 1)
    sentence = project.add_expression("  pets ", [1]).exp_id
    project.labels(1)[2] = 1
    project.labels(1)[3, :4] = np.repeat(np.arange(1, 5), 4)
    project.write_masks(2, 3, LEFT[:2])
    project.write_model(1, 1, 6, LEFT[:1])
    project.rename_layer(1, "animals")
    project.update_object(1, name="Tom")
    project.update_object(1, color=(1, 0, 0))
    project.set_expression_objects(sentence, [])
    project.set_expression_text(sentence, "all")
    project.remove_expression(sentence)
    project.lock_frames(1, 0, 1)
    project.unlock_frames(1, 0, 1)
    project.release_frames(1, 0, 1)
    project.accept_frames(1, 0, 1)
    project.mark_absent(1, 2, 3)
    project.start_object(1, 2)
    project.end_object(1, 7)
    part = project.split_object(2, 0, 10)
    project.swap_objects(2, part.id, 4)
    project.merge_objects(2, part.id)
    project.move_object(2)
    project.remove_object(2)
    run = project.begin_run({}, 1)
    project.write_model(1, 1, 1, LEFT[:1], overwrite="human")
    project.end_run(1)
    project.remove_run(run.id)
    assert part.name == "dog 0 (part)"
    assert [step.name for step in project.history.steps] == [
        "add the sentence 'pets'",
        "edit on 'the cat', frame 2",
        "edit on 'the cat', 'dog 0' and 2 others, frame 3",
        "masks of 'dog 0', frames 3-4",
        "masks of 'the cat', frame 6",
        "rename 'the cat'",
        "rename 'the cat'",
        "recolour 'Tom'",
        "objects of 'pets'",
        "change the sentence 'pets'",
        "remove the sentence 'all'",
        "lock 'Tom', frame 0",
        "unlock 'Tom', frame 0",
        "release 'Tom', frame 0",
        "accept 'Tom', frame 0",
        "'Tom' absent, frame 2",
        "'Tom' absent, frames 0-1",
        "'Tom' absent, frames 7-9",
        "split 'dog 0', frames 0-9",
        "swap 'dog 0' and 'dog 0 (part)', frames 4-9",
        "merge 'dog 0 (part)' into 'dog 0', frames 0-9",
        "move 'dog 0' to another layer",
        "remove 'dog 0'",
        "model: 'Tom'",
        "remove the run of 'Tom'",
    ]
    kinds = {step.name: (step.kind, step.who) for step in project.history.steps}
    assert kinds["masks of 'the cat', frame 6"] == ("model", "model")
    assert kinds["model: 'Tom'"] == ("model", "model")
    assert kinds["masks of 'dog 0', frames 3-4"] == ("human", login_name())
    assert project.provenance(1).tolist() == [2, 0, 2, 2, 0, 0, 0, 2, 2, 2]
