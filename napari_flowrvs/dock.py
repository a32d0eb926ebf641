"""The dock widget: the pages, the viewer and what goes on, put together."""

from __future__ import annotations

from functools import partial
from typing import Any

from napari.settings import get_settings
from napari.viewer import Viewer
from qtpy.QtCore import QEvent, QObject, QSize, Qt, QTimer
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
from napari_flowrvs.ahead import import_ahead
from napari_flowrvs.bridge import Bridge, StorageWatch
from napari_flowrvs.correct.panel import CorrectPanel
from napari_flowrvs.export.panel import show_export
from napari_flowrvs.find.panel import FindPanel
from napari_flowrvs.find.presenter import (
    Prompt,
    SegmenterFactory,
    Written,
    load_segmenter,
)
from napari_flowrvs.footer import Footer
from napari_flowrvs.job import Phase, Runner
from napari_flowrvs.objects.panel import ObjectsPanel
from napari_flowrvs.opening.panel import VideoHead
from napari_flowrvs.pick.canvas import MarkTool
from napari_flowrvs.pick.panel import PickPanel
from napari_flowrvs.recent import Recent
from napari_flowrvs.review.panel import ReviewPanel
from napari_flowrvs.session import Session, closer
from napari_flowrvs.strip.panel import ProvenanceStrip, place_strip
from napari_flowrvs.viewer import ViewerLink
from napari_flowrvs.widgets import style
from napari_flowrvs.widgets.job_dialog import JobDialog
from napari_flowrvs.widgets.keys import Commands, key_of
from napari_flowrvs.widgets.parts import bare, pass_letters, scrolled
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
    recent : Recent, optional
        Sentences and models of earlier sessions.
    runner : Runner, optional
        Where jobs run.
    """

    def __init__(
        self,
        napari_viewer: Viewer,
        *,
        load: SegmenterFactory = load_segmenter,
        recent: Recent | None = None,
        runner: Runner = run_in_thread,
    ) -> None:
        super().__init__()
        napari_viewer = bare(napari_viewer)
        self.session = Session(load, runner, run_soon)
        self.bridge = Bridge(self.session.desk, self)
        self.link = ViewerLink(
            napari_viewer, self.session.desk, self.bridge, self._turn, self.session.cancel
        )
        self.commands = Commands(napari_viewer)
        history = self.session.history
        self.commands.add(undo=history.undo, redo=history.redo, cancel=self.session.cancel)
        self.strip = ProvenanceStrip(self.session.strip)
        self._picks_next = False  # when a project has been made for it
        self._running: Any = None  # the layer of the video that a run is about
        self._prompted: Project | None = None  # of a run whose layer is still to come
        self._build(Recent() if recent is None else recent)
        self._connect()
        if load is load_segmenter:
            self.find.sentences.begun.connect(lambda: import_ahead())
        self.head.refresh()
        self.link.begin()
        self.session.trackers.look()
        self._on_theme()
        self.watch = StorageWatch(self.link.projects, self.footer.show_failure)
        watching = QTimer(self)
        watching.timeout.connect(self.watch.check)
        watching.start(_WATCH_MS)
        # What must happen when the widget has gone cannot be asked of the widget.
        self._place = {"docked": False}
        link = self.link
        self.destroyed.connect(
            closer(self.session, link.projects, link.holder, self._place, link.let_go)
        )

    def _build(self, recent: Recent) -> None:
        session, commands = self.session, self.commands
        self.footer = Footer(session, self.link, commands)
        commands.report(self.footer.show_refusal, self.footer.problem.pass_by)
        progress = self.footer.progress
        self.head = VideoHead(self.link, session.opener, session.desk, commands, progress)
        self.find = FindPanel(
            session.segment, session.models, recent, commands, progress, self.link
        )
        self.find.check_free = session.correct.check_idle
        self.marks = MarkTool(session.pick, self.link, commands.attempt)
        self.pick = PickPanel(session.pick, self.marks, commands, self._pick)
        self.objects = ObjectsPanel(session.objects, commands.attempt)
        self.review = ReviewPanel(session.review, commands)
        self.correct = CorrectPanel(
            session.correct, commands, self.find.model, self.find.options.cluster
        )
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        self.tabs.setUsesScrollButtons(False)
        for page, name in (
            (scrolled(self.find), "Find"),
            (scrolled(self.pick), "Pick"),
            (self.objects, "Objects"),
            (self.review, "Review"),
            (scrolled(self.correct), "Correct"),
        ):
            self.tabs.addTab(page, name)
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
        form = self.find.sizeHint()
        return QSize(max(300, form.width()), max(hint.height(), form.height() + 8))

    def _connect(self) -> None:
        session, link = self.session, self.link
        self.head.video_changed.connect(self._on_video)
        self.find.idle_changed.connect(self._on_idle)
        self.find.options.device.changed.connect(self.correct.show_cluster)
        self.find.export_button.clicked.connect(lambda: show_export(link.viewer, self.window()))
        for button, page in (
            (self.find.compare_button, "Compare two layers"),
            (self.find.improve_button, "Improve the model with my corrections"),
        ):
            button.clicked.connect(partial(self._open_page, page))
        for part in (session.segment, session.opener, session.correct, session.steps):
            part.job.phase_changed.connect(self._on_phase)
        session.segment.job.phase_changed.connect(self._on_run)
        session.segment.prompted.connect(self._on_prompted)
        session.segment.written.connect(self._on_written)
        session.segment.finished.connect(self._on_run_finished)
        session.segment.begun.connect(self._on_begun)
        for ended in (session.segment.job.failed, session.segment.job.cancelled):
            ended.connect(self._forget_pick)
        session.correct.preview_changed.connect(self._close_unused)
        session.review.fix_requested.connect(link.take_brush)
        session.objects.brush_requested.connect(link.take_brush)
        session.desk.project_changed.connect(self._on_project)
        session.trackers.segmenters_found.connect(self.find.offer_models)
        session.models.installed.connect(lambda _name: session.trackers.look())
        link.labels_removed.connect(self._close_unused)
        link.viewer.events.theme.connect(self._on_theme)
        get_settings().appearance.events.font_size.connect(self._on_theme)

    def _open_page(self, name: str) -> None:
        self.link.viewer.window.add_plugin_dock_widget("napari-flowrvs", name)

    # -- the video and its project -------------------------------------------------------

    def _on_video(self) -> None:
        source, about = self.head.source, self.head.about
        self.footer.problem.pass_by()
        self.find.set_video(source, tuple(about.get("sentences", ())))
        self.session.desk.set_video(source.frame_count if source else 0, about.get("rate"))
        self.session.motion.set_source(source)
        self.correct.show_span()

    def _on_project(self, project: Project | None) -> None:
        # Else it may be about the run that began the project.
        if project is None or project is not self._prompted:
            self.footer.problem.clear()
        self._prompted = None
        self.link.soon(self.session.pick.prepare)  # its video is chosen by then
        if project is not None:
            self.find.sentences.offer(tuple(said.text for said in project.expressions.values()))

    def _close_unused(self, _preview: object = None) -> None:
        """Let go of the projects whose layers were removed, once nothing is to come for them."""
        session, held = self.session, self.session.correct.waiting
        writing = (session.segment, session.opener, session.steps)
        busy = any(part.job.busy for part in writing)
        if busy or self.link.left or not self.link.unused() - {held}:
            return
        if self.link.waiting:
            self._close_unused_soon()  # layers of it may be still to come
        else:
            self.commands.attempt(lambda: self.link.release_unused(but=held))

    def _close_unused_soon(self) -> None:
        if self._close_unused not in self.link.turns:
            self.link.soon(self._close_unused)

    # -- a run ---------------------------------------------------------------------------

    def _on_phase(self, phase: Phase) -> None:
        if phase is Phase.RUNNING:
            self.footer.problem.clear()
        elif phase is Phase.IDLE:
            self._close_unused_soon()  # the next step has begun by then

    def _on_run(self, phase: Phase) -> None:
        if phase is Phase.RUNNING:
            self._running = self.head.layer

    def _on_idle(self, idle: bool) -> None:
        self.head.videos.native.setEnabled(idle)
        if idle:
            self.find.offers.settle(taken=False)

    def _on_prompted(self, project: Project, prompts: tuple[Prompt, ...]) -> None:
        link, video = self.link, self._running
        self._prompted = project
        link.note_home(video, project)
        first = not link.project_layers(project)
        link.choose_layer(project, prompts[0].layer_id, video)
        self.find.offers.settle(taken=True)
        if first or len(prompts) > 1:
            link.show_project(project, video)
        link.soon(self.session.desk.catalog_changed.emit)

    def _on_written(self, project: Project | None, written: Written) -> None:
        self.link.refresh(project, written)
        if project is not None and project is self.session.desk.project:
            self.session.desk.wrote(written.layer_id, written.start, written.stop)

    def _on_run_finished(self, _text: str) -> None:
        segment, found = self.session.segment, self.session.segment.found

        def look() -> None:
            project = segment.project
            if project is not None and project is self.session.desk.project:
                self.session.links.look(project, found)

        self.link.soon(look)  # a short run ends before its layer is shown

    def _pick(self) -> None:
        """Take the tool Pick up, or put it away; begin a project where there is none."""
        desk, pick = self.session.desk, self.session.pick
        if desk.project is None and self.head.source is not None:
            self._picks_next = True
            try:
                self.find.begin_drawing()
            except InputError:
                self._forget_pick()
                raise
            return
        if not pick.active:
            self.session.correct.make_way()
        pick.toggle()

    def _forget_pick(self, _failure: object = None) -> None:
        """Drawing did not begin: whatever begins next is not to be picked."""
        self._picks_next = False

    def _on_begun(self, project: Project, object_id: int) -> None:
        picks, self._picks_next = self._picks_next, False
        self.link.soon(lambda: self._hand_over(project, object_id, picks))

    def _hand_over(self, project: Project, object_id: int, picks: bool) -> None:
        """Begin with an object, whose layer is shown by now: with the tool Pick, or the brush."""
        if project is not self.session.desk.project or object_id not in project.objects:
            return
        name = project.objects[object_id].name
        if picks:
            self.session.desk.choose(object_id)
            self.session.pick.start()
            line = f"Click on “{name}”: Enter keeps what is shown."
        else:
            self.link.take_brush(object_id)
            line = (
                f"Draw “{name}” here, and again some frames on ({key_of('forward')}). Then, on the "
                f"page Correct, {key_of('interpolate')} fills in between, or {key_of('spread')} "
                "follows the motion."
            )
        self._leave()
        self.footer.progress.say(line)

    def _turn(self, back: bool) -> None:
        """Undo, or do again: Ctrl+Z and Ctrl+Shift+Z in a layer."""
        history = self.session.history
        self.commands.attempt(history.undo if back else history.redo)

    # -- theme, keyboard and closing -----------------------------------------------------

    def _on_theme(self, _event: Any = None) -> None:
        self.setStyleSheet(style.sheet(self.link.viewer.theme))

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802
        """Esc stops what runs; where nothing does, the keys are the viewer's again."""
        if event.key() == Qt.Key.Key_Escape:
            if not self.session.cancel():
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
            holder.installEventFilter(self)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802
        """Ask before the window closes on work that cannot be saved."""
        if event.type() == QEvent.Type.Close and not (
            self._may_forget(watched) and self.head.may_close()
        ):
            event.ignore()
            return True
        return False

    def _may_forget(self, window: QObject) -> bool:
        """Ask about what would be lost with the window."""
        lost = [self.session.correct.waiting_text, self.session.opener.losing_text]
        for form in window.findChildren(JobDialog):
            if form.presenter.job.busy:
                lost.append(f"“{form.windowTitle()}” is at work")
        questions = [f"{text}, and is lost when the window closes." for text in lost if text]
        return all(self.head.ask(question, copy=False) == "close" for question in questions)

    def shut_down(self) -> None:
        """Cancel what runs, wait for it a moment, and write everything to disk."""
        get_settings().appearance.events.font_size.disconnect(self._on_theme)
        self.strip.leave()
        self.commands.close()
        self.footer.close_all()
        self.bridge.close()
        self.marks.close()
        self.link.let_go()
        self.find.close_all()
        self.session.close()
