"""Clips with coloured squares, fakes, and a clean place for everything that is kept."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from napari.components import ViewerModel

from flowrvs.progress import CancelToken
from flowrvs.store import Project
from flowrvs.video import open_video
from napari_flowrvs.desk import Desk
from napari_flowrvs.dock import SegmentDock
from napari_flowrvs.layers import layers_of
from napari_flowrvs.motion import Motion
from napari_flowrvs.projects import open_projects
from napari_flowrvs.recent import Recent
from napari_flowrvs.source import VideoSource
from tests.fixtures.scene import FRAMES, FRAMES_OF_SCENE
from tests.fixtures.segmenters import ThresholdSegmenter

MakeDock = Callable[..., tuple[Any, SegmentDock]]


@dataclass
class GatedSegmenter(ThresholdSegmenter):
    """Computes a window only when the test says so: no test depends on how fast it runs."""

    gate: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def allow(self, windows: int = 1000) -> None:
        """Let the next windows pass."""
        self.gate.release(windows)

    def segment_window(
        self,
        frames: npt.NDArray[np.uint8],
        texts: Sequence[str],
        *,
        steps: int = 1,
        cancel: CancelToken | None = None,
        on_step: Callable[[], None] | None = None,
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the logits of every sentence once the gate is open."""
        while not self.gate.acquire(timeout=0.01):
            if cancel is not None:
                cancel.raise_if_cancelled()
        yield from super().segment_window(
            frames, texts, steps=steps, cancel=cancel, on_step=on_step
        )


def held(*_: Any, **__: Any) -> Any:
    """A runner that never begins: what is asked for waits, and nothing answers."""
    return SimpleNamespace(wait=lambda timeout: True)


def make_clip(frames: int = 24, height: int = 40, width: int = 60) -> npt.NDArray[np.uint8]:
    """A red square that moves right, over a green one that stays."""
    clip = np.full((frames, height, width, 3), 60, np.uint8)
    clip[:, 26:36, 40:52] = (30, 200, 30)
    for t in range(frames):
        clip[t, 6:16, t : t + 10] = (220, 30, 30)
    return clip


@pytest.fixture
def clip() -> npt.NDArray[np.uint8]:
    """24 frames of 40 x 60."""
    return make_clip()


@pytest.fixture
def image_folder(tmp_path: Path, clip: npt.NDArray[np.uint8]) -> Path:
    """The clip as a folder of PNG files, so that no pixel changes."""
    from PIL import Image

    folder = tmp_path / "squares"
    folder.mkdir()
    for t, frame in enumerate(clip):
        Image.fromarray(frame).save(folder / f"{t:05}.png")
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """The scene, with one object and its first frame, drawn by hand."""
    with open_video(FRAMES_OF_SCENE) as video:
        info = video.info
    with Project.create(tmp_path / "clip", info) as made:
        _, square = made.add_prompt("the red square")
        made.labels(square.layer)[0, 20:44, 10:34] = square.id
        yield made


@pytest.fixture
def desk(project: Project) -> Desk:
    """What looks at the project."""
    desk = Desk()
    desk.frame_requested.connect(desk.set_frame)
    desk.set_project(project)
    return desk


@pytest.fixture
def motion() -> Iterator[Motion]:
    motion = Motion()
    motion.set_source(VideoSource("scene", FRAMES, None, FRAMES_OF_SCENE))
    yield motion
    motion.close()


@pytest.fixture
def fake() -> ThresholdSegmenter:
    """Finds the colour that the sentence names."""
    return ThresholdSegmenter()


@pytest.fixture
def load(fake: ThresholdSegmenter) -> Callable[[str, str], ThresholdSegmenter]:
    """A factory of segmenters that gives the fake."""
    return lambda model, device: fake


@pytest.fixture
def gated() -> GatedSegmenter:
    """A fake that waits for the test before every window."""
    return GatedSegmenter()


@pytest.fixture(scope="session", autouse=True)
def _settled() -> Iterator[None]:
    """Keep modules out of the collections that every viewer needs: they take most of a test."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    yield
    open_projects.close_all()


@pytest.fixture
def make_dock(
    request: pytest.FixtureRequest, qtbot: Any, load: Any, tmp_path: Path
) -> Iterator[MakeDock]:
    """Make a viewer with the dock.

    It has its window, which takes ten times as long, where the test uses `make_napari_viewer`.
    """
    docks: list[weakref.ref[SegmentDock]] = []
    window = "make_napari_viewer" in request.fixturenames
    make_viewer = request.getfixturevalue("make_napari_viewer") if window else ViewerModel

    def make(show: bool = False, **keywords: Any) -> tuple[Any, SegmentDock]:
        viewer = make_viewer(show=show) if window else make_viewer()
        keywords = {"load": load, "recent": Recent(tmp_path / "memory.json")} | keywords
        dock = SegmentDock(viewer, **keywords)
        if window:
            viewer.window.add_dock_widget(dock, name="Segment")
        else:
            qtbot.addWidget(dock)
        docks.append(weakref.ref(dock))
        return viewer, dock

    yield make
    dock: SegmentDock | None = None
    for reference in docks:
        dock = reference()
        if dock is not None:
            dock.shut_down()
            if not window:  # it is deleted when the projects have been closed
                dock.session.desk.set_project(None)
    del dock
    gc.collect()
    assert not [t for t in threading.enumerate() if t.name == "flowrvs" and t.is_alive()]


@pytest.fixture
def opened(make_dock: MakeDock, image_folder: Path) -> tuple[Any, SegmentDock]:
    """A dock with the clip."""
    viewer, dock = make_dock()
    for layer in layers_of(image_folder):
        dock.link.add(layer)
    return viewer, dock


@pytest.fixture
def waiting(
    make_dock: MakeDock, image_folder: Path, gated: GatedSegmenter
) -> tuple[Any, SegmentDock]:
    """A dock with the clip whose model waits for `gated.allow`."""
    viewer, dock = make_dock(load=lambda model, device: gated)
    for layer in layers_of(image_folder):
        dock.link.add(layer)
    return viewer, dock


def finish(qtbot: Any, dock: SegmentDock) -> None:
    job = dock.session.segment.job
    qtbot.waitUntil(lambda: not job.busy and not dock.link.waiting, timeout=20_000)
