"""What becomes of the options of ``models`` and ``demo``, and what is said."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flowrvs
import flowrvs.checkpoints.convert
import flowrvs.checkpoints.fetch
from flowrvs.cli import main
from flowrvs.cli.models import _in_megabytes
from flowrvs.progress import CancelToken, Progress
from tests.unit.flowrvs.cli.conftest import Recorder

OWN = {"dit": None, "vae": None, "text": None}


def test_bytes_are_shown_as_megabytes() -> None:
    seen: list[Progress] = []
    show = _in_megabytes(seen.append)
    show(Progress(1_999_999, 31_000_001, "copying", 2.0, 3.0))
    show(Progress(0, 0, "counting"))
    assert seen == [
        Progress(1, 31, "copying (MB)", 2.0, 3.0),
        Progress(0, 1, "counting"),  # not 100 %
    ]


def test_models_convert_and_fetch(replaced, capsys, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "x").write_bytes(b"x" * 3_000_000)
    convert = replaced(flowrvs.checkpoints.convert, "convert", tmp_path / "m")
    line = "models convert --base b --dit d --vae v --out o"
    args = tuple(map(Path, "bdvo"))
    assert main(line.split()) == 0
    names = ("text", "text_length", "name", "dtype", "text_dtype")
    assert convert.only() == (args, dict.fromkeys(names))
    assert capsys.readouterr().out == f"Converted: {tmp_path / 'm'} (3.0 MB)\n"
    convert.calls.clear()
    more = "--text t --text-length 64 --name n --dtype float16 --text-dtype bfloat16 --json"
    assert main([*line.split(), *more.split()]) == 0
    values = (Path("t"), 64, "n", "float16", "bfloat16")
    assert convert.only() == (args, dict(zip(names, values, strict=True)))
    assert json.loads(capsys.readouterr().out) == {"path": str(tmp_path / "m"), "bytes": 3_000_000}
    fetch = replaced(flowrvs.checkpoints.fetch, "fetch", tmp_path / "m")
    assert main(["models", "fetch", "mevis"]) == 0
    assert fetch.only() == (("mevis",), {"home": None, **OWN})
    assert capsys.readouterr().out == f"mevis is ready: {tmp_path / 'm'} (3.0 MB)\n"
    fetch.calls.clear()
    own = {name: Path(name[0]) for name in OWN}
    line = "models fetch mevis --home h --dit d --vae v --text t --json"
    assert main(line.split()) == 0
    assert fetch.only() == (("mevis",), {"home": Path("h"), **own})
    said = {"model": "mevis", "path": str(tmp_path / "m"), "bytes": 3_000_000}
    assert json.loads(capsys.readouterr().out) == said


def test_models_calibrate(monkeypatch, capsys, tmp_path: Path) -> None:
    import flowrvs.checkpoints
    import flowrvs.pipelines
    import flowrvs.pipelines.calibrate as calibrate

    saved: list[Path] = []
    locator = SimpleNamespace(save=saved.append)
    config = SimpleNamespace(sample_height=48, sample_width=80)
    pipeline = SimpleNamespace(window_size=33, config=config)
    load, made = Recorder(pipeline), Recorder(SimpleNamespace(locator=locator, kept=0.25))
    made.result.foreground = 0.1
    synthetic, split = Recorder("synthetic"), Recorder("of the split")
    # First what imports the pipelines: they must not keep the other one for good.
    monkeypatch.setattr(flowrvs.pipelines, "load", load)
    monkeypatch.setattr(flowrvs.checkpoints, "locate", lambda name: tmp_path)
    monkeypatch.setattr(calibrate, "calibrate", made)
    monkeypatch.setattr(calibrate, "synthetic_clips", synthetic)
    monkeypatch.setattr(calibrate, "split_clips", split)
    assert main(["models", "calibrate", "m"]) == 0
    (file,) = saved
    assert file.parent == tmp_path
    assert capsys.readouterr().out == (
        f"{file}: decodes 25% of the picture where 10% is foreground; use it with --sparse\n"
    )
    assert load.calls == [(("m",), {"device": "auto"})]
    assert synthetic.calls == [((24,), {"frames": 17, "height": 48, "width": 80})]
    assert made.only() == ((pipeline, "synthetic"), {"total": 24}) and not split.calls
    made.calls.clear()
    pipeline.window_size = 9
    line = ["models", "calibrate", "m", "--split", "s", "--clips", "4", "--device", "cpu"]
    assert main([*line, "--json"]) == 0
    said = {"path": str(file), "kept": 0.25, "foreground": 0.1}
    assert json.loads(capsys.readouterr().out) == said
    assert split.calls == [(("s", 4), {"frames": 9})] and load.calls[1][1] == {"device": "cpu"}
    assert made.only() == ((pipeline, "of the split"), {"total": 4}) and len(saved) == 2
    assert main(["models", "calibrate", "m", "--clips", "3"]) == 2
    assert capsys.readouterr().err == "flowrvs: --clips must be 4 or more, not 3.\n"

    def stop(*args: Any, cancel: CancelToken, **options: Any) -> Any:
        cancel.cancel()
        return made.result

    monkeypatch.setattr(calibrate, "calibrate", stop)
    assert main(["models", "calibrate", "m"]) == 130
    assert capsys.readouterr().err.endswith(f"flowrvs: Stopped on request; {file} is as it was.\n")
    assert len(saved) == 2
    asked: list[Any] = []
    monkeypatch.setattr(os, "access", lambda *how: bool(asked.append(how)))
    assert main(["models", "calibrate", "m"]) == 2
    assert capsys.readouterr().err == (
        f"flowrvs: Cannot write to {tmp_path}; copy the model to a folder of your own.\n"
    )
    assert asked == [(tmp_path, os.W_OK)] and len(load.calls) == 3


def test_demo(monkeypatch, capsys, tmp_path: Path) -> None:
    import flowrvs.demo

    score = SimpleNamespace(exp_id="0", j=0.5, f=0.25)
    scores = SimpleNamespace(expressions=[score], j=0.5, f=0.25, j_and_f=0.375)
    result = SimpleNamespace(
        scores=scores,
        sentences={"0": "the red one"},
        seconds=1.26,
        files={"project": Path("p"), "overlay": Path("o")},
        to_dict=lambda: {"J": 0.5},
    )
    load, run = Recorder("model"), Recorder(result)
    monkeypatch.setitem(flowrvs.__dict__, "load", load)
    monkeypatch.setattr(flowrvs.demo, "run_demo", run)
    out = tmp_path / "d"
    assert main(["demo", "--out", str(out)]) == 0
    assert run.only() == ((out, "model"), {"steps": 1})
    assert load.calls == [(("tiny",), {"device": "auto"})]
    assert capsys.readouterr().out == (
        "J 0.500  F 0.250  'the red one'\nJ 0.500  F 0.250  J&F 0.375  over all sentences\n"
        "The model took 1.3 s. Look at:\n  project:       p\n  overlay:       o\n"
    )
    run.calls.clear()
    more = ["--model", "m", "--device", "cpu", "--steps", "1000", "--json"]
    assert main(["demo", "--out", str(out), *more]) == 0
    assert run.only()[1] == {"steps": 1000} and load.calls[1] == (("m",), {"device": "cpu"})
    assert json.loads(capsys.readouterr().out) == {"J": 0.5}
    for steps in ("0", "1001"):
        assert main(["demo", "--out", str(out), "--steps", steps]) == 2
        said = f"flowrvs: {steps} steps are impossible; use 1 to 1000.\n"
        assert capsys.readouterr().err == said
    (out / "mine").mkdir(parents=True)
    assert main(["demo", "--out", str(out)]) == 2
    assert len(load.calls) == 2, "a folder of somebody's is refused before a model is loaded"
