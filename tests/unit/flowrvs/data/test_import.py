"""A split's video becomes a project, is corrected and goes home; the rest keeps its bytes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from flowrvs.cli import main
from flowrvs.data import (
    MevisSplit,
    append_projects,
    check_split,
    export_projects,
    import_split,
    import_video,
    list_videos,
    repair_split,
    write_back,
)
from flowrvs.data.importing import default_folder
from flowrvs.data.json_parts import locked
from flowrvs.errors import (
    Cancelled,
    DatasetError,
    InputError,
    MissingPathError,
    ProjectError,
    StorageError,
)
from flowrvs.progress import CancelToken
from flowrvs.store import Project, Provenance
from tests.fixtures.disk import small_disk

SHAPES = "two shapes v1.2 снег"
META, MASKS = "meta_expressions.json", "mask_dict.json"


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def load(split, name):
    return json.loads((split / name).read_text())


@pytest.fixture
def crossing(small_split):
    """The split with overlapping objects, foreign nulls, ids in disorder and unknown keys."""
    masks = load(small_split, MASKS)
    masks["1"][:3] = masks["0"][:3]
    masks["1"][5], masks["1"][6], masks["1"][7] = {}, 0, []
    (small_split / MASKS).write_text(json.dumps(masks, separators=(",", ":")))
    meta = load(small_split, META)
    rows = meta["videos"][SHAPES]["expressions"]
    rows["17"] = {**rows.pop("2"), "note": "kept"}
    meta["by"] = "somebody else"
    (small_split / META).write_text(json.dumps(meta, indent=2, ensure_ascii=False))
    return small_split


@pytest.fixture
def project(crossing, tmp_path):
    with import_video(crossing, SHAPES, tmp_path / "p") as made:
        yield made


def test_everything_arrives(project, crossing):
    split = MevisSplit.open(crossing)
    entry = split.videos[SHAPES]
    assert [e.text for e in project.expressions.values()] == [
        e.exp for e in entry.expressions.values()
    ]
    for ours, theirs in zip(project.expressions.values(), entry.expressions, strict=True):
        assert len(ours.object_ids) == len(entry.expressions[theirs].anno_id)
        seen = project.expression_mask(ours.exp_id, 0, 12)
        assert np.array_equal(seen, split.target_masks(SHAPES, theirs))
    assert len(project.objects) == 2
    assert len({one.layer for one in project.objects.values()}) == 2  # they overlap
    for one in project.objects:
        assert (project.provenance(one) == Provenance.HUMAN).all()
    assert not project.history.undo_step  # there is nothing before the truth
    project.labels(1)[0] = 0
    assert project.history.undo_step


def test_objects_apart_share_a_layer(small_split, tmp_path):
    with import_video(small_split, SHAPES, tmp_path / "p") as project:
        assert len(project.layers) == 1 and len(project.objects) == 2


def test_nothing_corrected_changes_no_byte(project, crossing):
    before = files(crossing)
    result = write_back(project)
    assert (result.masks, result.sentences, result.added, result.removed) == (0, 0, 0, 0)
    assert files(crossing) == before


def test_one_corrected_mask_changes_one_entry(project, crossing):
    before, raw = files(crossing), (crossing / MASKS).read_text()
    one = project.objects[1]
    project.labels(one.layer)[4, :3, :3] = one.id
    result = write_back(project)
    assert (result.masks, result.sentences) == (1, 0)
    after = files(crossing)
    assert [str(p) for p in before if before[p] != after[p]] == [MASKS]
    old, new = json.loads(raw), load(crossing, MASKS)
    assert list(old) == list(new)
    differing = [(k, i) for k in old for i in range(len(old[k])) if old[k][i] != new[k][i]]
    assert differing == [("0", 4)]
    # What was not touched has its bytes, foreign spellings of null too.
    assert (crossing / MASKS).read_text().split('"1":')[1] == raw.split('"1":')[1]
    split = MevisSplit.open(crossing)
    assert np.array_equal(split.target_mask(SHAPES, "0", 4), project.object_mask(1, 4, 5)[0])
    assert write_back(project).masks == 0


def test_sentences_and_objects_go_home(project, crossing):
    meta = load(crossing, META)
    by_text = {e.text: e.exp_id for e in project.expressions.values()}
    new = project.add_object("a third one", 1)
    project.labels(1)[0, 40:, 50:] = new.id
    project.add_expression("what is down there", [new.id])
    project.remove_expression(by_text["the square that goes right"])
    project.set_expression_objects(by_text["the blue square"], [2])
    result = write_back(project)
    assert (result.sentences, result.added, result.removed) == (3, 1, 0)
    after = load(crossing, META)
    assert list(after) == list(meta) and after["videos"]["grey"] == meta["videos"]["grey"]
    rows = after["videos"][SHAPES]["expressions"]
    assert "1" not in rows and rows["17"] == meta["videos"][SHAPES]["expressions"]["17"]
    assert rows["3"] == {"exp": "the blue square", "obj_id": [2], "anno_id": [1]}
    (added,) = [r for r in rows.values() if r["exp"] == "what is down there"]
    assert added["anno_id"] == [3] and len(load(crossing, MASKS)["3"]) == 12
    assert write_back(project).sentences == 0
    codes = {f.code for f in check_split(crossing) if f.severity == "error"}
    assert codes == {"not-null"}  # those that were there before


def test_an_erased_object_leaves_its_sentences(project, crossing):
    project.remove_object(2)
    assert write_back(project).removed == 1
    assert list(load(crossing, MASKS)) == ["0", "2"]
    rows = load(crossing, META)["videos"][SHAPES]["expressions"]
    assert rows["17"]["anno_id"] == [0] and rows["17"]["note"] == "kept"


def test_masks_that_other_rows_still_use_stay(crossing, tmp_path):
    """Another video's sentence, and a blank one that is not read, mean the erased object too."""
    meta = load(crossing, META)
    rows = meta["videos"][SHAPES]["expressions"]
    rows["8"] = {"exp": " ", "obj_id": [2], "anno_id": [1]}
    meta["videos"]["grey"]["expressions"]["5"] = {"exp": "x", "obj_id": [0], "anno_id": [0]}
    (crossing / META).write_text(json.dumps(meta))
    with import_video(crossing, SHAPES, tmp_path / "q") as project:
        project.remove_object(1)
        project.remove_object(2)
        assert write_back(project).removed == 2
    assert list(load(crossing, MASKS)) == ["0", "1", "2"]
    after = load(crossing, META)["videos"]
    assert after["grey"] == meta["videos"]["grey"]
    assert after[SHAPES]["expressions"]["8"] == rows["8"]
    assert after[SHAPES]["expressions"]["0"]["anno_id"] == []


