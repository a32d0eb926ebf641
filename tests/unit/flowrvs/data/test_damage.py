"""What is damaged, missing or too much is named in one line, and nothing is changed."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowrvs.data import (
    MevisSplit,
    MevisWriter,
    check_split,
    import_split,
    import_video,
    json_parts,
    repair_split,
    write_back,
)
from flowrvs.data.check import _frame_list
from flowrvs.data.clip import Clip
from flowrvs.data.formats import holds_unknown, open_dataset
from flowrvs.data.origin import Origin
from flowrvs.data.parts import parts_of
from flowrvs.data.pictures import frame_file, open_picture
from flowrvs.data.ref_ytvos import frames_in
from flowrvs.errors import DatasetError, MissingPathError, StorageError
from flowrvs.masks import rle
from tests.fixtures.layouts import (
    MASKS,
    META,
    H,
    T,
    W,
    boxes,
    bytes_of,
    change,
    frames,
    mevis_v2,
    ref_ytvos,
    sa_v,
    split_of,
    vos,
)

# -- splits of MeViS -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "ask", "said"),
    [
        (
            lambda m: m.write_text('{"0": [], "1'),
            lambda s: s.masks(0),
            "{masks} is not readable JSON (the JSON is damaged near byte 10); copy it again.",
        ),
        (
            lambda m: m.write_text('{"0": [nul], "1": []}'),
            lambda s: s.masks(0),
            "anno_id 0 in {masks} is not readable (Expecting value: line 1 column 2 (char 1)); "
            "copy the file again.",
        ),
        (
            lambda m: m.write_text('{"0": {}}'),
            lambda s: s.masks(0),
            "anno_id 0 in {masks} is no list.",
        ),
        (None, lambda s: s.masks(7), "{masks} has no anno_id 7; run 'flowrvs check' on the split."),
        (
            lambda m: m.unlink(),
            lambda s: s.masks(0),
            "{root} has no mask_dict.json: its truth is not public; use a split with masks, such "
            "as valid_u.",
        ),
        (None, lambda s: s.target_rle("v", "0", T), "'v' has no frame at position 6."),
        (None, lambda s: s.target_rle("v", "0", -1), "'v' has no frame at position -1."),
        (
            lambda m: change(m, lambda masks: masks["0"].pop()),
            lambda s: s.target_rle("v", "0", T - 1),
            "anno_id 0 has 5 masks, 'v' 6 frames; run 'flowrvs check' on the split.",
        ),
        (None, lambda s: s.frame_path("v", T), "{root} has no frame 6 of 'v'."),
        (None, lambda s: s.frame_path("w", 0), "{root} has no frame 0 of 'w'."),
        (None, lambda s: s.read_frames("w"), "{root} has no video 'w'."),
        (None, lambda s: s.target_masks("v", "9"), "{root} has no expression '9' of 'v'."),
        (None, lambda s: s.target_masks("w", "0"), "{root} has no expression '0' of 'w'."),
        (
            lambda m: Image.new("RGB", (W, H - 1)).save(m.parent / "JPEGImages/v/00003.jpg"),
            lambda s: s.read_frames("v"),
            "The frame {frame} has another size than its neighbours.",
        ),
    ],
)
def test_what_a_split_cannot_give_is_named(tmp_path, spoil, ask, said):
    root = split_of(tmp_path)
    if spoil is not None:
        spoil(root / MASKS)
    with pytest.raises(DatasetError) as caught:
        ask(MevisSplit.open(root))
    frame = root / "JPEGImages" / "v" / "00003.jpg"
    assert str(caught.value) == said.format(root=root, masks=root / MASKS, frame=frame)


def test_a_split_gives_the_frames_between_two_positions(tmp_path):
    split = MevisSplit.open(split_of(tmp_path))
    assert split.read_frames("v", 2, 4)[:, 0, 0, 0] == pytest.approx([60, 70], abs=2)
    assert split.read_frames("v", 4)[:, 0, 0, 0] == pytest.approx([80, 90], abs=2)
    assert split.read_frames("v", 3, 3).shape == (0, H, W, 3)
    assert split.target_rle("v", "0", T - 1) == rle.encode(boxes()[0, T - 1])
    assert split.target_rle("v", "1", 0) is None
    assert not split.target_mask("v", "1", 0).any()
    assert split.target_mask("v", "1", 0).shape == (H, W)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG"])
def test_the_picture_of_a_frame_is_found_by_any_suffix(tmp_path, suffix):
    root = split_of(tmp_path)
    kind = "PNG" if "png" in suffix.lower() else "JPEG"
    (root / "JPEGImages/v/00000.jpg").unlink()
    Image.new("RGB", (W, H), (9, 9, 9)).save(root / f"JPEGImages/v/00000{suffix}", kind)
    split = MevisSplit.open(root)
    # On some disks its name is the same in other letters, too.
    assert split.frame_path("v", 0).samefile(root / f"JPEGImages/v/00000{suffix}")
    assert split.read_frames("v", 0, 1).max() < 14
    assert frame_file(root / "JPEGImages/v", "x") is None
    (root / "JPEGImages/v/x.jpg").mkdir()
    assert frame_file(root / "JPEGImages/v", "x") is None


def test_frames_of_an_archive_are_found_by_any_suffix(tmp_path):
    root = mevis_v2(tmp_path / "s", META, True)
    picture = io.BytesIO()
    Image.new("RGB", (W, H), (99, 99, 99)).save(picture, "JPEG")
    with tarfile.open(root / "JPEGImages.tar", "w") as archive:
        for name in json.loads((root / META).read_text())["videos"]["v"]["frames"]:
            member = tarfile.TarInfo(f"JPEGImages/v/{name}.Jpg")
            member.size = len(picture.getvalue())
            archive.addfile(member, io.BytesIO(picture.getvalue()))
    assert (MevisSplit.open(root).read_frames("v", 0, 1) == 99).all()


def test_an_archive_without_a_listed_frame_or_of_endless_entries(tmp_path, monkeypatch):
    root = mevis_v2(tmp_path / "s", META, True)
    change(root / META, lambda d: d["videos"]["v"]["frames"].append("00007"))
    with pytest.raises(DatasetError) as caught:
        MevisSplit.open(root).frame_path("v", 0)
    archive = root / "JPEGImages.tar"
    assert str(caught.value) == f"{archive} lacks 1 frame of v, the first is 00007."
    assert not (root / "JPEGImages").exists()
    monkeypatch.setattr("flowrvs.data.mevis_split._MOST", 3)
    with pytest.raises(DatasetError) as caught:
        MevisSplit.open(root).frame_path("v", 0)
    assert str(caught.value) == f"{archive} has more than 3 entries; unpack it."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"videos": {"v": 7}}', "The video 'v' in {meta} is not an object."),
        ('{"videos": {"v": {"frames": ["0"], "expressions": []}}}', "'v' in {meta} has no 'expr"),
    ],
)
def test_entries_of_another_kind(tmp_path, text, said):
    (tmp_path / META).write_text(text)
    with pytest.raises(DatasetError) as caught:
        MevisSplit.open(tmp_path)
    assert said.format(meta=tmp_path / META) in str(caught.value)


def test_ids_that_are_not_beside_each_other(tmp_path):
    root = split_of(tmp_path)
    change(root / META, lambda d: d["videos"]["v"]["expressions"]["0"]["obj_id"].append(3))
    with pytest.raises(DatasetError) as caught:
        open_dataset(root).clip("v")
    assert str(caught.value) == (
        f"v/0: 2 obj_ids stand beside 1 anno_ids; run 'flowrvs check {root}'."
    )


@pytest.mark.parametrize("kind", ["mevis", "ytvos"])
def test_a_video_that_somebody_took_out_meanwhile(tmp_path, kind):
    (tmp_path / "y").mkdir()
    root = split_of(tmp_path) if kind == "mevis" else ref_ytvos(tmp_path / "y", truth=True)
    meta = root / META
    if kind == "ytvos":
        meta = root.parent / "meta_expressions" / root.name / META
    with import_video(root, "v", tmp_path / "p") as project:
        dataset = open_dataset(root)
        assert list(dataset.videos) == ["v"]
        change(meta, lambda d: d["videos"].update(w=d["videos"].pop("v")))
        if kind == "mevis":  # read again before it is compared
            with pytest.raises(DatasetError, match="there is no video 'v' any more"):
                dataset.clip("v")
        with pytest.raises(DatasetError) as caught:
            write_back(project)
        assert str(caught.value) == f"{root} has no video 'v'; export with --append instead."


def test_masks_have_no_place_in_a_split_without_masks(tmp_path):
    root = split_of(tmp_path)
    (root / MASKS).unlink()
    before = bytes_of(root)
    with import_video(root, "v", tmp_path / "p") as project:
        made = project.add_object("new", project.add_layer("l").id)
        project.labels(made.layer)[0, :2, :2] = made.id
        with pytest.raises(DatasetError) as caught:
            write_back(project)
    assert str(caught.value) == (
        f"{root} is a split without masks; export the project as a new split."
    )
    assert bytes_of(root) == before


@pytest.mark.parametrize("place", ["init", "file", "close"])
def test_a_disk_that_fails_while_a_split_is_written_leaves_nothing(tmp_path, monkeypatch, place):
    """In its constructor, for a file of one's own, and at the end."""
    plainly, text = Path.open, Path.write_text
    broken = {"init": MASKS, "close": META}.get(place, "none")

    def fail(self, *args, **options):
        if self.name == broken and place != "none":
            raise OSError(errno.EIO, "Input/output error")
        return plainly(self, *args, **options)

    def no_text(self, *args, **options):
        if place == "file":
            raise OSError(errno.EIO, "Input/output error")
        return text(self, *args, **options)

    monkeypatch.setattr(Path, "open", fail)
    monkeypatch.setattr(Path, "write_text", no_text)
    with pytest.raises(StorageError, match=re.escape(f"{tmp_path / 's'}: Input/output error")):
        with MevisWriter(tmp_path / "s") as writer:
            writer.add_video("v", np.zeros((1, 6, 8, 3), np.uint8))
            writer.add_file("x.txt", "x")
    assert list(tmp_path.iterdir()) == []


