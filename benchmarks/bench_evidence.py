"""An experiment: sentences whose evidence lies outside the window that is judged.

    python benchmarks/bench_evidence.py [--clips 8] [--model tiny]

Two shapes of equal looks: one moves out of the picture to the left (frames 0 to 24), stays away
(25 to 40) and is back from frame 41 on, standing still; the other stands still all the time.
"The red circle moving left" means the first one, in every frame. J is given for the frames
before it leaves and for those after it came back, by how the model is shown the video:

- windows of 17 frames, overlap 4 (the default way);
- windows of 9 frames, each joined with 8 frames from all over the video, in order of time;
- every fourth frame of the whole video as one window; frames between take the nearest;
- the whole video as one window;
- windows of 17, and each a second time from its own first answer (half way along the flow);
- the same from the answer that every fourth frame gave, so that it begins with the whole story;
- windows of 17 in order, where each takes over what the one before said of the frames that
  they share: its own answer, with theirs in these places, half way along the flow again.

An answer is taken up by encoding its masks as a video, which is how the model learned masks.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import flowrvs
from flowrvs.data.synth_scene import COLORS, SHAPES, Scene, SceneObject, render_scene

_FRAMES, _HEIGHT, _WIDTH = 66, 96, 160
_GONE, _BACK = 25, 41

Masks = npt.NDArray[np.bool_]


def left_and_came_back(seed: int) -> tuple[npt.NDArray[np.uint8], Masks, str]:
    """Return frames, the masks of the one that left, and the sentence."""
    rng = np.random.default_rng([99, seed])
    shape, color = str(rng.choice(SHAPES)), str(rng.choice(list(COLORS)))
    rows = rng.permutation([26.0, 70.0])
    away = SceneObject(shape, color, "big", "left", 18.0, COLORS[color])
    stays = replace(away, motion="still", anchor=(float(rng.uniform(40, 120)), float(rows[1])))
    start, back = float(rng.uniform(90, 130)), float(rng.uniform(40, 120))
    pace = (start + 30) / _GONE
    frames, masks = [], []
    for t in range(_FRAMES):
        x = start - pace * t if t < _GONE else -100.0 if t < _BACK else back
        moved = replace(away, anchor=(x, float(rows[0])))
        scene = Scene(seed, _FRAMES, _HEIGHT, _WIDTH, (stays, moved), (0.0, 0.0), None)
        picture, seen = render_scene(scene, [t])
        frames.append(picture[0])
        masks.append(seen[1, 0])
    return np.stack(frames), np.stack(masks), f"the {color} {shape} moving left"


def ask(model: Any, frames: npt.NDArray[np.uint8], text: str) -> Masks:
    """Return the masks of one window."""
    return np.concatenate(list(model.segment_window(frames, [text]))) > 0


def windows(model: Any, frames: npt.NDArray[np.uint8], text: str) -> Masks:
    """The default way."""
    found = np.zeros(frames.shape[:3], bool)
    with flowrvs.open_video(frames) as video:
        for part in flowrvs.segment(video, [text], model, window=17, overlap=4):
            found[part.start : part.stop] = part.masks
    return found


def joined(model: Any, frames: npt.NDArray[np.uint8], text: str) -> Masks:
    """Windows of 9 frames with 8 of all over the video."""
    found = np.zeros(frames.shape[:3], bool)
    for start in range(0, len(frames), 9):
        own = set(range(start, min(start + 9, len(frames))))
        others = [t for t in range(len(frames)) if t not in own]
        chosen = {others[i] for i in np.linspace(0, len(others) - 1, 17 - len(own)).astype(int)}
        places = sorted(own | chosen)
        masks = ask(model, frames[places], text)
        for mask, t in zip(masks, places, strict=True):
            if t in own:
                found[t] = mask
    return found


def sparse(model: Any, frames: npt.NDArray[np.uint8], text: str) -> Masks:
    """Every fourth frame; the others take the nearest."""
    masks = ask(model, frames[::4], text)
    nearest = np.minimum((np.arange(len(frames)) + 2) // 4, len(masks) - 1)
    return masks[nearest]


def again(
    model: Any, frames: npt.NDArray[np.uint8], answer: npt.NDArray[np.bool_], text: str
) -> Masks:
    """Return a window's masks from an answer to it, by the second half of the flow."""
    clip = model.encode_video(frames)
    white = np.repeat(answer[..., None], 3, axis=-1).astype(np.uint8) * 255
    told = model.encode_video(white).latents
    half = 0.5
    state = half * clip.latents + (1 - half) * told
    inputs = torch.cat([state, clip.latents], dim=1) if model.injects_video else state
    with torch.no_grad():
        velocity = model.transformer(
            hidden_states=inputs,
            timestep=torch.full((1,), 1000 * half),
            encoder_hidden_states=model.encode_prompt(text),
            return_dict=False,
        )[0]
    return np.concatenate(list(model.decode_masks(state - half * velocity, clip))) > 0


