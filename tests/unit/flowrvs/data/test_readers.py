"""What the readers of formats take, to the pixel, and what they refuse, word for word."""

from __future__ import annotations

import base64
import io
import json
import os

import av
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from flowrvs.data import (
    MevisSplit,
    MevisWriter,
    export_projects,
    import_split,
    import_video,
    list_videos,
    preview_export,
    write_back,
)
from flowrvs.data.coco import pairs_of, polygon_mask, size_in
from flowrvs.data.davis import _one_letter_apart, read_text
from flowrvs.data.formats import open_dataset
from flowrvs.data.json_parts import list_keys, whole_number
from flowrvs.data.origin import Origin
from flowrvs.data.pictures import (
    LARGEST,
    blank_mask,
    encode_frame,
    jpeg_bytes,
    object_ids,
    open_picture,
    read_codes,
    write_frames,
    write_masks,
)
from flowrvs.errors import Cancelled, DatasetError, InputError, ProjectError
from flowrvs.masks import rle
from flowrvs.progress import CancelToken
from flowrvs.store import Project
from tests.fixtures.layouts import (
    H,
    T,
    W,
    boxes,
    coco_video,
    frames,
    masks_of,
    mevis_v2,
    palette,
    ref_ytvos,
    sa_v,
    vos,
)


def clip_of(place, name=None, pictures=None):
    dataset = open_dataset(place, pictures)
    return dataset.clip(name or next(iter(dataset.videos)))


def masks_in(clip):
    return {
        key: np.array([rle.decode(m) if m else np.zeros((H, W), bool) for m in entries])
        for key, entries in clip.masks.items()
    }


def drawn(polygon):
    coded = coco_mask.frPyObjects([polygon], H, W)
    return coco_mask.decode(coded)[..., 0].astype(bool)


# -- numbers and outlines ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (0, 0),
        (7.0, 7),
        ("12", 12),
        ((1 << 31) - 1, (1 << 31) - 1),
        (1 << 31, None),
        (-1, None),
        (1.5, None),
        (True, None),
        ("x", None),
        (None, None),
        ([1], None),
        (float("nan"), None),
        (float("inf"), None),
        ("9" * 5000, None),
    ],
)
def test_ids_are_whole_numbers(value, number):
    if number is not None:
        assert whole_number(value) == number
    else:
        with pytest.raises(DatasetError, match="is no whole number; number the objects"):
            whole_number(value)


