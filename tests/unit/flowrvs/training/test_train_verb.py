"""``flowrvs train`` as it is typed: what each option becomes, what is said at the end."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import flowrvs.training
from flowrvs.cli import main
from flowrvs.training import DecoderConfig, FlowConfig, Improvement, build_config
from flowrvs.training.options import list_options
from flowrvs.training.run import Trained

PLAN = Improvement(
    "tiny",
    "",
    "cpu",
    1,
    2,
    3,
    4,
    5,
    6,
    {"blurred frames": 2},
    7,
    150.0,
    2_340_000_000,
    FlowConfig(),
)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """What the library was asked for; it answers at once."""
    asked: list[Any] = []

    def answer(name: str, found: Any) -> None:
        def call(*args: Any, **options: Any) -> Any:
            for key in ("progress", "cancel"):
                if key in options:
                    assert options.pop(key) is not None
            if "planned" in options:  # what is planned is told before it is carried out
                planned = options.pop("planned")
                if not options["resume"]:
                    planned(PLAN)
            asked.append((name, args, options))
            return found

        monkeypatch.setattr(flowrvs.training, name, call, raising=False)

    card = {"left_out": {"frames without masks": 3}}
    trained = Trained(tmp_path / "out" / "model", 5, {"J&F": 0.25}, card)
    for name in ("train_flow", "train_decoder", "improve"):
        answer(name, trained)
    answer("plan_improvement", PLAN)
    for name in ("train_scratch", "merge_lora"):
        answer(name, Path("there"))
    answer("load_scratch_config", "config")
    return asked


REST: dict[str, Any] = {"weights": None, "name": None, "device": "auto", "resume": False}
COMMON = ["--model", "m", "--data", "a", "b", "--out", "o"]


def test_trainings_on_real_data(
    calls: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.toml"
    file.write_text("seed = 9\nkeep = 5")
    options = [
        "--weights",
        "1",
        "2.5",
        "--name",
        "n",
        "--preset",
        "corrections",
        "--config",
        str(file),
    ]
    options += ["--set", "frames=5", "keep=3", "--set", "warmup=2", "--max-steps", "7"]
    options += ["--device", "cpu", "--tensorboard", "--resume"]
    assert main(["train", "flow", *COMMON, *options, "--lora", "4", "--cache", "k"]) == 0
    config = build_config(
        FlowConfig,
        preset="corrections",
        seed=9,
        frames=5,
        keep=3,
        warmup=2,
        max_steps=7,
        lora_rank=4,
    )
    given = {
        "weights": [1.0, 2.5],
        "name": "n",
        "device": "cpu",
        "resume": True,
        "tensorboard": True,
    }
    assert calls.pop() == (
        "train_flow",
        ("m", ["a", "b"], "o", config),
        given | {"cache": "k", "scheduler": None},
    )
    told = capsys.readouterr()
    said = f"trained flow, 5 steps, J&F 0.250 on held-out videos: {tmp_path / 'out' / 'model'}\n"
    assert (told.out, told.err) == (said, "left out: 3 frames without masks\n")
    assert main(["train", "flow", *COMMON]) == 0
    plain = REST | {"tensorboard": False}
    assert calls.pop() == (
        "train_flow",
        ("m", ["a", "b"], "o", FlowConfig()),
        plain | {"cache": None, "scheduler": None},
    )
    capsys.readouterr()
    assert main(["train", "decoder", *COMMON, "--max-steps", "2", "--json"]) == 0
    config = build_config(DecoderConfig, max_steps=2)
    assert calls.pop() == ("train_decoder", ("m", ["a", "b"], "o", config), plain)
    told = capsys.readouterr()
    assert json.loads(told.out) == {
        "stage": "decoder", "out": str(tmp_path / "out" / "model"), "steps": 5, "J&F": 0.25,
    }  # fmt: skip
    assert told.err == ""


def test_the_plot_lies_beside_the_result(
    calls: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("flowrvs.training.journal.plot_log", lambda *paths: drawn.append(paths))
    assert main(["train", "decoder", *COMMON]) == 0 and drawn == []
    assert main(["train", "decoder", *COMMON, "--plot"]) == 0
    assert drawn == [(tmp_path / "out" / "log.jsonl", tmp_path / "out" / "log.png")]


@pytest.mark.parametrize("option", ["model", "data", "out"])
def test_what_a_training_needs(
    calls: list[Any], capsys: pytest.CaptureFixture[str], option: str
) -> None:
    rest = {"model": ["m"], "data": ["a", "b"], "out": ["o"]}
    line = [part for key, values in rest.items() if key != option for part in (f"--{key}", *values)]
    assert main(["train", "decoder", *line]) == 2
    assert capsys.readouterr().err == (
        f"flowrvs: flowrvs train decoder needs --{option}; see --help.\n"
    )
    assert calls == []


@pytest.mark.parametrize(("stage", "kind"), [("flow", FlowConfig), ("decoder", DecoderConfig)])
def test_options_are_listed(
    calls: list[Any], capsys: pytest.CaptureFixture[str], stage: str, kind: type
) -> None:
    options = list(list_options(kind))
    assert main(["train", stage, "--options"]) == 0
    expected = ""
    for item in options:
        allowed = f" ({item.range})" if item.range else ""
        expected += f"{item.name} = {json.dumps(item.default)}{allowed}\n    {item.help}\n"
    assert capsys.readouterr().out == expected
    assert main(["train", stage, "--options", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["frames"] == {"default": 17, "help": "frames of a clip, 4k + 1"}
    assert list(told) == [item.name for item in options] and calls == []


@pytest.mark.parametrize(
    ("option", "module"), [("--plot", "matplotlib"), ("--tensorboard", "tensorboard"), ("", "peft")]
)
def test_what_is_not_installed_is_told_before_hours_of_training(
    calls: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: str,
    module: str,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    line = ["train", "flow", "--model", "m", "--data", "d", "--out", "o"]
    assert main([*line, *([option] if option else ["--lora", "4"])]) == 2 and calls == []
    told = capsys.readouterr().err
    assert f"needs {module}, which is not installed: pip install 'napari-flowrvs[train]'" in told


def test_options_of_trainings_from_scratch_are_listed_by_table(
    calls: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "scratch", "--options"]) == 0
    told = capsys.readouterr().out
    assert told.startswith('preset = "tiny"\n    sizes of the model') and "\n\n[vae]\n" in told
    flow = told[told.index("[flow]\n") : told.index("[[vae.phases]]")]
    assert "ema_decay = 0.9999 (0 to 1)\n    decay of the averaged weights" in flow
    assert main(["train", "scratch", "--options", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["[vae]"]["seed"] == {
        "default": 0, "help": "of every choice",
    }  # fmt: skip
    assert main(["train", "scratch"]) == 2 and calls == []
    assert "needs --config" in capsys.readouterr().err


def test_improving(calls: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    line = ["train", "improve", "--data", "a", "b", "--name", "n"]
    counts = (
        "1 videos, 2 sentences, 3 objects on 4 frames; 5 videos held out; 7 steps in about 2 "
        "minutes, 2.3 GB\n"
    )
    options: dict[str, Any] = {"model": "auto", "minutes": 20.0, "device": "auto", "max_steps": 0}
    assert main(line) == 0
    assert calls == [("improve", (["a", "b"],), options | {"name": "n", "resume": False})]
    told = capsys.readouterr()
    assert told.err == counts + "left out: 3 frames without masks\n"
    assert told.out.startswith("trained improve, 5 steps, J&F 0.250 on held-out videos: ")
    calls.clear()
    more = ["--model", "m", "--minutes", "2", "--device", "cpu", "--max-steps", "9"]
    given = {"model": "m", "minutes": 2.0, "device": "cpu", "max_steps": 9}
    assert main([*line, *more, "--plan"]) == 0
    assert calls == [("plan_improvement", (["a", "b"],), given)]
    assert capsys.readouterr().out == counts
    assert main([*line, "--plan", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == PLAN.as_dict()
    calls.clear()
    assert main([*line, *more, "--resume", "--json"]) == 0  # what was planned goes on
    assert calls == [("improve", (["a", "b"],), given | {"name": "n", "resume": True})]
    assert json.loads(capsys.readouterr().out)["stage"] == "improve"
    assert main([*line, "--plan", "--resume"]) == 2 and len(calls) == 1, (
        "it does not begin to train"
    )
    assert "leave out --resume" in capsys.readouterr().err


def test_from_scratch_and_merging(calls: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "scratch", "--config", "c.toml"]) == 0
    assert calls == [
        ("load_scratch_config", ("c.toml",), {}),
        ("train_scratch", ("config",), {"resume": False}),
    ]
    assert capsys.readouterr().out == "trained scratch: there\n"
    assert main(["train", "scratch", "--config", "c.toml", "--resume", "--json"]) == 0
    assert calls[-1] == ("train_scratch", ("config",), {"resume": True})
    assert json.loads(capsys.readouterr().out) == {"stage": "scratch", "out": "there"}
    line = ["train", "merge", "--model", "m", "--lora", "l", "--out", "o"]
    assert main(line) == 0
    assert calls[-1] == ("merge_lora", ("m", "l", "o"), {})
    assert capsys.readouterr().out == "merged: there\n"
    assert main([*line, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"stage": "merge", "out": "there"}
