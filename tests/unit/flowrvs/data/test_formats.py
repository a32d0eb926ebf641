"""Every format read back: by others' readers where there are some, and by our own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

import flowrvs
from flowrvs.data import MevisWriter, export_projects, export_splits, import_video
from flowrvs.data.csv_tables import defused
from flowrvs.errors import InputError
from flowrvs.store import Project, Provenance

NAME = "два shapes v1.5"


@pytest.fixture(scope="module")
def project(tmp_path_factory, _shapes):
    """A folder of JPEG files; overlapping objects; sentences for one, both and none."""
    root = tmp_path_factory.mktemp("formats")
    folder = root / NAME
    folder.mkdir()
    frames, masks = _shapes
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{index:05d}.jpg", quality=90)
    green = masks["green"].copy()
    green[0, 10:30, 5:50] = True
    with flowrvs.open_video(folder) as video, Project.create(root / "p", video.info) as made:
        for text, mask in (("the red train", masks["red"]), ("the man", green)):
            _, one = made.add_prompt(text)
            made.write_model(one.layer, one.id, 0, mask)
        made.labels(1)[11] = 0  # absent, as a person says
        made.add_expression("both", [1, 2])
        made.add_expression('nothing "quoted"', [])
        yield made


def targets(project):
    return {e.text: project.expression_mask(e.exp_id, 0, 12) for e in project.expressions.values()}


def read_back(folder, video, out):
    with import_video(folder, video, out) as made:
        return targets(made)


@pytest.mark.parametrize("format", ["mevis", "coco", "png"])
def test_formats_that_hold_everything(project, tmp_path, format):
    path = export_projects([project], tmp_path / "d", format=format).path
    again, wanted = read_back(path, NAME, tmp_path / "again"), targets(project)
    assert list(again) == list(wanted)
    for text, mask in wanted.items():
        assert np.array_equal(again[text], mask), text


@pytest.mark.parametrize("format", ["ytvos", "davis"])
def test_palette_formats_hold_everything_in_parts(project, tmp_path, format):
    result = export_projects([project], tmp_path / "d", format=format)
    assert result.expressions == 4
    assert any("3 videos of the same frames" in note for note in result.notes)
    names = flowrvs.data.list_videos(result.path)
    found = {}
    for number, name in enumerate(names):
        found.update(read_back(result.path, name, tmp_path / str(number)))
    wanted = targets(project)
    for text, mask in wanted.items():
        assert np.array_equal(found[text], mask), text
    frames = list((result.path / "JPEGImages").rglob("00003.jpg"))
    assert len(frames) == len(names) and len({p.stat().st_ino for p in frames}) == 1


def test_ytvos_as_its_loaders_want_it(project, tmp_path):
    path = export_projects([project], tmp_path / "d", format="ytvos").path
    copy = tmp_path / "d" / "meta_expressions" / "train" / "meta_expressions.json"
    assert copy.read_bytes() == (path / "meta_expressions.json").read_bytes()
    meta = json.loads(copy.read_text())["videos"]
    objects = json.loads((path / "meta.json").read_text())["videos"]
    categories = set()
    for name, video in meta.items():
        for row in video["expressions"].values():
            entry = objects[name]["objects"][row["obj_id"]]
            categories.add(entry["category"])
            seen = []
            for frame in video["frames"]:
                with Image.open(path / "Annotations" / name / f"{frame}.png") as picture:
                    assert picture.mode == "P"
                    if (np.asarray(picture) == int(row["obj_id"])).any():
                        seen.append(frame)
            assert seen == entry["frames"]
    assert categories == {"train", "person", "others"}


def test_davis_as_its_tools_want_it(project, tmp_path):
    result = export_projects([project], tmp_path / "d", format="davis", split="val")
    path, name = result.path, NAME.replace(" ", "_")  # the sentences' lines are split at spaces
    assert f"{NAME}: written as {name}, for names here have no spaces" in result.notes
    names = (path / "ImageSets/2017/val.txt").read_text().splitlines()
    assert names == [name, f"{name}_part2", f"{name}_part3"]
    with Image.open(path / "Annotations/480p" / name / "00003.png") as picture:
        assert picture.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
        assert np.array_equal(np.asarray(picture) == 1, project.object_mask(1, 3, 4)[0])
    lines = (path / "text_annotations.txt").read_text().splitlines()
    assert f'{name} 1 "the red train"' in lines
    assert {line.split()[0] for line in lines} <= set(names)


def test_coco_images_in_pycocotools(project, tmp_path, capsys):
    path = export_projects([project], tmp_path / "d", format="coco-images").path
    coco = COCO(str(path / "instances.json"))
    assert len(coco.imgs) == 12 and len(coco.anns) == 23
    for index, image in enumerate(coco.imgs.values()):
        assert (path / "JPEGImages" / image["file_name"]).is_file()
        for row in coco.imgToAnns[image["id"]]:
            mask = project.object_mask(row["track_id"], index, index + 1)[0]
            assert np.array_equal(coco.annToMask(row).astype(bool), mask)
            assert row["area"] == mask.sum()


def test_ome_zarr(project, tmp_path, shapes_frames):
    import zarr

    path = export_projects([project], tmp_path / "d", format="ome-zarr").path
    place = path / f"{NAME}.ome.zarr"
    with flowrvs.open_video(place) as video:  # as an image of another program's making
        assert video.info.frame_count == 12
        assert np.abs(video.read(0, 12).astype(int) - shapes_frames).mean() < 6
    root = zarr.open_group(place, mode="r")
    about = root.attrs["ome"]
    assert about["version"] == "0.5"
    (scales,) = about["multiscales"]
    assert [axis["name"] for axis in scales["axes"]] == ["t", "c", "y", "x"]
    assert root["0"].ndim == 4
    names = root["labels"].attrs["ome"]["labels"]
    assert sorted(names) == sorted(root["labels"].group_keys())
    seen = set()
    for name in names:
        group = root["labels"][name]
        ome = group.attrs["ome"]
        (scales,) = ome["multiscales"]
        array = group[scales["datasets"][0]["path"]]
        steps = scales["datasets"][0]["coordinateTransformations"]
        assert [len(s["scale"]) for s in steps] == [array.ndim] == [len(scales["axes"])]
        assert array.dtype.kind == "u"
        source = place / "labels" / name / ome["image-label"]["source"]["image"]
        assert source.resolve() == place.resolve()
        for row in ome["image-label"]["properties"]:
            value = row["label-value"]
            seen.add(value)
            assert np.array_equal(array[:] == value, project.object_mask(value, 0, 12))
    assert seen == {1, 2}


def test_no_cell_of_a_table_is_a_formula():
    odd = ("=1+1", "+1", "-1", "@a", "  =1", "\tx", "\rx", "\t=1")
    assert [defused(text) for text in odd] == [f"'{text}" for text in odd]
    assert [defused(text) for text in ("a = b", "", " x", "1-1")] == ["a = b", "", " x", "1-1"]


def test_links_and_their_absence(project, tmp_path, monkeypatch):
    source = Path(project.video.path) / "00004.jpg"
    path = export_projects([project], tmp_path / "d", link=True).path
    linked = path / "JPEGImages" / NAME / "00004.jpg"
    assert linked.stat().st_ino == source.stat().st_ino

    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    path = export_projects([project], tmp_path / "e", link=True).path
    copied = path / "JPEGImages" / NAME / "00004.jpg"
    assert copied.stat().st_ino != source.stat().st_ino
    assert copied.read_bytes() == source.read_bytes()


def test_the_datasheet(project, tmp_path):
    made = [
        export_projects([project], tmp_path / name, licence="CC BY 4.0", date="2026-11-22")
        for name in "ab"
    ]
    text = (made[0].path / "README.md").read_text(encoding="utf-8")
    assert text == (made[1].path / "README.md").read_text(encoding="utf-8")
    for part in ("CC BY 4.0", "2026-11-22", "12, 12 a video", "| without target | 1 |", NAME):
        assert part in text
    assert "Of 23 masks" in text and "0.0% were drawn" in text
    assert (project.provenance(1)[:11] == Provenance.MODEL).all()
    with Project.open(project.copy_to(tmp_path / "copy")) as copy:
        copy.lock_frames(2, 0, 12)
        text = (export_projects([copy], tmp_path / "c").path / "README.md").read_text("utf-8")
    assert f"{12 / 23:.1%} were drawn" in text


def test_videos_are_assigned_whole(project, tmp_path, shapes_frames):
    paths = []
    for number in range(4):
        folder = tmp_path / f"clip{number}"
        folder.mkdir()
        Image.fromarray(shapes_frames[number]).save(folder / "00000.jpg")
        with flowrvs.open_video(folder) as video:
            with Project.create(tmp_path / f"project{number}", video.info) as made:
                made.add_expression("x")
                paths.append(made.path)
    copy = shutil.copytree(project.path, tmp_path / "copy.flowrvs")
    with pytest.raises(InputError, match="given twice"):
        export_splits([*paths, paths[0]], tmp_path / "d", {"train": 1.0})
    both = [*paths, project, copy]
    results = export_splits(both, tmp_path / "d", {"train": 0.6, "valid_u": 0.4}, seed=1)
    assert {r.path.name: r.videos for r in results} == {"train": 3, "valid_u": 2}
    names = [set(flowrvs.data.list_videos(r.path)) for r in results]
    assert not names[0] & names[1] and len(names[0] | names[1]) == 5


PUBLIC = """
import importlib, json, sys
from pathlib import Path
from types import ModuleType

