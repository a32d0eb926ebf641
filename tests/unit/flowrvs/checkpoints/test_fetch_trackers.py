"""``flowrvs models`` with trackers: fetched as they are, verified, told apart from segmenters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import flowrvs
from flowrvs.checkpoints import MODELS, locate
from flowrvs.checkpoints import hub as client
from flowrvs.checkpoints.manifest import read_manifest
from flowrvs.checkpoints.registry import HubFolder, is_whole
from flowrvs.cli import main
from flowrvs.errors import CheckpointError, InputError
from flowrvs.models.sam2 import load_tracker
from tests.fixtures.hub import HubStandIn, ask_here, serve_hub
from tests.fixtures.sam_models import random_model

REPO = "facebook/sam2.1-hiera-tiny"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A repository as it is published: what is needed, and more."""
    folder = tmp_path_factory.mktemp("published")
    random_model("sam2").save_pretrained(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return files | {
        "preprocessor_config.json": b"{}",
        "README.md": b"# SAM 2.1",
        "sam2.1_hiera_tiny.pt": b"\x80\x04never fetched",
        "onnx/config.json": b"{}",
    }


@pytest.fixture
def hub(published: dict[str, bytes]) -> Iterator[HubStandIn]:
    with serve_hub({REPO: dict(published), "facebook/sam3": dict(published)}) as served:
        yield served


@pytest.fixture
def home(hub: HubStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The models' folder of this process, which asks the stand-in."""
    ask_here(hub, monkeypatch, tmp_path)
    monkeypatch.setattr(client, "WAITS", (0.01, 0.01))
    monkeypatch.setenv("FLOWRVS_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "models"


def test_a_tracker_arrives_whole_through_breaks_and_damage(
    hub: HubStandIn, home: Path, published: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    size = sum(len(published[n]) for n in (WEIGHTS, "config.json", "preprocessor_config.json"))
    assert main(["models", "fetch", "sam2.1-tiny", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["download"] == plan["result"] == size and plan["here"] == 0
    # The small ones first: what is wrong with the repository shows before the weights come.
    assert [row["file"] for row in plan["files"]] == [
        "config.json",
        "preprocessor_config.json",
        WEIGHTS,
    ]
    # Nothing is converted: what is downloaded takes its place.
    assert plan["need"] < 1.5 * size + 200_000_000 and not plan["spare"] and not home.exists()

    hub.cuts[WEIGHTS] = [100_000] * 9  # more than a fetch bears
    hub.refusals["/storage/"] = [(500, {})] * 3
    assert main(["models", "fetch", "sam2.1-tiny"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()[-1]) > 20
    assert not (home / "sam2.1-tiny").exists() and not is_whole("sam2.1-tiny")
    hub.cuts.clear()
    hub.refusals.clear()
    hub.damaged[WEIGHTS] = 1
    assert main(["models", "fetch", "sam2.1-tiny"]) == 0
    folder = home / "sam2.1-tiny"
    assert {path.name for path in folder.iterdir()} == {
        WEIGHTS,
        "config.json",
        "preprocessor_config.json",
        "flowrvs-manifest.json",
    }
    assert [path.name for path in home.iterdir()] == ["sam2.1-tiny"]
    fetched = read_manifest(folder)["source"]["fetched"]
    assert {entry["file"] for entry in fetched} == {p.name for p in folder.iterdir()} - {
        "flowrvs-manifest.json"
    }
    assert {entry["revision"] for entry in fetched} == {hub.commit(REPO)}
    capsys.readouterr()

    asked = len(hub.asked)
    assert main(["models", "fetch", "sam2.1-tiny"]) == 0  # it is here: nothing is asked
    assert main(["models", "verify", "sam2.1-tiny"]) == 0
    assert "is whole: model 1.17 M parameters" in capsys.readouterr().out
    assert len(hub.asked) == asked
    assert main(["models", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["models"]}
    assert rows["sam2.1-tiny"]["installed"] and rows["sam2.1-tiny"]["kind"] == "tracker"
    assert not rows["sam2.1-large"]["installed"]

    tracker = load_tracker("sam2.1-tiny", device="cpu")
    assert tracker.name.startswith("sam2.1-tiny@") and len(tracker.weights) == 12
    state = tracker._network.state_dict()
    for name, value in random_model("sam2").state_dict().items():
        assert torch.equal(state[name], value), name


def test_a_broken_fetch_goes_on_where_it_was(hub: HubStandIn, home: Path) -> None:
    hub.cuts[WEIGHTS] = [65_536]
    hub.refusals["/storage/"] = []
    assert main(["models", "fetch", "sam2.1-tiny"]) == 0
    begins = [asked.begins for asked in hub.gets(WEIGHTS)]
    assert begins == [0, 65_536]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ((403, {"X-Error-Code": "GatedRepo"}), "asks for consent: accept its terms at"),
        ((401, {}), "accept the terms at"),
        ((403, {}), "accept the terms at"),
    ],
)
def test_terms_that_are_not_accepted_are_one_line(
    hub: HubStandIn,
    home: Path,
    capsys: pytest.CaptureFixture[str],
    answer: tuple[int, dict[str, str]],
    text: str,
) -> None:
    hub.refusals["/resolve/"] = [answer] * 9
    assert main(["models", "fetch", "sam3-tracker"]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert text in line and f"{hub.address}/facebook/sam3" in line and "HF_TOKEN" in line
    assert not home.exists() or not (home / "sam3-tracker").exists()


def test_what_makes_no_sense_for_a_tracker_is_told(
    hub: HubStandIn, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "dit.pth"
    own.write_bytes(b"x")
    assert main(["models", "fetch", "sam2.1-tiny", "--dit", str(own)]) == 2
    assert "is fetched whole" in capsys.readouterr().err
    hub.files[REPO].pop(WEIGHTS)
    assert main(["models", "fetch", "sam2.1-tiny"]) == 2
    assert f"{REPO} lacks *.safetensors" in capsys.readouterr().err


def test_trackers_and_segmenters_do_not_stand_in_for_each_other(home: Path, tmp_path: Path) -> None:
    random_model("sam2").save_pretrained(home / "sam2.1-tiny")
    random_model("sam2").save_pretrained(tmp_path / "mine")
    for model in ("sam2.1-tiny", tmp_path / "mine"):
        with pytest.raises(InputError, match="takes no sentence"):
            flowrvs.load(model)
        assert locate(model, kind=None) == locate(model, kind="tracker")
    with pytest.raises(InputError, match="takes sentences, not marks"):
        load_tracker("tiny")


def test_a_folder_that_is_not_whole_says_what_it_lacks(home: Path) -> None:
    folder = home / "sam2.1-tiny"
    random_model("sam2").save_pretrained(folder, max_shard_size="2MB")
    shard = sorted(folder.glob("*.safetensors"))[0]
    assert is_whole("sam2.1-tiny")
    content = shard.read_bytes()
    shard.write_bytes(content[:-10])
    assert main(["models", "verify", "sam2.1-tiny", "--json"]) == 2
    shard.unlink()
    with pytest.raises(CheckpointError, match=shard.name):
        locate("sam2.1-tiny", kind="tracker")
    assert not is_whole("sam2.1-tiny")
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_tracker("sam2.1-tiny")


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "bert"},
        {"vision_config": {"backbone_config": {"hidden_size": 10**12}}},
        {"num_maskmem": 10**6},
    ],
)
def test_configs_of_others_are_not_trusted(home: Path, change: dict) -> None:
    folder = home / "mine"
    random_model("sam2").save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError) as caught:
        load_tracker("mine", device="cpu")
    assert "\n" not in str(caught.value) and "config.json" in str(caught.value)


def test_every_name_is_one_repository_of_its_own() -> None:
    repos = {n: m.hub.repo for n, m in MODELS.items() if isinstance(m.hub, HubFolder)}
    assert repos == {
        "sam2.1-tiny": "facebook/sam2.1-hiera-tiny",
        "sam2.1-small": "facebook/sam2.1-hiera-small",
        "sam2.1-base-plus": "facebook/sam2.1-hiera-base-plus",
        "sam2.1-large": "facebook/sam2.1-hiera-large",
        "edgetam": "yonigozlan/EdgeTAM-hf",
        "sam3-tracker": "facebook/sam3",
    }
