"""Which tracker picks where nobody says it, and how a model's options reach it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from flowrvs.errors import InputError, MissingPathError
from flowrvs.inference.loading import (
    CLASSICAL,
    default_tracker,
    load_segmenter,
    segmenter_plugin,
    tracker_names,
)
from tests.fixtures.packages import install

SOURCE = """
loaded = []

def load(name, *, device="auto", precision="auto"):
    loaded.append((name, device, precision))
    from tests.fixtures.segmenters import ThresholdSegmenter
    return ThresholdSegmenter()
"""
GROUPS = {"flowrvs.segmenters": {"bright": "bright:load"}, "flowrvs.trackers": {"far": "bright:x"}}


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The models' folder of this test, empty."""
    monkeypatch.setenv("FLOWRVS_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "models"


def fetched(home: Path, *names: str) -> None:
    for name in names:
        (home / name).mkdir(parents=True)
        (home / name / "config.json").write_text(json.dumps({"model_type": "sam2_video"}))
        (home / name / "model.safetensors").write_bytes(b"")


def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "torch" else find(name, *a)
    )


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        ((), CLASSICAL),
        (("sam2.1-large",), "sam2.1-large"),
        (("sam2.1-large", "sam2.1-base-plus"), "sam2.1-base-plus"),
        (("sam2.1-base-plus", "edgetam"), "edgetam"),
        (("edgetam", "sam2.1-small"), "sam2.1-small"),
        (("sam2.1-small", "sam2.1-tiny"), "sam2.1-tiny"),
        (("sam3-tracker", "sam2.1-large"), "sam2.1-large"),
        (("sam3-tracker",), "sam3-tracker"),
    ],
)
def test_the_smallest_of_our_trackers_that_is_here_picks(
    home: Path, monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...], chosen: str
) -> None:
    pytest.importorskip("torch")
    fetched(home, *there)
    assert default_tracker() == chosen
    ready = tracker_names()
    assert next(iter(ready)) == CLASSICAL and ready.pop(CLASSICAL)
    assert {name for name, is_ready in ready.items() if is_ready} == set(there)
    without_torch(monkeypatch)
    assert default_tracker() == CLASSICAL
    assert not any(is_ready for name, is_ready in tracker_names().items() if name != CLASSICAL)


def test_trackers_of_other_packages_count_as_ready_but_are_never_the_default(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, tmp_path, "bright", GROUPS, {"bright": SOURCE})
    assert tracker_names()["far"] and default_tracker() == CLASSICAL
    without_torch(monkeypatch)
    assert tracker_names()["far"], "its weights and what it needs are its own affair"


def test_a_model_of_another_package_is_told_of_device_and_precision_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, tmp_path, "bright", GROUPS, {"bright": SOURCE})
    defaults: dict[str, Any] = {
        "memory": "auto",
        "text_precision": "full",
        "portrait_box": False,
        "clamp": True,
        "fast": False,
        "sparse": False,
        "compile": False,
        "lora": None,
    }
    assert load_segmenter("bright", device="cpu", dtype="float16", **defaults).name == "threshold"
    import bright  # type: ignore[import-not-found]

    assert bright.loaded == [("bright", "cpu", "float16")]
    for name, value in (("memory", "low"), ("clamp", False), ("portrait_box", True), ("lora", "x")):
        with pytest.raises(InputError) as caught:
            load_segmenter("bright", **{name: value})
        assert str(caught.value) == (
            f"--{name.replace('_', '-')} is for models of flowrvs, which bright of bright is not; "
            "leave it out."
        )
    assert len(bright.loaded) == 1
    # A folder of that name comes first, here or where models are fetched to.
    assert segmenter_plugin("bright") is not None
    (home / "bright").mkdir(parents=True)
    assert segmenter_plugin("bright") is None and segmenter_plugin("tiny") is None


def test_our_own_get_every_option(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from flowrvs import pipelines

    asked: list[Any] = []
    monkeypatch.setattr(pipelines, "load", lambda *a, **k: asked.append((a, k)), raising=False)
    load_segmenter("tiny", device="cpu", dtype="bfloat16", memory="low", lora="mine")
    assert asked == [
        (("tiny",), {"device": "cpu", "dtype": "bfloat16", "memory": "low", "lora": "mine"})
    ]
    with pytest.raises(MissingPathError, match="get it with 'flowrvs models fetch mevis'"):
        load_segmenter("mevis")
    assert len(asked) == 1


def test_a_wrong_name_says_what_others_bring(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(MissingPathError) as caught:
        load_segmenter("brihgt")
    assert str(caught.value).startswith("No model 'brihgt': it is neither a folder nor one of ")
    assert str(caught.value).endswith(", sam3-tracker, sam3.")
    install(monkeypatch, tmp_path, "bright", GROUPS, {"bright": SOURCE})
    with pytest.raises(MissingPathError, match=r", or of other packages \(bright\)\.$"):
        load_segmenter("brihgt")
