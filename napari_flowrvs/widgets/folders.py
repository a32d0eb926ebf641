"""A list of folders to tick, on the pages Export and Improve."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QListWidget, QListWidgetItem

from napari_flowrvs.widgets.parts import plain

__all__ = ["FolderList"]

_FOLDER = Qt.ItemDataRole.UserRole


class FolderList(QListWidget):
    """Folders by name, each with a tick and its whole path as a tooltip.

    Parameters
    ----------
    name : str
        What it holds, for screen readers.
    height : int
        Its height in pixels.
    """

    def __init__(self, name: str, height: int) -> None:
        super().__init__()
        self.setAccessibleName(name)
        self.setFixedHeight(height)
        self.setMinimumWidth(40)

    @property
    def folders(self) -> list[str]:
        """All folders, in the order in which they came."""
        return [str(self.item(i).data(_FOLDER)) for i in range(self.count())]

    @property
    def ticked(self) -> tuple[str, ...]:
        """The folders that are ticked."""
        return tuple(
            folder
            for i, folder in enumerate(self.folders)
            if self.item(i).checkState() == Qt.CheckState.Checked
        )

    def add(self, folder: str) -> bool:
        """Add a folder, ticked, and tell whether it is new."""
        if folder in self.folders:
            return False
        path = Path(folder)
        alike = any(Path(other).name == path.name for other in self.folders)
        item = QListWidgetItem(f"{path.name} in {path.parent.name}" if alike else path.name)
        item.setData(_FOLDER, folder)
        item.setToolTip(plain(folder))
        item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
        item.setCheckState(Qt.CheckState.Checked)
        self.addItem(item)
        return True
