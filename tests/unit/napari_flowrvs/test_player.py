"""Playing and the ghosts of neighbouring frames, without a screen."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from flowrvs.records import VideoInfo
from flowrvs.video import open_video
from napari_flowrvs.bridge import Bridge
from napari_flowrvs.desk import Desk
from napari_flowrvs.layers import label_layer
from napari_flowrvs.overlays import NeighbourOutlines, PreviewLabels, dots, outline, stamp
from napari_flowrvs.projects import open_projects
from napari_flowrvs.source import ShownVideo
from napari_flowrvs.transport.panel import OnionSkin, Transport
from napari_flowrvs.transport.presenter import Player
from napari_flowrvs.viewer import ViewerLink
from napari_flowrvs.widgets.keys import Commands


class Clock:
    """A clock that moves when it is told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def make(frames: int = 50, rate: float | None = 25.0) -> tuple[Desk, Player, Clock]:
    desk, clock = Desk(), Clock()
    desk.set_video(frames, rate)
    desk.frame_requested.connect(desk.set_frame)
    return desk, Player(desk, clock), clock


def test_it_keeps_the_beat_and_leaves_frames_out() -> None:
    desk, player, clock = make()
    player.start()
    wait = player.tick()
    assert desk.frame == 0 and wait == pytest.approx(0.04, abs=0.001)
    clock.now += 0.041
    player.tick()
    assert desk.frame == 1
    clock.now += 0.4  # something else took its time: ten frames are left out
    player.tick()
    assert desk.frame == 11


def test_a_slow_frame_leaves_time_for_everything_else() -> None:
    desk, player, clock = make()

    def slow(frame: int) -> None:
        clock.now += 0.1

    desk.frame_requested.connect(slow)
    player.start()
    clock.now += 0.04
    assert player.tick() == pytest.approx(0.1)


def test_slow_drawing_leaves_time_for_everything_else() -> None:
    desk, player, clock = make(200)
    player.start()
    frames = []
    for _ in range(10):  # every drawing takes a tenth of a second after the tick
        wait = player.tick()
        assert wait is not None
        frames.append(desk.frame)
        clock.now += max(wait, 0.1)
        frames.append(round((clock.now - 100) * 25))
    shown, due = frames[0::2], frames[1::2]
    assert all(0 < b - a <= 8 for a, b in zip(shown, shown[1:], strict=False)), shown
    assert all(abs(a - b) <= 1 for a, b in zip(shown[1:], due, strict=False)), "in time"
    wait = player.tick()
    assert wait is not None and wait >= 0.04
    clock.now += wait + 0.06
    assert player.tick() == pytest.approx(0.06, abs=0.001)


def test_it_stops_at_the_end_and_begins_again() -> None:
    desk, player, clock = make()
    heard: list[bool] = []
    player.playing_changed.connect(heard.append)
    desk.set_frame(48)
    player.toggle()
    clock.now += 10
    assert player.tick() is None
    assert desk.frame == 49 and heard == [True, False]
    player.toggle()
    player.tick()
    assert desk.frame == 0
    player.toggle()
    assert not player.playing and player.tick() is None


def test_a_range_is_repeated() -> None:
    desk, player, clock = make()
    desk.set_span(10, 20)
    player.start()
    player.tick()
    assert desk.frame == 10
    clock.now += 0.41
    player.tick()
    assert desk.frame == 10 and player.playing
    clock.now += 0.041
    player.tick()
    assert desk.frame == 11


def test_nothing_is_played_without_frames() -> None:
    _, player, _ = make(1, None)
    player.start()
    assert not player.playing and player.rate == 10


def test_outlines_of_the_neighbours() -> None:
    labels = np.zeros((4, 8, 9), np.uint16)
    labels[0, 1:6, 1:6] = 3
    labels[2, 2:7, 3:8] = 3
    labels[2, 0, 0] = 4
    ghosts = NeighbourOutlines(labels, 3)
    assert np.array_equal(outline(labels[0] == 3).sum(), 16)
    both = ghosts.frame(1)
    assert both[1, 1] == 1 and both[2, 3] == 2 and both[3, 4] == 0 and both[0, 0] == 0
    assert [ghosts.frame(t).max() for t in (0, 2, 3)] == [0, 0, 1]


