"""The zip for a submission: layouts, what is refused, and that it is the same every time."""

from __future__ import annotations

import os
import zipfile

import pytest

from flowrvs.errors import DatasetError, StorageError
from flowrvs.evaluation import evaluate, predict_split, zip_predictions
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
    assert len(names) == PICTURES
    assert "one/0/00000.png" in names and "two v1.0/2/00011.png" in names
    assert evaluate(archive, split).to_dict() == evaluate(out, split).to_dict()
    (out / "one" / "0" / "00000.png").unlink()
    archive.unlink()
    with pytest.raises(DatasetError, match="missing"):
        zip_predictions(split, out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "valid_u"]


def test_a_zip_that_does_not_read_back_is_not_kept(split, tmp_path, monkeypatch):
    out = tmp_path / "out"
    predict_split(split, out, ThresholdSegmenter())
    monkeypatch.setattr(os, "fsync", lambda file: os.pwrite(file, b"spoilt", 80))
    with pytest.raises(StorageError, match="read back"):
        zip_predictions(split, out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "valid_u"]
