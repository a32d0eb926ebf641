"""An annotator's machine without torch: everything but running a model works."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.fixtures.without import without_models


def test_a_project_is_corrected_exported_and_checked(
    tmp_path: Path, shapes_mp4: Path, shapes_masks: dict[str, npt.NDArray[np.bool_]]
) -> None:
    np.save(tmp_path / "masks.npy", shapes_masks["red"])
    code = f"""
import numpy as np
import flowrvs
from flowrvs.cli import main
masks = np.load("masks.npy")
with flowrvs.open_video({str(shapes_mp4)!r}) as video:
    with flowrvs.Project.create("p.flowrvs", video.info) as project:
        _, red = project.add_prompt("the red square")
        project.write_masks(red.id, 0, masks)
with flowrvs.Project.open("p.flowrvs") as project:
    assert (project.object_mask(red.id, 0, len(masks)) == masks).all()
assert main(["export", "p.flowrvs", "--to", "out"]) == 0
assert main(["check", "out/train"]) == 0
"""
    done = without_models(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "train" / "mask_dict.json").is_file()


@pytest.mark.parametrize(
    "line",
    [
        ["segment", "{clip}", "-p", "red"],
        ["models", "fetch", "mevis"],
        ["train", "flow", "--model", "tiny", "--data", "none", "--out", "none"],
    ],
    ids=lambda line: line[0],
)
def test_what_is_missing_is_one_line(tmp_path: Path, shapes_mp4: Path, line: list[str]) -> None:
    words = [word.format(clip=shapes_mp4) for word in line]
    code = f"from flowrvs.cli import main; sys.exit(main({words!r}))"
    done = without_models(code, tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "pip install 'napari-flowrvs[models]'" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_error_is_ours(tmp_path: Path) -> None:
    code = """
import flowrvs
try:
    flowrvs.load("tiny")
except flowrvs.FlowRVSError as error:
    assert isinstance(error, ImportError) and "torch" in str(error), error
else:
    raise AssertionError("it loaded")
"""
    done = without_models(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_every_module_of_the_plugin_is_imported(tmp_path: Path) -> None:
    pytest.importorskip("napari")
    code = """
import importlib, pkgutil
import napari_flowrvs
for module in pkgutil.walk_packages(napari_flowrvs.__path__, "napari_flowrvs."):
    importlib.import_module(module.name)
"""
    done = without_models(code, tmp_path)
    assert done.returncode == 0, done.stderr
