"""What passes between projects and formats: clips, origins, names, and the videos of an export."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import flowrvs
from flowrvs.data import MevisWriter, export_projects, import_video
from flowrvs.data.clip import (
    Clip,
    coded,
    coded_masks,
    free_id,
    painted,
    separate,
    union,
    unused,
    whole_text,
)
from flowrvs.data.formats import may_replace, meta_path, new_split, open_dataset, split_folder
from flowrvs.data.origin import Origin
from flowrvs.data.pictures import LARGEST, frame_names, is_safe_name, sorted_and_unique
from flowrvs.data.preview import assign_kinds, collect, parse_shares
from flowrvs.errors import DatasetError, InputError, MissingPathError, ProjectError
from flowrvs.masks import rle
from flowrvs.store import Project

MASKS = st.integers(1, 4).flatmap(
    lambda count: st.lists(
        st.lists(st.integers(0, 2**6 - 1), min_size=count, max_size=count), min_size=1, max_size=5
    )
)


def bits(rows):
    """Pictures of 2 x 3 pixels by the bits of numbers, (N, T, 2, 3)."""
    found = [[[(n >> b) & 1 for b in range(6)] for n in row] for row in rows]
    return np.array(found, bool).reshape(len(rows), -1, 2, 3)


def encoded(masks):
    return [rle.encode(mask) if mask.any() else None for mask in masks]


@settings(max_examples=60, deadline=None)
@given(MASKS)
def test_objects_are_arranged_by_the_first_fit_and_joined(rows):
    masks = bits(rows)
    given = {10 + key: encoded(each) for key, each in enumerate(masks)}
    groups: list[list[int]] = []
    for key in range(len(masks)):
        fits = (g for g in groups if not any((masks[key] & masks[other]).any() for other in g))
        next(fits, groups.append([]) or groups[-1]).append(key)
    groups = [group for group in groups if group]
    assert separate(given) == [[10 + key for key in group] for group in groups]
    joined = union(list(given.values()))
    assert [None if m is None else rle.decode(m).tolist() for m in joined] == [
        mask.tolist() if mask.any() else None for mask in masks.any(0)
    ]
    first = {key: given[key] for key in separate(given)[0]}
    picture = painted(first, 0, (2, 3), np.uint8)
    wanted = sum(key * masks[key - 10, 0].astype(np.uint8) for key in first)
    assert picture.dtype == np.uint8 and np.array_equal(picture, wanted)


def test_a_mask_is_coded_or_refused():
    mask = np.eye(3, 4, dtype=bool)
    short = rle.encode(mask)
    assert coded(short) is short
    plain = {"size": [3, 4], "counts": rle.runs(short).tolist()}
    assert coded(plain) == short
    for nothing in (None, {}, 0, "", rle.encode(0 * mask)):
        assert coded(nothing) is None
    wide = {"size": [1, LARGEST], "counts": [0, LARGEST]}
    assert coded(wide) is not None
    no = "it is no RLE: 'size' [height, width] and 'counts'"
    for wrong, said in (
        ({"size": [1, LARGEST + 1], "counts": [0, LARGEST + 1]}, f"[1, {LARGEST + 1}] is no mask"),
        ({"size": [0, 4], "counts": []}, "an RLE of the size [0, 4] is no mask of a frame"),
        ({"size": [3]}, no),
        ({"counts": "x"}, no),
        ({"size": [3, 4]}, "'counts'"),
        ({"size": [float("inf"), 1], "counts": []}, no),
        ("mask", no),
    ):
        with pytest.raises(DatasetError) as caught:
            coded(wrong)
        assert said in str(caught.value)
    clip = Clip("v", ["a", "b"])
    assert coded_masks([short, None], clip, 7) == [short, None]
    for entries, said in (
        ({}, "v, annotation 7: its masks are no list; write one entry a frame."),
        (
            [short],
            "v, annotation 7: it has 1 mask for 2 frames; write one entry a frame, null where the "
            "object is absent.",
        ),
        ([None, "x"], f"v, annotation 7, frame b: {no}; encode it again."),
    ):
        with pytest.raises(DatasetError) as caught:
            coded_masks(entries, clip, 7)
        assert str(caught.value) == said


def test_a_clip_is_known_by_its_frames_masks_and_sentences():
    mask = rle.encode(np.eye(3, dtype=bool))
    clip = Clip("v", ["a"], masks={1: [mask], 2: [None]}, sentences={"0": ("x", [1])})
    assert clip.spoken_of(1) == ["x"] and clip.spoken_of(2) == [] and clip.silent() == [2]
    same = replace(clip, name="w", notes=["n"])
    assert clip.fingerprint() == same.fingerprint()
    others = [
        replace(clip, frames=["b"]),
        replace(clip, masks={1: [None], 2: [None]}),
        replace(clip, masks={2: [None], 1: [mask]}),
        replace(clip, sentences={"0": ("y", [1])}),
        replace(clip, sentences={"0": ("x", None)}),
    ]
    assert len({c.fingerprint() for c in (clip, *others)}) == 6
    assert whole_text("a\ud800b") == "a?b"


def test_an_origin_is_kept_whole(tmp_path):
    origin = Origin(
        "coco",
        "/s",
        "v",
        ["0"],
        {3: (4, 5)},
        {"a": "b"},
        {"clip": "d"},
        ["a"],
        "/pictures",
        ["note"],
        True,
    )
    origin.save(tmp_path)
    assert Origin.load(tmp_path) == origin and origin.goes_home
    assert [replace(origin, format=f).goes_home for f in ("labelme", "coco-images", "none")] == [
        False
    ] * 3
    assert Origin.load(tmp_path / "none") is None


def test_names_and_numbers_that_are_free():
    taken = {"a"}
    assert [unused(name, taken) for name in ("A", "a", "b", "B", "a-2")] == [
        "A-2",
        "a-3",
        "b",
        "B-2",
        "a-2-2",
    ]
    assert taken == {"a", "a-2", "a-3", "b", "b-2", "a-2-2"}
    assert free_id({"0", "7"}) == "2" and free_id({"0", "2"}, {"3"}) == "4" and free_id(()) == "0"


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a" * 240, True),
        ("a" * 241, False),
        ("é" * 120, True),
        ("é" * 121, False),
        ("a\x1f", False),
        ("a\x7f", False),
        ("a\x20", True),
        ("\ud800", False),
        (7, False),
        ("a/", False),
        ("C:a", False),
        ("ab:c", True),
    ],
)
def test_the_bounds_of_names(name, safe):
    assert is_safe_name(name) is safe


def test_numbers_as_names_sort_as_they_count():
    assert frame_names(0) == [] and frame_names(2) == ["00000", "00001"]
    assert frame_names(100_000)[-1] == "99999" and frame_names(100_001)[1] == "000001"
    assert sorted_and_unique(["a", "b"]) and sorted_and_unique([])
    assert not sorted_and_unique(["a", "a"]) and not sorted_and_unique(["b", "a"])


# -- the videos of an export ------------------------------------------------------------


@pytest.fixture
def clip(tmp_path):
    """A folder of three pictures, and what makes a project of it under a name."""

    def make(name, project, size=(12, 16), value=40, names=("0", "1", "2"), fill=None):
        folder = tmp_path / name
        if not folder.exists():
            folder.mkdir()
            for index, frame in enumerate(names):
                picture = np.full((*size, 3), value + 20 * index, np.uint8)
                Image.fromarray(picture).save(folder / f"{frame}.jpg")
        with flowrvs.open_video(folder) as video:
            made = Project.create(tmp_path / project, video.info)
        with made:
            if fill is not None:
                fill(made)
        return made.path

    return make


def test_projects_of_one_video_become_one_and_keep_their_ids(clip, tmp_path):
    def first(project):
        for text in ("a", "b", "c"):
            made = project.add_object(text, project.add_layer(text).id)
            project.labels(made.layer)[0, :2, :2] = made.id
            project.add_expression(text, [made.id])

    def second(project):
        made = project.add_object("d", project.add_layer("d").id)
        project.labels(made.layer)[1, :2, :2] = made.id
        project.add_expression("d", [made.id])

    one = clip("v", "one", fill=first)
    two = clip("v", "two", fill=second)
    other = clip("w-v", "three", value=90, fill=second)
    sources = collect([one, two, other], [None] * 3)
    assert [source.name for source in sources] == ["v", "w-v"]
    source = sources[0]
    assert {key: (n, made.name) for key, (n, made) in source.objects.items()} == {
        1: (0, "a"),
        2: (0, "b"),
        3: (0, "c"),
        4: (1, "d"),
    }
    assert source.sentences == {
        "0": ("a", [1]),
        "1": ("b", [2]),
        "2": ("c", [3]),
        "3": ("d", [4]),
    }
    assert source.projects == [one, two] and source.origins == [None, None]
    assert source.folders == [Path(one), Path(two)]
    with pytest.raises(InputError, match=r"one\.flowrvs is given twice; its objects would be"):
        collect([one, one], [None, None])


def test_ids_that_a_dataset_gave_are_kept_beside_those_of_another_project(clip, tmp_path):
    """7 and 2 in the dataset; a second project's own 1, 2 and sentences 0, 5 go around them."""
    mask = np.zeros((3, 12, 16), bool)
    mask[:, :2, :2] = True
    frames = [np.full((12, 16, 3), 40 + 20 * n, np.uint8) for n in range(3)]
    with MevisWriter(tmp_path / "s") as writer:
        writer.add_video(
            "v",
            frames,
            objects={7: mask, 2: mask[:, ::-1]},
            expressions={"5": ("both", [2, 7]), "0": ("seven", [7]), "9": ("none", [])},
        )
    with import_video(tmp_path / "s", "v", tmp_path / "p") as project:
        path = project.path
        with flowrvs.open_video(project.video.path) as video:
            other = Project.create(tmp_path / "q", video.info)
    with other:
        for n in range(2):
            made = other.add_object(f"o{n}", other.add_layer("l").id)
            other.labels(made.layer)[n, 4:6, 4:6] = made.id
            other.add_expression(f"o{n}", [made.id])
    (source,) = collect([path, other.path], [None, None])
    assert [(key, n, made.name) for key, (n, made) in source.objects.items()] == [
        (2, 0, "object 2"),
        (7, 0, "seven"),
        (1, 1, "o0"),
        (8, 1, "o1"),
    ]
    assert source.sentences == {
        "5": ("both", [2, 7]),
        "0": ("seven", [7]),
        "9": ("none", []),
        "3": ("o0", [1]),
        "1": ("o1", [8]),
    }


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("clip v1.2", "clip v1.2"),  # dots of a folder are no suffix
        (".hidden", ".hidden"),
        ("a\\b", "a_b"),
        ("a\nb. ", "a_b"),
        ("é" * 120, "é" * 120),
        ("é" * 125, "é" * 60),
    ],
)
def test_names_of_videos_are_made_safe(clip, name, wanted):
    (source,) = collect([clip(name, "p")], [None])
    assert source.name == wanted