def test_a_changed_sentence_leaves_the_file_of_masks_alone(project, crossing):
    stamp = (crossing / MASKS).stat()
    project.set_expression_text(next(iter(project.expressions)), "in other words")
    assert write_back(project).sentences == 1
    assert (crossing / MASKS).stat().st_ino == stamp.st_ino
    assert (crossing / MASKS).stat().st_mtime_ns == stamp.st_mtime_ns


def test_an_object_without_a_sentence_goes_home_too(project, crossing):
    new = project.add_object("nobody speaks of it", 1)
    project.labels(1)[0, 40:, 50:] = new.id
    result = write_back(project)
    assert result.added == 1 and "no sentence means 'nobody speaks of it'" in result.notes[0]
    assert list(load(crossing, MASKS)) == ["0", "1", "2", "3"]
    assert write_back(project).added == 0
    project.add_expression("now somebody does", [new.id])
    assert write_back(project).sentences == 1
    (row,) = [
        r
        for r in load(crossing, META)["videos"][SHAPES]["expressions"].values()
        if r["exp"] == "now somebody does"
    ]
    assert row["anno_id"] == [3]


def test_nobody_else_writes_between_comparing_and_writing(project, crossing):
    project.labels(1)[4, :3, :3] = 1
    with locked(crossing):
        for action in (write_back, lambda p: append_projects([p], crossing)):
            with pytest.raises(DatasetError, match="another program"):
                action(project)
    assert write_back(project).masks == 1


def test_changes_of_others_are_not_overwritten(project, crossing):
    masks = load(crossing, MASKS)
    masks["0"][0] = None
    (crossing / MASKS).write_text(json.dumps(masks))
    before = files(crossing)
    with pytest.raises(DatasetError, match="changed since"):
        write_back(project)
    assert files(crossing) == before
    assert write_back(project, overwrite=True).masks == 1


@pytest.mark.parametrize("action", ["write back", "append", "repair"])
def test_a_full_disk_changes_nothing(project, crossing, action):
    before = files(crossing)
    project.labels(1)[4, :3, :3] = 1
    project.flush()
    named = {"write back": crossing / MASKS, "append": crossing, "repair": crossing / MASKS}
    with small_disk(1000), pytest.raises(StorageError, match=re.escape(f"{named[action]}: ")):
        if action == "write back":
            write_back(project)
        elif action == "append":
            append_projects([project], crossing)
        else:
            repair_split(crossing)
    assert files(crossing) == before
    assert sorted(p.name for p in crossing.parent.iterdir()) == ["valid_u"]


def test_only_mevis_goes_home(project, tmp_path, shapes_mp4):
    (project.path / "origin.json").unlink()
    with pytest.raises(InputError, match="append"):
        write_back(project)


def test_appending_keeps_every_byte(project, crossing):
    before = files(crossing)
    old_meta, old_masks = load(crossing, META), load(crossing, MASKS)
    result = append_projects([project], crossing)
    assert (result.videos, result.objects) == (1, 2)
    after = files(crossing)
    name = f"{SHAPES}-2"
    for path in before:
        if path.name not in (META, MASKS):
            assert after[path] == before[path]
    meta, masks = load(crossing, META), load(crossing, MASKS)
    assert list(meta["videos"]) == [*old_meta["videos"], name]
    assert {k: masks[k] for k in old_masks} == old_masks and list(masks)[3:] == ["3", "4"]
    for path in before:
        old, new = before[path], after[path]
        head = len(os.path.commonprefix([old, new]))
        tail = len(os.path.commonprefix([old[::-1], new[::-1]]))
        assert head + tail >= len(old)  # what is new was put in at one place
    assert {f.code for f in check_split(crossing) if f.severity == "error"} == {"not-null"}
    assert sorted(p.name for p in crossing.parent.iterdir()) == ["valid_u"]


