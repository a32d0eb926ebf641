"""``flowrvs models``: which models there are, and whether a folder is whole."""

from __future__ import annotations

import argparse
import json

HELP = "List the models known by name, or verify a model's folder."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments to `parser`."""
    actions = parser.add_subparsers(
        dest="action", required=True, metavar="ACTION", parser_class=type(parser)
    )
    actions.add_parser("list", help="the models known by name")
    verify = actions.add_parser("verify", help="check the files of a model and load its weights")
    verify.add_argument("model", metavar="NAME|DIR", help="a known name or a folder")


def run(args: argparse.Namespace) -> int:
    """Run the verb; return the exit code."""
    from flowrvs.checkpoints import MODELS

    if args.action == "list":
        if args.json:
            rows = [{"name": m.name, "summary": m.summary} for m in MODELS.values()]
            print(json.dumps({"models": rows}))
        else:
            for model in MODELS.values():
                print(f"{model.name:10} {model.summary}")
        return 0
    from flowrvs.pipelines import load

    pipeline = load(args.model, device="cpu")
    sizes = {
        name: sum(p.numel() for p in getattr(pipeline, name).parameters())
        for name in ("transformer", "vae", "text_encoder")
    }
    if args.json:
        print(json.dumps({"model": str(args.model), "whole": True, "parameters": sizes}))
    else:
        parts = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in sizes.items())
        print(f"{args.model} is whole: {parts} parameters")
    return 0
