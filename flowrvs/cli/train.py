"""``flowrvs train``: the VAE with its mask decoder, then the flow."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HELP = "Train a model on the synthetic world: first 'vae', then 'flow'."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments to `parser`."""
    parser.add_argument("stage", choices=("vae", "flow"), help="what to train")
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE",
        help="a TOML file; the bundled model's are in flowrvs/training/configs",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")


def run(args: argparse.Namespace) -> int:
    """Run the verb; return the exit code."""
    from flowrvs.cli._progress import cancel_on_interrupt, progress_line
    from flowrvs.training import FlowConfig, VaeConfig, load_config, train_flow, train_vae

    folder: Path
    with cancel_on_interrupt() as cancel, progress_line() as progress:
        if args.stage == "vae":
            config = load_config(args.config, VaeConfig)
            folder = train_vae(config, resume=args.resume, progress=progress, cancel=cancel)
        else:
            flow = load_config(args.config, FlowConfig)
            folder = train_flow(flow, resume=args.resume, progress=progress, cancel=cancel)
    if args.json:
        print(json.dumps({"stage": args.stage, "out": str(folder)}))
    else:
        print(f"trained {args.stage}: {folder}")
    return 0