def test_a_whole_split(small_split, tmp_path):
    assert list_videos(small_split) == {SHAPES: 4, "grey": 1}
    paths = list(import_split(small_split))
    assert paths[0] == default_folder(small_split, SHAPES)
    assert [p.name for p in paths] == [f"{SHAPES}.flowrvs", "grey.flowrvs"]


def test_errors_leave_nothing(small_split, tmp_path):
    with pytest.raises(InputError, match="choose one"):
        import_video(small_split)
    with pytest.raises(DatasetError, match="no video"):
        import_video(small_split, "../up")
    with pytest.raises(MissingPathError):
        import_video(tmp_path / "none", "x")
    token = CancelToken()
    with pytest.raises(Cancelled):
        import_video(
            small_split, "grey", tmp_path / "q", cancel=token, progress=lambda e: token.cancel()
        )
    masks = load(small_split, MASKS)
    masks["2"].pop()
    (small_split / MASKS).write_text(json.dumps(masks))
    with pytest.raises(DatasetError, match="has 3 masks for 4 frames"):
        import_video(small_split, "grey", tmp_path / "q")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]
    with import_video(small_split, SHAPES, tmp_path / "q"), pytest.raises(ProjectError):
        import_video(small_split, SHAPES, tmp_path / "q")


def test_importing_all_goes_on_where_it_stopped(small_split, tmp_path, capsys):
    out = tmp_path / "projects"
    with import_video(small_split, "grey", out / "grey") as project:
        project.labels(1)[0, :3, :3] = 1
    assert main(["import", str(small_split), "--all", "--out", str(out)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == str(out / f"{SHAPES}.flowrvs")
    assert said[1] == f"{project.path}: was there already, and stays as it is"
    with Project.open(project.path) as again:
        assert again.object_mask(1, 0, 1).sum() == 9


def test_a_video_that_cannot_be_read_does_not_stop_the_others(small_split, tmp_path, capsys):
    masks = load(small_split, MASKS)
    masks["0"].pop()
    (small_split / MASKS).write_text(json.dumps(masks))
    assert main(["import", str(small_split), "--all", "--out", str(tmp_path / "p")]) == 2
    assert [p.name for p in (tmp_path / "p").iterdir()] == ["grey.flowrvs"]
    assert f"1 of 2 videos could not be imported: {SHAPES} (" in capsys.readouterr().err


def test_two_imports_at_once_do_not_hurt_each_other(small_split, tmp_path):
    def twin(event):
        if not (tmp_path / "p.flowrvs").exists():
            import_video(small_split, "grey", tmp_path / "p").close()

    # What the later one finds is the same but for its date; nobody took its folder away.
    with contextlib.suppress(ProjectError):
        import_video(small_split, "grey", tmp_path / "p", progress=twin).close()
    with Project.open(tmp_path / "p") as project:
        assert project.object_mask(1, 0, 4).sum() == 2 * 6 * 7
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "p.flowrvs"]


def test_what_a_killed_import_left_is_removed_by_the_next(small_split, tmp_path):
    for name in (".p.flowrvs.partial-1-ab", ".p.flowrvs.partial-1-ab.flowrvs"):
        (tmp_path / name).mkdir()
        (tmp_path / f".{name}.partial-1-cd").mkdir()
    import_video(small_split, "grey", tmp_path / "p").close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "p.flowrvs"]


def test_a_full_disk_names_the_project(small_split, tmp_path):
    with small_disk(0), pytest.raises(StorageError) as caught:
        import_video(small_split, SHAPES, tmp_path / "p")
    assert str(tmp_path / "p.flowrvs") in str(caught.value)
    assert "partial" not in str(caught.value) and "in memory" not in str(caught.value)


def test_an_append_that_was_killed_between_frames_and_sentences_goes_on(small_split, tmp_path):
    with import_video(small_split, "grey", tmp_path / "p") as project:
        split = export_projects([project], tmp_path / "d").path
    with import_video(small_split, SHAPES, tmp_path / "q") as project:
        shutil.copytree(split, tmp_path / "whole")
        append_projects([project], tmp_path / "whole")
        wanted = files(tmp_path / "whole")
        moved = Path("JPEGImages") / SHAPES
        shutil.copytree(tmp_path / "whole" / moved, split / moved)
        (split / ".meta_expressions.json.99999999-ab.partial.json").write_text("{")
        append_projects([project], split)
        assert files(split) == wanted
        # Other frames of that name are somebody's.
        (split / "JPEGImages" / f"{SHAPES}-2").mkdir()
        with pytest.raises(DatasetError, match="is there, but not in the split"):
            append_projects([project], split)