def test_outlines_are_drawn_as_coco_draws_them():
    square, other = [2, 2, 9, 2, 9, 8, 2, 8], [20, 5, 25, 5, 25, 15]
    found = rle.decode(polygon_mask([square, other], (H, W), "x"))
    assert np.array_equal(found, drawn(square) | drawn(other))
    for nothing in (None, [], [[1, 2, 3, 4]]):
        assert not polygon_mask(nothing, (H, W), "x")
    coded = {"size": [H, W], "counts": "x"}
    assert polygon_mask(coded, (0, 0), "x") is coded
    edge = 4 * max(H, W)
    assert polygon_mask([[0, 0, edge, 0, edge, 5]], (H, W), "x")
    for polygons, size, said in (
        ([square], (0, 0), "x: polygons need the 'height' and 'width' of the frame."),
        ([square[:-1]], (H, W), "x: a polygon is no list of x and y."),
        ([7], (H, W), "x: a polygon is no list of x and y."),
        ([[0, 0, "a", 1]], (H, W), "x: the points of a shape are no pairs of numbers."),
        ([[0, 0, float("nan"), 1]], (H, W), "x: the points of a shape are no pairs of numbers."),
        ([[]], (H, W), "x: the points of a shape are no pairs of numbers."),
        ([[0, 0, edge + 1, 0, 0, 1]], (H, W), "x: a polygon lies far outside its frame."),
        ([[0, 0, 0, -edge - 1, 0, 1]], (H, W), "x: a polygon lies far outside its frame."),
    ):
        with pytest.raises(DatasetError) as caught:
            polygon_mask(polygons, size, "x")
        assert str(caught.value) == said
    # The outline may be four times as long as a frame with a border has pixels.
    most = 4 * (H + 2) * (W + 2)
    there_and_back = [0, 0, 32, 0] * (most // 64)
    assert polygon_mask([there_and_back], (H, W), "x")
    with pytest.raises(DatasetError, match="x: a polygon's outline is longer than its frame"):
        polygon_mask([[*there_and_back, 0, 0, 32, 0]], (H, W), "x")
    assert pairs_of([[1, "2"], (3, 4.5)], "x") == [(1.0, 2.0), (3.0, 4.5)]


@pytest.mark.parametrize(
    ("rows", "size"),
    [
        (({"height": 3, "width": 4}, {"height": 5, "width": 6}), (3, 4)),
        (({"height": None, "width": 4}, {"height": 5, "width": 6}), (5, 6)),
        (({"height": 0, "width": 4},), (0, 0)),
        (({"height": 1, "width": LARGEST},), (1, LARGEST)),
        (({"height": 1, "width": LARGEST + 1},), (0, 0)),
        (({"height": 3.0, "width": 4},), (0, 0)),
        ((), (0, 0)),
    ],
)
def test_sizes_that_rows_give(rows, size):
    assert size_in(*rows) == size


# -- labelme -----------------------------------------------------------------------------------


def png(mask):
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def test_shapes_of_labelme_to_the_pixel(tmp_path):
    folder = tmp_path / "v"
    names = frames(folder)
    corner = np.ones((6, 8), bool)
    shapes = [
        {"label": "a", "points": [[2, 2], [9, 2], [9, 8], [2, 8]]},
        {"label": "a", "points": [[20, 5], [25, 10]], "shape_type": "rectangle", "group_id": None},
        {"label": "a", "points": [[12, 12], [14, 12]], "shape_type": "circle", "group_id": 0},
        {"label": "b", "points": [[26, 16], [0, 0]], "shape_type": "mask", "mask": png(corner)},
        {"label": "b", "points": [[1, 1]], "shape_type": "point"},
        {"label": "c", "points": [[1, 1], [5, 5]], "shape_type": "line"},
    ]
    (folder / f"{names[1]}.json").write_text(json.dumps({"shapes": shapes[:4]}))
    about = {"imageHeight": H, "imageWidth": W}
    (folder / f"{names[3]}.json").write_text(json.dumps({"shapes": shapes[3:], **about}))
    (folder / f"{names[4]}.json").write_text(json.dumps({"shapes": []}))
    assert list_videos(folder / f"{names[1]}.json") == {"v": 0}
    clip = clip_of(folder)
    assert clip.names == {1: "a", 2: "a 0", 3: "b"} and clip.ids == {n: (n, -1) for n in (1, 2, 3)}
    found = masks_in(clip)
    wanted = np.zeros((3, T, H, W), bool)
    wanted[0, 1] = drawn([2, 2, 9, 2, 9, 8, 2, 8]) | drawn([20, 5, 25, 5, 25, 10, 20, 10])
    turns = np.arange(64) * 2 * np.pi / 64
    circle = np.stack([12 + 2 * np.cos(turns), 12 + 2 * np.sin(turns)], 1)
    wanted[1, 1] = drawn(circle.ravel().tolist())
    wanted[2, [1, 3], 16:, 26:] = True  # what lies beyond the frame is cut off
    assert all(np.array_equal(found[key], wanted[key - 1]) for key in found)
    assert clip.looked.tolist() == [False, True, False, False, True, False]
    assert clip.notes == ["left out: 2 shapes without an area"]


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ({"points": [[-1, 0]], "shape_type": "mask", "mask": "AAAA"}, "in base64 within its frame"),
        ({"points": [[0, 0]], "shape_type": "mask", "mask": ""}, "in base64 within its frame"),
        ({"points": [[0, 0]], "shape_type": "mask", "mask": 7}, "in base64 within its frame"),
        ({"points": [[0, 0]], "shape_type": "mask", "mask": "AAAA"}, "a mask is no readable PNG"),
        ({"points": []}, "the points of a shape are no pairs of numbers"),
        ({}, "the points of a shape are no pairs of numbers"),
    ],
)
def test_shapes_that_are_none(tmp_path, shape, said):
    folder = tmp_path / "v"
    name = frames(folder)[1]
    (folder / f"{name}.json").write_text(json.dumps({"shapes": [{"label": "x", **shape}]}))
    with pytest.raises(DatasetError, match=rf"{name}\.json: .*{said}"):
        clip_of(folder)
    (folder / f"{name}.json").write_text('{"shapes": [7]}')
    with pytest.raises(DatasetError, match=rf"'shapes' in .*{name}\.json is no list of objects\."):
        clip_of(folder)


# -- SA-V ---------------------------------------------------------------------------------------


