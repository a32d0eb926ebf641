"""The list of trackers, on the pages Pick and Correct."""

from __future__ import annotations

from collections.abc import Mapping

from qtpy.QtWidgets import QComboBox

from napari_flowrvs.trackers import Trackers
from napari_flowrvs.widgets.parts import narrow

__all__ = ["TrackerBox"]


class TrackerBox(QComboBox):
    """Chooses the tracker that all pages use.

    Parameters
    ----------
    trackers : Trackers
        Which there are.
    tip : str
        What it is for.
    texts : mapping of str to str, optional
        What some are called here.
    """

    def __init__(
        self, trackers: Trackers, tip: str, texts: Mapping[str, str] | None = None
    ) -> None:
        super().__init__()
        self._trackers = trackers
        self._texts = dict(texts or {})
        narrow(self, tip)
        self.activated.connect(lambda _index: trackers.choose(self.currentData()))
        trackers.changed.connect(self._on_changed)
        self._on_changed()

    def _on_changed(self) -> None:
        rows = [(self._texts.get(n, self._trackers.text(n)), n) for n in self._trackers.known]
        if rows != [(self.itemText(i), self.itemData(i)) for i in range(self.count())]:
            self.clear()
            for text, name in rows:
                self.addItem(text, name)
        self.setCurrentIndex(max(0, self.findData(self._trackers.name)))
