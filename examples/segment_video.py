"""Find what sentences describe in a video and write a picture of it.

    python examples/segment_video.py VIDEO "the red circle" ["the big square" ...]

Without arguments it takes a clip of the synthetic world. Writes overlay.mp4 here.
"""

from __future__ import annotations

import sys

import numpy as np

import flowrvs
from flowrvs.data.synthetic import generate_clip
from flowrvs.video.encode import write_overlay


def main(source: str | None = None, *texts: str) -> None:
    """Segment `source` and write ``overlay.mp4``."""
    clip = generate_clip(7)
    sentences = list(texts) or [clip.expressions[0].text]
    pipe = flowrvs.load("tiny")
    with flowrvs.open_video(source or clip.frames) as video:
        labels = np.zeros((len(video), video.info.height, video.info.width), np.uint8)
        for part in flowrvs.segment(video, sentences, pipe):
            labels[part.start : part.stop][part.masks] = part.expression + 1
            share = part.masks.mean()
            print(
                f"{sentences[part.expression]!r}: frames {part.start} to {part.stop - 1}, "
                f"{share:.1%} of the pixels"
            )
        frames = video.read(0, len(video))
        write_overlay("overlay.mp4", frames, labels, rate=video.info.rate or 12.0)
    print("Look at overlay.mp4")


if __name__ == "__main__":
    main(*sys.argv[1:])
