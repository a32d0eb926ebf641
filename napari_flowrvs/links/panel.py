"""The question after a prompt: link, or keep as new?"""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtWidgets import QFrame, QHBoxLayout, QPushButton, QVBoxLayout

from napari_flowrvs.links.presenter import Link, LinksPresenter
from napari_flowrvs.widgets.parts import Wrapped

__all__ = ["LinkBar"]


class LinkBar(QFrame):
    """One question at a time; hidden where there is none.

    Parameters
    ----------
    presenter : LinksPresenter
        The questions.
    attempt : callable
        ``attempt(action)`` calls it and shows what is wrong.
    """

    def __init__(
        self, presenter: LinksPresenter, attempt: Callable[[Callable[[], object]], bool]
    ) -> None:
        super().__init__()
        self.setObjectName("question")
        self.text = Wrapped()
        self.link_button = QPushButton("link")
        self.link_button.setToolTip("The sentence means the older objects; no mask is kept twice")
        self.link_button.clicked.connect(lambda: attempt(presenter.accept))
        self.new_button = QPushButton("keep as new")
        self.new_button.setToolTip("The sentence has an object of its own")
        self.new_button.clicked.connect(presenter.decline)
        buttons = QHBoxLayout()
        buttons.addWidget(self.link_button)
        buttons.addWidget(self.new_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 4, 6, 4)
        layout.setSpacing(3)
        layout.addWidget(self.text)
        layout.addLayout(buttons)
        presenter.asked.connect(self._on_asked)
        self.hide()

    def _on_asked(self, link: Link | None) -> None:
        self.setVisible(link is not None)
        self.text.setText("" if link is None else link.question)
