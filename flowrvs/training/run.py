"""What every training on real data begins and ends with: folder, device, model; result, card."""

from __future__ import annotations

import datetime
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from flowrvs import __version__
from flowrvs.errors import Cancelled, InputError, TrainingError
from flowrvs.pipelines import FlowRVSPipeline
from flowrvs.progress import CancelToken, ProgressCallback
from flowrvs.training.config import CommonConfig
from flowrvs.training.engine import Engine, Trainee, make_accelerator
from flowrvs.training.models import open_model
from flowrvs.training.setup import PreparedData

__all__ = ["Trained", "TrainingRun", "choose_precision"]


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
    name : str, optional
        Name of the result; that of the folder by default.
    device : str
    resume : bool
    tensorboard : bool
    progress, cancel
        See `flowrvs.progress`.

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
        *,
        name: str | None = None,
        device: str = "auto",
        resume: bool = False,
        tensorboard: bool = False,
        progress: ProgressCallback | None = None,
        cancel: CancelToken | None = None,
    ) -> None:
        self.stage, self.config, self.out = stage, config, Path(out).expanduser()
        self.name = name or self.out.absolute().name
        self.resume, self.tensorboard = resume, tensorboard
        self.progress, self.cancel = progress, cancel
        _prepare_folder(self.out, resume)
        self.precision = choose_precision(config.precision, device)
        self.dtype = torch.bfloat16 if self.precision == "bfloat16" else torch.float32
        self.accelerator: Accelerator = make_accelerator(self.precision, device)
        self.base: Path
        self.pipeline: FlowRVSPipeline
        self.base, self.pipeline = open_model(model, self.dtype)

    def train(
        self, trainee: Trainee, dataset: Any, data: PreparedData, *, keep_on_cancel: bool = False
    ) -> tuple[Any, dict[str, torch.Tensor], dict[str, Any]]:
        """Train to the end.

        Parameters
        ----------
        trainee : Trainee
        dataset : map-style dataset
            From a sample's number to a sample.
        data : PreparedData
        keep_on_cancel : bool
            When cancelled, go on with the best state so far if a validation found one.

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
            identity={"stage": self.stage, "data": data.identity, "precision": self.precision},
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
            if not keep_on_cancel or best is None or best[1]["step"] == 0:
                raise
        weights, facts = engine.result()
        if self.config.validate_first and facts["step"] == 0:
            shutil.rmtree(engine.checkpoints.folder, ignore_errors=True)
            raise TrainingError(
                f"It did not help: no state scored higher on held-out videos than the model as it "
                f"was (J&F {facts['J&F']:.3f}); nothing was kept. More clips help more than time."
            )
        if engine.monitor.before:
            facts = facts | {"before": engine.monitor.before}
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
        It holds checkpoints already, or none to resume.
    """
    begun = any((out / "checkpoints").glob("step-*"))
    if begun and not resume:
        raise InputError(f"{out} holds a training already; give --resume or another --out.")
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
