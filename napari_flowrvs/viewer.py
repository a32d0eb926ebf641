"""The viewer, as the dock needs it: which layers are videos or labels, what is shown.

The one file that listens to napari's viewer, and that changes it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from napari.layers import Image, Labels, Layer
from napari.utils.notifications import show_info
from napari.viewer import Viewer
from psygnal import Signal
from qtpy.QtCore import QTimer

from flowrvs.store import Project
from napari_flowrvs.bridge import Bridge
from napari_flowrvs.desk import Changed, Desk
from napari_flowrvs.find.presenter import Written
from napari_flowrvs.layers import (
    KEY,
    LayerTuple,
    label_layer,
    no_video,
    note_placement,
    placement_of,
    source_of,
)
from napari_flowrvs.project_labels import TOOLS, ProjectLabels, make_layer
from napari_flowrvs.projects import open_projects
from napari_flowrvs.source import ShownVideo
from napari_flowrvs.transport.prefetch import Reader

__all__ = ["ViewerLink", "home_of"]

#: So many layers are added at once; napari is slow with more.
_MANY = 20


class ViewerLink:
    """Keeps the desk and the viewer in step, both ways.

    Parameters
    ----------
    viewer : napari.Viewer
        The viewer.
    desk : Desk
        What the panels share.
    bridge : Bridge
        Tells the desk what changes in its project.
    turn : callable
        ``turn(back)`` undoes, or does again: what Ctrl+Z in a layer of a project means.
    cancel : callable
        Stops what runs; True when something did: what Esc means there.
    """

    #: The list of videos may have changed.
    videos_changed = Signal()
    #: A video was added: its layer.
    video_added = Signal(object)
    #: A video, or labels of a project, were chosen: the layer of the video, None if not here.
    video_seen = Signal(object)
    #: A labels layer was removed.
    labels_removed = Signal()
    #: Another layer was chosen, or none.
    layer_chosen = Signal(object)

    def __init__(
        self,
        viewer: Viewer,
        desk: Desk,
        bridge: Bridge,
        turn: Callable[[bool], object],
        cancel: Callable[[], bool] = lambda: False,
    ) -> None:
        self.viewer = viewer
        self.desk = desk
        self.bridge = bridge
        self._turn = turn
        self._cancel = cancel
        self._active: ProjectLabels | None = None
        #: The layer of the video that is chosen in the dock.
        self.video: Image | None = None
        #: What is to be done, each in a turn of the event loop of its own.
        self.turns: deque[Callable[[], object]] = deque()
        self._next = QTimer()
        self._next.setSingleShot(True)
        self._next.timeout.connect(self._go_on)
        self._adding = False
        self._withdrawn: set[tuple[Project, int]] = set()
        #: Projects that layers of the viewer belong to, or did, each held open for `holder`.
        self.projects: set[Project] = set()
        self.holder = object()
        self._heard: tuple[tuple[Any, Callable[[Any], None]], ...] = (
            (viewer.layers.events.inserted, self._on_inserted),
            (viewer.layers.events.removed, self._on_removed),
            (viewer.layers.events.reordered, self._on_videos),
            (viewer.layers.selection.events.active, self._on_active),
            (viewer.dims.events.current_step, self._on_step),
        )
        for event, hear in self._heard:
            event.connect(hear)
        desk.frame_requested.connect(self.show_frame)
        desk.object_requested.connect(self._show_object)
        desk.contents_changed.connect(self._on_contents)
        desk.catalog_changed.connect(self._on_catalog)
        for layer in viewer.layers:
            self._watch(layer)

    def begin(self) -> None:
        """Tell of what was there before anybody listened."""
        for _, layer in self.videos():
            self.video_added.emit(layer)
        self._on_active()
        self._on_step()

    # -- layers that come and go ---------------------------------------------------------

    def _watch(self, layer: Layer) -> None:
        if isinstance(layer, Image):
            if isinstance(layer.data, ShownVideo):
                layer.data.notify = show_info
            layer.events.name.connect(self._on_videos)
            layer.events.data.connect(self._on_videos)
            for event in _moves(layer):
                event.connect(self._on_moved)
        elif isinstance(layer, ProjectLabels):
            self.projects.add(layer.project)
            open_projects.hold(layer.project, self.holder)
            layer.turn, layer.cancel = self._turn, self._cancel

    def _unwatch(self, layer: Layer) -> None:
        if isinstance(layer, Image):
            layer.events.name.disconnect(self._on_videos)
            layer.events.data.disconnect(self._on_videos)
            for event in _moves(layer):
                event.disconnect(self._on_moved)
        elif isinstance(layer, ProjectLabels):
            layer.turn = layer.cancel = None

    @property
    def left(self) -> bool:
        """True once the viewer was left to itself."""
        return not self._heard

    def let_go(self) -> None:
        """Leave the layers to themselves: their undo stays the project's."""
        self.turns.clear()
        heard, self._heard = self._heard, ()
        if not heard:
            return  # it was left before
        for event, hear in heard:
            event.disconnect(hear)
        self._leave_active()
        for layer in self.viewer.layers:
            self._unwatch(layer)

    def _on_videos(self, _event: Any = None) -> None:
        self.videos_changed.emit()

    def _on_inserted(self, event: Any) -> None:
        self._watch(event.value)
        if isinstance(event.value, Image):
            self.videos_changed.emit()
            if source_of(event.value) is not None:
                self.video_added.emit(event.value)

    def _on_removed(self, event: Any) -> None:
        self._unwatch(event.value)
        if isinstance(event.value, Labels):
            self.labels_removed.emit()
        if isinstance(event.value, Image):
            self.videos_changed.emit()

    def _on_moved(self, event: Any) -> None:
        """Keep masks where their video is, however it is moved, turned or sheared."""
        video = event.source
        project = self.project_of(video)
        found = no_video(video)
        if found is not None:
            show_info(found.reason)
        for layer in self.project_layers(project) if found is None else ():
            for name, value in placement(video).items():
                setattr(layer, name, value)
        if project is not None and found is None and project.writable:
            note_placement(project, video)

    # -- what the viewer says ------------------------------------------------------------

    def _on_active(self, _event: Any = None) -> None:
        if self._adding:
            return
        layer = self.viewer.layers.selection.active
        self.layer_chosen.emit(layer)
        if isinstance(layer, Image) and source_of(layer) is not None:
            self.video_seen.emit(layer)
        if not isinstance(layer, ProjectLabels):
            self.forget_closed()
            return
        if layer is self._active and layer.project is self.desk.project:
            return
        self._leave_active()
        self._active = layer
        layer.events.selected_label.connect(self._on_label)
        layer.events.labels_update.connect(self._on_painted)
        self.desk.set_project(layer.project)
        self.video_seen.emit(self.video_of(layer.project))
        self._on_label()
        self._on_step()

    def _leave_active(self) -> None:
        if self._active is not None:
            self._active.events.selected_label.disconnect(self._on_label)
            self._active.events.labels_update.disconnect(self._on_painted)
            self._active = None

    def forget_closed(self) -> None:
        """Let go of a project that was closed meanwhile, and of a layer that was removed."""
        project = self.desk.project
        if project is not None and open_projects.get(project.path) is not project:
            self.desk.set_project(None)
        if self._active is not None and self._active not in self.viewer.layers:
            self._leave_active()

    def follow(self, video: Image | None, *, chosen: bool = False) -> None:
        """Turn to a video: to its project, if its masks are shown.

        From a project whose own video is not here, nothing but a person's choice leads away.
        """
        self.video = video
        self._on_step()  # napari shows its middle frame first, and tells of no step
        project = self.desk.project
        if video is None:
            return
        if project is not None:
            shown = self.video_of(project)
            alone = shown is None and not (chosen and self.project_of(video) is not None)
            if shown is video or alone:
                return
        if isinstance(self.viewer.layers.selection.active, ProjectLabels):
            # What is drawn with next must not be another video's.
            self.viewer.layers.selection.active = video
        self._leave_active()
        self.desk.set_project(self.project_of(video))

    def _on_label(self, _event: Any = None) -> None:
        layer, project = self._active, self.desk.project
        if layer is not None and project is layer.project:
            label = int(layer.selected_label)
            if label in project.objects:  # 0 and new labels are no reason to lose the object
                self.desk.set_object(label)

    def _on_painted(self, _event: Any = None) -> None:
        if self._active is not None and self.desk.project is self._active.project:
            self.bridge.painted(self._active.layer_id)
            self._on_label()

    def _on_step(self, _event: Any = None) -> None:
        layer = self.reference()
        if layer is not None and self.viewer.dims.ndim >= 3:
            self.desk.set_frame(self._frame_of(layer))

    def _frame_of(self, layer: Layer) -> int:
        """Return the frame of a layer that is shown, or would be."""
        return round(layer.world_to_data(self.viewer.dims.point)[0])

    # -- what is there -------------------------------------------------------------------

    def reference(self) -> Any:
        """Return a layer whose first axis is the time; None where there is none."""
        for layer in (self._active, self.video):
            if layer is not None and layer in self.viewer.layers:
                return layer
        return None

    def videos(self) -> list[tuple[str, Image]]:
        """Return the layers that are videos, by name, topmost first."""
        return [
            (layer.name, layer)
            for layer in reversed(self.viewer.layers)
            if isinstance(layer, Image) and source_of(layer) is not None
        ]

    def project_layers(self, project: Project | None) -> list[ProjectLabels]:
        """Return the labels layers that show a project."""
        return [
            layer
            for layer in self.viewer.layers
            if isinstance(layer, ProjectLabels) and layer.project is project
        ]

    def video_of(self, project: Project) -> Image | None:
        """Return the layer that shows the video of a project; None where none does."""
        for _, layer in self.videos():
            source = source_of(layer)
            if home_of(layer) == str(project.path):
                return layer
            if source is not None and source.path and source.path == project.video.path:
                return layer
        return None

    def project_of(self, video: Image | None) -> Project | None:
        """Return the project of a video whose masks are shown already; None where none is."""
        source = None if video is None else source_of(video)
        if video is None or source is None:
            return None
        shown = sorted(self.projects - self.unused(), key=lambda project: project.path)
        shown = [project for project in shown if open_projects.get(project.path) is project]
        mine = [project for project in shown if str(project.path) == home_of(video)]
        mine += [p for p in shown if source.path and p.video.path == source.path]
        return mine[0] if mine else None

    def labels(self, project: Project, layer_id: int) -> ProjectLabels | None:
        """Return the labels layer that shows a layer of a project."""
        shown = self.project_layers(project)
        return next((layer for layer in shown if layer.layer_id == layer_id), None)

    def layer_of(self, object_id: int) -> ProjectLabels | None:
        """Return the labels layer that shows an object of the desk's project."""
        project = self.desk.project
        record = None if project is None else project.objects.get(object_id)
        return None if project is None or record is None else self.labels(project, record.layer)

    def unused(self) -> set[Project]:
        """Return the projects that no layer belongs to any more."""
        labels = [layer for layer in self.viewer.layers if isinstance(layer, ProjectLabels)]
        undoable = {project for project, _ in self._withdrawn}
        return self.projects - undoable - {layer.project for layer in labels}

    def release_unused(self, but: Project | None = None) -> None:
        """Let go of the projects whose layers were removed; the last viewer closes them.

        Parameters
        ----------
        but : Project, optional
            One that is still needed.

        Raises
        ------
        StorageError
            Something could not be written: the project stays open.
        """
        for project in self.unused() - {but}:
            open_projects.release(project, self.holder)
            self.projects.discard(project)
            if project is self.desk.project:  # also where an export keeps it open a while
                self.desk.set_project(None)
        self.forget_closed()

    def readers(self) -> list[Reader]:
        """Return what brings a frame of each visible layer into that layer's own cache."""
        found: list[Reader] = []
        for layer in self.viewer.layers:
            data = layer.data
            if layer.visible and isinstance(layer, ProjectLabels):
                found.append(Reader(partial(_touch, data), data.nbytes // max(len(data), 1)))
            elif layer.visible and isinstance(data, ShownVideo):
                found.append(Reader(data.hold, data.frame_bytes, data.let_go))
        return found

    # -- what is to be shown -------------------------------------------------------------

    def add(self, layer: LayerTuple) -> Any:
        """Add a layer from its data."""
        return self.viewer.add_layer(make_layer(layer))

    def add_soon(self, layer: LayerTuple) -> None:
        """Make a layer when events have been handled, and add it when others have been."""
        self.soon(lambda: self.turns.appendleft(partial(self._add, make_layer(layer))))

    def _add(self, layer: Layer) -> None:
        """Add a layer; what else follows from that waits until events have been handled."""
        self._adding = True
        try:
            self.viewer.add_layer(layer)
        finally:
            self._adding = False
        self.turns.appendleft(self._on_active)
        if isinstance(layer, ProjectLabels):
            self.turns.extend(partial(layer.show_tool, tool) for tool in TOOLS)

    def remove(self, layer: Layer | None) -> None:
        """Take a layer away, if it is there."""
        if layer is not None and layer in self.viewer.layers:
            self.viewer.layers.remove(layer)

    def show_layer(self, project: Project, layer_id: int, video: Image | None) -> ProjectLabels:
        """Return the layer that shows some labels; one that is missing lies where `video` does."""
        return self.labels(project, layer_id) or self.add(self._tuple(project, layer_id, video))

    def _tuple(self, project: Project, layer_id: int, video: Image | None) -> LayerTuple:
        data, meta, kind = label_layer(project, layer_id)
        if video is not None and video in self.viewer.layers:
            meta |= placement(video)
        return data, meta, kind

    def choose_layer(self, project: Project, layer_id: int, video: Image | None) -> None:
        """Choose the layer that shows some labels; a missing one comes in turns of its own."""

        def choose() -> None:
            layer = self.labels(project, layer_id)
            if layer is not None:
                self.viewer.layers.selection.active = layer

        self.soon(partial(self._show_if_there, project, layer_id, video))
        self.soon(choose)

    def show_project(self, project: Project, video: Image | None) -> None:
        """Show all labels of a project that are not shown yet, one after the other."""
        missing = [i for i in project.layers if self.labels(project, i) is None]
        for layer_id in missing[:_MANY]:
            self.soon(partial(self._show_if_there, project, layer_id, video))
        if len(missing) > _MANY:
            show_info(
                f"{len(missing) - _MANY} of {len(missing)} layers are shown when one of their "
                "objects is chosen, on the page Objects."
            )

    def _show_if_there(
        self,
        project: Project,
        layer_id: int,
        video: Image | None,
        made: ProjectLabels | None = None,
    ) -> None:
        known = open_projects.get(project.path) is project and layer_id in project.layers
        if not known or self.labels(project, layer_id) is not None:
            return
        if made is None:
            made = make_layer(self._tuple(project, layer_id, video))
            self.turns.appendleft(partial(self._show_if_there, project, layer_id, video, made))
            return
        active = self.viewer.layers.selection.active
        self._add(made)
        if active not in (None, video):
            self.viewer.layers.selection.active = active

    def note_home(self, video: Image | None, project: Project) -> None:
        """Remember in the layer of a video which project is its own."""
        if video is None:
            return
        video.metadata.setdefault(KEY, {})["home"] = str(project.path)
        known = placement_of(project)
        if known and _plain(video):
            for name, value in known.items():  # a clip that is opened again lies nowhere yet
                setattr(video, name, value)
        elif project.writable and (known or not _plain(video)):
            note_placement(project, video)

    def soon(self, action: Callable[[], object]) -> None:
        """Call `action` when events have been handled: napari takes long for each layer."""
        if self.left:
            return
        self.turns.append(action)
        if not self._next.isActive():
            self._next.start()

    @property
    def waiting(self) -> bool:
        """True while layers, or whatever else was put off, are still to come."""
        return bool(self.turns)

    def _go_on(self) -> None:
        try:
            if self.turns:
                self.turns.popleft()()
        finally:  # what follows does not wait for ever where one thing fails
            if self.turns:
                self._next.start()

    def refresh(self, project: Project | None, written: Written) -> bool:
        """Draw a layer again if the frame that it shows was written; True if it was."""
        layer = None if project is None else self.labels(project, written.layer_id)
        if layer is None:
            return False
        axis = self.viewer.dims.ndim - layer.ndim
        if axis not in self.viewer.dims.displayed:
            if not written.start <= self._frame_of(layer) < written.stop:
                return False
        layer.refresh(extent=False)
        return True

    def show_frame(self, frame: int) -> None:
        """Move the time slider."""
        layer = self.reference()
        dims = self.viewer.dims
        if layer is not None and dims.ndim >= 3:
            dims.set_point(dims.ndim - 3, layer.data_to_world((frame, 0, 0))[0])

    def _show_object(self, object_id: int) -> None:
        project = self.desk.project
        if project is not None and object_id in project.objects:
            video, layer_id = self.video_of(project), project.objects[object_id].layer
            layer = self.show_layer(project, layer_id, video)
            self.viewer.layers.selection.active = layer
            layer.selected_label = object_id

    def take_brush(self, object_id: int) -> None:
        """Be ready to paint an object."""
        self.desk.choose(object_id)
        layer = self.layer_of(object_id)
        if layer is not None:
            layer.mode = "paint"

    def _on_contents(self, change: Changed) -> None:
        if change.start <= self.desk.frame < change.stop:
            for layer in self.project_layers(self.desk.project):
                if change.layer_id in (None, layer.layer_id):
                    layer.refresh(extent=False)

    def _on_catalog(self) -> None:
        """Follow the project: colours, and layers that go and come back with their objects."""
        project = self.desk.project
        if project is None:
            return
        holding = {record.layer for record in project.objects.values()}
        for layer in self.project_layers(project):
            if layer.layer_id not in holding and layer.shows_objects:
                self._withdrawn.add((project, layer.layer_id))
                self.remove(layer)
            else:
                layer.show_objects()
        for known, layer_id in sorted(self._withdrawn, key=lambda pair: pair[1]):
            if known is project and layer_id in holding:
                self._withdrawn.discard((project, layer_id))
                video = self.video_of(project)
                self.soon(partial(self._show_if_there, project, layer_id, video))


def home_of(video: Image) -> str | None:
    """Return the project folder that was noted in the layer of a video."""
    return (video.metadata.get(KEY) or {}).get("home")


def _plain(layer: Layer) -> bool:
    """True for a layer that nobody has moved."""
    points = np.array([[0, 0, 0], [1, 1, 1], [0, 1, 5]], float)
    return all(np.allclose(layer.data_to_world(point), point) for point in points)


def _moves(layer: Layer) -> tuple[Any, ...]:
    events = layer.events
    return events.scale, events.translate, events.rotate, events.shear, events.affine


def placement(layer: Layer) -> dict[str, Any]:
    """Return where a layer lies in the world, as the arguments of another one."""
    return {
        "scale": layer.scale,
        "translate": layer.translate,
        "rotate": layer.rotate,
        "shear": layer.shear,
        "affine": layer.affine,
        "units": layer.units,
        "axis_labels": layer.axis_labels,
    }


def _touch(labels: Any, frame: int) -> None:
    labels[frame, :1, :1]
