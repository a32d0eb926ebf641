"""What every training on real data begins and ends with: folder, device, model; result, card."""

from __future__ import annotations

import datetime
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from accelerate import Accelerator

from flowrvs import __version__
from flowrvs.errors import Cancelled, InputError, TrainingError
from flowrvs.models.devices import choose_device
from flowrvs.pipelines import FlowRVSPipeline
from flowrvs.progress import CancelToken, ProgressCallback
from flowrvs.training.config import CommonConfig
from flowrvs.training.dataset import hash_of
from flowrvs.training.engine import Engine, Trainee, make_accelerator, merit_of
from flowrvs.training.models import open_model
from flowrvs.training.setup import PreparedData

__all__ = ["RunOptions", "Trained", "TrainingRun", "choose_precision"]


@dataclass(frozen=True, slots=True)
class Trained:
    """What came out of a training.

    Attributes
    ----------
    folder : Path
        ``<out>/model`` or ``<out>/lora``.
    steps : int
        At which the weights were taken.
    scores : dict of str to float
        ``J``, ``F``, ``J&F`` on held-out videos; empty where none were held out.
    card : dict
        As written to ``training.json``.
    """

    folder: Path
    steps: int
    scores: dict[str, float]
    card: dict[str, Any]


class RunOptions(TypedDict, total=False):
    """What `train_flow` and `train_decoder` take beside data and options.

    Attributes
    ----------
    name : str
        Name of the result, the provenance of its masks; that of the folder by default.
    device : str
        ``"auto"`` (the default), ``"cpu"``, ``"cuda"``, …
    resume : bool
        Go on from the newest checkpoint in the folder.
    tensorboard : bool
        Write events for TensorBoard, too.
    progress : callable
        Receives a `Progress` at every step.
    cancel : CancelToken
        Checked at every step; the state is saved before `Cancelled` is raised.
    """

    name: str | None
    device: str
    resume: bool
    tensorboard: bool
    progress: ProgressCallback | None
    cancel: CancelToken | None


class TrainingRun:
    """A training about to run: its folder is free, its model is open, its devices are known.

    Parameters
    ----------
    stage : str
        "flow" or "decoder".
    model : str or path-like
        See `flowrvs.training.models.open_model`.
    out : path-like
        Folder of checkpoints and log.
    config : CommonConfig
    **options
        See `RunOptions`.

    Attributes
    ----------
    base : Path
        The model's folder.
    pipeline : FlowRVSPipeline
        The model, on the CPU.
    accelerator : Accelerator
    dtype : torch.dtype
        Of the weights.
    """

    def __init__(
        self,
        stage: str,
        model: str | Path,
        out: str | Path,
        config: CommonConfig,
        **options: Unpack[RunOptions],
    ) -> None:
        self.stage, self.config, self.out = stage, config, Path(out).expanduser()
        self.name = options.get("name") or self.out.absolute().name
        self.resume, self.tensorboard = (
            options.get("resume", False),
            options.get("tensorboard", False),
        )
        self.progress, self.cancel = options.get("progress"), options.get("cancel")
        device = options.get("device", "auto")
        choose_device(device)  # accelerate takes any name for the first device that there is
        _prepare_folder(self.out, self.resume)
        self.precision = choose_precision(config.precision, device)
        self.dtype = torch.bfloat16 if self.precision == "bfloat16" else torch.float32
        self.accelerator: Accelerator = make_accelerator(self.precision, device)
        self.base: Path
        self.pipeline: FlowRVSPipeline
        self.base, self.pipeline = open_model(model, self.dtype)

    def train(
        self, trainee: Trainee, dataset: Any, data: PreparedData, *, improving: bool = False
    ) -> tuple[Any, dict[str, torch.Tensor], dict[str, Any]]:
        """Train to the end.

        Parameters
        ----------
        trainee : Trainee
        dataset : map-style dataset
            From a sample's number to a sample.
        data : PreparedData
        improving : bool
            When cancelled, go on with the best state so far if a validation found one; refuse a
            result that is no better than the model was, and keep nothing of it.

        Returns
        -------
        module
            What was trained, as it was before accelerate wrapped it.
        dict of str to Tensor
            The weights that come out, by name.
        dict
            The result's card.
        """
        engine = Engine(
            trainee,
            dataset,
            data.train.epoch_length,
            self.config,
            self.out,
            self.accelerator,
            identity={
                "stage": self.stage,
                "data": data.identity,
                "sentences": hash_of(sorted(data.texts())),  # their order follows from paths
                "precision": self.precision,
            },
            tensorboard=self.tensorboard,
            progress=self.progress,
            cancel=self.cancel,
        )
        if self.resume:
            engine.resume()
        try:
            engine.run()
        except Cancelled:
            best = engine.checkpoints.load_best()
            if not improving or best is None or best[1]["step"] == 0:
                raise
        weights, facts = engine.result()
        if before := engine.monitor.before:
            if improving and merit_of(facts) <= merit_of(before):
                shutil.rmtree(engine.checkpoints.folder, ignore_errors=True)
                raise TrainingError(
                    f"It did not help: no state scored higher on held-out videos than the model "
                    f"as it was (J&F {before['J&F']:.3f}); nothing was kept. More clips help more "
                    "than time."
                )
            facts = facts | {"before": before}
        card = {
            "name": self.name,
            "stage": self.stage,
            "base": str(self.base),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "flowrvs": __version__,
            **data.card(),
            **facts,
        }
        return self.accelerator.unwrap_model(engine.module), weights, card

    def trained(self, folder: Path, card: dict[str, Any]) -> Trained:
        """Wait until the result is written, and say what it is."""
        self.accelerator.wait_for_everyone()
        scores = {k: float(v) for k, v in card.items() if k in ("J", "F") or k.endswith("J&F")}
        return Trained(folder, int(card["step"]), scores, card)


def _prepare_folder(out: Path, resume: bool) -> None:
    """Refuse a folder that holds another training, or none that could go on.

    Raises
    ------
    InputError
        It holds checkpoints or a result already, or no checkpoint to resume.
    """
    begun = any((out / "checkpoints").glob("step-*"))
    done = any((out / name).exists() for name in ("model", "lora"))
    if begun and not resume:
        raise InputError(f"{out} holds a training already; give --resume or another --out.")
    if done and not begun:
        raise InputError(f"{out} holds the result of a training already; give another --out.")
    if resume and not begun:  # told before minutes of preparing
        raise InputError(f"Nothing to resume: there is no checkpoint in {out}; leave out --resume.")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder.")
    if not resume:
        (out / "best.safetensors").unlink(missing_ok=True)
        (out / "log.jsonl").unlink(missing_ok=True)


def choose_precision(precision: str, device: str) -> str:
    """Return "bfloat16", "mixed" or "float32" for "auto"."""
    if precision != "auto":
        return precision
    cuda = device != "cpu" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return "bfloat16" if cuda else "float32"
