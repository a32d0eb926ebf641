"""Drive the real widget and take the pictures of the README: docs/images/*.png.

    QT_QPA_PLATFORM=xcb xvfb-run -a -s "-screen 0 1600x1000x24" python docs/make_screenshots.py

With ``--fake`` the masks are the truth of the synthetic clip instead of a model's, which
needs no weights. With ``--trained DIR``, the folder of a ``benchmarks/improve.py``, only the page
that trains is drawn, as it shows the training begun there last.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import napari
import numpy as np
import numpy.typing as npt
from napari.settings import get_settings
from qtpy.QtWidgets import QApplication

from flowrvs.checkpoints import locate
from flowrvs.data.synthetic import SynthClip, generate_clip
from flowrvs.editing.pick import Mark
from flowrvs.progress import CancelToken
from napari_flowrvs._sample_data import SHAPES_SEED, sample_clip
from napari_flowrvs.dock import SegmentDock
from napari_flowrvs.export.panel import show_export
from napari_flowrvs.find.presenter import load_segmenter
from napari_flowrvs.improve.panel import ImprovePanel
from napari_flowrvs.pick.presenter import Target
from napari_flowrvs.recent import Recent


class TruthSegmenter:
    """Answers with the truth of a synthetic clip, a moment later."""

    name = "truth"
    window_size = 9
    overlap = 2

    def __init__(self, clip: SynthClip, delay: float = 0.4) -> None:
        self._clip = clip
        self._delay = delay

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
        start = int(np.abs(self._clip.frames - frames[0]).mean(axis=(1, 2, 3)).argmin())
        targets = {e.text: self._clip.target(e) for e in self._clip.expressions}
        for text in texts:
            if cancel is not None:
                cancel.raise_if_cancelled()
            time.sleep(self._delay)
            mask = targets[text][start : start + len(frames)]
            for _ in range(steps + 2):
                if on_step is not None:
                    on_step()
            yield np.where(mask, 1, -1).astype(np.float32)


def settle(seconds: float = 0.4) -> None:
    """Let Qt draw."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.01)


