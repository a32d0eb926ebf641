"""What napari's own style sheet lacks: multi-line edits, a visible focus, an error box."""

from __future__ import annotations

from napari.settings import get_settings
from napari.utils.theme import get_theme

__all__ = ["sheet"]

#: napari's own sheet gives labels and push buttons the size that the user chose, and
#: leaves the rest of what is used here as it is.
_SHEET = """
QToolButton, QLineEdit, QPlainTextEdit, QTableView, QHeaderView::section, QProgressBar,
QListWidget, QSpinBox, QDoubleSpinBox, QMenu {{ font-size: {font_size}; }}
QPlainTextEdit {{
  background-color: {primary}; border: 1px solid {primary}; border-radius: 2px; padding: 2px;
}}
QPlainTextEdit#details {{ background-color: {console}; }}
QToolButton {{ background-color: {primary}; border: 1px solid {primary}; border-radius: 2px;
  padding: 3px 6px; }}
QToolButton[tight="true"] {{ padding: 3px 1px; }}
QToolButton:hover {{ background-color: {highlight}; border-color: {highlight}; }}
QToolButton:disabled {{ background-color: {background}; border-color: {primary}; }}
QToolButton::menu-indicator {{ image: none; }}
QToolButton#fold {{ background-color: transparent; border-color: transparent; padding: 1px; }}
QPushButton, QComboBox, QLineEdit, QAbstractSpinBox {{ border: 1px solid {primary}; }}
QComboBox QLineEdit {{ border: none; min-height: 16px; padding: 0px; }}
QAbstractSpinBox {{ min-width: 44px; padding: 1px 22px; }}
QAbstractSpinBox[bare="true"] {{ min-width: 40px; padding: 1px 4px; }}
QPushButton:focus, QToolButton:focus, QToolButton#fold:focus, QComboBox:focus,
QLineEdit:focus, QAbstractSpinBox:focus, QPlainTextEdit:focus, QListWidget:focus {{
  border: 1px solid {focus};
}}
QPushButton#run {{ font-weight: bold; }}
QPushButton#run:enabled {{ background-color: {current}; border-color: {current};
  color: {on_current}; }}
QPushButton#run:enabled:focus {{ border-color: {focus}; }}
QTabWidget::pane {{ border: none; border-top: 1px solid {foreground}; }}
QTabBar {{ qproperty-drawBase: 0; }}
QTabBar::tab {{ background: transparent; color: {text}; border: none; padding: 5px 9px;
  border-bottom: 2px solid transparent; }}
QTabBar::tab:hover {{ background-color: {foreground}; }}
QTabBar::tab:selected {{ background: transparent; border-bottom: 2px solid {current};
  font-weight: bold; }}
QTabBar::tab:focus {{ border: 1px solid {focus}; border-bottom: 2px solid {current}; }}
QTableView {{ background-color: {background}; alternate-background-color: {foreground};
  selection-background-color: {current}; selection-color: {on_current};
  border: 1px solid {foreground}; }}
QTableView:focus {{ border: 1px solid {focus}; }}
QTableView::indicator:unchecked {{ border: 1px solid {text}; background: transparent;
  width: 11px; height: 11px; }}
QHeaderView::section {{ background-color: {foreground}; color: {text}; border: none;
  padding: 2px 4px; }}
QLabel#status {{ color: {text}; }}
QFrame#rule {{ background-color: {foreground}; max-height: 1px; min-height: 1px; padding: 0px; }}
QFrame#problem {{ border: 1px solid {error}; border-left: 4px solid {error}; border-radius: 2px; }}
QFrame#preview, QFrame#question {{ border: 1px solid {current}; border-left: 4px solid {current};
  border-radius: 2px; }}
QFrame#preview QLabel, QFrame#question QLabel {{ border: none; }}
QFrame#problem QLabel {{ border: none; }}
QListWidget {{ background-color: {primary}; border: 1px solid {primary}; border-radius: 2px; }}
"""


def sheet(theme_id: str) -> str:
    """Return the style sheet for one of napari's themes, in its colours and the chosen size."""
    theme = get_theme(theme_id)
    colors = {
        name: getattr(theme, name).as_rgb()
        for name in (
            "background",
            "foreground",
            "primary",
            "highlight",
            "console",
            "text",
            "current",
            "error",
        )
    }
    dark = theme.type == "dark"
    return _SHEET.format(
        font_size=f"{get_settings().appearance.font_size}pt",
        **colors,
        on_current="rgb(255, 255, 255)" if dark else theme.text.as_rgb(),
        focus="rgb(240, 241, 242)" if dark else "rgb(40, 40, 40)",
    )
