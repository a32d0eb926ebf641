"""The video of the desk, opened once for all jobs that look at motion."""

from __future__ import annotations

import threading

from flowrvs.editing import Flows
from flowrvs.errors import InputError
from flowrvs.video import Video
from napari_flowrvs.source import VideoSource

__all__ = ["Film", "Motion"]


class Film:
    """A video that is opened on request, with its optical flow; for any thread."""

    def __init__(self, source: VideoSource | None) -> None:
        self.source = source
        self._lock = threading.Lock()
        self._open: tuple[Video, Flows] | None = None

    def open(self) -> tuple[Video, Flows]:
        """Return the video and its flow.

        Raises
        ------
        InputError
            No video was chosen.
        VideoError, MissingPathError
            It cannot be read (any more).
        """
        with self._lock:
            if self.source is None:
                raise InputError("There is no video: choose it at the top, so that motion is seen.")
            if self._open is None:
                video = self.source.open()
                self._open = (video, Flows(video))
            return self._open

    def close(self) -> None:
        """Close the video at once; it is opened again on request."""
        with self._lock:
            opened, self._open = self._open, None
        if opened is not None:
            opened[0].close()


class Motion:
    """The chosen video.

    Attributes
    ----------
    film : Film
        A job takes it when it is begun: it goes on with it when another video is chosen.
    """

    def __init__(self) -> None:
        self.film = Film(None)

    def set_source(self, source: VideoSource | None) -> None:
        """Take another video; the same one, chosen again, stays open."""
        before = self.film.source
        same = (
            source is not None
            and before is not None
            and (source.path, source.frame_count) == (before.path, before.frame_count)
            and source.array is before.array
        )
        if not same:
            # Jobs may still read the old one; it is closed when the last lets it go.
            self.film = Film(source)

    def open(self) -> tuple[Video, Flows]:
        """Return the chosen video and its flow; see `Film.open`."""
        return self.film.open()

    def close(self, timeout: float = 0.0) -> bool:
        """Close the video at once; it is opened again on request."""
        self.film.close()
        return True
