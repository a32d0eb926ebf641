"""How long the interface is held up: by playing, and by everything in the dock.

``python benchmarks/bench_gui.py [plain] [play] [desk] [long] [pick]`` needs a screen (under Linux
``xvfb-run -a -s "-screen 0 1280x1024x24"``) and prints milliseconds by which the event loop was
late, as median, 95th percentile and largest; in brackets, how much of that the interface's
thread was computing, which does not depend on what else the machine does. Of the largest it says
whose code that was: napari's (vispy's, too), ours, Qt's (its own drawing), Python's collection of
garbage, and what was waited (for a lock, the interpreter, or a processor). Where napari alone was
measured doing the same (``plain``), its figures stand beside. At the end all lines are told whose
largest was above 50 ms, those first of which most is ours.

- ``play``: a second of video at 25 frames a second, 480 x 832 and 1080 x 1920, with one and
  with five layers of masks, idle and while a model writes masks, against napari alone with the
  same pictures and masks as numpy arrays;
- ``plain``: what a person does in napari without the plugin;
- ``desk``: what a person does in the dock, on 3000 frames with 20 objects and 30 sentences;
- ``long``: the same on 108 000 frames with 3 objects;
- ``pick``: marks and a spread by memory with a tracker of SAM 2.1's class, small and random
  (``models`` must be installed), the same without one, and scissors at 1080 x 1920.

With ``--stacks`` it also prints what ran on the interface's thread while that was late.
``--busy`` is for a machine that does other things: what was computed longest counts, not what took
longest by the clock.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import napari
import numpy as np
from lateness import Acting, Gap, Watchdog, count_computing, now, since, summarise, told, wait
from qtpy.QtCore import QTimer

from flowrvs.records import VideoInfo
from flowrvs.store import Project
from flowrvs.video import open_video
from napari_flowrvs.ahead import import_ahead
from napari_flowrvs.dock import SegmentDock
from napari_flowrvs.layers import label_layer, video_layer
from napari_flowrvs.projects import open_projects
from napari_flowrvs.recent import Recent

RATE = 25.0


# -- projects ----------------------------------------------------------------------------


def _picture(height: int, width: int) -> Any:
    rows, columns = np.ogrid[:height, :width]
    red = np.broadcast_to(rows * 255 // height, (height, width))
    green = np.broadcast_to(columns * 255 // width, (height, width))
    return np.dstack([red, green, (rows + columns) % 256]).astype(np.uint8)


def _movie(path: Path, frames: int, height: int, width: int) -> Path:
    """A picture that rolls, as an H.264 file."""
    import av

    picture = _picture(height, width)
    with av.open(str(path), "w") as container:
        options = {"preset": "ultrafast", "g": "48"}
        stream = container.add_stream("libx264", rate=int(RATE), options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for t in range(frames):
            rolled = np.roll(picture, 7 * t, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rolled, format="rgb24")))
        container.mux(stream.encode())
    return path


def _mask(t: int, i: int, height: int, width: int) -> Any:
    """A disc that moves; every object has its own way."""
    rows, columns = np.ogrid[:height, :width]
    y = height * (0.2 + 0.6 * ((0.37 * i + t / 400) % 1))
    x = width * (0.2 + 0.6 * ((0.61 * i + t / 250) % 1))
    return (rows - y) ** 2 + (columns - x) ** 2 < (0.12 * height) ** 2


def _draw(project: Project, object_id: int, start: int, stop: int) -> None:
    _, height, width = project.video.frame_count, project.video.height, project.video.width
    layer = project.objects[object_id].layer
    for t in range(start, stop, 25):
        masks = [_mask(u, object_id, height, width) for u in range(t, min(t + 25, stop))]
        project.write_model(layer, object_id, t, np.stack(masks))


# -- the interface -----------------------------------------------------------------------


def _load(model: str, device: str, **_: object) -> Any:
    raise NotImplementedError("no model runs here")


@contextlib.contextmanager
def desk(project: Project, video: Any) -> Iterator[tuple[Any, SegmentDock]]:
    """A viewer that shows a project, with the dock."""
    viewer = napari.Viewer(show=True)
    with tempfile.TemporaryDirectory() as home:
        dock = SegmentDock(viewer, load=_load, recent=Recent(Path(home) / "memory.json"))
        viewer.window.add_dock_widget(dock, name="Segment")
        for data, meta, kind in [video_layer(video)] + [
            label_layer(project, layer_id) for layer_id in project.layers
        ]:
            dock.link.add((data, meta, kind))
        wait(0.5)
        try:
            yield viewer, dock
        finally:
            viewer.close()
            wait(0.3)


def _timed(viewer: Any) -> list[Gap]:
    """Note how long each drawing of the canvas takes."""
    canvas = viewer.window._qt_viewer.canvas._scene_canvas
    took: list[Gap] = []
    draw = canvas.on_draw

    def on_draw(event: Any) -> None:
        start = now()
        draw(event)
        took.append(Gap(*since(start)))

    canvas.events.draw.disconnect(draw)
    canvas.events.draw.connect(on_draw)
    return took


class Stream:
    """Masks of a model that come into a layer while something else goes on."""

    def __init__(self, project: Project, object_id: int, on: bool = True) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(project, object_id))
        self._on = on

    def _run(self, project: Project, object_id: int) -> None:
        height, width = project.video.height, project.video.width
        layer, t = project.objects[object_id].layer, 0
        masks = np.stack([_mask(u, object_id, height, width) for u in range(25)])
        while not self._stop.is_set():
            project.write_model(layer, object_id, t, masks)
            t = (t + 25) % (project.video.frame_count - 25)
            self._stop.wait(0.2)

    def __enter__(self) -> None:
        if self._on:
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._on:
            self._thread.join()


# -- playing -----------------------------------------------------------------------------


SIZES = ((480, 832), (1080, 1920))


def play(folder: Path, dog: Watchdog, seconds: float = 3.0) -> None:
    """Print what playing costs."""
    for height, width in SIZES:
        movie = _movie(folder / f"{height}.mp4", 200, height, width)
        for layers in (1, 5):
            print(f"-- {height} x {width}, {layers} layers of masks, 25 frames a second")
            _play_plain(height, width, layers, dog, seconds)
            path = folder / f"{height}-{layers}.flowrvs"
            video = open_video(movie)
            project = open_projects.ensure(path, video.info)
            for i in range(layers):
                _, thing = project.add_prompt(f"object {i + 1}")
                _draw(project, thing.id, 0, 200)
            project.flush()
            with desk(project, video) as (viewer, dock):
                for onion in (False, True):
                    for busy in (False, True):
                        if onion:
                            dock.footer.transport.onion.show(True)
                        words = "outlines" * onion + ", " * (onion and busy) + "masks come" * busy
                        _play_ours(viewer, dock, dog, seconds, words or "idle", project, busy)
                    dock.footer.transport.onion.show(False)
            open_projects.close(project)
            video.close()


def _play_plain(height: int, width: int, layers: int, dog: Watchdog, seconds: float) -> None:
    viewer = napari.Viewer(show=True)
    picture = _picture(height, width)
    frames = np.stack([np.roll(picture, 7 * t, axis=1) for t in range(50)])
    viewer.add_image(frames, rgb=True)
    for i in range(1, layers + 1):
        masks = np.stack([i * _mask(t, i, height, width).astype(np.uint16) for t in range(50)])
        viewer.add_labels(masks, colormap={None: "gray", 0: "transparent", i: "red"})
    drawn = _timed(viewer)
    wait(0.5)
    drawn.clear()
    ticks: list[Gap] = []

    def tick() -> None:
        start = now()
        viewer.dims.set_point(0, (viewer.dims.current_step[0] + 1) % 50)
        ticks.append(Gap(*since(start)))

    timer = QTimer()
    timer.setInterval(round(1e3 / RATE))
    timer.timeout.connect(tick)
    dog.start()
    timer.start()
    wait(seconds)
    timer.stop()
    gaps = [gap for gap in dog.gaps if gap.clock > 0.001]
    told(f"napari alone: a tick ({len(ticks) / seconds:.0f} a second)", ticks)
    told("napari alone: a drawing", drawn)
    told("napari alone: late by", gaps)
    dog.say()
    viewer.close()
    wait(0.3)


def _play_ours(
    viewer: Any,
    dock: SegmentDock,
    dog: Watchdog,
    seconds: float,
    words: str,
    project: Project,
    busy: bool,
) -> None:
    drawn = _timed(viewer)
    player = dock.footer.transport.player
    ticks: list[Gap] = []
    shown: list[int] = []
    inner = player.tick

    def tick() -> float | None:
        start, before = now(), dock.session.desk.frame
        again = inner()
        if dock.session.desk.frame != before:
            ticks.append(Gap(*since(start)))
            shown.append(dock.session.desk.frame)
        return again

    player.tick = tick  # type: ignore[method-assign]
    dock.session.desk.go_to(0)
    wait(0.3)
    drawn.clear()
    with Stream(project, min(project.objects), busy):
        dog.start()
        player.start()
        wait(seconds)
        player.stop()
        gaps = [gap for gap in dog.gaps if gap.clock > 0.001]
    del player.tick
    told(f"{words}: a tick ({len(shown) / seconds:.0f} a second)", ticks)
    told(f"{words}: a drawing", drawn)
    told(f"{words}: late by", gaps)
    dog.say()
    wait(0.3)


# -- the dock ----------------------------------------------------------------------------


def _annotated(folder: Path, frames: int, objects: int, sentences: int) -> Path:
    """A project of 480 x 832: two objects on half of 3000 frames, the others on a few."""
    path = folder / f"{frames}.flowrvs"
    if path.exists():
        return path
    with Project.create(path, VideoInfo(None, "array", frames, 480, 832, RATE)) as project:
        layers: list[int] = []
        for i in range(objects):
            if i < max(2, objects // 5):
                layers.append(project.add_prompt(f"the object number {i + 1}")[1].layer)
            else:
                project.add_object(f"object {i + 1}", layers[i % len(layers)])
        known = sorted(project.objects)
        for i in range(len(project.expressions), sentences):
            project.add_expression(f"sentence {i + 1}, about some of them", known[i % 3 :: 3])
        second = next(i for i in known[1:] if project.objects[i].layer == layers[0] or i == 2)
        for object_id in known:
            many = min(1500, frames) if object_id in (known[0], second) else 60
            _draw(project, object_id, 0, many)
            project.accept_frames(object_id, many // 2, many)
    return path


def annotate(folder: Path, dog: Watchdog, frames: int = 3000, objects: int = 20) -> None:
    """Print what a person triggers in the dock holds up."""
    sentences = 30 if objects > 10 else 5
    print(f"-- the dock: {frames} frames of 480 x 832, {objects} objects, {sentences} sentences")
    made = _annotated(folder, frames, objects, sentences)
    home = tempfile.TemporaryDirectory()
    path = Path(shutil.copytree(made, Path(home.name) / made.name))
    acting = Acting(dog)
    video = open_video(np.broadcast_to(_picture(480, 832), (frames, 480, 832, 3)))
    viewer = napari.Viewer(show=True)
    dock = SegmentDock(viewer, load=_load, recent=Recent(Path(home.name) / "memory.json"))
    viewer.window.add_dock_widget(dock, name="Segment")
    dock.link.add(video_layer(video))
    wait(0.5)
    idle = lambda: not (dock.session.opener.job.busy or dock.link.waiting)  # noqa: E731
    acting(
        "opening the project", lambda i: dock.head.open_path(path), 1, idle, alone="adding a layer"
    )
    project = open_projects.get(path)
    assert project is not None and dock.session.desk.project is project
    _look(viewer, dock, acting, project)
    _change(viewer, dock, acting, project)
    acting("closing the window", lambda i: viewer.window._qt_window.close(), 1)
    acting("removing everything from it", lambda i: _close(viewer), 1)
    open_projects.close(project)
    video.close()
    home.cleanup()


def plain(dog: Watchdog, layers: int = 4) -> None:
    """Print the same of napari without the plugin: arrays in memory, as many layers."""
    print(f"-- napari alone: 100 frames of 480 x 832, {layers} layers of labels")
    acting = Acting(dog, alone=True)
    viewer = napari.Viewer(show=True)
    picture = np.broadcast_to(_picture(480, 832), (100, 480, 832, 3))
    viewer.add_image(picture, rgb=True)
    wait(0.5)
    masks = [np.stack([i * _mask(t, i, 480, 832) for t in range(100)]) for i in range(1, 9)]
    colors = {None: "gray", 0: "transparent", **dict.fromkeys(range(1, 9), "red")}
    added = [
        lambda i, n=n: viewer.add_labels(masks[n].astype(np.uint16), colormap=colors)
        for n in range(layers)
    ]
    for each in added:
        acting("adding a layer", each, 1)
    rng, select = np.random.default_rng(0), viewer.layers.selection
    acting("one frame on", lambda i: viewer.dims.set_point(0, i + 1), 20, rest=0.15)
    acting("scrubbing", lambda i: viewer.dims.set_point(0, rng.integers(100)), 30, rest=0.08)
    acting("another layer", lambda i: setattr(select, "active", viewer.layers[1 + i % layers]))
    layer = viewer.layers[1]
    acting("other colours", lambda i: setattr(layer, "colormap", {**colors, 9 + i: "blue"}), 3)
    acting("drawing a layer anew", lambda i: layer.refresh())

    def stroke(i: int) -> None:
        with layer.block_history():
            layer._draw(1, (3, 50 + 20 * i, 100), (3, 50 + 20 * i, 400))

    layer.mode, layer.brush_size = "paint", 20
    acting("a stroke of 300 pixels", stroke)
    acting("undoing it", lambda i: layer.undo())
    acting("removing a layer", lambda i: viewer.layers.remove(layer), 1)
    acting("closing the window", lambda i: viewer.window._qt_window.close(), 1)
    acting("removing everything from it", lambda i: _close(viewer), 1)


def _close(viewer: Any) -> None:
    """Remove everything from a viewer, whose window may have gone with its own closing."""
    with contextlib.suppress(RuntimeError):
        viewer.close()


def _look(viewer: Any, dock: SegmentDock, acting: Acting, project: Project) -> None:
    """Everything that changes no mask."""
    desk, known, frames = dock.session.desk, sorted(project.objects), project.video.frame_count
    rng = np.random.default_rng(0)
    for page in (1, 2, 3, 0, 1):
        acting(f"the page {dock.tabs.tabText(page)}", lambda i, page=page: _turn(dock, page), 2)
    chosen = lambda i: desk.choose(known[i % len(known)])  # noqa: E731
    acting("choosing an object", chosen, alone="another layer")
    texts = list(project.expressions)
    acting("a sentence", lambda i: dock.session.objects.choose_expression(texts[i % len(texts)]))
    acting("one frame on", lambda i: desk.step(1), 20, rest=0.15)
    acting("scrubbing", lambda i: desk.go_to(int(rng.integers(frames))), 30, rest=0.08)
    labels = dock.link.project_layers(project)
    select = viewer.layers.selection
    acting("another layer", lambda i: setattr(select, "active", labels[i % len(labels)]))
    acting("the strip, drawn anew", lambda i: desk.touched(None, 0, frames))
    desk.choose(known[0])
    desk.go_to(10)
    with Stream(project, known[-1]):
        acting("masks come for three seconds", lambda i: None, 1, rest=3.0)
        _turn(dock, 2)
        acting("and the page Review is shown", lambda i: None, 1, rest=3.0)
    _turn(dock, 1)
    acting("play, and stop", lambda i: dock.footer.transport.player.toggle(), 6)
    acting("outlines, and none", lambda i: dock.footer.transport.toggle_onion(), 6)


def _turn(dock: SegmentDock, page: int) -> None:
    dock.tabs.setCurrentIndex(page)


def _change(viewer: Any, dock: SegmentDock, acting: Acting, project: Project) -> None:
    """Everything that changes the project."""
    desk, known, frames = dock.session.desk, sorted(project.objects), project.video.frame_count
    steps, things, history = dock.session.steps, dock.session.objects, dock.session.history
    done = lambda: not steps.busy and not dock.session.correct.job.busy  # noqa: E731
    desk.choose(known[0])
    desk.go_to(10)
    layer = dock.link.layer_of(known[0])
    assert layer is not None
    layer.mode, layer.brush_size = "paint", 20

    def stroke(i: int) -> None:
        with layer.block_history():
            layer._draw(known[0], (desk.frame, 50 + 20 * i, 100), (desk.frame, 50 + 20 * i, 400))

    acting("a stroke of 300 pixels", stroke)
    acting("undoing it", lambda i: history.undo(), 10, done)
    acting("doing it again", lambda i: history.redo(), 10, done, alone="undoing it")
    layer.mode = "pan_zoom"
    accept = lambda i: dock.session.review.accept()  # noqa: E731
    acting("accepting a frame, and going on", accept, 10, done, alone="one frame on")
    desk.set_span(0, frames)
    acting(
        "locking, unlocking all frames", lambda i: (things.lock, things.unlock)[i % 2](), 4, done
    )
    acting(
        "accepting up to here",
        lambda i: (desk.go_to(frames - 1), dock.session.review.accept_here()),
        2,
        done,
    )
    acting("undoing that", lambda i: history.undo(), 2, done)
    desk.go_to(100)
    desk.set_span(0, min(frames, 1000))

    def spread(i: int) -> None:
        if i % 2:
            start = time.perf_counter()
            dock.session.correct.job.cancel()
            wait(120.0, done)
            print(f"   stopped within {1e3 * (time.perf_counter() - start):.0f} ms")
            dock.session.correct.discard()
        else:
            dock.session.correct.interpolate()

    acting("a preview over 1000 frames, and its end", spread, 4, rest=1.0)
    acting("deleting an object, stopped", lambda i: _stopped(things.delete, steps.job), 2, done)
    for word, act in (
        ("absent on half of its frames", lambda: things.absent()),
        ("swapping two objects", lambda: things.swap(_other(dock))),
        ("merging two objects", lambda: things.merge(_other(dock))),
    ):
        desk.choose(known[0])
        desk.go_to(0)
        acting(f"{word}", lambda i, act=act: act(), 1, done)
        acting("undoing that", lambda i: history.undo(), 1, done)
    acting("undoing, stopped", lambda i: _stopped(history.undo, steps.job), 1, done)


def _other(dock: SegmentDock) -> int:
    project, mine = dock.session.desk.project, dock.session.desk.object_id
    assert project is not None
    return max((i for i in project.objects if i != mine), key=lambda i: project.counts(i).present)


def _stopped(action: Callable[[], object], job: Any) -> None:
    action()
    wait(0.6)
    start = time.perf_counter()
    job.cancel()
    wait(60.0, lambda: not job.busy)
    print(f"   stopped within {1e3 * (time.perf_counter() - start):.0f} ms")


# -- picking -----------------------------------------------------------------------------


def pick(folder: Path, dog: Watchdog, frames: int = 60) -> None:
    """Print what marks, a spread by memory and scissors hold up."""
    for height, width, name in ((480, 832, "classical"), (480, 832, "sam2"), (1080, 1920, "")):
        print(f"-- picking: {frames} frames of {height} x {width}, {name or 'scissors'}")
        picture = _picture(height, width)
        rolled = np.stack([np.roll(picture, 5 * t, axis=1) for t in range(frames)])
        path, video = folder / f"pick-{height}-{name}.flowrvs", open_video(rolled)
        shutil.rmtree(path, ignore_errors=True)
        project = open_projects.ensure(path, video.info)
        project.add_prompt("a thing")
        with desk(project, video) as (_, dock):
            _pick(dock, Acting(dog), name, height / 2, width / 3)
        open_projects.close(project)
        video.close()


def _pick(dock: SegmentDock, acting: Acting, name: str, y: float, x: float) -> None:
    from flowrvs.editing.pick import Mark

    desk, marks, correct = dock.session.desk, dock.session.pick, dock.session.correct
    rest = lambda: not any(job.busy for job in dock.session.jobs())  # noqa: E731
    marks.trackers._load = _random_tracker
    if name == "sam2":
        thread = import_ahead("flowrvs.models.sam2")
        nothing = lambda i: None  # noqa: E731
        acting("torch is imported ahead", nothing, 1, lambda: not thread.is_alive())
        marks.trackers.known[name] = True
        marks.trackers.choose(name)
    desk.choose(1)
    _turn(dock, 1)
    acting("taking the tool up", lambda i: marks.start(), 1, rest)
    if not name:
        acting("a corner", lambda i: marks.corner(x + 20 * i, y + 30 * i), 5, rest)
        hover = lambda i: marks.hover(x + 80 + 3 * i, y + 120)  # noqa: E731
        acting("the mouse moves, and the wire with it", hover, 40, rest=0.05)
        return
    acting("another frame", lambda i: desk.go_to(5 * i), 4, rest, rest=1.0)
    click = lambda i: marks.add(Mark.point(x + 9 * i, y, i % 2 == 0))  # noqa: E731
    acting("a click", click, 8, rest)
    acting("keeping what it means", lambda i: marks.keep(), 1, rest)
    marks.stop()
    _turn(dock, 4)
    acting("a spread to all frames", lambda i: correct.spread(), 1, rest)
    acting("keeping it", lambda i: correct.keep(), 1, rest)


def _random_tracker(name: str) -> Any:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from flowrvs.models.sam2 import Sam2Tracker
    from tests.fixtures.sam_models import random_model

    return Sam2Tracker(random_model("sam2"), name, (0.5,) * 3, (0.5,) * 3)


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", nargs="*", default=["plain", "play", "desk", "long", "pick"])
    parser.add_argument("--stacks", action="store_true", help="say what was waited for")
    parser.add_argument("--busy", action="store_true", help="count what was computed")
    parser.add_argument("--keep", type=Path, help="keep projects in this folder, and use them")
    options = parser.parse_args()
    if options.busy:
        count_computing()
    application = napari.qt.get_qapp()
    dog = Watchdog(options.stacks)
    doing: dict[str, Callable[[Path], None]] = {
        "play": lambda folder: play(folder, dog),
        "plain": lambda _: plain(dog),
        "desk": lambda folder: annotate(folder, dog),
        "long": lambda folder: annotate(folder, dog, 108_000, 3),
        "pick": lambda folder: pick(folder, dog),
    }
    try:
        with tempfile.TemporaryDirectory() as folder:
            for what in options.what:
                doing[what](options.keep or Path(folder))
    finally:
        dog.stop()
        summarise()
    open_projects.close_all()
    application.processEvents()


if __name__ == "__main__":
    main()
