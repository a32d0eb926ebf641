"""Projects from somebody else: links, pipes, bombs and lies cost one line, and nothing outside."""

from __future__ import annotations

import json
import os
import resource
import sqlite3
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowrvs.errors import FlowRVSError, ProjectError
from flowrvs.store import ObjectRecord, Project, Provenance

pytestmark = pytest.mark.timeout(60)  # a pipe that is opened waits for ever
FULL = np.ones((10, 12, 16), bool)
NESTED = "[" * 200_000 + "]" * 200_000
DEEP = '{"layers": {"1": [null, ' + 900 * "[" + 900 * "]" + "]}}"  # can be read, not written


@pytest.fixture
def cat(project: Project) -> ObjectRecord:
    return project.add_prompt("the cat")[1]


@pytest.fixture
def drawn(project: Project, cat: ObjectRecord) -> Path:
    """A closed project: a person's frames 0 to 4 and a model's, one step each."""
    project.write_masks(cat.id, 0, FULL[:5])
    project.write_model(cat.layer, cat.id, 5, FULL[:5], confidence=255 * FULL[:5].astype(np.uint8))
    project.add_expression("cats", [cat.id])
    project.close()
    return project.path


def _replace(file: Path, kind: str, outside: Path) -> None:
    """Put a link to something outside, or a pipe, in the place of a file or folder."""
    if kind == "pipe":
        file.unlink(missing_ok=True)
        os.mkfifo(file)
        return
    if file.exists():
        file.rename(outside)
    file.symlink_to(outside)


def _content(path: Path) -> Any:
    if path.is_dir():
        return {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}
    return path.read_bytes() if path.exists() else None


def _use(project: Project) -> None:
    """Do what a person does, whatever of it is refused in a line."""
    for action in (
        lambda: project.labels(1).__setitem__((3, 4), 0),
        lambda: project.labels(1).__setitem__((7, 4), 0),
        lambda: project.write_model(1, 1, 8, FULL[:1], confidence=np.zeros((1, 12, 16), np.uint8)),
        lambda: project.rethreshold(1, 5, 10, 50),
        lambda: project.split_object(1, 0, 5),
        lambda: project.flush(),
        lambda: project.undo(),
        lambda: project.copy_to(project.path.with_name("copy")),
        lambda: project.confidence(1, 0, 10),
    ):
        try:
            action()
        except FlowRVSError as error:
            assert "\n" not in str(error) and len(str(error)) < 500


@pytest.mark.parametrize("kind", ["link", "pipe"])
@pytest.mark.parametrize(
    "name",
    [
        *("zarr.json", "writer/zarr.json", "layers/1/zarr.json", "layers/1/c.3.0.0"),
        *("provenance/1/zarr.json", "provenance/1/c.0", "areas/1/c.0", "confidence/1/c.7.0.0"),
        *("history/journal.sqlite", "history/journal.sqlite-wal", "history/document.json"),
        *("layers/1/c.3.0.0.__lock", "provenance/1/c.0.__lock", "zarr.json.__lock"),
    ],
)
def test_files_that_are_none(drawn: Path, tmp_path: Path, name: str, kind: str) -> None:
    """Nothing outside is read or written, nothing waits for a pipe."""
    outside = tmp_path / "outside"
    _replace(drawn / name, kind, outside)
    before = _content(outside)
    for read_only in (True, False):
        try:
            with Project.open(drawn, read_only=read_only) as project:
                _use(project)
        except FlowRVSError as error:
            assert "\n" not in str(error) and name.split("/")[0] in str(error)
    assert _content(outside) == before
    assert not (tmp_path / "outside.__lock").exists()


