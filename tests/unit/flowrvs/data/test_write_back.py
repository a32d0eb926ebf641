"""Masks and sentences that go back to their dataset or into a new one, where it is odd."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import flowrvs
from flowrvs.data import (
    MevisSplit,
    MevisWriter,
    append_projects,
    check_split,
    export_projects,
    import_video,
    write_back,
)
from flowrvs.data.export import assign_projects, export_splits
from flowrvs.data.formats import open_dataset
from flowrvs.data.origin import Origin
from flowrvs.data.preview import collect
from flowrvs.errors import DatasetError
from flowrvs.masks import rle
from flowrvs.store import Project
from tests.fixtures.layouts import (
    KINDS,
    MASKS,
    META,
    H,
    T,
    W,
    boxes,
    bytes_of,
    change,
    coco_video,
    frames,
    labels,
    palette,
    ref_ytvos,
    split_of,
    vos,
)


def test_coco_without_sentences_gets_a_list_of_them(tmp_path):
    path = coco_video(tmp_path / "c")
    before = path.read_text()
    with import_video(path, None, tmp_path / "p") as project:
        project.add_expression("the first", [1])
        project.add_expression("none", [])
        assert write_back(project).sentences == 2
    rows = [
        {"id": 1, "video_id": 1, "exp_id": "0", "exp": "the first", "annotation_ids": [11]},
        {"id": 2, "video_id": 1, "exp_id": "1", "exp": "none", "annotation_ids": []},
    ]
    assert path.read_text() == f'{before[:-1]}, "expressions": {json.dumps(rows)}}}'


def test_a_box_that_is_given_a_mask_is_the_masks_then(tmp_path):
    """On frame 1 there is a box alone, on frame 2 a mask with another box, on frame 4 nothing."""
    path = coco_video(tmp_path / "c")

    def bare(data):
        row = data["annotations"][0]
        row["segmentations"] = [None, None, row["segmentations"][2], None, None, None]
        row["bboxes"] = [None, [1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 1, 1], [0, 0, 0, 0], None]
        row["areas"] = [None, 12, 42, 1, 0, None]

    change(path, bare)
    with import_video(path, None, tmp_path / "p") as project:
        assert Origin.load(project.path).notes[0] == "left out: 2 boxes without a mask"
        assert project.provenance(1).tolist() == [2, 0, 2, 0, 2, 2]
        project.labels(1)[1, 4:6, 3:8] = 1
        assert write_back(project).masks == 1
    row = json.loads(path.read_text())["annotations"][0]
    assert [mask is not None for mask in row["segmentations"]] == [t in (1, 2) for t in range(T)]
    assert row["bboxes"] == [None, [3, 4, 5, 2], [4, 2, 7, 6], [9, 9, 1, 1], None, None]
    assert row["areas"] == [None, 10, 42, 1, None, None]


def test_frames_without_any_picture_of_masks_get_some(tmp_path):
    """The first mask of a video: a palette of DAVIS, at the size of the frames."""
    (tmp_path / "y").mkdir()
    root = ref_ytvos(tmp_path / "y", truth=True)
    shutil.rmtree(root / "Annotations" / "v")
    with import_video(root, "v", tmp_path / "p") as project:
        assert not project.objects
        made = project.add_object("it", project.add_layer("l").id)
        project.labels(made.layer)[2, 3:5, 4:9] = made.id
        result = write_back(project)
        assert (result.masks, result.added) == (0, 1)
    (picture,) = (root / "Annotations" / "v").iterdir()
    wanted = np.zeros((H, W), np.uint8)
    wanted[3:5, 4:9] = 1
    with Image.open(picture) as found:
        assert (picture.name, found.mode) == ("00010.png", "P")
        assert np.array_equal(np.asarray(found), wanted)
        assert found.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]


def two(*values, dtype=np.uint8):
    return lambda index: Image.fromarray(labels(index, values, dtype))


@pytest.mark.parametrize(
    ("draw", "value"),
    [
        (two(1, 2), 3),
        (two(1, 253), 254),
        (two(1, 254), None),
        (two(0, 255), None),  # beside another one it would be a border
        (two(1, 253, dtype=np.uint16), 254),
        (two(1, 254, dtype=np.uint16), 255),
        (two(1, 65533, dtype=np.uint16), 65534),
        (two(1, 65534, dtype=np.uint16), None),
        (two(0, 65535, dtype=np.uint16), None),
        (KINDS["grey in three channels"], (3, 3, 3)),
        (KINDS["colours of VOC"], (128, 128, 0)),
        (KINDS["other colours"], (128, 128, 0)),
    ],
)
def test_what_stands_for_a_new_object_in_pictures_of_masks(tmp_path, draw, value):
    root = vos(tmp_path / "s", draw)
    before = bytes_of(root)
    with import_video(root, "v", tmp_path / "p") as project:
        new = project.add_object("new", 1)
        project.labels(1)[2, 18:, 25:] = new.id
        if value is None:
            with pytest.raises(DatasetError) as caught:
                write_back(project)
            assert str(caught.value) == (
                f"{root / 'Annotations' / 'v'} holds pictures that have no room for another object."
            )
            assert bytes_of(root) == before
            return
        assert write_back(project).added == 1
    after = bytes_of(root)
    assert [str(name) for name in after if after[name] != before[name]] == [
        "Annotations/v/00002.png"
    ]
    wanted = np.array(draw(2))
    wanted[18:, 25:] = value
    with Image.open(root / "Annotations/v/00002.png") as found:
        assert np.array_equal(np.asarray(found), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_drawn_of_known_objects_has_their_pixels(tmp_path, kind):
    """Both get some more on a frame; everything else is as it was, the picture's kind too."""
    draw = KINDS[kind]
    root = vos(tmp_path / "s", draw)
    wanted = np.array(draw(2).convert("L") if kind == "opaque" else draw(2))
    first, second = wanted[2, 4], wanted[11, 3]
    with import_video(root, "v", tmp_path / "p") as project:
        where = {int(project.labels(1)[2][y, x]): box for y, x, box in ((2, 4, 18), (11, 3, 9))}
        for value, row in where.items():
            project.labels(1)[2, row : row + 2, 24:] = value
        assert write_back(project).masks == 2
    wanted[18:20, 24:], wanted[9:11, 24:] = first, second
    with Image.open(root / "Annotations/v/00002.png") as found:
        assert np.array_equal(np.asarray(found), wanted)


