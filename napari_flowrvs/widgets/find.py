"""The page "Find": sentences, options, Run."""

from __future__ import annotations

from qtpy.QtWidgets import QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from napari_flowrvs.presenters.memory import Memory
from napari_flowrvs.widgets.models import ModelPanel
from napari_flowrvs.widgets.options import OptionsPanel
from napari_flowrvs.widgets.parts import Wrapped, rule
from napari_flowrvs.widgets.sentences import SentencesPanel

__all__ = ["FindPanel"]


class FindPanel(QWidget):
    """What a run needs, the buttons that start and stop it, and what comes after it.

    Parameters
    ----------
    memory : Memory
        Sentences and models of earlier sessions.
    """

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.sentences = SentencesPanel(memory)
        self.options = OptionsPanel(memory)
        self.models = ModelPanel()
        self.options.model.currentTextChanged.connect(self.models.choose)
        self.run_button = QPushButton("&Run")
        self.run_button.setObjectName("run")
        self.run_button.setToolTip("Find what the sentences say (Ctrl+Return)")
        # No letter of its own: Alt+C is napari's, and Esc does it.
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setToolTip("Stop; finished frames are kept (Esc)")
        self.draw_button = QPushButton("Draw &by hand")
        self.draw_button.setToolTip(
            "Without any model: an object for each sentence, or one without a sentence,\n"
            "and the brush. Draw it on a few frames; the page Correct does those between."
        )
        self.hint = Wrapped("Begin with a video: open above, or drop a file on the window.")
        self.export_button = QPushButton("E&xport MeViS split…")
        self.export_button.setToolTip("Write masks and sentences as a dataset split")
        self.compare_button = QPushButton("Compare two layers…")
        self.compare_button.setToolTip("J and F of every frame of two label layers")
        buttons = QHBoxLayout()
        buttons.setSpacing(4)
        buttons.addWidget(self.run_button, 2)
        buttons.addWidget(self.cancel_button, 1)
        self.box = QVBoxLayout(self)
        self.box.setContentsMargins(0, 6, 0, 0)
        self.box.setSpacing(8)
        self.box.addWidget(self.sentences)
        self.box.addWidget(self.options)
        self.box.addWidget(self.models)
        self.box.addLayout(buttons)
        self.box.addWidget(self.draw_button)
        self.box.addWidget(self.hint)
        self.box.addWidget(rule())
        self.box.addWidget(self.export_button)
        self.box.addWidget(self.compare_button)
        self.box.addStretch(1)
