"""The viewer, as the dock needs it: which layers are videos or labels, what is shown.

The one file that listens to napari's viewer, and that changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from napari.layers import Image, Labels, Layer
from napari.utils.notifications import show_info
from napari.viewer import Viewer
from psygnal import Signal

from flowrvs.store import Project
from napari_flowrvs.bridge import Bridge
from napari_flowrvs.desk import Changed, Desk
from napari_flowrvs.find.presenter import Prompt, Written
from napari_flowrvs.layers import KEY, LayerTuple, label_layer, source_of
from napari_flowrvs.project_labels import ProjectLabels, make_layer
from napari_flowrvs.projects import open_projects
from napari_flowrvs.source import ShownVideo, VideoSource
from napari_flowrvs.transport.prefetch import Reader

__all__ = ["ViewerLink"]


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
    """

    #: The list of videos may have changed.
    videos_changed = Signal()
    #: A labels layer was removed.
    labels_removed = Signal()
    #: Labels were chosen that belong to no project: the layer.
    stray_chosen = Signal(object)

    def __init__(
        self, viewer: Viewer, desk: Desk, bridge: Bridge, turn: Callable[[bool], object]
    ) -> None:
        self.viewer = viewer
        self.desk = desk
        self.bridge = bridge
        self._turn = turn
        self._active: ProjectLabels | None = None
        #: Project folders that layers of the viewer belong to, or did.
        self.projects_shown: set[str] = set()
        viewer.layers.events.inserted.connect(self._on_inserted)
        viewer.layers.events.removed.connect(self._on_removed)
        viewer.layers.events.reordered.connect(self._on_videos)
        viewer.layers.selection.events.active.connect(self._on_active)
        viewer.dims.events.current_step.connect(self._on_step)
        desk.frame_requested.connect(self.show_frame)
        desk.object_requested.connect(self._show_object)
        desk.contents_changed.connect(self._on_contents)
        desk.catalog_changed.connect(self._on_catalog)
        for layer in viewer.layers:
            self._watch(layer)
        self._on_active()
        self._on_step()

    # -- layers that come and go ---------------------------------------------------------

    def _watch(self, layer: Layer) -> None:
        if isinstance(layer, Image):
            layer.events.name.connect(self._on_videos)
            layer.events.data.connect(self._on_videos)
        elif isinstance(layer, ProjectLabels):
            self.projects_shown.add(str(layer.project.path))
            layer.turn = self._turn

    def _unwatch(self, layer: Layer) -> None:
        if isinstance(layer, Image):
            layer.events.name.disconnect(self._on_videos)
            layer.events.data.disconnect(self._on_videos)
        elif isinstance(layer, ProjectLabels):
            layer.turn = None

    def let_go(self) -> None:
        """Leave the layers to themselves: their undo stays the project's."""
        for layer in self.viewer.layers:
            self._unwatch(layer)

    def _on_videos(self, _event: Any = None) -> None:
        self.videos_changed.emit()

    def _on_inserted(self, event: Any) -> None:
        self._watch(event.value)
        self.videos_changed.emit()

    def _on_removed(self, event: Any) -> None:
        self._unwatch(event.value)
        if isinstance(event.value, Labels):
            self.labels_removed.emit()
        self.videos_changed.emit()

    # -- what the viewer says ------------------------------------------------------------

    def _on_active(self, _event: Any = None) -> None:
        layer = self.viewer.layers.selection.active
        if isinstance(layer, Labels) and KEY not in layer.metadata:
            self.stray_chosen.emit(layer)
        if not isinstance(layer, ProjectLabels) or layer is self._active:
            self.forget_closed()
            return
        self._leave_active()
        self._active = layer
        layer.events.selected_label.connect(self._on_label)
        layer.events.labels_update.connect(self._on_painted)
        self.desk.set_project(layer.project)
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

    def _on_label(self, _event: Any = None) -> None:
        project = self.desk.project
        if self._active is not None and project is not None:
            label = int(self._active.selected_label)
            if label in project.objects:  # 0 and new labels are no reason to lose the object
                self.desk.set_object(label)

    def _on_painted(self, _event: Any = None) -> None:
        if self._active is not None:
            self.bridge.painted(self._active.layer_id)
            self._on_label()

    def _on_step(self, _event: Any = None) -> None:
        layer = self._reference()
        if layer is not None and self.viewer.dims.ndim >= 3:
            self.desk.set_frame(self._frame_of(layer))

    def _frame_of(self, layer: Layer) -> int:
        """Return the frame of a layer that is shown, or would be."""
        return round(layer.world_to_data(self.viewer.dims.point)[0])

    # -- what is there -------------------------------------------------------------------

    def _reference(self) -> Any:
        """Return a layer whose first axis is the time; None where there is none."""
        if self._active is not None and self._active in self.viewer.layers:
            return self._active
        videos = self.videos()
        return videos[0][1] if videos else None

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

    def labels(self, project: Project, layer_id: int) -> ProjectLabels | None:
        """Return the labels layer that shows a layer of a project."""
        shown = self.project_layers(project)
        return next((layer for layer in shown if layer.layer_id == layer_id), None)

    def layer_of(self, object_id: int) -> ProjectLabels | None:
        """Return the labels layer that shows an object of the desk's project."""
        project = self.desk.project
        record = None if project is None else project.objects.get(object_id)
        return None if project is None or record is None else self.labels(project, record.layer)

    def unused(self) -> set[str]:
        """Return the project folders that no layer belongs to any more."""
        labels = [layer for layer in self.viewer.layers if isinstance(layer, ProjectLabels)]
        return self.projects_shown - {str(layer.project.path) for layer in labels}

    def project_for(self, source: VideoSource) -> str | None:
        """Return the project of a file's video that is shown already; None where none is."""
        for folder in sorted(self.projects_shown - self.unused()):
            project = open_projects.get(folder)
            if project is not None and source.path and project.video.path == source.path:
                return folder
        return None

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

    def add_aid(self, name: str, data: Any, colors: dict[Any, Any], like: Layer | None) -> Labels:
        """Add labels that only help to look, placed as `like` is; what is active stays so."""
        placed = {} if like is None else placement(like)
        about = {KEY: {"role": name}}
        layer = Labels(data, name=name, colormap=colors, opacity=1.0, metadata=about, **placed)
        layer.editable = False
        active = self.viewer.layers.selection.active
        self.viewer.layers.append(layer)
        # An image layer has keys of its own, Y among them.
        usable = like is None or isinstance(active, Labels)
        self.viewer.layers.selection.active = active if usable else like
        return layer

    def remove(self, layer: Layer | None) -> None:
        """Take a layer away, if it is there."""
        if layer is not None and layer in self.viewer.layers:
            self.viewer.layers.remove(layer)

    def show_prompts(
        self, project: Project, prompts: Iterable[Prompt], video: Image | None
    ) -> list[ProjectLabels]:
        """Add the labels layers that are not there yet, placed as `video` is."""
        shown = []
        for prompt in prompts:
            layer = self.labels(project, prompt.layer_id)
            if layer is None:
                data, meta, kind = label_layer(project, prompt.layer_id)
                if video is not None and video in self.viewer.layers:
                    meta |= placement(video)
                layer = self.add((data, meta, kind))
            shown.append(layer)
        return shown

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
        layer = self._reference()
        dims = self.viewer.dims
        if layer is not None and dims.ndim >= 3:
            dims.set_point(dims.ndim - 3, layer.data_to_world((frame, 0, 0))[0])

    def _show_object(self, object_id: int) -> None:
        layer = self.layer_of(object_id)
        if layer is not None:
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
        """Give new objects their colours, the same in every layer."""
        project = self.desk.project
        for layer in self.project_layers(project):
            if project is not None and layer.layer_id in project.layers:
                layer.show_objects()

    def say(self, text: str) -> None:
        """Show a line for a moment."""
        show_info(text)


def placement(layer: Layer) -> dict[str, Any]:
    """Return where a layer lies in the world, as the arguments of another one."""
    return {
        "scale": layer.scale[-3:],
        "translate": layer.translate[-3:],
        "units": layer.units[-3:],
        "axis_labels": layer.axis_labels[-3:],
    }


def _touch(labels: Any, frame: int) -> None:
    labels[frame, :1, :1]
