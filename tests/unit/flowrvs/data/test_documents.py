"""A project of every kind of thing, and the whole of what each format writes of it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

import flowrvs
from flowrvs import __version__
from flowrvs.data import (
    append_projects,
    export_projects,
    export_splits,
    import_video,
    preview_export,
)
from flowrvs.data.export import FORMATS, ExportResult
from flowrvs.data.preview import PreviewRow, collect
from flowrvs.errors import DatasetError, InputError, StorageError
from flowrvs.store import Project

T, H, W = 5, 12, 16
NAME, FRAMES = "clip one", ["00010", "00020", "00030", "00040", "00050"]
JPEGS = [f"JPEGImages/{NAME}/{frame}.jpg" for frame in FRAMES]


def boxes(places):
    masks = np.zeros((T, H, W), bool)
    for t, (top, bottom, left, right) in places.items():
        masks[t, top:bottom, left:right] = True
    return masks


CAP = boxes({0: (1, 4, 2, 7), 1: (1, 4, 3, 8), 3: (2, 5, 5, 10)})
DOG = boxes({0: (6, 11, 1, 5), 1: (6, 11, 2, 6), 2: (6, 11, 3, 7), 3: (3, 11, 4, 8)})
SPARE = boxes({1: (9, 12, 10, 15)})
BOTH = CAP | DOG


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Five JPEG files, of which a model saw four and a person corrected some."""
    root = tmp_path_factory.mktemp("documents")
    (root / NAME).mkdir()
    for index, frame in enumerate(FRAMES):
        picture = Image.fromarray(np.full((H, W, 3), 40 + 20 * index, np.uint8))
        picture.save(root / NAME / f"{frame}.jpg", quality=90)
    with flowrvs.open_video(root / NAME) as video:
        project = Project.create(root / "p", video.info)
    with project:
        _, cap = project.add_prompt("the red cap")
        _, dog = project.add_prompt("a dog")
        project.write_model(cap.layer, cap.id, 0, CAP[:4])
        project.write_model(dog.layer, dog.id, 0, DOG[:4])
        project.accept_frames(dog.id, 1, 3)
        _, ghost = project.add_prompt("a ghost")
        project.write_model(ghost.layer, ghost.id, 0, np.zeros((4, H, W), bool))
        spare = project.add_object("spare | wheel", cap.layer)
        labels = project.labels(cap.layer)
        labels[1] = np.where(SPARE[1], spare.id, labels[1])
        project.mark_absent(spare.id, 0, 1)
        project.add_prompt("typed and never run")
        project.add_expression("both", [cap.id, dog.id])
        project.add_expression("nothing at all", [])
        project.add_expression('=1+"x"', [dog.id])
    return project.path


def rle(mask):
    coded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(coded["size"]), "counts": coded["counts"].decode()}


def rles(masks):
    return [rle(mask) if mask.any() else None for mask in masks]


def read(path):
    return json.loads(path.read_text(encoding="ascii"))


