"""The row of buttons that moves through the video, and what it moves."""

from __future__ import annotations

from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QHBoxLayout, QToolButton, QWidget

from napari_flowrvs.canvas import CanvasOverlay, Color
from napari_flowrvs.desk import Changed
from napari_flowrvs.job import Runner
from napari_flowrvs.overlays import NeighbourOutlines
from napari_flowrvs.transport.prefetch import Prefetch
from napari_flowrvs.transport.presenter import Player
from napari_flowrvs.viewer import ViewerLink
from napari_flowrvs.widgets.keys import Commands, set_tip
from napari_flowrvs.worker import run_in_thread

__all__ = ["OnionSkin", "Transport"]

#: Okabe and Ito's sky blue for the frame before, vermilion for the frame after.
_ONION: tuple[Color, ...] = ((0, 0, 0, 0), (0.34, 0.71, 0.91, 1), (0.84, 0.37, 0.0, 1))
_STEP = 10


class OnionSkin:
    """The outlines of the desk's object on the frames before and after.

    Parameters
    ----------
    link : ViewerLink
        The viewer and the desk.
    """

    def __init__(self, link: ViewerLink) -> None:
        self._desk = link.desk
        self.overlay = CanvasOverlay(link, _ONION)
        self._desk.object_changed.connect(self._on_object)
        self._desk.contents_changed.connect(self._on_contents)

    @property
    def on(self) -> bool:
        """True while outlines are drawn."""
        return self.overlay.data is not None

    def show(self, on: bool) -> None:
        """Show or hide the outlines."""
        record, project = self._desk.object, self._desk.project
        if on and record is not None and project is not None:
            # Whoever shows the frame says what is wrong with it.
            labels = project.labels(record.layer).shown(lambda _line: None)
            outlines = NeighbourOutlines(labels, record.id)
            self.overlay.show(outlines, record.id)
        else:
            self.overlay.hide()

    def _on_object(self, _object_id: int | None) -> None:
        if self.on:
            self.show(True)

    def _on_contents(self, change: Changed) -> None:
        near = change.start - 1 <= self._desk.frame < change.stop + 1
        alone = change.stop - change.start == 1 and change.start == self._desk.frame
        if near and not alone and self.on:
            self.overlay.refresh()


class Transport(QWidget):
    """Play, step by ten, onion skin.

    Parameters
    ----------
    link : ViewerLink
        The viewer and the desk.
    commands : Commands
        Where its keys are heard.
    runner : Runner, optional
        Where frames are read before they are played.
    """

    def __init__(
        self, link: ViewerLink, commands: Commands, runner: Runner = run_in_thread
    ) -> None:
        super().__init__()
        desk = link.desk
        self.onion = OnionSkin(link)
        self._prefetch = Prefetch(link.readers, runner)
        self.player = Player(desk, prefetch=self._prefetch)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._tick)
        self.player.playing_changed.connect(self._on_playing)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(3)
        self.buttons: dict[str, QToolButton] = {}
        for name, text, action in (
            ("play", "play", self.player.toggle),
            ("first", "first", lambda: desk.go_to_end(last=False)),
            ("back", f"−{_STEP}", lambda: desk.step(-_STEP)),
            ("forward", f"+{_STEP}", lambda: desk.step(_STEP)),
            ("last", "last", lambda: desk.go_to_end(last=True)),
            ("onion", "onion", self.toggle_onion),
        ):
            button = QToolButton()
            button.setText(text)
            button.setProperty("tight", True)
            button.clicked.connect(lambda _on=False, name=name: commands.run(name))
            set_tip(button, name)
            commands.add(**{name: action})
            layout.addWidget(button, 1)
            self.buttons[name] = button
        self.buttons["onion"].setCheckable(True)
        self.buttons["play"].setCheckable(True)
        commands.add(
            range_start=lambda: desk.set_span(desk.frame, None),
            range_stop=lambda: desk.set_span(None, desk.frame + 1),
            range_all=lambda: desk.set_span(None, None),
            next_object=desk.choose_next,
            previous_object=lambda: desk.choose_next(-1),
        )

    def _tick(self) -> None:
        wait = self.player.tick()
        if wait is not None:
            self._timer.start(round(wait * 1000))

    def _on_playing(self, playing: bool) -> None:
        self.buttons["play"].setChecked(playing)
        self.buttons["play"].setText("stop" if playing else "play")
        if playing:
            self._tick()
        else:
            self._timer.stop()

    def toggle_onion(self) -> None:
        """Show or hide the outlines of the neighbouring frames."""
        self.onion.show(not self.onion.on)
        self.buttons["onion"].setChecked(self.onion.on)

    def close_all(self) -> None:
        """Stop, and take the outlines away."""
        self.player.stop()
        self._prefetch.close(2.0)
        self.onion.overlay.close()
