"""The zip for a submission: layouts, what is refused, and that it is the same every time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from flowrvs.data.mevis import MevisWriter
from flowrvs.data.pictures import is_safe_name
from flowrvs.errors import (
    Cancelled,
    DatasetError,
    InputError,
    MissingPathError,
    StorageError,
)
from flowrvs.evaluation import (
    evaluate,
    evaluate_masks,
    predict_split,
    submission,
    verify_zip,
    zip_predictions,
)
from flowrvs.progress import CancelToken
from tests.fixtures.segmenters import ThresholdSegmenter

PICTURES = 2 * 3 * 12


def test_the_zip_holds_what_the_split_lists(split, tmp_path):
    out = tmp_path / "out"
    predict_split(split, out, ThresholdSegmenter())
    (out / "notes.txt").write_text("mine")
    (out / "one" / "0" / "extra.png").write_bytes(b"")
    archive = zip_predictions(split, out)
    assert archive == tmp_path / "out.zip"
    with zipfile.ZipFile(archive) as file:
        names = file.namelist()
        assert file.testzip() is None
        assert {entry.date_time for entry in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert len(names) == PICTURES
    assert "one/0/00000.png" in names and "two v1.0/2/00011.png" in names
    assert evaluate(archive, split).to_dict() == evaluate(out, split).to_dict()
    (out / "one" / "0" / "00000.png").unlink()
    archive.unlink()
    # What a killed run left, as large as the file itself, goes.
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    ended.wait()
    left = tmp_path / f".out.zip.{ended.pid}-aaaaaaaa.partial.zip"
    left.write_bytes(b"half")
    os.utime(left, (time.time() - 61,) * 2)
    with pytest.raises(DatasetError, match="missing"):
        zip_predictions(split, out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "valid_u"]


def test_a_zip_that_does_not_read_back_is_not_kept(split, tmp_path, monkeypatch):
    out = tmp_path / "out"
    predict_split(split, out, ThresholdSegmenter())
    verify = submission._verify

    def spoilt(split, path, *more):
        path.write_bytes(path.read_bytes().replace(b"IDAT", b"IDAS", 1))
        return verify(split, path, *more)

    monkeypatch.setattr(submission, "_verify", spoilt)
    with pytest.raises(StorageError, match="read back"):
        zip_predictions(split, out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "valid_u"]


@pytest.fixture
def predicted(split, tmp_path):
    out = tmp_path / "out"
    predict_split(split, out, ThresholdSegmenter())
    return out


def test_each_layout_has_its_top_and_its_reader(split, predicted, tmp_path):
    flat = zip_predictions(split, predicted, tmp_path / "flat.zip")
    deep = zip_predictions(split, predicted, tmp_path / "deep.zip", layout="ytvos")
    with zipfile.ZipFile(flat) as one, zipfile.ZipFile(deep) as other:
        assert [f"Annotations/{name}" for name in one.namelist()] == other.namelist()
    assert verify_zip(split, flat) == verify_zip(split, deep, layout="ytvos") == PICTURES
    assert evaluate(deep, split).to_dict() == evaluate(predicted, split).to_dict()
    with pytest.raises(DatasetError, match="lacks 72 of 72 pictures.*another layout"):
        verify_zip(split, flat, layout="ytvos")
    with pytest.raises(InputError, match="layout 'davis'; choose mevis or ytvos"):
        zip_predictions(split, predicted, layout="davis")
    # A zip is as good a source as a folder.
    again = zip_predictions(split, deep, tmp_path / "again.zip")
    assert again.read_bytes() == flat.read_bytes()


def test_a_zip_of_some_videos(split, predicted, tmp_path):
    seen = []
    path = zip_predictions(
        split, predicted, tmp_path / "x.zip", videos=["two v1.0"], progress=seen.append
    )
    with zipfile.ZipFile(path) as file:
        assert file.namelist() == [f"two v1.0/{e}/{n:05d}.png" for e in "012" for n in range(12)]
        assert {entry.compress_type for entry in file.infolist()} == {zipfile.ZIP_STORED}
        assert {entry.external_attr >> 16 for entry in file.infolist()} == {0o100644}
        assert {entry.create_system for entry in file.infolist()} == {3}
    assert [e.message for e in seen] == ["packing"] * 36 + ["reading back"] * 36
    assert [e.done for e in seen] == list(range(1, 73)) and seen[0].total == 72
    seen.clear()
    assert verify_zip(split, path, videos=["two v1.0"], progress=seen.append) == 36
    assert [(e.message, e.done, e.total) for e in seen][-1] == ("reading back", 36, 36)
    with pytest.raises(DatasetError, match="lacks 36 of 72 pictures, the first is 'one/0/00000"):
        verify_zip(split, path)
    with pytest.raises(DatasetError, match="holds 36 files .* such as 'two v1.0/0/00000.png'"):
        verify_zip(split, zip_predictions(split, predicted), videos=["one"])
    for call in (zip_predictions, verify_zip):
        with pytest.raises(InputError, match="no video 'three'"):
            call(split, predicted, videos=["three"])
    token = CancelToken()
    with pytest.raises(Cancelled):
        verify_zip(
            split, path, videos=["two v1.0"], cancel=token, progress=lambda _: token.cancel()
        )


def test_a_split_without_frames_is_judged_by_the_size_of_its_masks(split, predicted):
    shutil.rmtree(split / "JPEGImages")
    path = zip_predictions(split, predicted)
    assert verify_zip(split, path) == PICTURES
    _save("L", size=(48, 64))(predicted / "one" / "0" / "00000.png")
    with pytest.raises(DatasetError, match="is 48x64, its frame 64x48"):
        zip_predictions(split, predicted)
    (split / "mask_dict.json").unlink()
    with pytest.raises(MissingPathError, match="00000.jpg"):
        zip_predictions(split, predicted)


def test_equal_pictures_give_equal_bytes(split, predicted, tmp_path):
    first = zip_predictions(split, predicted, tmp_path / "first.zip").read_bytes()
    for path in predicted.rglob("*.png"):
        os.utime(path, (1e9, 1e9))
        path.chmod(0o600)
    assert zip_predictions(split, predicted, tmp_path / "second.zip").read_bytes() == first


def _save(mode, size=(64, 48), value=255, palette=None):
    def write(path):
        picture = Image.new(mode, size, value)
        if palette is not None:
            picture.putpalette(palette)
        picture.save(path, "PNG")

    return write


@pytest.mark.parametrize(
    "write, message",
    [
        (_save("L", value=1), "holds the value 1; only 0 and 255"),
        (_save("L", value=254), "holds the value 254; only 0 and 255"),
        (_save("L", size=(48, 64)), "is 48x64, its frame 64x48"),
        (_save("RGB", value=(255, 255, 255)), "has the mode RGB"),
        (_save("1", value=1), "has the mode 1"),
        (_save("P", palette=[0, 0, 0] * 256), "has a palette whose 0 is not black or 255 is"),
        (lambda path: path.write_bytes(b"GIF89a"), "is not a readable PNG"),
        (lambda path: Image.new("L", (64, 48)).save(path, "BMP"), "is not a readable PNG"),
        (lambda path: path.write_bytes(b""), "is not a readable PNG"),
    ],
)
def test_pictures_that_a_server_refuses_are_refused_here(split, predicted, write, message):
    write(predicted / "two v1.0" / "1" / "00003.png")
    with pytest.raises(DatasetError, match=message) as caught:
        zip_predictions(split, predicted)
    assert "00003.png" in str(caught.value) and "\n" not in str(caught.value)
    assert not predicted.with_name("out.zip").exists()


def test_a_palette_of_black_and_a_colour_is_taken(split, predicted):
    picture = predicted / "one" / "0" / "00000.png"
    _save("P", palette=[0, 0, 0] * 255 + [0, 200, 0])(picture)
    with zipfile.ZipFile(zip_predictions(split, predicted)) as file:
        assert file.read("one/0/00000.png") == picture.read_bytes()


def test_a_foreign_zip_is_judged(split, predicted, tmp_path):
    good = zip_predictions(split, predicted, tmp_path / "good.zip")
    with zipfile.ZipFile(good) as file:
        entries = [(name, file.read(name)) for name in file.namelist()]

    def write(items):
        path = tmp_path / "foreign.zip"
        with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            warnings.simplefilter("ignore", UserWarning)  # A name that is there twice.
            for name, data in items:
                file.writestr(name, data)
        return path

    assert verify_zip(split, write(reversed(entries))) == PICTURES
    cases = {
        "lacks 1 of 72": entries[1:],
        "holds 1 files that the split does not list, such as 'notes.txt'": [
            *entries,
            ("notes.txt", b""),
        ],
        "holds 'one/0/00000.png' twice": [*entries, entries[0]],
    }
    for message, items in cases.items():
        with pytest.raises(DatasetError, match=message):
            verify_zip(split, write(items))
    data = bytearray(good.read_bytes())
    data[80] ^= 255
    (tmp_path / "spoilt.zip").write_bytes(data)
    with pytest.raises(DatasetError, match=r"damaged zip file \(Bad CRC-32"):
        verify_zip(split, tmp_path / "spoilt.zip")
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(DatasetError, match="damaged zip file"):
        verify_zip(split, tmp_path / "text.zip")
    with pytest.raises(MissingPathError, match="No zip file"):
        verify_zip(split, tmp_path / "none.zip")


def test_a_cancelled_zip_leaves_the_old_one(split, predicted):
    archive = zip_predictions(split, predicted)
    before, there = archive.read_bytes(), sorted(archive.parent.iterdir())
    for stop_at in (1, PICTURES + 5):
        token, seen = CancelToken(), []

        def watch(event, token=token, seen=seen, stop_at=stop_at):
            seen.append(event)
            if event.done == stop_at:
                token.cancel()

        with pytest.raises(Cancelled):
            zip_predictions(split, predicted, cancel=token, progress=watch)
        assert len(seen) == stop_at and seen[0].total == 2 * PICTURES
    assert archive.read_bytes() == before and sorted(archive.parent.iterdir()) == there


@settings(max_examples=15, deadline=None)
@given(
    arrays(bool, st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 70))),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8).filter(
        is_safe_name
    ),
    st.sampled_from(["mevis", "ytvos"]),
)
def test_what_goes_into_a_zip_comes_out_as_scores(masks, name, layout):
    """Masks to pictures to a zip to the reader to scores: all as from memory."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        frames = np.zeros((*masks.shape, 3), np.uint8)
        truth = np.roll(masks, 1, axis=2)
        with MevisWriter(root / "split") as writer:
            writer.add_video(
                name, frames, objects={1: truth}, expressions={"0": ("it", [1]), "1": ("no", [])}
            )
        for exp_id in "01":
            pictures = root / "pred" / name / exp_id
            pictures.mkdir(parents=True)
            for index, mask in enumerate(masks):
                grey = Image.fromarray(mask.astype(np.uint8) * 255)
                grey.save(pictures / f"{index:05d}.png", "PNG")
        archive = zip_predictions(root / "split", root / "pred", layout=layout)
        scores = evaluate(archive, root / "split").to_dict()
    expected = evaluate_masks(
        {(name, "0"): (masks, truth), (name, "1"): (masks, np.zeros_like(masks))}
    )
    assert scores == expected.to_dict()
