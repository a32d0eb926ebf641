"""J in the frames around the seams of windows against J elsewhere, on long synthetic clips.

    python benchmarks/bench_seams.py [--clips 24] [--frames 81] [--model tiny] [--window 17]
                                     [--overlap 4]

Frames are compared where the object, or what was found for it, is seen. Those around a seam are
the frames that two windows share and one more at either side. Where J changes with the time in
the clip anyway, the two differ without any fault of the seams: the same frames are therefore
also judged with the windows moved by half a window, where the seams lie elsewhere.
"""

from __future__ import annotations

import argparse

import numpy as np
import numpy.typing as npt

import flowrvs
from flowrvs.data.synthetic import generate_clip
from flowrvs.records import Window

Masks = npt.NDArray[np.bool_]


def around_seams(windows: tuple[Window, ...], frames: int) -> Masks:
    """Return which frames two windows share, and one more at either side."""
    near = np.zeros(frames, bool)
    for before, after in zip(windows[:-1], windows[1:], strict=True):
        near[max(0, after.start - 1) : min(before.stop, after.start + len(before) // 2) + 1] = True
    return near


def main() -> None:
    """Print J around the seams and elsewhere, and their difference with its standard error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--frames", type=int, default=81)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--window", type=int, default=17)
    parser.add_argument("--overlap", type=int, default=4)
    args = parser.parse_args()
    model = flowrvs.load(args.model)
    shift = args.window // 2
    rows: list[tuple[float, float, float]] = []
    near_all: list[float] = []
    far_all: list[float] = []
    for seed in range(70_000, 70_000 + args.clips):
        clip = generate_clip(seed, frames=args.frames + shift, expressions=3)
        texts = [expression.text for expression in clip.expressions if expression.objects][:2]
        truth = np.stack([clip.target(e) for e in clip.expressions if e.objects][:2])
        near_j: list[float] = []
        far_j: list[float] = []
        with flowrvs.open_video(clip.frames) as video:
            for start in (0, shift):
                stop = start + args.frames
                windows = flowrvs.plan_windows(len(video), args.window, args.overlap, start, stop)
                near = around_seams(windows, len(video))
                found = np.zeros((len(texts), *truth.shape[1:]), bool)
                for part in flowrvs.segment(
                    video, texts, model, window=args.window, overlap=args.overlap,
                    start=start, stop=stop,
                ):  # fmt: skip
                    found[part.expression, part.start : part.stop] = part.masks
                # Frames that both passes judge, so that the same ones are near and far.
                for t in range(shift, args.frames):
                    for one, other in zip(found, truth, strict=True):
                        either = (one[t] | other[t]).sum()
                        if either:
                            j = float((one[t] & other[t]).sum() / either)
                            (near_j if near[t] else far_j).append(j)
        near_all += near_j
        far_all += far_j
        if near_j and far_j:
            rows.append((float(np.mean(near_j)), float(np.mean(far_j)), seed))
        print(f"clip {seed}: around seams {np.mean(near_j or [np.nan]):.3f}, elsewhere "
              f"{np.mean(far_j or [np.nan]):.3f}", flush=True)  # fmt: skip
    differ = np.array([near - far for near, far, _ in rows])
    error = differ.std(ddof=1) / np.sqrt(len(differ)) if len(differ) > 1 else float("nan")
    print(f"\naround seams: J {np.mean(near_all):.4f} ({len(near_all)} masks)")
    print(f"elsewhere:    J {np.mean(far_all):.4f} ({len(far_all)} masks)")
    print(f"difference, clip by clip: {differ.mean():+.4f}, standard error {error:.4f}")


if __name__ == "__main__":
    main()