def test_an_object_at_the_border_keeps_its_outline_there() -> None:
    whole = np.ones((5, 6), bool)
    assert outline(whole).sum() == 18


def test_a_preview_shows_what_is_ready() -> None:
    masks = np.zeros((10, 8, 9), bool)
    masks[4, 1:6, 1:6] = True
    preview = PreviewLabels(masks.shape[1:], lambda t: masks[t])
    assert not preview.frame(4).any()
    preview.ready.add(4)
    frame = preview.frame(4)
    assert np.array_equal(frame > 0, masks[4]) and np.bincount(frame.ravel())[2] == 16


def test_a_shown_video_is_the_video(shapes_frames: Any) -> None:
    with open_video(shapes_frames) as video:
        shown = ShownVideo(video)
        assert shown.shape == shapes_frames.shape and shown.dtype == np.uint8
        assert shown.size == shown.nbytes == shapes_frames.size and len(shown) == 12
        for key in (
            *(3, np.int64(3), -1, (3, slice(4, 9)), (slice(2, 3), slice(None), 5), slice(2, 7)),
            *((slice(None, None, 5), slice(None), slice(None), 0), (Ellipsis, 1), [2, 4]),
            (slice(3, 4), slice(None), slice(None), slice(None)),
        ):
            assert np.array_equal(np.asarray(shown[key]), shapes_frames[key]), key
        assert np.array_equal(np.asarray(shown), shapes_frames)


def test_frames_that_are_held_are_read_once(shapes_frames: Any) -> None:
    asked: list[int] = []

    class Counting:
        shape, dtype, ndim = shapes_frames.shape, shapes_frames.dtype, 4

        def __getitem__(self, key: Any) -> Any:
            first = key[0] if isinstance(key, tuple) else key
            asked.append(first.start if isinstance(first, slice) else int(first))
            return shapes_frames[key]

    with open_video(Counting()) as video:
        shown = ShownVideo(video)
        asked.clear()
        for t in (4, 5):
            shown.hold(t)
        assert asked == [4, 5]
        assert np.array_equal(shown[4], shapes_frames[4])
        assert np.array_equal(shown[5, :, :, 1], shapes_frames[5, ..., 1])
        assert asked == [4, 5], "they are at hand"
        shown.let_go({4})
        assert np.array_equal(shown[5], shapes_frames[5]) and asked == [4, 5], "shown last"
        shown[4], shown[5]
        assert asked == [4, 5, 5]


def test_a_video_in_the_viewer_is_read_on_the_thread_that_shows_it(shapes_frames: Any) -> None:
    asked: list[threading.Thread] = []

    class Asked:
        shape, dtype, ndim = shapes_frames.shape, shapes_frames.dtype, 4

        def __getitem__(self, key: Any) -> Any:
            asked.append(threading.current_thread())
            return shapes_frames[key]

    viewer = ViewerModel()
    with open_video(Asked()) as video:
        layer = viewer.add_image(ShownVideo(video), rgb=True, cache=False)
        asked.clear()
        viewer.dims.set_point(0, 7)
        assert asked and set(asked) == {threading.current_thread()}
        assert np.array_equal(layer._slice.image.raw, shapes_frames[7])