def test_sa_v_beside_a_video_file(tmp_path):
    """Nine frames, of which every fourth is annotated; the objects' numbers begin with 0."""
    with av.open(str(tmp_path / "sav_7.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = W, H, "yuv420p"
        for index in range(9):
            picture = np.full((H, W, 3), 20 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    rows = [[rle.encode(boxes()[n, t]) for n in (0, 1)] for t in (0, 4, 5)]
    data = {"video_id": "sav_7", "video_frame_count": 9.0, "masklet": rows, "masklet_id": [5, 0]}
    path = tmp_path / "sav_7_auto.json"
    path.write_text(json.dumps(data))
    clip = clip_of(path)
    assert (clip.name, clip.pictures) == ("sav_7_auto", tmp_path / "sav_7.mp4")
    assert clip.frames == [f"{n:05d}" for n in range(9)]
    assert clip.ids == {6: (6, -1), 1: (1, -1)}
    assert clip.looked.tolist() == [n % 4 == 0 for n in range(9)]
    found = masks_in(clip)
    for key, n in ((6, 0), (1, 1)):
        wanted = np.zeros((9, H, W), bool)
        wanted[[0, 4, 8]] = boxes()[n, [0, 4, 5]]
        assert np.array_equal(found[key], wanted)
    with import_video(path, None, tmp_path / "p") as project:
        project.labels(1)[4, :2, :2] = next(iter(project.objects))
        assert write_back(project).masks == 1
    after = json.loads(path.read_text())
    assert after["masklet_id"] == [5, 0] and after["masklet"][1][1] == rows[1][1]
    assert rle.area(after["masklet"][1][0]) == rle.area(rows[1][0]) + 4
    del data["video_frame_count"], data["masklet_id"], data["video_id"]
    path.write_text(json.dumps(data))
    with pytest.raises(DatasetError, match="has 9 frames, the annotations of sav_7_auto 3: they"):
        import_video(path, None, tmp_path / "q")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"masklet": []}, "'masklet' in .* is no list of lists"),
        ({"masklet": [7]}, "'masklet' in .* is no list of lists"),
        ({"masklet_id": [0]}, "has 2 objects on one frame and not on all"),
        ({"masklet_id": [0, 0]}, "has 2 objects on one frame and not on all"),
        ({"masklet": [[None, None], [None], [None, None]]}, "2 objects on one frame and not on"),
        ({"masklet": [[None, None]] * 4}, r"annotates 4 of 6 frames: they are not evenly spaced"),
        ({"masklet": [[None, None]] * 7}, r"annotates 7 of 6 frames: they are not evenly spaced"),
        ({"video_id": "gone"}, r"There is no video gone\.mp4 near .* say where it is \(--frames\)"),
    ],
)
def test_files_of_sa_v_that_do_not_fit_together(tmp_path, change, said):
    path = sa_v(tmp_path) / "sav_000001_manual.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DatasetError, match=said):
        clip_of(path)


# -- DAVIS ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "yes"),
    [
        ("clasic-car", "classic-car", True),
        ("dog-scale", "dogs-scale", True),
        ("motor-bike", "motorbike", True),
        ("cat", "car", True),
        ("car", "car", False),
        ("car", "cars-x", False),
        ("cta", "cat", False),
        ("a", "bb", False),
    ],
)
def test_one_letter_apart(a, b, yes):
    assert _one_letter_apart(a, b) is _one_letter_apart(b, a) is yes


@pytest.mark.parametrize(
    ("data", "text", "encoding"),
    [
        (b"caf\xc3\xa9", "café", "utf-8"),
        (b"\xef\xbb\xbfx", "x", "utf-8-sig"),
        (b"a\x92s", "a\u2019s", "cp1252"),
        (b"a\x81", "a\x81", "latin-1"),
    ],
)
def test_texts_are_read_in_the_encoding_that_they_have(tmp_path, data, text, encoding):
    (tmp_path / "x.txt").write_bytes(data)
    assert read_text(tmp_path / "x.txt") == (text, encoding)
    assert text.encode(encoding) == data


def davis(root, sizes=("480p",), video="v"):
    for size in sizes:
        names = frames(root / "JPEGImages" / size / video)
        (root / "Annotations" / size / video).mkdir(parents=True)
        for index, name in enumerate(names):
            palette(index).save(root / "Annotations" / size / video / f"{name}.png")
    return root


