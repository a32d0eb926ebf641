"""How sure a model was, by pixel and by frame: what is kept, and drawn again from it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flowrvs.errors import ProjectError
from flowrvs.records import VideoInfo
from flowrvs.store import ObjectRecord, Project, Provenance

FULL = np.ones((10, 12, 16), bool)
VALUES = np.broadcast_to(np.arange(16, dtype=np.uint8) * 17, FULL.shape)  # 0, 17, ... 255
NONE = np.full(10, np.nan)


@pytest.fixture
def cat(project: Project) -> ObjectRecord:
    return project.add_prompt("the cat")[1]


def same(found: Any, wanted: list[float | None]) -> None:
    numbers = np.array([np.nan if value is None else value for value in wanted], np.float32)
    np.testing.assert_array_equal(found, numbers)


class TestByPixel:
    def test_what_was_written_is_kept_and_nothing_else(
        self, project: Project, cat: ObjectRecord
    ) -> None:
        assert project.confidence(1, 0, 10) is None
        assert not project.confidence_frames(cat.id).any()
        project.labels(1)[4, 0] = cat.id
        noise = np.random.default_rng(0).integers(1, 256, FULL.shape).astype(np.uint8)
        written = project.write_model(1, cat.id, 2, FULL[:5], confidence=noise[:5])
        assert np.flatnonzero(written).tolist() == [0, 1, 3, 4]
        kept = project.confidence(1, 0, 10)
        assert kept is not None and kept.dtype == np.uint8
        wanted = np.zeros_like(noise)
        wanted[[2, 3, 5, 6]] = noise[[0, 1, 3, 4]]
        np.testing.assert_array_equal(kept, wanted)
        np.testing.assert_array_equal(project.confidence(1, 3, 6), wanted[3:6])
        assert np.flatnonzero(project.confidence_frames(cat.id)).tolist() == [2, 3, 5, 6]
        assert project.confidence_notice is None
        project.close()
        with Project.open(project.path) as again:
            np.testing.assert_array_equal(again.confidence(1, 0, 10), wanted)
            assert np.flatnonzero(again.confidence_frames(cat.id)).tolist() == [2, 3, 5, 6]
            assert again.history.steps and again.confidence_frames(cat.id).sum() == 4

    def test_what_a_person_does_ends_it(self, project: Project, cat: ObjectRecord) -> None:
        """Frames that surgery or a removed run changed have none any more."""
        dog = project.add_object("dog", 1)
        run = project.begin_run({"range": [0, 10]}, cat.id)
        project.write_model(1, cat.id, 0, FULL, confidence=VALUES)
        project.end_run(cat.id)

        def left() -> list[int]:
            return np.flatnonzero(project.confidence_frames(cat.id)).tolist()

        project.mark_absent(cat.id, 0, 2)
        assert left() == [*range(2, 10)]
        project.swap_objects(cat.id, dog.id, 2, 3)
        assert left() == [*range(3, 10)]
        project.merge_objects(cat.id, dog.id, 3, 4)
        assert left() == [*range(4, 10)]
        project.accept_frames(cat.id, 9, 10)
        project.remove_run(run.id)
        assert left() == [9], "a person's frame stays as it is"
        assert project.areas(cat.id).tolist() == [0] * 9 + [192]

    @pytest.mark.parametrize("room", [2 * 2**30 - 1, 2 * 2**30])
    def test_masks_are_worth_more(
        self,
        project: Project,
        cat: ObjectRecord,
        monkeypatch: pytest.MonkeyPatch,
        room: int,
    ) -> None:
        monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=room))
        kept = room >= 2 * 2**30
        for t in (0, 5):
            assert project.write_model(1, cat.id, t, FULL[:3], confidence=VALUES[:3]).all()
            monkeypatch.undo()
        assert project.confidence_frames(cat.id).sum() == (6 if kept else 0)
        assert (project.confidence(1, 0, 10) is None) == (not kept)
        assert project.confidence_notice == (
            None if kept else "Confidence is not kept any more: the disk has less than 2 GiB left"
        )
        project.keep_disagreement(cat.id, 0, np.zeros(3, np.float32))
        assert np.isfinite(project.disagreement(cat.id)).any() == kept
        assert project.areas(cat.id).tolist() == [192] * 3 + [0, 0] + [192] * 3 + [0, 0]

    def test_another_threshold(self, project: Project, cat: ObjectRecord) -> None:
        """Pixels above it, on the model's frames alone; a step that undo takes back."""
        project.write_model(1, cat.id, 0, VALUES[:8] > 127, confidence=VALUES[:8])
        project.labels(1)[3] = 0
        project.lock_frames(cat.id, 4, 5)
        for threshold, columns, logit in (
            (0, 15, "-6.23"),
            (16, 15, "-2.70"),
            (17, 14, "-2.64"),
            (127, 8, "-0.01"),
            (254, 1, "+5.54"),
            (255, 0, "+6.23"),
        ):
            written = project.rethreshold(cat.id, 1, 10, threshold)
            assert np.flatnonzero(written).tolist() == [0, 1, 4, 5, 6], "of frames 1 to 9"
            area = 12 * columns
            wanted = [96, area, area, 0, 96, area, area, area, 0, 0]
            assert project.areas(cat.id).tolist() == wanted
            assert project.undo_name == f"threshold {logit} of 'the cat', frames 1-9"
            assert project.provenance(cat.id).tolist() == [1, 1, 1, 2, 3, 1, 1, 1, 0, 0]
            mask = project.object_mask(cat.id, 1, 2)
            np.testing.assert_array_equal(mask, VALUES[1:2] > threshold)
        project.undo()
        assert project.areas(cat.id)[1] == 12, "that of the threshold before"

    def test_many_frames(self, tmp_path: Path) -> None:
        """Read in blocks, those without confidence left out."""
        with Project.create(tmp_path / "a", VideoInfo(None, "array", 70, 2, 3)) as project:
            one = project.add_object("one", project.add_layer("a").id)
            values = np.arange(70 * 6, dtype=np.uint16).reshape(70, 2, 3) % 251
            for start, stop in ((3, 6), (15, 18), (40, 70)):
                part = values[start:stop].astype(np.uint8)
                project.write_model(1, one.id, start, part > 200, confidence=part)
            written = project.rethreshold(one.id, 4, 69, 100)
            drawn = [4, 5, 15, 16, 17, *range(40, 69)]
            assert np.flatnonzero(written).tolist() == [t - 4 for t in drawn]
            mask = project.object_mask(one.id, 0, 70)
            for t in range(70):
                level = 100 if t in drawn else 200 if t in (3, 69) else 999
                np.testing.assert_array_equal(mask[t], values[t] > level)


