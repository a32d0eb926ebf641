"""Getting a model that is known by name but not on this machine, as a view-model."""

from __future__ import annotations

import enum
from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING

from psygnal import Signal

from flowrvs.checkpoints import MODELS, models_home
from flowrvs.checkpoints.files import folder_bytes, size_text
from flowrvs.checkpoints.registry import is_whole
from flowrvs.progress import CancelToken, Progress, ProgressCallback
from napari_flowrvs.job import Job, Last, Phase, Runner, run_here

if TYPE_CHECKING:
    from flowrvs.checkpoints.fetch import FetchPlan

__all__ = ["ModelPresenter", "Stage", "is_absent"]


class Stage(enum.Enum):
    """What there is to do about the chosen model."""

    NOTHING = "nothing"
    ABSENT = "absent"
    ASKING = "asking"
    PLANNED = "planned"
    FETCHING = "fetching"
    READY = "ready"


def is_absent(name: str) -> bool:
    """Return True for a model that can be fetched and is not here."""
    record = MODELS.get(name.strip())
    return record is not None and record.hub is not None and not is_whole(record.name)


class ModelPresenter:
    """Asks how much there is to fetch, fetches it, and says how it goes.

    Parameters
    ----------
    runner : Runner
        Where the hub is asked.
    """

    #: `stage` or `text` have changed.
    changed = Signal()
    #: Thousandths of the present step, with its bytes in the message.
    progressed = Signal(Progress)
    #: The model of this name is here now.
    installed = Signal(str)

    def __init__(self, runner: Runner = run_here) -> None:
        self.job = Job(runner)
        self.stage = Stage.NOTHING
        self.text = ""
        self._name = ""
        self._wanted = ""
        self._fetched = ""
        self.job.progressed.connect(self._on_progress)
        self.job.phase_changed.connect(self._on_phase)

    @property
    def name(self) -> str:
        """The model that is spoken of."""
        return self._name

    def choose(self, name: str) -> None:
        """Speak of the model `name`, once nothing is being fetched any more."""
        self._wanted = name.strip()
        if not self.job.busy:
            self._name = self._wanted
            self._look()

    def _look(self) -> None:
        if not is_absent(self._name):
            ready = self._name == self._fetched
            if ready:
                self._show(Stage.READY, f"{self._name} is ready.")
            else:
                self._show(Stage.NOTHING, "")
            return
        begun = folder_bytes(models_home() / f".{self._name}.download")
        here = f"; {size_text(begun)} of it are here" if begun else ""
        self._show(Stage.ABSENT, f"{self._name} is not installed{here}.")

    def _show(self, stage: Stage, text: str) -> None:
        self.stage, self.text = stage, text
        self.changed.emit()

    def ask(self) -> None:
        """Ask the hub how much there is to fetch; `stage` becomes PLANNED."""
        name = self._name

        def work(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
            # It imports huggingface_hub, which reads the environment then.
            from flowrvs.checkpoints.fetch import plan_fetch

            report(Progress(0, 0, "Asking the hub for sizes"))
            plan = plan_fetch(name, cancel=cancel)
            plan.check()
            yield Last(plan)

        self._show(Stage.ASKING, f"{name} is not installed.")
        self.job.start(work, self._on_plan)

    def _on_plan(self, item: object) -> None:
        plan: FetchPlan = item  # type: ignore[assignment]
        here = f", {size_text(plan.have)} of which are here" if plan.have else ""
        self._show(
            Stage.PLANNED,
            f"{size_text(plan.download)} to fetch{here}; {size_text(plan.need)} of disk while "
            f"{plan.name} is made, {size_text(plan.result)} afterwards. "
            f"{size_text(plan.free)} are free in {plan.folder.parent}.",
        )

    def decline(self) -> None:
        """Do not fetch what was planned."""
        self._look()

    def fetch(self) -> None:
        """Fetch the model; `stage` is FETCHING until it ends in one way or another."""
        name = self._name

        def work(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
            from flowrvs.checkpoints.fetch import fetch

            yield Last(fetch(name, progress=report, cancel=cancel))

        self._show(Stage.FETCHING, f"Getting {name}")
        self.job.start(work, self._on_fetched)

    def _on_fetched(self, _: object) -> None:
        self._fetched = self._name
        self.installed.emit(self._name)

    def _on_progress(self, event: Progress) -> None:
        if self.job.phase is not Phase.RUNNING:
            return
        if event.total:
            # Bytes of a large model are more than a progress bar can count.
            sizes = f"{size_text(event.done)} of {size_text(event.total)}"
            event = replace(
                event,
                done=int(event.fraction * 1000),
                total=1000,
                message=f"{event.message} ({sizes})",
            )
        self.progressed.emit(event)

    def _on_phase(self, phase: Phase) -> None:
        planned = self.stage is Stage.PLANNED and self._wanted == self._name
        if phase is Phase.IDLE and not planned:
            self.choose(self._wanted)
        elif phase is not Phase.RUNNING:
            self.changed.emit()

    def close(self, timeout: float = 1.0) -> bool:
        """Stop, keeping what has arrived; True when no work is left behind."""
        busy = self.job.busy
        ended = self.job.close(timeout)
        if busy:
            self.choose(self._wanted)
        return ended