def test_sentences_of_davis_come_from_every_text(tmp_path):
    root = davis(tmp_path / "DAVIS", video="a dog")
    own, inside, beside = (
        root / "text_annotations.txt",
        root / "davis_text_annotations" / "2.txt",
        tmp_path / "davis_text_annotations" / "1.txt",
    )
    for path, lines in (
        (own, 'a dog 2 "own"\n\nx\n'),
        (inside, 'a dog 1 "“in” it" \nother 1 "of no video"\n'),
        (beside, 'a dog  300 “none”\na dog 1234567 "too long a number"\nno quotes 1 x\n'),
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_text(lines, encoding="utf-8")
    (beside.parent / "note.md").write_text('a dog 1 "not read"')
    assert list_videos(root) == {"a dog": 3}
    clip = clip_of(root)
    assert clip.sentences == {"0": ("own", [2]), "1": ("“in” it", [1]), "2": ("none", [])}
    assert clip.notes == [
        "not read: 3 lines without a sentence (text_annotations.txt, line 3; 1.txt, line 2; "
        "1.txt, line 3)"
    ]
    own.unlink()
    inside.unlink()
    beside.write_text('other 1 "x"\n')
    assert clip_of(root).notes == ["the sentences of other belong to no video"]


def test_the_highest_size_of_davis_that_has_masks_is_read(tmp_path):
    root = davis(tmp_path, ("480p", "1080p", "Full-Resolution"))
    places = [root / "JPEGImages" / size / "v" for size in ("Full-Resolution", "1080p", "480p")]
    assert clip_of(root).pictures == places[0]
    assert clip_of(root).notes == [] and clip_of(root).sentences == {}
    os.rename(root / "Annotations" / "Full-Resolution", root / "Annotations" / "x")
    assert clip_of(root).pictures == places[1]
    os.rename(root / "JPEGImages" / "1080p", root / "JPEGImages" / "x")
    assert clip_of(root).pictures == places[2]
    os.rename(root / "JPEGImages" / "480p", root / "JPEGImages" / "y")
    (root / "ImageSets").mkdir()
    assert clip_of(root).pictures == places[0]
    os.rename(root / "JPEGImages" / "Full-Resolution", root / "JPEGImages" / "z")
    with pytest.raises(DatasetError, match="has no 480p; give the folder of DAVIS"):
        open_dataset(root)


# -- COCO --------------------------------------------------------------------------------------


def test_images_of_coco_are_videos_by_their_folders(tmp_path):
    """Natural order, tracks in three places, objects without a track by category and order."""
    order = ["10", "9", "2"]
    for folder in ("a/x", "b/x", "c"):
        frames(tmp_path / folder, 11)
    images, rows = [], []
    square = [[2, 2, 9, 2, 9, 8, 2, 8]]
    for folder in ("a/x", "b/x", "c"):
        for name in order:
            about = {"id": len(images), "file_name": f"{folder}/{int(name):05d}.jpg"}
            images.append({**about, "height": H, "width": W})
    tracks = [{"track_id": 4}, {"attributes": {"track_id": "4"}}, {"instance_id": 4}]
    for image, track in enumerate(tracks):
        rows.append({"id": image, "image_id": image, "category_id": 1, "segmentation": square})
        rows[-1].update(track)
    rows[1]["name"] = "  the   dog "
    for image in (3, 3, 4):
        rows.append({"id": 9, "image_id": image, "category_id": 2, "segmentation": square})
    data = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "dog"}]}
    path = tmp_path / "all.json"
    path.write_text(json.dumps(data))
    assert list_videos(path) == {"a-x": 0, "b-x": 0, "c": 0}
    clip = clip_of(path, "a-x")
    assert clip.frames == ["00002", "00009", "00010"] and clip.pictures == tmp_path / "a/x"
    assert clip.names == {1: "the dog"} and clip.looked is None and clip.notes == []
    assert masks_in(clip)[1].all(0).sum() == drawn(square[0]).sum()
    clip = clip_of(path, "b-x")
    assert clip.names == {1: "object 1", 2: "object 2"}
    assert [[m is not None for m in clip.masks[key]] for key in (1, 2)] == [
        [False, True, True],
        [False, False, True],
    ]
    assert clip.notes == ["objects without a track are joined by category and order"]
    assert clip_of(path, "c").masks == {}
    rows[0]["image_id"] = 1
    path.write_text(json.dumps(data))
    with pytest.raises(DatasetError, match="a-x, annotation 1: track 4 is twice on frame 00009"):
        clip_of(path, "a-x")
    rows[0]["image_id"], images[1]["id"] = 0, 0
    path.write_text(json.dumps(data))
    with pytest.raises(DatasetError, match="has two images of one id in 'a-x'"):
        clip_of(path, "a-x")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "The video 'v' in .* lists no frames"),
        ([7], "The video 'v' in .* lists no frames"),
        (["v/00000.jpg", "w/00001.jpg"], "lie in several folders, or one is there"),
        (["v/00000.jpg", "v/00000.png"], "lie in several folders, or one is there"),
        (["x/00000.jpg"], r"The frame x/00000\.jpg of .* is not near it; say where it is"),
    ],
)
def test_frames_of_coco_that_cannot_be_found(tmp_path, files, said):
    path = coco_video(tmp_path)
    data = json.loads(path.read_text())
    data["videos"][0].update(name="v", file_names=files)
    path.write_text(json.dumps(data))
    with pytest.raises(DatasetError, match=said):
        clip_of(path, "v")