# -- JSON ------------------------------------------------------------------------------


def test_json_that_is_not_there_or_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(MissingPathError, match=r"\bx\.json is missing\.$"):
        json_parts.read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("{}")
    plainly = Path.open

    def fail(self, *args, **options):
        if self.name == "x.json":
            raise PermissionError(errno.EACCES, "Permission denied")
        return plainly(self, *args, **options)

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(DatasetError, match=r"\bx\.json cannot be read \(Permission denied\)\.$"):
        with json_parts.mapped(tmp_path / "x.json"):
            pass


def test_a_key_that_is_no_text_is_told_by_its_place():
    with pytest.raises(DatasetError, match=r"^the JSON is damaged near byte 9$"):
        list(json_parts.members(b'{"a": 1, "\\x": 2}'))


def test_a_list_is_told_from_what_only_begins_as_one(tmp_path):
    with pytest.raises(DatasetError, match="the JSON is damaged near byte 1 "):
        json_parts.value(b'["a" 1]', 1, 6)
    (tmp_path / "fifo.json").mkdir()
    with pytest.raises(DatasetError, match=r"fifo\.json is no plain file; copy it again\."):
        with json_parts.mapped(tmp_path / "fifo.json"):
            pass


# -- other formats ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"videos": []}', "{meta} has no 'videos'; it is no dataset of sentences."),
        ('{"videos": {"v": 7}}', "The video 'v' in {meta} has no 'expressions'."),
        ('{"videos": {"v": {"expressions": []}}}', "The video 'v' in {meta} has no 'expressions'."),
        (
            '{"videos": {"v": {"expressions": {"0": {"exp": 7}}}}}',
            "v/0 in {meta} has no text 'exp'.",
        ),
        ('{"videos": {"v": {"expressions": {"0": []}}}}', "v/0 in {meta} has no text 'exp'."),
        (
            '{"videos": {"v": {"frames": [], "expressions": {}}}}',
            "The video 'v' in {root} lists no frames.",
        ),
    ],
)
@pytest.mark.parametrize("kind", ["ytvos", "png"])
def test_sentences_of_another_kind(tmp_path, kind, text, said):
    if kind == "png":
        (tmp_path / "Annotations").mkdir()
    else:
        (tmp_path / "meta.json").write_text("{}")
    (tmp_path / META).write_text(text)
    with pytest.raises(DatasetError) as caught:
        open_dataset(tmp_path).clip("v")
    assert str(caught.value) == said.format(meta=tmp_path / META, root=tmp_path)


