"""From sentences to masks in the project store, as a view-model."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from psygnal import Signal

import flowrvs
from flowrvs.checkpoints.placed import placed_models
from flowrvs.errors import InputError, StorageError
from flowrvs.inference import segment_into
from flowrvs.inference.windows import window_around
from flowrvs.progress import CancelToken, Progress, ProgressCallback
from flowrvs.records import InstanceSegmenter, Segmenter, SegmentRequest, VideoInfo, clean_sentence
from flowrvs.store import Project
from napari_flowrvs.job import Job, Last, Runner, run_here
from napari_flowrvs.projects import Projects, open_projects
from napari_flowrvs.source import VideoSource, default_project

__all__ = [
    "AROUND",
    "CLUSTER",
    "DEVICES",
    "EVERY",
    "FIRST_WORKER",
    "LOOKS",
    "MEMORY",
    "NO_CLUSTER",
    "PREVIEW",
    "Prompt",
    "SegmentInputs",
    "SegmentPresenter",
    "Stray",
    "Written",
    "load_segmenter",
]

DEVICES = ("auto", "cpu", "cuda", "mps")

#: Stands beside them for the workers of a dask scheduler.
CLUSTER = "a cluster"

#: Seconds that a scheduler may take to have a worker.
FIRST_WORKER = 30.0

NO_CLUSTER = "There is no cluster: type its scheduler's address, tls://HOST:PORT."

#: Labels with more values are no objects.
_MOST_VALUES = 1000

#: What stays on the device, from the quickest to the smallest, as `flowrvs.load` knows it.
MEMORY = ("auto", "full", "offload", "low")

#: Which frames of the range a run looks at.
ALL, EVERY, PREVIEW, AROUND = "every frame", "some frames", "some, then all", "around this frame"
LOOKS = (ALL, EVERY, PREVIEW, AROUND)

#: Makes a segmenter: ``load(model, device)``, with ``memory=`` where a mode was chosen.
SegmenterFactory = Callable[..., Segmenter]


def load_segmenter(model: str, device: str, memory: str = "auto") -> Segmenter:
    """Load a model by name or folder; this imports torch, so call it from a worker.

    A `device` that is none of `DEVICES` is the address of a dask scheduler, whose workers
    load the model; certificates are those of dask's configuration.
    """
    if device not in DEVICES:
        from flowrvs.inference.cluster import Cluster

        return Cluster(device, model, timeout=FIRST_WORKER, memory=memory)
    for placed in placed_models():
        if placed.name == model and placed.adapter:  # of a model that is loaded with it
            return flowrvs.load(placed.base, device=device, memory=memory, lora=placed.folder)
    return flowrvs.load_segmenter(model, device=device, memory=memory)


@dataclass(frozen=True)
class SegmentInputs:
    """What the form holds when Run is pressed.

    Attributes
    ----------
    video : VideoSource or None
        The chosen video.
    texts : tuple of str
        Lines; blank and repeated ones are no sentences.
    model, device, memory : str
        Name or folder of the model; one of `DEVICES`, or a scheduler's address; one of
        `MEMORY`.
    start, stop : int
        First native frame and one past the last; None for the end of the video.
    steps : int
        Euler steps of the flow.
    project : str or None
        Project folder; None for the default one.
    look : str
        One of `LOOKS`: every frame of the range, every n-th, those first and then all, or
        one window around `frame`, whatever the range.
    every : int
        The n, where it is used.
    cuts : bool
        Whether windows stop at the video's cuts.
    frame : int
        The frame that is shown.
    """

    video: VideoSource | None = None
    texts: tuple[str, ...] = ()
    model: str = "tiny"
    device: str = "auto"
    start: int = 0
    stop: int | None = None
    steps: int = 1
    project: str | None = None
    memory: str = "auto"
    look: str = ALL
    every: int = 1
    cuts: bool = True
    frame: int = 0

    @property
    def sentences(self) -> tuple[str, ...]:
        """The sentences, each once; blank lines are none."""
        lines = dict.fromkeys(" ".join(text.split()) for text in self.texts)
        return tuple(clean_sentence(line) for line in lines if line)

    def check(self) -> tuple[VideoSource, SegmentRequest]:
        """Return the video and what is asked of the model, when a run can start.

        Raises
        ------
        InputError
            Something is missing; the message says what to do.
        """
        video = self.check_place()
        if not self.sentences:
            raise InputError("There is no sentence: type what to find, one sentence a line.")
        if not self.model.strip():
            raise InputError("There is no model: type tiny, or choose the folder of one.")
        if not self.device:
            raise InputError(NO_CLUSTER)
        if self.look in (EVERY, PREVIEW) and self.every < 2:
            raise InputError("Every frame is no preview: choose every 2nd frame, or fewer.")
        request = SegmentRequest(
            self.sentences,
            self.start,
            self.stop,
            self.steps,
            keep_confidence=True,
            every=self.every if self.look in (EVERY, PREVIEW) else 1,
            cuts="find" if self.cuts else (),
        )
        request.frames(video.frame_count)
        return video, request

    def passes(self, request: SegmentRequest, window_size: int) -> tuple[SegmentRequest, ...]:
        """Return what is run, one after the other, with a model of such windows."""
        assert self.video is not None
        if self.look == AROUND:
            start, stop = window_around(self.video.frame_count, self.frame, window_size)
            return (replace(request, start=start, stop=stop),)
        return (request, replace(request, every=1)) if self.look == PREVIEW else (request,)

    def check_place(self) -> VideoSource:
        """Return the video when a project can be made for it, with or without a model.

        Raises
        ------
        InputError
            There is no video, or the project's name is no project's.
        """
        if self.video is None:
            raise InputError("There is no video: open one, or load a sample.")
        if self.project and not self.project.rstrip("/\\").endswith(".flowrvs"):
            raise InputError(f"{self.project}: the name of a project folder ends in .flowrvs.")
        return self.video


@dataclass(frozen=True, slots=True)
class Prompt:
    """A sentence and the layer that holds its masks."""

    text: str
    layer_id: int
    object_id: int
    exp_id: str = ""  # of the sentence in the project; "" for none


@dataclass(frozen=True, eq=False)
class Stray:
    """Labels that belong to no project.

    Attributes
    ----------
    name : str
        Of their layer.
    data : array of integers, shape (T, H, W) or (H, W)
        The labels.
    frame : int
        Where labels of one frame belong.
    """

    name: str
    data: Any
    frame: int


@dataclass(frozen=True, slots=True)
class Written:
    """Frames ``start <= t < stop`` of a layer were written by the model, or `count` of them."""

    layer_id: int
    start: int
    stop: int
    count: int


@dataclass(frozen=True, slots=True)
class _Prompted:
    project: Project
    prompts: tuple[Prompt, ...]


@dataclass(frozen=True, slots=True)
class _NextPass:
    """What was only a preview is complete; what is looked for now, by place."""

    places: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Loaded:
    memory: str


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
    #: A model was loaded: the memory that it is expected to need, "" where nothing is known.
    estimated = Signal(str)
    #: Objects are ready to be drawn by hand: the project, and the first of them.
    begun = Signal(object, int)  # Project, int

    def __init__(
        self,
        runner: Runner = run_here,
        load: SegmenterFactory = load_segmenter,
        projects: Projects = open_projects,
    ) -> None:
        self.job = Job(runner)
        self._load = load
        self._projects = projects
        self._segmenter: tuple[tuple[str, str, str], Segmenter] | None = None
        #: No model draws in what runs, or ran last.
        self.by_hand = False
        self._project: Project | None = None
        self._prompts: tuple[Prompt, ...] = ()
        self._frames: dict[int, int] = {}
        self._places: tuple[int, ...] = ()
        self._found: set[int] = set()
        self._several = False  # the model tells instances apart
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
        source, request = inputs.check()
        self._forget(by_hand=False)

        def work(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
            return self._work(source, inputs, request, cancel, report)

        self.job.start(work, self._on_item)

    def begin_by_hand(self, inputs: SegmentInputs) -> None:
        """Make the project, and an object for each sentence, without asking any model.

        Where there is no sentence, one object is made that no sentence means yet.

        Raises
        ------
        InputError
            There is no video; nothing was started.
        """
        source = inputs.check_place()
        self._forget(by_hand=True)

        def work(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
            report(Progress(0, 0, f"Opening {source.name}"))
            with source.open() as video:
                project = self._open(source, inputs, video.info)
            cancel.raise_if_cancelled()
            yield Last(_Prompted(project, _prompts(project, inputs.sentences or ("",))))
            project.flush()

        self.job.start(work, self._on_item)

    def take_over(self, inputs: SegmentInputs, stray: Stray) -> None:
        """Copy somebody else's labels into the video's project: each value is an object.

        Raises
        ------
        InputError
            There is no video; nothing was started.
        """
        source = inputs.check_place()
        self._forget(by_hand=True)

        def work(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
            report(Progress(0, 0, f"Taking over {stray.name}"))
            with source.open() as video:
                info = video.info
            values = _values(stray, info, cancel)
            project = self._open(source, inputs, info)
            yield Last(_Prompted(project, _copy(project, stray, values, cancel)))
            project.flush()

        self.job.start(work, self._on_item)

    def _forget(self, *, by_hand: bool) -> None:
        self._prompts = ()
        self._frames, self._places = {}, ()
        self._found = set()
        self.by_hand = by_hand

    def _open(self, source: VideoSource, inputs: SegmentInputs, video: VideoInfo) -> Project:
        folder = Path(inputs.project) if inputs.project else default_project(source)
        folder.parent.mkdir(parents=True, exist_ok=True)
        return self._projects.ensure(folder, video)

    def _work(
        self,
        source: VideoSource,
        inputs: SegmentInputs,
        request: SegmentRequest,
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
            segmenter = self.segmenter_for(inputs.model.strip(), inputs.device, inputs.memory)
            yield _Loaded(str(getattr(segmenter, "memory_line", "")))
            cancel.raise_if_cancelled()
            project = self._open(source, inputs, video.info)
            prompts = _prompts(project, request.texts)
            self._several = isinstance(segmenter, InstanceSegmenter)
            yield _Prompted(project, prompts)
            for run in inputs.passes(request, segmenter.window_size):
                # What a person removed in the pass before is not looked for again.
                said, rest = project.expressions, _left(project, prompts, self._several)
                worded = {i: said[p.exp_id].text for i, p in rest.items() if p.exp_id in said}
                if not worded:
                    break
                left, run = list(worded), replace(run, texts=tuple(worded.values()))
                yield _NextPass(tuple(left))
                parts = segment_into(project, video, run, segmenter, cancel=cancel, progress=report)
                with closing(parts):
                    for part in parts:
                        place, count = left[part.expression], len(part.masks)
                        if part.masks.any():
                            self._found.add(place)
                        yield Written(prompts[place].layer_id, part.start, part.stop, count)
                        if not _left(project, prompts, self._several):
                            break
                project.flush()

    def segmenter_for(self, model: str, device: str, memory: str = "auto") -> Segmenter:
        """Return a loaded model; call it in a job, never in two at once."""
        key = (model, device, memory)
        if self._segmenter is None or self._segmenter[0] != key:
            self._segmenter = None  # the old one's memory first
            chosen = {} if memory == "auto" else {"memory": memory}
            self._segmenter = (key, self._load(model, device, **chosen))
        return self._segmenter[1]

    def _on_item(self, item: object) -> None:
        if isinstance(item, _Prompted):
            self._project, self._prompts = item.project, item.prompts
            self.prompted.emit(item.project, item.prompts)
        elif isinstance(item, _Loaded):
            self.estimated.emit(item.memory)
        elif isinstance(item, _NextPass):
            self._frames, self._places = {}, item.places
        elif isinstance(item, Written):
            self._frames[item.layer_id] = self._frames.get(item.layer_id, 0) + item.count
            self.written.emit(self._project, item)

    def _on_completed(self) -> None:
        if self.by_hand and self._project is not None:
            self.begun.emit(self._project, self._prompts[0].object_id)
        else:
            self.finished.emit(self._summary())

    def _summary(self) -> str:
        assert self._project is not None
        rest = _left(self._project, self._prompts, self._several)
        left = {i: rest[i] for i in self._places if i in rest}
        if not left:
            return "Stopped: what was looked for was removed."
        drawn = {i: prompt for i, prompt in left.items() if prompt.layer_id in self._frames}
        if not drawn:
            return "Everything was finished already."
        count = len(drawn)
        frames = max(self._frames.values())
        text = (
            f"Done: {count} sentence{'s' * (count != 1)}, {frames} frame{'s' * (frames != 1)} each."
        )
        missed = [prompt.text for i, prompt in drawn.items() if i not in self._found]
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
            with suppress(StorageError):  # it is kept, and tried again
                self._project.flush()
        self._segmenter = None
        return ended


def _frames_of(stray: Stray) -> dict[int, Any]:
    """Return the frames of somebody else's labels, to be read one at a time."""
    if len(stray.data.shape) == 2:
        return {stray.frame: stray.data}
    return {t: stray.data[t] for t in range(stray.data.shape[0])}