def test_names_of_coco_and_windows_paths(tmp_path):
    path = coco_video(tmp_path)
    data = json.loads(path.read_text())
    data["videos"][0]["file_names"] = [f"v\\{n:05d}.jpg" for n in range(T)]
    data["annotations"][0]["name"] = " a   name " + "x" * 80
    data["annotations"][1]["category_id"] = 99
    data["expressions"] = [
        {"id": 4, "video_id": 1, "exp": "by its id", "annotation_ids": ["11", 12.0]},
        {"id": 5, "video_id": 9, "exp": "of no video", "annotation_ids": []},
    ]
    path.write_text(json.dumps(data))
    clip = clip_of(path)
    assert (clip.name, clip.frames[1], clip.pictures) == ("v", "00001", tmp_path / "train" / "v")
    assert clip.names == {11: f"a name {'x' * 53}"}
    assert clip.sentences == {"4": ("by its id", [11, 12])}
    assert clip.notes == ["left out: 1 row with an unknown 'video_id'"]
    assert clip.looked is None
    assert all(np.array_equal(masks_in(clip)[11 + n], boxes()[n]) for n in (0, 1))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"exp": 7, "annotation_ids": []}, "v/3 in .* lacks 'exp' or its ids"),
        ({"exp": "x"}, "v/3 in .* lacks 'exp' or its ids"),
        ({"exp": "x", "annotation_ids": [99]}, "v/3 means the annotation 99: there is none"),
    ],
)
def test_sentences_of_coco_that_lack_something(tmp_path, row, said):
    path = coco_video(tmp_path, expressions=[{"id": 3, "video_id": 1, **row}])
    with pytest.raises(DatasetError, match=said):
        clip_of(path)


# -- frames elsewhere ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vos", "ytvos", "mevis", "davis", "sa-v"])
def test_frames_are_read_where_they_are_said_to_lie(tmp_path, kind):
    data = tmp_path / "data"
    data.mkdir()
    makers = {
        "vos": lambda: vos(data, palette),
        "ytvos": lambda: ref_ytvos(data, truth=True),
        "mevis": lambda: mevis_v2(data, "meta_expressions.json", False),
        "davis": lambda: davis(data),
        "sa-v": lambda: sa_v(data),
    }
    root = makers[kind]()
    place = root / ("sav_000001" if kind == "sa-v" else "JPEGImages")
    far = tmp_path / "far"
    if kind == "sa-v":
        far.mkdir()
        place.rename(far / "sav_000001")
    else:
        place.rename(far)
    with import_video(root, None, tmp_path / "p", pictures=far) as project:
        assert str(project.video.path).startswith(str(far))
        assert Origin.load(project.path).pictures == str(far)
        project.labels(1)[0, :2, :2] = 1
        assert write_back(project).masks == 1
        assert write_back(project).masks == 0
    if kind in ("vos", "davis"):
        with pytest.raises(DatasetError, match=r"--frames|give the folder of DAVIS"):
            import_video(root, None, tmp_path / "q")
    # Where both are there, what was said goes before.
    if kind == "mevis":
        for n, name in enumerate(frames(root / "JPEGImages" / "v")):
            Image.new("RGB", (W, H), (n, n, n)).save(root / "JPEGImages" / "v" / f"{name}.jpg")
        assert clip_of(root, "v", far).pictures == far / "v"
        assert clip_of(root, "v").pictures == root / "JPEGImages" / "v"


