"""Miniatures of the real layouts, and a real model with random weights."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowrvs.masks import rle
from flowrvs.store import Project
from flowrvs.video import open_video
from tests.fixtures.micro import micro_pipeline

FRAMES = 12
SIZE = (40, 60)


def draw_video(seed: int, frames: int = FRAMES, size: tuple[int, int] = SIZE):
    """Two boxes that move on noise: pictures (T, H, W, 3) and masks (2, T, H, W)."""
    rng = np.random.default_rng(seed)
    height, width = size
    pictures = rng.integers(0, 90, (frames, height, width, 3)).astype(np.uint8)
    masks = np.zeros((2, frames, height, width), bool)
    for t in range(frames):
        masks[0, t, 4:16, 4 + t : 18 + t] = True
        masks[1, t, height - 16 : height - 4, width - 20 - t : width - 6 - t] = True
    pictures[masks[0]] = (250, 20, 20)
    pictures[masks[1]] = (20, 20, 250)
    return pictures, masks


def write_jpegs(folder: Path, pictures: np.ndarray, names: list[str]) -> None:
    """Write the frames of a video."""
    folder.mkdir(parents=True)
    for name, picture in zip(names, pictures, strict=True):
        Image.fromarray(picture).save(folder / f"{name}.jpg", quality=95)


def make_mevis(root: Path, *, videos: int = 3, meta_name: str = "meta_expressions.json") -> Path:
    """A MeViS-like split: one object, both objects, nothing; the last video has one frame."""
    folder = root / "train"
    listed, masks_of = {}, {}
    for v in range(videos):
        count = 1 if v == videos - 1 else FRAMES
        size = (50, 47) if v == 1 else SIZE  # no multiples of anything
        pictures, masks = draw_video(v, count, size)
        names = [f"{t:05}" for t in range(count)]
        write_jpegs(folder / "JPEGImages" / f"v{v}", pictures, names)
        for k in range(2):
            entries = [rle.encode(mask) for mask in masks[k]]
            if count > 1:
                entries[3] = None
            masks_of[str(2 * v + k)] = entries
        listed[f"v{v}"] = {
            "frames": names,
            "expressions": {
                "0": {"exp": "The Red box  on the left", "obj_id": [0], "anno_id": [2 * v]},
                "1": {"exp": "both boxes", "obj_id": [0, 1], "anno_id": [2 * v, 2 * v + 1]},
                "2": {"exp": "the green ball", "obj_id": [], "anno_id": []},
            },
        }
    (folder / meta_name).write_text(json.dumps({"videos": listed}))
    (folder / "mask_dict.json").write_text(json.dumps(masks_of))
    return folder


def make_ytvos(root: Path) -> Path:
    """The official Ref-YouTube-VOS tree with one video, of which a mask and a picture lack."""
    pictures, masks = draw_video(7)
    names = [f"{5 * t:05}" for t in range(FRAMES)]
    train = root / "train"
    write_jpegs(train / "JPEGImages" / "a1", pictures, names)
    annotations = train / "Annotations" / "a1"
    annotations.mkdir(parents=True)
    for t, name in enumerate(names):
        labels = masks[0, t] * 1 + masks[1, t] * 2
        picture = Image.fromarray(labels.astype(np.uint8), "P")
        picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
        picture.save(annotations / f"{name}.png")
    (annotations / "00010.png").unlink()
    (train / "JPEGImages" / "a1" / "00020.jpg").unlink()
    meta = root / "meta_expressions" / "train"
    meta.mkdir(parents=True)
    expressions = {
        "0": {"exp": "a blue box", "obj_id": "2"},
        "1": {"exp": "unknown", "obj_id": None},
    }
    document = {"videos": {"a1": {"frames": names, "expressions": expressions}}}
    (meta / "meta_expressions.json").write_text(json.dumps(document))
    return root


def make_davis(root: Path) -> Path:
    """The original Ref-DAVIS17 with a mask of 0 and 255."""
    pictures, masks = draw_video(9)
    names = [f"{t:05}" for t in range(FRAMES)]
    write_jpegs(root / "JPEGImages" / "480p" / "bear", pictures, names)
    annotations = root / "Annotations" / "480p" / "bear"
    annotations.mkdir(parents=True)
    for t, name in enumerate(names):
        Image.fromarray(masks[0, t].astype(np.uint8) * 255).save(annotations / f"{name}.png")
    texts = root / "davis_text_annotations"
    texts.mkdir()
    (texts / "Davis17_annot1.txt").write_text('bear 1 "a brown bear"\nother 1 "not here"\n')
    return root


def make_refcoco(root: Path, refs: object | None = None) -> Path:
    """REFER's files: two pictures, one object each; the second is in another part."""
    pictures, masks = draw_video(11, 2)
    folder = root / "refcoco"
    folder.mkdir(parents=True)
    write_jpegs(root / "train2014", pictures, ["COCO_1", "COCO_2"])
    images = [
        {"id": i + 1, "file_name": f"COCO_{i + 1}.jpg", "height": 40, "width": 60} for i in (0, 1)
    ]
    polygon = [4.0, 4.0, 18.0, 4.0, 18.0, 16.0, 4.0, 16.0]
    counts = rle.encode(masks[1, 1])
    annotations = [
        {"id": 10, "image_id": 1, "segmentation": [polygon]},
        {"id": 11, "image_id": 2, "segmentation": counts},
    ]
    document = {"images": images, "annotations": annotations}
    (folder / "instances.json").write_text(json.dumps(document))
    if refs is None:
        refs = [
            {
                "ref_id": n,
                "image_id": n + 1,
                "ann_id": 10 + n,
                "split": ("train", "val")[n],
                "sentences": [{"sent": f"box {n}", "tokens": [], "raw": "", "sent_id": n}],
            }
            for n in (0, 1)
        ]
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    return folder


def make_project(root: Path, name: str = "clip", seed: int = 3) -> Path:
    """A project: the model found an object, a person drew it on three of twelve frames."""
    pictures, masks = draw_video(seed)
    write_jpegs(root / f"{name}-frames", pictures, [f"{t:05}" for t in range(FRAMES)])
    folder = root / f"{name}.flowrvs"
    with open_video(root / f"{name}-frames") as video:
        info = video.info
    with Project.create(folder, info) as project:
        _, red = project.add_prompt("the red box")
        project.write_model(red.layer, red.id, 0, np.roll(masks[0], 3, axis=2))
        array = project.labels(red.layer)
        for t in (2, 3, 4):
            array[t] = np.where(masks[0, t], red.id, 0).astype(np.uint16)
        project.accept_frames(red.id, 8, 9)
        project.add_expression("the green ball")
    return folder


@pytest.fixture(scope="session")
def micro_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that ``--model`` takes."""
    folder = tmp_path_factory.mktemp("models") / "micro"
    micro_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def mevis_split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MeViS-like split, not to be changed."""
    return make_mevis(tmp_path_factory.mktemp("mevis"))
