"""Does ``flowrvs train improve`` help? Thirty corrected clips of another world, then scores.

The other world is the synthetic one with other looks, and words for them: all colours are others
(orange for red, pink for white, …), crosses are stars, and the ground is tiled or striped, and
brighter.
Thirty of its clips become projects whose masks a person drew; ``flowrvs train improve`` learns
from them; then base and result are scored on clips of the other world that were not among them,
and on the world that the base knows.

    python benchmarks/improve.py --out DIR [--minutes 20] [--model tiny] [--max-steps N]

Projects and scores of the base are kept in DIR; each run adds a line to DIR/results.jsonl, and a
file with the score of every sentence. ``--set KEY=VALUE`` tries other options (then in this
process); choose between them with ``--dev``, which scores on clips of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt

import flowrvs
from flowrvs.data import synth_scene
from flowrvs.data.mevis import MevisWriter
from flowrvs.data.synthetic import KINDS, SynthClip, SynthExpression, generate_clip
from flowrvs.evaluation import score_masks
from flowrvs.store import Project

SHAPES = {"cross": "star"}
COLOURS = {
    "red": ("orange", (240, 130, 20)),
    "green": ("lime", (150, 230, 60)),
    "blue": ("cyan", (30, 200, 210)),
    "yellow": ("brown", (125, 65, 25)),
    "purple": ("black", (24, 22, 26)),
    "white": ("pink", (250, 130, 180)),
}
WORDS = SHAPES | {"crosses": "stars"} | {old: new for old, (new, _) in COLOURS.items()}
CLIPS, TESTS, DEV = range(500_000, 501_000), range(600_000, 601_000), range(700_000, 701_000)
_distance = synth_scene._signed_distance


def star(u: npt.NDArray, v: npt.NDArray, radius: float) -> npt.NDArray:
    """Distance to the outline of a five-pointed star, negative inside."""
    sector = 2 * np.pi / 5
    angle = np.arctan2(u, -v)
    angle = np.abs((angle + sector / 2) % sector - sector / 2)
    across, along = np.hypot(u, v) * np.sin(angle), np.hypot(u, v) * np.cos(angle)
    tip, dent = np.array([radius, 0.0]), 0.45 * radius * np.array([np.cos(sector / 2), 0])
    dent[1] = 0.45 * radius * np.sin(sector / 2)
    edge = (dent - tip) / np.linalg.norm(dent - tip)
    return (along - tip[0]) * edge[1] - across * edge[0]


def distance(shape: str, u: npt.NDArray, v: npt.NDArray, radius: float) -> npt.NDArray:
    """As in the synthetic world, which has no stars."""
    return star(u, v, radius) if shape == "star" else _distance(shape, u, v, radius)


def ground(scene: synth_scene.Scene) -> tuple[npt.NDArray[np.float32], int]:
    """Tiles or stripes with edges, brighter than the synthetic world's ground."""
    rng = np.random.default_rng([29, scene.seed])
    reach = max(abs(scene.drift[0]), abs(scene.drift[1])) * scene.frames
    margin = int(np.ceil(reach)) + 2
    rows, columns = np.mgrid[: scene.height + 2 * margin, : scene.width + 2 * margin]
    turn, size = rng.uniform(0, np.pi), rng.uniform(7, 18)
    across = np.floor((rows * np.sin(turn) + columns * np.cos(turn)) / size)
    along = np.floor((rows * np.cos(turn) - columns * np.sin(turn)) / size)
    tiled = (across + along) % 2 if rng.random() < 0.6 else across % 2
    first, second = rng.uniform(90, 170, 3), rng.uniform(-28, 28)
    texture = first + second * tiled[..., None] + rng.normal(0, 3, (*tiled.shape, 1))
    return np.clip(texture, 10, 210).astype(np.float32), margin


def other_clip(seed: int) -> SynthClip:
    """A clip of the other world."""
    clip = generate_clip(seed)
    objects = []
    for item in clip.scene.objects:
        if item.color in COLOURS:
            shade = np.subtract(item.rgb, synth_scene.COLORS[item.color])
            name, rgb = COLOURS[item.color]
            red, green, blue = np.clip(np.add(rgb, shade), 0, 255).tolist()
            item = dataclasses.replace(item, color=name, rgb=(red, green, blue))
        objects.append(dataclasses.replace(item, shape=SHAPES.get(item.shape, item.shape)))
    scene = dataclasses.replace(clip.scene, objects=tuple(objects))
    said = tuple(dataclasses.replace(e, text=_other_words(e)) for e in clip.expressions)
    changed = SynthClip(scene, said)
    with (
        mock.patch.object(synth_scene, "_signed_distance", distance),
        mock.patch.object(synth_scene, "_texture", ground),
    ):
        changed.frames  # noqa: B018  drawn now
    return changed


def _other_words(expression: SynthExpression) -> str:
    return re.sub(r"[a-z]+", lambda word: WORDS.get(word[0], word[0]), expression.text)


