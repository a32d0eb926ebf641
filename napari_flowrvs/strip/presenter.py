"""The strip under the time slider: who drew each frame, and how doubtful it is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from flowrvs.errors import FlowRVSError
from flowrvs.store import ChangeRow, Project, Provenance
from napari_flowrvs.desk import Changed, Desk

__all__ = ["COLORS", "EMPTY_COLORS", "NAMES", "StripPresenter", "stack"]

#: Red, green, blue of every provenance but EMPTY: three of Okabe and Ito's colours, which
#: differ in lightness too, so that they stay apart for every kind of sight.
COLORS = {
    Provenance.MODEL: (0, 114, 178),
    Provenance.HUMAN: (230, 159, 0),
    Provenance.LOCKED: (240, 228, 66),
}

#: EMPTY on a dark and on a light background.
EMPTY_COLORS = {True: (72, 77, 88), False: (196, 199, 205)}

NAMES = {
    Provenance.EMPTY: "empty",
    Provenance.MODEL: "model",
    Provenance.HUMAN: "yours",
    Provenance.LOCKED: "locked",
}


#: How many of the last changes of a frame are told.
_CHANGES = 3


def edges(frames: int, width: int) -> npt.NDArray[np.intp]:
    """Return the first frame of every column and one past the last, (width + 1,)."""
    return np.arange(width + 1) * frames // width


def stack(
    provenance: npt.NDArray[np.uint8], width: int, height: int, *, dark: bool = True
) -> npt.NDArray[np.uint8]:
    """Paint provenance, one column a frame or, where there are more frames, a bin of them.

    A bin is a stack: its colours are as high as their share of its frames, and at least one
    pixel, so that one corrected frame among a hundred is seen.

    Parameters
    ----------
    provenance : ndarray of uint8, shape (T,)
        `Provenance` values.
    width, height : int
        Pixels.
    dark : bool
        The background is dark.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)
        Red, green, blue; row 0 is the top.
    """
    image = np.empty((height, width, 3), np.uint8)
    image[:] = EMPTY_COLORS[dark]
    if not len(provenance):
        return image
    first = edges(len(provenance), width)
    lower, upper = first[:-1], np.maximum(first[1:], first[:-1] + 1)
    level = np.zeros(width, np.intp)
    rows = np.arange(height)[::-1, None]
    shares = {}
    for value in COLORS:
        running = np.concatenate([[0], np.cumsum(provenance == value)])
        shares[value] = running[upper] - running[lower]
    # What a person did is at the top and never hidden by rounding.
    left = np.full(width, height)
    for value, share in reversed(shares.items()):
        rise = np.minimum(np.maximum(share * height // (upper - lower), share > 0), left)
        left -= rise
        shares[value] = rise
    for value, rise in shares.items():
        image[(rows >= level) & (rows < level + rise)] = COLORS[value]
        level += rise
    return image


class StripPresenter:
    """Keeps the provenance and the doubt of the desk's object at hand for painting."""

    #: Something to paint has changed.
    changed = Signal()

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._provenance: npt.NDArray[np.uint8] | None = None
        self._doubt: npt.NDArray[np.float32] | None = None
        desk.object_changed.connect(self._on_object)
        desk.contents_changed.connect(self._on_contents)
        desk.masks_written.connect(self._on_contents)

    @property
    def provenance(self) -> npt.NDArray[np.uint8]:
        """`Provenance` values of the object, (T,); read anew after a change."""
        if self._provenance is None:
            self._provenance = self.desk.provenance()
        return self._provenance

    @property
    def doubt(self) -> npt.NDArray[np.float32] | None:
        """How doubtful every frame is, 0 to 1, (T,); None where it is not known."""
        return self._doubt

    def set_doubt(self, doubt: npt.NDArray[np.float32] | None) -> None:
        """Take the doubt of the desk's object."""
        self._doubt = doubt
        self.changed.emit()

    def _on_object(self, _object_id: int | None) -> None:
        self.refresh()  # who measures doubts says what is known of this one

    def _on_contents(self, change: Changed) -> None:
        thing = self.desk.object
        if thing is not None and change.layer_id in (None, thing.layer):
            self.refresh()

    def refresh(self) -> None:
        """Read the provenance again when it is next painted."""
        self._provenance = None
        self.changed.emit()

    def picture(self, width: int, height: int, *, dark: bool = True) -> npt.NDArray[np.uint8]:
        """Return the strip, (height, width, 3)."""
        return stack(self.provenance, width, height, dark=dark)

    def curve(self, width: int) -> npt.NDArray[np.float32] | None:
        """Return the largest doubt of every column, 0 to 1, (width,); None where unknown."""
        doubt = self._doubt
        if doubt is None or not len(doubt):
            return None
        first = edges(len(doubt), width)[:-1]
        if len(doubt) <= width:
            return doubt[first]
        # One frame that was not measured yet must not hide the others of its column.
        columns: npt.NDArray[np.float32] = np.fmax.reduceat(doubt, first)
        return columns

    def frame_at(self, x: float, width: int) -> int:
        """Return the frame of a column."""
        count = max(self.desk.frame_count, 1)
        return min(max(int(x * count / max(width, 1)), 0), count - 1)

    def place_of(self, frame: int, width: int) -> tuple[float, float]:
        """Return where the column of a frame begins and ends, in pixels."""
        count = max(self.desk.frame_count, 1)
        return frame * width / count, (frame + 1) * width / count

    def describe(self, frame: int) -> str:
        """Return a line about a frame, "frame 12: yours, doubt 0.30", and who did what."""
        if frame >= len(self.provenance):
            return ""
        text = f"frame {frame}: {NAMES[Provenance(int(self.provenance[frame]))]}"
        known = self._doubt is not None and frame < len(self._doubt)
        if self._doubt is not None and known and not np.isnan(self._doubt[frame]):
            text += f", doubt {self._doubt[frame]:.2f}"
        project, thing = self.desk.project, self.desk.object
        if project is not None and thing is not None:
            for row in self._changes(project, thing.id, frame):
                text += f"\n{row.name}, {row.who}, {row.when[:16].replace('T', ' ')}"
        return text

    def _changes(self, project: Project, object_id: int, frame: int) -> list[ChangeRow]:
        try:
            return project.changes(object_id, frame)[:_CHANGES]
        except FlowRVSError:  # it was removed just now, or its history cannot be read
            return []