# The loaders alone: the package's own start needs torchvision for its augmentations.
package = ModuleType("datasets")
package.__path__ = [sys.argv[1] + "/datasets"]
sys.modules["datasets"] = package
for name in ("transforms_video", "transform_utils"):
    stand_in = sys.modules["datasets." + name] = ModuleType(name)
    stand_in.make_coco_transforms = None
    setattr(package, name, stand_in)
names = ("davis", "mevis", "ytvos")
davis, mevis, ytvos = (importlib.import_module("datasets." + name) for name in names)

kind, root = sys.argv[2], Path(sys.argv[3])
def plain(pictures, target):
    import numpy as np, torch
    return [torch.from_numpy(np.array(p)) for p in pictures], target
if kind == "mevis":
    data = mevis.MeViSDataset(root / "train", root / "train/meta_expressions.json", plain, 5)
else:
    file = root / "meta_expressions/train/meta_expressions.json"
    if kind == "ytvos":
        data = ytvos.YTVOSDataset(None, root / "train", file, plain, True, 5, 3)
    else:
        data = davis.DAVIS17Dataset(root / "train", file, plain, True, 5, 3)
rows = []
for index in range(len(data)):
    pictures, target = data[index]
    areas = (target["masks"] > 0).sum(dim=(1, 2)).int().tolist()
    rows.append([target["caption"], target["frames_idx"].tolist(), areas, list(pictures.shape)])