@pytest.mark.parametrize("last", [1000, 1001])
def test_masks_of_over_a_thousand_values_are_none(tmp_path, last):
    def draw(index):
        picture = np.zeros((H, W), np.uint16)
        values = np.arange(1 + 500 * index, last + 1 if index else 501)
        picture.ravel()[: len(values)] = values
        return Image.fromarray(picture)

    root = vos(tmp_path / "s", draw, indices=(0, 1))
    if last == 1000:
        assert list(open_dataset(root).clip("v").masks) == list(range(1, 1001))
        return
    with pytest.raises(DatasetError, match=r"^The masks of v have over 1000 values; they are none"):
        open_dataset(root).clip("v")


def test_a_folder_without_frames(tmp_path):
    (tmp_path / "v").mkdir()
    for name in ("notes.txt", ".hidden.jpg"):
        (tmp_path / "v" / name).write_text("")
    with pytest.raises(DatasetError, match=r"\bv holds no frames; copy them again\."):
        frames_in(tmp_path / "v")
    missing = "No such file or directory|The system cannot find the path specified"
    with pytest.raises(DatasetError, match=rf"\bw cannot be read \(({missing})\)\."):
        frames_in(tmp_path / "w")
    (tmp_path / "v" / "a.JPG").write_text("")
    assert frames_in(tmp_path / "v") == ["a"]


