"""What every test shares: small clips, the real clip, and one policy.

Warnings are errors (pyproject.toml); a test that means to warn says so. Nothing here
imports torch or Qt, so that a test of a small thing stays quick.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

# Before torch, OpenMP or huggingface_hub are imported: results and times should not
# depend on the machine, and no test may reach for the network. One thread: the models are
# tiny, and another process of tests may have the other core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import numpy.typing as npt
import pytest

# No test may read or fill the user's own folders; processes that a test starts neither.
_HOME = tempfile.TemporaryDirectory(prefix="flowrvs-home-")
os.environ["FLOWRVS_HOME"] = _HOME.name

ROOT = Path(__file__).resolve().parents[1]
CHAIR = ROOT.parent / "shared" / "data" / "chair"


@pytest.fixture(scope="session")
def root() -> Path:
    """Top of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def chair_clip() -> Path:
    """The real clip (60 frames, 480 x 720); skips where it is absent."""
    path = CHAIR / "chair.mp4"
    if not path.exists():
        pytest.skip("the real clip is not on this machine")
    return path


@pytest.fixture(scope="session")
def chair_masks(chair_clip: Path) -> list[Path]:
    """The palette PNGs of the chair, one a frame; 1 is the chair."""
    return sorted((chair_clip.parent / "masks").glob("*.png"))


@pytest.fixture(scope="session")
def _shapes() -> tuple[npt.NDArray[np.uint8], dict[str, npt.NDArray[np.bool_]]]:
    frames = np.full((12, 48, 64, 3), 30, np.uint8)
    masks = {name: np.zeros((12, 48, 64), bool) for name in ("red", "green")}
    for index in range(12):
        masks["red"][index, 6:22, 2 + 3 * index : 18 + 3 * index] = True
        masks["green"][index, 26 + index : 36 + index, 40:54] = True
    frames[masks["red"]] = (220, 40, 40)
    frames[masks["green"]] = (40, 200, 60)
    return frames, masks


@pytest.fixture
def shapes_frames(_shapes: tuple) -> npt.NDArray[np.uint8]:
    """Twelve frames, (12, 48, 64, 3) uint8: a red square goes right, a green one down."""
    return _shapes[0].copy()


@pytest.fixture
def shapes_masks(_shapes: tuple) -> dict[str, npt.NDArray[np.bool_]]:
    """The true masks of `shapes_frames`: ``"red"`` and ``"green"``, (12, 48, 64) bool."""
    return {name: mask.copy() for name, mask in _shapes[1].items()}


@pytest.fixture(scope="session")
def shapes_mp4(_shapes: tuple, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`shapes_frames` as an H.264 file of 12 frames at 12 frames a second."""
    import av

    path = tmp_path_factory.mktemp("clips") / "shapes.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12, options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for picture in _shapes[0]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def shapes_images(_shapes: tuple, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`shapes_frames` as a folder of PNG files ``00000.png`` to ``00011.png``."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("images") / "shapes"
    folder.mkdir()
    for index, picture in enumerate(_shapes[0]):
        Image.fromarray(picture).save(folder / f"{index:05}.png")
    return folder
