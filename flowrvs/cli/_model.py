"""The options with which a verb loads a model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowrvs.inference.cluster import Scheduler
    from flowrvs.progress import CancelToken
    from flowrvs.records import Segmenter, Tracker
    from flowrvs.store import Project

__all__ = [
    "add_cluster_arguments",
    "add_model_arguments",
    "add_request_arguments",
    "add_tracker_arguments",
    "load_model",
    "load_tracker",
    "notice",
    "open_scheduler",
    "request_options",
    "tell_notices",
]


def add_request_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how a model is asked: what `request_options` reads."""
    parser.add_argument("--steps", type=int, default=1, metavar="N", help="Euler steps (1)")
    parser.add_argument(
        "--window",
        type=_window,
        metavar="N|whole",
        help="frames the model sees at once (the model's choice; official weights: whole)",
    )
    parser.add_argument(
        "--overlap", type=int, metavar="N", help="frames that windows share (the model's choice)"
    )


def _window(text: str) -> int | str:
    if text == "whole":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of frames nor 'whole'")
    return int(text)


def request_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the line says for a `SegmentRequest`, beside the sentences."""
    return {"steps": args.steps, "window": args.window, "overlap": args.overlap}


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model, where it runs, and what may differ from the published code."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default="tiny",
        metavar="NAME|DIR",
        help="a model's name ('flowrvs models list') or folder (tiny)",
    )
    group.add_argument(
        "--lora",
        metavar="NAME|DIR",
        help="an adapter that was trained on the model: its name or folder",
    )
    group.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda, ... (auto)")
    group.add_argument(
        "--memory",
        default="auto",
        choices=("auto", "full", "offload", "low"),
        help="what stays on the device; auto takes the quickest that fits (auto)",
    )
    group.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "bfloat16", "float16", "float32"),
        help="number format; auto is what the device does best (auto)",
    )
    group.add_argument(
        "--text-precision",
        default="full",
        choices=("full", "float8"),
        help="float8 takes a third off the text encoder's memory (full)",
    )
    group.add_argument(
        "--portrait-box",
        action="store_true",
        help="turn the model's box for portrait videos (the published code does not)",
    )
    group.add_argument(
        "--fast",
        action="store_true",
        help="in 16 bits, the quickest kernels instead of the published code's roundings",
    )
    group.add_argument(
        "--sparse",
        action="store_true",
        help="decode only where masks are; needs 'flowrvs models calibrate' once",
    )
    group.add_argument(
        "--compile", action="store_true", help="compile the transformer: for long jobs"
    )


def add_tracker_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the tracker, and where it runs: what `load_tracker` reads."""
    group = parser.add_argument_group("tracker")
    group.add_argument(
        "--with",
        dest="tracker",
        metavar="NAME",
        help="a tracker that 'flowrvs models list' shows, or classical, which needs no weights "
        "(the smallest of flowrvs' own that is installed, else classical)",
    )
    group.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda, ... (auto)")
    group.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "bfloat16", "float16", "float32"),
        help="number format; auto is what the device does best (auto)",
    )


def load_tracker(args: argparse.Namespace) -> Tracker | None:
    """Load the tracker that the options say; None for the classical way."""
    from flowrvs.inference.loading import CLASSICAL, default_tracker

    name = args.tracker or default_tracker()
    if name == CLASSICAL:
        return None
    from flowrvs.plugins import load_tracker as load

    return load(name, device=args.device, precision=args.precision)


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where a dask cluster is that computes instead of this machine."""
    group = parser.add_argument_group("cluster")
    group.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="compute on the workers of this dask scheduler: tls://HOST:PORT",
    )
    for name, what in (
        ("ca", "the cluster's own certificate authority"),
        ("cert", "this client's certificate"),
        ("key", "its key"),
    ):
        group.add_argument(f"--tls-{name}", metavar="FILE", help=f"{what}, in PEM")
    group.add_argument(
        "--insecure", action="store_true", help="let the way to the scheduler be unencrypted"
    )


def open_scheduler(args: argparse.Namespace) -> Scheduler:
    """Return the scheduler that the options of `add_cluster_arguments` say, checked."""
    from flowrvs.inference.cluster import Scheduler

    tls = {"tls_ca": args.tls_ca, "tls_cert": args.tls_cert, "tls_key": args.tls_key}
    return Scheduler.at(args.scheduler, insecure=args.insecure, **tls)


def load_model(args: argparse.Namespace, cancel: CancelToken | None = None) -> Segmenter:
    """Load what the options say, here or on a cluster.

    What memory it will need, and what happens to workers, is told on standard error.
    """
    options = {
        "device": args.device,
        "memory": args.memory,
        "dtype": args.dtype,
        "text_precision": args.text_precision,
        "portrait_box": args.portrait_box,
        "fast": args.fast,
        "sparse": args.sparse,
        "compile": args.compile,
        "lora": args.lora,
    }
    if args.scheduler is not None:
        from flowrvs.inference.cluster import Cluster

        # A folder is named as it is from everywhere.
        model = str(Path(args.model).resolve()) if Path(args.model).is_dir() else args.model
        if args.lora is not None and Path(args.lora).is_dir():
            options["lora"] = str(Path(args.lora).resolve())
        return Cluster(open_scheduler(args), model, notice=notice, cancel=cancel, **options)
    import flowrvs

    segmenter = flowrvs.load_segmenter(args.model, **options)
    line = getattr(segmenter, "memory_line", "")
    if line and not args.json:
        print(line, file=sys.stderr)
    return segmenter


def notice(line: str) -> None:
    """Tell what a person should know on standard error."""
    print(f"flowrvs: {line}", file=sys.stderr)


def tell_notices(project: Project) -> list[str]:
    """Tell what of a project was damaged, or is not kept any more; return it."""
    told = [text for text in (project.history.notice, project.confidence_notice) if text]
    for text in told:
        notice(f"{project.path.name}: {text}")
    return told