def _values(stray: Stray, info: VideoInfo, cancel: CancelToken) -> list[int]:
    """Return the values of somebody else's labels, when they fit the video."""
    shape, size = tuple(stray.data.shape), (info.height, info.width)
    if shape not in (size, (info.frame_count, *size)):
        raise InputError(
            f"{stray.name!r} has the shape {shape} and the video {(info.frame_count, *size)}: only "
            "labels of the same frames, height and width, or of one frame, can be taken over."
        )
    found: set[int] = set()
    for frame in _frames_of(stray).values():
        cancel.raise_if_cancelled()
        found.update(np.unique(np.asarray(frame)).tolist())
        if len(found) > _MOST_VALUES:
            raise InputError(
                f"{stray.name!r} has more than {_MOST_VALUES} values, which would be as many "
                "objects: it seems to be something else."
            )
    found.discard(0)
    if not found:
        raise InputError(f"{stray.name!r} is empty: there is nothing to take over.")
    return sorted(found)


def _copy(
    project: Project, stray: Stray, values: list[int], cancel: CancelToken
) -> tuple[Prompt, ...]:
    """Draw somebody else's labels in a layer of their own, as a person's and as one step."""
    layer_id = project.add_layer(stray.name).id
    names = [stray.name if len(values) == 1 else f"{stray.name} {value}" for value in values]
    ids = np.array([project.add_object(name, layer_id).id for name in names], np.uint16)
    labels = project.labels(layer_id)
    try:
        with project.edit(f"take over {stray.name!r}"):
            for t, frame in _frames_of(stray).items():
                cancel.raise_if_cancelled()
                given = np.asarray(frame)
                if given.any():
                    places = np.searchsorted(values, given).clip(max=len(values) - 1)
                    labels[t] = np.where(given != 0, ids[places], 0)
    except BaseException:
        for object_id in ids.tolist():
            project.remove_object(object_id)
        raise
    return (Prompt("", layer_id, int(ids[0])),)


def _left(project: Project, prompts: tuple[Prompt, ...], several: bool) -> dict[int, Prompt]:
    """Return those of which something is left to be drawn, by place.

    A person may remove their object; of `several` instances the others stay as long as their
    sentence does.
    """
    things, said = project.objects, project.expressions
    return {
        i: prompt
        for i, prompt in enumerate(prompts)
        if prompt.object_id in things or (several and prompt.exp_id in said)
    }


def _prompts(project: Project, texts: tuple[str, ...]) -> tuple[Prompt, ...]:
    """Return a layer and an object for each text; "" is an object without a sentence."""
    found = []
    for text in texts:
        if text:
            said, thing = project.add_prompt(text)
            found.append(Prompt(text, thing.layer, thing.id, said.exp_id))
        else:
            name = f"object {project.next_label}"
            thing = project.add_object(name, project.add_layer(name).id)
            found.append(Prompt(text, thing.layer, thing.id))
    return tuple(found)
