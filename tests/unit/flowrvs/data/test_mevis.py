"""Splits written and read back: by flowrvs, by pycocotools, by a loader of its own."""

from __future__ import annotations

import errno
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from flowrvs.data.mevis import MevisSplit, MevisWriter
from flowrvs.data.pictures import frame_names, is_safe_name
from flowrvs.errors import DatasetError, MissingPathError, StorageError
from flowrvs.masks import rle

SHAPES = "two shapes v1.2 снег"


class PlainLoader:
    """What a stranger's training code does, without flowrvs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.videos = json.loads((folder / "meta_expressions.json").read_text())["videos"]
        self.mask_dict = json.loads((folder / "mask_dict.json").read_text())

    def __getitem__(self, key):
        video, exp_id, index = key
        entry = self.videos[video]
        frame = sorted(entry["frames"])[index]
        with Image.open(self.folder / "JPEGImages" / video / f"{frame}.jpg") as file:
            picture = np.asarray(file.convert("RGB"))
        mask = np.zeros(picture.shape[:2], np.uint8)
        for anno_id in entry["expressions"][exp_id]["anno_id"]:
            coded = self.mask_dict[str(anno_id)][index]
            if coded:
                mask |= coco_mask.decode(coded)
        return picture, mask.astype(bool)


def test_a_stranger_reads_what_was_written(small_split, shapes_frames, shapes_masks):
    loader = PlainLoader(small_split)
    assert sorted(loader.videos) == sorted([SHAPES, "grey"])
    both = shapes_masks["red"] | shapes_masks["green"]
    for index in range(12):
        picture, mask = loader[SHAPES, "0", index]
        assert np.abs(picture.astype(int) - shapes_frames[index]).mean() < 4
        assert np.array_equal(mask, shapes_masks["red"][index])
        assert np.array_equal(loader[SHAPES, "2", index][1], both[index])
        assert not loader[SHAPES, "3", index][1].any()
    assert loader.videos[SHAPES]["frames"] == [f"{i:05d}" for i in range(12)]


def test_a_shared_mask_is_stored_once_and_absence_is_null(small_split):
    loader = PlainLoader(small_split)
    expressions = loader.videos[SHAPES]["expressions"]
    assert expressions["0"]["anno_id"] == expressions["1"]["anno_id"]
    assert expressions["3"] == {"exp": "the blue square", "obj_id": [], "anno_id": []}
    assert len(loader.mask_dict) == 3
    (late,) = loader.videos["grey"]["expressions"]["0"]["anno_id"]
    entries = loader.mask_dict[str(late)]
    assert entries[:2] == [None, None]
    assert entries[2]["size"] == [20, 30] and isinstance(entries[2]["counts"], str)


def test_reading(small_split, shapes_frames, shapes_masks):
    split = MevisSplit.open(small_split)
    assert len(split) == 5 and (SHAPES, "3") in list(split)
    assert split.size(SHAPES) == (48, 64)
    assert np.array_equal(split.target_masks(SHAPES, "1"), shapes_masks["red"])
    assert not split.target_mask("grey", "0", 0).any()
    assert split.target_mask("grey", "0", 2).sum() == 6 * 7
    frames = split.read_frames(SHAPES, 3, 7)
    assert frames.shape == (4, 48, 64, 3) and frames.dtype == np.uint8
    assert np.abs(frames.astype(int) - shapes_frames[3:7]).mean() < 4
    assert split.frame_path("grey", 2).name == "a.3.jpg"


def test_jpeg_bytes_are_copied(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 13, 3), np.uint8)).save(
        buffer, "JPEG", quality=71
    )
    with MevisWriter(tmp_path / "train") as writer:
        writer.add_video("v", [buffer.getvalue()], expressions={"0": ("noise", [])})
    assert (tmp_path / "train/JPEGImages/v/00000.jpg").read_bytes() == buffer.getvalue()


def test_masks_may_come_as_rle_or_none(tmp_path):
    mask = np.zeros((6, 8), bool)
    mask[1:3, 2:5] = True
    empty = np.zeros((6, 8), np.uint8)
    with MevisWriter(tmp_path / "s") as writer:
        ids = writer.add_video(
            "v",
            np.zeros((4, 6, 8, 3), np.uint8),
            objects={4: [rle.encode(mask), None, empty, mask * np.uint8(255)]},
            expressions={"0": ("it", [4])},
        )
    entries = MevisSplit.open(tmp_path / "s").masks(ids[4])
    assert [e is None for e in entries] == [False, True, True, False]
    assert np.array_equal(rle.decode(entries[3]), mask)


def test_the_valid_split_has_no_truth(tmp_path):
    frames = np.zeros((1, 6, 8, 3), np.uint8)
    with MevisWriter(tmp_path / "valid", truth=False) as writer:
        writer.add_video("v", frames, objects={1: [None]}, expressions={"0": ("it", [1])})
    split = MevisSplit.open(tmp_path / "valid")
    assert not split.has_truth
    assert split.videos["v"].expressions["0"].anno_id == ()
    with pytest.raises(DatasetError, match="mask_dict"):
        split.masks(0)


NAMES = st.text("ab ./\\:\0\n\x7fé雪\ud800", max_size=8) | st.sampled_from(
    [
        "..",
        ".",
        "",
        "../x",
        "a/b",
        "a\\b",
        "/x",
        "C:x",
        "C:",
        "a\0b",
        "a\nb",
        " x ",
        "x.",
        "снег 雪",
    ]
)


@settings(max_examples=200, deadline=None)
@given(NAMES)
def test_safe_names_stay_in_their_folder(name):
    if is_safe_name(name):
        assert (Path("/root") / name).resolve().parent == Path("/root")
        assert not set(name) & set("/\\\0\n\r")
    else:
        assert name in ("", ".", "..") or any(
            c in "/\\:" or ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) < 0xE000 for c in name
        )


@pytest.mark.parametrize(
    "name", ["a b", "v1.2", "снег", "雪", ".hidden", "12:30", "a'b\"c", "ends."]
)
def test_ordinary_names_are_safe(name):
    assert is_safe_name(name)


@pytest.mark.parametrize(
    "count, first, last", [(1, "00000", "00000"), (100001, "000000", "100000")]
)
def test_padding_keeps_the_order(count, first, last):
    names = frame_names(count)
    assert (names[0], names[-1]) == (first, last)
    assert names == sorted(names)


FRAMES = np.zeros((2, 6, 8, 3), np.uint8)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"name": "../up"}, "video name"),
        ({"name": "KNOWN"}, "twice"),
        ({"frames": FRAMES[:0]}, "no frames"),
        ({"frames": FRAMES.astype(float)}, "uint8"),
        ({"frames": [FRAMES[0], FRAMES[0, :4]]}, "one size"),
        ({"frames": [b"not a picture"]}, "JPEG"),
        ({"frame_names": ["b", "a"]}, "ascending"),
        ({"frame_names": ["a", "a"]}, "ascending"),
        ({"frame_names": ["a", "../b"]}, "frame name"),
        ({"frame_names": ["a"]}, "more frames"),
        ({"frame_names": ["a", "b", "c"]}, "2 frames for 3"),
        ({"objects": {1: [None]}}, "masks for 1 frames"),
        ({"objects": {1: np.zeros((2, 5, 8), bool)}}, "size"),
        ({"expressions": {"0": ("x", [9])}}, "object 9"),
        ({"expressions": {"a/b": ("x", [])}}, "exp_id"),
    ],
)
def test_bad_input_is_refused_and_the_rest_is_written(tmp_path, change, message):
    with MevisWriter(tmp_path / "s") as writer:
        writer.add_video("known", FRAMES, objects={1: np.ones((2, 6, 8), bool)})
        arguments = {"name": "v", "frames": FRAMES, **change}
        with pytest.raises(DatasetError, match=message) as caught:
            writer.add_video(arguments.pop("name"), arguments.pop("frames"), **arguments)
        assert "\n" not in str(caught.value)
        writer.add_video("after", FRAMES, objects={1: np.ones((2, 6, 8), bool)})
    assert sorted(p.name for p in (tmp_path / "s" / "JPEGImages").iterdir()) == ["after", "known"]
    assert sorted(json.loads((tmp_path / "s" / "mask_dict.json").read_text())) == ["0", "1"]


def _write(folder, value=0, **options):
    with MevisWriter(folder, **options) as writer:
        writer.add_video("v", FRAMES + np.uint8(value), expressions={"0": ("x", [])})


def test_an_exception_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), MevisWriter(tmp_path / "new" / "s") as writer:
        writer.add_video("v", FRAMES)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing_and_says_so(tmp_path, monkeypatch):
    real = Path.write_bytes

    def full(self, data):
        if self.name == "00001.jpg":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="full"):
        _write(tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_source_is_not_called_a_full_disk(tmp_path):
    def frames():
        yield FRAMES[0]
        raise MissingPathError("The clip is gone.")

    with pytest.raises(MissingPathError, match="gone"), MevisWriter(tmp_path / "s") as writer:
        writer.add_video("v", frames())


def test_another_split_is_refused_unless_overwritten(tmp_path):
    folder = tmp_path / "s"
    _write(folder)
    before = (folder / "JPEGImages/v/00000.jpg").stat()
    _write(folder)
    assert (folder / "JPEGImages/v/00000.jpg").stat().st_ino == before.st_ino
    with pytest.raises(DatasetError, match="already exists"):
        _write(folder, 200)
    assert (folder / "JPEGImages/v/00000.jpg").stat().st_ino == before.st_ino
    _write(folder, 200, overwrite=True)
    assert MevisSplit.open(folder).read_frames("v")[0, 0, 0].tolist() == [200, 200, 200]
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_only_a_split_is_overwritten(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "wedding.jpg").write_bytes(b"dear")
    with pytest.raises(DatasetError, match="something else"):
        _write(folder, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["photos"]
    assert (folder / "wedding.jpg").read_bytes() == b"dear"


def test_own_files_travel_with_the_split(tmp_path):
    with MevisWriter(tmp_path / "s") as writer:
        writer.add_video("v", FRAMES)
        writer.add_file("notes.json", "{}")
        for name in ("mask_dict.json", "meta_expressions.json", "../x", "notes.json"):
            with pytest.raises(DatasetError):
                writer.add_file(name, "")
    assert (tmp_path / "s" / "notes.json").read_text() == "{}"


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "JSON"),
        ("[]", "object"),
        ("{}", "videos"),
        ('{"videos": {"../x": {"frames": ["0"], "expressions": {}}}}', "video name"),
        ('{"videos": {"v": {"frames": ["../0"], "expressions": {}}}}', "frame name"),
        ('{"videos": {"v": {"frames": [], "expressions": {}}}}', "no frames"),
        ('{"videos": {"v": {"frames": ["0"]}}}', "expressions"),
        ('{"videos": {"v": {"frames": ["0"], "expressions": {"a/b": {"exp": "x"}}}}}', "exp_id"),
        ('{"videos": {"v": {"frames": ["0"], "expressions": {"0": {}}}}}', "text"),
        (
            '{"videos": {"v": {"frames": ["0"], "expressions": {"0": {"exp": "", '
            '"obj_id": ["x"]}}}}}',
            "integers",
        ),
    ],
)
def test_malformed_splits_get_one_line(tmp_path, text, message):
    (tmp_path / "meta_expressions.json").write_text(text)
    with pytest.raises(DatasetError, match=message) as caught:
        MevisSplit.open(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_split(small_split, tmp_path):
    with pytest.raises(MissingPathError):
        MevisSplit.open(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="valid_u"):
        MevisSplit.open(small_split.parent)
    with pytest.raises(DatasetError, match="no meta_expressions"):
        MevisSplit.open(tmp_path)


def test_missing_and_damaged_frames_are_named(small_split):
    folder = small_split / "JPEGImages" / "grey"
    (folder / "a 2.jpg").unlink()
    (folder / "a.3.jpg").write_bytes((folder / "a.3.jpg").read_bytes()[:200])
    split = MevisSplit.open(small_split)
    with pytest.raises(MissingPathError, match="a 2.jpg"):
        split.read_frames("grey")
    with pytest.raises(DatasetError, match=r"a\.3\.jpg"):
        split.read_frames("grey", 2, 3)


def test_ref_youtube_vos_ids_are_read(tmp_path):
    meta = {"videos": {"v": {"frames": ["0"], "expressions": {"0": {"exp": "x", "obj_id": "2"}}}}}
    (tmp_path / "meta_expressions.json").write_text(json.dumps(meta))
    assert MevisSplit.open(tmp_path).videos["v"].expressions["0"].obj_id == (2,)