def test_a_dataset_that_is_almost_one(tmp_path):
    (tmp_path / META).write_text('{"videos": {}}')
    (tmp_path / "Annotations").write_text("a file")
    with pytest.raises(DatasetError, match=f"^{re.escape(str(tmp_path))} is no dataset that can"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".Jpg"])
def test_labelme_without_a_size_asks_the_picture(tmp_path, suffix):
    folder = tmp_path / "v"
    (name, *others) = frames(folder)
    for each in (name, *others):
        (folder / f"{each}.jpg").rename(folder / f"{each}{suffix}")
    shape = {"label": "x", "points": [[2, 2], [9, 2], [9, 8], [2, 8]]}
    (folder / f"{name}.json").write_text(json.dumps({"shapes": [shape]}))
    dataset = open_dataset(folder)
    if suffix == ".Jpg" and not (folder / f"{name}.jpg").exists():
        with pytest.raises(DatasetError, match="polygons need the 'height' and 'width' of the"):
            dataset.clip("v")
    else:
        assert rle.area(dataset.clip("v").masks[1][0]) == 42
        with pytest.raises(DatasetError, match="^The format labelme is not written back to"):
            dataset.write_back(dataset.clip("v"), None)


def test_a_picture_whose_head_promises_more_than_pillow_opens(tmp_path):
    head = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)

    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    path = tmp_path / "x.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"x"))
    with pytest.raises(DatasetError) as caught, open_picture(path):
        pass
    assert str(caught.value) == f"{path} is larger than any video frame; it is not opened."


