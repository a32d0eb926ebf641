"""What an export would write, as a table, with the linter's remarks below it."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QListWidget,
    QSizePolicy,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from flowrvs.data.faults import Finding
from flowrvs.data.preview import Preview
from napari_flowrvs.widgets.parts import Wrapped, counted, plain

__all__ = ["PreviewTable"]

_HEADS = ("split", "video", "frames", "objects", "sentences", "human")
_SHOWN = 500


class PreviewTable(QWidget):
    """The videos of an export and what is odd about them."""

    def __init__(self) -> None:
        super().__init__()
        self.table = QTableWidget(0, len(_HEADS))
        self.table.setAccessibleName("What will be written")
        self.table.setHorizontalHeaderLabels(list(_HEADS))
        self.table.verticalHeader().hide()
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setTabKeyNavigation(False)
        self.table.setMinimumSize(40, 84)
        self.table.setMaximumHeight(190)
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.Stretch)
        self.total = Wrapped()
        self.total.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Maximum)
        self.findings = QListWidget()
        self.findings.setAccessibleName("The linter's findings")
        self.findings.setWordWrap(True)
        self.findings.setMinimumSize(40, 56)
        self.findings.setMaximumHeight(84)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.table, 1)
        layout.addWidget(self.total)
        layout.addWidget(self.findings)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        self.hide()

    def show_preview(self, preview: Preview) -> None:
        """Show what would be written."""
        rows = preview.rows[:_SHOWN]
        self.table.setRowCount(len(rows))
        for place, row in enumerate(rows):
            values = (row.split, row.video, row.frames, row.objects, row.sentences)
            for column, value in enumerate((*values, f"{row.human:.0%}")):
                item = QTableWidgetItem(str(value))
                if column > 1:
                    item.setTextAlignment(
                        Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
                    )
                self.table.setItem(place, column, item)
        parts = [
            counted(len(preview.rows), "video"),
            counted(sum(row.frames for row in preview.rows), "frame"),
            counted(sum(row.objects for row in preview.rows), "object"),
            counted(sum(row.sentences for row in preview.rows), "sentence"),
        ]
        without = sum(row.without_target for row in preview.rows)
        self.total.setText(", ".join(parts) + (f"; {without} without target" if without else ""))
        self.show_findings(preview.findings, "The linter has no remarks.")

    def show_findings(self, findings: Sequence[Finding], nothing: str) -> None:
        """Show what the linter finds, or `nothing`."""
        self.findings.clear()
        for finding in findings[:_SHOWN]:
            where = finding.key or finding.file
            text = f"{finding.severity}: {where}: {finding.problem}"
            self.findings.addItem(text)
            self.findings.item(self.findings.count() - 1).setToolTip(plain(finding.remedy))
        if not findings:
            self.findings.addItem(nothing)
        self.show()
