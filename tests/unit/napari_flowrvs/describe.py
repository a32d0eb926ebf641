"""A widget in words: what of it is not as Qt makes it, and how its parts are laid out."""

from __future__ import annotations

import difflib
import enum
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from qtpy import API_NAME
from qtpy.QtCore import QModelIndex, QSize, Qt
from qtpy.QtWidgets import (
    QBoxLayout,
    QComboBox,
    QFormLayout,
    QGridLayout,
    QHeaderView,
    QLabel,
    QLayout,
    QListWidget,
    QMenu,
    QPlainTextEdit,
    QScrollArea,
    QSizePolicy,
    QTableView,
    QTabWidget,
    QToolButton,
    QWidget,
)

from napari_flowrvs.widgets.parts import Problem, ProgressLine, Wrapped

PAGES = Path(__file__).with_name("pages")

#: What is told of where it differs from a new widget of the same kind. What follows from fonts,
#: from the screen or from Qt's version is not among it.
_TOLD = (
    *("objectName", "accessibleName", "windowTitle", "text", "title", "placeholderText"),
    *("format", "suffix", "prefix", "toolTip", "enabled", "checkable", "checked", "focusPolicy"),
    *("minimumSize", "maximumSize", "sizePolicy", "alignment", "wordWrap", "textFormat"),
    *("textInteractionFlags", "readOnly", "tabChangesFocus", "lineWrapMode", "autoDefault"),
    *("default", "minimum", "maximum", "value", "singleStep", "decimals", "orientation"),
    *("buttonSymbols", "editable", "insertPolicy", "sizeAdjustPolicy", "popupMode"),
    *("toolButtonStyle", "arrowType", "frameShape", "frameShadow", "horizontalScrollBarPolicy"),
    *("verticalScrollBarPolicy", "widgetResizable", "showGrid", "selectionMode"),
    *("selectionBehavior", "editTriggers", "tabKeyNavigation", "textElideMode", "documentMode"),
    *("usesScrollButtons", "highlightSections", "minimumSectionSize", "textVisible"),
)

#: What is told of once, and elsewhere only where it differs from that.
_PARTS = (Wrapped, ProgressLine, Problem)


def _word(value: Any) -> str:
    if isinstance(value, enum.Flag):
        return "|".join(sorted(each.name or "" for each in type(value) if each & value)) or "none"
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, QSize):
        return f"{_length(value.width())} x {_length(value.height())}"
    if isinstance(value, QSizePolicy):
        by_width = ", height for width" if value.hasHeightForWidth() else ""
        return f"{value.horizontalPolicy().name} {value.verticalPolicy().name}{by_width}"
    return repr(value)


def _length(pixels: int) -> str:
    return "any" if pixels >= 2**24 - 1 else str(pixels)


def _kind(widget: QWidget) -> type[QWidget]:
    """Return the class of Qt's that a widget is of."""
    return next(k for k in type(widget).__mro__ if k.__module__.startswith(("PyQt", "PySide")))


@cache
def _usual(kind: type[QWidget]) -> QWidget:
    return kind(Qt.Orientation.Horizontal) if kind is QHeaderView else kind()


def _lines(widget: QWidget, *, part: bool = True) -> Iterator[str]:
    known = part and type(widget) in _PARTS
    kind, told = type(widget) if known else _kind(widget), list[str]()
    usual = _usual(kind)
    for name in _TOLD:
        value = widget.property(name)
        if str(value).startswith("magicgui."):
            continue  # a name that no person reads
        if value is not None and _word(value) != _word(usual.property(name)):
            # A height of so many lines of text is another one with another font.
            tall = isinstance(widget, QPlainTextEdit) and name == "maximumSize"
            if tall or (isinstance(widget, QPlainTextEdit) and name == "minimumSize"):
                value = QSize(value.width(), 0)
            told.append(f"{name} {_word(value)}")
    told += [
        f"{bytes(name).decode()} {widget.property(bytes(name).decode())!r}"
        for name in widget.dynamicPropertyNames()
        if not bytes(name).startswith(b"_")
    ]
    gone = (Qt.WidgetAttribute.WA_WState_Hidden, Qt.WidgetAttribute.WA_WState_ExplicitShowHide)
    if all(widget.testAttribute(each) for each in gone):
        told.append("hidden")
    if isinstance(widget, QLabel) and widget.buddy() is not None:
        told.append(f"for {type(widget.buddy()).__name__} {widget.buddy().accessibleName()!r}")
    name = type(widget).__name__
    yield ", ".join([name if name == kind.__name__ else f"{name} ({kind.__name__})", *told])
    if known:
        return
    for line in (*_contents(widget), *(_laid_out(widget.layout()) if widget.layout() else ())):
        yield f"  {line}"