def test_frames_keep_their_names_where_they_sort(clip):
    (source,) = collect([clip("v", "p", names=("b", "c", "d"))], [None])
    assert (source.frames, source.positions) == (["b", "c", "d"], [0, 1, 2])
    source.keep_every(2)
    assert (source.frames, source.positions) == (["b", "d"], [0, 2])
    (source,) = collect([clip("w", "q", names=("8", "9", "10"))], [None])
    assert (source.frames, source.positions) == (["00000", "00001", "00002"], [0, 1, 2])


def test_a_video_that_is_another_one_now_is_refused(clip, tmp_path):
    path = clip("v", "p")
    for picture in (tmp_path / "v").iterdir():
        Image.new("RGB", (30, 20)).save(picture)
    with pytest.raises(ProjectError):
        collect([path], [None])
    with pytest.raises(ProjectError):
        collect([path], [flowrvs.open_video(np.zeros((3, 5, 6, 3), np.uint8))])


@pytest.mark.parametrize(("link", "kind"), [(False, bytes), (True, Path)])
def test_pictures_of_a_folder_go_as_they_are_and_others_as_arrays(clip, tmp_path, link, kind):
    (source,) = collect([clip("v", "p")], [None])
    told = []
    found = list(source.pictures(None, told.append, link=link))
    assert all(isinstance(each, kind) for each in found) and sum(told) == 3
    names = [tmp_path / "v" / f"{n}.jpg" for n in range(3)]
    assert found == (names if link else [path.read_bytes() for path in names])
    Image.new("L", (16, 12)).save(names[1])  # one of another kind: grey is kept, too
    (source,) = collect([clip("v", "q")], [None])
    found = list(source.pictures(None, None, link=link))
    assert [type(each) for each in found] == [type(names[0]) if link else bytes] * 3
    Image.new("CMYK", (16, 12)).save(names[1])
    (source,) = collect([clip("v", "r")], [None])
    found = list(source.pictures(None, None, link=link))
    assert all(isinstance(each, np.ndarray) and each.shape == (12, 16, 3) for each in found)
    source.keep_every(2)
    assert [type(each) for each in source.pictures()] == [bytes] * 2
    arrays = list(source.arrays())
    assert [array[0, 0, 0] for array in arrays] == pytest.approx([40, 80], abs=3)
    source.release()