def test_outlines_follow_the_object_and_are_no_layer(tmp_path: Path) -> None:
    viewer, desk = ViewerModel(), Desk()
    link = ViewerLink(viewer, desk, Bridge(desk), lambda back: None)
    project = open_projects.ensure(tmp_path / "clip.flowrvs", VideoInfo(None, "array", 5, 8, 9))
    one = project.add_prompt("one")[1]
    two = project.add_prompt("two")[1]
    masks = np.zeros((5, 8, 9), bool)
    masks[:, 1:4, 1:4] = True
    project.write_model(one.layer, one.id, 0, masks)
    project.write_model(two.layer, two.id, 0, masks[:, ::-1])
    for layer_id in project.layers:
        link.add(label_layer(project, layer_id))
    onion = OnionSkin(link)
    desk.set_object(one.id)
    onion.show(True)
    assert onion.overlay.data is not None and len(viewer.layers) == 2
    before = onion.overlay.data.frame(2)
    assert before.any()
    desk.set_object(two.id)
    np.testing.assert_array_equal(onion.overlay.data.frame(2), before[::-1])
    desk.set_object(None)
    assert not onion.on, "it holds no project any more"
    desk.set_object(one.id)
    assert not onion.on, "they come when they are asked for"
    onion.show(True)
    np.testing.assert_array_equal(onion.overlay.data.frame(2), before)
    onion.overlay.close()
    assert not onion.on
    desk.set_frame(3)
    viewer.dims.ndisplay = 3


def test_dots_along_a_way_and_discs_around_points() -> None:
    way = np.array([[0.0, 0], [10, 0], [10, 5]])
    wanted = [[0, 0], [3.75, 0], [7.5, 0], [10, 1.25], [10, 5]]
    np.testing.assert_allclose(dots(way, 5), wanted)
    drawn = np.zeros((5, 6), np.uint8)
    stamp(drawn, [(2.7, 1.2)], 1.5, 4)
    wanted = np.zeros((5, 6), np.uint8)
    wanted[0:3, 1:4] = 4
    np.testing.assert_array_equal(drawn, wanted)
    stamp(drawn, [(5, 4), (0, 4)], 2, 7)  # at the border
    wanted[3:, 4:] = wanted[3:, :2] = 7
    np.testing.assert_array_equal(drawn, wanted)
    stamp(drawn, [(3, 3)], 1, 9)
    wanted[3, 3] = 9
    np.testing.assert_array_equal(drawn, wanted)


def test_what_is_drawn_over_a_preview_is_of_a_frame_that_is_ready() -> None:
    mask = np.zeros((6, 9), bool)
    mask[2:6, 3:8] = True
    drawn: list[int] = []

    def draw(t: int, out: Any) -> None:
        drawn.append(t)
        out[0, 0] = 5

    preview = PreviewLabels((6, 9), lambda t: mask, draw)
    preview.ready.add(2)
    assert not preview.frame(1).any() and drawn == []
    wanted = mask.astype(np.uint8) * 2
    wanted[3:5, 4:7] = 1
    wanted[0, 0] = 5
    np.testing.assert_array_equal(preview.frame(2), wanted)
    mask[:] = False
    assert preview.frame(2).sum() == 5 and drawn == [2, 2]


class Ahead:
    """What is read before it is due, as the test says."""

    def __init__(self) -> None:
        self.ready: int | None = 0
        self.calls: list[Any] = []

    def start(self) -> None:
        self.calls.append("start")

    def close(self) -> None:
        self.calls.append("close")

    def want(self, due: int, start: int, stop: int, *, repeat: bool) -> None:
        self.calls.append((due, start, stop, repeat))

    def reached(self, due: int, floor: int) -> int | None:
        self.calls.append((due, floor))
        return self.ready