def test_more_targets_than_a_palette_has_colours():
    notes = []
    for count in (253, 254):
        masks = {}
        for key in range(count):
            mask = np.zeros((16, 16), bool)
            mask[key // 16, key % 16] = True
            masks[key + 1] = [rle.encode(mask)]
        clip = Clip("v", ["0"], (16, 16), masks, {"0": ("none", [])})
        if count == 253:
            (part,) = parts_of(clip, str, notes)
            assert part.members[254] == [] and part.sentences == {"0": ("none", 254)}
        else:
            with pytest.raises(DatasetError) as caught:
                parts_of(clip, str, notes)
            assert str(caught.value) == (
                "v has 255 objects, a palette PNG holds 254; export to mevis or coco."
            )


@pytest.mark.parametrize(
    ("format", "split", "yes"),
    [
        ("mevis", "valid", True),
        ("mevis", "valid_u", False),
        ("csv", "train", True),
        ("csv", "valid", True),
        ("ytvos", "valid", False),
        ("coco", "any", False),
        ("coco", "", False),  # the name of a disk's topmost folder
    ],
)
def test_where_a_sentence_of_unknown_target_has_a_place(format, split, yes):
    assert holds_unknown(format, split) is yes


# -- imports ---------------------------------------------------------------------------


def test_a_frame_that_is_listed_twice_or_a_mask_of_another_size(tmp_path):
    root = split_of(tmp_path)
    change(root / META, lambda d: d["videos"]["v"]["frames"].__setitem__(3, "00001"))
    with pytest.raises(DatasetError) as caught:
        import_video(root, "v", tmp_path / "p")
    assert str(caught.value) == "The frame 00001 of v is listed twice; list it once."
    change(root / META, lambda d: d["videos"]["v"]["frames"].__setitem__(3, "00009"))
    with pytest.raises(DatasetError) as caught:
        import_video(root, "v", tmp_path / "p")
    place = root / "JPEGImages" / "v"
    assert str(caught.value) == f"The frame 00009 of v is not in {place}; copy it again."
    change(root / META, lambda d: d["videos"]["v"]["frames"].__setitem__(3, "00003"))
    wide = rle.encode(np.ones((W, H), bool))
    change(root / MASKS, lambda m: m["0"].__setitem__(3, wide))
    with pytest.raises(DatasetError) as caught:
        import_video(root, "v", tmp_path / "p")
    assert str(caught.value) == (
        f"A mask of v, object 0, frame 00003, is {H}x{W}, the frames are {W}x{H}; make both of "
        "one size."
    )
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_a_full_disk_stops_an_import_of_all_at_once(tmp_path, monkeypatch):
    root = split_of(tmp_path)
    change(root / META, lambda d: d["videos"].update(a=d["videos"]["v"]))

    def full(*_):
        raise StorageError("the disk is full")

    monkeypatch.setattr(Origin, "save", full)
    asked = []
    with pytest.raises(StorageError, match="^the disk is full$"):
        asked.extend(import_split(root, tmp_path / "out"))
    assert asked == [] and [p.name for p in tmp_path.iterdir()] == ["s"]


# -- checks and repairs ----------------------------------------------------------------


def test_an_annotation_that_is_no_json_and_objects_that_cannot_be_compared(tmp_path):
    root = split_of(tmp_path)
    text = (root / MASKS).read_text()
    (root / MASKS).write_text(text.replace('"0": [', '"0": [nul, ', 1))
    (error, *_) = check_split(root)
    assert str(error) == (
        f"error: {MASKS}: anno_id 0: the JSON is damaged near byte 6 (Expecting value: line 1 "
        "column 2 (char 1)); copy the file again"
    )


def test_masks_of_unlike_sizes_are_not_compared(tmp_path):
    """Without its frames nothing says which of two sizes is right."""
    root = split_of(tmp_path)
    small = [rle.encode(np.ones((4, 5), bool))] * T
    change(root / MASKS, lambda m: m.update({"1": small}))
    change(
        root / META,
        lambda d: d["videos"]["v"]["expressions"]["1"].update(obj_id=[1], anno_id=[1]),
    )
    shutil.rmtree(root / "JPEGImages")
    assert [f.code for f in check_split(root)] == ["no-folder"]


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1}',
        '{"videos": []}',
        '{"videos": {"v": 7, "w": {}, "x": {"expressions": 7}}}',
        '{"videos": {"v": {"expressions": {"0": NaN, "1": "a", "2": {"exp": NaN}}}}}',
    ],
)
def test_sentences_of_another_kind_are_not_repaired(tmp_path, text):
    (tmp_path / META).write_text(text)
    assert repair_split(tmp_path) == []
    assert (tmp_path / META).read_text() == text


