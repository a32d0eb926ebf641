"""Which clip the dock works on, where masks lie, and what was drawn in earlier sessions."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
from napari.layers import Image
from PIL import Image as Picture
from qtpy.QtCore import Qt
from qtpy.QtGui import QTextDocument
from qtpy.QtWidgets import QLabel

from flowrvs.errors import InputError
from flowrvs.records import VideoInfo
from flowrvs.store import Project, Provenance
from napari_flowrvs import viewer as viewer_module
from napari_flowrvs.dock import SegmentDock
from napari_flowrvs.job import Failure, Phase
from napari_flowrvs.layers import (
    as_video,
    label_layer,
    layers_of,
    no_video,
    note_placement,
    placement_of,
)
from napari_flowrvs.project_labels import ProjectLabels
from napari_flowrvs.projects import open_projects
from napari_flowrvs.source import VideoSource, default_project
from tests.unit.napari_flowrvs.conftest import GatedSegmenter, MakeDock, finish, make_clip

Opened = tuple[Any, SegmentDock]


def write(folder: Path, frames: int = 6) -> Path:
    """Write a clip as a folder of pictures."""
    folder.mkdir()
    for t, frame in enumerate(make_clip(frames)):
        Picture.fromarray(frame).save(folder / f"{t:05}.png")
    return folder


def show(dock: SegmentDock, path: Path) -> Any:
    """Add what lies at `path`; return the last layer."""
    return [dock.link.add(layer) for layer in layers_of(path)][-1]


def names(viewer: Any) -> list[str]:
    return [layer.name for layer in viewer.layers]


def draw(dock: SegmentDock, qtbot: Any, *texts: str) -> ProjectLabels:
    dock.find.sentences.set_texts(texts)
    dock.find.draw_button.click()
    finish(qtbot, dock)
    layer = dock.link.viewer.layers.selection.active
    assert isinstance(layer, ProjectLabels)
    return layer


def test_the_dock_follows_what_is_seen(make_dock: MakeDock, qtbot: Any, tmp_path: Path) -> None:
    viewer, dock = make_dock()
    below, above = (show(dock, write(tmp_path / name)) for name in ("below", "above"))
    mine = draw(dock, qtbot)
    assert mine.project.path == tmp_path / "above.flowrvs"
    assert not (tmp_path / "below.flowrvs").exists(), "nothing of the clip that is not seen"
    viewer.layers.selection.active = below
    assert dock.head.layer is below and dock.session.desk.project is None
    other = draw(dock, qtbot)
    assert other.project.path == tmp_path / "below.flowrvs"
    viewer.layers.selection.active = mine
    assert dock.head.layer is above and dock.session.desk.project is mine.project
    dock.head.videos.value = below
    assert dock.session.desk.project is other.project
    assert viewer.layers.selection.active is not mine, "nobody draws on it by mistake"
    viewer.layers.selection.active = above
    assert dock.session.desk.project is mine.project
    viewer.dims.set_current_step(0, 4)
    assert dock.session.desk.frame == 4


def test_a_run_goes_on_where_it_began(
    make_dock: MakeDock, qtbot: Any, tmp_path: Path, gated: GatedSegmenter
) -> None:
    viewer, dock = make_dock(load=lambda model, device: gated)
    first = show(dock, write(tmp_path / "first"))
    first.scale = (1, 3, 3)
    dock.find.sentences.set_texts(("red",))
    dock.find.run()
    show(dock, write(tmp_path / "second"))
    assert dock.head.source is not None and dock.head.source.name == "second"
    gated.allow()
    finish(qtbot, dock)
    layer = viewer.layers["red"]
    assert layer.project.path == tmp_path / "first.flowrvs"
    assert tuple(layer.scale) == (1, 3, 3)
    assert layer.data[2].any() and not (tmp_path / "second.flowrvs").exists()


def test_a_clip_that_is_opened_again_shows_what_was_drawn(
    make_dock: MakeDock, qtbot: Any, tmp_path: Path
) -> None:
    viewer, dock = make_dock()
    folder = write(tmp_path / "clip")
    show(dock, folder)
    layer = draw(dock, qtbot, "the red one", "the green one")
    qtbot.waitUntil(lambda: len(viewer.layers) == 3)
    layer.paint((2, 10, 10), 1)
    viewer.layers.clear()
    qtbot.waitUntil(lambda: open_projects.get(tmp_path / "clip.flowrvs") is None)
    dock.find.sentences.set_texts(())
    show(dock, folder)
    qtbot.waitUntil(lambda: len(viewer.layers) == 3, timeout=10_000)
    assert names(viewer) == ["clip", "the red one", "the green one"]
    assert viewer.layers["the red one"].data[2, 10, 10] == 1
    project = dock.session.desk.project
    assert project is not None and project.path == tmp_path / "clip.flowrvs"
    assert dock.find.sentences.texts == ("the red one", "the green one")
    new = draw(dock, qtbot)
    assert new.name == "object 3" and new.project is project
    viewer.layers.remove("the red one")
    dock.session.desk.choose(1)
    assert viewer.layers.selection.active.name == "the red one", "it has a layer again"


def test_another_clips_project_is_not_shown(
    make_dock: MakeDock, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, dock = make_dock()
    folder = write(tmp_path / "clip")
    show(dock, folder)
    draw(dock, qtbot)
    viewer.layers.clear()
    qtbot.waitUntil(lambda: open_projects.get(tmp_path / "clip.flowrvs") is None)
    shutil.rmtree(folder)
    noted: list[str] = []
    dock.session.opener.noted.connect(noted.append)
    show(dock, write(folder, frames=9))
    qtbot.waitUntil(lambda: bool(noted), timeout=10_000)
    assert noted[0].startswith("The project of an earlier session is not shown: ")
    assert names(viewer) == ["clip"] and open_projects.get(tmp_path / "clip.flowrvs") is None


# -- where masks lie -----------------------------------------------------------------------


def same_place(a: Any, b: Any) -> bool:
    """True when both layers put their pixels at the same places of the world."""
    points = np.array([[0, 0, 0], [3, 10, 20], [5, 39, 7]], float)
    return all(np.allclose(a.data_to_world(p), b.data_to_world(p)) for p in points)


def test_masks_lie_where_the_image_does(make_dock: MakeDock, qtbot: Any, tmp_path: Path) -> None:
    viewer, dock = make_dock()
    turned = np.eye(3)
    turned[1:, 1:] = [[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]]
    affine = np.eye(4)
    affine[1, 2], affine[2, 3] = 0.25, 7
    image = viewer.add_image(
        make_clip(6),
        rgb=True,
        scale=(2, 3, 3),
        translate=(1, -4, 9),
        rotate=turned,
        shear=(0, 0, 0.2),
        affine=affine,
    )
    layer = draw(dock, qtbot)
    assert same_place(layer, image) and not np.allclose(layer.data_to_world((0, 9, 9)), (0, 9, 9))
    image.rotate = np.eye(3)
    image.affine = np.eye(4)
    image.translate = (1, 5, 5)
    assert same_place(layer, image), "also when it is moved later"
    dock.session.desk.go_to(4)
    assert viewer.dims.point[0] == pytest.approx(2 * 4 + 1) and dock.session.desk.frame == 4


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
def test_what_is_turned_through_time_is_refused_in_a_line(make_dock: MakeDock) -> None:
    viewer, dock = make_dock()
    image = viewer.add_image(make_clip(6), rgb=True)
    image.rotate = 20
    assert dock.head.source is not None, "in the plane of the frame"
    affine = np.eye(4)
    affine[0, 1] = 0.5
    viewer.add_image(make_clip(6), rgb=True, affine=affine, name="sheared")
    assert "'sheared' is turned or sheared through time" in dock.find.offers.hint.text()
    assert dock.head.source.name != "sheared"


# -- images of other shapes -----------------------------------------------------------------


def clip_of(axes: str) -> tuple[Any, Any]:
    """Return an array with these axes, and the video that is meant (channel or plane 2 of 4)."""
    frames = make_clip(6)[..., 0]
    if axes == "TCYX":
        return np.stack([frames // (k + 1) for k in range(4)], axis=1), frames // 2
    if axes == "TYXC":
        return np.stack([frames // (k + 1) for k in range(4)], axis=3), frames // 2
    if axes == "YXT":
        return np.moveaxis(frames, 0, 2), frames
    return da.from_array(np.stack([frames // (k + 1) for k in range(4)], axis=1)), frames // 2


@pytest.mark.parametrize("axes", ["TCYX", "TYXC", "YXT", "lazy TZYX"])
def test_other_shapes_get_a_small_choice(make_dock: MakeDock, qtbot: Any, axes: str) -> None:
    viewer, dock = make_dock()
    data, wanted = clip_of(axes)
    viewer.add_image(data, name="stack", scale=[1] * (data.ndim - 2) + [2, 2], rgb=False)
    assert dock.head.source is None and not dock.find.offers.use_row.isHidden()
    assert (
        "'stack'" in dock.find.offers.hint.text()
        and str(tuple(data.shape)) in dock.find.offers.hint.text()
    )
    if axes != "YXT":
        assert dock.find.offers.index.suffix() == " of 4"
        dock.find.offers.index.setValue(2)
    dock.find.offers.use_button.click()
    assert names(viewer) == ["stack" if axes == "YXT" else "stack 2 of 4"]
    layer = viewer.layers[0]
    assert np.array_equal(np.asarray(layer.data), wanted)
    assert dock.head.layer is layer and dock.find.offers.use_row.isHidden()
    draw(dock, qtbot)


def test_what_is_no_video_says_why(make_dock: MakeDock) -> None:
    viewer, dock = make_dock()
    viewer.add_image(make_clip(6)[0, ..., 0], name="still")
    assert (
        "'still' is one picture" in dock.find.offers.hint.text()
        and dock.find.offers.use_row.isHidden()
    )
    viewer.layers.clear()
    assert dock.find.offers.hint.text().startswith("Begin with a video")


def test_several_resolutions_and_five_axes() -> None:
    clip = make_clip(6)[..., 0]
    pyramid = Image([clip, clip[:, ::2, ::2]], multiscale=True, name="pyramid", scale=(1, 2, 2))
    found = no_video(pyramid)
    assert found is not None and "several resolutions" in found.reason
    data, meta, _ = as_video(pyramid)
    assert np.array_equal(np.asarray(data), clip) and tuple(meta["scale"]) == (1, 2, 2)
    planes = Image(np.zeros((6, 4, 40, 60)), scale=(2, 9, 3, 4), translate=(1, 8, 5, 6))
    last = Image(np.zeros((40, 60, 6)), scale=(3, 4, 2), translate=(5, 6, 1))
    for layer in (planes, last):  # each axis keeps its own
        meta = as_video(layer)[1]
        assert (tuple(meta["scale"]), tuple(meta["translate"])) == ((2, 3, 4), (1, 5, 6))
    deep = Image(np.zeros((2, 3, 4, 5, 6)), name="deep")
    found = no_video(deep)
    assert found is not None and found.axis is None and "5 axes" in found.reason
    with pytest.raises(InputError, match="no video"):
        as_video(deep)
    with pytest.raises(InputError, match="There is no video in this layer"):
        as_video(Image(np.zeros((5, 6, 7), np.uint8)))


def turned(ndim: int, a: int, b: int) -> Any:
    """Return a rotation by half a radian in the plane of two axes."""
    matrix = np.eye(ndim)
    matrix[[a, a, b, b], [a, b, a, b]] = np.cos(0.5), -np.sin(0.5), np.sin(0.5), np.cos(0.5)
    return matrix


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
def test_a_plane_of_a_stack_lies_where_the_stack_does() -> None:
    """Turned and sheared as it is, in its units, with all its affine."""
    data = np.zeros((6, 4, 40, 60), np.uint8)
    data[:] = np.arange(4)[:, None, None]
    affine = np.eye(5)
    affine[2, 3], affine[:4, 4] = 0.25, (1, 2, 3, 4)
    stack = Image(
        data,
        scale=(2, 9, 3, 3),
        translate=(1, 8, -4, 9),
        rotate=turned(4, 2, 3),
        shear=(0, 0, 0, 0, 0, 0.2),
        affine=affine,
        units=("s", "um", "mm", "mm"),
    )
    plane, meta, _ = as_video(stack, 2)
    layer = Image(plane, **meta)
    assert (np.asarray(plane) == 2).all() and no_video(layer) is None
    assert [str(unit) for unit in layer.units] == ["second", "millimeter", "millimeter"]
    for t, y, x in ((0, 0, 0), (3, 10, 20), (5, 39, 7)):
        wanted = np.delete(stack.data_to_world((t, 2, y, x)), 1)
        assert np.allclose(layer.data_to_world((t, y, x)), wanted)
    last = Image(np.zeros((40, 60, 6)), rotate=turned(3, 0, 1), translate=(5, 6, 1), name="last")
    layer = Image(as_video(last)[0], **as_video(last)[1])
    y, x, t = last.data_to_world((10, 20, 3))
    assert np.allclose(layer.data_to_world((3, 10, 20)), (t, y, x))
    pyramid = [np.zeros((6, 40, 60)), np.zeros((6, 20, 30))]
    coarse = Image(pyramid, multiscale=True, rotate=turned(3, 1, 2), scale=(1, 2, 2))
    layer = Image(as_video(coarse)[0], **as_video(coarse)[1])
    assert same_place(layer, coarse)
    deep = Image([data, data[..., ::2, ::2]], multiscale=True, name="deep")
    assert Image(as_video(deep)[0], **as_video(deep)[1]).ndim == 4, "a choice of planes comes next"


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
@pytest.mark.parametrize(
    ("shape", "place", "what"),
    [
        ((6, 4, 40, 60), (1, 2), "its channels or planes"),
        ((6, 4, 40, 60), (3, 1), "its channels or planes"),
        ((6, 4, 40, 60), (0, 2), "time"),
        ((40, 60, 6), (2, 0), "time"),
    ],
)
def test_a_plane_that_cannot_be_followed_is_refused(
    shape: tuple[int, ...], place: tuple[int, int], what: str
) -> None:
    affine = np.eye(len(shape) + 1)
    affine[place] = 0.5
    stack = Image(np.zeros(shape), affine=affine, name="stack")
    found = no_video(stack)
    assert found is not None and found.axis is None, "nothing is offered that could not be kept"
    assert found.reason == (
        f"The layer 'stack' is turned or sheared through {what}, which no mask can follow: reset "
        "its rotation, shear and affine of that axis."
    )


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
@pytest.mark.parametrize(("place", "fits"), [((0, 1), False), ((2, 0), False), ((1, 2), True)])
def test_neither_time_nor_place_depends_on_the_other(place: tuple[int, int], fits: bool) -> None:
    affine = np.eye(4)
    affine[place] = 0.5
    found = no_video(Image(make_clip(6), rgb=True, affine=affine))
    assert (found is None) == fits
    assert found is None or "sheared through time" in found.reason


def test_arrays_are_told_apart_by_all_their_pixels(tmp_path: Path) -> None:
    clip = make_clip(60)
    other = clip.copy()
    other[4, 0, 0] += 1  # not one of 32 frames that are evenly spread
    same, renamed = VideoSource("a", 60, None, clip), VideoSource("b", 60, None, clip.copy())
    here = default_project(same, tmp_path)
    assert here.name.startswith("a-")
    assert default_project(VideoSource("a", 60, None, other), tmp_path) != here
    assert default_project(renamed, tmp_path).name.startswith("b-")
    here.mkdir()
    assert default_project(renamed, tmp_path) == here, "it was renamed, and is the same"


# -- labels of others -------------------------------------------------------------------------


def test_labels_of_others_are_taken_over(make_dock: MakeDock, qtbot: Any, tmp_path: Path) -> None:
    viewer, dock = make_dock()
    show(dock, write(tmp_path / "clip"))
    assert dock.find.offers.take_button.isHidden()
    masks = np.zeros((6, 40, 60), np.int64)
    masks[1, 5:9, 5:9], masks[4, 5:9, 20:30] = 70_000, 3
    theirs = viewer.add_labels(masks, name="mine & theirs")
    assert "'mine & theirs' is not part of a project" in dock.footer.progress.status.text()
    assert dock.find.offers.take_button.text() == "Take over 'mine && theirs'"
    dock.find.offers.take_button.click()
    finish(qtbot, dock)
    layer = viewer.layers.selection.active
    assert isinstance(layer, ProjectLabels) and layer.name == "mine & theirs [1]"
    project = layer.project
    assert [o.name for o in project.objects.values()] == ["mine & theirs 3", "mine & theirs 70000"]
    assert np.array_equal(np.asarray(layer.data) == 1, masks == 3)
    assert np.array_equal(np.asarray(layer.data) == 2, masks == 70_000)
    assert project.provenance(2).tolist() == [0, Provenance.HUMAN, 0, 0, 0, 0]
    assert not theirs.visible and dock.find.offers.take_button.isHidden()
    layer.undo()
    qtbot.waitUntil(lambda: not np.asarray(layer.data).any())
    viewer.dims.set_current_step(0, 3)
    viewer.add_labels((masks[1] > 0).astype(np.uint8), name="one")
    dock.find.offers.take_button.click()
    finish(qtbot, dock)
    drawn = np.asarray(viewer.layers.selection.active.data)
    assert np.array_equal(drawn[3] > 0, masks[1] > 0) and not np.delete(drawn, 3, axis=0).any()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.ones((6, 40, 61), np.uint8), "only labels of the same frames"),
        (np.zeros((6, 40, 60), np.uint8), "'odd' is empty"),
        (np.arange(2400).reshape(40, 60), "more than 1000 values"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    make_dock: MakeDock, qtbot: Any, tmp_path: Path, data: Any, words: str
) -> None:
    viewer, dock = make_dock()
    show(dock, write(tmp_path / "clip"))
    viewer.add_labels(data, name="odd")
    dock.find.offers.take_button.click()
    finish(qtbot, dock)
    assert words in dock.footer.problem.line.text()
    assert not (tmp_path / "clip.flowrvs").exists()


# -- projects that go -------------------------------------------------------------------------


def test_another_viewers_project_stays_open(
    make_dock: MakeDock, qtbot: Any, tmp_path: Path
) -> None:
    first, dock = make_dock()
    show(dock, write(tmp_path / "clip"))
    layer = draw(dock, qtbot)
    second, other = make_dock()
    shown = show(other, layer.project.path)
    assert shown.project is layer.project
    second.layers.clear()
    assert open_projects.get(layer.project.path) is layer.project
    layer.paint((1, 10, 10), 1)
    assert layer.data[1, 10, 10] == 1
    shown = show(other, layer.project.path)
    del layer
    first.layers.clear()
    shown.paint((2, 10, 10), 1)
    assert shown.data[2, 10, 10] == 1 and shown.data[1, 10, 10] == 1
    path = shown.project.path
    second.layers.clear()
    qtbot.waitUntil(lambda: open_projects.get(path) is None)


def test_closing_a_window_leaves_the_other_ones_project(
    make_dock: MakeDock, make_napari_viewer: Callable[..., Any], qtbot: Any, tmp_path: Path
) -> None:
    _, dock = make_dock()
    show(dock, write(tmp_path / "clip"))
    layer = draw(dock, qtbot)
    second, other = make_dock()
    show(other, layer.project.path)
    del other
    second.close()
    qtbot.wait(100)
    assert open_projects.get(layer.project.path) is layer.project
    layer.paint((1, 10, 10), 1)
    with Project.open(layer.project.path, read_only=True):
        assert layer.data[1, 10, 10] == 1


def test_the_layer_of_a_deleted_object_goes_and_comes_back(
    make_dock: MakeDock, qtbot: Any, tmp_path: Path
) -> None:
    viewer, dock = make_dock()
    show(dock, write(tmp_path / "clip"))
    draw(dock, qtbot, "one", "two")
    qtbot.waitUntil(lambda: len(viewer.layers) == 3)
    dock.session.desk.choose(2)
    viewer.layers["two"].paint((1, 10, 10), 2)
    dock.session.objects.delete()
    qtbot.waitUntil(lambda: names(viewer) == ["clip", "one"])
    dock.session.history.undo()
    qtbot.waitUntil(lambda: names(viewer) == ["clip", "one", "two"])
    assert viewer.layers["two"].data[1, 10, 10] == 2


def test_a_project_whose_folder_went_says_so(
    make_dock: MakeDock, qtbot: Any, tmp_path: Path
) -> None:
    _, dock = make_dock()
    show(dock, write(tmp_path / "clip"))
    project = draw(dock, qtbot).project
    project.flush()
    dock.watch.check()
    assert dock.footer.problem.isHidden()
    shutil.move(project.path, tmp_path / "away")
    dock.watch.check()
    assert "clip.flowrvs: its folder was moved or deleted" in dock.footer.problem.line.text()
    assert "save a copy" in dock.footer.problem.line.text()
    shutil.move(tmp_path / "away", project.path)


@pytest.mark.usefixtures("make_napari_viewer")
def test_closing_asks_where_work_cannot_be_saved(
    make_dock: MakeDock, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, dock = make_dock(show=True)
    show(dock, write(tmp_path / "clip"))
    project = draw(dock, qtbot).project
    window = viewer.window._qt_window
    asked: list[str] = []
    answers = ["cancel", "close"]
    monkeypatch.setattr(
        dock.head, "ask", lambda text: asked.append(text) or answers[len(asked) - 1]
    )
    assert dock.head.may_close() and not asked, "all is well"
    project.flush()
    shutil.move(project.path, tmp_path / "away")
    window.close()
    assert window.isVisible() and "clip.flowrvs cannot be saved" in asked[0]
    assert dock.head.may_close() and len(asked) == 2
    shutil.move(tmp_path / "away", project.path)


# -- where a clip lies is kept ----------------------------------------------------------------


def test_where_a_clip_lies_is_kept(make_dock: MakeDock, qtbot: Any, tmp_path: Path) -> None:
    viewer, dock = make_dock()
    image = show(dock, write(tmp_path / "clip"))
    image.rotate, image.scale, image.shear = 30, (1, 2, 2), (0, 0, 0.3)
    path = draw(dock, qtbot).project.path
    image.translate = (0, 11, -5)
    wanted = [image.data_to_world((1, 2, 3)), image.data_to_world((4, 30, 9))]
    viewer.layers.clear()
    qtbot.waitUntil(lambda: open_projects.get(path) is None)
    for opened in (path, tmp_path / "clip"):  # the project, and the clip itself
        show(dock, opened)
        qtbot.waitUntil(lambda: len(viewer.layers) == 2, timeout=10_000)
        for layer in viewer.layers:
            places = [layer.data_to_world((1, 2, 3)), layer.data_to_world((4, 30, 9))]
            assert np.allclose(places, wanted), (opened, layer)
        viewer.layers.clear()
        qtbot.waitUntil(lambda: open_projects.get(path) is None)


@pytest.mark.parametrize(
    "odd",
    [
        "no placement",
        {"placement": {"scale": [1, 1, 1]}},
        {"placement": dict.fromkeys(("scale", "translate", "rotate", "shear", "affine"), [0, 0])},
        {
            "placement": {
                "scale": [1, 0, 1],
                "translate": [0, 0, 0],
                "rotate": np.eye(3).tolist(),
                "shear": [0, 0, 0],
                "affine": np.eye(4).tolist(),
            }
        },
    ],
)
def test_an_odd_placement_of_others_is_not_taken(tmp_path: Path, odd: Any) -> None:
    project = open_projects.ensure(tmp_path / "clip.flowrvs", VideoInfo(None, "array", 6, 40, 60))
    project.note("napari", odd)
    assert placement_of(project) == {}
    assert "scale" not in label_layer(project, project.add_prompt("one")[1].layer)[1]


def test_where_a_clip_lies_is_noted_beside_what_others_note(tmp_path: Path) -> None:
    project = open_projects.ensure(tmp_path / "clip.flowrvs", VideoInfo(None, "array", 6, 40, 60))
    project.note("napari", {"theirs": [1, 2]})
    note_placement(project, Image(make_clip(6), rgb=True, scale=(2, 3, 4), translate=(1, 5, 6)))
    assert project.notes["napari"]["theirs"] == [1, 2]
    found = placement_of(project)
    assert (tuple(found["scale"]), tuple(found["translate"])) == ((2, 3, 4), (1, 5, 6))


# -- keys -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("make_napari_viewer")
def test_keys_on_the_canvas(
    make_dock: MakeDock, qtbot: Any, tmp_path: Path, gated: GatedSegmenter
) -> None:
    viewer, dock = make_dock(show=True, load=lambda model, device: gated)
    image = show(dock, write(tmp_path / "clip"))
    canvas = viewer.window._qt_viewer.canvas.native
    layer = draw(dock, qtbot, "one", "two")
    qtbot.waitUntil(lambda: len(viewer.layers) == 3)
    for wanted in (2, 1, 2):
        qtbot.keyClick(canvas, Qt.Key.Key_Q)
        assert dock.session.desk.object_id == wanted
    qtbot.keyClick(canvas, Qt.Key.Key_Q, Qt.KeyboardModifier.ShiftModifier)
    assert dock.session.desk.object_id == 1
    layer.paint((1, 10, 10), 1)
    viewer.layers.selection.active = image
    control, both = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier
    qtbot.keyClick(canvas, Qt.Key.Key_Z, control)
    qtbot.waitUntil(lambda: not layer.data[1].any())
    qtbot.keyClick(canvas, Qt.Key.Key_Z, control | both)
    qtbot.waitUntil(lambda: layer.data[1, 10, 10] == 1)
    for active in (image, layer):
        viewer.layers.selection.active = active
        dock.find.run()
        assert dock.session.segment.job.busy
        qtbot.keyClick(canvas, Qt.Key.Key_Escape)
        assert dock.session.segment.job.phase is Phase.STOPPING
        finish(qtbot, dock)


def test_the_line_of_another_clip_goes(make_dock: MakeDock, tmp_path: Path) -> None:
    _, dock = make_dock()
    show(dock, write(tmp_path / "clip"))
    dock.footer.show_failure(Failure("The disk is full.", "Traceback"))
    assert not dock.footer.problem.isHidden()
    dock.session.desk.project_changed.emit(None)
    assert dock.footer.problem.isHidden()


def test_many_sentences_show_the_first_layers(
    make_dock: MakeDock, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert viewer_module._MANY == 20
    told: list[str] = []
    monkeypatch.setattr(viewer_module, "_MANY", 3)
    monkeypatch.setattr(viewer_module, "show_info", told.append)
    viewer, dock = make_dock()
    show(dock, write(tmp_path / "clip"))
    draw(dock, qtbot, *(f"sentence {i}" for i in range(5)))
    assert names(viewer) == ["clip", "sentence 0", "sentence 1", "sentence 2"]
    # Of the first one the layer is being shown already when they are counted.
    assert told == [
        "2 of 5 layers are shown when one of their objects is chosen, on the page Objects."
    ]
    dock.session.desk.choose(5)
    assert viewer.layers.selection.active.name == "sentence 4"


@pytest.mark.parametrize("name", ["<b>x</b><img src=file:///etc/passwd>", "a < b & c"])
def test_names_are_shown_as_they_stand(
    make_dock: MakeDock, qtbot: Any, tmp_path: Path, name: str
) -> None:
    _, dock = make_dock()
    show(dock, write(tmp_path / "clip"))
    layer = draw(dock, qtbot, name)
    layer.paint((1, 10, 10), 1)
    qtbot.waitUntil(lambda: dock.footer.history.undo_button.isEnabled())
    tip, role = Qt.ItemDataRole.ToolTipRole, Qt.ItemDataRole.DisplayRole
    tips = [
        dock.objects.objects_model.data(dock.objects.objects_model.index(0, 1), tip),
        dock.objects.sentences_model.data(dock.objects.sentences_model.index(0, 0), tip),
        dock.footer.history.undo_button.toolTip(),
    ]
    for text in tips:
        document = QTextDocument()
        (document.setHtml if Qt.mightBeRichText(text) else document.setPlainText)(text)
        assert name in document.toPlainText(), text
    assert dock.objects.objects_model.data(dock.objects.objects_model.index(0, 1), role) == name
    for label in dock.findChildren(QLabel):
        if name in label.text():
            assert label.textFormat() == Qt.TextFormat.PlainText or not Qt.mightBeRichText(name)