def make_projects(folder: Path, count: int) -> None:
    """Write clips as projects whose masks a person drew on every frame."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in CLIPS[:count]:
        target = folder / f"clip-{seed}.flowrvs"
        if target.exists():
            continue
        clip = other_clip(seed)
        pictures = folder / "frames" / str(seed)
        if not pictures.exists():
            with MevisWriter(pictures) as writer:
                writer.add_video(
                    "clip", clip.frames, objects=dict(enumerate(clip.masks)), expressions={}
                )
        with flowrvs.open_video(pictures / "JPEGImages" / "clip") as video:
            info = video.info
        with Project.create(target, info) as project:
            layer = project.add_layer("drawn").id
            ids = [project.add_object(f"object {i}", layer).id for i in range(len(clip.masks))]
            drawn = np.zeros(clip.masks.shape[1:], np.uint16)
            for number, mask in zip(ids, clip.masks, strict=True):
                drawn[mask] = number
            labels = project.labels(layer)
            for t, frame in enumerate(drawn):
                labels[t] = frame
            for number in ids:
                project.accept_frames(number, 0, len(drawn))
            for said in clip.expressions:
                project.add_expression(said.text, [ids[i] for i in said.objects])


def score(model: str, clips: Iterable[SynthClip]) -> list[tuple[str, str, float, int]]:
    """Kind, text and J&F of every sentence of the clips, and the seed of its clip."""
    pipeline = flowrvs.load(model)
    rows = []
    for clip in clips:
        texts = [said.text for said in clip.expressions]
        masks = np.zeros((len(texts), *clip.masks.shape[1:]), bool)
        for part in flowrvs.segment(flowrvs.open_video(clip.frames), texts, pipeline):
            masks[part.expression, part.start : part.start + len(part.masks)] = part.masks
        for found, said in zip(masks, clip.expressions, strict=True):
            merit = float(np.mean(score_masks(found, clip.target(said))))
            rows.append((said.kind, said.text, merit, clip.scene.seed))
    return rows


def gain(before: list[tuple[str, str, float, int]], after: list) -> tuple[float, float]:
    """How much the mean J&F rises, and the standard error of that, by clip."""
    rises: dict[int, list[float]] = {}
    for old, new in zip(before, after, strict=True):
        rises.setdefault(old[3], []).append(new[2] - old[2])
    mean = float(np.mean([rise for clip in rises.values() for rise in clip]))
    apart = [sum(clip) - mean * len(clip) for clip in rises.values()]
    return mean, float(np.sqrt(np.sum(np.square(apart))) / sum(map(len, rises.values())))


def summary(rows: list[tuple[str, str, float, int]]) -> dict[str, float]:
    """J&F over all sentences and by kind."""
    found = {"all": rows} | {kind: [row for row in rows if row[0] == kind] for kind in KINDS}
    return {kind: float(np.mean([row[2] for row in part])) for kind, part in found.items() if part}


def train(args: argparse.Namespace, name: str, data: Path) -> None:
    """Run ``flowrvs train improve``; with other options in this process."""
    if args.set:
        from flowrvs.training import improve, plan_improvement
        from flowrvs.training.config import FlowConfig
        from flowrvs.training.options import parse_setting

        plan = plan_improvement(
            [data], model=args.model, minutes=args.minutes, max_steps=args.max_steps
        )
        values = dict(parse_setting(FlowConfig, text) for text in args.set)
        plan = dataclasses.replace(plan, config=dataclasses.replace(plan.config, **values))
        improve([data], name=name, model=args.model, plan=plan)
        return
    command = [sys.executable, "-m", "flowrvs", "train", "improve", "--data", str(data)]
    command += ["--name", name, "--model", args.model, "--minutes", str(args.minutes)]
    subprocess.run([*command, "--max-steps", str(args.max_steps)], check=True)


def _processor_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def main() -> None:
    """Make what is not there yet, train, score, and tell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--clips", type=int, default=30)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--max-steps", type=int, default=0, help="instead of a time")
    parser.add_argument("--tests", type=int, default=24, help="clips of each world to score on")
    parser.add_argument("--dev", action="store_true", help="score on clips to choose options by")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    os.environ["FLOWRVS_HOME"] = str((args.out / "home").absolute())
    data = args.out / f"projects-{args.clips}"
    make_projects(data, args.clips)

    tests = (DEV if args.dev else TESTS)[: args.tests]
    part = f"{'dev' if args.dev else 'test'}-{args.tests}"

    def scores(model: str, file: Path) -> dict[str, list[tuple[str, str, float, int]]]:
        if not file.is_file():
            worlds = {"other world": other_clip, "old world": generate_clip}
            rows = {world: score(model, map(make, tests)) for world, make in worlds.items()}
            file.write_text(json.dumps(rows))
        return dict(json.loads(file.read_text()))

    base = flowrvs.load(args.model).weights[:12]
    before = scores(args.model, args.out / f"base-{base}-{part}-clips.json")
    name = f"improved-{int(time.time())}"
    began, used = time.perf_counter(), _processor_seconds()
    train(args, name, data)
    minutes = (time.perf_counter() - began) / 60
    processor = (_processor_seconds() - used) / 60
    after = scores(name, args.out / f"{name}-{part}.json")
    folder = args.out / "home" / "models" / name
    with contextlib.suppress(OSError):
        print(json.loads((folder / "training.json").read_text()))
    line: dict[str, Any] = {
        "name": name,
        "scored": part,
        "set": args.set,
        "minutes": minutes,
        "processor": processor,
    }
    line |= {"before": {world: summary(rows) for world, rows in before.items()}}
    line |= {"after": {world: summary(rows) for world, rows in after.items()}}
    line |= {"gain": {world: gain(rows, after[world]) for world, rows in before.items()}}
    with (args.out / "results.jsonl").open("a") as stream:
        stream.write(json.dumps(line) + "\n")
    print(f"{minutes:.1f} minutes, {processor:.1f} of a processor")
    for world, values in line["before"].items():
        for kind, value in values.items():
            print(f"{world:12} {kind:11} {value:.3f} -> {line['after'][world][kind]:.3f}")
        rise, error = line["gain"][world]
        print(f"{world:12} {rise:+.3f}, standard error {error:.3f} by {len(tests)} clips")


if __name__ == "__main__":
    main()