def test_a_picture_of_masks_of_another_size_than_its_masks(tmp_path):
    root = vos(tmp_path / "s", palette)
    with import_video(root, "v", tmp_path / "p") as project:
        project.labels(1)[2, :2, :2] = 1
        dataset = open_dataset(root)
        clip = dataset.clip("v")
        Image.new("P", (W, H - 1)).save(root / "Annotations/v/00002.png")
        before = bytes_of(root)
        with pytest.raises(DatasetError):  # it is read again
            write_back(project)
        from flowrvs.data.write_back import Changes

        mask = rle.encode(np.eye(H, W, dtype=bool))
        whole = [*clip.masks[1][:2], mask, *clip.masks[1][3:]]
        with pytest.raises(DatasetError, match=r"00002\.png is 30x19, the frames 30x20; make both"):
            dataset.write_back(clip, Changes({1: {2: mask}}, {1: whole}))
        assert bytes_of(root) == before


def png_split(root, rows):
    """Sentences with a folder of pictures each; None for one without."""
    names = frames(root / "JPEGImages" / "v")
    for exp_id, draw in rows.items():
        for index, name in enumerate(names if draw else ()):
            place = root / "Annotations" / "v" / exp_id
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw(index) * np.uint8(255)).save(place / f"{name}.png")
    (root / "Annotations").mkdir(exist_ok=True)
    texts = {exp_id: {"exp": f"sentence {exp_id}"} for exp_id in rows}
    meta = {"videos": {"v": {"frames": names, "expressions": texts}}}
    (root / META).write_text(json.dumps(meta))
    return root


