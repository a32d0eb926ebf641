"""Samples by number: the same number is the same clip, in any process and after any break.

One pass over the data (an epoch) has a sample for every sentence and every anchor, an anchor
being each n-th frame, n the clip's length, as published; sources with weights are repeated or
thinned out. Sample ``n`` follows from the seed and ``n`` alone: training resumes by going on
counting, and processes share the work by taking turns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from flowrvs.errors import InputError
from flowrvs.training.clips import Box, ClipPlan, choose_frames, plan_clip, swap_sides
from flowrvs.training.sources import Sentence, Source, TrainingVideo

__all__ = [
    "ClipSettings",
    "Draw",
    "Entries",
    "Sample",
    "SampleNumbers",
    "TrainingData",
    "caption",
    "read_mask",
    "read_objects",
    "read_video",
]


@dataclass(frozen=True, slots=True)
class ClipSettings:
    """How clips are drawn; see `flowrvs.training.config.CommonConfig`."""

    frames: int
    box: Box
    sampler: str = "sparse"
    crop: float = 0.5
    flip: float = 0.5
    colour: float = 0.0
    ground: float = 0.0
    no_target: bool = True
    seed: int = 0
    variants: int = 0
    objects: bool = False


@dataclass(frozen=True, slots=True)
class Draw:
    """What sample ``n`` is, before anything is read.

    Attributes
    ----------
    source : Source
    video : TrainingVideo
    sentence : Sentence
    plan : ClipPlan
    text : str
        The sentence as it is trained on: lower-cased, left and right exchanged if mirrored.
    clip_key, target_key : str
        Of the clip, and of the clip with what is meant in it.
    """

    source: Source
    video: TrainingVideo
    sentence: Sentence
    plan: ClipPlan
    text: str
    clip_key: str
    target_key: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample, read.

    Attributes
    ----------
    number : int
    text : str
    video : ndarray of uint8, shape (T, H, W, 3)
    mask : ndarray of bool, shape (T, H, W)
    clip_key, target_key : str
        See `Draw`.
    objects : ndarray of bool, shape (T, H, W), or None
        Whatever any sentence of the video means, if ``settings.objects``.
    """

    number: int
    text: str
    video: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.bool_]
    clip_key: str
    target_key: str
    objects: npt.NDArray[np.bool_] | None = None


def caption(text: str) -> str:
    """Return a sentence as it is trained on: lower case, single spaces (as published).

    Half a character (a lone surrogate), which JSON may hold and no tokenizer reads, becomes "?".
    """
    return " ".join(text.lower().split()).encode(errors="replace").decode()


@dataclass
class Entries:
    """What one source gives in one pass.

    Attributes
    ----------
    source : Source
    rows : ndarray of int32, shape (N, 3)
        Video, sentence, and position of the anchor in the sentence's frames.
    variants : int
        Different clips of each anchor; 0 draws a new one every time.
    count : int
        Samples of it in one pass over all data.
    once : bool
        Has so many videos that its clips are taken as they are.
    """

    source: Source
    rows: npt.NDArray[np.int32]
    variants: int = 0
    count: int = 0
    once: bool = False
    _order: tuple[int, npt.NDArray[np.int64]] | None = field(default=None, repr=False)

    def pick(self, k: int, seed: int, index: int) -> npt.NDArray[np.int32]:
        """Return the k-th row of an endless sequence in which each round is shuffled anew."""
        turn, place = divmod(k, len(self.rows))
        if self._order is None or self._order[0] != turn:
            rng = np.random.default_rng([seed, 1, index, turn])
            self._order = (turn, rng.permutation(len(self.rows)))
        return self.rows[self._order[1][place]]


