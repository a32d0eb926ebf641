"""A synthetic world: moving shapes and MeViS-style sentences about them.

It feeds sample data, tests, benchmarks and the training of the bundled model.
Look-alikes differ in their motion only, sentences mean one, several or no objects,
shapes hide each other, enter and leave, backgrounds are textured and the camera
drifts. Everything follows from the seed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flowrvs.data.synth_language import SynthExpression, describe
from flowrvs.data.synth_render import render_scene
from flowrvs.data.synth_scene import Scene, sample_scene
from flowrvs.errors import InputError
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock

__all__ = ["SynthClip", "generate_clip", "write_split"]

#: Training draws its seeds from here upwards; anything below is held out.
TRAINING_SEED_BASE = 1_000_000


@dataclass(frozen=True)
class SynthClip:
    """A clip of the synthetic world, drawn when its pictures are first asked for.

    Attributes
    ----------
    scene : Scene
        What it shows.
    expressions : tuple of SynthExpression
        Sentences; their ``objects`` index ``scene.objects``.
    """

    scene: Scene
    expressions: tuple[SynthExpression, ...]

    @cached_property
    def _drawn(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        return render_scene(self.scene)

    @property
    def frames(self) -> npt.NDArray[np.uint8]:
        """RGB frames, uint8, shape (T, H, W, 3)."""
        return self._drawn[0]

    @property
    def masks(self) -> npt.NDArray[np.bool_]:
        """Visible mask of each object, bool, shape (N, T, H, W)."""
        return self._drawn[1]

    def target(self, expression: SynthExpression) -> npt.NDArray[np.bool_]:
        """Union of the masks that a sentence means, bool, shape (T, H, W)."""
        if not expression.objects:
            return np.zeros(self.masks.shape[1:], bool)
        return np.logical_or.reduce(self.masks[list(expression.objects)], axis=0)


def generate_clip(
    seed: int,
    *,
    frames: int = 33,
    height: int = 96,
    width: int = 160,
    expressions: int = 8,
    lookalikes: float = 0.6,
) -> SynthClip:
    """Make a clip from a seed.

    Parameters
    ----------
    seed : int
        Non-negative; equal arguments give equal clips.
    frames, height, width : int
        Length in frames (at least 1) and size in pixels (at least 32).
    expressions : int
        Sentences to write, at least 1.
    lookalikes : float
        Probability (0 to 1) of objects that only their motion tells apart.

    Returns
    -------
    SynthClip

    Raises
    ------
    InputError
        A number is out of range.
    """
    if seed < 0 or frames < 1 or expressions < 1 or min(height, width) < 32:
        raise InputError(
            f"Cannot make a clip of {frames} frames, {height}x{width} pixels, {expressions} "
            f"sentences, seed {seed}: use at least 1 frame, 32x32 pixels, 1 sentence, seed 0."
        )
    scene = sample_scene(seed, frames=frames, height=height, width=width, lookalikes=lookalikes)
    rng = np.random.default_rng([17, seed])
    return SynthClip(scene, tuple(describe(scene.objects, rng, expressions)))


def write_split(
    out: str | PathLike[str],
    *,
    videos: int = 10,
    seed: int = 0,
    frames: int = 33,
    height: int = 96,
    width: int = 160,
    expressions: int = 8,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Iterator[SynthClip]:
    """Write a MeViS-style split, yielding each clip once it is written.

    The split appears under `out` only when it is whole. Beside the standard files it
    holds ``synthetic.json``, which says for each sentence what kind it is.

    Parameters
    ----------
    out : path-like
        Folder of the split; must not exist yet or be empty.
    videos : int
        Number of clips.
    seed : int
        Clip ``i`` uses seed ``1000 * seed + i``.
    frames, height, width, expressions : int
        As in `generate_clip`.
    progress : callable, optional
        Receives a `Progress` after every clip.
    cancel : CancelToken, optional
        Checked before every clip.

    Yields
    ------
    SynthClip
        The clips, in order.
    """
    from flowrvs.data.mevis import MevisWriter

    if videos < 1 or videos > 1000:
        raise InputError(f"Cannot write {videos} videos: choose 1 to 1000, or several seeds.")
    clock = ProgressClock(videos)
    kinds: dict[str, dict[str, str]] = {}
    with MevisWriter(Path(out)) as writer:
        for index in range(videos):
            if cancel is not None:
                cancel.raise_if_cancelled()
            clip_seed = 1000 * seed + index
            clip = generate_clip(
                clip_seed, frames=frames, height=height, width=width, expressions=expressions
            )
            name = f"synth_{clip_seed:08d}"
            writer.add_video(
                name,
                clip.frames,
                objects=dict(enumerate(clip.masks)),
                expressions={
                    str(i): (e.text, list(e.objects)) for i, e in enumerate(clip.expressions)
                },
            )
            kinds[name] = {str(i): e.kind for i, e in enumerate(clip.expressions)}
            if index == videos - 1:
                writer.add_file("synthetic.json", json.dumps({"kinds": kinds}, indent=1))
            yield clip
            if progress is not None:
                progress(clock.advance(f"wrote {name}"))
