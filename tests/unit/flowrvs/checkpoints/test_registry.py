"""Where a model is looked for, and what is said when it is not there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flowrvs.checkpoints import MODELS, locate, models_home
from flowrvs.checkpoints.placed import placed_models
from flowrvs.checkpoints.registry import HubSource, check_settings, is_whole, kind_of
from flowrvs.cli import main
from flowrvs.errors import CheckpointError, InputError, MissingPathError


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty FLOWRVS_HOME; gives the models' folder in it, which is not there yet."""
    monkeypatch.setenv("FLOWRVS_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "models"


@pytest.fixture
def placed(home: Path) -> Path:
    """A whole model, placed by hand as mevis."""
    tiny = MODELS["tiny"].folder
    assert tiny is not None
    return Path(shutil.copytree(tiny, home / "mevis"))


def test_the_home_is_the_variable_or_the_users_data_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert models_home() == home
    assert models_home(tmp_path / "other") == tmp_path / "other" / "models"
    monkeypatch.setenv("FLOWRVS_HOME", "~/weights")
    assert models_home() == Path.home() / "weights" / "models"
    monkeypatch.delenv("FLOWRVS_HOME")
    assert models_home().parts[-2:] == ("flowrvs", "models")
    assert models_home().is_absolute()


def test_a_model_is_found_by_name_and_by_folder(placed: Path, home: Path, tmp_path: Path) -> None:
    assert locate("mevis") == placed
    assert locate(placed) == placed == locate(str(placed))
    mine = home / "mine"
    placed.rename(mine)
    assert locate("mine") == mine
    assert not is_whole("mevis") and is_whole("mine")
    assert locate("mine", home=tmp_path / "home") == mine


def test_a_model_that_was_not_fetched_says_how(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(MissingPathError, match="'flowrvs models fetch mevis'"):
        locate("mevis")
    assert main(["models", "verify", "mevis"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("name", ["unheard-of", "a/b", "", " ", "..x", "../models/mevis"])
def test_unknown_names_are_one_line(placed: Path, name: str) -> None:
    with pytest.raises(MissingPathError, match="No model") as caught:
        locate(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("gone", "text"),
    [
        ("model_index.json", "model_index.json"),
        ("transformer", "transformer/config.json"),
        ("vae/diffusion_pytorch_model.safetensors", r"vae/\*.safetensors"),
        ("tokenizer", "tokenizer/tokenizer.json"),
        ("tokenizer/tokenizer.json", "tokenizer/tokenizer.json"),
    ],
)
def test_a_partial_folder_names_what_it_lacks(placed: Path, gone: str, text: str) -> None:
    path = placed / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(CheckpointError, match=f"lacks {text}.*fetch mevis'"):
        locate("mevis")
    with pytest.raises(CheckpointError, match=f"lacks {text}.*diffusers layout"):
        locate(placed)


def test_a_shard_that_an_index_names_is_missed(placed: Path) -> None:
    index = {"weight_map": {"w": "model-00001-of-00002.safetensors"}}
    (placed / "text_encoder" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="text_encoder/model-00001-of-00002.safetensors"):
        locate("mevis")


@pytest.mark.parametrize(
    "name", ["model_index.json", "vae/config.json", "text_encoder/config.json"]
)
@pytest.mark.parametrize(
    "content", ["5", "[]", "null", '"x"', "{", "[" * 200_000, '{"num_layers": 1e400}', "{}" * 9]
)
def test_a_config_of_nonsense_is_one_line(
    placed: Path, name: str, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (placed / name).write_text(content)
    with pytest.raises(CheckpointError, match=name) as caught:
        locate(placed)
    assert "\n" not in str(caught.value)
    assert not is_whole("mevis")
    assert main(["models", "verify", str(placed)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("key", "most"), [("num_layers", 1000), ("ffn_dim", 10**7), ("scale", 1e7)]
)
def test_numbers_of_a_config_have_a_limit(placed: Path, key: str, most: float) -> None:
    path = placed / "text_encoder" / "config.json"
    config = json.loads(path.read_text())
    for value in (most, [1, most], {"inner": {key: -most}}):
        path.write_text(json.dumps({**config, key: value}))
        assert locate(placed) == placed
    for value in (1.01 * most, [1, 2 * most], {"inner": {key: -2 * most}}):
        path.write_text(json.dumps({**config, key: value}))
        with pytest.raises(CheckpointError, match=f"has an impossible {key}"):
            locate(placed)


def test_a_config_may_not_be_huge_or_a_pipe(placed: Path) -> None:
    (placed / "vae" / "config.json").write_text(" " * 17_000_000 + "{}")
    with pytest.raises(CheckpointError, match="larger than"):
        locate(placed)
    index = placed / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    os.mkfifo(index)
    with pytest.raises(CheckpointError):
        locate(placed)


@pytest.mark.parametrize(
    "parts", [["os", "system"], ["evil"], [5, "x"], ["diffusers", "AutoencoderKLWan", "x"]]
)
def test_a_pipeline_is_made_of_known_classes_only(placed: Path, parts: list) -> None:
    path = placed / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "vae": parts}))
    with pytest.raises(CheckpointError, match="not of diffusers or transformers"):
        locate(placed)


@pytest.mark.parametrize("name", ["../vae/x.safetensors", "/etc/passwd", "a/b", "", 5, "x" * 300])
def test_an_index_stays_in_its_folder(placed: Path, name: object) -> None:
    index = placed / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(CheckpointError, match=r"transformer/diffusion_pytorch_model\.safetensors"):
        locate(placed)


def test_list_tells_where_models_are(
    home: Path, placed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(placed, home / "mine")
    (placed / "vae" / "config.json").unlink()
    (home / ".mevis.download").mkdir()
    assert main(["models", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["models"]}
    assert set(rows) == {*MODELS, "mine"}
    assert rows["mevis"]["kind"] == rows["mine"]["kind"] == "segmenter"
    assert rows["sam2.1-tiny"]["kind"] == "tracker" and not rows["sam2.1-tiny"]["installed"]
    assert rows["tiny"]["installed"] and rows["mine"]["installed"]
    assert not rows["mevis"]["installed"]
    assert rows["mine"]["path"] == str(home / "mine") and rows["mine"]["bytes"] > 1_000_000
    assert main(["models", "list"]) == 0
    text = capsys.readouterr().out
    assert " installed, " in text and "not whole" in text


def test_looking_up_a_model_needs_no_network_and_no_torch() -> None:
    code = (
        "import sys, flowrvs.checkpoints as c, flowrvs.cli.models;"
        "c.models_home(); c.locate('tiny');"
        "print([m for m in ('torch', 'huggingface_hub', 'safetensors') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


CARD = {"base": "/models/tiny", "step": 40, "date": "2026-11-30T05:00", "samples": 7, "J&F": 0.5}


@pytest.mark.parametrize(
    ("card", "summary"),
    [
        (json.dumps(CARD), "from tiny, 40 steps on 7 samples, J&F 0.500 held out, 2026-11-30"),
        (
            json.dumps({**CARD, "before": {"J&F": 0.25}}),
            "from tiny, 40 steps on 7 samples, J&F 0.500 held out (0.250 before), 2026-11-30",
        ),
        (json.dumps({**CARD, "J&F": None}), "from tiny, 40 steps on 7 samples, 2026-11-30"),
        (json.dumps({**CARD, "base": "a\x1b[2J"}), "placed by hand"),
        ('{"base": ' + "[" * 200_000, "placed by hand"),
        (json.dumps({**CARD, "samples": "\x1b[2J"}), "placed by hand"),
        (json.dumps({**CARD, "step": float("inf")}), "placed by hand"),
    ],
    ids=["scored", "before", "unscored", "control", "deep", "no number", "endless"],
)
def test_a_card_tells_what_a_model_was_trained_from(
    tmp_path: Path, card: str, summary: str
) -> None:
    folder = models_home(tmp_path) / "mine"
    folder.mkdir(parents=True)
    (folder / "training.json").write_text(card)
    [model] = placed_models(tmp_path)
    assert (model.name, model.summary, model.adapter) == ("mine", summary, False)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("HF_ENDPOINT", "http://[x", "HF_ENDPOINT is 'http://[x', which is no address ("),
        ("HF_ENDPOINT", "http://a:port", "HF_ENDPOINT is 'http://a:port', which is no address ("),
        (
            "HF_HUB_ETAG_TIMEOUT",
            "soon",
            "HF_HUB_ETAG_TIMEOUT is 'soon'; unset it, or give whole seconds.",
        ),
        (
            "HF_HUB_DOWNLOAD_TIMEOUT",
            "1.5",
            "HF_HUB_DOWNLOAD_TIMEOUT is '1.5'; unset it, or give whole seconds.",
        ),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "", "HF_HUB_DOWNLOAD_TIMEOUT is ''; unset it, or give"),
    ],
)
def test_settings_that_no_library_survives_are_told(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    for each in ("HF_ENDPOINT", "HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        monkeypatch.delenv(each, raising=False)
    check_settings()
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError) as caught:
        check_settings()
    assert str(caught.value).startswith(message)
    monkeypatch.setenv(name, "https://hub:80" if name == "HF_ENDPOINT" else " 10 ")
    check_settings()


def test_what_is_known_of_the_models_by_name() -> None:
    assert [name for name, each in MODELS.items() if each.kind == "segmenter"] == ["tiny", "mevis"]
    assert all(record.name == name for name, record in MODELS.items())
    assert MODELS["tiny"].hub is None and MODELS["mevis"].folder is None
    assert MODELS["mevis"].hub == HubSource(
        "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        "xmz111/FlowRVS",
        ("FlowRVS_dit_mevis.pth", "mevis_dit.pth"),
        ("tuned_vae.pth", "decoder.pth"),
    )


def test_a_folder_says_what_it_is(tmp_path: Path) -> None:
    assert kind_of(tmp_path) == "segmenter" and kind_of(tmp_path, "tracker") == "tracker"
    (tmp_path / "config.json").write_text("{}")
    assert kind_of(tmp_path) == "tracker"
    (tmp_path / "model_index.json").write_text("{}")
    assert kind_of(tmp_path, "tracker") == "segmenter"


def test_what_a_tracker_lacks_is_listed(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    folder.mkdir()

    def said() -> str:
        with pytest.raises(CheckpointError) as caught:
            locate(folder, kind="tracker")
        return str(caught.value)

    hint = "; remove the folder and fetch or copy the model again."
    assert said() == (f"{folder} is no whole tracker: it lacks config.json, *.safetensors{hint}")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    assert said() == f"{folder} is no whole tracker: it lacks *.safetensors{hint}"
    (folder / "model.safetensors").write_bytes(b"")
    assert said() == (
        f"{folder / 'config.json'} is of a model 'bert', none of sam2_video, edgetam_video, "
        "sam3_tracker_video, sam3_video; give another folder."
    )
    (folder / "config.json").write_text('{"model_type": "edgetam_video"}')
    assert locate(folder, kind="tracker") == folder == locate(folder, kind=None)
    with pytest.raises(InputError) as caught:
        locate(folder)
    assert str(caught.value) == (
        f"{folder} follows marks and key frames and takes no sentence: choose it for picking and "
        "spreading."
    )
    index = {"weight_map": {"w": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert said() == f"{folder} is no whole tracker: it lacks model-2.safetensors{hint}"


@pytest.mark.parametrize("change", [{"adapter": True}, {"home": "a/b"}])
def test_adapters_and_other_folders_in_the_home(tmp_path: Path, change: dict) -> None:
    home = models_home(tmp_path)
    for name in ("mine", ".hidden", "tiny"):
        (home / name).mkdir(parents=True)
    (home / "file").write_text("")
    (home / "mine" / "training.json").write_text(
        json.dumps({"base": "/x/tiny", "step": 9, "date": "2026-01-02T", "samples": 3})
    )
    if "adapter" in change:
        (home / "mine" / "pytorch_lora_weights.safetensors").write_bytes(b"")
    [model] = placed_models(tmp_path)
    kind = "an adapter (--lora) for" if "adapter" in change else "from"
    assert (model.name, model.folder, model.base) == ("mine", home / "mine", "/x/tiny")
    assert model.adapter == ("adapter" in change)
    assert model.summary == f"{kind} tiny, 9 steps on 3 samples, 2026-01-02"
    assert placed_models(tmp_path / "none") == []