@pytest.mark.parametrize(
    "name",
    [
        *("layers", "layers/1", "provenance", "areas", "confidence", "disagreement"),
        *("history", "writer"),
    ],
)
def test_folders_that_are_links(drawn: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    _replace(drawn / name, "link", outside)
    before = _content(outside)
    for read_only in (True, False):
        with pytest.raises(ProjectError, match="symbolic link|missing or damaged"):
            Project.open(drawn, read_only=read_only)
    assert _content(outside) == before


def test_links_that_wait_for_an_array(drawn: Path, tmp_path: Path) -> None:
    """An array that is made where links lie: nothing is written through them."""
    outside = tmp_path / "outside"
    for name in ("provenance/2", "areas/2", "layers/2", "confidence/2", "disagreement/1"):
        (drawn / name).mkdir(parents=True, exist_ok=True)
        for file in ("zarr.json", "zarr.json.__lock", "c.0", "c.0.__lock", "c.0.0.0.__lock"):
            (drawn / name / file).symlink_to(outside)
    with Project.open(drawn) as project:
        project.split_object(1, 0, 5)
        made = project.add_object("x", project.add_layer("x").id)
        project.write_model(2, made.id, 0, FULL, confidence=FULL.astype(np.uint8))
        project.keep_disagreement(1, 0, np.zeros(10, np.float32))
        project.flush()
        assert project.confidence_notice is None or "disagreement" in project.confidence_notice
    assert not outside.exists()
    with Project.open(drawn) as project:
        assert project.object_mask(2, 0, 5).all() and project.object_mask(3, 0, 10).all()


def test_a_project_behind_a_link_is_one(drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "b.flowrvs").symlink_to(drawn)
    with Project.open(tmp_path / "b.flowrvs") as project:
        project.labels(1)[3, 4] = 0
    with Project.open(drawn) as project:
        assert not project.labels(1)[3, 4].any() and project.undo() is not None


def test_a_giant_in_the_place_of_a_chunk_is_not_read(drawn: Path) -> None:
    """A frame costs that frame; of who drew what, and of how sure it was, the rest is known."""
    for name in ("layers/1/c.3.0.0", "confidence/1/c.7.0.0", "areas/1/c.0"):
        os.truncate(drawn / name, 1 << 32)  # zeros that lie nowhere
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Project.open(drawn) as project:
        with pytest.raises(ProjectError, match="Frame 3 .*it is larger than its pixels"):
            project.labels(1)[3]
        with pytest.raises(ProjectError, match="confidence .* is damaged within frames 7 to 7"):
            project.confidence(1, 7, 8)
        assert project.labels(1)[4].all() and project.labels(1)[7].all()
        assert project.areas(1)[4] == 192
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 2**10


def test_a_frame_that_is_a_link_costs_that_frame(drawn: Path, tmp_path: Path) -> None:
    _replace(drawn / "layers" / "1" / "c.3.0.0", "link", tmp_path / "outside")
    with Project.open(drawn) as project:
        with pytest.raises(ProjectError, match="Frame 3 .*link or no plain file"):
            project.labels(1)[3]
        assert project.labels(1)[4].all()


@pytest.mark.parametrize(
    "change",
    [
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 2**31, 2**31]}}},
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0, 12, 16]}}},
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [10, 12, 16]}}},
        {"shape": [10, 12, 2**40]},
        {"shape": "9" * 5000, "data_type": "8" * 5000},
        {"codecs": [{"name": "bytes"}, {"name": "gzip", "configuration": {"level": 1}}]},
        {"codecs": 5},
        {"chunk_key_encoding": {"name": "v2", "configuration": {"separator": "/"}}},
        {"data_type": "float64"},
    ],
)
def test_arrays_that_are_described_otherwise(drawn: Path, change: dict[str, Any]) -> None:
    """tensorstore would end the process, or fill the memory."""
    for name in ("layers/1", "provenance/1", "confidence/1"):
        file = drawn / name / "zarr.json"
        good = file.read_text()
        file.write_text(json.dumps({**json.loads(good), **change}))
        try:
            with Project.open(drawn) as project:
                assert name != "layers/1"
                assert project.labels(1)[:].all()
                assert (project.provenance(1) >= Provenance.MODEL).all()
                if name == "provenance/1":  # nobody knows: a person's
                    assert (project.provenance(1) == Provenance.HUMAN).all()
                else:
                    with pytest.raises(ProjectError, match="missing or damaged|the project needs"):
                        project.confidence(1, 0, 10)
        except ProjectError as error:
            assert name == "layers/1" and "\n" not in str(error) and len(str(error)) < 500
        file.write_text(good)