# -- shares -------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=30),
    st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any),
    st.integers(0, 5),
)
def test_shares_are_those_of_the_largest_remainder(kinds, shares, seed):
    names = {f"s{n}": float(share) for n, share in enumerate(shares)}
    found = assign_kinds({f"v{n}": (kind,) for n, kind in enumerate(kinds)}, names, seed)
    count, total = len(kinds), sum(shares)
    wanted = {name: int(share * count // total) for name, share in names.items() if share}
    rest = sorted(wanted, key=lambda name: wanted[name] - names[name] * count / total)
    for name in rest[: count - sum(wanted.values())]:
        wanted[name] += 1
    for name in wanted:  # none is empty while another one has two
        most = max(wanted, key=lambda key: wanted[key])
        if not wanted[name] and wanted[most] > 1:
            wanted[most], wanted[name] = wanted[most] - 1, 1
    assert Counter(found.values()) == Counter({k: n for k, n in wanted.items() if n})
    assert set(found) == {f"v{n}" for n in range(count)}


def test_an_assignment_is_the_same_for_ever():
    """People note the seed; what it gave stays what it gives."""
    kinds = {f"v{n}": (n % 3 == 0, n % 2) for n in range(12)}
    shares = {"a": 0.5, "b": 0.25, "c": 0.25}
    for seed, wanted in ((0, "baccaaabaabc"), (1, "accaaababcab")):
        found = assign_kinds(kinds, shares, seed)
        assert "".join(found[name] for name in kinds) == wanted


@pytest.mark.parametrize(
    ("text", "format", "wanted"),
    [
        ("0.8,0.2", "mevis", {"train": 0.8, "valid_u": 0.2}),
        ("0.8, 0.1 ,0.1", "mevis", {"train": 0.8, "valid_u": 0.1, "test": 0.1}),
        ("8,1,1", "coco", {"train": 8, "valid": 1, "test": 1}),
        ("a=1", "mevis", {"a": 1}),
        (" a = 1 ,b=2", "mevis", {"a": 1, "b": 2}),
        ("a=b=2", "mevis", {"a=b": 2}),
    ],
)
def test_shares_that_are_understood(text, format, wanted):
    assert parse_shares(text, format) == wanted


@pytest.mark.parametrize("text", ["1", "1,2,3,4", "a=1,2", "x,y", "a=x", ""])
def test_shares_that_are_not(text):
    with pytest.raises(InputError) as caught:
        parse_shares(text)
    assert str(caught.value) == (
        f"The shares {text!r} are not understood; write 0.8,0.1,0.1 or train=0.8,valid_u=0.2."
    )


# -- datasets by their files ----------------------------------------------------------------


def test_where_the_sentences_of_a_split_are(tmp_path):
    root = tmp_path / "valid"
    root.mkdir()
    beside = tmp_path / "meta_expressions" / "valid" / "meta_expressions.json"
    names = ["meta_expressions.json", "meta_expressions_v2.json"]
    names += ["meta_expressions_v2_release.json", "meta_expressions_text_release.json"]
    assert meta_path(root) == root / names[0]
    beside.parent.mkdir(parents=True)
    beside.write_text("{}")
    assert meta_path(root) == beside
    for name in reversed(names):
        (root / name).write_text("{}")
        assert meta_path(root) == root / name
        assert split_folder(root) == root
    (root / names[0]).unlink()
    (root / names[0]).mkdir()
    assert meta_path(root) == root / names[1]


def test_what_is_no_split_is_told(tmp_path):
    with pytest.raises(MissingPathError, match="No split at .*/none; give the folder of a split."):
        split_folder(tmp_path / "none")
    with pytest.raises(MissingPathError, match="No dataset at .*/none; give the folder of a split"):
        open_dataset(tmp_path / "none")
    (tmp_path / "other.json").write_text("{}")
    said = f"{tmp_path} has no meta_expressions.json; it has other.json: give the folder of a"
    for ask in (split_folder, open_dataset):
        with pytest.raises(DatasetError) as caught:
            ask(tmp_path)
        assert str(caught.value) == f"{said} MeViS-style split, or a JSON file."
    with pytest.raises(DatasetError, match="is no annotation that can be read: JSON of COCO by"):
        open_dataset(tmp_path / "other.json")
    for name in ("b", "a", ".hidden"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "meta_expressions.json").write_text('{"videos": {}}')
    with pytest.raises(DatasetError) as caught:
        split_folder(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} holds the splits a, b; give one of them, e.g. {tmp_path / 'a'}."
    )
    with pytest.raises(DatasetError, match=r"/a \(mevis\) lists no video\."):
        open_dataset(tmp_path / "a")
    with pytest.raises(MissingPathError, match="There is no folder of frames .*/none"):
        open_dataset(tmp_path / "a", tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "text", "yes"),
    [
        ("meta_expressions.json", "", True),
        ("instances.json", "", True),
        ("ImageSets", "", True),
        ("README.md", "# x\n\nWritten by flowrvs 0.1.0.\n", True),
        ("README.md", "My photos", False),
        ("photo.jpg", "", False),
    ],
)
def test_only_a_dataset_is_replaced(tmp_path, name, text, yes):
    (tmp_path / name).write_text(text)
    with pytest.raises(DatasetError, match="already exists with other content; choose another"):
        may_replace(tmp_path, False)
    if yes:
        assert may_replace(tmp_path, True) is True
    else:
        with pytest.raises(DatasetError, match="holds something else than a split and is not"):
            may_replace(tmp_path, True)


@pytest.mark.parametrize("place", [".", "..", "../.."])
def test_a_dataset_is_not_made_around_where_one_is(tmp_path, monkeypatch, place):
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    with pytest.raises(DatasetError, match="is the folder that you are in, or around it"):
        new_split(place, True)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]


def test_the_quality_of_jpegs_is_passed_on(clip, tmp_path):
    """A picture that is none yet is compressed; one of quality 5 is smaller."""
    (tmp_path / "v").mkdir()
    rng = np.random.default_rng(0)
    for n in range(2):
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(tmp_path / f"v/{n}.png")
    path = clip("v", "p")
    sizes = []
    for quality in (5, 95):
        result = export_projects([path], tmp_path / str(quality), format="coco", quality=quality)
        sizes.append((result.path / "JPEGImages/v/0.jpg").stat().st_size)
    assert sizes[0] < sizes[1] / 3
    assert json.loads((result.path / "instances.json").read_text())["videos"][0]["length"] == 2