def _spans(count: int) -> list[tuple[int, int]]:
    return [(window.start, window.stop) for window in flowrvs.plan_windows(count, 17, 4)]


def twice(model: Any, frames: npt.NDArray[np.uint8], text: str) -> Masks:
    """A second pass from the first one's answer."""
    return _from(model, frames, windows(model, frames, text), text)


def from_sparse(model: Any, frames: npt.NDArray[np.uint8], text: str) -> Masks:
    """A second pass from what every fourth frame gave."""
    return _from(model, frames, sparse(model, frames, text), text)


def _from(model: Any, frames: npt.NDArray[np.uint8], answer: Masks, text: str) -> Masks:
    found = np.zeros(frames.shape[:3], bool)
    for start, stop in _spans(len(frames)):
        found[start:stop] = again(model, frames[start:stop], answer[start:stop], text)
    return found


def carried(model: Any, frames: npt.NDArray[np.uint8], text: str) -> Masks:
    """Each window takes over what the one before said of the frames that they share."""
    found = np.zeros(frames.shape[:3], bool)
    done = 0
    for start, stop in _spans(len(frames)):
        answer = ask(model, frames[start:stop], text)
        if start < done:
            answer[: done - start] = found[start:done]
            answer = again(model, frames[start:stop], answer, text)
        found[done:stop] = answer[done - start :]
        done = stop
    return found


WAYS = {
    "windows of 17": windows,
    "9 + 8 from everywhere": joined,
    "every 4th frame": sparse,
    "whole video": ask,
    "second pass": twice,
    "second from every 4th": from_sparse,
    "carried over": carried,
}


def j(found: Masks, truth: Masks) -> float:
    """Return the mean J of frames."""
    either = (found | truth).sum(axis=(1, 2))
    both = (found & truth).sum(axis=(1, 2))
    return float(np.where(either, both / np.maximum(either, 1), 1.0).mean())


def main() -> None:
    """Print J before and after, by the way in which the model is shown the video."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--model", default="tiny")
    args = parser.parse_args()
    model = flowrvs.load(args.model)
    scores: dict[str, list[tuple[float, float, float]]] = {name: [] for name in WAYS}
    for seed in range(args.clips):
        frames, truth, text = left_and_came_back(seed)
        for name, way in WAYS.items():
            found = way(model, frames, text)
            parts = [slice(0, _GONE), slice(_GONE, _BACK), slice(_BACK, None)]
            before, gone, back = (j(found[part], truth[part]) for part in parts)
            scores[name].append((before, gone, back))
        print(f"clip {seed}: {text}", flush=True)
    print(f"\nmean J of {args.clips} clips, standard error in brackets")
    print(f"{'':24s}{'before':>14s}{'away':>14s}{'back':>14s}")
    for name, rows in scores.items():
        mean = np.mean(rows, axis=0)
        error = np.std(rows, axis=0, ddof=1) / np.sqrt(len(rows)) if len(rows) > 1 else 0 * mean
        cells = "".join(f"{m:8.3f} ({e:.2f})" for m, e in zip(mean, error, strict=True))
        print(f"{name:24s}{cells}")


if __name__ == "__main__":
    main()
