"""Call the published ``prepare`` and ``eval_mevis``; run as a process of its own.

    python runner.py JOB.json        # in a folder that holds Wan2.1-T2V-1.3B-Diffusers

The job names the checkout (``public``), the checkpoints (``dit``, ``vae``, ``dvi``), the
numbers (``dtype``: bfloat16 as published, or float32), and ``runs``: each a split's
folder (``root`` with ``valid/`` in it), ``steps``, the box (``height``, ``width``), and
where to put the pictures (``out``) and, if asked for, the logits at source size
(``logits``, one array a sentence in the order of the split).

What is changed from outside, and why:

- its model is cast to 16 bits by hand; for float32 all models are cast back after
  ``prepare`` (weights that 16 bits can hold lose nothing);
- with ``patch`` above 1 (the bundled VAE begins with space-to-depth) the one-channel
  convolution that it puts at the decoder's end gets the patch x patch outputs that such
  a VAE needs for one mask;
- with ``tokens`` its text encoder pads to the number of tokens that the model knows.

Writes the times to ``report`` as JSON: imports, model loading, prediction.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import time
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

_BEGAN = time.perf_counter()


def _import_public(folder: str) -> ModuleType:
    import diffusers  # noqa: F401
    import torch
    import transformers  # noqa: F401

    # Lazy packages look for optional ones when a class is first used: use them now.
    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler  # noqa: F401
    from diffusers.training_utils import EMAModel  # noqa: F401
    from torchvision_names import install
    from transformers import AutoTokenizer, UMT5EncoderModel  # noqa: F401

    install()
    if not torch.cuda.is_available():
        torch.cuda.empty_cache = lambda: None
    sys.path.insert(0, folder)
    import inference_mevis

    return inference_mevis


def _arguments(public: ModuleType, job: dict[str, Any]) -> argparse.Namespace:
    """Return the arguments of its command line, with the same defaults."""
    parser = argparse.ArgumentParser(parents=[public.opts.get_args_parser()])
    args = parser.parse_args([])
    args.save_eval_vis, args.num_steps = True, 1
    args.dit_ckpt, args.vae_ckpt = job["dit"], job["vae"]
    args.reso_h, args.reso_w = 480, 832
    args.use_dvi, args.device, args.split = job["dvi"], job["device"], "valid"
    args.num_workers = job.get("workers", args.num_workers)
    args.masks = args.eval = True
    return args


def _load(public: ModuleType, job: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    import torch

    patch = job.get("patch", 1)
    if patch > 1:
        import models.mask_vae_finetuner as finetuner

        plain = finetuner.WanCausalConv3d

        @functools.wraps(plain)
        def conv_out(*, out_channels: int, **rest: Any) -> Any:
            return plain(out_channels=out_channels * patch**2, **rest)

        finetuner.WanCausalConv3d = conv_out
    model, vae, text, scheduler = public.prepare()
    model = model.to(dtype=torch.bfloat16).eval() if job["dtype"] == "bfloat16" else model.float()
    model.eval()
    if job["dtype"] == "float32":
        vae, text.text_encoder = vae.float(), text.text_encoder.float()
    if "tokens" in job:
        text.encode_prompt_and_cfg = functools.partial(
            text.encode_prompt_and_cfg, max_sequence_length=job["tokens"]
        )
    return model, vae, text, scheduler


def _record_logits(public: ModuleType) -> list[Any]:
    """Keep what its last resize gives: the logits at source size."""
    import torch.nn.functional as functional

    kept: list[Any] = []

    def interpolate(*args: Any, **kwargs: Any) -> Any:
        out = functional.interpolate(*args, **kwargs)
        kept.append(out.detach().float().squeeze(1).cpu().numpy())
        return out

    public.F = SimpleNamespace(interpolate=interpolate)
    return kept


def main() -> None:
    """Do the job."""
    job = json.loads(Path(sys.argv[1]).read_text())
    warnings.simplefilter("ignore")
    import numpy as np
    import torch

    if job.get("threads"):
        torch.set_num_threads(job["threads"])
    public = _import_public(job["public"])
    report = {"imports": time.perf_counter() - _BEGAN}
    public.args = _arguments(public, job)
    start = time.perf_counter()
    models = _load(public, job)
    report["load"] = time.perf_counter() - start
    kept = _record_logits(public) if any("logits" in run for run in job["runs"]) else []
    cuda = job["device"].startswith("cuda")
    report["predict"] = []
    for run in job["runs"]:
        args = public.args
        args.mevis_path, args.num_steps, args.output_dir = run["root"], run["steps"], run["out"]
        args.reso_h, args.reso_w = run["height"], run["width"]
        os.makedirs(run["out"], exist_ok=True)
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        public.eval_mevis(args, *models, run["out"], run["out"], split="valid")
        if cuda:
            torch.cuda.synchronize()
            report.setdefault("cuda_peak", []).append(torch.cuda.max_memory_allocated())
        report["predict"].append(time.perf_counter() - start)
        if "logits" in run:
            np.savez(run["logits"], *kept)
            kept.clear()
    report["total"] = time.perf_counter() - _BEGAN
    Path(job["report"]).write_text(json.dumps(report))


if __name__ == "__main__":
    main()
