"""Scores of a training on videos that it does not see, by the official J and F."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object

from flowrvs.evaluation import score_masks
from flowrvs.pipelines import FlowRVSPipeline
from flowrvs.training.dataset import caption
from flowrvs.training.sources import Sentence, Source, TrainingVideo

__all__ = ["HeldOut", "choose_held_out", "held_out_sentences", "score_held_out"]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A sentence that is scored, on consecutive usable frames from the first on."""

    source: Source
    video: TrainingVideo
    sentence: Sentence
    frames: tuple[int, ...]


def choose_held_out(
    sources: Sequence[Source], share: float, most: int, seed: int
) -> frozenset[tuple[int, str]]:
    """Choose the videos that are held out, whole, so that none is trained on.

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
    return frozenset(videos[place] for place in order[:count])


def held_out_sentences(
    sources: Sequence[Source],
    held_out: frozenset[tuple[int, str]],
    most: int,
    frames: int,
) -> list[HeldOut]:
    """List the sentences that are scored: of each held-out video in turn, `most` in all."""
    chosen = [
        [HeldOut(source, video, sentence, sentence.frames[:frames]) for sentence in video.sentences]
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
    pipeline: FlowRVSPipeline, items: Sequence[HeldOut], accelerator: Accelerator
) -> dict[str, float]:
    """Score a pipeline; processes share the sentences.

    Returns
    -------
    dict of str to float
        ``J``, ``F`` and ``J&F``, fractions of 1; empty where there are no items.
    """
    if not items:
        return {}
    rows = []
    for item in items[accelerator.process_index :: accelerator.num_processes]:
        clip = np.stack(item.source.pictures(item.video, item.frames))
        truth = item.source.masks(item.video, item.sentence, item.frames)
        logits = list(pipeline.segment_window(clip, [caption(item.sentence.text)]))
        rows.append(score_masks(np.concatenate(logits) > 0, truth))
    if accelerator.num_processes > 1:
        rows = gather_object(rows)
    j, f = (float(np.mean([row[part] for row in rows])) for part in (0, 1))
    return {"J": j, "F": f, "J&F": (j + f) / 2}
