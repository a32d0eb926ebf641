"""Intelligent scissors: a polygon whose sides follow the edges of the picture."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from skimage.draw import polygon2mask

from flowrvs.errors import InputError

__all__ = ["Scissors"]

Points = npt.NDArray[np.float64]

_WINDOW = 128  # working pixels to each side of a corner in which ways are looked for


class Scissors:
    """A polygon on one frame that snaps to edges, drawn corner by corner.

    After Mortensen and Barrett, "Intelligent scissors for image composition" (1995), by
    OpenCV. Edges are followed up to a quarter of the picture's height from the last corner;
    farther corners are joined by a straight line.

    Parameters
    ----------
    frame : ndarray of uint8, shape (H, W, 3)
        RGB.

    Raises
    ------
    InputError
        OpenCV is not installed.
    """

    def __init__(self, frame: npt.NDArray[np.uint8]) -> None:
        try:
            from cv2 import segmentation
        except ImportError as error:
            raise InputError(
                "The scissors need OpenCV: pip install 'napari-flowrvs[flow]'."
            ) from error
        self._tool = segmentation.IntelligentScissorsMB()
        self._tool.setEdgeFeatureCannyParameters(32, 100)
        self._tool.setGradientMagnitudeMaxLimit(200)
        self._frame = frame
        self._reach = max(_WINDOW, frame.shape[0] // 4)
        self._step = -(-self._reach // _WINDOW)
        self._corners: list[tuple[float, float]] = []
        self._sides: list[Points] = []
        self._window: tuple[int, int, int, int] | None = None  # left, top, working size

    @property
    def corners(self) -> tuple[tuple[float, float], ...]:
        """The corners (x, y) in pixels of the frame."""
        return tuple(self._corners)

    def add(self, x: float, y: float) -> Points:
        """Set the next corner; return the way to it from the last one, shape (n, 2) of x, y."""
        self._check(x, y)
        way = self.way_to(x, y)
        if self._corners:
            self._sides.append(way)
        self._corners.append((float(x), float(y)))
        self._window = None
        return way

    def undo(self) -> None:
        """Take the last corner back."""
        if self._corners:
            self._corners.pop()
            self._window = None
        if self._sides:
            self._sides.pop()

    def way_to(self, x: float, y: float) -> Points:
        """Return the way from the last corner to a point, such as the one under the mouse.

        The first call after a corner does `look`, the others take no time.
        """
        self._check(x, y)
        if not self._corners:
            return np.array([[x, y]], float)
        start = self._corners[-1]
        left, top, wide, high = self._window or self.look()
        column, row = int((x - left) / self._step), int((y - top) / self._step)
        if not (0 <= column < wide and 0 <= row < high) or (start == (x, y)):
            return np.array([start, (x, y)], float)
        way = self._tool.getContour((column, row)).reshape(-1, 2).astype(float)
        way = way * self._step + (self._step - 1) / 2 + (left, top)
        return np.concatenate([[start], way[1:-1], [(x, y)]])

    @property
    def line(self) -> Points:
        """The outline so far, not closed, shape (n, 2) of x, y."""
        start = np.array(self._corners[:1], float).reshape(-1, 2)
        return np.concatenate([start, *self._sides])

    @property
    def polygon(self) -> Points:
        """The outline so far, closed along edges, shape (n, 2) of x, y."""
        if len(self._corners) < 2:
            return np.array(self._corners, float).reshape(-1, 2)
        return np.concatenate([*self._sides, self.way_to(*self._corners[0])])

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """What the closed polygon surrounds, shape (H, W)."""
        shape = self._frame.shape[:2]
        if len(self._corners) < 2:
            return np.zeros(shape, bool)
        inside: npt.NDArray[np.bool_] = polygon2mask(shape, self.polygon[:, ::-1])
        return inside

    def look(self) -> tuple[int, int, int, int]:
        """Work out all ways from the last corner, some ten milliseconds' work.

        Returns
        -------
        tuple of 4 int
            Where they were looked for: left and top in pixels of the frame, width and height of
            the window in those that are worked with.
        """
        x, y = self._corners[-1]
        height, width = self._frame.shape[:2]
        left, top = max(0, int(x) - self._reach), max(0, int(y) - self._reach)
        part = self._frame[
            top : min(height, int(y) + self._reach + 1) : self._step,
            left : min(width, int(x) + self._reach + 1) : self._step,
        ]
        self._tool.applyImage(np.ascontiguousarray(part[..., ::-1]))
        self._tool.buildMap((int((x - left) / self._step), int((y - top) / self._step)))
        self._window = (left, top, part.shape[1], part.shape[0])
        return self._window

    def _check(self, x: float, y: float) -> None:
        height, width = self._frame.shape[:2]
        if not (0 <= x < width and 0 <= y < height):
            raise InputError(
                f"A corner at ({x:g}, {y:g}) lies outside the picture of {width} x {height} pixels."
            )
