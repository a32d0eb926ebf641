"""The dock widget: a video, sentences, Run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from napari.layers import Labels
from napari.settings import get_settings
from napari.utils.notifications import show_info
from napari.viewer import Viewer
from qtpy.QtCore import QEvent, QSize, Qt, QTimer
from qtpy.QtGui import QKeyEvent, QShowEvent
from qtpy.QtWidgets import (
    QApplication,
    QMainWindow,
    QSizePolicy,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from flowrvs.errors import InputError
from flowrvs.store import Project
from napari_flowrvs.layers import KEY, LayerTuple, source_of
from napari_flowrvs.presenters.job import Failure, Phase, Runner
from napari_flowrvs.presenters.memory import Memory
from napari_flowrvs.presenters.room import Room
from napari_flowrvs.presenters.segment import (
    Prompt,
    SegmenterFactory,
    SegmentInputs,
    Written,
    load_segmenter,
)
from napari_flowrvs.projects import open_projects
from napari_flowrvs.source import VideoSource
from napari_flowrvs.widgets import style
from napari_flowrvs.widgets.bridge import Bridge
from napari_flowrvs.widgets.correct import CorrectPanel
from napari_flowrvs.widgets.desk_link import DeskLink
from napari_flowrvs.widgets.export_dialog import show_export
from napari_flowrvs.widgets.find import FindPanel
from napari_flowrvs.widgets.footer import Footer
from napari_flowrvs.widgets.head import VideoHead
from napari_flowrvs.widgets.keys import Commands, key_of
from napari_flowrvs.widgets.objects import ObjectsPanel
from napari_flowrvs.widgets.parts import pass_letters, scrolled
from napari_flowrvs.widgets.review import ReviewPanel
from napari_flowrvs.widgets.strip import ProvenanceStrip, place_strip
from napari_flowrvs.widgets.viewer_link import ViewerLink
from napari_flowrvs.widgets.watch import StorageWatch
from napari_flowrvs.worker import run_in_thread, run_soon

__all__ = ["SegmentDock"]

_WATCH_MS = 2000


class SegmentDock(QWidget):
    """Turns sentences into editable masks.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        The viewer that it is docked in.
    load : callable, optional
        Makes a segmenter from a model and a device.
    memory : Memory, optional
        Sentences and models of earlier sessions.
    runner : Runner, optional
        Where jobs run.
    """

    def __init__(
        self,
        napari_viewer: Viewer,
        *,
        load: SegmenterFactory = load_segmenter,
        memory: Memory | None = None,
        runner: Runner = run_in_thread,
    ) -> None:
        super().__init__()
        self.memory = Memory() if memory is None else memory
        self.room = Room(load, runner, run_soon)
        self.presenter, self.opener = self.room.segment, self.room.opener
        self.desk, self.motion, self.history = self.room.desk, self.room.motion, self.room.history
        self.links, self.review, self.correct = self.room.links, self.room.review, self.room.correct
        self._video: Any = None
        self.link = ViewerLink(
            napari_viewer, self._on_videos, self._close_unused, self._on_noted, self._turn
        )
        self.bridge = Bridge(self.desk, self)
        self.desk_link = DeskLink(self.link, self.desk, self.bridge)
        self.strip = ProvenanceStrip(self.room.strip)
        self.commands = Commands(napari_viewer, self._on_refused, self._on_done)
        self._build()
        self._connect()
        self._on_videos()
        self._on_theme()
        self._on_phase(Phase.IDLE)
        self.watch = StorageWatch(self.link.projects_shown, self._on_failed)
        self._arriving: deque[LayerTuple] = deque()
        self._arrival = QTimer(self)
        self._arrival.setSingleShot(True)
        self._arrival.timeout.connect(self._arrive)
        self._watching = QTimer(self)
        self._watching.timeout.connect(self.watch.check)
        self._watching.start(_WATCH_MS)
        # What must happen when the widget has gone cannot be asked of the widget.
        self._place = {"docked": False}
        self.destroyed.connect(_closer(self.room, self.link.projects_shown, self._place))

    # -- building --------------------------------------------------------------------

    def _build(self) -> None:
        self.head = VideoHead(self.link.viewer, self._choices)
        self.videos, self.open_button = self.head.videos, self.head.open_button
        self.find = FindPanel(self.memory)
        self.sentences, self.options = self.find.sentences, self.find.options
        self.run_button, self.cancel_button = self.find.run_button, self.find.cancel_button
        self.draw_button = self.find.draw_button
        self.export_button = self.find.export_button
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        self.tabs.setUsesScrollButtons(False)
        self.area = scrolled(self.find)
        self.tabs.addTab(self.area, "Find")
        self.objects = ObjectsPanel(self.room.objects, self.commands.attempt)
        self.tabs.addTab(self.objects, "Objects")
        self.review_panel = ReviewPanel(self.review, self.commands)
        self.tabs.addTab(self.review_panel, "Review")
        self.correct_panel = CorrectPanel(self.correct, self.commands, self._model)
        self.tabs.addTab(scrolled(self.correct_panel), "Correct")
        self.footer = Footer(self.room, self.desk_link, self.commands, self._on_failed)
        self.progress, self.problem = self.footer.progress, self.footer.problem
        self.transport, self.preview = self.footer.transport, self.footer.preview
        outer = QVBoxLayout(self)
        outer.setContentsMargins(6, 6, 6, 6)
        outer.setSpacing(6)
        outer.addWidget(self.head)
        outer.addWidget(self.tabs, 1)
        outer.addWidget(self.footer)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)
        pass_letters(self)

    def sizeHint(self) -> QSize:  # noqa: N802
        """As wide as napari's own docks, as tall as the form."""
        hint = super().sizeHint()
        form = self.area.widget().sizeHint()
        return QSize(max(300, form.width()), max(hint.height(), form.height() + 8))

    def _connect(self) -> None:
        self.videos.changed.connect(self._on_video_chosen)
        self.run_button.clicked.connect(self.run)
        self.cancel_button.clicked.connect(self.cancel)
        self.draw_button.clicked.connect(self.draw)
        self.export_button.clicked.connect(self._export)
        self.find.compare_button.clicked.connect(self._compare)
        self.head.path_chosen.connect(self.open_path)
        self.head.copy_chosen.connect(self.copy_project)
        self.desk.project_changed.connect(self._tell_head)
        self.sentences.run_requested.connect(self.run)
        self.presenter.job.phase_changed.connect(self._on_phase)
        self.presenter.job.progressed.connect(self._on_progress)
        self.presenter.job.failed.connect(self._on_failed)
        self.presenter.job.cancelled.connect(self._on_cancelled)
        self.presenter.prompted.connect(self._on_prompted)
        self.presenter.written.connect(self._on_written)
        self.presenter.finished.connect(self._on_run_finished)
        self.presenter.estimated.connect(self._on_loaded)
        self.presenter.begun.connect(self._on_begun)
        self.opener.opened.connect(self._on_opened)
        self.opener.noted.connect(self._on_noted)
        self.opener.job.progressed.connect(self._on_progress)
        self.opener.job.failed.connect(self._on_failed)
        self.opener.job.phase_changed.connect(self._on_opening)
        self.link.viewer.events.theme.connect(self._on_theme)
        get_settings().appearance.events.font_size.connect(self._on_theme)
        self.link.viewer.layers.selection.events.active.connect(self._on_active)
        self.review.fix_requested.connect(self.desk_link.take_brush)
        self.room.objects.brush_requested.connect(self.desk_link.take_brush)

    # -- the viewer --------------------------------------------------------------------

    def _choices(self) -> list[tuple[str, Any]]:
        return self.link.videos()

    def _on_videos(self) -> None:
        if not hasattr(self, "videos"):
            return
        before = self.videos.value
        with self.videos.changed.blocked():
            self.videos.reset_choices()
            layers = [layer for _, layer in self.link.videos()]
            if layers:
                self.videos.value = before if before in layers else layers[0]
        self._on_video_chosen()

    def _on_video_chosen(self, _value: Any = None) -> None:
        self._video = self.videos.value
        source = self.source()
        self.problem.pass_by()
        self._tell_head()
        self.find.hint.setVisible(source is None)
        self.options.set_video(source)
        rate = None if self._video is None else (self._video.metadata.get(KEY) or {}).get("rate")
        self.desk.set_video(source.frame_count if source else 0, rate)
        self.correct_panel.show_span()
        self.motion.set_source(source)
        about = self._video.metadata.get(KEY) if self._video is not None else None
        self.sentences.suggest(tuple(about.get("sentences", ())) if about else ())

    def _tell_head(self, _project: Any = None) -> None:
        source, project = self.source(), self.desk.project
        name = "" if source is None else source.name
        self.head.tell(name, None if project is None else str(project.path))

    def source(self) -> VideoSource | None:
        """Return the chosen video."""
        return None if self._video is None else source_of(self._video)

    def _on_theme(self, _event: Any = None) -> None:
        self.setStyleSheet(style.sheet(self.link.viewer.theme))

    def _on_active(self, _event: Any = None) -> None:
        """Say it when somebody is about to draw where nothing keeps it."""
        layer = self.link.viewer.layers.selection.active
        alien = isinstance(layer, Labels) and KEY not in layer.metadata
        if alien and self.link.videos() and not self.room.stoppable():
            self.progress.say(
                f"The layer {layer.name!r} is not part of a project: nothing here works on it, "
                "and nobody saves it. Draw by hand, on the page Find, makes a layer that is."
            )

    def _close_unused(self) -> None:
        """Let go of the projects whose layers were removed, once no job writes to them."""
        if self.presenter.job.busy or self.room.steps.busy:
            return
        for folder in self.link.unused():
            project = open_projects.get(folder)
            if project is not None:
                open_projects.close(project)
        self.desk_link.forget_closed()

    # -- opening -----------------------------------------------------------------------

    def open_path(self, path: str | Path) -> None:
        """Open anything the plugin knows, away from this thread; "" is ignored."""
        if path and not self.opener.job.busy:
            self.problem.clear()
            self.opener.open(path)

    def copy_project(self, path: str) -> None:
        """Save a copy of the project, away from this thread; "" is ignored."""
        if path and not self.opener.job.busy:
            self.commands.attempt(lambda: self.opener.copy(self.desk.project, path))

    def _on_opening(self, phase: Phase) -> None:
        self.open_button.setEnabled(phase is Phase.IDLE)
        if phase is Phase.IDLE and not self.presenter.job.busy:
            self.progress.say("")

    def _on_opened(self, layers: list[LayerTuple]) -> None:
        # napari takes a fifth of a second for each: between two of them, events are handled.
        self._arriving.extend(layers)
        self._arrival.start()

    def _arrive(self) -> None:
        if self._arriving:
            self.link.add(self._arriving.popleft())
        if self._arriving:
            self._arrival.start()

    def _on_noted(self, text: str) -> None:
        show_info(text)

    # -- running -----------------------------------------------------------------------

    def inputs(self) -> SegmentInputs:
        """Return what the form holds."""
        inputs = self.options.fill(SegmentInputs(self.source(), self.sentences.texts))
        if inputs.project is None and inputs.video is not None:
            # A project that was opened from elsewhere goes on being used.
            inputs = replace(inputs, project=self.link.project_for(inputs.video))
        return inputs

    def run(self) -> None:
        """Start a run with what the form holds; nothing happens while one is running."""
        inputs = self.inputs()
        if not self._start(self.presenter.run, inputs):
            if not inputs.sentences and inputs.video is not None:
                self.sentences.edit.setFocus()

    def draw(self) -> None:
        """Make objects to draw by hand, without a model."""
        self._start(self.presenter.begin_by_hand, self.inputs())

    def _start(self, begin: Callable[[SegmentInputs], object], inputs: SegmentInputs) -> bool:
        if self.presenter.job.busy:
            return True
        self.problem.clear()
        try:
            if self.correct.job.busy:
                raise InputError("A correction is being computed: wait for it, or cancel it.")
            begin(inputs)
        except InputError as error:
            self._on_refused(Failure.of(error))
            return False
        self.sentences.remember(inputs.sentences)
        return True

    def cancel(self) -> None:
        """Stop the run at its next step."""
        self.presenter.job.cancel()

    def _on_phase(self, phase: Phase) -> None:
        idle = phase is Phase.IDLE
        held = self.cancel_button.hasFocus() or self.run_button.hasFocus()
        self.cancel_button.setEnabled(phase is Phase.RUNNING)
        self.run_button.setEnabled(idle)
        self.draw_button.setEnabled(idle)
        if held:
            # A disabled button drops the focus; the keyboard should stay where it was.
            (self.run_button if idle else self.cancel_button).setFocus()
        for part in (self.options, self.videos.native):
            part.setEnabled(idle)
        self.sentences.edit.setReadOnly(not idle)
        self.sentences.history.setEnabled(idle)
        if idle:
            self._close_unused()
        if phase is Phase.STOPPING:
            self.progress.status.setText("Stopping at the end of this step")

    def _on_progress(self, event: Any) -> None:
        if self.presenter.job.phase is not Phase.STOPPING:
            self.progress.show_progress(event)

    def _on_prompted(self, project: Project, prompts: tuple[Prompt, ...]) -> None:
        made = self.link.show_prompts(project, prompts, self._video)
        if made:
            self.link.viewer.layers.selection.active = made[0]
        self.desk.catalog_changed.emit()

    def _on_written(self, project: Project | None, written: Written) -> None:
        self.link.refresh(project, written)
        if project is not None and project is self.desk.project:
            self.desk.wrote(written.layer_id, written.start, written.stop)

    def _on_run_finished(self, text: str) -> None:
        self.progress.say(text)
        if self.presenter.project is not None and self.presenter.project is self.desk.project:
            self.links.look(self.presenter.project, self.presenter.found)

    def _on_loaded(self, memory: str) -> None:
        self.options.remember()
        self.options.show_estimate(memory)

    def _on_begun(self, project: Project, object_id: int) -> None:
        self.desk_link.take_brush(object_id)
        self._leave()
        self.progress.say(
            f"Draw “{project.objects[object_id].name}” here, and again some frames on "
            f"({key_of('forward')}). Then, on the page Correct, {key_of('interpolate')} fills in "
            f"between, or {key_of('spread')} follows the motion."
        )

    def _on_cancelled(self) -> None:
        self.progress.say("Stopped. Finished frames are kept; Run goes on where it stopped.")

    def _on_failed(self, failure: Failure) -> None:
        if not self.presenter.job.busy:
            self.progress.say("")
        self.problem.show_failure(failure, passing=failure.refused)

    def _on_refused(self, failure: Failure) -> None:
        self.problem.show_failure(failure, passing=True)

    def _on_done(self) -> None:
        self.problem.pass_by()

    def _turn(self, back: bool) -> None:
        """Undo, or do again: Ctrl+Z and Ctrl+Shift+Z in a layer."""
        action = self.history.undo if back else self.history.redo
        self.commands.attempt(action)

    def _model(self) -> tuple[str, str, str]:
        """Return model, device and memory mode of the page Find, when they are free."""
        if self.presenter.job.busy:
            raise InputError("A run is going on: wait for it, or cancel it.")
        inputs = self.inputs()
        return inputs.model, inputs.device, inputs.memory

    def _export(self) -> None:
        show_export(self.link.viewer, self.window())

    def _compare(self) -> None:
        self.link.viewer.window.add_plugin_dock_widget("napari-flowrvs", "Compare two layers")

    # -- keyboard and closing ------------------------------------------------------------

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802
        """Esc stops what runs; where nothing does, the keys are the viewer's again."""
        if event.key() == Qt.Key.Key_Escape:
            busy = self.room.stoppable()
            for job in busy:
                job.cancel()
            if not busy:
                self._leave()
            event.accept()
        else:
            super().keyPressEvent(event)

    def _leave(self) -> None:
        """Give the keyboard to the viewer."""
        held = QApplication.focusWidget()
        if held is not None and self.isAncestorOf(held):
            held.clearFocus()

    def event(self, event: QEvent) -> bool:
        """Stop when the dock was closed: napari then takes its content out of it."""
        if event.type() == QEvent.Type.ParentChange:
            self._place["docked"] = self.parent() is not None
            if self.parent() is None:
                self.shut_down()
        return bool(super().event(event))

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802
        """Put the strip below the time slider: only now is there a window around the dock."""
        super().showEvent(event)
        holder: QWidget | None = self
        while holder is not None and not isinstance(holder, QMainWindow):
            holder = holder.parentWidget()
        if holder is not None and self.strip.parent() is None:
            place_strip(self.strip, holder)

    def shut_down(self) -> None:
        """Cancel what runs, wait for it a moment, and write everything to disk."""
        busy = self.presenter.job.busy
        get_settings().appearance.events.font_size.disconnect(self._on_theme)
        self.strip.setParent(None)
        self.commands.close()
        self.footer.close_all()
        self.bridge.close()
        self.link.let_go()
        self.find.models.close_all()
        self._arriving.clear()
        self.room.close()
        if busy:
            self._on_phase(Phase.IDLE)
            self._on_cancelled()


def _closer(room: Room, shown: set[str], place: dict[str, bool]) -> Callable[..., None]:
    """Return what to do once the widget has gone."""

    def close(_: Any = None) -> None:
        room.close(1.0)
        if not place["docked"]:
            return  # only the dock was closed: the viewer goes on showing the layers
        for folder in shown:
            project = open_projects.get(folder)
            if project is not None:
                open_projects.close(project)

    return close
