"""Planning which frames the model sees at once: pure arithmetic."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from flowrvs.records import Window, check_windows, frame_range

__all__ = ["kept_frames", "plan_windows", "window_around", "windows_to_compute"]


def plan_windows(
    frame_count: int,
    window_size: int,
    overlap: int,
    start: int = 0,
    stop: int | None = None,
) -> tuple[Window, ...]:
    """Cover a range of frames with windows that overlap.

    Nothing is padded: every window has `window_size` frames, the last one being shifted
    back where it would reach beyond the end; a range shorter than one window is one window.

    Parameters
    ----------
    frame_count : int
        Frames of the video.
    window_size : int
        Frames of a window, at least 1.
    overlap : int
        Frames that neighbours share (the last two may share more), 0 to ``window_size - 1``.
    start, stop : int
        First frame and one past the last frame to cover; the whole video by default.

    Returns
    -------
    tuple of Window
        In order of time.

    Raises
    ------
    InputError
        The range is empty or beyond the video, or the sizes are impossible.

    Examples
    --------
    >>> [(w.start, w.stop) for w in plan_windows(20, 9, 2)]
    [(0, 9), (7, 16), (11, 20)]
    """
    frames = frame_range(frame_count, start, stop)
    check_windows(window_size, overlap)
    last = max(frames.start, frames.stop - window_size)
    starts = [*range(frames.start, last, window_size - overlap), last]
    return tuple(Window(i, s, min(s + window_size, frames.stop)) for i, s in enumerate(starts))


def window_around(frame_count: int, frame: int, size: int) -> tuple[int, int]:
    """Return the first frame, and one past the last, of one window around a frame.

    Examples
    --------
    >>> window_around(100, 50, 17), window_around(100, 2, 17), window_around(9, 2, 17)
    ((42, 59), (0, 17), (0, 9))
    """
    start = max(0, min(frame - size // 2, frame_count - size))
    return start, min(start + size, frame_count)


def kept_frames(windows: Sequence[Window]) -> tuple[range, ...]:
    """Return the frames that each window completes: every frame of the range exactly once.

    A window's frames are final up to the first frame of the next one, with which the others
    are blended.

    Examples
    --------
    >>> kept_frames(plan_windows(20, 9, 2))
    (range(0, 7), range(7, 11), range(11, 20))
    """
    stops = [w.start for w in windows[1:]] + [w.stop for w in windows[-1:]]
    return tuple(range(w.start, stop) for w, stop in zip(windows, stops, strict=True))


def windows_to_compute(windows: Sequence[Window], done: Collection[int]) -> frozenset[int]:
    """Return the windows that a resumed run computes.

    They are the unfinished ones and, before each run of them, the finished ones that reach
    into it: their logits on the shared frames are needed for the seam. With an overlap of
    at most half a window that is one window, or two before the shifted last one.

    Parameters
    ----------
    windows : sequence of Window
        The plan.
    done : collection of int
        Indices of the finished windows.
    """
    compute = {w.index for w in windows if w.index not in done}
    for index in sorted(compute):
        before = index - 1
        while before >= 0 and windows[before].stop > windows[index].start:
            compute.add(before)
            before -= 1
    return frozenset(compute)
