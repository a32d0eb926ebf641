"""What goes out comes in again: random objects, absences, sizes, sentences and names."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from flowrvs.data import (
    MevisSplit,
    MevisWriter,
    check_split,
    export_projects,
    import_video,
    repair_split,
    write_back,
)
from flowrvs.data.pictures import is_safe_name

NAMES = st.text(
    st.sampled_from("ab. -_'0\u0441\u043d\u96ea\u05d0\U0001f642"), min_size=1, max_size=8
).filter(is_safe_name)
TEXTS = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=30
).filter(str.strip)


@st.composite
def clips(draw):
    """(names of frames, masks by object, sentences by exp_id)."""
    count = draw(st.integers(1, 4))
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    bits = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(bits)
    objects = {}
    for key in draw(st.lists(st.integers(0, 500), max_size=3, unique=True)):
        masks = rng.random((count, height, width)) < draw(st.sampled_from([0.1, 0.5, 1.0]))
        masks[rng.random(count) < 0.4] = False
        objects[key] = masks
    # Hidden files are no frames to any reader.
    shown = NAMES.filter(lambda name: not name.startswith("."))
    frames = sorted(draw(st.lists(shown, min_size=count, max_size=count, unique_by=str.casefold)))
    exp_ids = draw(st.lists(st.integers(0, 99).map(str), min_size=1, max_size=4, unique=True))
    ids = st.lists(st.sampled_from(list(objects)), unique=True) if objects else st.just([])
    expressions = {exp_id: (draw(TEXTS), draw(ids)) for exp_id in exp_ids}
    pictures = np.zeros((count, height, width, 3), np.uint8)
    return frames, pictures, objects, expressions


def write(folder, name, clip):
    frames, pictures, objects, expressions = clip
    with MevisWriter(folder) as writer:
        writer.add_video(
            name, pictures, frame_names=frames, objects=objects, expressions=expressions
        )
        writer.add_video("other", pictures, expressions={"0": ("x", [])})


def union(clip, ids):
    _, pictures, objects, _ = clip
    return np.any([np.zeros(pictures.shape[:3], bool), *(objects[i] for i in ids)], axis=0)


@settings(max_examples=25, deadline=None)
@given(clips(), NAMES.filter(lambda name: name.casefold() != "other"))
def test_a_split_keeps_masks_sentences_and_names(clip, name):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "train"
        write(root, name, clip)
        assert not [f for f in check_split(root) if f.severity == "error"]
        split = MevisSplit.open(root)
        assert list(split.videos) == [name, "other"]
        assert list(split.videos[name].frames) == clip[0]
        for exp_id, (text, ids) in clip[3].items():
            assert split.videos[name].expressions[exp_id].exp == text
            assert np.array_equal(split.target_masks(name, exp_id), union(clip, ids))


@settings(max_examples=8, deadline=None)
@given(clips(), st.sampled_from(["mevis", "coco", "png"]), st.data())
def test_import_correct_write_back_export_import(clip, format, data):
    frames, pictures, objects, expressions = clip
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "train"
        write(root, "v 1.x", clip)
        before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
        with import_video(root, "v 1.x", Path(folder) / "p") as project:
            assert write_back(project).masks == 0
            assert before == {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
            if project.objects:
                # A person changes one mask; all others keep their bytes.
                one = data.draw(st.sampled_from(list(project.objects.values())))
                t = data.draw(st.integers(0, len(frames) - 1))
                old = project.object_mask(one.id, 0, len(frames))
                labels = project.labels(one.layer)
                free = (labels[t] == 0) | (labels[t] == one.id)
                labels[t] = np.where(free, one.id, labels[t])
                changed = bool((project.object_mask(one.id, t, t + 1)[0] != old[t]).any())
                assert write_back(project).masks == changed
                masks = json.loads((root / "mask_dict.json").read_text())
                was = json.loads(before[root / "mask_dict.json"])
                if changed:
                    pairs = ((k, i) for k in masks for i in range(len(masks[k])))
                    assert len([1 for k, i in pairs if masks[k][i] != was[k][i]]) == 1
            wanted = {
                e.text: project.expression_mask(e.exp_id, 0, len(frames))
                for e in project.expressions.values()
            }
            path = export_projects([project], Path(folder) / "d", format=format).path
        with import_video(path, "v 1.x", Path(folder) / "q") as again:
            for e in again.expressions.values():
                assert (
                    np.array_equal(again.expression_mask(e.exp_id, 0, len(frames)), wanted[e.text])
                    or [e.text for e in again.expressions.values()].count(e.text) > 1
                )


ABSENT = st.sampled_from([None, {}, [], 0, False, ""])


@settings(max_examples=30, deadline=None)
@given(clips(), st.data())
def test_foreign_spellings_of_absence_are_read_and_repaired(clip, data):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "train"
        write(root, "v", clip)
        masks = json.loads((root / "mask_dict.json").read_text())
        for entries in masks.values():
            for index, entry in enumerate(entries):
                if entry is None:
                    entries[index] = data.draw(ABSENT)
        (root / "mask_dict.json").write_text(json.dumps(masks))
        repair_split(root)
        clean = json.loads((root / "mask_dict.json").read_text())
        assert clean == {k: [e or None for e in v] for k, v in masks.items()}
        for exp_id, (_, ids) in clip[3].items():
            entry = json.loads((root / "meta_expressions.json").read_text())["videos"]["v"]
            annotations = entry["expressions"][exp_id]["anno_id"]
            # As the public loader does it: None alone is absent.
            seen = np.zeros(clip[1].shape[:3], np.uint8)
            for anno in annotations:
                for index, rle in enumerate(clean[str(anno)]):
                    if rle is not None:
                        seen[index] |= coco_mask.decode(rle)
            assert np.array_equal(seen.astype(bool), union(clip, ids))
