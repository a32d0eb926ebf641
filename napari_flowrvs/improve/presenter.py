"""A model that learns from corrections in a process of its own, as a view-model."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psygnal import Signal

from flowrvs.errors import InputError
from flowrvs.progress import CancelToken, Progress, ProgressCallback
from flowrvs.training.background import BackgroundTraining, TrainingState, plan_in_process
from napari_flowrvs.job import Job, Runner, run_here

__all__ = ["ImproveInputs", "ImprovePresenter", "plan_text", "result_text"]


@dataclass(frozen=True, slots=True)
class ImproveInputs:
    """What the form holds.

    Attributes
    ----------
    data : tuple of str
        Projects, folders of projects, datasets.
    name : str
        Of the result.
    model : str
        To start from; "auto" is the official one on a GPU, else the bundled one.
    minutes : float
        How long it may train.
    max_steps : int
        Steps, instead of a time.
    """

    data: tuple[str, ...]
    name: str
    model: str = "auto"
    minutes: float = 20.0
    max_steps: int = 0


class ImprovePresenter:
    """Counts what would be used, starts the training, and says how it stands.

    Parameters
    ----------
    runner : Runner
        Where counting is waited for.
    home : Path, optional
        Folder of models.
    """

    #: What would be used: the attributes of an `Improvement`.
    counted = Signal(dict)
    #: How the training stands has changed.
    changed = Signal(TrainingState)
    #: A model of this name has come out.
    finished = Signal(str)

    def __init__(self, runner: Runner = run_here, home: Path | None = None) -> None:
        self.job = Job(runner)
        self.state = TrainingState()
        self._home = home
        self._training: BackgroundTraining | None = None

    # -- before --------------------------------------------------------------------------

    def count(self, inputs: ImproveInputs) -> None:
        """Start to count; what was being counted is dropped.

        Raises
        ------
        InputError
            There is no data.
        """
        if not inputs.data:
            raise InputError("There is no data: choose a project or the folder of a dataset.")
        if self.job.busy:
            self.job.close(1.0)

        def work(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
            report(Progress(0, 0, "Counting what can be used"))
            yield plan_in_process(
                inputs.data, model=inputs.model, minutes=inputs.minutes, cancel=cancel
            )

        self.job.start(work, self._on_counted)

    def _on_counted(self, plan: object) -> None:
        assert isinstance(plan, dict)
        self.counted.emit(plan)

    def free_name(self, stem: str = "improved") -> str:
        """Return a name that no model and no training has."""
        taken = {training.name for training in BackgroundTraining.found(self._home)}
        number = 1
        while True:
            name = stem if number == 1 else f"{stem}-{number}"
            place = BackgroundTraining(name, self._home)
            if name not in taken and not place.target.exists():
                return name
            number += 1

    # -- the training --------------------------------------------------------------------

    def names(self) -> list[str]:
        """Return the trainings there are, the one begun last first."""
        return [training.name for training in BackgroundTraining.found(self._home)]

    def choose(self, name: str) -> None:
        """Speak of the training `name`; "" of none."""
        if name and self._training is not None and self._training.name == name:
            return  # it knows its process
        self._training = BackgroundTraining(name, self._home) if name else None
        self.state = TrainingState()
        self.look()

    @property
    def name(self) -> str:
        """The training that is spoken of; "" where there is none."""
        return "" if self._training is None else self._training.name

    def begin(self, inputs: ImproveInputs) -> None:
        """Start a training of its own process; it is the one that is spoken of then.

        Raises
        ------
        InputError
            No data, no name or one that is taken, or another training runs.
        StorageError
            The folder of models cannot be written.
        """
        if not inputs.data:
            raise InputError("There is no data: choose a project or the folder of a dataset.")
        for other in BackgroundTraining.found(self._home):
            if other.look().active:
                raise InputError(f"{other.name} is being trained: wait for it, or stop it.")
        training = BackgroundTraining(inputs.name.strip(), self._home)
        training.begin(
            inputs.data, model=inputs.model, minutes=inputs.minutes, max_steps=inputs.max_steps
        )
        self._training = training
        self.look()

    def go_on(self) -> None:
        """Go on with a training that was stopped, with what it was begun with."""
        training, plan = self._training, self.state.plan
        if training is None or plan is None or not plan.get("data"):
            raise InputError("There is no training to go on with.")
        training.begin(tuple(plan["data"]), model=str(plan["model"]), resume=True)
        self.look()

    def stop(self) -> None:
        """Ask the training to stop; the best state so far comes out."""
        if self._training is not None:
            self._training.cancel()
            self.changed.emit(self.state)

    @property
    def stopping(self) -> bool:
        """Whether the training was asked to stop and still runs."""
        return self._training is not None and self.state.active and self._training.stopping

    def look(self) -> None:
        """See how the training stands; to be called every second while anybody looks."""
        before = self.state
        self.state = TrainingState() if self._training is None else self._training.look()
        if self.state != before:
            self.changed.emit(self.state)
        if before.active and self.state.phase == "finished":
            self.finished.emit(self.name)

    def close(self, timeout: float = 5.0) -> bool:
        """Stop counting; a training goes on, it needs nobody."""
        return self.job.close(timeout)


def plan_text(plan: dict[str, Any]) -> str:
    """Return what would be used and what it takes, for a person."""
    left_out = ", ".join(f"{count} {why}" for why, count in plan["left_out"].items())
    names = ", ".join(Path(path).name for path in plan.get("data", ()))
    lines = [f"{names}:"] if names else []
    lines += [
        f"{plan['frames']} masks of {plan['objects']} objects and {plan['sentences']} sentences in "
        f"{plan['videos']} videos to learn from.",
        f"{plan['held_out_videos']} videos ({plan['held_out_sentences']} sentences) are kept apart "
        "and scored."
        if plan["held_out_videos"]
        else "Nothing is kept apart to be scored: that takes two videos at least.",
    ]
    if left_out:
        lines.append(f"Left out: {left_out}.")
    lines.append(
        f"From {Path(plan['model']).name}: {plan['steps']} steps in about "
        f"{max(1, round(plan['seconds'] / 60))} min (a step was timed here), "
        f"{plan['memory'] / 1e9:.1f} GB (reckoned from the model's size)."
    )
    if plan["note"]:
        lines.append(str(plan["note"]))
    return "\n".join(lines)


def result_text(name: str, card: dict[str, Any]) -> str:
    """Return what came out, for a person."""
    before = card.get("before") if isinstance(card.get("before"), dict) else {}
    assert isinstance(before, dict)
    parts = []
    for key, what in (("J&F", "your clips"), ("old J&F", "what it knew")):
        if isinstance(card.get(key), float):
            first = f"{before[key]:.3f} to " if isinstance(before.get(key), float) else ""
            parts.append(f"{first}{card[key]:.3f} on {what}")
    told = f"J&F {', '.join(parts)}, held out. " if parts else ""
    return (
        f"{name} is ready: {told}Learned from {Path(str(card.get('base'))).name} in "
        f"{card.get('step')} steps on {card.get('samples')} samples, "
        f"{str(card.get('date'))[:10]}. Choose it on the page Find."
    )
