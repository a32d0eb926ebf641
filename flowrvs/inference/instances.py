"""Models that tell instances apart, into projects: an object of each instance of a sentence."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flowrvs.errors import InputError, ProjectError
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock
from flowrvs.protocols import closed, in_turn
from flowrvs.records import InstanceSegmenter, SegmentRequest, TrackedObject, Window, WindowMasks
from flowrvs.store import ObjectRecord, Project

if TYPE_CHECKING:
    from flowrvs.video import Video

__all__ = ["draw_on", "segment_instances"]

_TOGETHER = 64  # empty frames that are written at once


def draw_on(project: Project, object_id: int, draw: Callable[[ObjectRecord], object]) -> None:
    """Have an object drawn where it lives; begin again where a person moves it meanwhile.

    One that a person has removed, or removes meanwhile, is not drawn: what else is drawn goes on.
    """
    while (record := project.objects.get(object_id)) is not None:
        try:
            draw(record)
            return
        except ProjectError:
            if project.objects.get(object_id) == record:
                raise


def segment_instances(
    project: Project,
    video: Video,
    request: SegmentRequest,
    segmenter: InstanceSegmenter,
    *,
    resume: bool = True,
    cancel: CancelToken | None = None,
    progress: ProgressCallback | None = None,
    name: str = "",
) -> Generator[WindowMasks, None, None]:
    """Draw the instances of every sentence into a project, frame by frame.

    The first instance is the sentence's own object (`Project.add_prompt`), every other one a new
    object in its layer; the sentence means all of them. Run again from the same frame on, also by
    other weights, the first, second, … instance gets the object that the first, second, … one had,
    and one that is not found any more is absent; an object that a person took from the sentence is
    not drawn again. A sentence that was stopped begins anew, as its numbers come from the first
    frame on; one that was finished is left alone, unless `resume` is False.

    Parameters
    ----------
    project, video, request, segmenter, resume, cancel, progress
        As for `flowrvs.inference.segment_into`.
    name : str
        Of the video, in messages, where there are several.

    Yields
    ------
    WindowMasks
        What the sentence means on a frame, after it was written.

    Raises
    ------
    InputError
        The model's answers are of another size, or of other frames.
    Cancelled
        `cancel` was set.
    """
    frames = request.frames(len(video))
    clock = ProgressClock(len(frames) * len(request.texts))
    head = f"{name}: " if name else ""
    for index, text in enumerate(request.texts):
        drawing = _Sentence(project, text, segmenter, frames)
        if not drawing.begin(resume):
            clock.done += len(frames)
            drawing.end()
            continue
        try:
            for t, found in _answers(video, segmenter, text, frames, cancel):
                union = drawing.write(t, found)
                last = t == frames[-1]
                if last:
                    drawing.finish()
                if progress is not None:
                    progress(clock.advance(f"{head}{text!r}, frame {t}"))
                window = Window(0, frames.start, frames[-1] + 1)
                yield WindowMasks(index, t, union[None], window, complete=last, step=frames.step)
        finally:
            drawing.end()


def _answers(
    video: Video,
    segmenter: InstanceSegmenter,
    text: str,
    frames: range,
    cancel: CancelToken | None,
) -> Generator[tuple[int, dict[int, TrackedObject]], None, None]:
    """Yield checked answers."""
    token = cancel or CancelToken()
    token.raise_if_cancelled()
    shape = (video.info.height, video.info.width)
    answers = segmenter.find_instances(
        lambda t: video.read(t, t + 1)[0], text, frames, cancel=token
    )
    with closed(in_turn(answers, frames, f"The model {segmenter.name}")) as checked:
        for t, found in checked:
            for instance in found.values():
                if np.shape(instance.logits) != shape:
                    raise InputError(
                        f"The model {segmenter.name} gave logits of shape "
                        f"{np.shape(instance.logits)}, not {shape}."
                    )
            yield t, found
            token.raise_if_cancelled()


class _Sentence:
    """The objects of one sentence, while they are drawn."""

    def __init__(
        self, project: Project, text: str, segmenter: InstanceSegmenter, frames: range
    ) -> None:
        self._project, self._text, self._frames = project, text, frames
        self._expression, self._first = project.add_prompt(text)
        self._layer = self._first.layer
        self._key = {
            "text": text,
            "model": segmenter.name,
            "weights": getattr(segmenter, "weights", ""),
            "range": [frames.start, frames[-1] + 1],
        }
        if frames.step > 1:
            self._key["every"] = frames.step
        self._objects: dict[int, int] = {}  # place in the order of appearance: object
        self._places: dict[int, int] = {}  # the model's number: place
        self._runs: list[str] = []
        # By place, of the last run that counted from the same frame, whatever its weights; but for
        # what a person took from the sentence.
        self._known = {
            run.key["instance"]: run.object_id
            for run in project.runs.values()
            if type(run.key.get("instance")) is int
            and (run.key.get("text"), *run.key.get("range", ())[:1]) == (text, frames.start)
            and run.object_id in self._expression.object_ids - {self._first.id}
        }

    def begin(self, resume: bool) -> bool:
        """Begin with the sentence's own object; False where all is finished."""
        done = self._open(0, self._first.id, resume)
        return not done

    def _open(self, place: int, object_id: int, resume: bool) -> bool:
        run = self._project.begin_run(self._key | {"instance": place}, object_id, resume=resume)
        self._objects[place] = object_id
        if run.id not in self._runs:
            self._runs.append(run.id)
        return bool(run.done)

    def write(self, t: int, found: dict[int, TrackedObject]) -> Any:
        """Write a frame of all objects; return what they cover together."""
        for number in sorted(found):
            if number not in self._places:
                self._places[number] = len(self._places)
                if self._places[number] not in self._objects:
                    self._add(self._places[number], t)
        by_place = {self._places[number]: instance.mask for number, instance in found.items()}
        video = self._project.video
        union = np.zeros((video.height, video.width), bool)
        for place, object_id in self._objects.items():
            mask = by_place.get(place, np.zeros_like(union))
            union |= mask
            draw_on(self._project, object_id, partial(self._draw, t, mask[None]))
        return union

    def _draw(self, t: int, masks: npt.NDArray[np.bool_], record: ObjectRecord) -> None:
        self._project.write_model(record.layer, record.id, t, masks)

    def _add(self, place: int, t: int) -> None:
        """Have an object for an instance that was not seen before."""
        project = self._project
        object_id = self._known.get(place)
        if object_id is None:
            if self._layer not in project.layers:  # it went with what a person removed
                self._layer = project.add_layer(self._text).id
            object_id = project.add_object(f"{self._text} {place + 1}", self._layer).id
        expression = project.expressions.get(self._expression.exp_id)  # it may be removed, too
        if expression is not None and object_id not in expression.object_ids:
            meant = expression.object_ids | {object_id}
            project.set_expression_objects(expression.exp_id, meant)
        self._open(place, object_id, False)
        if self._frames.step == 1 or place in self._known:
            self._blank(object_id, [n for n in self._frames if n < t])

    def _blank(self, object_id: int, frames: list[int]) -> None:
        """Have an object absent on frames, but for a person's."""
        project, video = self._project, self._project.video
        together = _TOGETHER if self._frames.step == 1 else 1
        for n in range(0, len(frames), together):
            part = frames[n : n + together]
            empty = np.zeros((len(part), video.height, video.width), bool)
            draw_on(project, object_id, partial(self._draw, part[0], empty))

    def finish(self) -> None:
        """Note that the whole range is done; what other weights found and these did not is gone."""
        said = self._project.expressions.get(self._expression.exp_id)
        for place, object_id in self._known.items():
            if place not in self._objects and said is not None and object_id in said.object_ids:
                self._open(place, object_id, False)
                self._blank(object_id, list(self._frames))
        for run_id in self._runs:
            self._project.mark_window_done(run_id, 0)

    def end(self) -> None:
        """End the runs, whether or not they are finished."""
        for object_id in self._objects.values():
            self._project.end_run(object_id)