def _contents(widget: QWidget) -> Iterator[str]:
    """Yield what a widget holds without a layout of ours."""
    if isinstance(widget, QComboBox):
        for i in range(widget.count()):
            tip = widget.itemData(i, Qt.ItemDataRole.ToolTipRole)
            chosen = "* " if i == widget.currentIndex() else "- "
            more = "" if widget.itemData(i) is None else f" = {widget.itemData(i)!s}"
            yield f"{chosen}{widget.itemText(i)}{more}{f' ({tip})' if tip else ''}"
        if widget.isEditable():
            yield f"delegate {type(widget.itemDelegate()).__name__}"
    elif isinstance(widget, QListWidget):
        yield from (f"- {widget.item(i).text()}" for i in range(widget.count()))
    elif isinstance(widget, QTableView):
        model, head = widget.model(), widget.horizontalHeader()
        yield from _lines(head)
        for i in range(model.columnCount()):
            title, mode = model.headerData(i, Qt.Orientation.Horizontal), head.sectionResizeMode(i)
            delegate = type(widget.itemDelegateForColumn(i) or widget.itemDelegate()).__name__
            width = f" {widget.columnWidth(i)}" if mode == mode.Interactive else ""
            yield f"column {title}: {mode.name}{width}, {delegate}"
        yield f"row numbers {'hidden' if widget.verticalHeader().isHidden() else 'shown'}"
        for row in range(model.rowCount()):
            cells = [_cell(model.index(row, i)) for i in range(model.columnCount())]
            yield f"row {' | '.join(cells)}"
    elif isinstance(widget, QScrollArea):
        yield from _lines(widget.widget())
    elif isinstance(widget, QTabWidget):
        for i in range(widget.count()):
            yield f"page {widget.tabText(i)}"
            yield from (f"  {line}" for line in _lines(widget.widget(i)))
    elif isinstance(widget, QToolButton) and widget.menu() is not None:
        yield from _menu(widget.menu())


def _cell(index: QModelIndex) -> str:
    text, tick = str(index.data() or ""), index.data(Qt.ItemDataRole.CheckStateRole)
    return text if tick is None else f"{text} ({Qt.CheckState(tick).name})"


def _menu(menu: QMenu) -> Iterator[str]:
    for action in menu.actions():
        off = "" if action.isEnabled() else " (off)"
        yield "---" if action.isSeparator() else f"> {action.text()}{off}"
        if action.menu() is not None:
            yield from (f"  {line}" for line in _menu(action.menu()))


def _laid_out(layout: QLayout) -> Iterator[str]:
    margins = layout.contentsMargins()
    sides = (margins.left(), margins.top(), margins.right(), margins.bottom())
    how = f"{type(layout).__name__} spacing {layout.spacing()} margins {sides}"
    if isinstance(layout, QFormLayout):
        how += f" labels {_word(layout.labelAlignment())} fields {layout.fieldGrowthPolicy().name}"
    if isinstance(layout, QGridLayout):
        columns = [layout.columnStretch(i) for i in range(layout.columnCount())]
        rows = [layout.rowStretch(i) for i in range(layout.rowCount())]
        how += f" columns {columns}" + (f" rows {rows}" if any(rows) else "")
    yield how
    for i in range(layout.count()):
        item, where = layout.itemAt(i), ""
        if isinstance(layout, QGridLayout):
            where = f"{layout.getItemPosition(i)} "
        elif isinstance(layout, QFormLayout):
            line, role = layout.getItemPosition(i)
            where = f"{line} {role.name[:-4].lower()}: "
        elif isinstance(layout, QBoxLayout) and layout.stretch(i):
            where = f"[{layout.stretch(i)}] "
        if item.alignment():
            where += f"{_word(item.alignment())} "
        if item.widget() is not None:
            parts = [*_lines(item.widget())]
        elif item.layout() is not None:
            parts = [*_laid_out(item.layout())]
        else:
            parts = ["space"]
        yield f"{where}{parts[0]}"
        yield from (f"  {line}" for line in parts[1:])


def describe(widget: QWidget) -> str:
    """Return what a widget, with all that is in it, is put together of; a line a part."""
    told = _menu(widget) if isinstance(widget, QMenu) else _lines(widget, part=False)
    return "\n".join(told) + "\n"


def same(name: str, found: str) -> None:
    """Compare a page with what is written down of it; ``RENEW_PAGES=1`` writes it anew."""
    if API_NAME != "PyQt6":
        pytest.skip("written down with PyQt6, which has its own words for some properties")
    path = PAGES / f"{name}.txt"
    if os.environ.get("RENEW_PAGES"):
        PAGES.mkdir(exist_ok=True)
        path.write_text(found, "utf-8")
    wanted = path.read_text("utf-8")
    lines = difflib.unified_diff(wanted.splitlines(), found.splitlines(), "written down", "now")
    assert found == wanted, "\n".join(lines)