# -- pictures ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codes", "wide", "ids"),
    [
        ([1, 2], False, {1: 1, 2: 2}),
        ([255], False, {255: 1}),
        ([255], True, {255: 255}),
        ([65535], True, {65535: 1}),
        ([1, 255], False, {1: 1}),
        ([1, 255], True, {1: 1, 255: 255}),
        ([1, 65535], True, {1: 1}),
        ([(1 << 24) + 0x800000, (1 << 24) + 0x008000], False, {25165824: 1, 16809984: 2}),
        ([(1 << 24) + 0x010203], False, {(1 << 24) + 0x010203: 1}),
        ([(1 << 24) + 0x050505, (1 << 24) + 0x070707], False, {17106181: 5, 17237767: 7}),
        ([(1 << 24) + 0xFFFFFF], False, {(1 << 24) + 0xFFFFFF: 1}),
        ([1, (1 << 24) + 0x800000], False, {1: 1, 25165824: 1}),
        ([], False, {}),
    ],
)
def test_codes_are_objects(codes, wide, ids):
    assert object_ids(codes, wide=wide) == ids


def test_other_colours_get_the_next_numbers():
    red, pink = (1 << 24) + 0x800000, (1 << 24) + 0x123456
    assert object_ids([red, pink, pink + 1], wide=False) == {red: 1, pink: 2, pink + 1: 3}


@pytest.mark.parametrize("count", [255, 256])
def test_no_picture_of_masks_has_more_than_255_colours(tmp_path, count):
    colors = np.zeros((1, 300, 3), np.uint8)
    colors[0, :count, 0] = np.arange(count) % 255 + 1
    colors[0, :count, 1] = np.arange(count) // 255
    Image.fromarray(colors).save(tmp_path / "x.png")
    if count == 255:
        assert len(read_codes(tmp_path / "x.png")[1]) == 255
    else:
        with pytest.raises(DatasetError, match=r"x\.png has 256 values: it is no picture of masks"):
            read_codes(tmp_path / "x.png")


@pytest.mark.parametrize("count", [1000, 1001])
def test_no_picture_of_masks_has_more_than_1000_numbers(tmp_path, count):
    Image.fromarray(np.arange(count + 1, dtype=np.uint16)[None]).save(tmp_path / "x.png")
    if count == 1000:
        assert read_codes(tmp_path / "x.png")[1] == list(range(1, 1001))
    else:
        with pytest.raises(DatasetError, match=r"x\.png has 1001 values: it is no picture of"):
            read_codes(tmp_path / "x.png")


def test_pictures_without_a_file_or_of_another_kind(tmp_path):
    assert read_codes(tmp_path / "none.png") is None
    Image.new("CMYK", (3, 2)).save(tmp_path / "x.jpg")
    with pytest.raises(DatasetError, match="is not a readable picture; copy it again"):
        read_codes(tmp_path / "x.jpg")
    Image.new("1", (3, 2)).save(tmp_path / "x.png")
    pixels, codes = read_codes(tmp_path / "x.png")
    assert codes == [] and pixels.shape == (2, 3)
    with pytest.raises(FileNotFoundError), open_picture(tmp_path / "none.png"):
        pass
    mode = blank_mask(None)
    assert (mode.mode, mode.size, mode.getpalette()[:6]) == ("P", (1, 1), [0, 0, 0, 128, 0, 0])


@pytest.mark.parametrize(
    ("height", "fits"), [(LARGEST // 8000, True), (LARGEST // 8000 + 1, False)]
)
def test_the_largest_picture(tmp_path, height, fits):
    Image.new("1", (8000, height)).save(tmp_path / "x.png")
    if fits:
        with open_picture(tmp_path / "x.png") as picture:
            assert picture.height == height
    else:
        with pytest.raises(DatasetError, match="is larger than any video frame; it is not opened"):
            with open_picture(tmp_path / "x.png"):
                pass


def test_frames_are_written_under_their_names(tmp_path):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (6, 8, 3), np.uint8) for _ in range(40)]
    for jobs in (1, 3):
        folder = tmp_path / str(jobs)
        folder.mkdir()
        names, size = write_frames(folder, "v", pictures, jobs=jobs, quality=30)
        assert (names, size) == ([f"{n:05d}" for n in range(40)], (6, 8))
        for name, picture in zip(names, pictures, strict=True):
            data = (folder / f"{name}.jpg").read_bytes()
            assert data == encode_frame(picture, "v", 0, 30)[0]
            assert jpeg_bytes(folder / f"{name}.jpg", (6, 8)) == data
            assert jpeg_bytes(folder / f"{name}.jpg", (8, 6)) is None
    odd = [*pictures[:20], pictures[0][:5]]
    (tmp_path / "odd").mkdir()
    with pytest.raises(DatasetError) as caught:
        write_frames(tmp_path / "odd", "v", odd, jobs=2)
    assert str(caught.value) == (
        "Frame 20 of 'v' is 8x5, the first one 8x6; all frames must have one size."
    )


