"""The demo with small numpy segmenters: what it writes, and what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import flowrvs
from flowrvs.data.mevis import MevisSplit
from flowrvs.data.synthetic import TRAINING_SEED_BASE
from flowrvs.demo import DEMO_SEED, bundled_clip, check_folder, run_demo
from flowrvs.errors import Cancelled, InputError, StorageError
from flowrvs.progress import CancelToken
from tests.fixtures.segmenters import ThresholdSegmenter

NAMES = {
    "README.txt",
    "clip.flowrvs",
    "clip.mp4",
    "contact-sheet.png",
    "mevis",
    "overlay.mp4",
    "scores.json",
    "truth",
}


class Oracle:
    """Knows the truth of the bundled clip, in windows that cover it all."""

    name = "oracle"
    window_size = 33
    overlap = 4

    def segment_window(
        self,
        frames: npt.NDArray[np.uint8],
        texts: Sequence[str],
        *,
        steps: int = 1,
        cancel: CancelToken | None = None,
        on_step: Callable[[], None] | None = None,
    ) -> Iterator[npt.NDArray[np.float32]]:
        clip = bundled_clip()
        truth = {e.text: clip.target(e) for e in clip.expressions}
        for text in texts:
            yield np.where(truth[text], 0.5, -0.5).astype(np.float32)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "out"
    run_demo(out, Oracle())
    return out


def test_bundled_clip_is_held_out_and_motion_decides_between_lookalikes() -> None:
    clip = bundled_clip()
    assert DEMO_SEED < TRAINING_SEED_BASE
    assert [e.kind for e in clip.expressions] == ["motion", "motion", "group", "none"]
    first, second = (clip.scene.objects[e.objects[0]] for e in clip.expressions[:2])
    assert (first.shape, first.rgb, first.radius) == (second.shape, second.rgb, second.radius)
    assert first.motion != second.motion
    assert clip.frames.shape == (33, 96, 160, 3)


def test_leaves_its_files_and_nothing_half_written(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} == NAMES
    scores = json.loads((finished / "scores.json").read_text())
    assert all(Path(path).exists() for path in scores["files"].values())


def test_truth_scores_one(finished: Path) -> None:
    scores = json.loads((finished / "scores.json").read_text())
    assert scores["J"] == scores["F"] == scores["J&F"] == scores["coverage"] == 1.0
    assert len(scores["expressions"]) == len(scores["sentences"]) == 4


def test_split_holds_what_the_model_found(finished: Path) -> None:
    found = MevisSplit.open(finished / "mevis" / "train")
    truth = MevisSplit.open(finished / "truth" / "valid_u")
    texts = {e.exp: (v, k) for v, one in found.videos.items() for k, e in one.expressions.items()}
    [(video, entry)] = truth.videos.items()
    assert len(texts) == len(entry.expressions)
    for exp_id, expression in entry.expressions.items():
        masks = found.target_masks(*texts[expression.exp])
        assert np.array_equal(masks, truth.target_masks(video, exp_id))


def test_pictures_show_the_clip(finished: Path) -> None:
    with flowrvs.open_video(finished / "overlay.mp4") as overlay:
        assert overlay.info.frame_count == 33
        assert (overlay.info.height, overlay.info.width) == (384, 640)
    sheet = np.asarray(Image.open(finished / "contact-sheet.png").convert("RGB"))
    assert sheet.shape == (4 * (192 + 28), 5 * 320 + 4 * 4, 3)
    assert sheet.std() > 10


def test_every_tile_of_the_sheet_shows_what_its_sentence_means(finished: Path) -> None:
    """What is meant has its colours, in a ring of the object's; the rest is dimmed."""
    clip = bundled_clip()
    sheet = np.asarray(Image.open(finished / "contact-sheet.png").convert("RGB")).astype(int)
    with flowrvs.open_video(finished / "clip.mp4") as video:
        frames = video.read(0, 33).astype(int)
    with flowrvs.Project.open(finished / "clip.flowrvs", read_only=True) as project:
        colors = [np.array(made.color) * 255 for made in project.objects.values()]
    for row, (expression, color) in enumerate(zip(clip.expressions, colors, strict=True)):
        for column, frame in enumerate((0, 8, 16, 24, 32)):
            top, left = row * 220 + 28, column * 324
            tile = sheet[top : top + 192 : 2, left : left + 320 : 2]
            mask = clip.target(expression)[frame]
            around = np.pad(mask, 1)
            ring = ~mask & np.any(
                [around[y : y + 96, x : x + 160] for y in range(3) for x in range(3)], axis=0
            )
            wanted = np.where(mask[..., None], frames[frame], frames[frame] // 5 * 2)
            wanted = np.where(ring[..., None], color, wanted)
            below = slice(14, None)  # above is the number of the frame
            assert np.abs(tile[below] - wanted[below]).max() <= 1, (row, column)


def test_again_replaces_the_earlier_demo(finished: Path) -> None:
    result = run_demo(finished, ThresholdSegmenter())
    assert result.scores.j_and_f < 1
    assert json.loads((finished / "scores.json").read_text())["J"] == result.scores.j
    assert {path.name for path in finished.iterdir()} == NAMES


def test_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_text("mine")
    with pytest.raises(InputError, match="holds no demo"):
        run_demo(tmp_path, Oracle())
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
    assert (tmp_path / "clip.mp4").read_text() == "mine"


def test_a_place_that_the_disk_refuses_is_named(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("mine")
    place = re.escape(str(tmp_path / "file" / "out"))
    with pytest.raises(StorageError, match=f"^Cannot write to {place}: a file is in the"):
        run_demo(tmp_path / "file" / "out", Oracle())

    def refuse(path: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "shut").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", refuse)
        place = re.escape(str(tmp_path / "shut"))
        with pytest.raises(StorageError, match=f"^Cannot read {place}: no permission; "):
            check_folder(tmp_path / "shut")
    assert check_folder(tmp_path / "shut") is check_folder(tmp_path / "new") is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "shut"]


def test_file_as_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        run_demo(tmp_path / "out", Oracle())


def test_cancelled_demo_can_be_started_again(tmp_path: Path) -> None:
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        run_demo(tmp_path / "out", ThresholdSegmenter(), cancel=cancel)
    assert not (tmp_path / "out" / "scores.json").exists()
    run_demo(tmp_path / "out", ThresholdSegmenter())
    assert (tmp_path / "out" / "scores.json").exists()
