"""How well doubt finds bad frames: every measure alone, and all of them together.

Masks that err are ranked by `flowrvs.editing.doubt` and compared with the truth:

- *model*: the bundled model segments long synthetic clips, sentence by sentence, as
  ``flowrvs segment --confidence`` does;
- *spread*: one exact frame of the real clip is spread over all of it and drifts away. (The
  bundled model finds nothing in the real clip: there is nothing to rank.)

A frame is bad where J < 0.9. AUC is the probability that a bad frame is more doubtful than
a good one (one half is chance), `first tenth` the share of bad frames among the tenth of the
frames that is most doubtful, against their share in all; rho is Spearman's correlation of
doubt and 1 - J. All are means over sequences of one object; AUC counts those of which a tenth
of the frames at least is good, and a tenth bad, and rho those whose J is not the same
everywhere.

    python benchmarks/bench_doubt.py [--clips N] [--frames N] [--seed N] [--chair DIR]

Seeds from 501 on are not those with which the measures were weighed (500, 600 to 605).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from annotator import CHAIR, GOOD, chair, jaccard
from scipy.stats import rankdata, spearmanr

import flowrvs
from flowrvs import editing
from flowrvs.inference import segment_into
from flowrvs.masks import doubt as measures
from flowrvs.masks.propagate import propagate
from flowrvs.store import Project
from flowrvs.video import Video

Masks = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating]


@dataclass
class Found:
    """Doubts of one object, by measure, and how good its masks are."""

    name: str
    scores: Floats
    doubts: dict[str, Floats] = field(default_factory=dict)
    seconds: float = 0.0


def look(
    name: str,
    project: Project,
    flows: editing.Flows,
    object_id: int,
    truth: Masks,
    certainty: dict[int, float] | None = None,
) -> Found:
    """Measure an object's doubts, one by one and together."""
    total = len(truth)
    masks = project.object_mask(object_id, 0, total)
    found = Found(name, np.array([jaccard(m, t) for m, t in zip(masks, truth, strict=True)]))
    began = time.perf_counter()
    values = editing.doubt(project, object_id, flows=flows, certainty=certainty)
    found.doubts["together"] = np.array([value for _, value in values])
    found.seconds = time.perf_counter() - began
    found.doubts["quick"] = editing.quick_doubt(project, object_id, certainty=certainty)
    layer = project.objects[object_id].layer
    confidence = project.confidence(layer, 0, total)
    if confidence is not None:
        pairs = zip(confidence, masks, strict=True)
        found.doubts["margin"] = np.array([measures.margin(c, m) or 0.0 for c, m in pairs])
    apart = project.disagreement(object_id, between=True)
    if np.isfinite(apart).any():
        found.doubts["windows"] = np.nan_to_num(apart)
    found.doubts["area"] = measures.area_jumps(project.areas(object_id))
    near = [-measures.FAR, -1, 0, 1, measures.FAR]
    found.doubts["warp"] = np.array(
        [
            measures.warp_disagreement(
                flows, t, {t + n: masks[t + n] for n in near if 0 <= t + n < total}
            )
            for t in range(total)
        ]
    )
    found.doubts["edge"] = np.array(
        [measures.edge_likeness(flows, t, masks[t]) for t in range(total)]
    )
    if certainty is not None:
        found.doubts["spread"] = np.array([1 - certainty.get(t, 1.0) for t in range(total)])
    return found


def by_model(clips: int, frames: int, seed: int) -> Iterator[Found]:
    """Segment synthetic clips, and look at every sentence."""
    from flowrvs.data.synthetic import generate_clip

    pipe = flowrvs.load("tiny")
    for number in range(seed, seed + clips):
        clip = generate_clip(number, frames=frames, height=192, width=320)
        with (
            tempfile.TemporaryDirectory() as folder,
            flowrvs.open_video(clip.frames) as video,
            Project.create(Path(folder) / "a.flowrvs", video.info) as project,
        ):
            texts = [each.text for each in clip.expressions]
            for _ in segment_into(project, video, texts, pipe, keep_confidence=True):
                pass
            flows = editing.Flows(video)
            for each in clip.expressions:
                exp_id = next(e.exp_id for e in project.expressions.values() if e.text == each.text)
                (object_id,) = project.expressions[exp_id].object_ids
                yield look(f"{number} {each.text}", project, flows, object_id, clip.target(each))


