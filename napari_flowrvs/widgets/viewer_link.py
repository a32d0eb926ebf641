"""What the dock does to the viewer: find videos, add layers, refresh what is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from napari.layers import Image, Labels, Layer
from napari.utils.notifications import show_info
from napari.viewer import Viewer

from flowrvs.store import Project
from napari_flowrvs.layers import (
    KEY,
    LayerTuple,
    adopt,
    label_layer,
    new_label,
    object_colors,
    object_ids,
    project_of,
    source_of,
)
from napari_flowrvs.presenters.segment import Prompt, Written
from napari_flowrvs.projects import open_projects
from napari_flowrvs.source import VideoSource
from napari_flowrvs.widgets.colors import quick, show_colors

__all__ = ["ViewerLink", "new_object"]


def new_object(layer: Labels) -> None:
    """Select a value that no object of the project has: painting it makes a new object."""
    home = project_of(layer)
    project = None if home is None else open_projects.get(home[0])
    if project is not None:
        new_label(layer, project)


class ViewerLink:
    """The viewer as the dock needs it.

    Parameters
    ----------
    viewer : napari.Viewer
        The viewer.
    on_videos : callable
        Called when the list of videos may have changed.
    on_removed : callable
        Called when a labels layer was removed.
    on_message : callable
        Gets one line for the user.
    turn : callable
        ``turn(back)`` undoes, or does again: what Ctrl+Z in a layer of a project means.
    """

    def __init__(
        self,
        viewer: Viewer,
        on_videos: Callable[[], None],
        on_removed: Callable[[], None],
        on_message: Callable[[str], None],
        turn: Callable[[bool], object],
    ) -> None:
        self.viewer = viewer
        self._on_message = on_message
        self._turn = turn
        self._releases: dict[Labels, Callable[[], None]] = {}
        self._on_videos = on_videos
        self._on_removed = on_removed
        #: Project folders that layers of the viewer belong to, or did.
        self.projects_shown: set[str] = set()
        viewer.layers.events.inserted.connect(self._inserted)
        viewer.layers.events.removed.connect(self._removed)
        viewer.layers.events.reordered.connect(self._changed)
        for layer in viewer.layers:
            self._watch(layer)

    def _watch(self, layer: Layer) -> None:
        if isinstance(layer, Image):
            layer.events.name.connect(self._changed)
            layer.events.data.connect(self._changed)
        elif isinstance(layer, Labels) and project_of(layer) is not None:
            self._watch_labels(layer)

    def _watch_labels(self, layer: Labels) -> None:
        self.projects_shown.add(layer.metadata[KEY]["project"])
        objects = layer.metadata[KEY].get("objects")
        if objects:
            # Paint what the sentence means, not a value that means nothing.
            layer.selected_label = objects[0]
        # `paint` comes before the pixels, and so before the store has made a new object.
        layer.events.labels_update.connect(self._painted)
        # napari's own "new label" refuses everything but numpy arrays.
        layer.bind_key("m", new_object, overwrite=True)
        project = open_projects.get(layer.metadata[KEY]["project"])
        if project is not None:
            self._releases[layer] = adopt(layer, project, self._on_message, self._turn)

    def let_go(self) -> None:
        """Leave the layers to themselves: their undo stays the project's."""
        releases, self._releases = self._releases, {}
        for layer, release in releases.items():
            release()
            project = open_projects.get(layer.metadata[KEY]["project"])
            if project is not None:
                adopt(layer, project, show_info)

    def _painted(self, event: Any) -> None:
        layer = event.source
        home = project_of(layer)
        project = None if home is None else open_projects.get(home[0])
        if project is None or home is None:
            return
        ids = object_ids(project, home[1])
        if ids != layer.metadata[KEY].get("objects"):
            layer.metadata[KEY]["objects"] = ids
            show_colors(layer, object_colors(project, home[1]))

    def _changed(self, _event: Any = None) -> None:
        self._on_videos()

    def _inserted(self, event: Any) -> None:
        self._watch(event.value)
        self._on_videos()

    def _removed(self, event: Any) -> None:
        layer = event.value
        if isinstance(layer, Image):
            layer.events.name.disconnect(self._changed)
            layer.events.data.disconnect(self._changed)
        elif isinstance(layer, Labels):
            release = self._releases.pop(layer, None)
            if release is not None:
                release()
            self._on_removed()
        self._on_videos()

    def videos(self) -> list[tuple[str, Image]]:
        """Return the layers that are videos, by name, topmost first."""
        return [
            (layer.name, layer)
            for layer in reversed(self.viewer.layers)
            if isinstance(layer, Image) and source_of(layer) is not None
        ]

    def unused(self) -> set[str]:
        """Return the project folders that no layer belongs to any more."""
        homes = (project_of(layer) for layer in self.viewer.layers if isinstance(layer, Labels))
        return self.projects_shown - {home[0] for home in homes if home is not None}

    def project_for(self, source: VideoSource) -> str | None:
        """Return the project of a file's video that is shown already; None where none is."""
        for folder in sorted(self.projects_shown - self.unused()):
            project = open_projects.get(folder)
            if project is not None and source.path and project.video.path == source.path:
                return folder
        return None

    def labels(self, project: Project, layer_id: int) -> Labels | None:
        """Return the labels layer that shows a layer of `project`."""
        for layer in self.viewer.layers:
            if isinstance(layer, Labels) and project_of(layer) == (str(project.path), layer_id):
                return layer
        return None

    def show_prompts(
        self, project: Project, prompts: Iterable[Prompt], video: Image | None
    ) -> list[Labels]:
        """Add the labels layers that are not there yet, placed as `video` is."""
        shown = []
        for prompt in prompts:
            layer = self.labels(project, prompt.layer_id)
            if layer is None:
                data, meta, kind = label_layer(project, prompt.layer_id)
                if video is not None and video in self.viewer.layers:
                    meta |= {
                        "scale": video.scale[-3:],
                        "translate": video.translate[-3:],
                        "units": video.units[-3:],
                        "axis_labels": video.axis_labels[-3:],
                    }
                layer = self.add((data, meta, kind))
            shown.append(layer)
        return shown

    def add(self, layer: LayerTuple) -> Any:
        """Add a layer from its data."""
        data, meta, kind = layer
        made = Layer.create(data, quick(meta), kind)
        self.viewer.add_layer(made)
        return made

    def refresh(self, project: Project | None, written: Written) -> bool:
        """Draw a layer again if the frame that it shows was written; True if it was."""
        layer = None if project is None else self.labels(project, written.layer_id)
        if layer is None:
            return False
        displayed = self.viewer.dims.displayed
        axis = self.viewer.dims.ndim - layer.ndim
        if axis not in displayed:
            shown = round(layer.world_to_data(self.viewer.dims.point)[0])
            if not written.start <= shown < written.stop:
                return False
        layer.refresh(extent=False)
        return True
