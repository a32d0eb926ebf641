"""The options with which a verb loads a model."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowrvs.records import Segmenter

__all__ = ["add_model_arguments", "add_request_arguments", "load_model", "request_options"]


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
        "--model", default="tiny", metavar="NAME|DIR", help="a model's name or folder (tiny)"
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


def load_model(args: argparse.Namespace) -> Segmenter:
    """Load what the options say, and tell on standard error what memory it will need."""
    import flowrvs

    pipeline = flowrvs.load(
        args.model,
        device=args.device,
        memory=args.memory,
        dtype=args.dtype,
        text_precision=args.text_precision,
        portrait_box=args.portrait_box,
        fast=args.fast,
        sparse=args.sparse,
        compile=args.compile,
    )
    line = getattr(pipeline, "memory_line", "")
    if line and not args.json:
        print(line, file=sys.stderr)
    return pipeline
