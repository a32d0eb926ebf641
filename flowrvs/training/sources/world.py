"""The synthetic world as training data: what the bundled model knows, drawn when it is read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from flowrvs.data.synth_scene import Scene, render_scene, sample_scene
from flowrvs.data.synthetic import TRAINING_SEED_BASE, describe
from flowrvs.training.sources.base import Picture, Sentence, TrainingVideo

__all__ = ["WorldSource"]

_FRAMES = 33
#: Neighbouring frames of each scene that are shown: other scenes teach more than other stretches.
_SHOWN = 17


class WorldSource:
    """Scenes of the synthetic world; see `Source`. No file is read or written.

    Parameters
    ----------
    scenes : int
        How many.
    height, width : int
        In pixels.
    """

    def __init__(self, scenes: int, height: int, width: int) -> None:
        self.label = "synthetic world"
        self.identity = f"world:{scenes}:{height}x{width}"
        self.skipped: dict[str, int] = {}
        self._size = (height, width)
        videos = []
        for number in range(scenes):
            scene = self._scene(str(number))
            rng = np.random.default_rng([17, scene.seed])
            said = describe(scene.objects, rng)
            first = int(rng.integers(_FRAMES - _SHOWN + 1))
            shown = tuple(range(first, first + _SHOWN))
            sentences = tuple(Sentence(s.text, s.objects, shown) for s in said)
            videos.append(TrainingVideo(str(number), sentences))
        self.videos = tuple(videos)

    def _scene(self, name: str) -> Scene:
        seed = 70 * TRAINING_SEED_BASE + int(name)
        return sample_scene(seed, frames=_FRAMES, height=self._size[0], width=self._size[1])

    def size(self, video: TrainingVideo) -> tuple[int, int]:
        """Return height and width of a video's pictures."""
        return self._size

    def pictures(self, video: TrainingVideo, frames: Sequence[int]) -> list[Picture]:
        """Draw frames of a scene."""
        return list(_draw(self._scene(video.name), tuple(frames))[0])

    def masks(
        self, video: TrainingVideo, sentence: Sentence, frames: Sequence[int]
    ) -> npt.NDArray[np.bool_]:
        """Return the union of the objects' masks, (T, H, W)."""
        masks = _draw(self._scene(video.name), tuple(frames))[1]
        return np.logical_or.reduce(masks[list(sentence.objects)], axis=0)


@lru_cache(maxsize=16)
def _draw(
    scene: Scene, frames: tuple[int, ...]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Pictures and masks are asked for one after the other: both are drawn once."""
    return render_scene(scene, frames)
