"""The desk and a viewer without a window: whose masks are shown, where, and what is drawn again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels

from flowrvs.records import VideoInfo
from flowrvs.store import Project
from flowrvs.video import open_video
from napari_flowrvs.bridge import Bridge
from napari_flowrvs.desk import Changed, Desk
from napari_flowrvs.find.presenter import Written
from napari_flowrvs.layers import label_layer, note_placement, placement_of, video_layer
from napari_flowrvs.projects import open_projects
from napari_flowrvs.viewer import ViewerLink, home_of

INFO = VideoInfo(None, "array", 6, 8, 9)


class World(SimpleNamespace):
    """A viewer, its desk and link, and what the layers ask for."""

    viewer: ViewerModel
    desk: Desk
    link: ViewerLink
    turned: list[bool]
    project: Project

    def image(self, name: str, **more: Any) -> Image:
        """Add a clip."""
        return self.viewer.add_image(np.zeros((6, 8, 9), np.uint8), name=name, **more)

    def labels(self, project: Project, layer_id: int = 1) -> Any:
        """Add labels of a project."""
        return self.link.add(label_layer(project, layer_id))


@pytest.fixture
def world(qtbot: Any, tmp_path: Path) -> Iterator[World]:
    """A project of two layers with an object each; nothing of it is shown yet."""
    viewer, desk, turned = ViewerModel(), Desk(), list[bool]()
    link = ViewerLink(viewer, desk, Bridge(desk), turned.append, lambda: False)
    project = open_projects.ensure(tmp_path / "a.flowrvs", INFO)
    project.add_prompt("one")
    project.add_prompt("two")
    yield World(viewer=viewer, desk=desk, link=link, turned=turned, project=project)
    link.let_go()
    desk.set_project(None)


def test_a_clip_and_its_project_find_each_other(world: World, tmp_path: Path) -> None:
    link, project = world.link, world.project
    video, other = world.image("clip"), world.image("other")
    assert link.videos() == [("other", other), ("clip", video)], "topmost first"
    assert link.video_of(project) is None and link.project_of(video) is None
    assert home_of(video) is None
    link.note_home(video, project)
    assert home_of(video) == str(project.path) and link.video_of(project) is video
    assert link.project_of(video) is None, "none of its masks is shown"
    labels = world.labels(project)
    assert link.project_of(video) is project and link.project_of(other) is None
    assert link.project_of(None) is None
    assert link.labels(project, 1) is labels and link.labels(project, 2) is None
    assert link.layer_of(1) is labels and link.layer_of(2) is None and link.layer_of(77) is None
    # By the path of the video, where no home was noted.
    info = VideoInfo("/films/b.mp4", "file", 6, 8, 9)
    second = open_projects.ensure(tmp_path / "b.flowrvs", info)
    second.add_prompt("one")
    film = world.image("film", metadata={"flowrvs": {"video": "/films/b.mp4"}})
    world.labels(second)
    assert link.video_of(second) is film and link.project_of(film) is second
    assert link.project_of(other) is None, "no path is no path in common"
    open_projects.close(second)
    assert link.project_of(film) is None, "it was closed meanwhile"


def test_which_project_the_desk_has(world: World, tmp_path: Path) -> None:
    viewer, desk, link, project = world.viewer, world.desk, world.link, world.project
    video = world.image("clip")
    link.note_home(video, project)
    seen: list[Any] = []
    link.video_seen.connect(seen.append)
    one, two = world.labels(project), world.labels(project, 2)
    assert (desk.project, desk.object_id) == (project, 2) and seen[-1] is video
    viewer.layers.selection.active = one
    assert desk.object_id == 1
    for label, wanted in ((2, 2), (0, 2), (77, 2), (1, 1)):
        one.selected_label = label
        assert desk.object_id == wanted, "0 and new labels are no reason to lose the object"
    second = open_projects.ensure(tmp_path / "b.flowrvs", INFO)
    second.add_prompt("theirs")
    theirs = world.labels(second)
    assert desk.project is second and seen[-1] is None, "its clip is not here"
    one.selected_label = 2  # of a layer that is not the active one
    assert (desk.project, desk.object_id) == (second, 1)
    viewer.layers.selection.active = video
    assert desk.project is second, "an image alone changes nothing: whoever lists videos does"
    link.follow(video)
    assert desk.project is second and link.video is video, "nobody has chosen it"
    link.follow(stray := world.image("stray"), chosen=True)
    assert desk.project is second and link.video is stray, "it may be the clip of these masks"
    link.follow(video, chosen=True)
    assert desk.project is project and link.video is video
    viewer.layers.selection.active = theirs
    link.follow(video, chosen=True)
    assert viewer.layers.selection.active is video and desk.project is project
    link.follow(None)
    assert desk.project is project
    viewer.layers.selection.active = two
    open_projects.close(project)
    viewer.layers.selection.active = video
    assert desk.project is None, "it was closed meanwhile"


def test_the_last_layer_that_goes_lets_go_of_the_project(world: World) -> None:
    link, project, viewer = world.link, world.project, world.viewer
    heard: list[str] = []
    link.labels_removed.connect(lambda: heard.append("labels"))
    link.videos_changed.connect(lambda: heard.append("videos"))
    link.video_added.connect(lambda layer: heard.append(f"added {layer.name}"))
    link.layer_chosen.connect(lambda layer: heard.append(f"chosen {layer}"))
    video = world.image("clip")
    assert heard.count("videos") == 1 and heard.count("added clip") == 1
    assert viewer.layers.selection.active is video and heard[-1] == "chosen clip"
    world.viewer.add_image(np.zeros((8, 9)), name="still")
    assert "added still" not in heard and heard.count("videos") == 2
    one, two = world.labels(project), world.labels(project, 2)
    other = object()
    open_projects.hold(project, other)
    assert link.unused() == set() and link.projects == {project}
    heard.clear()
    video.name = "renamed"
    assert heard == ["videos"]
    viewer.layers.remove(one)
    assert "labels" in heard and link.unused() == set() and one.turn is None
    viewer.layers.remove(two)
    assert link.unused() == {project}
    link.release_unused()
    assert link.projects == set() and open_projects.get(project.path) is project, "held elsewhere"
    assert world.desk.project is None, "it is not this viewer's any more"
    two = world.labels(project, 2)
    open_projects.release(project, other)
    assert open_projects.get(project.path) is project, "held here again"
    viewer.layers.remove(two)
    link.release_unused()
    assert open_projects.get(project.path) is None and world.desk.project is None


def test_a_deleted_objects_layer_keeps_its_project(world: World, qtbot: Any) -> None:
    link, desk, project = world.link, world.desk, world.project
    one = world.labels(project)
    one.paint((2, 3, 3), 1)
    project.remove_object(1)
    desk.catalog_changed.emit()
    assert one not in world.viewer.layers and link.unused() == set(), "it may come back"
    link.release_unused()
    assert open_projects.get(project.path) is project
    project.undo()
    desk.catalog_changed.emit()
    qtbot.waitUntil(lambda: not link.waiting and len(world.viewer.layers) == 1)
    assert link.labels(project, 1).data[2, 3, 3] == 1
    desk.catalog_changed.emit()
    qtbot.wait(5)
    assert len(world.viewer.layers) == 1 and not link.waiting, "once"


def test_frames_of_layers_that_lie_anywhere(world: World) -> None:
    desk, link, dims = world.desk, world.link, world.viewer.dims
    video = world.image("clip", scale=(2, 1, 1), translate=(10, 0, 0))
    link.follow(video)
    desk.set_video(6)
    assert link.reference() is video
    desk.go_to(4)
    assert dims.point[0] == 18 and desk.frame == 4
    dims.set_point(0, 12)
    assert desk.frame == 1
    labels = world.labels(world.project)  # of frames 0 to 5, where the clip has 10 to 20
    assert link.reference() is labels and desk.frame == round(labels.world_to_data(dims.point)[0])
    desk.go_to(3)
    assert dims.point[0] == 3 and desk.frame == 3


def test_what_shows_a_frame_is_drawn_again_where_it_changed(world: World, qtbot: Any) -> None:
    desk, link, project = world.desk, world.link, world.project
    one, two = world.labels(project), world.labels(project, 2)
    desk.go_to(3)
    drawn: list[str] = []
    for layer in (one, two):
        layer.events.set_data.connect(lambda event, name=layer.name: drawn.append(name))
    for change, wanted in (
        (Changed(1, 3, 4), ["one"]),
        (Changed(2, 0, 6), ["two"]),
        (Changed(None, 2, 4), ["one", "two"]),
        (Changed(1, 0, 3), []),
        (Changed(1, 4, 6), []),
    ):
        drawn.clear()
        desk.contents_changed.emit(change)
        assert drawn == wanted, change
    for written, shown in (
        (Written(1, 3, 4, 1), True),
        (Written(1, 0, 3, 3), False),
        (Written(1, 4, 6, 2), False),
        (Written(77, 0, 6, 6), False),
    ):
        drawn.clear()
        assert link.refresh(project, written) is shown and drawn == ["one"] * shown, written
    assert not link.refresh(None, Written(1, 0, 6, 6))
    world.viewer.dims.order = (1, 0, 2)
    assert link.refresh(project, Written(1, 0, 3, 3)), "all frames are seen from the side"


def test_the_brush_is_taken_on_the_layer_of_the_object(world: World) -> None:
    link, viewer = world.link, world.viewer
    one = world.labels(world.project)
    link.take_brush(2)  # its layer comes, where the first one lies
    two = viewer.layers.selection.active
    assert (two.layer_id, two.mode, two.selected_label) == (2, "paint", 2)
    assert world.desk.object_id == 2 and one.mode == "pan_zoom"
    link.take_brush(1)
    assert viewer.layers.selection.active is one and one.mode == "paint"
    assert len(viewer.layers) == 2


def test_undo_in_a_layer_is_the_docks_until_it_goes(world: World) -> None:
    one = world.labels(world.project)
    one.undo()
    one.redo()
    assert world.turned == [True, False] and one.cancel is not None
    stray = world.viewer.add_labels(np.zeros((6, 8, 9), np.uint8))
    assert type(stray) is Labels
    world.link.soon(lambda: pytest.fail("nobody is here any more"))
    world.link.let_go()
    assert one.turn is None and one.cancel is None and not world.link.waiting
    world.viewer.layers.selection.active = one
    world.desk.set_frame(5)
    world.viewer.dims.set_point(0, 2)
    assert world.desk.frame == 5
    world.link.let_go()


def test_a_clip_goes_where_its_project_lay(world: World) -> None:
    link, project = world.link, world.project
    moved = world.image("moved", scale=(1, 2, 2))
    link.note_home(None, project)
    assert placement_of(project) == {}
    link.note_home(world.image("plain"), project)
    assert placement_of(project) == {}, "nothing is noted of one that lies nowhere"
    link.note_home(moved, project)
    assert tuple(placement_of(project)["scale"]) == (1, 2, 2)
    again = world.image("again")
    link.note_home(again, project)
    assert tuple(again.scale) == (1, 2, 2), "a clip that is opened again lies nowhere yet"
    elsewhere = world.image("elsewhere", translate=(0, 7, 7))
    link.note_home(elsewhere, project)
    assert tuple(elsewhere.translate) == (0, 7, 7), "one that was moved is where it is"
    assert tuple(placement_of(project)["translate"]) == (0, 7, 7)
    labels = world.labels(project)
    elsewhere.metadata["flowrvs"]["home"] = None
    again.translate = (0, 3, 3)
    assert tuple(labels.translate) == (0, 3, 3) and tuple(labels.scale) == (1, 2, 2)
    assert tuple(placement_of(project)["translate"]) == (0, 3, 3)


def test_a_project_of_others_is_not_written_to(world: World, tmp_path: Path) -> None:
    world.project.flush()
    open_projects.close(world.project)
    with Project.open(world.project.path, read_only=True) as project:
        world.link.note_home(world.image("clip", scale=(1, 2, 2)), project)
        assert project.notes == {}


def test_what_is_read_ahead_is_what_is_visible(world: World) -> None:
    world.labels(world.project)
    world.labels(world.project, 2).visible = False
    world.image("an array")
    with open_video(np.zeros((6, 8, 9, 3), np.uint8)) as video:
        clip = world.link.add(video_layer(video, "clip"))
        labels, frames = world.link.readers()
        assert (labels.frame_bytes, frames.frame_bytes) == (8 * 9 * 2, 8 * 9 * 3)
        labels.read(3)
        with pytest.raises(IndexError):
            labels.read(6)
        clip.visible = False
        assert len(world.link.readers()) == 1


def test_a_placement_that_no_layer_can_have_is_not_taken(world: World) -> None:
    project = world.project
    note_placement(project, world.image("clip", scale=(1, 2, 3), shear=(0, 0, 0.5)))
    good = project.notes["napari"]["placement"]
    assert placement_of(project).keys() == {"scale", "translate", "rotate", "shear", "affine"}
    flat = np.diag([1.0, 1.0, 0.0, 1.0]).tolist()
    for name, odd in (
        *(("scale", [1, 2]), ("translate", [0, 0, np.nan]), ("translate", [0, 0, np.inf])),
        *(("rotate", np.zeros((3, 3)).tolist()), ("affine", flat), ("shear", ["a", 0, 0])),
    ):
        project.note("napari", {"placement": good | {name: odd}})
        assert placement_of(project) == {}, name


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
def test_masks_do_not_follow_a_clip_through_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr("napari_flowrvs.viewer.show_info", told.append)
    video, link = world.image("clip"), world.link
    link.note_home(video, world.project)
    one = world.labels(world.project)
    stray = world.image("another")
    stray.translate = (0, 9, 9)
    assert tuple(one.translate) == (0, 0, 0), "that is another clip"
    video.rotate = 30
    assert np.allclose(one.rotate, video.rotate) and not told
    noted = placement_of(world.project)["rotate"]
    matrix = np.eye(4)
    matrix[0, 1] = 0.5
    video.affine = matrix
    assert len(told) == 1 and "turned or sheared through time" in told[0]
    assert np.allclose(one.affine.affine_matrix, np.eye(4))
    assert np.allclose(placement_of(world.project)["rotate"], noted)
    assert np.allclose(placement_of(world.project)["affine"], np.eye(4))
