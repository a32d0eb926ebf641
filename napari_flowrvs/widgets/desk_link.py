"""Between the desk and the viewer: which object, which frame, what to draw again."""

from __future__ import annotations

from functools import partial
from typing import Any

from napari.layers import Labels

from flowrvs.store import Project
from napari_flowrvs.layers import KEY, object_colors, object_ids, project_of
from napari_flowrvs.presenters.ahead import Reader
from napari_flowrvs.presenters.desk import Changed, Desk
from napari_flowrvs.projects import open_projects
from napari_flowrvs.source import ShownVideo
from napari_flowrvs.widgets.bridge import Bridge
from napari_flowrvs.widgets.colors import show_colors
from napari_flowrvs.widgets.viewer_link import ViewerLink

__all__ = ["DeskLink"]


class DeskLink:
    """Keeps the desk and the viewer in step, both ways.

    Parameters
    ----------
    link : ViewerLink
        The viewer.
    desk : Desk
        What the panels share.
    bridge : Bridge
        Tells the desk what changes in its project.
    """

    def __init__(self, link: ViewerLink, desk: Desk, bridge: Bridge) -> None:
        self.link = link
        self.desk = desk
        self.bridge = bridge
        self._active: Labels | None = None
        viewer = link.viewer
        viewer.layers.selection.events.active.connect(self._on_active)
        viewer.dims.events.current_step.connect(self._on_step)
        desk.frame_requested.connect(self.show_frame)
        desk.object_requested.connect(self._show_object)
        desk.contents_changed.connect(self._on_contents)
        desk.catalog_changed.connect(self._on_catalog)
        self._on_active()
        self._on_step()

    # -- from the viewer -----------------------------------------------------------------

    def _on_active(self, _event: Any = None) -> None:
        layer = self.link.viewer.layers.selection.active
        home = project_of(layer) if isinstance(layer, Labels) else None
        project = None if home is None else open_projects.get(home[0])
        if project is None or layer is self._active:
            self.forget_closed()
            return
        if self._active is not None:
            self._active.events.selected_label.disconnect(self._on_label)
            self._active.events.labels_update.disconnect(self._on_painted)
        self._active = layer
        layer.events.selected_label.connect(self._on_label)
        layer.events.labels_update.connect(self._on_painted)
        self.desk.set_project(project)
        self._on_label()
        self._on_step()

    def forget_closed(self) -> None:
        """Let go of a project that was closed meanwhile, and of a layer that was removed."""
        project = self.desk.project
        if project is not None and open_projects.get(project.path) is not project:
            self.desk.set_project(None)
        if self._active is not None and self._active not in self.link.viewer.layers:
            self._active.events.selected_label.disconnect(self._on_label)
            self._active.events.labels_update.disconnect(self._on_painted)
            self._active = None

    def _on_label(self, _event: Any = None) -> None:
        project = self.desk.project
        if self._active is not None and project is not None:
            label = int(self._active.selected_label)
            if label in project.objects:  # 0 and new labels are no reason to lose the object
                self.desk.set_object(label)

    def _on_painted(self, _event: Any = None) -> None:
        home = None if self._active is None else project_of(self._active)
        if home is not None:
            self.bridge.painted(home[1])
            self._on_label()

    def _on_step(self, _event: Any = None) -> None:
        viewer = self.link.viewer
        layer = self.reference()
        if layer is not None and viewer.dims.ndim >= 3:
            self.desk.set_frame(round(layer.world_to_data(viewer.dims.point)[0]))

    # -- to the viewer -------------------------------------------------------------------

    def reference(self) -> Any:
        """Return a layer whose first axis is the time; None where there is none."""
        if self._active is not None and self._active in self.link.viewer.layers:
            return self._active
        videos = self.link.videos()
        return videos[0][1] if videos else None

    def show_frame(self, frame: int) -> None:
        """Move the time slider."""
        layer = self.reference()
        viewer = self.link.viewer
        if layer is not None and viewer.dims.ndim >= 3:
            axis = viewer.dims.ndim - 3
            viewer.dims.set_point(axis, layer.data_to_world((frame, 0, 0))[0])

    def layer_of(self, object_id: int) -> Labels | None:
        """Return the labels layer that shows an object."""
        project = self.desk.project
        thing = None if project is None else project.objects.get(object_id)
        if project is None or thing is None:
            return None
        return self.link.labels(project, thing.layer)

    def _show_object(self, object_id: int) -> None:
        layer = self.layer_of(object_id)
        if layer is not None:
            self.link.viewer.layers.selection.active = layer
            layer.selected_label = object_id

    def _on_contents(self, change: Changed) -> None:
        project = self.desk.project
        for layer in self.project_layers(project):
            home = project_of(layer)
            if home is None or change.layer_id not in (None, home[1]):
                continue
            if change.start <= self.desk.frame < change.stop:
                layer.refresh(extent=False)

    def _on_catalog(self) -> None:
        """Give new objects their colours, the same in every layer."""
        project = self.desk.project
        for layer in self.project_layers(project):
            home = project_of(layer)
            if project is None or home is None or home[1] not in project.layers:
                continue
            layer.metadata[KEY]["objects"] = object_ids(project, home[1])
            show_colors(layer, object_colors(project, home[1]))

    def readers(self) -> list[Reader]:
        """Return what brings a frame of each visible layer into that layer's own cache."""
        found: list[Reader] = []
        for layer in self.link.viewer.layers:
            data = layer.data
            if not layer.visible:
                continue
            if isinstance(layer, Labels) and project_of(layer) is not None:
                found.append(Reader(partial(_touch, data), data.nbytes // max(len(data), 1)))
            elif isinstance(data, ShownVideo):
                found.append(Reader(data.hold, data.frame_bytes, data.let_go))
        return found

    def take_brush(self, object_id: int) -> None:
        """Be ready to paint an object."""
        self.desk.choose(object_id)
        layer = self.layer_of(object_id)
        if layer is not None:
            layer.mode = "paint"

    def project_layers(self, project: Project | None) -> list[Labels]:
        """Return the labels layers that show the project."""
        if project is None:
            return []
        return [
            layer
            for layer in self.link.viewer.layers
            if isinstance(layer, Labels)
            and (home := project_of(layer)) is not None
            and home[0] == str(project.path)
        ]


def _touch(labels: Any, frame: int) -> None:
    labels[frame, :1, :1]