def test_a_frame_is_never_written_over_a_link_to_another(tmp_path):
    for name, colour in (("a", 9), ("b", 200)):
        Image.new("RGB", (8, 6), (colour,) * 3).save(tmp_path / f"{name}.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "out").mkdir()
    # As where "A" and "a" are one name on the disk.
    os.link(tmp_path / "a.jpg", tmp_path / "out/a.jpg")
    with pytest.raises(FileExistsError):
        write_frames(tmp_path / "out", "v", [tmp_path / "b.jpg"], ["a"], jobs=1)
    assert (tmp_path / "a.jpg").read_bytes() == data


def test_masks_are_written_under_the_names_of_their_frames(tmp_path):
    values = {2: 7, 0: 1}
    for palette_, mode in ((True, "P"), (False, "L")):
        place = tmp_path / mode / "deep"
        write_masks(
            place,
            {2: "c", 0: "a"},
            lambda n: np.full((2, 3), values[n], np.uint8),
            palette=palette_,
            jobs=1,
        )
        assert sorted(p.name for p in place.iterdir()) == ["a.png", "c.png"]
        for name, value in (("a", 1), ("c", 7)):
            with Image.open(place / f"{name}.png") as found:
                assert found.mode == mode and np.asarray(found).tolist() == [[value] * 3] * 2


# -- projects -------------------------------------------------------------------------------------


def test_an_import_is_told_frame_by_frame(tmp_path):
    told = []
    path = coco_video(tmp_path)
    data = json.loads(path.read_text())
    data["annotations"][1]["segmentations"] = data["annotations"][0]["segmentations"]
    path.write_text(json.dumps(data))
    with import_video(path, None, tmp_path / "p", progress=told.append) as project:
        assert [layer.name for layer in project.layers.values()] == ["objects", "objects 2"]
        assert [made.layer for made in project.objects.values()] == [1, 2]
        origin = Origin.load(project.path)
    assert [(e.done, e.total, e.message) for e in told] == [
        (n + 1, 2 * T, "reading v") for n in range(2 * T)
    ]
    assert origin == Origin(
        "coco",
        str(path),
        "v",
        [f"{n:05d}" for n in range(T)],
        {1: (11, -1), 2: (12, -1)},
        digests=origin.digests,
    )
    assert list(origin.digests) == ["clip"]
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        import_video(path, None, tmp_path / "q", cancel=token)
    assert not (tmp_path / "q.flowrvs").exists()
    with pytest.raises(ProjectError, match=r"p\.flowrvs already exists; open it, or choose"):
        import_video(path, None, tmp_path / "p")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda root: import_video(root), r"has 7 videos \(v0, v1, v2, v3, v4, \.\.\.\): choose"),
        (lambda root: import_video(root, "x"), "has no video 'x'; it has v0, v1, v2, v3, v4, ..."),
        (lambda root: list(import_split(root, videos=["v1", "y"])), "has no video 'y'; it has v0"),
    ],
)
def test_videos_that_are_not_there_are_told(tmp_path, call, said):
    many(tmp_path / "s")
    with pytest.raises(InputError, match=said):
        call(tmp_path / "s")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s"]


def many(folder):
    with MevisWriter(folder) as writer:
        for n in range(7):
            writer.add_video(
                f"v{n}", np.zeros((1, 6, 8, 3), np.uint8), expressions={"0": ("x", [])}
            )
    return folder


def test_those_that_fail_are_named_at_the_end_and_the_others_are_kept(tmp_path):
    root = many(tmp_path / "s")
    for n in (0, 2, 4, 5):
        (root / "JPEGImages" / f"v{n}" / "00000.jpg").write_bytes(b"none")
    kept, made = [], []
    with pytest.raises(DatasetError) as caught:
        made.extend(import_split(root, tmp_path / "out", kept=kept.append))
    said = str(caught.value)
    assert said.startswith("4 of 7 videos could not be imported: v0 (")
    assert said.endswith("; and 1 more.") and "v5" not in said
    assert all(f"v{n} (" in said for n in (0, 2, 4))
    names = [f"v{n}.flowrvs" for n in (1, 3, 6)]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names and kept == []
    found = []
    with pytest.raises(DatasetError):
        for path in import_split(root, tmp_path / "out", kept=kept.append):
            found.append(path)
    assert found == kept == [tmp_path / "out" / name for name in names]
    # One alone says what is wrong with it.
    with pytest.raises(InputError) as caught:
        list(import_split(root, tmp_path / "out", videos=["v0"]))
    assert "could not be imported" not in str(caught.value)
    # A project of another video is in the way: it is named, and stays.
    other = tmp_path / "out" / "v0.flowrvs"
    (tmp_path / "out" / "v1.flowrvs").rename(other)
    (root / "JPEGImages" / "v0" / "00000.jpg").write_bytes(
        (root / "JPEGImages" / "v1" / "00000.jpg").read_bytes()
    )
    with pytest.raises(ProjectError, match=r"v0\.flowrvs already exists"):
        list(import_split(root, tmp_path / "out", videos=["v0"]))
    assert Origin.load(other).video == "v1"


