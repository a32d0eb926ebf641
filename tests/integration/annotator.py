"""A clip, a model that errs, and a person with a keyboard and a mouse."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtWidgets import QApplication, QMainWindow, QWidget

from flowrvs.progress import CancelToken
from flowrvs.store import Project
from napari_flowrvs.dock import SegmentDock
from tests.fixtures.segmenters import ThresholdSegmenter

__all__ = [
    "BROKEN",
    "CLIP",
    "FRAMES",
    "SIDE",
    "TRUTH",
    "FlawedSegmenter",
    "Person",
    "corner",
    "iou",
]

FRAMES = 40
SIZE = (120, 200)
SIDE = 36
#: Frames on which the model loses the lower half.
BROKEN = range(18, 24)


def corner(t: int) -> tuple[int, int]:
    """Return row and column of the square's upper left corner."""
    return 20 + t, 10 + 3 * t


def scene() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """A textured red square that moves right and down, over a textured ground."""
    rng = np.random.default_rng(5)
    ground = np.repeat(rng.integers(40, 110, (*SIZE, 1), np.uint8), 3, axis=2)
    square = np.stack(
        [rng.integers(190, 255, (SIDE, SIDE)), *rng.integers(10, 50, (2, SIDE, SIDE))], axis=-1
    ).astype(np.uint8)
    frames, masks = np.repeat(ground[None], FRAMES, axis=0), np.zeros((FRAMES, *SIZE), bool)
    for t in range(FRAMES):
        y, x = corner(t)
        frames[t, y : y + SIDE, x : x + SIDE] = square
        masks[t, y : y + SIDE, x : x + SIDE] = True
    return frames, masks


CLIP, TRUTH = scene()