def test_what_was_not_read_yet_is_waited_for() -> None:
    desk, clock, ahead = Desk(), Clock(), Ahead()
    desk.set_video(50, 25.0)
    desk.frame_requested.connect(desk.set_frame)
    player = Player(desk, clock, ahead)  # type: ignore[arg-type]
    heard: list[bool] = []
    player.playing_changed.connect(heard.append)

    def tick(seconds: float = 0.0) -> Any:
        clock.now += seconds
        ahead.calls.clear()
        return player.tick()

    desk.set_frame(45)
    player.start()
    player.start()
    assert ahead.calls == ["start"] and heard == [True], "it plays already"
    ahead.ready = None
    assert tick(0.09) == 0.005 and desk.frame == 45
    assert ahead.calls == [(47, 0, 50, False), (47, 45)]
    ahead.ready = 46
    assert tick() == pytest.approx(0.03025) and desk.frame == 46
    desk.set_frame(48)
    tick()
    assert ahead.calls[1] == (47, 0), "somebody went on meanwhile"
    ahead.ready = 48
    assert tick(0.5) == 0.005 and desk.frame == 46, "the last frame is shown before it stops"
    assert ahead.calls == [(49, 0, 50, False), (49, 46)]
    ahead.ready = 49
    assert tick() is None and desk.frame == 49 and heard == [True, False]
    assert ahead.calls[-1] == "close"
    player.stop()
    assert ahead.calls.count("close") == 1 and tick() is None and ahead.calls == []
    desk.set_span(10, 20)
    for frame, first in ((5, 10), (10, 10), (18, 18), (19, 10), (20, 10), (30, 10)):
        desk.set_frame(frame)
        player.start()
        ahead.ready = first
        tick()
        assert ahead.calls[0] == (first, 10, 20, True), frame
    desk.set_span(10, 12)
    desk.set_project(None)
    assert player.playing
    desk.project_changed.emit(None)
    assert not player.playing, "another project is not played"


def test_how_late_it_may_be() -> None:
    desk, player, clock = make(1000)
    player.start()
    wait = player.tick()
    clock.now += wait + 9.0  # the machine slept
    assert player.tick() == pytest.approx(0.25)
    assert player.tick() == pytest.approx(0.035, abs=0.01), "it is called early, and not late"


def test_the_row_of_buttons(tmp_path: Path, qtbot: Any) -> None:
    viewer, desk = ViewerModel(), Desk()
    link = ViewerLink(viewer, desk, Bridge(desk), lambda back: None)
    project = open_projects.ensure(tmp_path / "clip.flowrvs", VideoInfo(None, "array", 9, 8, 9))
    thing = project.add_prompt("one")[1]
    link.add(label_layer(project, thing.layer))
    commands = Commands(viewer)
    row = Transport(link, commands)
    qtbot.addWidget(row)
    play, onion = row.buttons["play"], row.buttons["onion"]
    ticks: list[float | None] = []
    row.player.tick = lambda: ticks.append(0.0604) or 0.0604  # type: ignore[method-assign]
    play.click()
    assert play.isChecked() and play.text() == "stop" and len(ticks) == 1
    assert row._timer.isActive() and row._timer.interval() == 60
    qtbot.waitUntil(lambda: len(ticks) > 1)
    row.player.tick = lambda: None  # type: ignore[method-assign]
    play.click()
    assert not play.isChecked() and play.text() == "play" and not row._timer.isActive()
    onion.click()
    assert onion.isChecked() and row.onion.on
    drawn: list[tuple[int, int]] = []
    row.onion.overlay.refresh = lambda: drawn.append(span)  # type: ignore[method-assign]
    desk._frame = 5
    for span in ((3, 4), (4, 5), (5, 6), (6, 7), (7, 8), (4, 6), (5, 7), (0, 9), (0, 4), (7, 9)):
        desk.touched(thing.layer, *span)
    assert drawn == [(4, 5), (6, 7), (4, 6), (5, 7), (0, 9)], "its neighbours, not itself alone"
    onion.click()
    assert not onion.isChecked() and not row.onion.on
    drawn.clear()
    span = (0, 9)
    desk.touched(thing.layer, *span)
    assert drawn == []
    desk.set_frame(3)
    for name, wanted in (
        ("range_start", (3, 9)),
        ("range_stop", (3, 4)),
        ("range_all", (0, 9)),
    ):
        commands.run(name)
        assert desk.span == wanted
    commands.run("onion")
    row.player.start()
    row.close_all()
    assert not row.player.playing and not row.onion.on
