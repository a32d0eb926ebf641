"""The desk and the strip, without a screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.utils.colormaps import DirectLabelColormap

from flowrvs.errors import InputError, StorageError
from flowrvs.records import VideoInfo
from flowrvs.store import Project, Provenance
from napari_flowrvs.desk import Desk
from napari_flowrvs.layers import label_layer
from napari_flowrvs.project_labels import ObjectColors, ProjectLabels
from napari_flowrvs.projects import open_projects
from napari_flowrvs.strip.presenter import COLORS, EMPTY_COLORS, StripPresenter, stack


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """Ten frames; a cat by the model, two frames of it by a person; a dog by nobody."""
    with Project.create(tmp_path / "clip", VideoInfo(None, "array", 10, 6, 8, 25.0)) as made:
        _, cat = made.add_prompt("the cat")
        made.add_prompt("the dog")
        made.write_model(cat.layer, cat.id, 0, np.ones((8, 6, 8), bool))
        made.labels(cat.layer)[3, :2] = 0
        made.lock_frames(cat.id, 4, 5)
        yield made


@pytest.fixture
def desk(project: Project) -> Desk:
    desk = Desk()
    desk.set_project(project)
    return desk


def test_the_desk_tells_what_is_looked_at(desk: Desk, project: Project) -> None:
    seen: list[object] = []
    desk.object_changed.connect(seen.append)
    desk.frame_requested.connect(seen.append)
    desk.span_changed.connect(seen.append)
    assert desk.object_id == 1 and desk.frame_count == 10 and desk.rate == 25
    desk.set_object(2)
    desk.set_object(2)
    desk.set_object(77)
    assert seen == [2, None]
    desk.set_frame(8)
    desk.step(10)
    assert seen.pop() == 9
    desk.step(-10)
    assert seen.pop() == 0
    assert desk.span == (0, 10) and not desk.span_chosen
    desk.set_span(4, None)
    desk.set_span(None, 3)
    assert desk.span == (2, 3) and desk.span_chosen
    desk.set_span(50, None)
    assert desk.span == (9, 10)
    desk.set_object(1)
    seen.clear()
    desk.set_project(None)
    assert desk.object is None and desk.span == (0, 0) and len(desk.provenance()) == 0
    assert seen == [None, None], "of the range and of the object: no panel keeps the old one"


def test_a_change_is_told_once_for_each_layer(desk: Desk, project: Project) -> None:
    seen: list[int | None] = []
    desk.contents_changed.connect(lambda changed: seen.append(changed.layer_id))
    third = project.add_object("a tail", project.objects[1].layer).id
    seen.clear()
    desk.touched_objects([1, third], 2, 5)
    assert seen == [project.objects[1].layer]
    seen.clear()
    desk.touched_objects([1, 77], 2, 5)
    assert seen == [None], "of one that is gone nobody knows the layer: it stands for all"


def test_an_object_that_goes_is_not_worked_on_any_more(desk: Desk, project: Project) -> None:
    desk.set_object(2)
    project.remove_object(2)
    desk.catalog_changed.emit()
    assert desk.object_id == 1
    project.remove_object(1)
    desk.catalog_changed.emit()
    assert desk.object_id is None
    project.undo()
    desk.catalog_changed.emit()
    assert desk.object_id is None, "a person chooses"


def test_objects_are_chosen_one_after_the_other(desk: Desk, project: Project) -> None:
    third = project.add_object("the bird", project.objects[2].layer).id
    chosen = []
    for step in (1, 1, 1, -1, -1):
        desk.choose_next(step)
        chosen.append(desk.object_id)
    assert chosen == [2, third, 1, third, 2]
    desk.set_object(None)
    desk.choose_next()
    assert desk.object_id == 1
    desk.set_object(None)
    desk.choose_next(-1)
    assert desk.object_id == third, "backwards from none: the last"
    desk.set_project(None)
    desk.choose_next()
    assert desk.object_id is None


def test_the_strip_has_one_colour_for_each_provenance(desk: Desk) -> None:
    strip = StripPresenter(desk)
    picture = strip.picture(20, 4)
    assert picture.shape == (4, 20, 3)
    wanted = [COLORS[Provenance.MODEL]] * 8 + [EMPTY_COLORS[True]] * 2
    wanted[3], wanted[4] = COLORS[Provenance.HUMAN], COLORS[Provenance.LOCKED]
    assert np.array_equal(picture[0], np.repeat(wanted, 2, axis=0))
    assert (picture == picture[:1]).all(), "a frame is one colour from top to bottom"
    first, *who = strip.describe(3).splitlines()
    assert first == "frame 3: yours" and len(who) == 2, "the stroke and the run"
    assert strip.frame_at(7.9, 20) == 3 and strip.place_of(3, 20) == (6, 8)
    assert strip.frame_at(-5, 20) == 0 and strip.frame_at(99, 20) == 9


def test_the_strip_follows_strokes_and_runs(desk: Desk, project: Project) -> None:
    strip = StripPresenter(desk)
    changes: list[int] = []
    strip.changed.connect(lambda: changes.append(1))
    assert strip.provenance[9] == Provenance.EMPTY
    project.write_model(1, 1, 9, np.ones((1, 6, 8), bool))
    desk.wrote(2, 9, 10)
    assert not changes, "another layer"
    desk.wrote(1, 9, 10)
    assert changes and strip.provenance[9] == Provenance.MODEL
    project.labels(1)[9, 0, 0] = 0
    desk.touched(1, 9, 10)
    assert strip.provenance[9] == Provenance.HUMAN


def test_one_corrected_frame_among_many_is_seen() -> None:
    provenance = np.full(108_000, Provenance.MODEL, np.uint8)
    provenance[54_321] = Provenance.HUMAN
    picture = stack(provenance, 900, 10)
    human = (picture == COLORS[Provenance.HUMAN]).all(axis=2)
    assert human.sum() == 1 and human[0, 54_321 * 900 // 108_000]
    empty = stack(np.zeros(108_000, np.uint8), 900, 10, dark=False)
    assert (empty == EMPTY_COLORS[False]).all()


def test_nobodys_frame_is_hidden_by_rounding() -> None:
    """A drawn and a locked frame in a bin of 120: both are seen, and at the top."""
    provenance = np.full(120, Provenance.MODEL, np.uint8)
    provenance[3], provenance[80] = Provenance.HUMAN, Provenance.LOCKED
    column = stack(provenance, 1, 10)[:, 0]
    assert column.tolist() == [
        list(COLORS[Provenance.LOCKED]),
        list(COLORS[Provenance.HUMAN]),
        *[list(COLORS[Provenance.MODEL])] * 8,
    ]


def test_colours_differ_in_lightness_too() -> None:
    """So that they stay apart without colour vision, on either background."""
    for background in EMPTY_COLORS.values():
        shades = [*COLORS.values(), background]
        grey = sorted(float(np.dot(c, (0.2126, 0.7152, 0.0722))) for c in shades)
        assert min(np.diff(grey)) > 10


def test_the_doubt_of_a_bin_is_its_largest(desk: Desk) -> None:
    strip = StripPresenter(desk)
    assert strip.curve(5) is None
    strip.set_doubt(np.linspace(0, 0.9, 10, dtype=np.float32))
    assert strip.curve(5) == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
    assert strip.curve(20) == pytest.approx(np.repeat(np.linspace(0, 0.9, 10), 2))
    assert strip.describe(9) == "frame 9: empty, doubt 0.90"
    strip.set_doubt(np.array([np.nan, 0.2, 0.4, np.nan, np.nan] * 2, np.float32))
    np.testing.assert_array_equal(strip.curve(5), np.float32([0.2, 0.4, np.nan, 0.4, np.nan]))
    assert "doubt" not in strip.describe(0) and "doubt 0.20" in strip.describe(1)
    strip.set_doubt(np.full(9, 0.2, np.float32))  # of a clip that was shorter
    assert strip.describe(8) == "frame 8: empty, doubt 0.20"
    assert strip.describe(9) == "frame 9: empty"
    strip.set_doubt(None)
    assert strip.describe(8) == "frame 8: empty"


def test_colours_are_napari_s_own_without_its_slow_table() -> None:
    colors = {None: (0.6, 0.6, 0.6, 1), 0: (0, 0, 0, 0), 3: (1, 0, 0, 1), 700: (0, 0.5, 1, 1)}
    ours, plain = ObjectColors(color_dict=colors), DirectLabelColormap(color_dict=colors)
    for dtype in (np.uint8, np.uint16, np.int32):
        values = np.array([[0, 3, 5], [7, 3, 0]], dtype)
        if dtype is not np.uint8:
            values[0, 2] = 700
        np.testing.assert_array_equal(ours.map(values), plain.map(values))
        ours.use_selection = plain.use_selection = True
        ours.selection = plain.selection = 3
        np.testing.assert_array_equal(ours.map(values), plain.map(values))
        ours.use_selection = plain.use_selection = False
    every = np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(ours.map(every), plain.map(every))


def test_a_layer_is_drawn_again_for_new_colours_only(tmp_path: Path) -> None:
    info = VideoInfo(None, "array", 2, 6, 8)
    project = open_projects.ensure(tmp_path / "clip.flowrvs", info)
    made = project.add_prompt("one")[1]
    data, meta, _ = label_layer(project, made.layer)
    layer = ProjectLabels(data, **meta)
    drawn: list[int] = []
    layer.events.colormap.connect(lambda: drawn.append(1))
    for _ in range(3):
        layer.show_objects()
    assert not drawn and layer.selected_label == made.id
    project.update_object(made.id, color=(0.0, 0.5, 0.1))
    layer.show_objects()
    other = project.add_object("two", made.layer)
    layer.show_objects()
    layer.show_objects()
    assert len(drawn) == 2 and layer.selected_label == made.id
    assert np.allclose(layer.get_color(made.id)[:3], (0.0, 0.5, 0.1))
    assert np.allclose(layer.get_color(other.id)[:3], other.color)


def test_a_desk_without_a_project() -> None:
    desk, seen = Desk(), list[Any]()
    desk.frame_requested.connect(seen.append)
    desk.go_to(3)
    desk.step(1)
    desk.go_to_end(last=True)
    assert seen == [] and (desk.frame_count, desk.rate) == (0, None), "there is nowhere to go"
    desk.set_video(7, 12.5)
    assert (desk.frame_count, desk.rate, desk.span) == (7, 12.5, (0, 7))
    desk.go_to_end(last=True)
    desk.go_to_end(last=False)
    for frame in (-3, 2, 7):
        desk.go_to(frame)
    assert seen == [6, 0, 0, 2, 6]
    desk.choose(1)
    desk.set_object(1)
    assert desk.object_id is None and len(desk.provenance()) == 0
    for need in (desk.need_project, desk.need_object):
        with pytest.raises(InputError, match="There is no project yet: Run or Draw by hand on the"):
            need()


@pytest.mark.parametrize(
    ("before", "asked", "wanted"),
    [
        (None, (3, None), (3, 10)),
        (None, (None, 4), (0, 4)),
        (None, (3, 7), (3, 7)),
        (None, (-3, None), (0, 10)),
        (None, (None, 99), (0, 10)),
        (None, (None, 0), (0, 1)),
        (None, (12, None), (9, 10)),
        ((2, 5), (7, None), (7, 8)),
        ((2, 5), (4, None), (4, 5)),
        ((2, 5), (5, None), (5, 6)),
        ((2, 5), (None, 2), (1, 2)),
        ((2, 5), (None, 3), (2, 3)),
        ((2, 5), (None, None), None),
    ],
)
def test_an_end_that_is_moved_takes_the_other_one_along(
    before: Any, asked: Any, wanted: Any
) -> None:
    desk, seen = Desk(), list[Any]()
    desk.set_video(10)
    if before is not None:
        desk.set_span(*before)
    desk.span_changed.connect(seen.append)
    for _ in range(2):
        desk.set_span(*asked)
    assert seen == [wanted], "told once"
    assert desk.span == (wanted or (0, 10)) and desk.span_chosen == (wanted is not None)


def test_another_project_brings_its_own_object_and_range(
    desk: Desk, project: Project, tmp_path: Path
) -> None:
    seen: list[Any] = []
    for name in ("project_changed", "span_changed", "object_requested", "object_changed"):
        getattr(desk, name).connect(lambda value, name=name: seen.append((name, value)))
    desk.choose(2)
    desk.choose(77)
    assert seen == [("object_requested", 2), ("object_changed", 2)], "its layer is shown first"
    project.labels(1)[0] = 0
    desk.set_object(1)
    asked: list[int] = []
    desk.frame_requested.connect(asked.append)
    for object_id in (1, 2):
        desk.set_object(object_id)
        desk.go_to_end(last=False)
        desk.go_to_end(last=True)
    assert asked == [1, 7, 0, 9], "where the cat is; the dog is nowhere"
    desk.set_span(2, 5)
    seen.clear()
    desk.set_project(project)
    assert seen == []
    with Project.create(tmp_path / "other", VideoInfo(None, "array", 4, 6, 8)) as other:
        for text in ("a", "b"):
            other.add_prompt(text)
        other.remove_object(1)
        desk.set_project(other)
        assert seen == [("project_changed", other), ("span_changed", None), ("object_changed", 2)]
        desk.set_video(9, 5.0)
        assert (desk.frame_count, desk.span, desk.rate) == (4, (0, 4), 5.0)
        desk.set_project(project)
        assert (desk.frame_count, desk.rate) == (10, 25.0), "the project's own, where it is known"
        desk.set_object(None)
        with pytest.raises(InputError, match="choose one on the page Objects"):
            desk.need_object()
        desk.set_project(other)
    assert len(desk.provenance()) == 0, "it was closed just now"


def test_the_last_changes_of_a_frame_are_told(
    desk: Desk, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    strip = StripPresenter(desk)
    for column in range(4):
        project.labels(1)[5, 3, column] = 0
    first, *rows = strip.describe(5).splitlines()
    assert first == "frame 5: yours" and len(rows) == 3
    newest, *others = project.changes(1, 5)
    assert len(others) > 2 and rows[0] == (
        f"{newest.name}, {newest.who}, {newest.when[:10]} {newest.when[11:16]}"
    )
    assert strip.describe(10) == ""
    with monkeypatch.context() as patch:

        def away(*_: Any) -> None:
            raise StorageError("The disk is away.")

        patch.setattr(Project, "changes", away)
        assert strip.describe(5) == "frame 5: yours"
    desk.set_object(None)
    assert strip.describe(0) == ""
    assert strip.frame_at(5, 0) == 9 and strip.place_of(2, 30) == (6, 9)