class TestJournal:
    def _execute(self, drawn: Path, *texts: str, values: tuple[Any, ...] = ()) -> None:
        db = sqlite3.connect(drawn / "history" / "journal.sqlite")
        for text in texts:
            db.execute(text, values)
        db.commit()
        db.close()

    @pytest.mark.parametrize(
        "texts",
        [
            (
                "ALTER TABLE steps RENAME TO kept",
                "CREATE VIEW steps AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 "
                "FROM n) SELECT x AS id, '' AS name, '' AS kind, '' AS who, '' AS time, 'done' AS "
                "state, 1 AS place, 1 AS first_seq, 1 AS last_seq, '{}' AS frames, '{}' AS catalog "
                "FROM n",
            ),
            ("CREATE TRIGGER gone AFTER INSERT ON steps BEGIN DELETE FROM records; END",),
            ("CREATE TABLE other (a)",),
        ],
        ids=["view", "trigger", "table"],
    )
    def test_tables_that_are_not_ours(self, drawn: Path, texts: tuple[str, ...]) -> None:
        self._execute(drawn, *texts)
        with Project.open(drawn, read_only=True) as seen:
            assert seen.labels(1)[:].all() and not seen.history.undo_step
            assert "cannot be read" in str(seen.history.notice)
        with Project.open(drawn) as project:
            assert "begins anew" in str(project.history.notice)
            assert project.labels(1)[:].all()
            project.labels(1)[3] = 0
        with Project.open(drawn) as project:
            assert project.history.notice is None and project.undo() is not None

    def test_damage_that_is_told_in_damaged_words(self, drawn: Path) -> None:
        """SQLite names the index whose definition it cannot read."""
        file = drawn / "history" / "journal.sqlite"
        data = file.read_bytes()
        place = data.index(b"CREATE INDEX records_of_step ON records")
        file.write_bytes(data[: place + 13] + b"\xff\xfe ( \xff" + data[place + 19 :])
        with Project.open(drawn, read_only=True) as seen:
            assert seen.labels(1)[:].all() and not seen.history.undo_step
        with Project.open(drawn) as project:
            assert "begins anew" in str(project.history.notice)
            assert project.labels(1)[:].all()

    @pytest.mark.parametrize(
        "data",
        [
            zlib.compress(b"R" + bytes(200 * 2**20), 9),  # zeros without end
            zlib.compress(b"R" + np.array([0, 2**32 - 1], "<u4").tobytes() + bytes(4)),
            zlib.compress(b"R" + np.array([190, 9], "<u4").tobytes() + bytes(4)),
            zlib.compress(b"R" + np.array([0, 5, 9, 9], "<u4").tobytes() + bytes(8)),
            zlib.compress(b"D" + np.array([0, 2**31, 16], "<u4").tobytes()),
            zlib.compress(b"D" + np.array([9, 3, 16], "<u4").tobytes()),
            zlib.compress(b"R")[:-3],
            b"\x00" * 40,
        ],
    )
    def test_a_record_that_lies_costs_that_record(self, drawn: Path, data: bytes) -> None:
        text = "UPDATE records SET data = ? WHERE start = 2 AND role = 'pixels'"
        self._execute(drawn, text, values=(data,))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with Project.open(drawn) as project:
            while project.undo() is not None:
                pass
            assert "A part of the undo history" in str(project.history.notice)
            assert project.areas(1).tolist() == [0, 0, 192] + [0] * 7
            np.testing.assert_array_equal(
                project.areas(1), project.object_mask(1, 0, 10).sum(axis=(1, 2))
            )
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 2**10

    @pytest.mark.parametrize(
        "text",
        [
            f"UPDATE records SET marks = '{NESTED}' WHERE start = 2",
            "UPDATE records SET marks = '[[1, 0, 9]]' WHERE start = 2",
            "UPDATE records SET start = -3 WHERE start = 2",
            "UPDATE records SET start = 1 << 40, stop = (1 << 40) + 1 WHERE start = 2",
            "UPDATE records SET stop = 99 WHERE start = 2",
            "UPDATE records SET role = 'anything' WHERE start = 2",
            "UPDATE records SET layer = 77 WHERE start = 2",
            "UPDATE records SET data = 5 WHERE start = 2",
        ],
    )
    def test_a_damaged_record_costs_that_record(self, drawn: Path, text: str) -> None:
        self._execute(drawn, text)
        with Project.open(drawn) as project:
            while project.undo() is not None:
                pass
            assert project.areas(1).tolist() == [0, 0, 192] + [0] * 7

    @pytest.mark.parametrize(
        "text",
        [
            f"UPDATE steps SET frames = '{NESTED}' WHERE name LIKE 'masks%'",
            f"UPDATE steps SET catalog = '{NESTED}' WHERE name LIKE 'masks%'",
            f"UPDATE steps SET catalog = '{DEEP}' WHERE name LIKE 'masks%'",
            "UPDATE steps SET catalog = '{\"layers\": {\"1\": [1]}}' WHERE name LIKE 'masks%'",
            "UPDATE steps SET frames = '{\"tool\": 5, \"layers\": 3}' WHERE name LIKE 'masks%'",
            "UPDATE steps SET place = 'x' WHERE name LIKE 'masks%'",
        ],
    )
    def test_damaged_steps_leave_what_they_did(self, drawn: Path, text: str) -> None:
        self._execute(drawn, text)
        with Project.open(drawn) as project:
            assert [step.name for step in project.history.steps] == ["add the sentence 'cats'"]
            assert "A part of the undo history" in str(project.history.notice)
            assert project.undo() is not None and project.labels(1)[:].all()

    def test_names_that_do_not_fit_are_left(self, drawn: Path) -> None:
        row = {"expressions": {"1": [None, {"exp_id": 5, "text": None, "object_ids": "x"}]}}
        self._execute(drawn, "UPDATE steps SET catalog = ?", values=(json.dumps(row),))
        with Project.open(drawn) as project:
            while project.undo() is not None:
                pass
            assert [e.text for e in project.expressions.values()] == ["the cat", "cats"]

    def test_a_step_without_changes_is_none(self, drawn: Path) -> None:
        """As a kill between a step and what it did left it."""
        frames = '{"tool": "edit", "layers": [1], "objects": {"1": [[3, 4]]}}'
        self._execute(
            drawn,
            "INSERT INTO steps VALUES (99, 'brush', 'human', 'a', '', 'done', 99, 9, 9, ?, '{}')",
            values=(frames,),
        )
        for _ in range(2):
            with Project.open(drawn) as project:
                assert project.undo_name == "add the sentence 'cats'"
                assert project.history.notice is None