class TestWhereWindowsOverlap:
    def test_what_is_kept(self, project: Project, cat: ObjectRecord) -> None:
        """To a thousandth; NaN where nothing is known, or one window alone saw it."""
        project._state._saver.stop()  # or areas may be on the disk before they are asked for
        project.write_model(1, cat.id, 0, FULL)
        same(project.disagreement(cat.id), [None] * 10)
        said = np.array([0, 0.12345, np.nan, 1, 7, -3], np.float32)
        project.keep_disagreement(cat.id, 2, said)
        wanted = [None, None, 0, 0.123, None, 1, 1, 0, None, None]
        same(project.disagreement(cat.id), wanted)
        again = np.full(4, 0.5, np.float32)
        project.keep_disagreement(cat.id, 6, again, np.array([True, False, True, False]))
        wanted[6] = wanted[8] = 0.5
        same(project.disagreement(cat.id), wanted)
        with Project.open(project.path, read_only=True) as seen:
            same(seen.disagreement(cat.id), [None] * 10)  # areas are not on the disk yet
            project.flush()
        project.close()
        with Project.open(project.path) as again_:
            same(again_.disagreement(cat.id), wanted)
        with pytest.raises(ProjectError, match="Frames 8 to 11 are not all in the video"):
            with Project.open(project.path) as again_:
                again_.keep_disagreement(cat.id, 8, np.zeros(4, np.float32))

    def test_a_mask_that_is_another_one_by_now(self, project: Project, cat: ObjectRecord) -> None:
        project.write_model(1, cat.id, 0, FULL)
        project.keep_disagreement(cat.id, 0, np.full(10, 0.5, np.float32))
        project.labels(1)[3, 0] = 0
        same(project.disagreement(cat.id), [0.5] * 3 + [None] + [0.5] * 6)
        project.undo()
        same(project.disagreement(cat.id), [0.5] * 10)

    def test_what_lies_between(self, project: Project, cat: ObjectRecord) -> None:
        """Frames of one window have what lies between those that two windows saw."""
        project.write_model(1, cat.id, 0, FULL[:9])
        same(project.disagreement(cat.id, between=True), [None] * 10)
        alone = np.nan
        said = np.array([alone, 0.2, alone, alone, 0.8, alone, 0.4, alone], np.float32)
        project.keep_disagreement(cat.id, 1, said)
        same(
            project.disagreement(cat.id), [None, None, 0.2, None, None, 0.8, None, 0.4, None, None]
        )
        found = project.disagreement(cat.id, between=True)
        wanted = [np.nan, 0.2, 0.2, 0.4, 0.6, 0.8, 0.6, 0.4, 0.4, np.nan]
        np.testing.assert_allclose(found, wanted, atol=1e-6)
        project.labels(1)[3, 0] = 0
        found = project.disagreement(cat.id, between=True)
        wanted[3] = np.nan
        np.testing.assert_allclose(found, wanted, atol=1e-6)

    def test_where_it_cannot_be_kept(self, project: Project, cat: ObjectRecord) -> None:
        """A hint for the reviewer: the run goes on without it, and says so once."""
        project.write_model(1, cat.id, 0, FULL)
        (project.path / "disagreement").write_bytes(b"in the way")
        project.keep_disagreement(cat.id, 0, np.zeros(10, np.float32))
        notice = project.confidence_notice
        assert notice is not None and "\n" not in notice
        assert notice.startswith("Confidence is not kept any more: Cannot write to ")
        (project.path / "disagreement").unlink()
        project.keep_disagreement(cat.id, 0, np.zeros(10, np.float32))
        same(project.disagreement(cat.id), [None] * 10)
        assert (project.provenance(cat.id) == Provenance.MODEL).all()