def test_repair_goes_on_behind_what_is_a_persons_to_judge(tmp_path):
    """Videos, rows and masks of another kind stand before those that are repaired."""
    root = split_of(tmp_path)
    empty = rle.encode(np.zeros((H, W), bool))

    def spoil(masks):
        masks["0"][1:5] = ["no mask", empty, {}, {"size": [H, W], "counts": [0, H * W]}]

    change(root / MASKS, spoil)
    change(
        root / META,
        lambda d: d.update(
            videos={
                "a": 7,
                "b": {"expressions": 7},
                "c": {"expressions": {"0": 7, "1": {"exp": " x "}, "2": {"exp": 7}}},
                **d["videos"],
            }
        ),
    )
    before = json.loads((root / MASKS).read_text())
    assert repair_split(root) == [
        f"{META}: removed white space around sentences and line breaks in them",
        f"{MASKS}: wrote masks without a pixel as null",
        f"{MASKS}: wrote absent masks as null",
        f"{MASKS}: compressed masks",
    ]
    before["0"][2:5] = [None, None, rle.encode(np.ones((H, W), bool))]
    assert json.loads((root / MASKS).read_text()) == before
    rows = json.loads((root / META).read_text())["videos"]["c"]["expressions"]
    assert rows == {"0": 7, "1": {"exp": "x"}, "2": {"exp": 7}}


def test_a_repair_without_links_keeps_a_copy_and_sweeps_what_a_kill_left(tmp_path, monkeypatch):
    root = split_of(tmp_path)
    change(root / MASKS, lambda m: m["0"].__setitem__(0, {}))
    raw = (root / MASKS).read_bytes()
    (root / ".x.json.1.partial.json").write_text("half")

    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert repair_split(root) == [
        f"{MASKS}: wrote absent masks as null",
        "removed .x.json.1.partial.json, which a killed export left",
    ]
    assert (root / f"{MASKS}.before-fix").read_bytes() == raw
    assert sorted(p.name for p in root.iterdir()) == [
        "JPEGImages",
        MASKS,
        f"{MASKS}.before-fix",
        META,
    ]


def test_a_repair_that_the_disk_refuses_names_the_split(tmp_path, monkeypatch):
    root = split_of(tmp_path)
    change(root / MASKS, lambda m: m["0"].__setitem__(0, {}))
    raw = (root / MASKS).read_bytes()

    def refuse(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(shutil, "copyfile", refuse)
    with pytest.raises(StorageError, match=re.escape(f"{root / MASKS}: Input/output error")):
        repair_split(root)
    assert (root / MASKS).read_bytes() == raw
    assert sorted(p.name for p in root.iterdir()) == ["JPEGImages", MASKS, META]


def test_a_truth_value_is_no_id(tmp_path):
    root = split_of(tmp_path)
    change(root / META, lambda d: d["videos"]["v"]["expressions"]["0"].update(obj_id=[True]))
    (error, *_) = check_split(root)
    assert error.code == "bad-ids" and error.problem == "the id True is no whole number"


def test_frames_that_begin_and_end_anywhere_are_told_once():
    assert list(_frame_list("v", ["b", "c"])) == []
    (first,) = _frame_list("v", ["00001", "00002"])
    assert (first.code, first.problem) == ("no-first-frame", "the first frame is 00001, not 00000")
    assert list(_frame_list("v", ["0"])) == []


def test_files_of_sa_v_without_frames_are_not_read(tmp_path):
    root = sa_v(tmp_path / "s")
    (root / "other.json").write_text("{}")
    assert list(open_dataset(root).videos) == ["sav_000001_manual"]
