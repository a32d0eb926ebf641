"""Spreading, filling in, cleaning and re-prompting: previews that are kept or discarded."""

from __future__ import annotations

import enum
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from flowrvs import editing
from flowrvs.editing.pieces import Here
from flowrvs.errors import Cancelled, FlowRVSError, InputError, ProjectError
from flowrvs.inference import segment
from flowrvs.masks.compose import Rule
from flowrvs.progress import CancelToken, Progress, ProgressCallback
from flowrvs.records import Segmenter
from flowrvs.store import Project, Provenance
from napari_flowrvs.desk import Desk
from napari_flowrvs.find.presenter import NO_CLUSTER
from napari_flowrvs.job import Job, Last, Runner, Work, run_here
from napari_flowrvs.motion import Motion
from napari_flowrvs.overlays import Shown
from napari_flowrvs.steps import Steps
from napari_flowrvs.trackers import CLASSICAL, Trackers, on_cluster

__all__ = ["RULES", "TOOLS", "CorrectPresenter", "Reprompt", "Scope"]

#: How masks of a new prompt meet those that are there.
RULES: dict[Rule, str] = {
    "replace": "replace",
    "union": "add (union)",
    "subtract": "take away (subtract)",
    "intersect": "only where both (intersect)",
    "keep": "only where empty (keep)",
}

#: Clean-up tools of `editing.clean`.
TOOLS = {
    "largest": "largest piece only",
    "fill": "fill holes",
    "smooth": "smooth the outline",
    "specks": "remove specks",
}


class Scope(enum.Enum):
    """Which frames a tool works on."""

    FRAME = "this frame"
    RANGE = "the range"
    OBJECT = "all frames"


@dataclass(frozen=True)
class Reprompt:
    """What the form of the re-prompt holds.

    Attributes
    ----------
    text : str
        A sentence; the object's own one may be asked again.
    model, device, memory : str
        As for a run.
    steps : int
        Euler steps.
    threshold : float
        Logit above which a pixel belongs to the object, -1 to 1.
    rule : str
        One of `RULES`.
    scope : Scope
        The frames.
    """

    text: str
    model: str = "tiny"
    device: str = "auto"
    steps: int = 1
    threshold: float = 0.0
    rule: Rule = "replace"
    scope: Scope = Scope.RANGE
    memory: str = "auto"


@dataclass(frozen=True)
class _Trial:
    """One frame with another threshold."""

    name: str
    t: int
    found: npt.NDArray[np.bool_]
    threshold: float

    @property
    def frames(self) -> tuple[int, ...]:
        return (self.t,)

    def mask(self, t: int) -> npt.NDArray[np.bool_]:
        return self.found


def _run(
    preview: editing.Preview | editing.PreviewGroup,
    cancel: CancelToken,
    report: ProgressCallback | None,
) -> Generator[object, None, None]:
    """Yield the preview itself, then its frames as they come."""
    yield preview
    with closing(preview.run(cancel, report)) as parts:
        for part in parts:
            found = part[1] if isinstance(part, tuple) else part
            yield found.frame, found.frame + 1