def files(path):
    found = (p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
    return sorted(name for name in found if name != "README.md")


def picture(path):
    with Image.open(path) as found:
        return found.mode, np.asarray(found)


SILENT = f"{NAME}: no sentence means 'spare | wheel': it "
LEFT = f"{SILENT}is left out"
UNSEEN = f"{SILENT}has its pixels, but loaders that go by sentences do not see it"
ABSENT = "frames nobody has looked for every object: this format can only call it absent"
UNKNOWN = f"{NAME}: the sentence 3 is left out: nobody knows yet what it means"
PARTS = (
    f"{NAME}: written as 3 videos of the same frames, because some targets (groups of objects, or "
    "objects that overlap) share pixels",
    f"{NAME}: 2 sentences without target refer to an object id without a pixel; this format has "
    "no other way",
)
BOXES = "DAVIS's categories have no 'other': an object whose name holds none of them is a 'box'"
DAVIS_NAME = f"{NAME}: written as clip_one, for names here have no spaces"
NOTES = {
    "mevis": (LEFT, f"{NAME}: on 3 of 5 {ABSENT}", UNKNOWN),
    "ytvos": (UNSEEN, f"{NAME}: on 3 of 5 {ABSENT}", UNKNOWN, *PARTS),
    "refdavis": (UNSEEN, f"{NAME}: on 3 of 5 {ABSENT}", UNKNOWN, *PARTS, BOXES),
    "davis": (
        DAVIS_NAME,
        *(n.replace(NAME, "clip_one") for n in (f"{NAME}: on 2 of 5 {ABSENT}", UNKNOWN, *PARTS)),
    ),
    "coco": (f"{NAME}: on 3 of 5 {ABSENT}", UNKNOWN),
    "coco-images": (f"{NAME}: on 2 of 5 {ABSENT}", UNKNOWN),
    "png": (LEFT, f"{NAME}: on 3 of 5 {ABSENT}", UNKNOWN),
    "ome-zarr": (f"{NAME}: on 3 of 5 {ABSENT}", UNKNOWN),
    "csv": (),
    "overlay": (UNKNOWN,),
}
SENTENCES = {format: 6 + (format == "csv") for format in FORMATS}
OBJECTS = {format: 3 - (format in ("mevis", "png")) for format in FORMATS}


@pytest.fixture(scope="module")
def written(source, tmp_path_factory):
    """The exports, made when they are first asked for."""
    made = {}

    def export(format):
        if format not in made:
            out, told = tmp_path_factory.mktemp(format), []
            made[format] = export_projects([source], out, format=format, progress=told.append)
            assert made[format].path == out / "train"
            name = "clip_one" if format == "davis" else NAME
            # Five objects and the pictures, each on five frames; tables have no pictures.
            done = [event.done for event in told]
            assert done == sorted(done) and done[-1] == (25 if format == "csv" else 30)
            assert {(e.total, e.message) for e in told} == {(30, f"writing {name}")}
        return made[format]

    return export


@pytest.mark.parametrize("format", FORMATS)
def test_what_was_written_is_counted_told_and_foreseen(source, written, format):
    result = written(format)
    counts = (1, T, SENTENCES[format], OBJECTS[format])
    assert result == ExportResult(result.path, format, *counts, NOTES[format])
    preview = preview_export([source], format=format)
    human = {2: 2 / 7, 3: 3 / 8}[result.objects]
    row = PreviewRow("train", NAME, T, result.objects, result.expressions, 2, human, 3)
    assert preview.rows == (row,)
    ghost = "'a ghost' is seen on no frame and is left out"
    remedies = {
        LEFT: "add a sentence, or write its name as one",
        UNSEEN: "add a sentence, or write its name as one",
        ABSENT: "look at them, or export only the annotated frames",
    }
    foreseen = [line.removeprefix(f"{NAME}: ") for line in (LEFT, UNSEEN) if line in NOTES[format]]
    foreseen += [f"on {n} of 5 {ABSENT}" for n in (2, 3) if f"on {n} of 5" in repr(NOTES[format])]
    meta = "warning: meta_expressions.json: clip one"
    assert [str(finding) for finding in preview.findings] == [
        f"{meta}: {ghost}; its sentences become ones without target",
        f"{meta}/3: nobody has looked for what 'typed and never run' means; run it, or draw it",
        *(
            f"{meta}: {line}; "
            + next(remedy for text, remedy in remedies.items() if text.endswith(line[-20:]))
            for line in foreseen
        ),
    ]


def test_mevis(written):
    path = written("mevis").path
    assert files(path) == [*JPEGS, "mask_dict.json", "meta_expressions.json"]
    assert read(path / "mask_dict.json") == {"0": rles(CAP), "1": rles(DOG)}
    rows = {
        "0": {"exp": "the red cap", "obj_id": [1], "anno_id": [0]},
        "1": {"exp": "a dog", "obj_id": [2], "anno_id": [1]},
        "2": {"exp": "a ghost", "obj_id": [], "anno_id": []},
        "4": {"exp": "both", "obj_id": [1, 2], "anno_id": [0, 1]},
        "5": {"exp": "nothing at all", "obj_id": [], "anno_id": []},
        "6": {"exp": '=1+"x"', "obj_id": [2], "anno_id": [1]},
    }
    wanted = {"videos": {NAME: {"expressions": rows, "frames": FRAMES}}}
    found = read(path / "meta_expressions.json")
    assert found == wanted and list(found["videos"][NAME]["expressions"]) == list(rows)
    assert (path / "README.md").read_text(encoding="utf-8") == (
        f"# train\n\nWritten by flowrvs {__version__}.\n\n| | |\n|---|---|\n| format | mevis |\n"
        "| videos | 1 |\n| frames | 5, 5 a video |\n| frame sizes | 16 x 12 (1) |\n"
        "| objects | 2 |\n| sentences | 6, 1 to 3 words each |\n| for several objects | 1 |\n"
        "| without target | 2 |\n| licence | not stated |\n| date | not stated |\n"
        f"| tool | napari-flowrvs {__version__} |\n\n## Who drew the masks\n\n"
        "Of 7 masks (one an object and frame it is seen on), 28.6% were drawn, corrected or "
        "accepted by a person and 71.4% are a model's as it gave them.\n\n## Videos\n\n"
        "| video | frames | objects | sentences | human |\n|---|---|---|---|---|\n"
        f"| clip one | 5 | 2 | 6 | 29% |\n\n## Notes\n\n- {LEFT}\n- {NOTES['mevis'][1]}\n"
        f"- {UNKNOWN}\n"
    )


REFERRING = {
    NAME: {"0": ("the red cap", "1"), "2": ("a ghost", "3"), "5": ("nothing at all", "3")},
    f"{NAME}_part2": {"1": ("a dog", "1"), "6": ('=1+"x"', "1")},
    f"{NAME}_part3": {"4": ("both", "1")},
}
VALUES = {NAME: (CAP, SPARE), f"{NAME}_part2": (DOG,), f"{NAME}_part3": (BOTH,)}


def drawn(name):
    picture = np.zeros((T, H, W), np.uint8)
    for value, masks in enumerate(VALUES[name], 1):
        picture[masks] = value
    return picture


@pytest.mark.parametrize(("format", "other"), [("ytvos", "others"), ("refdavis", "box")])
def test_sentences_and_palettes(written, format, other):
    path = written(format).path
    pictures = [f"Annotations/{name}/{frame}.png" for name in VALUES for frame in FRAMES]
    frames = [f"JPEGImages/{name}/{frame}.jpg" for name in VALUES for frame in FRAMES]
    assert files(path) == sorted([*pictures, *frames, "meta.json", "meta_expressions.json"])
    beside = path.parent / "meta_expressions" / "train" / "meta_expressions.json"
    assert beside.read_bytes() == (path / "meta_expressions.json").read_bytes()
    assert read(beside)["videos"] == {
        name: {
            "expressions": {i: {"exp": text, "obj_id": o} for i, (text, o) in rows.items()},
            "frames": FRAMES,
        }
        for name, rows in REFERRING.items()
    }
    seen = FRAMES[:4]

    def objects(**rows):
        kinds = {i: {"category": k, "frames": frames} for i, (k, frames) in rows.items()}
        return {"objects": {key[1:]: kind for key, kind in kinds.items()}}

    assert read(path / "meta.json")["videos"] == {
        NAME: objects(
            o1=(other, [seen[0], seen[1], seen[3]]), o2=(other, [seen[1]]), o3=(other, [])
        ),
        f"{NAME}_part2": objects(o1=("dog", seen)),
        f"{NAME}_part3": objects(o1=("dog", seen)),
    }
    for name in VALUES:
        for index, frame in enumerate(FRAMES):
            mode, found = picture(path / "Annotations" / name / f"{frame}.png")
            assert mode == "P" and np.array_equal(found, drawn(name)[index])


def test_davis(written):
    path = written("davis").path
    names = {name: name.replace(" ", "_") for name in VALUES}
    pictures = [f"Annotations/480p/{name}/{f}.png" for name in names.values() for f in FRAMES[:4]]
    frames = [f"JPEGImages/480p/{name}/{f}.jpg" for name in names.values() for f in FRAMES]
    texts = ["ImageSets/2017/train.txt", "text_annotations.txt"]
    assert files(path) == sorted([*pictures, *frames, *texts])
    assert (path / texts[0]).read_text() == "clip_one\nclip_one_part2\nclip_one_part3\n"
    assert (path / texts[1]).read_text() == (
        'clip_one 1 "the red cap"\nclip_one 3 "a ghost"\nclip_one 3 "nothing at all"\n'
        'clip_one_part2 1 "a dog"\nclip_one_part2 1 "=1+"x""\nclip_one_part3 1 "both"\n'
    )
    for name, plain in names.items():
        for index, frame in enumerate(FRAMES[:4]):
            found = picture(path / "Annotations" / "480p" / plain / f"{frame}.png")[1]
            assert np.array_equal(found, drawn(name)[index])


ABOUT = {
    "info": {"description": "train"},
    "licenses": [],
    "categories": [{"id": 1, "name": "object", "supercategory": "object"}],
}
NAMES = {1: "the red cap", 2: "a dog", 3: "spare | wheel"}


def area(mask):
    return int(mask.sum()) if mask.any() else None


def around(mask):
    if not mask.any():
        return None
    (top, bottom), (left, right) = ((n.min(), n.max() + 1) for n in np.nonzero(mask))
    return [left, top, right - left, bottom - top]


def runs(mask):
    flat = [0, *mask.T.ravel().astype(int).tolist()]
    edges = [i for i in range(1, len(flat)) if flat[i] != flat[i - 1]]
    places = [1, *edges, len(flat)]
    return [b - a for a, b in zip(places[:-1], places[1:], strict=True)]


def test_coco(written):
    path = written("coco").path
    assert files(path) == sorted([*JPEGS, "instances.json"])
    shape = {"width": W, "height": H, "length": T}
    rows = [
        {
            "id": key,
            "video_id": 1,
            "category_id": 1,
            "iscrowd": 0,
            **shape,
            "name": NAMES[key],
            "segmentations": [
                {"size": [H, W], "counts": runs(mask)} if mask.any() else None for mask in masks
            ],
            "areas": [area(mask) for mask in masks],
            "bboxes": [around(mask) for mask in masks],
        }
        for key, masks in enumerate((CAP, DOG, SPARE), 1)
    ]
    texts = [
        ("0", "the red cap", [1]),
        ("1", "a dog", [2]),
        ("2", "a ghost", []),
        ("4", "both", [1, 2]),
        ("5", "nothing at all", []),
        ("6", '=1+"x"', [2]),
    ]
    sentences = [
        {"id": n, "video_id": 1, "exp_id": exp_id, "exp": text, "annotation_ids": ids}
        for n, (exp_id, text, ids) in enumerate(texts, 1)
    ]
    names = [f"{NAME}/{frame}.jpg" for frame in FRAMES]
    video = {"id": 1, "name": NAME, "file_names": names, **shape}
    found = read(path / "instances.json")
    assert found == {**ABOUT, "videos": [video], "annotations": rows, "expressions": sentences}


def test_coco_images(written):
    path = written("coco-images").path
    assert files(path) == sorted([*JPEGS, "instances.json"])
    images = [
        {
            "id": n + 1,
            "file_name": f"{NAME}/{frame}.jpg",
            "width": W,
            "height": H,
            "video_id": 1,
            "frame_id": n,
        }
        for n, frame in enumerate(FRAMES[:4])  # nobody has looked at the last one
    ]
    texts = {1: ["the red cap", "both"], 2: ["a dog", "both", '=1+"x"'], 3: []}
    rows = []
    for n in range(4):
        for key, masks in enumerate((CAP, DOG, SPARE), 1):
            if masks[n].any():
                rows.append(
                    {
                        "id": len(rows) + 1,
                        "image_id": n + 1,
                        "category_id": 1,
                        "iscrowd": 0,
                        "segmentation": rle(masks[n]),
                        "area": area(masks[n]),
                        "bbox": around(masks[n]),
                        "track_id": key,
                        "name": NAMES[key],
                        "sentences": texts[key],
                    }
                )
    found = read(path / "instances.json")
    assert found == {**ABOUT, "images": images, "annotations": rows}


def test_png(written):
    path = written("png").path
    wanted = {"0": CAP, "1": DOG, "2": 0 * CAP, "4": BOTH, "5": 0 * CAP, "6": DOG}
    pictures = [f"Annotations/{NAME}/{exp_id}/{frame}.png" for exp_id in wanted for frame in FRAMES]
    assert files(path) == sorted([*JPEGS, *pictures, "meta_expressions.json"])
    for exp_id, masks in wanted.items():
        for index, frame in enumerate(FRAMES):
            mode, found = picture(path / "Annotations" / NAME / exp_id / f"{frame}.png")
            assert mode == "L" and np.array_equal(found, masks[index] * np.uint8(255))
    texts = ["the red cap", "a dog", "a ghost", "both", "nothing at all", '=1+"x"']
    rows = {exp_id: {"exp": text} for exp_id, text in zip(wanted, texts, strict=True)}
    video = {"expressions": rows, "frames": FRAMES}
    assert read(path / "meta_expressions.json") == {"videos": {NAME: video}}


def test_csv(written):
    path = written("csv").path
    assert files(path) == ["expressions.csv", "objects.csv"]
    assert (path / "objects.csv").read_bytes().decode() == "\r\n".join(
        [
            "video,frame,index,object,name,provenance,area,left,top,width,height,"
            "centroid_x,centroid_y",
            "clip one,00010,0,1,the red cap,model,15,2,1,5,3,4.000,2.000",
            "clip one,00020,1,1,the red cap,model,15,3,1,5,3,5.000,2.000",
            "clip one,00040,3,1,the red cap,model,15,5,2,5,3,7.000,3.000",
            "clip one,00010,0,2,a dog,model,20,1,6,4,5,2.500,8.000",
            "clip one,00020,1,2,a dog,human,20,2,6,4,5,3.500,8.000",
            "clip one,00030,2,2,a dog,human,20,3,6,4,5,4.500,8.000",
            "clip one,00040,3,2,a dog,model,32,4,3,4,8,5.500,6.500",
            "clip one,00020,1,4,spare | wheel,human,15,10,9,5,3,12.000,10.000",
            "",
        ]
    )
    assert (path / "expressions.csv").read_bytes().decode() == "\r\n".join(
        [
            "video,exp_id,exp,objects",
            "clip one,0,the red cap,1",
            "clip one,1,a dog,2",
            "clip one,2,a ghost,",
            "clip one,3,typed and never run,unknown",
            "clip one,4,both,1 2",
            "clip one,5,nothing at all,",
            'clip one,6,"\'=1+""x""",2',
            "",
        ]
    )


def test_ome_zarr(source, written):
    import zarr

    root = zarr.open_group(written("ome-zarr").path / f"{NAME}.ome.zarr", mode="r")
    with flowrvs.open_video(source.parent / NAME) as video:
        assert np.array_equal(root["0"][:], np.moveaxis(video.read(0, T), 3, 1))
    assert root["0"].chunks == (1, 3, H, W) and root["0"].dtype == np.uint8
    assert tuple(root["0"].metadata.dimension_names) == ("t", "c", "y", "x")

    def scales(name, axes):
        kinds = {"t": "time", "c": "channel", "y": "space", "x": "space"}
        steps = [{"type": "scale", "scale": [1.0] * len(axes)}]
        return {
            "name": name,
            "axes": [{"name": axis, "type": kinds[axis]} for axis in axes],
            "datasets": [{"path": "0", "coordinateTransformations": steps}],
        }

    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    colors = (("R", "FF0000"), ("G", "00FF00"), ("B", "0000FF"))
    assert root.attrs["ome"] == {
        "version": "0.5",
        "multiscales": [scales(NAME, "tcyx")],
        "omero": {
            "channels": [
                {"label": label, "color": color, "active": True, "window": window}
                for label, color in colors
            ]
        },
    }
    names = ["objects", "objects_2"]
    assert root["labels"].attrs["ome"] == {"version": "0.5", "labels": names}
    kept = {"objects": {1: CAP, 4: SPARE}, "objects_2": {2: DOG}}
    texts = {1: ["the red cap", "both"], 2: ["a dog", "both", '=1+"x"'], 4: []}
    called = {1: "the red cap", 2: "a dog", 4: "spare | wheel"}
    with Project.open(source, read_only=True) as project:
        colors = {key: [round(255 * c) for c in project.objects[key].color] for key in called}
    for name in names:
        array = root["labels"][name]["0"]
        wanted = np.zeros((T, H, W), np.uint16)
        for key, masks in kept[name].items():
            wanted[masks] = key
        assert array.dtype == np.uint16 and array.chunks == (1, H, W)
        assert np.array_equal(array[:], wanted)
        assert root["labels"][name].attrs["ome"] == {
            "version": "0.5",
            "multiscales": [scales(name, "tyx")],
            "image-label": {
                "colors": [{"label-value": k, "rgba": [*colors[k], 255]} for k in kept[name]],
                "properties": [
                    {"label-value": k, "name": called[k], "sentences": texts[k]} for k in kept[name]
                ],
                "source": {"image": "../../"},
            },
        }


def test_an_overlay_has_the_colours_of_the_objects(source, written):
    path = written("overlay").path
    assert files(path) == [f"{NAME}.mp4"]
    with flowrvs.open_video(path / f"{NAME}.mp4") as video:
        shown = video.read(0, T).astype(int)
    with Project.open(source, read_only=True) as project:
        colors = [np.array(project.objects[key].color) for key in (1, 2)]
    grey = 40 + 20 * 1
    for mask, color in zip((CAP[1], DOG[1]), colors, strict=True):
        inner = shown[1][mask].mean(0) - grey
        assert np.corrcoef(inner, 255 * color - grey)[0, 1] > 0.9
    assert np.abs(shown[4] - (40 + 20 * 4)).max() < 12  # nothing lies over the last one


def test_names_as_sentences_and_annotated_frames_alone(source, tmp_path):
    options = {"name_as_sentence": True, "annotated_only": True}
    preview = preview_export([source], shares={"a": 1, "b": 1}, seed=1, **options)
    assert preview.rows == (PreviewRow("a", NAME, 2, 3, 7, 2, 2 / 5, 0),)
    assert [finding.code for finding in preview.findings] == ["never-seen", "unknown-sentence"]
    (result,) = export_splits([source], tmp_path, {"a": 1, "b": 1}, seed=1, **options)
    assert result == ExportResult(tmp_path / "a", "mevis", 1, 2, 7, 3, (UNKNOWN,))
    video = read(result.path / "meta_expressions.json")["videos"][NAME]
    assert video["frames"] == FRAMES[:2]
    # What was typed and never run gets none: nobody knows whether it is there.
    assert video["expressions"]["7"] == {"exp": "spare | wheel", "obj_id": [4], "anno_id": [2]}
    assert [row["exp"] for row in video["expressions"].values()].count("typed and never run") == 0
    wanted = {"0": rles(CAP[:2]), "1": rles(DOG[:2]), "2": rles(SPARE[:2])}
    assert read(result.path / "mask_dict.json") == wanted
    assert files(result.path)[:2] == JPEGS[:2]


def test_valid_has_every_sentence_and_no_truth(source, tmp_path):
    result = export_projects([source], tmp_path, split="valid")
    assert result.notes[-1] == "the split 'valid' is written without masks, as MeViS's own is"
    rows = read(result.path / "meta_expressions.json")["videos"][NAME]["expressions"]
    with Project.open(source, read_only=True) as project:
        texts = [e.text for e in project.expressions.values()]
    assert rows == {str(n): {"exp": text} for n, text in enumerate(texts)}
    assert not (result.path / "mask_dict.json").exists()
    (row,) = preview_export([source], split="valid").rows
    assert row.sentences == result.expressions == 7


def test_appending_is_the_same_video_with_the_next_ids(source, written, tmp_path):
    split = shutil.copytree(written("mevis").path, tmp_path / "train")
    before = read(split / "meta_expressions.json")["videos"], read(split / "mask_dict.json")
    result = append_projects([source], split)
    again = f"{NAME}-2"
    notes = tuple(note.replace(NAME, again) for note in NOTES["mevis"])
    assert result == ExportResult(split, "mevis", 1, T, 6, 2, notes)
    rows = json.loads(json.dumps(before[0][NAME]).replace('"anno_id": [0, 1]', '"anno_id": [2, 3]'))
    for row in rows["expressions"].values():
        row["anno_id"] = [{0: 2, 1: 3}.get(i, i) for i in row["anno_id"]]
    assert read(split / "meta_expressions.json")["videos"] == {**before[0], again: rows}
    masks = before[1]
    wanted = {**masks, "2": masks["0"], "3": masks["1"]}
    assert read(split / "mask_dict.json") == wanted
    assert {p.name for p in tmp_path.iterdir()} == {"train"}
    # A split without masks stays one.
    (split / "mask_dict.json").unlink()
    append_projects([source], split)
    third = read(split / "meta_expressions.json")["videos"][f"{NAME}-3"]["expressions"]
    assert third["3"] == {"exp": "typed and never run"} and not (split / "mask_dict.json").exists()


def test_names_of_objects_are_read_again(source, written, tmp_path):
    for format, name in (("mevis", NAME), ("coco", NAME), ("davis", "clip_one")):
        with import_video(written(format).path, name, tmp_path / format) as project:
            named = [made.name for made in project.objects.values()]
        assert (
            named
            == {
                "mevis": ["the red cap", "a dog"],
                "coco": ["the red cap", "spare | wheel", "a dog"],
                "davis": ["the red cap", "object 2"],
            }[format]
        )


def test_every_frame_of_nobodys_is_refused(source, tmp_path):
    with Project.open(source, read_only=True) as project:
        copy = project.copy_to(tmp_path / "copy")
    with Project.open(copy) as project:
        for key in list(project.objects):
            project.remove_object(key)
        for frame in range(2):
            layer = project.add_layer(f"frame {frame}").id
            made = project.add_object("there", layer)
            project.labels(layer)[frame, :2, :2] = made.id
        with pytest.raises(InputError, match="has no frame on which somebody has looked for every"):
            export_projects([project], tmp_path / "out", annotated_only=True)
    assert not (tmp_path / "out").exists()


def test_other_sentences_of_a_video_are_other_content(source, written, tmp_path):
    """Before anything is encoded; the very same is accepted, and its files stay."""
    split = shutil.copytree(written("mevis").path, tmp_path / "train")
    stamp = (split / "mask_dict.json").stat().st_ino
    assert export_projects([source], tmp_path).path == split
    assert (split / "mask_dict.json").stat().st_ino == stamp
    meta = read(split / "meta_expressions.json")
    meta["videos"][NAME]["expressions"]["6"]["exp"] = "other"
    (split / "meta_expressions.json").write_text(json.dumps(meta))
    told = []
    with pytest.raises(DatasetError, match="already exists with other content"):
        export_projects([source], tmp_path, progress=told.append)
    assert told == []


def test_what_is_in_the_way_of_the_sentences_is_told_before_a_split_appears(source, tmp_path):
    (tmp_path / "meta_expressions").write_text("a file")
    with pytest.raises(StorageError, match="a file of that name is in the way|in the way of a"):
        export_projects([source], tmp_path, format="ytvos")
    assert [p.name for p in tmp_path.iterdir()] == ["meta_expressions"]


def test_what_is_known_of_a_video_frame_by_frame(source):
    with Project.open(source, read_only=True) as project:
        (video,) = collect([project], [None])
        assert video.seen() == [1, 2, 4] and video.meant() == {1, 2, 3}
        assert video.unlooked().tolist() == [False, False, True, True, True]
        assert video.looked().tolist() == [True] * 4 + [False]
        assert video.present(1).tolist() == [True, True, False, True, False]
        assert video.provenance(4).tolist() == [2, 2, 0, 0, 0]
        clip = video.clip()
        assert clip.looked.tolist() == [True] * 4 + [False]
        assert clip.size == (H, W) and clip.rate is None
        assert list(clip.masks) == [1, 2, 4] and clip.sentences["2"] == ("a ghost", [])
        assert clip.sentences["3"] == ("typed and never run", None)
        video.keep_every(3)
        assert video.present(1).tolist() == [True, True]
        assert video.clip().masks[1] == [rle(CAP[0]), rle(CAP[3])]


@pytest.mark.parametrize(("step", "rate"), [(1, 12), (3, 4), (5, 12 / 5), (100, 12)])
def test_every_nth_frame_comes_as_often(shapes_mp4, tmp_path, step, rate):
    with flowrvs.open_video(shapes_mp4) as video:
        project = Project.create(tmp_path / "p", video.info)
    with project:
        project.add_expression("nothing is meant", [])
        (video,) = collect([project], [None])
        video.keep_every(step)
        clip = video.clip()
        assert clip.rate == pytest.approx(rate)
        assert clip.looked.all(), "where there is no object, 'none' is said of all of it"
        video.release()
