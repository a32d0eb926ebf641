"""Scores of a training on videos that it does not see, by the official J and F."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image, ImageDraw
from scipy import ndimage

from flowrvs.disk import replacing
from flowrvs.evaluation import score_masks
from flowrvs.pipelines import FlowRVSPipeline
from flowrvs.progress import CancelToken
from flowrvs.training.dataset import caption
from flowrvs.training.sources import Sentence, Source, TrainingVideo

__all__ = ["HeldOut", "choose_held_out", "held_out_sentences", "score_held_out"]

#: Pairs of frames in the picture of a validation.
_EXAMPLES = 4
_COLOUR = np.array([190, 255, 0], np.float32)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A sentence that is scored, on consecutive usable frames from the first on.

    Attributes
    ----------
    source : Source
    video : TrainingVideo
    sentence : Sentence
    frames : tuple of int
    kind : str
        Put before the names of its scores: "" or "old ", of what the model knew before.
    """

    source: Source
    video: TrainingVideo
    sentence: Sentence
    frames: tuple[int, ...]
    kind: str = ""


def choose_held_out(
    sources: Sequence[Source], share: float, most: int, seed: int
) -> frozenset[tuple[int, str]]:
    """Choose the videos that are held out, whole, so that none is trained on.

    What other sources say of the same pictures (RefCOCO+ of those of RefCOCO, two projects of a
    video) is not trained on either.

    Parameters
    ----------
    sources : sequence of Source
    share : float
        Of the videos; of two or more at least one is held out and one is left.
    most : int
        Videos at most.
    seed : int

    Returns
    -------
    frozenset of (int, str)
        Index of the source and name of the video.
    """
    videos = [(i, video.name) for i, source in enumerate(sources) for video in source.videos]
    if share <= 0 or len(videos) < 2:
        return frozenset()
    count = min(max(1, round(share * len(videos))), most, len(videos) - 1)
    order = np.random.default_rng([seed, 5]).permutation(len(videos))
    chosen = frozenset(videos[place] for place in order[:count])
    every = [(i, video) for i, source in enumerate(sources) for video in source.videos]
    shown = {video.origin for i, video in every if video.origin and (i, video.name) in chosen}
    chosen |= {(i, video.name) for i, video in every if video.origin in shown}
    return chosen if len(chosen) < len(videos) else frozenset()


def held_out_sentences(
    sources: Sequence[Source],
    held_out: frozenset[tuple[int, str]],
    most: int,
    frames: int,
    kind: str = "",
) -> list[HeldOut]:
    """List the sentences that are scored: of each held-out video in turn, `most` in all."""
    chosen = [
        [HeldOut(source, video, s, s.frames[:frames], kind) for s in video.sentences]
        for index, source in enumerate(sources)
        for video in source.videos
        if (index, video.name) in held_out
    ]
    found: list[HeldOut] = []
    turn = 0
    while len(found) < most and any(turn < len(row) for row in chosen):
        found += [row[turn] for row in chosen if turn < len(row)]
        turn += 1
    # One after the other by video: a clip is read and encoded once for its sentences.
    return sorted(found[:most], key=lambda item: (item.source.identity, item.video.name))


def score_held_out(
    pipeline: FlowRVSPipeline,
    items: Sequence[HeldOut],
    accelerator: Accelerator,
    picture: Path | None = None,
    cancel: CancelToken | None = None,
) -> dict[str, float]:
    """Score a pipeline; processes share the sentences.

    Parameters
    ----------
    pipeline : FlowRVSPipeline
    items : sequence of HeldOut
    accelerator : Accelerator
    picture : Path, optional
        A PNG of what was seen, written by the main process.
    cancel : CancelToken, optional
        Checked before each sentence; of several processes none may stop alone.

    Returns
    -------
    dict of str to float
        ``J``, ``F`` and ``J&F``, fractions of 1, of each kind of items; empty where there are
        none.

    Raises
    ------
    Cancelled
        On request.
    """
    rows: list[tuple[str, float, float]] = []
    examples = Examples()
    for item in items[accelerator.process_index :: accelerator.num_processes]:
        if cancel is not None and accelerator.num_processes == 1:
            cancel.raise_if_cancelled()
        clip = np.stack(item.source.pictures(item.video, item.frames))
        truth = item.source.masks(item.video, item.sentence, item.frames)
        logits = list(pipeline.segment_window(clip, [caption(item.sentence.text)]))
        masks = np.concatenate(logits) > 0
        rows.append((item.kind, *score_masks(masks, truth)))
        examples.add(item, clip, masks, truth)
    if picture is not None and accelerator.is_main_process and items:
        examples.write(picture)
    if accelerator.num_processes > 1:
        rows = gather_object(rows)
    scores: dict[str, float] = {}
    for kind in dict.fromkeys(item.kind for item in items):
        of_kind = [row[1:] for row in rows if row[0] == kind]
        j, f = (float(np.mean([row[part] for row in of_kind])) for part in (0, 1))
        scores |= {f"{kind}J": j, f"{kind}F": f, f"{kind}J&F": (j + f) / 2}
    return scores


class Examples:
    """A picture of a few held-out frames: as they are with the truth, and with the masks."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, npt.NDArray[np.uint8]]] = []
        self._videos: set[str] = set()

    def add(
        self,
        item: HeldOut,
        clip: npt.NDArray[np.uint8],
        masks: npt.NDArray[np.bool_],
        truth: npt.NDArray[np.bool_],
    ) -> None:
        """Take an item in, unless there are enough, or its video is there already."""
        if item.kind or len(self._rows) == _EXAMPLES or not truth.any():
            return
        if item.video.name in self._videos:
            return
        self._videos.add(item.video.name)
        middle = int(truth.sum((1, 2)).argmax())
        sides = [_overlay(clip[middle], mask[middle]) for mask in (truth, masks)]
        self._rows.append((item.sentence.text, np.concatenate(sides, axis=1)))

    def write(self, path: Path) -> None:
        """Write the picture: a line of text above each pair, the truth on the left."""
        width, line = 320, 14
        pairs = [
            Image.fromarray(pair).resize((width, max(1, round(len(pair) * width / pair.shape[1]))))
            for _, pair in self._rows
        ]
        sheet = Image.new("RGB", (width, sum(pair.height + line for pair in pairs) or 1), "black")
        top = 0
        for (text, _), pair in zip(self._rows, pairs, strict=True):
            said = text.encode("latin-1", "replace").decode("latin-1")  # what the font has
            ImageDraw.Draw(sheet).text((2, top + 1), said[:56], fill="white")
            sheet.paste(pair, (0, top + line))
            top += line + pair.height
        with replacing(path, durable=False) as part:
            sheet.save(part, format="PNG")


def _overlay(frame: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """A tint where the mask is, and its outline."""
    shown = frame.astype(np.float32)
    shown[mask] = 0.7 * shown[mask] + 0.3 * _COLOUR
    shown[mask & ~ndimage.binary_erosion(mask, iterations=2)] = _COLOUR
    return shown.astype(np.uint8)
