"""`train_scratch`: a whole model from random weights, as the bundled one was made."""

from __future__ import annotations

from pathlib import Path

from flowrvs.errors import CheckpointError, InputError
from flowrvs.progress import CancelToken, ProgressCallback
from flowrvs.training.scratch.config import ScratchConfig
from flowrvs.training.scratch.flow import train_flow
from flowrvs.training.scratch.vae import train_vae

__all__ = ["train_scratch"]


def train_scratch(
    config: ScratchConfig,
    *,
    resume: bool = False,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Path:
    """Train the VAE with its mask decoder, then the flow, on the synthetic world.

    Parameters
    ----------
    config : ScratchConfig
    resume : bool
        Continue from the newest checkpoint in ``config.out``.
    progress : callable, optional
        Receives a `Progress` at every log line.
    cancel : CancelToken, optional
        Checked at every step; the state is saved before `Cancelled` is raised.

    Returns
    -------
    Path
        ``<out>/model``, a folder that ``--model`` takes.

    Raises
    ------
    InputError
        There is a training in the folder that is not to be resumed, or a stage has no phases.
    CheckpointError
        Nothing to resume.
    """
    out = Path(config.out)
    states = {name: out / name / "checkpoint.pt" for name in ("vae", "flow")}
    begun = [name for name, path in states.items() if path.exists()]
    if begun and not resume:
        raise InputError(f"{out} holds a training already; give --resume or another folder.")
    if resume and not begun:
        raise CheckpointError(
            f"Nothing to resume: there is no checkpoint in {out}; leave out --resume."
        )
    if not config.vae.phases or not config.vae.mask_phases or not config.flow.phases:
        raise InputError("The config lacks phases: each of vae (two lists) and flow needs some.")
    if "flow" not in begun:
        train_vae(config, resume="vae" in begun, progress=progress, cancel=cancel)
    return train_flow(config, resume="flow" in begun, progress=progress, cancel=cancel)
