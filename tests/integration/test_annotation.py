"""A whole clip by keyboard: prompt, review, fix, spread, undo, export; with pictures.

The pictures go to ``$FLOWRVS_PICTURES``, where it is set, to be looked at.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QMainWindow

from flowrvs.cli import main
from flowrvs.progress import CancelToken
from flowrvs.store import Project, Provenance
from napari_flowrvs.layers import layers_of
from napari_flowrvs.presenters.memory import Memory
from napari_flowrvs.projects import open_projects
from napari_flowrvs.widgets.dock import SegmentDock
from tests.fixtures.segmenters import ThresholdSegmenter

FRAMES = 40
SIZE = (120, 200)
#: Frames on which the model loses the lower half.
BROKEN = range(18, 24)


def scene() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """A textured red square that moves right and down, over a textured ground."""
    rng = np.random.default_rng(5)
    ground = np.repeat(rng.integers(40, 110, (*SIZE, 1), np.uint8), 3, axis=2)
    square = np.stack(
        [rng.integers(190, 255, (36, 36)), *rng.integers(10, 50, (2, 36, 36))], axis=-1
    ).astype(np.uint8)
    frames, masks = np.repeat(ground[None], FRAMES, axis=0), np.zeros((FRAMES, *SIZE), bool)
    for t in range(FRAMES):
        y, x = 20 + t, 10 + 3 * t
        frames[t, y : y + 36, x : x + 36] = square
        masks[t, y : y + 36, x : x + 36] = True
    return frames, masks


CLIP, TRUTH = scene()


@dataclass
class FlawedSegmenter(ThresholdSegmenter):
    """Finds the square, but loses its lower half on some frames."""

    def segment_window(
        self,
        frames: npt.NDArray[np.uint8],
        texts: Sequence[str],
        *,
        steps: int = 1,
        cancel: CancelToken | None = None,
        on_step: Callable[[], None] | None = None,
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the logits of every sentence, float32 (T, H, W)."""
        for logits in super().segment_window(
            frames, texts, steps=steps, cancel=cancel, on_step=on_step
        ):
            for i, frame in enumerate(frames):
                t = int(np.abs(CLIP.astype(np.int16) - frame).mean(axis=(1, 2, 3)).argmin())
                if t in BROKEN:
                    logits[i, 20 + t + 18 :] = -1
            yield np.clip(logits * 10, -1, 1)  # as sure as a model


def iou(project: Project, t: int) -> float:
    mask = project.object_mask(1, t, t + 1)[0]
    return float((mask & TRUTH[t]).sum() / (mask | TRUTH[t]).sum())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "scene"
    folder.mkdir()
    for t, frame in enumerate(CLIP):
        Image.fromarray(frame).save(folder / f"{t:05}.png")
    return folder


class Person:
    """Presses keys where a person's hands would be, and takes pictures."""

    def __init__(self, qtbot: Any, viewer: Any, dock: SegmentDock, pictures: Path) -> None:
        self.qtbot, self.viewer, self.dock, self.pictures = qtbot, viewer, dock, pictures
        self.pressed = 0

    @property
    def window(self) -> QMainWindow:
        """The window of the viewer."""
        return self.viewer.window._qt_window

    def press(self, key: str, where: Any = None) -> None:
        """Press a key such as "Shift+N", on the canvas unless it is said where."""
        *modifiers, letter = key.split("+")
        flags = Qt.KeyboardModifier.NoModifier
        for name in modifiers:
            name = "Control" if name == "Ctrl" else name
            flags |= getattr(Qt.KeyboardModifier, f"{name}Modifier")
        target = self.viewer.window._qt_viewer.canvas.native if where is None else where
        self.qtbot.keyClick(target, getattr(Qt.Key, f"Key_{letter}"), flags)
        self.pressed += 1
        QApplication.processEvents()

    def until(self, condition: Callable[[], bool]) -> None:
        self.qtbot.waitUntil(condition, timeout=30_000)

    def page(self, name: str) -> None:
        """Choose a page with the arrow keys."""
        bar = self.dock.tabs.tabBar()
        bar.setFocus()
        wanted = [bar.tabText(i) for i in range(bar.count())].index(name)
        while bar.currentIndex() != wanted:
            self.press("Right" if bar.currentIndex() < wanted else "Left", bar)
        self.viewer.window._qt_viewer.canvas.native.setFocus()

    def look(self, name: str) -> None:
        """Take a picture."""
        self.qtbot.wait(250)
        picture = self.window.grab()
        assert picture.save(str(self.pictures / f"{name}.png"))


