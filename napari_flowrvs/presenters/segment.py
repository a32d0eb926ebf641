"""From sentences to masks in the project store, as a view-model."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from psygnal import Signal

import flowrvs
from flowrvs.checkpoints import locate
from flowrvs.errors import InputError
from flowrvs.inference import segment_into
from flowrvs.progress import CancelToken, Progress, ProgressCallback
from flowrvs.records import Segmenter
from flowrvs.store import Project
from napari_flowrvs.presenters.job import Job, Runner, run_here
from napari_flowrvs.projects import Projects, open_projects
from napari_flowrvs.source import VideoSource, default_project

__all__ = ["DEVICES", "Prompt", "SegmentInputs", "SegmentPresenter", "Written", "load_segmenter"]

DEVICES = ("auto", "cpu", "cuda", "mps")

#: Makes a segmenter from the name or folder of a model and a device.
SegmenterFactory = Callable[[str, str], Segmenter]


def load_segmenter(model: str, device: str) -> Segmenter:
    """Load a model by name or folder; this imports torch, so call it from a worker."""
    locate(model)  # a wrong name is told before the seconds that importing torch takes
    return flowrvs.load(model, device=device, memory="auto")


@dataclass(frozen=True)
class SegmentInputs:
    """What the form holds when Run is pressed.

    Attributes
    ----------
    video : VideoSource or None
        The chosen video.
    texts : tuple of str
        Sentences; blank and repeated ones are dropped.
    model, device : str
        Name or folder of the model; one of `DEVICES`.
    start, stop : int
        First native frame and one past the last; None for the end of the video.
    steps : int
        Euler steps of the flow.
    project : str or None
        Project folder; None for the default one.
    """

    video: VideoSource | None = None
    texts: tuple[str, ...] = ()
    model: str = "tiny"
    device: str = "auto"
    start: int = 0
    stop: int | None = None
    steps: int = 1
    project: str | None = None
    sentences: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        cleaned = dict.fromkeys(" ".join(text.split()) for text in self.texts)
        cleaned.pop("", None)
        object.__setattr__(self, "sentences", tuple(cleaned))

    def check(self) -> VideoSource:
        """Return the video when a run can start with these inputs.

        Raises
        ------
        InputError
            Something is missing; the message says what to do.
        """
        if self.video is None:
            raise InputError("There is no video: open one, or load a sample.")
        if not self.sentences:
            raise InputError("There is no sentence: type what to find, one sentence a line.")
        if not self.model.strip():
            raise InputError("There is no model: type tiny, or choose the folder of one.")
        count = self.video.frame_count
        stop = count if self.stop is None else self.stop
        if not 0 <= self.start < stop <= count:
            raise InputError(
                f"Frames {self.start} to {stop - 1} are not in {self.video.name}, "
                f"which has frames 0 to {count - 1}: change the range."
            )
        if self.project and not self.project.rstrip("/\\").endswith(".flowrvs"):
            raise InputError(f"{self.project}: the name of a project folder ends in .flowrvs.")
        return self.video


@dataclass(frozen=True, slots=True)
class Prompt:
    """A sentence and the layer that holds its masks."""

    text: str
    layer_id: int
    object_id: int


@dataclass(frozen=True, slots=True)
class Written:
    """Frames ``start <= t < stop`` of a layer were written by the model."""

    layer_id: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Prompted:
    project: Project
    prompts: tuple[Prompt, ...]


class SegmentPresenter:
    """Runs sentences over a video and writes the masks into its project.

    Parameters
    ----------
    runner : Runner
        Where jobs run.
    load : callable
        Makes the segmenter; the last one is kept.
    projects : Projects
        The open projects of this process.
    """

    #: Layers are ready to be shown, before the first mask is.
    prompted = Signal(object, tuple)  # Project, tuple[Prompt, ...]
    #: Masks were written.
    written = Signal(object, Written)  # Project, Written
    #: The run has ended well; the text is for the user.
    finished = Signal(str)

    def __init__(
        self,
        runner: Runner = run_here,
        load: SegmenterFactory = load_segmenter,
        projects: Projects = open_projects,
    ) -> None:
        self.job = Job(runner)
        self._load = load
        self._projects = projects
        self._segmenter: tuple[tuple[str, str], Segmenter] | None = None
        self._project: Project | None = None
        self._prompts: tuple[Prompt, ...] = ()
        self._frames: dict[int, int] = {}
        self._found: set[int] = set()
        self.job.completed.connect(self._on_completed)

    @property
    def project(self) -> Project | None:
        """The project of the last run."""
        return self._project

    @property
    def found(self) -> tuple[int, ...]:
        """The objects of the last run's sentences that it has drawn."""
        return tuple(p.object_id for i, p in enumerate(self._prompts) if i in self._found)

    def run(self, inputs: SegmentInputs) -> None:
        """Start a run.

        Raises
        ------
        InputError
            The inputs are not complete; nothing was started.
        """
        source = inputs.check()
        self._prompts = ()
        self._frames = {}
        self._found = set()

        def work(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
            return self._work(source, inputs, cancel, report)

        self.job.start(work, self._on_item)

    def _work(
        self,
        source: VideoSource,
        inputs: SegmentInputs,
        cancel: CancelToken,
        report: ProgressCallback,
    ) -> Generator[object, None, None]:
        report(Progress(0, 0, f"Opening {source.name}"))
        with source.open() as video:
            folder = Path(inputs.project) if inputs.project else default_project(source)
            if folder.exists():
                # An unfit folder should be reported before the seconds that a model takes.
                self._projects.ensure(folder, video.info)
            cancel.raise_if_cancelled()
            report(Progress(0, 0, f"Loading the model {Path(inputs.model).name}"))
            segmenter = self.segmenter_for(inputs.model.strip(), inputs.device)
            if line := getattr(segmenter, "memory_line", ""):
                report(Progress(0, 0, line))
            cancel.raise_if_cancelled()
            folder.parent.mkdir(parents=True, exist_ok=True)
            project = self._projects.ensure(folder, video.info)
            prompts = []
            for text in inputs.sentences:
                _, thing = project.add_prompt(text)
                prompts.append(Prompt(text, thing.layer, thing.id))
            yield _Prompted(project, tuple(prompts))
            parts = segment_into(
                project,
                video,
                inputs.sentences,
                segmenter,
                start=inputs.start,
                stop=inputs.stop,
                steps=inputs.steps,
                keep_confidence=True,
                cancel=cancel,
                progress=report,
            )
            with closing(parts):
                for part in parts:
                    if part.masks.any():
                        self._found.add(part.expression)
                    yield Written(prompts[part.expression].layer_id, part.start, part.stop)
            project.flush()

    def segmenter_for(self, model: str, device: str) -> Segmenter:
        """Return a loaded model; call it in a job, never in two at once."""
        key = (model, device)
        if self._segmenter is None or self._segmenter[0] != key:
            self._segmenter = None  # the old one's memory first
            self._segmenter = (key, self._load(model, device))
        return self._segmenter[1]

    def _on_item(self, item: object) -> None:
        if isinstance(item, _Prompted):
            self._project, self._prompts = item.project, item.prompts
            self.prompted.emit(item.project, item.prompts)
        elif isinstance(item, Written):
            seen = self._frames.get(item.layer_id, 0)
            self._frames[item.layer_id] = seen + item.stop - item.start
            self.written.emit(self._project, item)

    def _on_completed(self) -> None:
        self.finished.emit(self._summary())

    def _summary(self) -> str:
        if not self._frames:
            return "Everything was finished already."
        count = len(self._prompts)
        frames = max(self._frames.values())
        text = (
            f"Done: {count} sentence{'s' * (count != 1)}, {frames} frame{'s' * (frames != 1)} each."
        )
        missed = [p.text for i, p in enumerate(self._prompts) if i not in self._found]
        if missed:
            text += " Nothing found for: " + "; ".join(missed) + "."
        return text

    def close(self, timeout: float = 5.0) -> bool:
        """Cancel a running job, wait for it, and write everything to disk.

        Returns
        -------
        bool
            True when no work is left behind.
        """
        ended = self.job.close(timeout)
        if self._project is not None and self._projects.get(self._project.path) is self._project:
            self._project.flush()
        self._segmenter = None
        return ended
