"""``flowrvs models``: which models there are, getting them, and whether they are whole."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowrvs.progress import Progress, ProgressCallback

if TYPE_CHECKING:
    from flowrvs.plugins import Plugin

HELP = "List, fetch, convert, verify or calibrate models."

_DTYPES = ("float32", "float16", "bfloat16")
_OWN = {
    "--dit": "the transformer: .pth, or ComfyUI's .safetensors",
    "--vae": "the tuned VAE: .pth, or ComfyUI's .safetensors",
    "--text": "the text encoder umt5-xxl as one .safetensors file, 16 bits or scaled fp8",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments to `parser`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="the models known by name, and where they are")

    fetch = actions.add_parser(
        "fetch",
        help="get official weights from the Hugging Face hub",
        description="Download, check and convert official weights; run it again to go on "
        "after a break. HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and proxies are respected.",
    )
    fetch.add_argument("model", metavar="NAME", help="a name that 'list' shows, such as mevis")
    fetch.add_argument(
        "--home", metavar="DIR", type=Path, help="write below DIR/models (default: FLOWRVS_HOME)"
    )
    fetch.add_argument(
        "--dry-run",
        action="store_true",
        help="only say how much there is to fetch, and what could be left out",
    )
    for option, what in _OWN.items():
        fetch.add_argument(option, type=Path, metavar="FILE", help=f"{what}, instead of fetching")

    convert = actions.add_parser(
        "convert",
        help="make a model's folder of the public .pth files, or ComfyUI's, and the Wan folder",
    )
    convert.add_argument(
        "--base", required=True, type=Path, metavar="DIR", help="Wan2.1-T2V-1.3B-Diffusers"
    )
    for option, what in _OWN.items():
        needed = option != "--text"
        text = what if needed else f"{what} (default: the base's)"
        convert.add_argument(option, required=needed, type=Path, metavar="FILE", help=text)
    convert.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to make")
    convert.add_argument("--name", help="the model's name in provenance (default: the folder's)")
    convert.add_argument(
        "--dtype", choices=_DTYPES, help="of transformer and VAE (default: as in the files)"
    )
    convert.add_argument(
        "--text-dtype", choices=_DTYPES, help="of the text encoder (default: as in the files)"
    )
    convert.add_argument(
        "--text-length",
        type=int,
        metavar="N",
        help="tokens of a sentence in training (default: 64 for 32 input channels, else 256)",
    )

    verify = actions.add_parser("verify", help="check the files of a model and load its weights")
    verify.add_argument("model", metavar="NAME|DIR", help="a known name or a folder")
    verify.add_argument(
        "--hashes-only",
        action="store_true",
        help="check headers, sizes and hashes without loading anything",
    )

    calibrate = actions.add_parser(
        "calibrate",
        help="learn where a model's masks are, for sparse decoding",
        description="Run the model on clips, learn from its masks where decoding is needed, and "
        "write that into the model's folder; --sparse uses it.",
    )
    calibrate.add_argument("model", metavar="NAME|DIR", help="a known name or a folder")
    calibrate.add_argument(
        "--split",
        metavar="SPLIT_DIR",
        help="videos and sentences to learn from (default: synthetic ones)",
    )
    calibrate.add_argument(
        "--clips", type=int, default=24, metavar="N", help="how many clips at most (24)"
    )
    calibrate.add_argument("--device", default="auto", metavar="D", help="auto, cpu, ... (auto)")


def run(args: argparse.Namespace) -> int:
    """Run the verb; return the exit code."""
    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "list": _list,
        "fetch": _fetch,
        "convert": _convert,
        "verify": _verify,
        "calibrate": _calibrate,
    }
    return actions[args.action](args)


def _say(args: argparse.Namespace, content: dict[str, Any], text: str) -> int:
    print(json.dumps(content) if args.json else text)
    return 0


def _in_megabytes(show: ProgressCallback) -> ProgressCallback:
    """Show bytes as MB: eleven digits say nothing to anybody."""

    def convert(event: Progress) -> None:
        done, total = event.done // 10**6, event.total // 10**6
        if event.total:
            event = replace(event, done=done, total=total, message=f"{event.message} (MB)")
        else:
            event = replace(event, total=1)  # nothing counted yet is not 100 %
        show(event)

    return convert


def _list(args: argparse.Namespace) -> int:
    from flowrvs.checkpoints import MODELS, models_home
    from flowrvs.checkpoints.files import folder_bytes, size_text
    from flowrvs.checkpoints.placed import ADAPTER_FILE, placed_models
    from flowrvs.checkpoints.registry import is_whole, kind_of
    from flowrvs.plugins import plugins

    home = models_home()
    others = plugins()
    rows: list[dict[str, Any]] = []
    for model in MODELS.values():
        path = model.folder or home / model.name
        rows.append({"name": model.name, "summary": model.summary, "path": path})
    for placed in placed_models():
        rows.append({"name": placed.name, "summary": placed.summary, "path": placed.folder})
    for row in rows:
        path = row["path"]
        record = MODELS.get(row["name"])
        row["kind"] = record.kind if record else kind_of(path)
        row["package"] = "napari-flowrvs"
        row["lora"] = (path / ADAPTER_FILE).is_file()
        row["installed"] = row["lora"] or is_whole(row["name"])
        row["bytes"] = folder_bytes(path)
        row["path"] = str(path)
        row["part"] = folder_bytes(path.with_name(f".{path.name}.download"))
    known = {row["name"] for row in rows}
    more = [
        {
            "name": plugin.name,
            "kind": plugin.kind,
            "package": plugin.package,
            "version": plugin.version,
            "installed": _is_ready(plugin),
            "fault": plugin.fault,
        }
        for plugin in others
        if plugin.name not in known or not plugin.ours
    ]
    if args.json:
        return _say(args, {"home": str(home), "models": rows, "plugins": more}, "")
    for row in rows:
        if row["installed"]:
            state = f"installed, {size_text(row['bytes'])}, {row['path']}"
        elif row["bytes"]:
            state = f"not whole: {row['path']}"
        else:
            begun = f", {size_text(row['part'])} are here" if row["part"] else ""
            state = f"not installed{begun}: flowrvs models fetch {row['name']}"
        print(f"{row['name']:16} {row['kind']}: {row['summary']}\n{'':16} {state}")
    for row in more:
        states = {True: "installed", False: "not installed: flowrvs models fetch sam3-tracker"}
        state = states.get(bool(row["installed"]), "")
        if row["installed"] is None:
            state = "its package knows of its weights"
        state = f"broken: {row['fault']}" if row["fault"] else state
        source = f"of the package {row['package']} {row['version']}"
        print(f"{row['name']:16} {row['kind']} {source}\n{'':16} {state}")
    return 0


def _is_ready(plugin: Plugin) -> bool | None:
    """Tell whether a plugin's weights are here; None where that is its package's own affair."""
    from flowrvs.checkpoints.registry import is_whole

    if plugin.fault:
        return False
    # SAM 3 by noun phrase is in the folder of its tracker.
    return is_whole("sam3-tracker") if plugin.ours else None


def _fetch(args: argparse.Namespace) -> int:
    from flowrvs.checkpoints.fetch import fetch, plan_fetch
    from flowrvs.checkpoints.files import folder_bytes, size_text
    from flowrvs.cli._progress import cancel_on_interrupt, progress_line

    with cancel_on_interrupt() as cancel, progress_line() as progress:
        own = {"dit": args.dit, "vae": args.vae, "text": args.text}
        if args.dry_run:
            plan = plan_fetch(args.model, home=args.home, cancel=cancel, **own)
            content = {
                "model": args.model,
                "path": str(plan.folder),
                "download": plan.download,
                "here": plan.have,
                "need": plan.need,
                "result": plan.result,
                "free": plan.free,
                "spare": plan.spare,
                "files": [{"repo": f.repo, "file": f.name, "bytes": f.size} for f, _ in plan.files],
            }
            here = f" ({size_text(plan.have)} of them are here)" if plan.have else ""
            spare = "".join(
                f"\n  {size_text(size):>8} can be left out with {option} FILE: {_OWN[option]}"
                for option, size in plan.spare.items()
            )
            return _say(
                args,
                content,
                f"{args.model}: {size_text(plan.download)} to fetch{here}, "
                f"{size_text(plan.need)} of disk while it is made, {size_text(plan.result)} "
                f"afterwards; {size_text(plan.free)} are free in {plan.folder.parent}{spare}",
            )
        report = _in_megabytes(progress)
        path = fetch(args.model, home=args.home, progress=report, cancel=cancel, **own)
    size = folder_bytes(path)
    content = {"model": args.model, "path": str(path), "bytes": size}
    return _say(args, content, f"{args.model} is ready: {path} ({size_text(size)})")


def _convert(args: argparse.Namespace) -> int:
    from flowrvs.checkpoints.convert import convert
    from flowrvs.checkpoints.files import folder_bytes, size_text
    from flowrvs.cli._progress import cancel_on_interrupt, progress_line

    with cancel_on_interrupt() as cancel, progress_line() as progress:
        path = convert(
            args.base,
            args.dit,
            args.vae,
            args.out,
            text=args.text,
            text_length=args.text_length,
            name=args.name,
            dtype=args.dtype,
            text_dtype=args.text_dtype,
            progress=_in_megabytes(progress),
            cancel=cancel,
        )
    size = folder_bytes(path)
    content = {"path": str(path), "bytes": size}
    return _say(args, content, f"Converted: {path} ({size_text(size)})")


def _verify(args: argparse.Namespace) -> int:
    from flowrvs.checkpoints import locate
    from flowrvs.checkpoints.manifest import MANIFEST, verify_folder
    from flowrvs.checkpoints.shards import count_numbers
    from flowrvs.cli._progress import cancel_on_interrupt, progress_line
    from flowrvs.errors import CheckpointError

    folder = locate(args.model, kind=None)
    with cancel_on_interrupt() as cancel, progress_line() as progress:
        faults, hashed = verify_folder(folder, _in_megabytes(progress), cancel)
    content: dict[str, Any] = {"model": str(args.model), "path": str(folder), "hashed": hashed}
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        error = f"{folder}: {faults[0]}{more}; fetch or copy the model again."
        if not args.json:
            raise CheckpointError(error)
        print(f"flowrvs: {error}", file=sys.stderr)
        print(json.dumps({**content, "whole": False, "faults": faults, "error": error, "code": 2}))
        return 2
    counts = count_numbers(folder)
    if not args.hashes_only:
        _load(folder)
    content |= {"whole": True, "loaded": not args.hashes_only, "parameters": counts}
    parts = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in counts.items())
    how = "" if hashed else f" (there is no {MANIFEST}, so its hashes are unknown)"
    return _say(args, content, f"{args.model} is whole{how}: {parts} parameters")


def _load(folder: Path) -> None:
    """Load a model on the CPU, to see that its weights fit its configs."""
    from flowrvs.checkpoints.registry import kind_of

    if kind_of(folder) == "tracker":
        from flowrvs.models.sam2 import load_tracker

        load_tracker(folder, device="cpu")
    else:
        from flowrvs.pipelines import load

        load(folder, device="cpu")


def _calibrate(args: argparse.Namespace) -> int:
    from flowrvs.checkpoints import locate
    from flowrvs.cli._progress import cancel_on_interrupt, progress_line
    from flowrvs.errors import Cancelled, InputError, StorageError
    from flowrvs.models.locator import LOCATOR_FILE
    from flowrvs.pipelines import load
    from flowrvs.pipelines.calibrate import calibrate, split_clips, synthetic_clips

    if args.clips < 4:
        raise InputError(f"--clips must be 4 or more, not {args.clips}.")
    folder = locate(args.model)
    if not os.access(folder, os.W_OK):  # better told now than after minutes
        raise StorageError(f"Cannot write to {folder}; copy the model to a folder of your own.")
    pipeline = load(args.model, device=args.device)
    frames = min(17, pipeline.window_size)
    if args.split:
        clips = split_clips(args.split, args.clips, frames=frames)
    else:
        height, width = pipeline.config.sample_height, pipeline.config.sample_width
        clips = synthetic_clips(args.clips, frames=frames, height=height, width=width)
    path = folder / LOCATOR_FILE
    try:
        with cancel_on_interrupt() as cancel, progress_line() as progress:
            result = calibrate(pipeline, clips, total=args.clips, cancel=cancel, progress=progress)
            cancel.raise_if_cancelled()
            result.locator.save(path)
    except Cancelled:
        raise Cancelled(f"Stopped on request; {path} is as it was.") from None
    content = {"path": str(path), "kept": result.kept, "foreground": result.foreground}
    return _say(
        args,
        content,
        f"{path}: decodes {result.kept:.0%} of the picture where {result.foreground:.0%} is "
        "foreground; use it with --sparse",
    )