def write_clip(folder: Path) -> Path:
    """Write the clip as a folder of pictures."""
    folder.mkdir(parents=True)
    for t, frame in enumerate(CLIP):
        Image.fromarray(frame).save(folder / f"{t:05}.png")
    return folder


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
            for i, frame in enumerate(np.asarray(frames)):
                t = int(np.abs(CLIP.astype(np.int16) - frame).mean(axis=(1, 2, 3)).argmin())
                if t in BROKEN and steps == 1:
                    logits[i, corner(t)[0] + SIDE // 2 :] = -1
            yield np.clip(logits * 10, -1, 1)  # as sure as a model


def iou(project: Project, t: int, object_id: int = 1) -> float:
    """Return how well a mask of the project matches the square."""
    mask = project.object_mask(object_id, t, t + 1)[0]
    return float((mask & TRUTH[t]).sum() / (mask | TRUTH[t]).sum())


class Person:
    """Presses keys and moves the mouse where a person would, and takes pictures."""

    def __init__(self, qtbot: Any, viewer: Any, dock: SegmentDock, pictures: Path) -> None:
        self.qtbot, self.viewer, self.dock, self.pictures = qtbot, viewer, dock, pictures
        self.pressed = 0

    @property
    def window(self) -> QMainWindow:
        """The window of the viewer."""
        window: QMainWindow = self.viewer.window._qt_window
        return window

    @property
    def canvas(self) -> QWidget:
        """The widget that the video is drawn on."""
        canvas: QWidget = self.viewer.window._qt_viewer.canvas.native
        return canvas

    # -- the keyboard --------------------------------------------------------------------

    def press(self, key: str, where: Any = None) -> None:
        """Press a key such as "Shift+N", on the canvas unless it is said where."""
        *modifiers, letter = key.split("+")
        flags = Qt.KeyboardModifier.NoModifier
        for name in modifiers:
            name = "Control" if name == "Ctrl" else name
            flags |= getattr(Qt.KeyboardModifier, f"{name}Modifier")
        target = self.canvas if where is None else where
        self.qtbot.keyClick(target, getattr(Qt.Key, f"Key_{letter}"), flags)
        self.pressed += 1
        QApplication.processEvents()

    def type(self, text: str, where: QWidget) -> None:
        """Replace what stands in a line and press Return."""
        where.selectAll()  # type: ignore[attr-defined]
        self.qtbot.keyClicks(where, text)
        self.press("Return", where)

    def page(self, name: str) -> None:
        """Choose a page with the arrow keys."""
        bar = self.dock.tabs.tabBar()
        bar.setFocus()
        wanted = [bar.tabText(i) for i in range(bar.count())].index(name)
        while bar.currentIndex() != wanted:
            self.press("Right" if bar.currentIndex() < wanted else "Left", bar)
        self.canvas.setFocus()

    # -- the mouse -----------------------------------------------------------------------

    def click(self, button: QWidget) -> None:
        """Click on a button."""
        assert button.isEnabled(), button
        self.qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
        QApplication.processEvents()

    def place(self, y: float, x: float) -> QPoint:
        """Return where a pixel of the video is on the canvas."""
        canvas = self.viewer.window._qt_viewer.canvas
        node = canvas.layer_to_visual[self.viewer.layers[0]].node
        found = node.get_transform("visual", "canvas").map([x + 0.5, y + 0.5, 0, 1])
        return QPoint(round(found[0] / found[3]), round(found[1] / found[3]))

    def _mouse(
        self,
        kind: QEvent.Type,
        at: QPoint,
        held: bool,
        modifier: Qt.KeyboardModifier = Qt.KeyboardModifier.NoModifier,
        left: Qt.MouseButton = Qt.MouseButton.LeftButton,
    ) -> None:
        none = Qt.MouseButton.NoButton
        event = QMouseEvent(
            kind,
            QPointF(at),
            QPointF(self.canvas.mapToGlobal(at)),
            none if kind == QEvent.Type.MouseMove else left,
            left if held else none,
            modifier,
        )
        QApplication.sendEvent(self.canvas, event)
        QApplication.processEvents()

    def stroke(
        self,
        *points: tuple[float, float],
        modifier: Qt.KeyboardModifier = Qt.KeyboardModifier.NoModifier,
        button: Qt.MouseButton = Qt.MouseButton.LeftButton,
        lost: int = 0,
    ) -> None:
        """Press the button on the first pixel, go along the others, let go.

        The last `lost` moves are not seen, as on a busy machine.
        """
        places = [self.place(*point) for point in points]
        self._mouse(QEvent.Type.MouseMove, places[0], False, modifier, button)
        self._mouse(QEvent.Type.MouseButtonPress, places[0], True, modifier, button)
        for at in places[1 : len(places) - lost]:
            self._mouse(QEvent.Type.MouseMove, at, True, modifier, button)
        self._mouse(QEvent.Type.MouseButtonRelease, places[-1], False, modifier, button)

    def hover(self, y: float, x: float) -> None:
        """Move the mouse to a pixel, no button pressed."""
        self._mouse(QEvent.Type.MouseMove, self.place(y, x), False)

    def fill(self, top: float, left: float, bottom: float, right: float, size: int = 4) -> None:
        """Fill a box with one long stroke of a square brush."""
        layer = self.viewer.layers.selection.active
        layer.brush_shape, layer.brush_size = "square", size
        points: list[tuple[float, float]] = []
        y = top + size / 2
        while y < bottom:
            row = min(y, bottom - size / 2)
            ends = [(row, left + size / 2), (row, right - size / 2)]
            points += ends if len(points) % 4 == 0 else ends[::-1]
            y += size - 1
        self.stroke(*points)

    # -- waiting and looking --------------------------------------------------------------

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something."""
        self.qtbot.waitUntil(condition, timeout=30_000)

    def rest(self) -> None:
        """Wait until nothing runs, and no layer is still to come."""
        room = self.dock.session
        jobs = [room.segment.job, room.correct.job, room.steps.job, room.opener.job]
        jobs += [room.links.job, room.pick.job]
        self.until(lambda: not self.dock.link.waiting and not any(job.busy for job in jobs))

    def look(self, name: str) -> None:
        """Take a picture."""
        self.qtbot.wait(250)
        picture = self.window.grab()
        assert picture.save(str(self.pictures / f"{name}.png"))
