"""The loop that all trainings on real data run in: steps, averages, checkpoints, validation.

It is accelerate's: one process, several devices, several machines, by ``accelerate launch``.
Which samples a step sees, and their noise, follow from the step alone, so a training that was
killed and resumed is the one that was not.
"""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import signal
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader

from flowrvs.disk import free_bytes
from flowrvs.errors import (
    Cancelled,
    DeviceMemoryError,
    FlowRVSError,
    InputError,
    StorageError,
    TrainingError,
)
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock
from flowrvs.training.checkpoints import Checkpoints
from flowrvs.training.config import CommonConfig
from flowrvs.training.dataset import SampleNumbers
from flowrvs.training.journal import Journal
from flowrvs.training.optimizers import make_optimizers

__all__ = ["Engine", "Monitor", "Trainee", "make_accelerator", "merit_of", "rate_factor"]

_SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)
#: How processes start that share nothing with this one.
_FRESH = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


class Trainee(Protocol):
    """What is trained, and how its loss comes about.

    Attributes
    ----------
    module : torch.nn.Module
        Its parameters with ``requires_grad`` are trained.
    """

    module: torch.nn.Module

    def groups(self, samples: Sequence[Any]) -> list[Any]:
        """Put samples together that can be computed at once; each has a length."""
        ...

    def loss(self, module: torch.nn.Module, group: Any) -> torch.Tensor:
        """Return the mean loss of a group, computed through `module`."""
        ...

    def validate(self, module: torch.nn.Module) -> dict[str, float]:
        """Score held-out clips; empty where there are none."""
        ...


@dataclasses.dataclass
class Monitor:
    """Watches the loss for spikes.

    Attributes
    ----------
    smoothed, lowest : float or None
        The loss, exponentially smoothed, and its lowest value after the first hundred steps.
    count : int
        Steps seen.
    best : float
        Best validation so far.
    scores : dict
        Of the last validation.
    before : dict
        Before the first step, if asked for.
    """

    smoothed: float | None = None
    lowest: float | None = None
    count: int = 0
    best: float = -1.0
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    before: dict[str, float] = dataclasses.field(default_factory=dict)

    def spikes(self, loss: float, factor: float) -> bool:
        """Take a loss in; say whether the smoothed loss is `factor` times its lowest."""
        self.count += 1
        self.smoothed = loss if self.smoothed is None else 0.95 * self.smoothed + 0.05 * loss
        if self.count >= 100:
            self.lowest = min(self.smoothed, math.inf if self.lowest is None else self.lowest)
        return factor > 0 and self.lowest is not None and self.smoothed > factor * self.lowest


def make_accelerator(precision: str, device: str) -> Accelerator:
    """Return accelerate's view of the devices.

    Parameters
    ----------
    precision : {"mixed", "bfloat16", "float32"}
        Only "mixed" lets accelerate cast; bfloat16 weights need no casting.
    device : str
        ``"auto"``, ``"cpu"`` or a GPU.
    """
    if PartialState._shared_state and PartialState().num_processes == 1:
        # accelerate keeps one state per process; a second training may want another.
        AcceleratorState._reset_state(reset_partial_state=True)
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)
    return Accelerator(
        cpu=device == "cpu", mixed_precision="bf16" if precision == "mixed" else "no"
    )


def rate_factor(config: CommonConfig, step: int, epoch: int, total: int) -> float:
    """Return what a step's rates are of the chosen ones: warm-up, milestones, a fall to zero."""
    factor = config.gamma ** sum(m <= epoch for m in config.milestones)
    if config.cooldown:
        factor *= min(1.0, (total - step) / (config.cooldown * total))
    return factor * min(1.0, (step + 1) / config.warmup) if config.warmup else factor


def merit_of(scores: Mapping[str, float]) -> float:
    """Return the mean of all J&F: what was known before counts as much as what is learned."""
    merits = [value for name, value in scores.items() if name.endswith("J&F")]
    return sum(merits) / len(merits)