class TrainingData:
    """Samples of several sources, by number; a map-style dataset without an end.

    Parameters
    ----------
    sources : sequence of Source
    settings : ClipSettings
    weights : sequence of float, optional
        Shares of the samples of a pass that come from each source; by default each gives all
        that it has.
    held_out : frozenset of (int, str)
        Index of the source and name of the videos that are not used.
    once : Source, optional
        Has so many videos that one variant of a clip is enough.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        settings: ClipSettings,
        *,
        weights: Sequence[float] | None = None,
        held_out: frozenset[tuple[int, str]] = frozenset(),
        once: Source | None = None,
    ) -> None:
        self.settings = settings
        self.entries = [
            Entries(
                source,
                _rows(source, index, settings, held_out),
                min(settings.variants, 1) if source is once else settings.variants,
                once=source is once,
            )
            for index, source in enumerate(sources)
        ]
        total = sum(len(entry.rows) for entry in self.entries)
        if not total:
            raise InputError("There is no sentence to train on in the data.")
        shares = _shares(weights, [len(entry.rows) for entry in self.entries])
        for entry, share in zip(self.entries, shares, strict=True):
            entry.count = max(1, round(total * share)) if share > 0 and len(entry.rows) else 0
        self.epoch_length = sum(entry.count for entry in self.entries)
        self._order: tuple[int, npt.NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return 2**62

    def texts(self) -> list[str]:
        """Return every sentence that a sample may have, mirrored ones included."""
        found: dict[str, None] = {}
        for entry in self.entries:
            for video, sentence in np.unique(entry.rows[:, :2], axis=0):
                text = caption(entry.source.videos[video].sentences[sentence].text)
                found[text] = None
                if self.settings.flip > 0:
                    found[swap_sides(text)] = None
        return list(found)

    def draw(self, number: int) -> Draw:
        """Return what sample `number` is, without reading it."""
        index, row = self._row(number)
        return self._draw(index, row, np.random.default_rng([self.settings.seed, 2, number]))

    def _row(self, number: int) -> tuple[int, npt.NDArray[np.int32]]:
        epoch, place = divmod(number, self.epoch_length)
        if self._order is None or self._order[0] != epoch:
            rng = np.random.default_rng([self.settings.seed, 0, epoch])
            self._order = (epoch, rng.permutation(self.epoch_length))
        place = int(self._order[1][place])
        for index, entry in enumerate(self.entries):
            if place < entry.count:
                k = epoch * entry.count + place
                return index, entry.pick(k, self.settings.seed, index)
            place -= entry.count
        raise AssertionError("the counts do not add up")

    def variant_draws(self) -> Iterator[Draw]:
        """Yield all that samples can be, where `Entries.variants` limit that."""
        rng = np.random.default_rng(0)  # not used: the variant decides everything
        for index, entry in enumerate(self.entries):
            for row in entry.rows if entry.count else ():
                for variant in range(entry.variants):
                    yield self._draw(index, row, rng, variant)

    def _draw(
        self,
        index: int,
        row: npt.NDArray[np.int32],
        rng: np.random.Generator,
        variant: int | None = None,
    ) -> Draw:
        settings, entry = self.settings, self.entries[index]
        source = entry.source
        video = source.videos[row[0]]
        sentence = video.sentences[row[1]]
        if entry.variants:
            # A clip of the anchor that other sentences about these frames share.
            label = f"{source.identity}|{video.name}|{hash_of(sentence.frames)}|{row[2]}"
            if variant is None:
                variant = int(rng.integers(entry.variants))
            rng = np.random.default_rng([settings.seed, 3, int(hash_of(label), 16), variant])
        frames = choose_frames(rng, sentence.frames, int(row[2]), settings.frames, settings.sampler)
        plan = plan_clip(
            rng,
            frames,
            source.size(video),
            settings.box,
            crop=settings.crop,
            flip=settings.flip,
            colour=settings.colour,
            ground=0.0 if entry.once else settings.ground,
        )
        text = caption(sentence.text)
        masks_key = hash_of(f"{source.identity}|{video.name}|{plan}")
        clip_key = hash_of(f"{masks_key}|{plan.ground}") if plan.ground else masks_key
        return Draw(
            source,
            video,
            sentence,
            plan,
            swap_sides(text) if plan.flip else text,
            clip_key,
            hash_of(
                f"{masks_key}|{sorted(sentence.objects)}"
                if sentence.objects
                else f"nothing|{len(frames)}|{plan.size}"  # the same in every clip
            ),
        )

    def candidates(self, number: int) -> Iterator[Draw]:
        """Yield what sample `number` is, then what stands in for it where nothing is meant."""
        yield self.draw(number)
        for attempt in range(50):
            rng = np.random.default_rng([self.settings.seed, 4, number, attempt])
            place = int(rng.integers(self.epoch_length))
            index, row = self._row(number // self.epoch_length * self.epoch_length + place)
            yield self._draw(index, row, rng)

    def __getitem__(self, number: int) -> Sample:
        for draw in self.candidates(number):
            mask = read_mask(draw)
            if self.settings.no_target or mask.any():
                break
        objects = read_objects(draw) if self.settings.objects else None
        return Sample(
            number, draw.text, read_video(draw), mask, draw.clip_key, draw.target_key, objects
        )


def read_video(draw: Draw) -> npt.NDArray[np.uint8]:
    """Read a clip, (T, H, W, 3)."""
    objects = read_objects(draw) if draw.plan.ground else None
    return draw.plan.apply_to_pictures(draw.source.pictures(draw.video, draw.plan.frames), objects)


def read_mask(draw: Draw) -> npt.NDArray[np.bool_]:
    """Read what is meant in a clip, (T, H, W)."""
    return draw.plan.apply_to_masks(draw.source.masks(draw.video, draw.sentence, draw.plan.frames))


def read_objects(draw: Draw) -> npt.NDArray[np.bool_]:
    """Read whatever any sentence of the video means, (T, H, W)."""
    every = tuple(sorted({i for s in draw.video.sentences for i in s.objects}))
    return read_mask(replace(draw, sentence=replace(draw.sentence, objects=every)))


class SampleNumbers:
    """Batches of sample numbers of one process, from a step on; for a data loader.

    Parameters
    ----------
    start, stop : int
        Steps.
    batch : int
        Samples a step in each process.
    rank, processes : int
        Which process this is, and of how many.
    """

    def __init__(self, start: int, stop: int, batch: int, rank: int = 0, processes: int = 1):
        self.start, self.stop, self.batch = start, stop, batch
        self.rank, self.processes = rank, processes

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.stop):
            first = (step * self.processes + self.rank) * self.batch
            yield list(range(first, first + self.batch))


def hash_of(value: object) -> str:
    """Return 24 hexadecimal digits that stand for a value's text."""
    return hashlib.sha256(str(value).encode()).hexdigest()[:24]


def _rows(
    source: Source, index: int, settings: ClipSettings, held_out: frozenset[tuple[int, str]]
) -> npt.NDArray[np.int32]:
    rows = []
    for v, video in enumerate(source.videos):
        if (index, video.name) in held_out:
            continue
        for s, sentence in enumerate(video.sentences):
            if not sentence.objects and not settings.no_target:
                continue
            rows += [(v, s, a) for a in range(0, len(sentence.frames), settings.frames)]
    return np.array(rows, np.int32).reshape(-1, 3)


def _shares(weights: Sequence[float] | None, lengths: Sequence[int]) -> list[float]:
    if weights is None:
        return [length / sum(lengths) for length in lengths]
    if len(weights) != len(lengths):
        raise InputError(f"There are {len(weights)} weights for {len(lengths)} sources of data.")
    if min(weights) < 0 or not 0 < sum(weights) < float("inf"):
        raise InputError("Weights are numbers of at least 0, and not all 0.")
    return [weight / sum(weights) for weight in weights]
