"""Videos with the masks laid over, to be looked at."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flowrvs.data.clip import painted
from flowrvs.video import encode

if TYPE_CHECKING:
    from flowrvs.data.job import Job

__all__ = ["write_overlay"]


def write_overlay(folder: Path, job: Job) -> None:
    """``<video>.mp4``, the masks laid over the frames in the objects' colours."""
    for clip in job.clips():
        masks = dict(enumerate(clip.masks.values(), start=1))
        encode.write_overlay(
            folder / f"{clip.name}.mp4",
            job.arrays(clip),
            map(partial(painted, masks, size=clip.size), range(len(clip.frames))),
            rate=clip.rate,
            colors=dict(enumerate((clip.colors[key] for key in clip.masks), start=1)),
        )