def test_a_sentence_of_unknown_target_gets_no_pictures(tmp_path):
    root = png_split(tmp_path / "s", {"0": lambda t: boxes()[0, t], "1": None})
    with import_video(root, "v", tmp_path / "p") as project:
        assert Origin.load(project.path).unknown == ["1"]
        project.labels(1)[2, :2, :2] = 1
        result = write_back(project)
        assert (result.masks, result.sentences) == (1, 0)
    assert [p.name for p in (root / "Annotations" / "v").iterdir()] == ["0"]


def test_a_black_picture_has_the_size_of_the_frames(tmp_path):
    """No sentence means anything that is seen: only the first frame says how large it is."""
    root = png_split(tmp_path / "s", {"0": lambda t: np.zeros((H, W), bool)})
    picture = root / "Annotations" / "v" / "0" / "00003.png"
    picture.unlink()
    with import_video(root, "v", tmp_path / "p") as project:
        assert not project.objects
        ghost = project.add_object("ghost", project.add_layer("l").id)
        project.lock_frames(ghost.id, 3, 4)  # somebody has looked there, and it is not there
        result = write_back(project)
        assert (result.masks, result.sentences, result.added) == (0, 0, 0)
    with Image.open(picture) as found:
        assert (found.mode, found.size, found.getextrema()) == ("L", (W, H), (0, 0))


def test_a_project_that_lacks_frames_of_its_dataset(tmp_path):
    root = split_of(tmp_path)
    with import_video(root, "v", tmp_path / "p") as project:
        change(root / META, lambda d: d["videos"]["v"]["frames"].append("00009"))
        change(root / MASKS, lambda m: [row.append(None) for row in m.values()])
        change(project.path / "origin.json", lambda o: o["frames"].append("00009"))
        before = bytes_of(root)
        with pytest.raises(DatasetError) as caught:
            write_back(project, overwrite=True)
        assert str(caught.value) == (
            f"{project.path} lacks frames of v that the dataset has; import it again."
        )
        assert bytes_of(root) == before


@pytest.fixture
def project(tmp_path):
    with import_video(vos(tmp_path / "vos", palette), None, tmp_path / "p") as made:
        made.add_expression("the first", [1])
        yield made


def test_a_split_is_appended_to_only_when_it_has_videos(project, tmp_path):
    split = tmp_path / "d"
    split.mkdir()
    (split / META).write_text('{"none": {}}')
    with pytest.raises(DatasetError) as caught:
        append_projects([project], split)
    assert str(caught.value) == f"{split / META} has no 'videos'; run 'flowrvs check'."
    assert [p.name for p in split.iterdir()] == [META]


def test_a_split_that_does_not_pass_its_own_check_gets_no_name(project, tmp_path, monkeypatch):
    from flowrvs.data import export

    found = check_split

    def spoilt(folder, **options):
        change(folder / META, lambda d: d["videos"]["v"]["frames"].reverse())
        return found(folder, **options)

    monkeypatch.setattr(export, "check_split", spoilt)
    with pytest.raises(DatasetError) as caught:
        export_projects([project], tmp_path / "d")
    assert str(caught.value) == (
        f"What was written to {tmp_path / 'd' / 'train'} does not pass its own check ({META}: the "
        "frames are not sorted, masks would shift); nothing was changed, try again."
    )
    assert not (tmp_path / "d").exists()


def test_videos_are_assigned_as_they_would_be_exported(tmp_path):
    videos, projects = [], []
    for name in "abcd":
        videos.append(flowrvs.open_video(np.full((2, 8, 8, 3), 60 * len(videos), np.uint8)))
        with Project.create(tmp_path / name, videos[-1].info) as made:
            made.add_expression(name, [])
            projects.append(made.path)
    shares = {"train": 0.5, "test": 0.5}
    seen = set()
    for seed in range(4):
        given = assign_projects(projects, shares, seed=seed, videos=videos)
        out = tmp_path / f"out{seed}"
        results = export_splits(projects, out, shares, seed=seed, videos=videos)
        found = {v: r.path.name for r in results for v in MevisSplit.open(r.path).videos}
        assert found == given and sorted(given) == list("abcd")
        seen.add(json.dumps(given, sort_keys=True))
    assert len(seen) > 1