def wait(condition: Callable[[], bool], seconds: float = 900) -> None:
    """Let Qt work until `condition` is met."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the widget did not get there")
        settle(0.02)


def session(
    load: Callable[[str, str], Any], theme: str, home: Path
) -> tuple[napari.Viewer, SegmentDock, Any]:
    """Open a viewer with the sample clip and the dock."""
    get_settings().appearance.theme = theme
    viewer = napari.Viewer(show=True, title="napari", show_welcome_screen=False)
    viewer.theme = theme
    viewer.window._qt_window.resize(1360, 860)
    for data, meta, _ in sample_clip("moving shapes", SHAPES_SEED):
        viewer.add_image(data, **meta)
    dock = SegmentDock(viewer, load=load, recent=Recent(home / "memory.json"))
    holder = viewer.window.add_dock_widget(dock, name="Segment a video by sentences", area="right")
    settle()
    viewer.reset_view()
    return viewer, dock, holder


def different(clip: SynthClip) -> tuple[str, ...]:
    """Return up to three sentences that mean different objects."""
    by_object = {e.objects: e.text for e in reversed(clip.expressions) if e.objects}
    return tuple(by_object.values())[:3]


def catch_running(viewer: napari.Viewer, dock: SegmentDock, path: Path) -> None:
    """Take a picture once every sentence has its first masks, and while the job runs."""
    seen: set[int] = set()

    def written(_project: Any, part: Any) -> None:
        seen.add(part.layer_id)
        if len(seen) == len(dock.find.inputs().sentences) and not path.exists():
            # At once, without handling events: the job goes on in its thread.
            viewer.window._qt_window.grab().save(str(path))
            print(path)

    path.unlink(missing_ok=True)
    dock.session.segment.written.connect(written)


def take(viewer: napari.Viewer, path: Path) -> None:
    """Save a picture of the whole window."""
    settle()
    viewer.window._qt_window.grab().save(str(path))
    print(path)


def by_hand(viewer: napari.Viewer, dock: SegmentDock, clip: SynthClip, to: Path) -> None:
    """Take a picture of a clip without any model: two drawn frames, the others filled in."""
    dock.find.draw()
    wait(lambda: not dock.session.segment.job.busy and not dock.link.waiting)
    layer = viewer.layers.selection.active
    layer.name = "drawn by hand"
    project = dock.session.desk.project
    target = clip.target(next(each for each in clip.expressions if each.objects))
    for t in (8, 24):
        viewer.dims.set_current_step(0, t)
        frame = np.zeros(target.shape[1:], np.uint16)
        frame[target[t]] = dock.session.desk.object_id
        project.labels(1)[t] = frame
    dock.session.desk.touched(1, 0, len(target))
    dock.tabs.setCurrentIndex(dock.tabs.count() - 1)
    dock.session.correct.interpolate()
    wait(lambda: not dock.session.correct.job.busy, 120)
    dock.session.desk.go_to(16)
    take(viewer, to / "by-hand.png")
    dock.session.correct.discard()


def annotate(viewer: napari.Viewer, dock: SegmentDock, to: Path) -> None:
    """Take pictures of the other pages: objects, review, a spread that waits to be kept."""
    desk = dock.session.desk
    dock.tabs.setCurrentWidget(dock.objects)
    dock.objects.presenter.choose_expression(next(iter(desk.project.expressions)))
    desk.project.lock_frames(desk.object_id, 0, 4)
    settle()
    take(viewer, to / "objects.png")
    dock.tabs.setCurrentWidget(dock.review)
    settle()
    wait(lambda: not dock.session.review.job.busy, 120)
    dock.session.review.next()
    dock.footer.transport.toggle_onion()
    take(viewer, to / "review.png")
    dock.footer.transport.toggle_onion()
    desk.go_to(16)
    layer = viewer.layers.selection.active
    layer.brush_size = 5
    rows, columns = np.nonzero(np.asarray(layer.data[16]) == desk.object_id)
    for column in range(columns.min(), columns.max(), 3):
        layer.paint((16, rows.min(), column), desk.object_id)
    dock.tabs.setCurrentIndex(dock.tabs.count() - 1)
    desk.set_span(10, 24)
    dock.session.correct.spread()
    wait(lambda: not dock.session.correct.job.busy, 120)
    desk.go_to(19)
    take(viewer, to / "correct.png")
    dock.session.correct.discard()
    desk.set_span(None, None)
    dock.tabs.setCurrentIndex(0)


def picking(viewer: napari.Viewer, dock: SegmentDock, clip: SynthClip, to: Path) -> None:
    """Take a picture of the page Pick: an object that two clicks mean, before it is kept."""
    desk, pick = dock.session.desk, dock.session.pick
    desk.go_to(16)
    dock.tabs.setCurrentIndex([dock.tabs.tabText(i) for i in range(5)].index("Pick"))
    pick.choose(target=Target.NEW)
    pick.start()
    rows, columns = np.nonzero(clip.target(next(e for e in clip.expressions if e.objects))[16])
    pick.add(Mark.point(float(np.median(columns)), float(np.median(rows))))
    wait(lambda: pick.preview is not None and not pick.job.busy, 120)
    wrong = np.argwhere(pick.preview.found & ~clip.masks[:, 16].any(0))
    y, x = wrong[len(wrong) // 2] if len(wrong) else (10, 10)
    pick.add(Mark.point(float(x), float(y), False))
    settle(0.5)
    wait(lambda: not pick.job.busy, 120)
    take(viewer, to / "pick.png")
    pick.discard()
    pick.choose(target=Target.CHOSEN)
    pick.stop()
    dock.tabs.setCurrentIndex(0)


def improving(home: Path, to: Path) -> None:
    """Take a picture of the page that trains; `home` holds a training, run or running."""
    os.environ["FLOWRVS_HOME"] = str(home)
    get_settings().appearance.theme = "dark"
    viewer = napari.Viewer(show=True, title="napari", show_welcome_screen=False)
    viewer.window._qt_window.resize(1100, 860)
    for data, meta, _ in sample_clip("moving shapes", SHAPES_SEED):
        viewer.add_image(data, **meta)
    panel = ImprovePanel(viewer)
    panel.trainings.setCurrentIndex(1)
    name = "Improve the model with my corrections"
    holder = viewer.window.add_dock_widget(panel, name=name, area="right")
    viewer.window._qt_window.resizeDocks([holder], [360], _horizontal())
    settle(1.5)
    viewer.reset_view()
    take(viewer, to / "improve.png")
    viewer.close()


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, default=Path(__file__).parent / "images")
    parser.add_argument("--fake", action="store_true", help="truth instead of the model tiny")
    parser.add_argument("--trained", type=Path, metavar="DIR", help="draw the page that trains")
    args = parser.parse_args()
    args.to.mkdir(parents=True, exist_ok=True)
    if args.trained is not None:
        improving((args.trained / "home").absolute(), args.to)
        return
    clip = generate_clip(SHAPES_SEED, lookalikes=0.0)

    def fake(model: str, device: str) -> TruthSegmenter:
        locate(model)
        return TruthSegmenter(clip)

    load = fake if args.fake else load_segmenter
    texts = different(clip)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for theme in ("dark", "light"):
            # The clip is an array: its project goes to the user's data folder.
            os.environ["XDG_DATA_HOME"] = str(home / theme)
            viewer, dock, holder = session(load, theme, home)
            viewer.window._qt_window.resizeDocks([holder], [300], _horizontal())
            if theme == "light":
                by_hand(viewer, dock, clip, args.to)
                viewer.close()
                continue
            dock.find.sentences.set_texts(texts)
            settle()
            viewer.dims.set_current_step(0, 4)
            catch_running(viewer, dock, args.to / "running.png")
            dock.find.run_button.setFocus()
            dock.find.run()
            wait(lambda d=dock: not d.session.segment.job.busy and not d.link.waiting)
            viewer.dims.set_current_step(0, 16)
            take(viewer, args.to / "finished.png")
            annotate(viewer, dock, args.to)
            picking(viewer, dock, clip, args.to)
            dialog = show_export(viewer, viewer.window._qt_window)
            dialog.to.line_edit.value = "~/datasets/shapes"
            settle()
            dialog.grab().save(str(args.to / "export.png"))
            dialog.close()
            viewer.close()


def _horizontal() -> Any:
    from qtpy.QtCore import Qt

    return Qt.Orientation.Horizontal


if __name__ == "__main__":
    main()
