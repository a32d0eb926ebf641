"""napari's labels layer over a layer of a project.

The one file that builds on methods of `Labels` which napari calls its own (a name with a line
in front): mend it here when napari changes. napari finds controls, pictures and keys of a
layer by its class and the classes above it, and takes a reader's layers as they are, so
that a subclass is a labels layer in every respect.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from napari.layers import Labels, Layer
from napari.layers.labels._labels_key_bindings import reset_polygon
from napari.utils.colormaps import DirectLabelColormap
from napari.utils.notifications import show_info

from flowrvs.errors import FlowRVSError
from flowrvs.store import LabelsArray
from napari_flowrvs.layers import KEY, LayerTuple, object_colors
from napari_flowrvs.projects import open_projects

__all__ = ["TOOLS", "ObjectColors", "ProjectLabels", "make_layer"]

_STEPS = {"paint": "brush stroke", "erase": "erasing", "fill": "fill", "polygon": "polygon"}

#: What napari draws for these tools is a third of the time that adding a layer takes: it is made
#: later, or when they are taken up.
TOOLS = ("brush_stroke", "polygon")

#: A stroke is sixty stamps a second, and one of its refusals is enough to read.
_AGAIN_S = 2.0

#: Largest value of a label.
_MAX_LABEL = 65535

Mask = npt.NDArray[np.bool_]


class ObjectColors(DirectLabelColormap):
    """napari's colormap of a colour a label.

    For labels of 16 bits napari makes a table of all 65 536 values by a loop in Python, 40 ms
    of a layer's every new colour; this one looks them up at once, with the same result.
    """

    def _map_precast(self, values: npt.NDArray[Any], apply_selection: bool) -> npt.NDArray[Any]:
        colors = self._values_mapping_to_minimum_values_set(apply_selection)[1]
        table = np.zeros((max(colors) + 1, 4), np.float32)
        for value, color in colors.items():
            table[value] = color
        return table[values]


class ProjectLabels(Labels):
    """Labels that lie in a project: strokes, undo, locks and new objects are the project's.

    Brush, eraser, fill and polygon draw on the project directly. For data that is no numpy
    array napari reads a box, changes a copy and writes it back, which takes twice as long and
    would undo what a model wrote in between.

    Parameters
    ----------
    data : LabelsArray, shape (T, H, W)
        The labels, as `napari_flowrvs.layers.label_layer` gives them.
    **attributes
        As `napari.layers.Labels` takes them; the metadata name the project and the layer.

    Attributes
    ----------
    project : Project
        The project, which is open.
    layer_id : int
        The layer of it.
    notify : callable
        Gets one line for the user where a tool is refused.
    turn : callable or None
        ``turn(back)`` undoes, or does again, in place of doing it here and now.
    cancel : callable or None
        Stops what runs; True when something did.
    """

    def __init__(self, data: LabelsArray, **attributes: Any) -> None:
        colors = attributes.get("colormap")
        if type(colors) is dict:
            attributes["colormap"] = ObjectColors(color_dict=colors)
        super().__init__(data, **attributes)
        for tool in TOOLS:
            self._overlays[tool].visible = False
        self.project = open_projects.open(self.metadata[KEY]["project"])
        self.layer_id = int(self.metadata[KEY]["layer"])
        self.notify: Callable[[str], None] = show_info
        self.turn: Callable[[bool], object] | None = None
        self.cancel: Callable[[], bool] | None = None
        self._drawing = False
        self._shown: tuple[Any, int] = (None, -1)
        self._refused: tuple[object, float] = (None, 0.0)
        data.on_refused(lambda line: self.notify(line))
        mine = [r.id for r in self.project.objects.values() if r.layer == self.layer_id]
        if mine:
            # Paint what the sentence means, not a value that means nothing.
            self.selected_label = min(mine)

    @property
    def _type_string(self) -> str:
        return "labels"  # what savers, menus and icons know

    def _colors(self) -> dict[int | None, Any]:
        """Return the colours that are shown; a person may have chosen napari's own."""
        return getattr(self.colormap, "color_dict", {})

    @property
    def shows_objects(self) -> bool:
        """True when objects, or some that there were, have colours here."""
        return len(self._colors()) > 2

    def show_objects(self) -> None:
        """Take the objects of the project in their colours; nothing is drawn in vain."""
        colors = object_colors(self.project, self.layer_id)
        known = self._colors()
        if known.keys() == colors.keys() and all(
            np.allclose(known[label], color, atol=1e-3) for label, color in colors.items()
        ):
            return
        chosen = self.selected_label
        self.colormap = ObjectColors(color_dict=colors)
        self.selected_label = chosen

    def select_new(self) -> None:
        """Select a value that no object of the project has: painting it makes a new object."""
        self.selected_label = self.project.next_label

    def stop(self) -> None:
        """Stop what runs; where nothing does, forget the polygon that is begun (Esc)."""
        if self.cancel is None or not self.cancel():
            reset_polygon(self)

    def _mode_setter_helper(self, mode: Any) -> Any:
        mode = super()._mode_setter_helper(mode)
        for tool in TOOLS:
            if getattr(self._overlays.get(tool), "enabled", False):
                self.show_tool(tool)
        return mode

    def show_tool(self, tool: str) -> None:
        """Make what napari draws for one of the `TOOLS`."""
        self._overlays[tool].visible = True

    # -- steps ---------------------------------------------------------------------------

    @contextmanager
    def _stroke(self) -> Iterator[None]:
        """Make one step of the project of all that is drawn inside."""
        if self._drawing:
            yield
            return
        self._start()
        try:
            yield
        finally:
            self._end()

    def _start(self) -> None:
        self._drawing = True
        self.data.begin_stroke(_STEPS.get(str(self.mode), "edit"))

    def _end(self) -> None:
        self._drawing = False
        self.data.end_stroke()

    @contextmanager
    def block_history(self) -> Iterator[None]:
        """Make one step of all that is drawn between pressing the mouse and letting go."""
        with self._stroke(), super().block_history():
            yield

    def _begin_stroke(self) -> None:
        super()._begin_stroke()
        self._start()

    def _commit_stroke(self) -> None:
        super()._commit_stroke()
        self._end()

    def _abort_stroke(self) -> None:
        # napari would paint the old pixels back: a person's step, and provenance with it.
        self._staged_history.clear()
        self._block_history = self._drawing = False
        self.data.cancel_stroke()
        self.refresh(extent=False)

    def _append_to_undo_history(self, item: Any) -> None:
        # The project has its own history; napari's would only take memory, and go stale.
        self.events.paint(value=item)

    def undo(self) -> None:
        """Undo the last step of the project, whatever it was (Ctrl+Z)."""
        self._turn(back=True)

    def redo(self) -> None:
        """Do again what was undone last (Ctrl+Shift+Z)."""
        self._turn(back=False)

    def _turn(self, *, back: bool) -> None:
        if self.turn is not None:
            self.turn(back)
            return
        try:
            step = self.project.undo() if back else self.project.redo()
        except FlowRVSError as error:
            self.notify(str(error))
            return
        if step is None:
            self.notify("There is nothing to undo." if back else "There is nothing to redo.")
        elif self.layer_id in step.layer_ids:
            self.refresh(extent=False)

    # -- tools ---------------------------------------------------------------------------

    def _validate_label_in_range(self, label: int) -> None:
        if not 0 <= label <= _MAX_LABEL:  # napari reads a whole frame to know its dtype
            super()._validate_label_in_range(label)

    def _paint_region_with_mask(
        self,
        slice_key: tuple[slice, ...],
        mask: Mask,
        new_label: int,
        dims_to_paint: Sequence[int],
        refresh: bool = True,
        region_data: Any = None,
    ) -> None:
        """Draw `mask` in a box; brush, eraser, fill and polygon all end here."""
        frames, rows, columns = slice_key
        colors = self._colors()
        label = int(new_label)
        mask = np.expand_dims(mask, tuple({0, 1, 2}.difference(dims_to_paint)))
        only = int(self._get_preserve_labels_source_label(label)) if self.preserve_labels else None
        drawn = False
        with self._stroke():
            for part, t in zip(mask, range(frames.start, frames.stop), strict=True):
                free = self._unlocked(t, rows, columns, part, label)
                try:
                    found = self.data.paint(t, rows, columns, free, label, only)
                except FlowRVSError as error:
                    self._say(str(error), str(error))
                    break
                if found is not None:
                    self._drew((slice(t, t + 1), rows, columns), found[0], found[1], label)
                    drawn = True
        if drawn and colors and label not in colors:
            self.show_objects()  # a new object
        if drawn:
            self._accumulate_updated_slice(slice_key)
            if refresh:
                self._partial_labels_refresh()

    def _drew(
        self, place: tuple[slice, slice, slice], before: Any, changed: Mask, label: int
    ) -> None:
        """Tell whoever listens of pixels that were drawn, and show them."""
        self._save_history(
            self._history_atom_for_mask_paint(place, before[None], changed[None], label)
        )
        usual = (
            self.contour == 0
            and tuple(self._slice_input.displayed) == (1, 2)
            and self._slicing_state.loaded
            and not self._slice.empty
        )
        if not usual:
            after = np.where(changed, label, before)[None].astype(before.dtype)
            self._refresh_caches_from_region(after, place, changed[None], label)
            return
        if self._shown[0] is not self._slice:  # a new one whenever it could be another frame
            self._shown = (self._slice, int(self._get_pt_not_disp()[0]))
        if place[0].start == self._shown[1]:
            image = self._slice.image
            image.raw[place[1:]][changed] = label
            color = self.colormap._data_to_texture(np.array([label], np.uint16))[0]
            image.view[place[1:]][changed] = color

    def data_setitem(self, indices: Any, value: Any, refresh: bool = True) -> None:
        """Give pixels labels, as other plugins do; refused where an object is locked."""
        for t in np.unique(indices[0]).tolist():
            locked = self.data.locked(t)
            banned = self._banned(locked, np.unique(value).tolist()) if locked else set()
            if banned:
                self._refuse(min(banned), t)
                return
        try:
            super().data_setitem(indices, value, refresh)
        except FlowRVSError as error:
            self._say(str(error), str(error))

    # -- locks ---------------------------------------------------------------------------

    def _banned(self, locked: Sequence[int], labels: Sequence[int]) -> set[int]:
        """Return what may not be drawn at all; an eraser counts as the selected object."""
        return {int(self.selected_label), *labels}.intersection(locked)

    def _unlocked(self, t: int, rows: slice, columns: slice, mask: Mask, label: int) -> Mask:
        """Return the pixels of `mask` that may be drawn: around what is locked."""
        locked = self.data.locked(t)
        if not locked:
            return mask
        banned = self._banned(locked, [label])
        here = self.data[t, rows, columns]
        spared = mask if banned else mask & np.isin(here, locked)
        if spared.any():
            self._refuse(min(banned) if banned else int(here[spared][0]), t)
        return mask & ~spared

    def _refuse(self, object_id: int, t: int) -> None:
        self._say(
            (object_id, t),
            f"Object {object_id}, {self.project.objects[object_id].name!r}, is locked on frame "
            f"{t}: unlock it on the page Objects to draw there.",
        )

    def _say(self, about: object, line: str) -> None:
        """Say why something is not drawn, unless just that was said a moment ago."""
        now = time.monotonic()
        if self._refused[0] != about or now - self._refused[1] > _AGAIN_S:
            self.notify(line)
        self._refused = (about, now)


# napari's own "new label" refuses everything but numpy arrays.
ProjectLabels.bind_key("m", ProjectLabels.select_new, overwrite=True)
ProjectLabels.bind_key("Escape", ProjectLabels.stop, overwrite=True)


def make_layer(layer: LayerTuple) -> Layer:
    """Return the layer of some layer data; labels of a project know what they belong to."""
    data, attributes, kind = layer
    if isinstance(data, LabelsArray):
        return ProjectLabels(data, **attributes)
    return Layer.create(data, attributes, kind)
