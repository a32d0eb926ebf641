"""``flowrvs train``: mask decoder or flow on real data, or a whole model from scratch."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from typing import TYPE_CHECKING, Any

from flowrvs.cli._model import add_cluster_arguments, open_scheduler

if TYPE_CHECKING:
    from flowrvs.training.corrections import Improvement
    from flowrvs.training.run import Trained

HELP = "Train 'flow' or 'decoder' on real data, 'improve' a model, 'scratch', 'merge' adapters."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments to `parser`."""
    stages = parser.add_subparsers(dest="stage", metavar="STAGE", required=True)
    flow = stages.add_parser("flow", help="the flow of a Wan base or a FlowRVS model")
    decoder = stages.add_parser("decoder", help="the mask decoder of a Wan base or a model")
    for stage in (flow, decoder):
        _add_real(stage)
    flow.add_argument(
        "--lora", type=int, metavar="RANK", help="train adapters of this rank; DIR/lora comes out"
    )
    flow.add_argument(
        "--cache", metavar="DIR", help="encode clips once, beforehand, into this folder"
    )
    add_cluster_arguments(flow)
    scratch = stages.add_parser("scratch", help="VAE and flow on the synthetic world")
    scratch.add_argument(
        "--config",
        metavar="FILE",
        help="a TOML file; the bundled model's is flowrvs/training/scratch/configs/tiny.toml",
    )
    _add_options(scratch)
    _add_resume(scratch)
    better = stages.add_parser("improve", help="a model by name, from corrections, in minutes")
    better.add_argument("--data", nargs="+", required=True, metavar="PATH", help="projects, splits")
    better.add_argument("--name", required=True, help="name of the result in the list of models")
    better.add_argument(
        "--model",
        default="auto",
        metavar="NAME|DIR",
        help="to start from (auto: mevis on a GPU where it is, else tiny)",
    )
    better.add_argument("--minutes", type=float, default=20.0, metavar="M", help="time (20)")
    better.add_argument("--max-steps", type=int, default=0, metavar="N", help="instead of a time")
    better.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda, … (auto)")
    better.add_argument(
        "--plan", action="store_true", help="count what would be used, estimate, and leave"
    )
    better.add_argument(
        "--resume", action="store_true", help="go on, with the model, time and options of before"
    )
    merge = stages.add_parser("merge", help="add an adapter to the weights of its model")
    merge.add_argument("--model", required=True, metavar="NAME|DIR", help="the model")
    merge.add_argument("--lora", required=True, metavar="NAME|DIR", help="the adapter")
    merge.add_argument("--out", required=True, metavar="DIR", help="the new model's folder")


def _add_real(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="NAME|DIR", help="what to start from; it is only read")
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="PATH",
        help="splits (MeViS, MeViSv2, Ref-YouTube-VOS, Ref-DAVIS17), RefCOCO, projects",
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        type=float,
        metavar="W",
        help="share of the samples from each path (all that each has)",
    )
    parser.add_argument("--out", metavar="DIR", help="checkpoints, log, and DIR/model at the end")
    parser.add_argument("--name", help="name of the result (that of DIR)")
    parser.add_argument(
        "--preset", metavar="NAME", help="paper: the published values; corrections: few clips"
    )
    parser.add_argument("--config", metavar="FILE", help="a TOML file with any of the options")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="set options; --options lists them",
    )
    parser.add_argument("--max-steps", type=int, metavar="N", help="stop after N steps")
    parser.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda, … (auto)")
    parser.add_argument("--tensorboard", action="store_true", help="write DIR/tensorboard, too")
    parser.add_argument("--plot", action="store_true", help="draw DIR/log.png at the end")
    _add_options(parser)
    _add_resume(parser)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--options", action="store_true", help="list every option with its default and leave"
    )