def test_a_split_gives_its_masks_again_and_again(tmp_path):
    """More annotations than are kept in memory; what a caller does with them changes nothing."""
    with MevisWriter(tmp_path / "s") as writer:
        masks = {n: [np.arange(48).reshape(6, 8) == n % 48, None] for n in range(70)}
        writer.add_video("v", np.zeros((2, 6, 8, 3), np.uint8), objects=masks)
    split = MevisSplit.open(tmp_path / "s")
    for _ in range(2):
        for n in range(70):
            found = split.masks(n)
            assert rle.decode(found[0]).ravel().nonzero()[0].tolist() == [n % 48]
            assert found[1] is None
            found.clear()
    assert split.has_masks(69) and not split.has_masks(70) and split.next_anno() == 70


def test_lists_of_a_file_are_found(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"a": [1], "b": {}, "c": []}')
    assert list_keys(path) == {"a", "c"}
    assert list_keys(path.rename(tmp_path / "x.txt")) == set()
    path.write_text('{"a": [')
    assert list_keys(path) == set() and list_keys(tmp_path / "none.json") == set()


def test_an_object_of_an_array_is_exported_as_it_was_drawn(tmp_path):
    """A video without frame names: those that are written count from 0."""
    import flowrvs

    video = flowrvs.open_video(np.zeros((3, H, W, 3), np.uint8))
    with Project.create(tmp_path / "p", video.info) as project:
        made = project.add_object("it", project.add_layer("l").id)
        project.labels(1)[2, 3:5, 4:7] = made.id
        result = export_projects([project], tmp_path / "out", format="davis", videos=[video])
    place = result.path / "Annotations" / "480p" / "p"
    assert sorted(p.name for p in place.iterdir()) == ["00002.png"]
    with Image.open(place / "00002.png") as found:
        assert np.argwhere(np.asarray(found)).tolist() == [
            [y, x] for y in (3, 4) for x in (4, 5, 6)
        ]


def test_what_was_drawn_on_frames_that_a_dataset_does_not_list_is_told(tmp_path):
    """Three of six frames are listed; a person draws on the others as well."""
    root = mevis_v2(tmp_path / "s", "meta_expressions.json", False)
    meta, masks = root / "meta_expressions.json", root / "mask_dict.json"
    data = json.loads(meta.read_text())
    data["videos"]["v"]["frames"] = ["00000", "00002", "00004"]
    meta.write_text(json.dumps(data))
    rows = json.loads(masks.read_text())
    masks.write_text(json.dumps({key: row[::2] for key, row in rows.items()}))
    said = "that the dataset does not list something was drawn: it is left out"
    with import_video(root, "v", tmp_path / "p") as project:
        assert project.provenance(1).tolist() == [2, 0] * 3
        assert write_back(project).notes == ()
        project.labels(1)[3, :2, :2] = 1
        result = write_back(project)
        assert (result.masks, result.notes) == (0, (f"on 1 frame {said}",))
        project.labels(1)[5, :2, :2] = 1
        (finding, *_) = preview_export([project]).findings
        assert str(finding).endswith(
            f"v: on 2 frames {said}; list these frames in the dataset and import it again"
        )
        for options in ({}, {"every": 2}):
            result = export_projects([project], tmp_path / f"out{len(options)}", **options)
            assert result.notes == (f"v: on 2 frames {said}",)


def test_the_unsupervised_half_of_davis_is_read_and_corrected(tmp_path):
    root = davis(tmp_path)
    os.rename(root / "Annotations", root / "Annotations_unsupervised")
    (root / "ImageSets" / "2019").mkdir(parents=True)
    with import_video(root, "v", tmp_path / "p") as project:
        assert all(map(np.array_equal, masks_of(project), boxes()))
        project.labels(1)[0, :2, :2] = 1
        assert write_back(project).masks == 1
    with Image.open(root / "Annotations_unsupervised" / "480p" / "v" / "00000.png") as found:
        assert (np.asarray(found)[:2, :2] == 1).all()