class Engine:
    """Trains a `Trainee` on samples by number.

    Parameters
    ----------
    trainee : Trainee
    dataset : map-style dataset
        From a sample's number to a sample.
    epoch_length : int
        Samples of a pass.
    config : CommonConfig
    out : Path
        Folder of checkpoints and log.
    accelerator : Accelerator
    identity : dict
        What a resumed training must have in common with the one before, beside the config.
    tensorboard : bool
    progress, cancel
        See `flowrvs.progress`.
    """

    def __init__(
        self,
        trainee: Trainee,
        dataset: Any,
        epoch_length: int,
        config: CommonConfig,
        out: Path,
        accelerator: Accelerator,
        *,
        identity: dict[str, Any],
        tensorboard: bool = False,
        progress: ProgressCallback | None = None,
        cancel: CancelToken | None = None,
    ) -> None:
        self.trainee, self.dataset, self.config, self.out = trainee, dataset, config, out
        self.accelerator = accelerator
        self.progress = progress
        self.cancel = cancel or CancelToken()
        self.batch = config.batch_size * accelerator.num_processes
        self.steps_per_epoch = max(1, epoch_length // self.batch)
        self.total = self.steps_per_epoch * config.epochs
        if config.max_steps:
            self.total = min(self.total, config.max_steps)
        named = [(n, p) for n, p in trainee.module.named_parameters() if p.requires_grad]
        if not named:
            raise InputError("Nothing is to be trained: no weights were chosen.")
        self.names = [name for name, _ in named]
        if config.matrix_learning_rate and accelerator.distributed_type in _SHARDED:
            raise InputError(
                "Muon needs whole matrices: no matrix_learning_rate with FSDP, DeepSpeed."
            )
        made = make_optimizers(
            named,
            config.learning_rate,
            matrix_rate=config.matrix_learning_rate,
            word_rate=config.word_learning_rate,
            weight_decay=config.weight_decay,
        )
        prepared = accelerator.prepare(trainee.module, *(optimizer for optimizer, _ in made))
        self.module, self.optimizers = prepared[0], list(prepared[1:])
        self.rates = [rate for _, rate in made]
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        self.ema: EMAModel | None = None
        if config.ema_decay > 0:
            self.ema = EMAModel(self.parameters, decay=config.ema_decay)
            self.ema.shadow_params = [p.float() for p in self.ema.shadow_params]
        self.monitor = Monitor()
        self.step = 0
        self._due = config.validate_first  # a validation of the step that it is at
        self._spent = 0.0  # seconds, of the runs before
        self._began = time.monotonic()
        self._paced = (0, 0.0)  # step and seconds at which the pace was last measured
        self.checkpoints = Checkpoints(
            out,
            accelerator,
            self.names,
            identity | {"config": _lasting(config, self.batch)},
            defaults={"config": _lasting(type(config)(), self.batch)},
            keep=config.keep,
        )
        self.journal: Journal | None = None
        if accelerator.is_main_process:
            self.journal = Journal(out, tensorboard=tensorboard)

    # -- running -------------------------------------------------------------------------

    def resume(self) -> None:
        """Go on from the newest checkpoint.

        Raises
        ------
        CheckpointError
            There is none, or it belongs to a training with other options or data.
        DeviceMemoryError
            The device is too small.
        """
        with _memory_in_words():
            extra = self.checkpoints.load(self.ema)
        self.step = int(extra["step"])
        self.monitor = Monitor(**extra["monitor"])
        self._due = bool(extra.get("due"))
        if self.config.minutes:
            self.total = int(extra.get("total", self.total))  # of a time without `minutes`
            self._spent = float(extra.get("seconds", 0))
        if self.journal is not None:
            self.journal.rewind(self.step)

    def run(self) -> None:
        """Train to the end.

        Raises
        ------
        Cancelled
            On request; the state is saved.
        TrainingError
            The loss is not finite any more, or spiked; the last good state is on disk.
        StorageError
            The disk has no room for checkpoints.
        DeviceMemoryError
            The device is too small.
        """
        self._check_room()
        self._began = time.monotonic()
        self._paced = (self.step, self._seconds())
        clock = ProgressClock(self.total, self.step)
        self.module.train()
        try:
            with _memory_in_words():
                if self._due:
                    self._check_cancelled()
                    self.validate()
                    if self.step == 0:
                        self.monitor.before = self.monitor.scores
                for samples in self._loader():
                    for sample in samples:
                        if isinstance(sample, FlowRVSError):
                            self._save_alone()
                            raise sample
                    self._check_cancelled()
                    loss = self._train_step(samples)
                    self.step += 1
                    self._after_step(loss, clock)
                    if self.step >= self.total:
                        break
        except (FlowRVSError, KeyboardInterrupt) as stop:
            if self._due:  # the validation is made when this goes on
                self._save_alone(also_first=isinstance(stop, (Cancelled, KeyboardInterrupt)))
                if isinstance(stop, Cancelled):
                    raise Cancelled(f"Stopped at step {self.step}; go on with --resume.") from None
            raise
        finally:
            if self.journal is not None:
                self.journal.close()
        self.accelerator.wait_for_everyone()

    def _loader(self) -> Iterator[Sequence[Any]]:
        config, accelerator = self.config, self.accelerator
        changes = config.minutes > 0 and self.step < self.total
        numbers = SampleNumbers(
            self.step,
            2**62 if changes else self.total,
            config.batch_size,
            accelerator.process_index,
            accelerator.num_processes,
        )
        # Fresh processes, not forks: readers of projects and videos have threads of their own.
        loader = DataLoader(
            _Told(self.dataset),
            batch_sampler=numbers,
            num_workers=config.workers,
            collate_fn=list,
            multiprocessing_context=_FRESH if config.workers else None,
            worker_init_fn=_ignore_interrupts,
            persistent_workers=False,
        )
        try:
            yield from loader
        except (RuntimeError, ConnectionError, EOFError) as error:
            # Found dead, or it died while it handed a clip over. An error inside is neither.
            gone = not isinstance(error, RuntimeError) or "DataLoader worker (pid" in str(error)
            if not gone or "in DataLoader worker process" in str(error):
                raise
            if self.cancel.cancelled:  # before it could ignore that
                self._check_cancelled()
            self._save_alone()
            raise TrainingError(
                f"A process that reads clips has ended at step {self.step}, which a full memory "
                f"does; the state is in {self.checkpoints.newest()}: give fewer workers, then "
                "--resume."
            ) from error

    def _train_step(self, samples: Sequence[Any]) -> float:
        epoch = self.step // self.steps_per_epoch
        factor = rate_factor(self.config, self.step, epoch, self.total)
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.zero_grad()
        groups = self.trainee.groups(samples)
        total = torch.zeros((), device=self.accelerator.device)
        for place, group in enumerate(groups):
            last = place == len(groups) - 1
            # Gradients travel between processes once a step.
            with nullcontext() if last else self.accelerator.no_sync(self.module):
                loss = self.trainee.loss(self.module, group) * (len(group) / len(samples))
                self.accelerator.backward(loss)
            total += loss.detach().float()
        total = self.accelerator.reduce(total, "mean")
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.config.clip_norm)
        loss_value, norm_value = float(total), float(norm)
        if not (math.isfinite(loss_value) and math.isfinite(norm_value)):
            if self.step:  # of the first step there is nothing to keep
                self.save()
            raise TrainingError(
                f"The loss is {loss_value:g} (gradient {norm_value:g}) at step {self.step + 1}: "
                f"stopped; {self._last_good()}. Lower the learning rate, or use precision = "
                "'mixed'."
            )
        for optimizer in self.optimizers:
            optimizer.step()
        if self.ema is not None:
            self.ema.step(self.parameters)
        if self.journal is not None:
            self.journal.add(loss=loss_value, norm=norm_value)
        return loss_value

    def _after_step(self, loss: float, clock: ProgressClock) -> None:
        config, last = self.config, self.step == self.total
        if self.monitor.spikes(loss, config.spike_factor):
            raise TrainingError(
                f"The loss rose to {self.monitor.smoothed:.3g} from {self.monitor.lowest:.3g} at "
                f"step {self.step}: stopped; {self._last_good()}. Lower the learning rate, then "
                "--resume."
            )
        event = clock.advance()
        if self.journal is not None and (self.step % config.log_every == 0 or last):
            self.journal.report(
                step=self.step,
                total=self.total,
                epoch=round(self.step / self.steps_per_epoch, 3),
                rate=self.optimizers[0].param_groups[0]["lr"],
                remaining=round(event.remaining or 0.0, 1),
            )
        if self.step % config.validate_every == 0 or last:
            self.validate()
            if config.minutes and not last:
                self._fit_time(clock)
        if self.step % config.save_every == 0 or last:
            self.save()
        if self.progress is not None and self.accelerator.is_main_process:
            score = self.monitor.scores.get("J&F")
            known = "" if score is None else f", J&F {score:.3f}"
            said = f"step {self.step}, loss {self.monitor.smoothed:.4g}{known}"
            self.progress(dataclasses.replace(event, message=said))

    def _seconds(self) -> float:
        return self._spent + time.monotonic() - self._began

    def _fit_time(self, clock: ProgressClock) -> None:
        """Set the number of steps to what fits into the time, by the pace since the last time.

        So it takes what it may on a machine that is busier, or less busy, than when it was planned.
        """
        step, before = self._paced
        now = self._seconds()
        self._paced = (self.step, now)
        more = (60 * self.config.minutes - now) * (self.step - step) / (now - before)
        if self.accelerator.num_processes > 1:  # all have to stop at the same step
            here = torch.tensor(more, device=self.accelerator.device)
            more = float(self.accelerator.reduce(here, "mean"))
        self.total = clock.total = self.step + max(1, int(more))

    def validate(self) -> None:
        """Score the averaged weights on held-out clips, and keep them if they are the best."""
        self._due = True
        with self.averaged():
            self.module.eval()
            try:
                scores = self.trainee.validate(self.accelerator.unwrap_model(self.module))
            finally:
                self.module.train()
            self._due = False
            if not scores:
                return
            self.monitor.scores = scores
            merit = merit_of(scores)
            if merit > self.monitor.best - self.config.best_tolerance:
                self.monitor.best = max(merit, self.monitor.best)
                self.checkpoints.save_best(self.weights(), self.step, scores)
        if self.journal is not None:
            self.journal.report(step=self.step, **scores)

    # -- weights -------------------------------------------------------------------------

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the trained weights by name, on the CPU."""
        state = self.accelerator.get_state_dict(self.module)
        return {
            name: state[name].detach().cpu().clone(memory_format=torch.contiguous_format)
            for name in self.names
        }

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averaged weights in place for a while."""
        if self.ema is None:
            yield
            return
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        try:
            yield
        finally:
            self.ema.restore(self.parameters)

    def result(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return the weights that come out, and what is known of them.

        The best on held-out clips where there are any and ``keep_best`` is on, else the
        averaged ones of the last step.
        """
        best = self.checkpoints.load_best() if self.config.keep_best else None
        if best is not None:
            return best
        with self.averaged():
            return self.weights(), {"step": self.step, **self.monitor.scores}

    def save(self) -> None:
        """Write a checkpoint."""
        extra = {
            "step": self.step,
            "due": self._due,
            "total": self.total,
            "seconds": self._seconds(),
            "monitor": dataclasses.asdict(self.monitor),
        }
        self.checkpoints.save(self.step, self.ema, extra)

    def _last_good(self) -> str:
        where = self.checkpoints.newest()
        return f"the last good state is in {where}" if where else "there is no checkpoint yet"

    def _save_alone(self, *, also_first: bool = False) -> None:
        """Write a checkpoint before an error of this process; several would have to do it at once.

        After an error one of the first step would only be in the way of another try.
        """
        if (self.step or also_first) and self.accelerator.num_processes == 1:
            self.save()

    def _check_cancelled(self) -> None:
        """Stop where this or another process was asked to."""
        asked = self.cancel.cancelled
        if self.accelerator.num_processes > 1:
            flag = torch.tensor(float(asked), device=self.accelerator.device)
            asked = float(self.accelerator.reduce(flag, "sum")) > 0
        if asked:
            self.save()
            raise Cancelled(f"Stopped at step {self.step}; go on with --resume.")

    def _check_room(self) -> None:
        """Refuse to begin what the disk cannot hold."""
        size = sum(p.numel() * (3 * p.element_size() + 4) for p in self.parameters)
        needed = size * (self.config.keep + 1) + 2**24
        free = free_bytes(self.out)
        if free < needed:
            raise StorageError(
                f"Checkpoints need {needed / 1e9:.1f} GB, {self.out} has {free / 1e9:.1f} GB free; "
                "free some space, or keep fewer (keep = 1)."
            )


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C in a terminal is for all its processes; those that read clips end with the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Told:
    """A dataset that hands its errors on: a worker would wrap them into a traceback's text."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, number: int) -> Any:
        try:
            return self.dataset[number]
        except FlowRVSError as error:
            return error


#: Options that may change between a training and its resumption.
_CHANGEABLE = frozenset(
    "epochs max_steps minutes workers save_every keep log_every validate_every keep_best "
    "spike_factor validate_first best_tolerance learning_rate cooldown milestones gamma warmup "
    "clip_norm".split()
)


def _lasting(config: CommonConfig, batch: int) -> dict[str, Any]:
    """What must not change; of clips a step those of all processes, whoever reads them."""
    values = dataclasses.asdict(config) | {"batch_size": batch}
    return {key: value for key, value in values.items() if key not in _CHANGEABLE}


@contextmanager
def _memory_in_words() -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
            yield
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryError(
            "The device ran out of memory: use --lora RANK, --cache DIR, gradient_checkpointing, "
            "fewer frames or a smaller short_side."
        ) from error