def test_the_datasheet_lists_so_many_videos_and_counts_the_others(tmp_path, monkeypatch):
    videos, projects = [], []
    for n in range(3):
        videos.append(flowrvs.open_video(np.full((2, 8, 8, 3), 60 * n, np.uint8)))
        with Project.create(tmp_path / f"v{n}", videos[-1].info) as made:
            made.add_expression("x", [])
            projects.append(made.path)
    for listed, more in ((2, ["| and 1 more | | | | |"]), (3, [])):
        monkeypatch.setattr("flowrvs.data.preview._LISTED", listed)
        result = export_projects(projects, tmp_path / f"d{listed}", videos=videos)
        lines = (result.path / "README.md").read_text(encoding="utf-8").splitlines()
        assert [line for line in lines if line.startswith("| v")][-listed:] == [
            f"| v{n} | 2 | 0 | 1 |  |" for n in range(listed)
        ]
        assert [line for line in lines if "more" in line] == more


def test_an_origin_without_frames_leaves_the_video_its_own(project):
    """As a received one may be; and one that lists others, but as many, names them."""
    for listed, wanted in (
        ([], [f"{n:05d}" for n in range(T)]),
        (["x", "y"], [f"{n:05d}" for n in range(T)]),
        (list("abcdef"), list("abcdef")),
        (["00004", "00001"], ["00004", "00001"]),
    ):
        change(project.path / "origin.json", lambda o, f=listed: o.update(frames=f))
        (source,) = collect([project], [None])
        assert source.frames == wanted
        assert source.positions == ([4, 1] if len(wanted) == 2 else list(range(T)))
        assert source.beyond == ([0, 2, 3, 5] if len(wanted) == 2 else [])


def test_more_objects_in_a_layer_than_are_compared_one_by_one(tmp_path):
    """Seven in one layer, one of which is nowhere; a layer may hold a number of nobody's, too."""
    video = flowrvs.open_video(np.zeros((3, 8, 16, 3), np.uint8))
    with Project.create(tmp_path / "p", video.info) as project:
        layer = project.add_layer("all").id
        made = [project.add_object(f"o{n}", layer).id for n in range(7)]
        for n, key in enumerate(made[:6]):
            project.labels(layer)[n % 3, n, n : n + 2] = key
        result = export_projects([project], tmp_path / "d", format="coco", videos=[video])
    rows = json.loads((result.path / "instances.json").read_text())["annotations"]
    assert [row["name"] for row in rows] == [f"o{n}" for n in range(6)]
    for n, row in enumerate(rows):
        assert row["bboxes"] == [[n, n, 2, 1] if t == n % 3 else None for t in range(3)]


def test_ids_that_no_label_picture_holds_are_numbered(tmp_path):
    import zarr

    frames_ = np.zeros((1, 8, 16, 3), np.uint8)
    left, right = np.zeros((2, 1, 8, 16), bool)
    left[0, 1:3, 1:5], right[0, 1:3, 9:12] = True, True
    with MevisWriter(tmp_path / "s") as writer:
        writer.add_video("v", frames_, objects={0: left, 7: right}, expressions={"0": ("x", [0])})
        writer.add_video("w", frames_, objects={70000: left, 2: right}, expressions={})
    change(
        tmp_path / "s" / META,
        lambda d: d["videos"]["v"]["expressions"].update(
            a={"exp": "a", "obj_id": [0], "anno_id": [0]},
            b={"exp": "b", "obj_id": [7], "anno_id": [1]},
        ),
    )
    with import_video(tmp_path / "s", "v", tmp_path / "p") as project:
        path = export_projects([project], tmp_path / "d", format="ome-zarr").path
    root = zarr.open_group(path / "v.ome.zarr", mode="r")
    wanted = left[0] * np.uint16(1) + right[0] * np.uint16(2)
    assert np.array_equal(root["labels"]["objects"]["0"][0], wanted)
