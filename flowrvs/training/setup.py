"""The data of a training on real clips: opened, divided, and what is held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowrvs.errors import InputError
from flowrvs.pipelines import FlowRVSPipeline
from flowrvs.training.clips import Box
from flowrvs.training.config import CommonConfig
from flowrvs.training.dataset import ClipSettings, TrainingData, caption
from flowrvs.training.sources import Source, open_sources
from flowrvs.training.validation import HeldOut, choose_held_out, held_out_sentences

__all__ = ["PreparedData", "prepare_data"]


@dataclass(frozen=True)
class PreparedData:
    """Opened data, divided.

    Attributes
    ----------
    sources : list of Source
        Those without sentences, which only say what was left out, are the last.
    train : TrainingData
    held_out : list of HeldOut
        What is scored.
    identity : list
        What a resumed training must find again.
    rehearsal : Source or None
        The source of what the model knew before; the others are what it learns.
    """

    sources: list[Source]
    train: TrainingData
    held_out: list[HeldOut]
    identity: list[Any]
    rehearsal: Source | None = None

    def texts(self) -> list[str]:
        """Return every sentence that is trained on or scored."""
        scored = [caption(item.sentence.text) for item in self.held_out]
        return list(dict.fromkeys([*self.train.texts(), *scored]))

    def card(self) -> dict[str, Any]:
        """Return what a result's card says of the data."""
        entries = [e for e in self.train.entries if e.source is not self.rehearsal]
        return {
            "data": [entry.source.label for entry in entries],
            "videos": sum(len({int(v) for v in entry.rows[:, 0]}) for entry in entries),
            "samples": sum(len(entry.rows) for entry in entries),
            "held_out_sentences": sum(not item.kind for item in self.held_out),
            "rehearsed": None if self.rehearsal is None else self.rehearsal.label,
            "left_out": {
                reason: sum(source.skipped.get(reason, 0) for source in self.sources)
                for source in self.sources
                for reason in source.skipped
            },
        }


def prepare_data(
    paths: Sequence[str | Path],
    config: CommonConfig,
    pipeline: FlowRVSPipeline,
    *,
    weights: Sequence[float] | None = None,
    variants: int = 0,
    objects: bool = False,
    rehearsal: Source | None = None,
    rehearsal_share: float = 0.5,
) -> PreparedData:
    """Open the data, hold some videos out, and say how clips are drawn.

    Parameters
    ----------
    paths : sequence of path-like
        See `flowrvs.training.sources.open_sources`.
    config : CommonConfig
    pipeline : FlowRVSPipeline
        Its box is the default size of clips.
    weights : sequence of float, optional
        One a path.
    variants : int
        Different clips of each anchor; 0 draws a new one every time.
    objects : bool
        Read whatever any sentence of a video means, too.
    rehearsal : Source, optional
        See `flowrvs.training.train_flow`.
    rehearsal_share : float
        Of the samples; `paths` share the others.

    Raises
    ------
    InputError
        Nothing to train on, or numbers that do not fit together.
    """
    if not paths:
        raise InputError("There is no data; give --data PATH.")
    if weights is not None and len(weights) != len(paths):
        raise InputError(f"There are {len(weights)} weights for {len(paths)} paths of data.")
    confirmed = config.project_frames == "confirmed"
    sources: list[Source] = []
    silent: list[Source] = []  # they only say what was left out: no sample depends on them
    path_of: list[int] = []
    for place, path in enumerate(paths):
        opened = open_sources(path, confirmed=confirmed, split=config.split)
        found = [source for source in opened if source.videos]
        silent += [source for source in opened if not source.videos]
        sources += found
        path_of += [place] * len(found)
    share, most = config.validation_share, config.validation_sentences
    held_out = choose_held_out(sources, share, most, config.seed)
    scored = held_out_sentences(sources, held_out, most, pipeline.window_size)
    # What is held out takes no part of its path's share along.
    sizes = [_size(source, index, held_out) for index, source in enumerate(sources)]
    shares: list[float] | None = None
    if weights is not None:
        total = [sum(s for s, p in zip(sizes, path_of, strict=True) if p == k) for k in path_of]
        shares = [weights[p] * s / max(t, 1) for p, s, t in zip(path_of, sizes, total, strict=True)]
    if rehearsal is not None:
        own = shares or sizes
        shares = [(1 - rehearsal_share) * value / sum(own) for value in own] + [rehearsal_share]
        # Scored alone it would choose the state that has learned least.
        known = choose_held_out([rehearsal], float(bool(held_out)), max(1, most // 6), config.seed)
        scored += held_out_sentences([rehearsal], known, most, pipeline.window_size, kind="old ")
        held_out |= {(len(sources), name) for _, name in known}
        sources.append(rehearsal)
    settings = ClipSettings(
        frames=config.frames,
        box=_box(config, pipeline),
        sampler=config.sampler,
        crop=config.crop_probability,
        flip=config.flip_probability,
        colour=config.colour_probability,
        ground=config.ground_colour_probability,
        no_target=config.no_target,
        seed=config.seed,
        variants=variants,
        objects=objects,
    )
    data = TrainingData(sources, settings, weights=shares, held_out=held_out, once=rehearsal)
    # Not the whole paths: data may be moved while a training rests.
    identity = [
        [Path(entry.source.label).name, len(entry.rows), entry.count] for entry in data.entries
    ]
    return PreparedData([*sources, *silent], data, scored, [identity, variants], rehearsal)


def _size(source: Source, index: int, held_out: frozenset[tuple[int, str]]) -> int:
    return sum(len(v.sentences) for v in source.videos if (index, v.name) not in held_out)


def _box(config: CommonConfig, pipeline: FlowRVSPipeline) -> Box:
    sides = sorted((int(pipeline.config.sample_height), int(pipeline.config.sample_width)))
    short, long = config.short_side or sides[0], config.long_side or sides[1]
    token = pipeline.token_pixels
    multiple = config.size_multiple or token
    if multiple % token:
        raise InputError(f"size_multiple is {multiple}; this model needs a multiple of {token}.")
    if short < multiple or long < short:
        raise InputError(
            f"short_side {short} and long_side {long} do not fit: at least {multiple}, and the "
            "long side no less than the short one."
        )
    return Box(short, long, multiple)
