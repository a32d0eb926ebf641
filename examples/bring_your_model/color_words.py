"""A segmenter that knows the names of colours, and a tracker that knows an object by its colour.

pip install examples/bring_your_model
flowrvs segment clip.mp4 -p "the red one" --model color-words
flowrvs pick clip.mp4 --frame 4 --point 30,20 --with color-follower
"""

from __future__ import annotations

import numpy as np

from flowrvs.protocols import Segmenter, TrackedObject, Tracker

COLORS = {"red": (200, 40, 40), "green": (40, 170, 60), "blue": (50, 80, 200)}
REACH = 80.0  # of 255: how far a pixel's colour may be from the object's


def nearness(frames, color):
    """Return log odds that pixels (..., 3) have a colour: 0 at the distance REACH."""
    apart = np.abs(np.asarray(frames, np.float32) - np.asarray(color, np.float32)).max(-1)
    return (6 * (1 - apart / REACH)).astype(np.float32)


class ColorWords(Segmenter):
    """Finds the colours that a sentence names; a sentence without any finds nothing."""

    name = "color-words-1"  # with other weights it would need another name
    window_size, overlap = 32, 0  # it sees every frame by itself

    def segment_window(self, frames, texts, *, steps=1, cancel=None, on_step=None):
        frames = np.asarray(frames)  # (T, H, W, 3) uint8
        for text in texts:
            if cancel is not None:
                cancel.raise_if_cancelled()
            named = [color for word, color in COLORS.items() if word in text.lower().split()]
            nothing = np.full(frames.shape[:3], -6, np.float32)
            yield np.max([nothing, *(nearness(frames, color) for color in named)], axis=0)


class ColorFollower(Tracker):
    """Learns the colour under marks, or under the masks of key frames."""

    name = "color-follower-1"

    def encode(self, image):
        return image.astype(np.float32)

    def pick(self, encoded, marks, previous=None):
        logits = np.full(encoded.shape[:2], -6, np.float32) if previous is None else previous
        for mark in marks:
            x, y = np.mean(mark.points, axis=0).astype(int)  # of a box its middle
            near = nearness(encoded, encoded[y, x])
            logits = np.maximum(logits, near) if mark.positive else np.minimum(logits, -near)
        return logits

    def follow(self, read, keys, frames, *, cancel=None):
        colors = {}  # by object: of all its key frames
        for t in keys:
            for object_id, mask in keys[t].items():
                if mask.any():  # an empty one says that it is not there
                    colors.setdefault(object_id, []).append(np.median(read(t)[mask], axis=0))
        for t in frames:
            if cancel is not None:
                cancel.raise_if_cancelled()
            found = {i: nearness(read(t), np.mean(seen, axis=0)) for i, seen in colors.items()}
            yield t, {i: TrackedObject(n, float((n > 0).any())) for i, n in found.items()}


def load_segmenter(name, *, device="auto", precision="auto"):
    return ColorWords()


def load_tracker(name, *, device="auto", precision="auto"):
    return ColorFollower()