print("RESULT" + json.dumps(rows))
"""


@pytest.mark.skipif(
    "FLOWRVS_PUBLIC_CODE" not in os.environ, reason="FLOWRVS_PUBLIC_CODE names no checkout"
)
@pytest.mark.parametrize("format", ["mevis", "ytvos", "refdavis"])
def test_the_public_loader_takes_it(project, tmp_path, format):
    code = Path(os.environ["FLOWRVS_PUBLIC_CODE"])
    export_projects([project], tmp_path / "d", format=format)
    done = subprocess.run(
        [sys.executable, "-c", PUBLIC, str(code), format, str(tmp_path / "d")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.split("RESULT")[1])
    wanted = targets(project)
    assert {row[0] for row in rows} >= {"the red train", "the man", "both"}
    for caption, frames, areas, shape in rows:
        assert shape == [5, 48, 64, 3]
        if caption in wanted:
            assert sorted(areas) == sorted(int(wanted[caption][i].sum()) for i in frames)


def test_round_trip_of_a_foreign_split(tmp_path, shapes_frames, shapes_masks):
    """MeViS in, out and in again, masks equal, with its own exp_ids."""
    with MevisWriter(tmp_path / "train") as writer:
        writer.add_video(
            "v",
            shapes_frames,
            objects=dict(enumerate(shapes_masks.values())),
            expressions={"5": ("red", [0]), "9": ("green", [1])},
        )
    with import_video(tmp_path / "train", "v", tmp_path / "p") as project:
        for format in ("mevis", "coco"):
            path = export_projects([project], tmp_path / format, format=format).path
            again = read_back(path, "v", tmp_path / f"{format}.p")
            assert np.array_equal(again["red"], shapes_masks["red"])
            assert np.array_equal(again["green"], shapes_masks["green"])
        meta = json.loads((tmp_path / "mevis/train/meta_expressions.json").read_text())
        assert list(meta["videos"]["v"]["expressions"]) == ["5", "9"]