class TestDocument:
    def _change(self, drawn: Path, **attributes: Any) -> None:
        for file in (drawn / "zarr.json", drawn / "history" / "document.json"):
            document = json.loads(file.read_text())
            target = document.get("attributes", document)
            target.update(attributes)
            file.write_text(json.dumps(document))

    def test_nested_without_end(self, drawn: Path) -> None:
        (drawn / "zarr.json").write_text(NESTED)
        with Project.open(drawn) as project:
            assert "was damaged" in str(project.history.notice) and project.labels(1)[:].all()
        (drawn / "zarr.json").write_text(f'{{"attributes": {NESTED}}}')
        (drawn / "history" / "document.json").write_text(NESTED)
        with pytest.raises(ProjectError, match="not a readable project"):
            Project.open(drawn)

    def test_ids_of_nothing_are_dropped(self, drawn: Path) -> None:
        """A sentence that means an object that is not there means the others."""
        rows = [
            {"exp_id": "0", "text": "the cat", "object_ids": [1, 7]},
            {"exp_id": "4", "text": "a dog", "object_ids": [9]},
            {"exp_id": "5", "text": None, "object_ids": [1]},
            {"exp_id": "6", "text": "x", "object_ids": [2**70]},
        ]
        self._change(drawn, expressions=rows, prompts={"0": 1, "4": 9, "9": 1, "x": "y"})
        with Project.open(drawn) as project:
            found = {key: (e.text, set(e.object_ids)) for key, e in project.expressions.items()}
            assert found == {"0": ("the cat", {1}), "4": ("a dog", set())}
            assert "holds a damaged row of expressions and 3 more" in str(project.history.notice)
            assert project.add_expression("new").exp_id == "5", "an id is not used twice"
            assert project.add_prompt("a dog")[1].id == 2
        with Project.open(drawn) as project:
            assert project.history.notice is None

    def test_damaged_rows_cost_what_they_name(self, drawn: Path) -> None:
        document = json.loads((drawn / "zarr.json").read_text())["attributes"]
        layers = [*document["layers"], {"id": -3, "name": "x"}, 5]
        objects = [
            *document["objects"],
            {"id": 70_000, "name": "x", "color": [0, 0, 0], "layer": 1},
            {"id": 3, "name": "x", "color": [0, 0], "layer": 1},
        ]
        runs = [{"id": "1", "object_id": 1, "key": {}, "done": [[0, 10**12]]}]
        self._change(
            drawn, layers=layers, objects=objects, runs=runs, history=[5], removed=[[2, 9]]
        )
        with Project.open(drawn) as project:
            assert (list(project.layers), list(project.objects), project.runs) == ([1], [1], {})
            assert project.next_label == 9, "beyond what was removed"
            assert project.labels(1)[:].all()

    @pytest.mark.parametrize("size", [0, -4, 2**40, 2**24, 1.5, "10", True])
    def test_a_video_of_no_size(self, drawn: Path, size: Any) -> None:
        document = json.loads((drawn / "zarr.json").read_text())["attributes"]
        for name in ("height", "frame_count"):
            self._change(drawn, video={**document["video"], name: size})
            with pytest.raises(ProjectError, match="damaged"):
                Project.open(drawn)

    @pytest.mark.parametrize(
        ("change", "left"),
        [
            ({"path": 255}, {"path": None}),
            ({"kind": ["x"]}, {"kind": "array"}),
            ({"rate": "12"}, {"rate": None}),
            ({"rate": float("nan")}, {"rate": None}),
            ({"rate": -1}, {"rate": None}),
            ({"frame_names": ["a", 5]}, {"frame_names": ()}),
            ({"frame_names": 7}, {"frame_names": ()}),
            ({"fingerprint": [1]}, {"fingerprint": None}),
        ],
    )
    def test_what_is_damaged_of_a_video_costs_that_alone(
        self, drawn: Path, change: dict[str, Any], left: dict[str, Any]
    ) -> None:
        document = json.loads((drawn / "zarr.json").read_text())["attributes"]
        with Project.open(drawn, read_only=True) as project:
            wanted = replace(project.video, **left)
        self._change(drawn, video={**document["video"], **change})
        with Project.open(drawn) as project:
            assert project.video == wanted and project.labels(1)[:].all()
            (name,) = change
            assert f"a damaged {name!r} of the video" in str(project.history.notice)

    def test_nested_too_deep_to_be_written_again(self, drawn: Path) -> None:
        deep: Any = 1
        for _ in range(900):
            deep = [deep]
        document = json.loads((drawn / "zarr.json").read_text())
        for place in ({"theirs": deep}, {"history": [{"event": deep}]}):
            damaged = {**document, "attributes": {**document["attributes"], **place}}
            (drawn / "zarr.json").write_text(json.dumps(damaged))
            with Project.open(drawn) as project:
                assert "was damaged" in str(project.history.notice)
                assert project.labels(1)[:].all()

    def test_half_a_character_does_not_poison_what_is_saved(self, drawn: Path) -> None:
        half = "caf\ud800"
        with Project.open(drawn) as project:
            project.add_expression(half, [1])
            project.add_prompt(half)
            project.update_object(1, name=half)
            project.rename_layer(1, half)
            project.begin_run({"text": half, "model": half, "range": [0, 2]}, 1)
            project.write_model(1, 1, 8, FULL[:1])
            with project.edit(half):
                project.labels(1)[3] = 0
        with Project.open(drawn) as project:
            assert project.objects[1].name == "caf?" and project.layers[1].name == "caf?"
            assert "caf?" in {e.text for e in project.expressions.values()}
            assert project.undo_name == "caf?"


def test_a_path_that_is_not_utf8_comes_back(tmp_path: Path, drawn: Path) -> None:
    """The system gives such a name half characters."""
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")
    Path(path).write_bytes(b"")
    with Project.open(drawn) as project:
        project.check_video(replace(project.video, path=path))
    with Project.open(drawn) as project:
        assert project.video.path == path and project.history.notice is None


def test_too_many_open_files_is_no_damage(drawn: Path) -> None:
    """What is told must not have anybody delete a healthy frame."""
    with Project.open(drawn) as project:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with pytest.raises(FlowRVSError, match="too many files are open") as error:
                project.labels(1)[3]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert "delete" not in str(error.value) and "\n" not in str(error.value)
        assert project.labels(1)[3].all()