def by_spread(
    frames: npt.NDArray[np.uint8], truth: Masks, keys: dict[str, tuple[int, Masks]]
) -> Iterator[Found]:
    """Spread single key frames over a clip and look at what drifted."""
    with (
        tempfile.TemporaryDirectory() as folder,
        flowrvs.open_video(frames) as video,
        Project.create(Path(folder) / "a.flowrvs", video.info) as project,
    ):
        flows = editing.Flows(video)
        for name, (t, mask) in keys.items():
            yield look_at_spread(name, project, video, flows, t, mask, truth)


def look_at_spread(
    name: str,
    project: Project,
    video: Video,
    flows: editing.Flows,
    t: int,
    mask: Masks,
    truth: Masks,
) -> Found:
    thing = project.add_object(name, project.add_layer(name).id)
    certainty = {}
    masks = np.zeros_like(truth)
    masks[t] = mask
    for part in propagate(flows, {t: mask}):
        masks[part.frame], certainty[part.frame] = part.mask, part.certainty
    project.write_model(thing.layer, thing.id, 0, masks)
    return look(name, project, flows, thing.id, truth, certainty)


def auc(doubts: Floats, bad: npt.NDArray[np.bool_]) -> float:
    few, many = np.count_nonzero(bad), np.count_nonzero(~bad)
    if min(few, many) < 0.1 * len(bad):
        return np.nan
    return float((rankdata(doubts)[bad].sum() - few * (few + 1) / 2) / (few * many))


def first_tenth(doubts: Floats, bad: npt.NDArray[np.bool_]) -> float:
    first = np.argsort(-doubts, kind="stable")[: max(1, len(doubts) // 10)]
    return float(bad[first].mean())


def rho(doubts: Floats, scores: Floats) -> float:
    if np.ptp(scores) == 0 or np.ptp(doubts) == 0:
        return np.nan
    return float(spearmanr(doubts, 1 - scores).statistic)


def tell(kind: str, all_of_it: list[Found]) -> None:
    bad = [each.scores < GOOD for each in all_of_it]
    frames = sum(len(each.scores) for each in all_of_it)
    print(
        f"\n{kind}: {len(all_of_it)} sequences, {frames} frames, mean J "
        f"{np.mean([each.scores.mean() for each in all_of_it]):.2f}, bad "
        f"{np.mean([b.mean() for b in bad]):.2f}, "
        f"{1000 * sum(each.seconds for each in all_of_it) / frames:.0f} ms a frame"
    )
    names = list(dict.fromkeys(name for each in all_of_it for name in each.doubts))
    for name in names:
        pairs = [(e.doubts[name], e.scores) for e in all_of_it if name in e.doubts]
        rows = [
            [auc(d, s < GOOD), auc(d, s < 0.5), first_tenth(d, s < GOOD), rho(d, s)]
            for d, s in pairs
        ]
        means = [
            np.nanmean(column) if np.isfinite(column).any() else np.nan
            for column in np.array(rows, float).T
        ]
        print(
            f"  {name:10} AUC {means[0]:.3f}  (J < 0.5: {means[1]:.3f})  "
            f"first tenth {means[2]:.2f}  rho {means[3]:.3f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=3, help="synthetic clips")
    parser.add_argument("--frames", type=int, default=160, help="their length")
    parser.add_argument("--seed", type=int, default=501, help="seed of the first")
    parser.add_argument("--chair", type=Path, default=CHAIR, help="folder of the real clip")
    args = parser.parse_args()
    real = chair(args.chair)
    if real is None:
        print(f"{args.chair} is not there: without the real clip")
    else:
        frames, truth = real
        exact = {f"from frame {t}": (t, truth[t]) for t in (0, 15, 30, 45, 59)}
        tell("spread", list(by_spread(frames, truth, exact)))
    if args.clips:
        tell("model", list(by_model(args.clips, args.frames, args.seed)))


if __name__ == "__main__":
    main()
