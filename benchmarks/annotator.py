"""How much work corrections are: a simulated person, frame by frame and with our tools.

The person wants every frame of an object to have J >= 0.9 (an absent object: an empty mask).
To touch a frame is to correct its wrong parts, the largest first, until J >= 0.98; to mark
an object absent on a run of frames counts as one touch and one stroke.

- *frame by frame*: go through the frames in order and touch each that is not good enough.
- *tools*: look at the frame that the review queue shows; accept it if it is good enough, else
  touch it and spread what was drawn into the frames around it, up to the person's next ones.
  In an empty project the first frame is one on which she sees the object.

The tools are measured twice on the way. *To the end*: until every frame is good enough, which
nobody knows who has not looked at all of them; this is what is compared with frame by frame.
*On her own*: she knows how good a frame is only while she looks at it, and stops when 5, 10 or
20 frames of the queue in a row were good enough, or none is left. What is still worse than
that then is counted, and how good all frames are. The ends of a run on which she marks the
object as absent are looked at, too.

A stroke is a drag of at most 300 pixels. To correct a connected part of the difference, or
to draw an object on an empty frame, is to go around its outline: its length / 300 strokes, at
least 1.

What the person starts from: nothing; masks of the bundled model (``--model``); or the truth
degraded as models err, from a seed: an edge that is off by up to 2 pixels and wanders slowly,
runs of frames in which the object is lost, loses a third of itself, or takes in a neighbour
or a part of what is around it. About half of the frames are not good enough then.

    python benchmarks/annotator.py [--clips N] [--first SEED] [--frames N] [--model] [--chair DIR]
                                   [--flow]

``--clicks`` compares ways to correct a frame instead, from nothing, with seconds of the person
(stated costs: a click or a box 1.5 s, a stroke 3 s, a corner of a polygon 1.2 s, a key 0.5 s, a
look at a frame 1 s): *brush* until J >= 0.98; *polygon* (the fewest corners that suffice for 0.93,
placed perfectly); *clicks*, where `flowrvs.editing.pick` answers, which knows the project and the
motion. Whoever draws clears the frame (a key) and draws the object anew where that takes no more
strokes than mending it. Who clicks begins with a box where nothing is known of the object, and
looks whether a click spares strokes; after two in a row that did not, the rest is drawn, until
J >= 0.98. All of it frame by frame and with the tools, from the first frame on which the
object is seen (``--begin 0.5``: the middle one). ``--davis DIR
[--names NAME ...]`` adds real clips in the layout of DAVIS, all objects of a picture as one.

The chair is the real clip (``../shared/data/chair`` beside the checkout); it is left out
where it is absent. Seconds are those of the tools, on one core as far as the libraries obey
OMP_NUM_THREADS.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter1d
from skimage.measure import label, perimeter
from skimage.morphology import dilation, disk, erosion

import flowrvs
from flowrvs import editing
from flowrvs.masks.doubt import FAR
from flowrvs.masks.flow import Flows, has_dis
from flowrvs.masks.propagate import propagate
from flowrvs.store import ObjectRecord, Project, Provenance
from flowrvs.video import Video

Masks = npt.NDArray[np.bool_]
GOOD = 0.9
DRAWN = 0.98
ENOUGH = 0.93  # of a polygon
CLICK, STROKE, CORNER, KEY, LOOK = 1.5, 3.0, 1.2, 0.5, 1.0  # seconds
REACH = 60  # frames to each side that a spread is asked for
PATIENCE = (5, 10, 20)  # good frames in a row after which a person stops
CHAIR = Path(__file__).resolve().parents[2] / "shared" / "data" / "chair"


@dataclass
class Labour:
    touched: int = 0
    looked: int = 0
    strokes: int = 0
    clicks: int = 0
    corners: int = 0
    keys: int = 0  # beside one to keep a frame and one to go on: a clear, an undo
    seconds: float = 0.0
    left: int = 0  # frames that are still not good enough
    quality: float = 1.0  # mean J

    @property
    def person(self) -> float:
        """Seconds of the person, at the stated costs."""
        keys = self.touched + self.looked + self.keys
        return (
            CLICK * self.clicks
            + STROKE * self.strokes
            + CORNER * self.corners
            + KEY * keys
            + LOOK * self.looked
        )


def jaccard(a: Masks, b: Masks) -> float:
    either = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / either if either else 1.0


def redraw(before: Masks, truth: Masks, good: float = DRAWN) -> tuple[Masks, int]:
    """Return a mask as a person corrects it, and the strokes that it takes."""
    if not truth.any():
        return truth, int(before.any())
    parts = label(before ^ truth, connectivity=2)
    sizes = np.bincount(parts.ravel())
    mask, strokes = before.copy(), 0
    for part in 1 + np.argsort(-sizes[1:], kind="stable"):
        if jaccard(mask, truth) >= good:
            break
        here = parts == part
        mask[here] = truth[here]
        strokes += max(1, int(np.ceil(perimeter(here, 8) / 300)))
    return mask, strokes


@dataclass(frozen=True)
class Place:
    """Where something is drawn."""

    project: Project
    video: Video
    thing: ObjectRecord
    t: int
    flows: editing.Flows


#: Corrects a mask, and notes the work: ``way(place, before, truth, work)``.
Way = Callable[[Place, Masks, Masks, Labour], Masks]


def brush(place: Place, before: Masks, truth: Masks, work: Labour) -> Masks:
    """Draw with the brush."""
    mask, strokes, keys = drawn(before, truth)
    work.strokes += strokes
    work.keys += keys
    return mask


def drawn(before: Masks, truth: Masks) -> tuple[Masks, int, int]:
    """Return a mask mended, or cleared and drawn anew where that takes no more strokes.

    With the strokes and the keys that it takes.
    """
    mask, strokes = redraw(before, truth)
    if before.any() and truth.any():
        anew, count = redraw(np.zeros_like(before), truth)
        if count <= strokes:
            return anew, count, 1
    return mask, strokes, 0


def polygon(place: Place, before: Masks, truth: Masks, work: Labour) -> Masks:
    """Draw anew with the fewest corners, or with the brush where that is quicker."""
    from bench_pick import corners

    mask, strokes = redraw(before, truth, ENOUGH)
    count = corners(truth, ENOUGH) if truth.any() else 0
    if not truth.any() or STROKE * strokes <= CORNER * count:
        work.strokes += strokes
        return mask
    work.corners += count
    return simplified(truth)


def simplified(truth: Masks) -> Masks:
    """Return about the mask that a polygon of that quality has: smooth where the truth is not."""
    for radius in range(8, 0, -1):
        rough = dilation(erosion(truth, disk(radius)), disk(radius))
        if jaccard(rough, truth) >= ENOUGH:
            return rough
    return truth


def clicks(place: Place, before: Masks, truth: Masks, work: Labour) -> Masks:
    """Click on the largest wrong part while that spares strokes; else take the brush.

    Where nothing is known of the object, a box comes first. A click that makes it no better is
    undone; after two that spare no stroke the person has seen enough.
    """
    from bench_pick import box_around, next_click

    from flowrvs.editing.pick import open_picker

    if not truth.any():
        work.strokes += int(before.any())
        return truth
    picker = open_picker(place.project, place.video, place.t, place.thing.id, flows=place.flows)
    best, undone, idle = picker.mask if picker.mask.any() else before, [], 0
    left = drawn(best, truth)
    while left[1] * STROKE > CLICK and idle < 2:
        marks = [*picker.marks, *undone]
        mark = next_click(best, truth, marks) if best.any() or marks else box_around(truth)
        mask = picker.add(mark)
        work.clicks += 1
        after = drawn(mask, truth)
        idle = 0 if after[1] < left[1] else idle + 1
        if after[1] <= left[1] and jaccard(mask, truth) > jaccard(best, truth):
            best, left = mask, after
        else:
            picker.undo()
            undone.append(mark)
            work.keys += 1
    mask, strokes, keys = left
    work.strokes += strokes
    work.keys += keys
    return mask


WAYS: dict[str, Way] = {"brush": brush, "polygon": polygon, "clicks": clicks}


def every_frame(frames: npt.NDArray[np.uint8], truth: Masks, way: Way) -> Labour:
    """Return the work of drawing every frame by itself, from nothing."""
    work, js = Labour(), []
    with (
        tempfile.TemporaryDirectory() as folder,
        flowrvs.open_video(frames) as video,
        Project.create(Path(folder) / "a.flowrvs", video.info) as project,
    ):
        thing = project.add_object("object", project.add_layer("layer").id)
        flows = editing.Flows(video)
        for t in range(len(truth)):
            work.looked += 1
            if truth[t].any():
                work.touched += 1
                blank = np.zeros_like(truth[t])
                drawn = way(Place(project, video, thing, t, flows), blank, truth[t], work)
                js.append(jaccard(drawn, truth[t]))
    return replace(work, quality=float(np.mean(js)))


def ways(
    name: str, frames: npt.NDArray[np.uint8], truth: Masks, begin: float, kinds: list[str]
) -> dict[str, list[float]]:
    """Print what every way costs on a clip, frame by frame (every fifth) and not; in seconds."""
    result: dict[str, list[float]] = {}
    for kind in kinds:
        way, some = WAYS[kind], truth[::5]
        alone = every_frame(frames[::5], some, way)
        seconds = alone.person * len(truth) / len(some)
        ours, _ = with_tools(frames, np.zeros_like(truth), truth, way, begin)
        result[kind] = [seconds, ours.person]
        print(
            f"{name:14} {kind:14} frame by frame {seconds:6.0f} s (J {alone.quality:.3f})"
            f" | tools {ours.person:5.0f} s: touched {ours.touched:3}, looked {ours.looked:3}, "
            f"clicks {ours.clicks:3}, strokes {ours.strokes:3}, corners {ours.corners:3}, "
            f"J {ours.quality:.3f}, left {ours.left} | {ours.seconds:.0f} s of processor",
            flush=True,
        )
    return result


def frame_by_frame(start: Masks, truth: Masks) -> Labour:
    work = Labour()
    t = 0
    while t < len(truth):
        work.looked += 1
        if jaccard(start[t], truth[t]) < GOOD:
            work.touched += 1
            work.strokes += drawn(start[t], truth[t])[1]
            if not truth[t].any():  # marking a run as absent is in every tool
                while t + 1 < len(truth) and not truth[t + 1].any():
                    t += 1
        t += 1
    return work


def with_tools(
    frames: npt.NDArray[np.uint8],
    start: Masks,
    truth: Masks,
    draw: Way = brush,
    begin: float = 0.5,
) -> tuple[Labour, dict[int, Labour]]:
    """Return the work to the end, and by patience that of a person on her own."""
    work, end, alone = Labour(), None, {}
    began = time.perf_counter()

    def so_far() -> Labour:
        scores = np.array([jaccard(m, t) for m, t in zip(now, truth, strict=True)])
        left, seconds = int((scores < GOOD).sum()), time.perf_counter() - began
        return replace(work, left=left, quality=float(scores.mean()), seconds=seconds)

    with (
        tempfile.TemporaryDirectory() as folder,
        flowrvs.open_video(frames) as video,
        Project.create(Path(folder) / "a.flowrvs", video.info) as project,
    ):
        thing = project.add_object("object", project.add_layer("layer").id)
        if start.any():
            project.write_model(thing.layer, thing.id, 0, start)
        flows = editing.Flows(video)
        certainty: dict[int, float] = {}
        doubts = np.array([v for _, v in editing.doubt(project, thing.id, flows=flows)])
        now = project.object_mask(thing.id, 0, len(truth))
        wrong = {t for t in range(len(truth)) if jaccard(now[t], truth[t]) < GOOD}
        good = 0  # in a row
        while end is None or len(alone) < len(PATIENCE):
            if not wrong and end is None:
                end = so_far()
            t = next_frame(project, thing.id, doubts, truth, begin)
            if t is None:
                break
            work.looked += 1
            if t not in wrong:
                project.accept_frames(thing.id, t, t + 1)
                doubts[t] = 0
                good += 1
                if good in PATIENCE and good not in alone:
                    alone[good] = so_far()
                continue
            good = 0
            work.touched += 1
            drawn = draw(Place(project, video, thing, t, flows), now[t], truth[t], work)
            if drawn.any():
                low, high = correct(project, video, thing, t, drawn, flows, certainty)
            else:
                low, high = mark_absent(project, thing.id, t, truth)
                work.looked += 2
            now[low:high] = project.object_mask(thing.id, low, high)
            wrong -= set(range(low, high))
            wrong |= {n for n in range(low, high) if jaccard(now[n], truth[n]) < GOOD}
            low, high = max(0, low - FAR), min(len(truth), high + FAR)
            for n, value in editing.doubt(
                project, thing.id, low, high, flows=flows, certainty=certainty
            ):
                doubts[n] = value
        last = so_far()
    return end or last, {k: alone.get(k, last) for k in PATIENCE}


def next_frame(
    project: Project, object_id: int, doubts: npt.NDArray[np.float64], truth: Masks, begin: float
) -> int | None:
    """Return what the queue shows; in an empty project, where the object appears."""
    if not project.areas(object_id).any():
        seen = np.flatnonzero(truth.any((1, 2)))
        return int(seen[int(begin * (len(seen) - 1))]) if len(seen) else None
    order = editing.review_order(doubts, project.provenance(object_id))
    return order[0] if order else None


def mark_absent(project: Project, object_id: int, t: int, truth: Masks) -> tuple[int, int]:
    low = high = t
    while low > 0 and not truth[low - 1].any():
        low -= 1
    while high < len(truth) and not truth[high].any():
        high += 1
    project.mark_absent(object_id, low, high)
    return low, high


def correct(
    project: Project,
    video: Video,
    thing: ObjectRecord,
    t: int,
    drawn: Masks,
    flows: editing.Flows,
    certainty: dict[int, float],
) -> tuple[int, int]:
    """Draw a mask on a frame and spread it; return the frames that may have changed."""
    labels = project.labels(thing.layer)
    labels[t] = np.where(drawn, thing.id, 0)
    low, high = max(0, t - REACH), min(len(video), t + REACH + 1)
    human = np.flatnonzero(project.provenance(thing.id) >= Provenance.HUMAN)
    low = max([low, *human[human < t]])
    high = min([high, *(human[human > t] + 1)])
    preview = editing.spread(project, video, thing.id, start=low, stop=high, flows=flows).finish()
    for n in preview.accept():
        certainty[int(n)] = preview.certainty(int(n))
    return low, high


def degrade(truth: Masks, others: Masks, seed: int) -> Masks:
    """Return masks that err as models do; see the top of this file."""
    rng = np.random.default_rng(seed)
    count = len(truth)
    edge = gaussian_filter1d(rng.normal(size=count), 6)
    edge = np.rint(2 * edge / max(1e-9, np.abs(edge).max())).astype(int)
    result = truth.copy()
    for t in range(count):
        if truth[t].any() and edge[t]:
            change = dilation if edge[t] > 0 else erosion
            result[t] = change(truth[t], disk(abs(edge[t])))
    t = int(rng.integers(5, 15))
    while t < count:
        length, kind = int(rng.integers(4, 16)), int(rng.integers(4))
        for n in range(t, min(count, t + length)):
            rows, columns = np.nonzero(truth[n])
            if not len(rows):
                continue
            if kind == 0:
                result[n] = False
            elif kind == 1:
                result[n, :, int(np.quantile(columns, 0.66)) :] = False
            elif kind == 2 and others[n].any():
                result[n] |= others[n]
            else:
                height = max(3, (rows.max() - rows.min()) // 2)
                result[
                    n, rows.max() - height : rows.max() + 3, columns.min() - 6 : columns.max()
                ] = 1
        t += length + int(rng.integers(5, 18))
    return result


def model_masks(frames: npt.NDArray[np.uint8], text: str) -> Masks:
    pipe = flowrvs.load("tiny")
    parts = list(flowrvs.segment(flowrvs.open_video(frames), [text], pipe))
    return np.concatenate([part.masks for part in parts])


def synthetic(
    clips: int, frames: int, model: bool, first: int
) -> Iterator[tuple[str, np.ndarray, Masks, Masks]]:
    from flowrvs.data.synthetic import generate_clip

    for seed in range(clips):
        clip = generate_clip(first + seed, frames=frames, height=192, width=320)
        seen = clip.masks.any((2, 3)).sum(1)
        chosen = int(np.argmax(seen))
        others = np.delete(clip.masks, chosen, axis=0).any(0)
        truth = clip.masks[chosen]
        yield f"synthetic {seed}, degraded", clip.frames, degrade(truth, others, seed), truth
        yield f"synthetic {seed}, nothing", clip.frames, np.zeros_like(truth), truth
        if model:
            single = [e for e in clip.expressions if len(e.objects) == 1]
            if single:
                masks = model_masks(clip.frames, single[0].text)
                yield f"synthetic {seed}, tiny", clip.frames, masks, clip.target(single[0])


def chair(folder: Path) -> tuple[np.ndarray, Masks] | None:
    from PIL import Image

    if not (folder / "chair.mp4").exists():
        return None
    with flowrvs.open_video(folder / "chair.mp4") as video:
        frames = video.read(0, len(video))
    truth = [np.asarray(Image.open(p)) == 1 for p in sorted((folder / "masks").glob("*.png"))]
    return frames, np.stack(truth)


def key_frames(frames: np.ndarray, truth: Masks, method: str) -> None:
    flows = Flows(frames.__getitem__, truth.shape, method=method)  # type: ignore[arg-type]
    for keys in [(0,), (30,), (59,), (0, 20, 40, 59), (7, 22, 37, 52)]:
        began = time.perf_counter()
        scores = dict.fromkeys(range(len(truth)), 0.0) | dict.fromkeys(keys, 1.0)
        first = 0.0
        for found in propagate(flows, {t: truth[t] for t in keys}):
            first = first or time.perf_counter() - began
            scores[found.frame] = jaccard(found.mask, truth[found.frame])
        values = np.array(list(scores.values()))
        print(
            f"chair, {method}, keys {keys!s:18} mean J {values.mean():.3f}  worst "
            f"{values.min():.3f}  {time.perf_counter() - began:5.1f} s, first mask {first:.2f} s",
            flush=True,
        )


def compare(name: str, frames: np.ndarray, start: Masks, truth: Masks) -> list[Labour]:
    plain, (ours, alone) = frame_by_frame(start, truth), with_tools(frames, start, truth)
    ratio = plain.touched / max(1, ours.touched)
    print(
        f"{name:24} {len(truth):4} frames | touched {plain.touched:4} -> {ours.touched:3} "
        f"({ratio:4.1f}x) | strokes {plain.strokes:5} -> {ours.strokes:4} | looked at "
        f"{plain.looked:4} -> {ours.looked:3} | left {ours.left} | {ours.seconds:.0f} s",
        flush=True,
    )
    for patience, work in alone.items():
        print(
            f"    stops after {patience:2} good ones: touched {work.touched:3}, strokes "
            f"{work.strokes:4}, looked at {work.looked:3}, left {work.left:3}, "
            f"mean J {work.quality:.3f}",
            flush=True,
        )
    return [plain, ours, *alone.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=4, help="synthetic clips")
    parser.add_argument("--frames", type=int, default=240, help="their length")
    parser.add_argument("--model", action="store_true", help="also from the bundled model")
    parser.add_argument("--chair", type=Path, default=CHAIR, help="folder of the real clip")
    parser.add_argument("--first", type=int, default=500, help="seed of the first clip")
    parser.add_argument("--flow", action="store_true", help="compare the optical flows")
    parser.add_argument("--clicks", action="store_true", help="compare brush, polygon and clicks")
    parser.add_argument("--begin", type=float, default=0.0, help="share of the clip (--clicks)")
    parser.add_argument("--davis", type=Path, help="folder of real clips (--clicks)")
    parser.add_argument("--names", nargs="*", default=[], help="only these of them")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=WAYS, help="(--clicks)")
    args = parser.parse_args()
    real = chair(args.chair)
    if args.clicks:
        clips = [] if real is None else [("chair", *real)]
        for name, frames, start, truth in synthetic(args.clips, args.frames, False, args.first):
            if not start.any():
                clips.append((name.split(",")[0], frames, truth))
        if args.davis:
            from bench_spread import davis

            clips += davis(args.davis, args.names, args.frames)
        totals_of = [ways(*clip, args.begin, args.ways) for clip in clips]
        for kind in args.ways:
            for n, how in enumerate(("frame by frame", "tools")):
                seconds = sum(found[kind][n] for found in totals_of)
                print(f"all clips, {kind:14} {how:15} {seconds:6.0f} s of the person")
        return
    if real is None:
        print(f"{args.chair} is not there: without the real clip")
    else:
        for method in (["dis"] if has_dis() else []) + (["ilk"] if args.flow else []) or ["ilk"]:
            key_frames(*real, method)
        frames, truth = real
        compare("chair, nothing", frames, np.zeros_like(truth), truth)
        compare("chair, degraded", frames, degrade(truth, np.zeros_like(truth), 0), truth)
    totals: dict[str, list[Labour]] = {}
    for name, frames, start, truth in synthetic(args.clips, args.frames, args.model, args.first):
        totals.setdefault(name.split(", ")[1], []).extend(compare(name, frames, start, truth))
    for kind, works in totals.items():
        columns = len(PATIENCE) + 2
        plain, ours = works[::columns], works[1::columns]
        before, after = (sum(w.touched for w in side) for side in (plain, ours))
        drawn = [sum(w.strokes for w in side) for side in (plain, ours)]
        print(
            f"synthetic from {kind}: touched {before} -> {after} ({before / max(1, after):.1f}x "
            f"fewer; the bar is 5x), strokes {drawn[0]} -> {drawn[1]}"
        )
        for i, patience in enumerate(PATIENCE):
            alone = works[2 + i :: columns]
            print(
                f"    stops after {patience:2} good ones: touched "
                f"{sum(w.touched for w in alone)}, strokes {sum(w.strokes for w in alone)}, "
                f"looked at {sum(w.looked for w in alone)}, left {sum(w.left for w in alone)}, "
                f"mean J {np.mean([w.quality for w in alone]):.3f}"
            )


if __name__ == "__main__":
    main()