@pytest.fixture
def person(
    make_napari_viewer: Callable[..., Any],
    folder: Path,
    tmp_path: Path,
    qtbot: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Person]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    pictures = Path(os.environ.get("FLOWRVS_PICTURES", tmp_path / "pictures"))
    pictures.mkdir(parents=True, exist_ok=True)
    viewer = make_napari_viewer(show=True)
    viewer.window._qt_window.resize(1280, 900)
    memory = Memory(tmp_path / "memory.json")
    dock = SegmentDock(viewer, load=lambda model, device: FlawedSegmenter(), memory=memory)
    viewer.window.add_dock_widget(dock, name="Segment a video by sentences", area="right")
    for layer in layers_of(folder):
        dock.link.add(layer)
    person = Person(qtbot, viewer, dock, pictures)
    yield person
    dock.shut_down()
    open_projects.close_all()
    vars(person).clear()  # pytest keeps it longer than the viewer may live


def test_a_clip_is_annotated_by_keyboard(person: Person, folder: Path, tmp_path: Path) -> None:
    dock, viewer, desk = person.dock, person.viewer, person.dock.desk
    # Prompt.
    person.qtbot.keyClicks(dock.sentences.edit, "the red square")
    person.press("Ctrl+Return", dock.sentences.edit)
    person.until(lambda: not dock.presenter.job.busy)
    project = desk.project
    assert project is not None and desk.object_id == 1
    assert all(iou(project, t) < 0.6 for t in BROKEN) and iou(project, 5) > 0.99
    # Review: what is doubtful is what is broken, or beside it.
    person.page("Review")
    person.until(lambda: not dock.review.job.busy and dock.review.queue()[0].doubt > 0)
    person.press("N")
    assert desk.frame in range(BROKEN.start - 1, BROKEN.stop + 1)
    person.look("review")
    # Fix one frame in the middle with the brush: this alone needs a mouse.
    while desk.frame not in BROKEN[2:4]:
        person.press("Right" if desk.frame < BROKEN[2] else "Left")
    fixed = desk.frame
    person.press("R")
    layer = viewer.layers.selection.active
    assert layer.mode == "paint" and layer.selected_label == 1
    layer.brush_shape = "square"
    layer.brush_size = 4
    y, x = 20 + fixed, 10 + 3 * fixed
    for row in range(y + 19, y + 35, 2):
        layer.paint((fixed, row, x + 1), 1, refresh=False)
        for column in range(x + 1, x + 35, 2):
            layer.paint((fixed, row, column), 1)
    assert iou(project, fixed) > 0.9
    assert project.provenance(1)[fixed] == Provenance.HUMAN
    # Spread it over the broken stretch.
    person.page("Correct")
    desk.go_to(BROKEN[0])
    person.press("I")
    desk.go_to(BROKEN[-1])
    person.press("Shift+I")
    assert desk.span == (BROKEN[0], BROKEN[-1] + 1)
    person.press("S")
    person.until(lambda: dock.correct.preview is not None and not dock.correct.job.busy)
    desk.go_to(BROKEN[-1])
    person.look("spread")
    assert iou(project, BROKEN[-1]) < 0.6, "a preview writes nothing"
    person.press("Y")
    person.until(lambda: dock.correct.preview is None and not dock.correct.job.busy)
    assert min(iou(project, t) for t in BROKEN) > 0.85
    # Undo the spread and do it again.
    person.press("Ctrl+Z")
    person.until(lambda: not dock.history.steps.busy)
    assert iou(project, BROKEN[-1]) < 0.6 and iou(project, fixed) > 0.9
    person.press("Ctrl+Shift+Z")
    person.until(lambda: not dock.history.steps.busy)
    assert min(iou(project, t) for t in BROKEN) > 0.85
    # Accept: the doubtful ones one by one, then all of it.
    person.press("Alt+I")
    person.page("Review")
    person.until(lambda: not dock.review.job.busy)
    person.press("N")
    for _ in range(3):
        person.press("A")
    person.until(lambda: not dock.history.steps.busy)
    assert dock.review.progress() == (4, FRAMES)
    person.press("Alt+Right")
    assert desk.frame == FRAMES - 1
    person.press("Shift+A")
    person.until(lambda: not dock.history.steps.busy)
    assert dock.review.progress() == (FRAMES, FRAMES) and dock.review.queue() == []
    person.look("done")
    viewer.theme = "light"
    person.page("Objects")
    person.look("light")
    person.window.resize(820, 700)
    person.page("Correct")
    person.look("narrow")
    assert person.pressed < 60
    # Export; nothing of it needs the window any more.
    project.flush()
    out = tmp_path / "data"
    path = str(project.path)
    dock.shut_down()
    open_projects.close_all()
    assert main(["export", path, "--to", str(out)]) == 0
    assert main(["check", str(out / "train")]) == 0