def _add_resume(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")


def run(args: argparse.Namespace) -> int:
    """Run the verb; return the exit code."""
    if args.stage == "scratch":
        return _run_scratch(args)
    if args.stage == "merge":
        return _run_merge(args)
    if args.stage == "improve":
        return _run_improve(args)
    return _run_real(args)


def _run_real(args: argparse.Namespace) -> int:
    from flowrvs.cli._progress import cancel_on_interrupt, progress_line
    from flowrvs.errors import InputError, missing_extra
    from flowrvs.training.config import DecoderConfig, FlowConfig, build_config

    kind: Any = FlowConfig if args.stage == "flow" else DecoderConfig
    if args.options:
        return _print_options({"": kind}, as_json=args.json)
    for option in ("model", "data", "out"):
        if not getattr(args, option):
            raise InputError(f"flowrvs train {args.stage} needs --{option}; see --help.")
    chosen = {"max_steps": args.max_steps}
    if args.stage == "flow":
        chosen["lora_rank"] = args.lora
    config = build_config(kind, preset=args.preset, file=args.config, settings=args.set, **chosen)
    needed = {
        "matplotlib": args.plot,
        "tensorboard": args.tensorboard,
        "peft": getattr(config, "lora_rank", 0),
    }
    for module, wanted in needed.items():  # not after hours of encoding, or of training
        if wanted and importlib.util.find_spec(module) is None:
            missing = missing_extra(ImportError(name=module))
            assert missing is not None
            raise missing
    options: dict[str, Any] = {
        "weights": args.weights,
        "name": args.name,
        "device": args.device,
        "resume": args.resume,
        "tensorboard": args.tensorboard,
    }
    from flowrvs.training import train_decoder, train_flow

    with cancel_on_interrupt() as cancel, progress_line() as progress:
        options |= {"progress": progress, "cancel": cancel}
        if args.stage == "flow":
            trained = train_flow(
                args.model,
                args.data,
                args.out,
                config,
                cache=args.cache,
                scheduler=None if args.scheduler is None else open_scheduler(args),
                **options,
            )
        else:
            trained = train_decoder(args.model, args.data, args.out, config, **options)
    _tell(trained, args)
    return 0


def _tell(trained: Trained, args: argparse.Namespace) -> None:
    if getattr(args, "plot", False):
        from flowrvs.training.journal import plot_log

        folder = trained.folder.parent
        plot_log(folder / "log.jsonl", folder / "log.png")
    if args.json:
        facts = {"steps": trained.steps, **trained.scores}
        print(json.dumps({"stage": args.stage, "out": str(trained.folder), **facts}))
        return
    for reason, count in trained.card["left_out"].items():
        print(f"left out: {count} {reason}", file=sys.stderr)
    score = f", J&F {trained.scores['J&F']:.3f} on held-out videos" if trained.scores else ""
    print(f"trained {args.stage}, {trained.steps} steps{score}: {trained.folder}")


def _print_options(tables: dict[str, Any], *, as_json: bool) -> int:
    """List the options of each table of a file; "" is what stands before any."""
    from flowrvs.training.options import list_options

    found = {table: list(list_options(kind)) for table, kind in tables.items()}
    if as_json:
        told = {
            table: {o.name: {"default": o.default, "help": o.help} for o in options}
            for table, options in found.items()
        }
        print(json.dumps(told if len(told) > 1 else told[""]))
        return 0
    for table, options in found.items():
        if table:
            print(f"\n{table}")
        for item in options:
            allowed = f" ({item.range})" if item.range else ""
            print(f"{item.name} = {json.dumps(item.default)}{allowed}\n    {item.help}")
    return 0


def _run_scratch(args: argparse.Namespace) -> int:
    from flowrvs.cli._progress import cancel_on_interrupt, progress_line
    from flowrvs.errors import InputError
    from flowrvs.training import load_scratch_config, train_scratch

    if args.options:
        from flowrvs.training.scratch.config import TABLES

        return _print_options(TABLES, as_json=args.json)
    if not args.config:
        raise InputError("flowrvs train scratch needs --config; see --help.")
    config = load_scratch_config(args.config)
    with cancel_on_interrupt() as cancel, progress_line() as progress:
        folder = train_scratch(config, resume=args.resume, progress=progress, cancel=cancel)
    if args.json:
        print(json.dumps({"stage": "scratch", "out": str(folder)}))
    else:
        print(f"trained scratch: {folder}")
    return 0


def _run_improve(args: argparse.Namespace) -> int:
    from flowrvs.cli._progress import cancel_on_interrupt, progress_line
    from flowrvs.errors import InputError
    from flowrvs.training import improve, plan_improvement

    options = {"model": args.model, "minutes": args.minutes, "device": args.device}
    options["max_steps"] = args.max_steps
    if args.plan:
        if args.resume:
            raise InputError("--plan counts what a new training would use; leave out --resume.")
        plan = plan_improvement(args.data, **options)
        print(json.dumps(plan.as_dict()) if args.json else _counts(plan))
        return 0
    with cancel_on_interrupt() as cancel, progress_line() as progress:
        trained = improve(
            args.data,
            name=args.name,
            planned=lambda plan: print(_counts(plan), file=sys.stderr),
            resume=args.resume,
            progress=progress,
            cancel=cancel,
            **options,
        )
    _tell(trained, args)
    return 0


def _counts(plan: Improvement) -> str:
    return (
        f"{plan.videos} videos, {plan.sentences} sentences, {plan.objects} objects on "
        f"{plan.frames} frames; {plan.held_out_videos} videos held out; {plan.steps} steps in "
        f"about {plan.seconds / 60:.0f} minutes, {plan.memory / 1e9:.1f} GB"
    )


def _run_merge(args: argparse.Namespace) -> int:
    from flowrvs.training import merge_lora

    folder = merge_lora(args.model, args.lora, args.out)
    if args.json:
        print(json.dumps({"stage": "merge", "out": str(folder)}))
    else:
        print(f"merged: {folder}")
    return 0