def _unless_removed(project: Project, object_id: int, work: Work) -> Work:
    """Return `work` on an object that a person may remove meanwhile."""
    name = project.objects[object_id].name if object_id in project.objects else ""

    def watched(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
        try:
            yield from work(cancel, report)
        except FlowRVSError as error:
            if not name or isinstance(error, Cancelled) or object_id in project.objects:
                raise
            raise InputError(
                f"{name!r} was removed meanwhile: undo that and try again, or choose another "
                "object."
            ) from error

    return watched


def _byte(logit: float) -> int:
    """Return a logit as the store keeps confidence, 0 to 255."""
    return int(np.rint(255 / (1 + np.exp(-logit))))


def _is_drawn(project: Project, object_id: int) -> bool:
    """True where a person drew an object on some frame."""
    drawn = project.provenance(object_id) >= Provenance.HUMAN
    return bool((drawn & project.present(object_id)).any())


class CorrectPresenter:
    """Computes corrections in a job, shows them, and writes them when they are kept.

    What is computed, or waits to be kept, goes on doing so while the desk has another project.

    Parameters
    ----------
    desk : Desk
        What is looked at.
    motion : Motion
        The video.
    segmenter : callable
        ``segmenter(model, device, memory)`` gives a loaded model; called in the job.
    runner : Runner
        Where jobs run.
    steps : Steps, optional
        Where masks are copied.
    trackers : Trackers, optional
        What a spread may be done with.
    """

    #: A preview has begun, is complete, or has gone: preview | None.
    preview_changed = Signal(object)
    #: Masks of the preview have come: first frame and one past the last.
    frames_ready = Signal(int, int)
    #: A spread was kept: the object, and how sure it was of each frame that it wrote.
    kept = Signal(int, dict)
    #: Something to tell the user.
    noted = Signal(str)

    def __init__(
        self,
        desk: Desk,
        motion: Motion,
        segmenter: Callable[[str, str, str], Segmenter],
        runner: Runner = run_here,
        steps: Steps | None = None,
        trackers: Trackers | None = None,
    ) -> None:
        self.desk = desk
        self.steps = Steps() if steps is None else steps
        self.trackers = Trackers(runner) if trackers is None else trackers
        #: With a tracker: all objects that a person drew, not the desk's alone.
        self.together = False
        self.job = Job(runner)
        self._motion = motion
        self._segmenter = segmenter
        self._preview: Shown | None = None
        #: What the preview is of: project, object and tool.
        self._of: tuple[Project, int, str] | None = None
        self._nothing = ""
        self.job.failed.connect(self._on_stopped)
        self.job.cancelled.connect(self._on_stopped)
        self.job.completed.connect(self._on_completed)
        desk.project_changed.connect(self._on_project)
        desk.frame_changed.connect(self._on_frame)

    # -- state ---------------------------------------------------------------------------

    @property
    def preview(self) -> Shown | None:
        """What waits to be kept or discarded in the desk's project."""
        return self._preview if self._is_here() else None

    @property
    def object_id(self) -> int | None:
        """The object of the preview."""
        return self._of[1] if self._of is not None and self.preview is not None else None

    @property
    def waiting(self) -> Project | None:
        """The project in which something is computed, or waits to be kept; None for none."""
        idle = self._preview is None and not self.job.busy
        return None if idle or self._of is None else self._of[0]

    @property
    def waiting_text(self) -> str:
        """What is lost with the window, for people; "" for nothing."""
        if self.waiting is None or isinstance(self._preview, _Trial):
            return ""
        where = "" if self._is_here() else f" in {self.waiting.path.name}"
        if self.job.busy or self._preview is None:
            return f"A correction is being computed{where}"
        return f"The preview of {self._preview.name} waits{where}"

    def _is_here(self) -> bool:
        return self._of is not None and self._of[0] is self.desk.project

    def span(self, scope: Scope) -> tuple[int, int]:
        """Return the frames of a scope: first and one past the last."""
        if scope is Scope.FRAME:
            return self.desk.frame, self.desk.frame + 1
        if scope is Scope.RANGE:
            return self.desk.span
        return 0, self.desk.frame_count

    def _target(self, tool: str = "") -> tuple[Project, int]:
        """Return what `tool`, which makes another preview, or "" works on."""
        project, thing = self.desk.need_project(), self.desk.need_object()
        # The same may be asked anew: what a person has drawn since then counts.
        self._check_free((project, thing.id, tool) if tool else self._of)
        return project, thing.id

    def check_idle(self) -> None:
        """Raise where a correction is being computed."""
        if self.job.busy:
            raise InputError(f"{self.waiting_text}: wait for it, or cancel it (Esc).")

    def _check_free(self, but: tuple[Project, int, str] | None) -> None:
        self.check_idle()
        waits = self.waiting_text
        if waits and self._of != but:
            how = "" if self._is_here() else "choose one of its layers, or open it again, and "
            raise InputError(f"{waits}: {how}keep it (Y) or discard it (Shift+Y) first.")

    def make_way(self) -> None:
        """Show no preview, or raise where one waits: two at once would be a riddle."""
        if self._is_here():
            self._check_free(None)
            self._forget()

    def own_sentence(self) -> str:
        """Return a sentence that means the desk's object alone, or with others; or ""."""
        project, object_id = self.desk.project, self.desk.object_id
        meant = [] if project is None else list(project.expressions.values())
        found = [said for said in meant if object_id in said.object_ids]
        return min(found, key=lambda said: len(said.object_ids)).text if found else ""

    # -- tools ---------------------------------------------------------------------------

    def spread(self, direction: str = "both", scheduler: str | None = None) -> None:
        """Carry what a person drew along the video: its motion, or a tracker's memory.

        Parameters
        ----------
        direction : {"both", "forward", "back"}
            Over the whole range, or from the frame that is shown to one of its ends.
        scheduler : str, optional
            The address of the cluster that spreads; by default this computer does.

        Raises
        ------
        InputError
            There is nothing to spread, or the address is empty.
        """
        if scheduler == "":
            raise InputError(f"{NO_CLUSTER} It stands below the device, on the page Find.")
        if self.trackers.name != CLASSICAL:
            self._remember(direction, scheduler)
            return
        self._spread(
            "flow",
            direction,
            "There is nothing to spread to: the frames of the range are yours or locked, or what "
            "you drew is hidden on them.",
            scheduler,
        )

    def interpolate(self) -> None:
        """Fill in between corrected frames by shape, whatever the video shows."""
        self._spread(
            "shape",
            "both",
            "There is nothing between to fill in: draw the object on two frames of the range, "
            "with others between them.",
        )

    def _spread(
        self,
        method: Literal["flow", "shape"],
        direction: str,
        nothing: str,
        scheduler: str | None = None,
    ) -> None:
        project, object_id = self._target("spread")
        start, stop = self._directed(direction)
        film = self._motion.film

        def work(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
            # Shapes need no video, which may have moved or may not be readable here.
            video, flows = film.open() if method == "flow" else (None, None)
            with on_cluster(scheduler, None, cancel, report) as cluster:
                preview = editing.spread(
                    project,
                    video,
                    object_id,
                    start=start,
                    stop=stop,
                    method=method,
                    flows=flows,
                    runner=cluster,
                )
                yield from _run(preview, cancel, report)

        self._start("spread", project, object_id, work, nothing)

    def _directed(self, direction: str) -> tuple[int, int]:
        start, stop = self.desk.span
        if direction == "forward":
            start = self.desk.frame
        elif direction == "back":
            stop = self.desk.frame + 1
        return start, stop

    def _remember(self, direction: str, scheduler: str | None) -> None:
        """Spread by the memory of the tracker that is chosen."""
        project, object_id = self._target("spread")
        start, stop = self._directed(direction)
        name, film = self.trackers.name, self._motion.film
        ids = [object_id]
        if self.together:
            ids += [i for i in project.objects if i != object_id and _is_drawn(project, i)]

        def work(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
            with on_cluster(scheduler, name, cancel, report) as runner:
                if runner is None:
                    encodings = self.trackers.encodings(name, report)
                    runner = Here(tracker=None if encodings is None else encodings.tracker)
                preview = editing.spread_together(
                    project, film.open()[0], ids, start=start, stop=stop, runner=runner
                )
                yield from _run(preview, cancel, report)

        nothing = (
            f"There is nothing to spread to: the frames of the range are yours or locked, or "
            f"{name} has drawn them from the same frames of yours before."
        )
        self._start("spread", project, object_id, work, nothing)

    def copy_to_next(self, n: int = 1) -> None:
        """Copy the mask that is shown to the next frame, keep it, and go there."""
        self.steps.ask(self.desk.here(lambda: self._copy(n)))

    def _copy(self, n: int) -> None:
        project, object_id = self._target()
        t = self.desk.frame

        def action(cancel: CancelToken, report: ProgressCallback) -> npt.NDArray[np.intp]:
            preview = editing.copy_to_next(project, object_id, t, n)
            preview.finish()
            written = preview.accept(checked=True)
            if not len(written):
                raise InputError(f"Frame {t + n} is locked or yours already: it stays as it is.")
            return written

        def then(written: npt.NDArray[np.intp]) -> None:
            if project is self.desk.project:
                self.desk.touched_objects([object_id], int(written.min()), int(written.max()) + 1)
                self.desk.go_to(t + n)

        self.steps.run("Copying the mask", action, then)

    def clean(self, tool: str, scope: Scope) -> None:
        """Clean masks with one of `TOOLS`."""
        project, object_id = self._target("clean")
        start, stop = self.span(scope)
        self._start(
            "clean",
            project,
            object_id,
            lambda cancel, report: _run(
                editing.clean(project, object_id, start, stop, tool), cancel, report
            ),
            f"There is nothing to clean up ({TOOLS[tool]}): all is as it would be, or locked.",
        )

    def reprompt(self, inputs: Reprompt) -> None:
        """Ask a model again about this object on some frames."""
        project, object_id = self._target("ask")
        text = " ".join(inputs.text.split())
        if not text:
            raise InputError("There is no sentence: type what this object is.")
        start, stop = self.span(inputs.scope)
        film = self._motion.film

        def masks(
            cancel: CancelToken, report: ProgressCallback
        ) -> Generator[tuple[int, npt.NDArray[np.bool_]], None, None]:
            report(Progress(0, 0, "Loading the model"))
            segmenter = self._segmenter(inputs.model, inputs.device, inputs.memory)
            parts = segment(
                film.open()[0],
                [text],
                segmenter,
                start=start,
                stop=stop,
                steps=inputs.steps,
                threshold=inputs.threshold,
                cancel=cancel,
                progress=report,
            )
            with closing(parts):
                for part in parts:
                    yield from enumerate(part.masks, part.start)

        def work(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
            preview = editing.combine(project, object_id, masks(cancel, report), inputs.rule)
            preview.name = f"ask '{text}', frames {start} to {stop - 1}"
            yield from _run(preview, cancel, None)

        nothing = "The answer changes nothing on these frames."
        self._start("ask", project, object_id, work, nothing)

    def has_confidence(self) -> bool:
        """True where the model's confidence of the desk's object was kept."""
        project, thing = self.desk.project, self.desk.object
        if project is not None and thing is not None:
            with suppress(ProjectError):  # it was removed just now
                return bool(project.confidence_frames(thing.id).any())
        return False

    def try_threshold(self, threshold: float) -> None:
        """Show what a threshold, as a logit, makes of the frame that is shown."""
        project, object_id = self._target("threshold")
        t, layer_id = self.desk.frame, project.objects[object_id].layer
        if self.desk.provenance()[t] > Provenance.MODEL:
            raise InputError(
                f"Frame {t} is yours, or locked: only the model's frames get another threshold."
            )
        confidence = project.confidence(layer_id, t, t + 1)
        if confidence is None or not project.confidence_frames(object_id)[t]:
            raise InputError(f"The model's confidence on frame {t} was not kept: ask again.")
        found = confidence[0] > _byte(threshold)
        self._of = project, object_id, "threshold"
        self._preview = _Trial(f"threshold {threshold:+.2f} on frame {t}", t, found, threshold)
        self.preview_changed.emit(self._preview)

    def apply_threshold(self, threshold: float, scope: Scope) -> None:
        """Draw the model's frames again with a threshold, as one step."""
        project, object_id = self._target("threshold")
        start, stop = self.span(scope)

        def work(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
            report(Progress(0, 0, f"Threshold {threshold:+.2f}"))
            yield Last(project.rethreshold(object_id, start, stop, _byte(threshold)))

        def on_written(written: object) -> None:
            frames = start + np.flatnonzero(np.asarray(written))
            self._tell(project, f"Threshold {threshold:+.2f}", [object_id], frames)

        self._start("threshold", project, object_id, work, on_item=on_written)

    def _start(
        self,
        tool: str,
        project: Project,
        object_id: int,
        work: Work,
        nothing: str = "",
        on_item: Callable[[object], None] | None = None,
    ) -> None:
        """Work on an object; `nothing` is said where a preview would write no frame."""
        self._forget()
        self._of, self._nothing = (project, object_id, tool), nothing
        self.job.start(_unless_removed(project, object_id, work), on_item or self._on_item)

    def _on_item(self, item: object) -> None:
        if isinstance(item, tuple):
            self.frames_ready.emit(*item)
        else:
            self._preview = cast(Shown, item)
            self.preview_changed.emit(self.preview)

    # -- the verdict ---------------------------------------------------------------------

    def keep(self) -> None:
        """Write the preview as one step that can be undone."""
        preview = self.preview
        if preview is None or self._of is None:
            return
        if self.job.busy:
            raise InputError("The preview is still being computed: wait for it, or cancel it.")
        if isinstance(preview, _Trial):  # it is of the frame that is shown: it follows
            self.apply_threshold(preview.threshold, Scope.FRAME)
            return
        project, object_id, _ = self._of

        def work(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
            report(Progress(0, 0, f"Writing {preview.name}"))
            written = cast(editing.Preview | editing.PreviewGroup, preview).accept()
            yield Last(written if isinstance(written, dict) else {object_id: written})

        def on_written(item: object) -> None:
            by_object = cast(dict[int, npt.NDArray[np.intp]], item)
            of = getattr(preview, "previews", {object_id: preview})
            self._forget()
            for i, frames in by_object.items() if project is self.desk.project else ():
                self.kept.emit(i, {int(t): of[i].certainty(int(t)) for t in frames})
            frames = np.unique(np.concatenate([*by_object.values()]))
            self._tell(project, preview.name, list(by_object), frames)

        self.job.start(_unless_removed(project, object_id, work), on_written)

    def _tell(
        self, project: Project, name: str, object_ids: list[int], frames: npt.NDArray[np.intp]
    ) -> None:
        if not len(frames):
            self.noted.emit(f"{name}: nothing was written, the frames are yours, locked or empty.")
            return
        if project is self.desk.project:
            self.desk.touched_objects(object_ids, int(frames.min()), int(frames.max()) + 1)
        self.noted.emit(f"{name}: {len(frames)} frame{'s' * (len(frames) != 1)} written.")

    def discard(self) -> None:
        """Forget the preview; nothing was written. While it is computed, stop that."""
        if self.job.busy and self._is_here():
            self.job.cancel()
        elif self.preview is not None:
            self._forget()

    def _forget(self) -> None:
        if self._preview is not None:
            self._preview = None
            self.preview_changed.emit(None)

    # -- the end -------------------------------------------------------------------------

    def _on_frame(self, _frame: int) -> None:
        """Let a threshold that is tried follow the frame; where it cannot, forget it."""
        if isinstance(self.preview, _Trial) and not self.job.busy:
            try:
                self.try_threshold(self.preview.threshold)
            except FlowRVSError:
                self._forget()

    def _on_completed(self) -> None:
        preview = self._preview
        lost = getattr(preview, "lost_text", "")
        if preview is not None and not preview.frames:
            self._forget()
            self.noted.emit(f"{self._nothing} ({lost})" if lost else self._nothing)
        elif preview is not None and not self._is_here():
            self.noted.emit(f"{self.waiting_text}.")
        elif lost:
            self.noted.emit(f"The object is {lost}: draw it where it is seen again.")

    def _on_stopped(self, _failure: object = None) -> None:
        # What was worked out before can still be kept: also where keeping it is what failed, on
        # a full disk.
        if self._preview is not None and not self._preview.frames:
            self._forget()

    def _on_project(self, _project: object) -> None:
        if isinstance(self._preview, _Trial):
            self._forget()
        elif self._preview is not None:
            self.preview_changed.emit(self.preview)

    def close(self, timeout: float = 5.0) -> bool:
        """Stop, and forget what waits."""
        ended = self.job.close(timeout)
        self._forget()
        return ended
