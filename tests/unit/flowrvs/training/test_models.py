"""Models and adapters as trainings take and leave them; what a run begins and ends with."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import flowrvs
from flowrvs.errors import (
    Cancelled,
    CheckpointError,
    InputError,
    MissingExtraError,
    TrainingError,
)
from flowrvs.models.presets import PRESETS, build_vae
from flowrvs.training import FlowConfig, merge_lora, run
from flowrvs.training.dataset import hash_of
from flowrvs.training.journal import Journal, plot_log, read_log
from flowrvs.training.lora import add_adapter, save_adapter
from flowrvs.training.models import (
    has_mask_decoder,
    inject_video,
    mask_vae_from,
    open_model,
    write_model,
)
from flowrvs.training.run import Trained, TrainingRun, choose_precision
from tests.fixtures.micro import micro_pipeline


@pytest.fixture
def wan_base(micro_model: Path, tmp_path: Path) -> Path:
    """A base as Wan's: another pipeline's index, a VAE that gives pictures."""
    base = tmp_path / "base"
    shutil.copytree(micro_model, base)
    index = json.loads((base / "model_index.json").read_text())
    index["_class_name"] = "WanPipeline"
    (base / "model_index.json").write_text(json.dumps(index))
    torch.manual_seed(1)
    build_vae(PRESETS["micro"]).save_pretrained(base / "vae")
    return base


# -- in and out --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_is_opened_in_one_format_and_frozen(micro_model: Path, dtype: torch.dtype) -> None:
    folder, pipeline = open_model(micro_model, dtype)
    assert folder == micro_model and pipeline.text_encoder is None
    formats = {p.dtype for n, p in pipeline.transformer.named_parameters() if "rope" not in n}
    assert formats == {dtype} == {p.dtype for p in pipeline.vae.parameters()}
    assert not any(p.requires_grad for p in pipeline.vae.parameters()) and not pipeline.vae.training
    assert pipeline.config.window_size == 9 and pipeline._progress_bar_config == {"disable": True}
    saved = load_file(micro_model / "transformer" / "diffusion_pytorch_model.safetensors")
    for name, value in saved.items():
        assert torch.equal(dict(pipeline.transformer.named_parameters())[name], value.to(dtype))


def test_a_base_gets_a_decoder_of_masks(wan_base: Path, micro_model: Path) -> None:
    assert has_mask_decoder(micro_model) and not has_mask_decoder(wan_base)
    _, pipeline = open_model(wan_base, torch.float32)
    settings = PRESETS["production"].settings
    assert {key: pipeline.config[key] for key in settings} == settings
    assert pipeline.scheduler.config.shift == 1.0
    before = load_file(wan_base / "vae" / "diffusion_pytorch_model.safetensors")
    after = pipeline.vae.state_dict()
    for name, value in before.items():
        if name.startswith("decoder.conv_out"):
            # Three colours of four pixels each: the mean of the colours, pixel by pixel.
            value = torch.stack([value[pixel::4].mean(0) for pixel in range(4)])
        torch.testing.assert_close(after[name], value)
    shutil.rmtree(wan_base / "vae")
    shutil.copytree(micro_model / "vae", wan_base / "vae")
    _, tuned = open_model(wan_base, torch.float32)
    own = load_file(micro_model / "vae" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(v, own[k]) for k, v in tuned.vae.state_dict().items())


def test_a_vae_of_pictures_is_left_as_it_is() -> None:
    vae = build_vae(PRESETS["micro"]).bfloat16()
    copy = mask_vae_from(vae)
    assert {p.dtype for p in copy.parameters()} == {torch.bfloat16}
    assert copy.config.out_channels == 4 and vae.config.out_channels == 12
    shared = {p.data_ptr() for p in vae.parameters()} & {p.data_ptr() for p in copy.parameters()}
    assert not shared, "training one leaves the other"


def test_new_channels_begin_at_zero_behind_the_old_ones() -> None:
    transformer = micro_pipeline().transformer
    wide = inject_video(transformer)
    weight = wide.patch_embedding.weight
    assert torch.equal(weight[:, :16], transformer.patch_embedding.weight)
    assert weight.shape[1] == 32 and weight[:, 16:].abs().max() == 0
    old, new = transformer.state_dict(), wide.state_dict()
    assert all(
        torch.equal(v, new[k]) for k, v in old.items() if not k.startswith("patch_embedding.w")
    )


def test_what_cannot_be_opened_gets_one_line(micro_model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(micro_model, broken)
    (broken / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"none")
    with pytest.raises(
        CheckpointError, match=rf"^{re.escape(str(broken))} cannot be loaded to be trained: .+$"
    ) as e:
        open_model(broken, torch.float32)
    assert "\n" not in str(e.value) and len(str(e.value)) < 300 + len(str(broken))


def test_a_model_is_written_whole_beside_its_base(
    micro_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, pipeline = open_model(micro_model, torch.float32)
    with torch.no_grad():
        pipeline.transformer.proj_out.bias += 1
    card = {"name": "mine", "steps": 3}
    target = tmp_path / "new" / "model"
    changed = {"transformer": pipeline.transformer}
    assert write_model(micro_model, target, pipeline, changed, card) == target
    index = json.loads((target / "model_index.json").read_text())
    before = json.loads((micro_model / "model_index.json").read_text())
    assert index == before | {"name": "mine", "_diffusers_version": index["_diffusers_version"]}
    assert json.loads((target / "training.json").read_text()) == card
    assert (
        flowrvs.load(target, device="cpu").transformer.proj_out.bias[0]
        == (pipeline.transformer.proj_out.bias[0])
    )
    file = "vae/diffusion_pytorch_model.safetensors"
    assert (target / file).samefile(micro_model / file)
    for part in ("vae", "text_encoder", "tokenizer"):
        names = [{p.name for p in (f / part).iterdir()} for f in (micro_model, target)]
        assert names[0] == names[1]

    def refuse(*_: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    other = card | {"steps": 4}
    write_model(micro_model, target, pipeline, changed, other)  # in the place of an earlier one
    assert json.loads((target / "training.json").read_text()) == other
    assert not (target / file).samefile(micro_model / file)
    assert (target / file).read_bytes() == (micro_model / file).read_bytes()
    for name in ("training.json", "model_index.json"):
        (target / name).unlink()
        with pytest.raises(InputError):
            write_model(micro_model, target, pipeline, changed, card)
        assert target.is_dir()
        (target / name).write_text("{}")


# -- adapters ----------------------------------------------------------------------------


def test_adapters_are_drawn_by_the_seed_and_trained_in_32_bits() -> None:
    def adapted(seed: int, alpha: int = 0) -> Any:
        transformer = micro_pipeline().transformer.bfloat16()
        add_adapter(transformer, 3, alpha, seed)
        return transformer

    first, again, other = adapted(1), adapted(1, 6), adapted(2)
    trained = {n: p for n, p in first.named_parameters() if p.requires_grad}
    # Four matrices of each attention and two of the feed-forward network, by two, in two blocks.
    assert len(trained) == 2 * (2 * 4 + 2) * 2 and all("lora_" in name for name in trained)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert {p.dtype for n, p in first.named_parameters() if "attn1.to_q.base" in n} == {
        torch.bfloat16
    }
    for name, value in trained.items():
        assert torch.equal(value, dict(again.named_parameters())[name])
    assert any(not torch.equal(v, dict(other.named_parameters())[n]) for n, v in trained.items())
    settings = [t.peft_config["default"] for t in (first, again)]
    assert [(s.r, s.lora_alpha) for s in settings] == [(3, 3), (3, 6)]
    transformer, state = micro_pipeline().transformer, torch.get_rng_state()
    add_adapter(transformer, 3, 0, 9)
    assert torch.equal(torch.get_rng_state(), state), "nothing else is drawn otherwise"


def test_an_adapter_takes_the_place_of_one_only(micro_model: Path, tmp_path: Path) -> None:
    pipeline = micro_pipeline()
    add_adapter(pipeline.transformer, 2, 4)
    weights = {
        name: torch.full_like(p, 0.1)
        for name, p in pipeline.transformer.named_parameters()
        if p.requires_grad
    }
    folder = tmp_path / "lora"
    for step in (1, 2):
        assert save_adapter(pipeline.transformer, weights, folder, {"step": step}) == folder
        assert json.loads((folder / "training.json").read_text()) == {"step": step}
    with safe_open(folder / "pytorch_lora_weights.safetensors", "pt") as file:
        names, metadata = set(file.keys()), file.metadata()
    assert names == {"transformer." + name.replace(".default", "") for name in weights}
    assert '"transformer.lora_alpha": 4' in str(metadata)
    merged = merge_lora(micro_model, folder, tmp_path / "merged")
    with pytest.raises(InputError, match=r"merged is there already; give a new folder as --out"):
        merge_lora(merged, folder, merged)  # a model is only read
    new, old = (
        load_file(f / "transformer" / "diffusion_pytorch_model.safetensors")
        for f in (merged, micro_model)
    )
    name = "blocks.1.ffn.net.2.weight"
    torch.testing.assert_close(new[name], old[name] + 2 * 2 * 0.01)  # alpha / rank, rank
    (folder / "pytorch_lora_weights.safetensors").unlink()
    with pytest.raises(InputError):
        save_adapter(pipeline.transformer, weights, folder, {})


# -- a run -------------------------------------------------------------------------------


def test_which_folders_a_training_may_have(micro_model: Path, tmp_path: Path) -> None:
    config = FlowConfig(precision="float32")

    def start(out: Path, **options: Any) -> TrainingRun:
        return TrainingRun("flow", micro_model, out, config, device="cpu", **options)

    def refused(message: str, *args: Any, **options: Any) -> None:
        with pytest.raises(InputError) as caught:
            start(*args, **options)
        assert str(caught.value) == message

    out = tmp_path / "out"
    none = f"Nothing to resume: there is no checkpoint in {out}; leave out --resume."
    refused(none, out, resume=True)
    out.mkdir()
    for name in ("best.safetensors", "log.jsonl"):
        (out / name).touch()
    begun = start(out)
    assert list(out.iterdir()) == [] and begun.name == "out"
    assert (begun.stage, begun.precision, begun.dtype) == ("flow", "float32", torch.float32)
    assert (begun.resume, begun.tensorboard, begun.progress, begun.cancel) == (False,) * 2 + (
        None,
    ) * 2
    (out / "checkpoints" / "step-00000001").mkdir(parents=True)
    (out / "log.jsonl").touch()
    refused(f"{out} holds a training already; give --resume or another --out.", out)
    resumed = start(out, resume=True, name="mine", tensorboard=True, progress=print)
    assert (out / "log.jsonl").exists() and resumed.name == "mine"
    assert (resumed.resume, resumed.tensorboard, resumed.progress) == (True, True, print)
    (tmp_path / "file").touch()
    refused(f"{tmp_path / 'file'} is a file; give a folder.", tmp_path / "file")
    for result in ("model", "lora"):  # whose checkpoints somebody removed
        done = tmp_path / f"with-{result}"
        (done / result).mkdir(parents=True)
        line = f"{done} holds the result of a training already; give another --out."
        refused(line, done)
        refused(line, done, resume=True)  # neither of the two would send to the other
    for device in ("banana", "cuda:99"):
        with pytest.raises(InputError, match=f"{device}"):
            TrainingRun("flow", micro_model, tmp_path / "c", config, device=device)
    assert not (tmp_path / "c").exists()
    half = dataclasses.replace(config, precision="bfloat16")
    other = TrainingRun("flow", micro_model, tmp_path / "b", half, device="cpu")
    assert other.dtype == torch.bfloat16 == other.pipeline.transformer.dtype


def test_the_format_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, knows, expected in (
        (True, True, "bfloat16"),
        (True, False, "float32"),
        (False, True, "float32"),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has=has: has)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda knows=knows: knows)
        assert choose_precision("auto", "auto") == expected
        assert choose_precision("auto", "cpu") == "float32"
        assert choose_precision("mixed", "cuda") == "mixed"


class Fake:
    """Stands for the engine: what it was given, what it will answer."""

    made: Any = None
    error: Exception | None = None
    best: Any = None
    before: dict[str, float]

    def __init__(self, *args: Any, **options: Any) -> None:
        self.args, self.options, self.calls = args, options, list[str]()
        Fake.made, self.module = self, torch.nn.Linear(1, 1)
        self.monitor = SimpleNamespace(before=Fake.before)
        self.checkpoints = SimpleNamespace(
            load_best=lambda: Fake.best, folder=args[4] / "checkpoints"
        )

    def resume(self) -> None:
        self.calls.append("resume")

    def run(self) -> None:
        self.calls.append("run")
        if Fake.error is not None:
            raise Fake.error

    def result(self) -> Any:
        return {"w": torch.ones(1)}, {"step": 5, "J": 0.2, "F": 0.4, "J&F": 0.3, "old J&F": 0.5}


def test_a_run_passes_on_and_tells_what_came_out(
    micro_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "Engine", Fake)
    config = FlowConfig(precision="float32")
    data: Any = SimpleNamespace(
        train=SimpleNamespace(epoch_length=17),
        identity=["a"],
        texts=lambda: ["red", "blue"],
        card=lambda: {"data": ["x"]},
    )
    (tmp_path / "out" / "checkpoints" / "step-00000001").mkdir(parents=True)
    options: dict[str, Any] = {"progress": print, "tensorboard": True, "resume": True}
    mine = TrainingRun("flow", micro_model, tmp_path / "out", config, device="cpu", **options)
    Fake.before, Fake.error, Fake.best = {}, None, None
    module, weights, card = mine.train("trainee", "dataset", data)  # type: ignore[arg-type]
    assert Fake.made.args == ("trainee", "dataset", 17, config, tmp_path / "out", mine.accelerator)
    assert Fake.made.options == {
        "identity": {
            "stage": "flow",
            "data": ["a"],
            "sentences": hash_of(["blue", "red"]),  # data may be moved
            "precision": "float32",
        },
        "tensorboard": True,
        "progress": print,
        "cancel": None,
    }
    assert Fake.made.calls == ["resume", "run"] and module is Fake.made.module
    assert weights == {"w": torch.ones(1)}
    date = card.pop("date")
    assert date.endswith("+00:00") and len(date) == 25
    assert card == {
        "name": "out", "stage": "flow", "base": str(micro_model), "flowrvs": flowrvs.__version__,
        "data": ["x"], "step": 5, "J": 0.2, "F": 0.4, "J&F": 0.3, "old J&F": 0.5,
    }  # fmt: skip
    scores = {"J": 0.2, "F": 0.4, "J&F": 0.3, "old J&F": 0.5}
    assert mine.trained(tmp_path, card) == Trained(tmp_path, 5, scores, card)
    # Cancelled: what was best so far comes out, if that is wished for and something was learned.
    Fake.error = Cancelled("stop")
    for keep, best, comes in (
        (True, ({}, {"step": 3}), True),
        (True, ({}, {"step": 0}), False),
        (True, None, False),
        (False, ({}, {"step": 3}), False),
    ):
        Fake.best = best
        if comes:
            assert mine.train("t", "d", data, improving=keep)[2]["step"] == 5  # type: ignore[arg-type]
            continue
        with pytest.raises(Cancelled):
            mine.train("t", "d", data, improving=keep)  # type: ignore[arg-type]
    Fake.error = None
    # The mean of both kinds counts: (0.3 + 0.5) / 2.
    Fake.before = {"J&F": 0.29, "old J&F": 0.5}
    assert mine.train("t", "d", data, improving=True)[2]["before"] == Fake.before  # type: ignore[arg-type]
    assert (tmp_path / "out" / "checkpoints").exists()
    for before in (0.3, 0.31):
        Fake.before = {"J&F": before, "old J&F": 0.5}
        (tmp_path / "out" / "checkpoints").mkdir(exist_ok=True)
        # Days of training are not thrown away for a score that somebody wanted to know.
        assert mine.train("t", "d", data)[2]["before"] == Fake.before  # type: ignore[arg-type]
        assert (tmp_path / "out" / "checkpoints").exists()
        with pytest.raises(TrainingError) as caught:
            mine.train("t", "d", data, improving=True)  # type: ignore[arg-type]
        assert str(caught.value) == (
            "It did not help: no state scored higher on held-out videos than the model as it was "
            f"(J&F {before:.3f}); nothing was kept. More clips help more than time."
        )
        assert not (tmp_path / "out" / "checkpoints").exists()


# -- the log -----------------------------------------------------------------------------


def test_a_board_is_told_every_number_by_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    board = SimpleNamespace(
        add_scalar=lambda *row: told.append(row),
        flush=lambda: told.append("flush"),
        close=lambda: told.append("close"),
    )
    folders: list[Path] = []
    monkeypatch.setattr(
        "flowrvs.training.journal._summary_writer", lambda folder: folders.append(folder) or board
    )
    clock = iter([10.0, 12.34, 20.0])
    now = SimpleNamespace(monotonic=lambda: next(clock))
    monkeypatch.setattr("flowrvs.training.journal.time", now)
    journal = Journal(tmp_path / "new", tensorboard=True)
    assert folders == [tmp_path / "new" / "tensorboard"]
    journal.rewind(3)  # there is no log yet
    journal.add(loss=1.0, norm=2.0)
    journal.add(loss=2.0000005)
    line = journal.report(step=4, name="x")
    assert line == {"step": 4, "name": "x", "loss": 1.5, "norm": 2.0, "seconds": 2.3}
    assert told == [("loss", 1.5, 4), ("norm", 2.0, 4), ("seconds", 2.3, 4), "flush"]
    told.clear()
    assert journal.report(rate=0.5) == {"rate": 0.5, "seconds": 10.0}
    assert told == [("rate", 0.5, 0), ("seconds", 10.0, 0), "flush"]
    journal.rewind(3)  # what has no step was before
    assert read_log(journal.path) == [{"rate": 0.5, "seconds": 10.0}]
    journal.close()
    assert told[-1] == "close"
    monkeypatch.undo()
    Journal(tmp_path).close()


def test_the_plot_shows_loss_and_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = pytest.importorskip("matplotlib.figure")
    drawn: list[Any] = []
    monkeypatch.setattr(
        figures.Figure,
        "savefig",
        lambda self, path, **options: drawn.append((self, options)) or Path(path).write_bytes(b"x"),
    )
    log, picture = tmp_path / "log.jsonl", tmp_path / "log.png"
    lines = [
        {"step": 0, "J&F": 0.1},
        {"step": 2, "loss": 4.0},
        {"step": 4, "loss": 0.5, "J&F": 0.3},
    ]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    plot_log(log, picture)
    figure, options = drawn.pop()
    assert options == {"format": "png", "dpi": 120} and picture.read_bytes() == b"x"
    left, right = figure.axes
    assert (
        left.get_yscale() == "log" and left.get_ylabel() == "loss" and left.get_xlabel() == "step"
    )
    assert left.lines[0].get_xydata().tolist() == [[2, 4.0], [4, 0.5]]
    assert right.lines[0].get_xydata().tolist() == [[0, 0.1], [4, 0.3]]
    assert right.get_ylim() == (0, 1) and right.get_ylabel() == "J&F on held-out videos"
    assert left.lines[0].get_color() == left.yaxis.label.get_color() == "tab:blue"
    assert right.lines[0].get_color() == right.yaxis.label.get_color() == "tab:orange"
    assert right.lines[0].get_marker() == "o"
    log.write_text('{"step": 1, "loss": 0}\n')
    plot_log(log, picture)
    (axes,) = drawn.pop()[0].axes
    assert axes.get_yscale() == "linear"


@pytest.mark.parametrize(
    ("package", "call"),
    [
        ("matplotlib", lambda folder, _: plot_log(folder / "log.jsonl", folder / "log.png")),
        ("tensorboard", lambda folder, _: Journal(folder, tensorboard=True)),
        ("peft", lambda _, transformer: add_adapter(transformer, 2, 0)),
    ],
)
def test_what_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, call: Any
) -> None:
    transformer = micro_pipeline().transformer
    # What was imported before by other tests goes, too.
    for name in (package, "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(MissingExtraError) as caught:
        call(tmp_path, transformer)
    said = f"needs {package}, which is not installed: pip install 'napari-flowrvs[train]'."
    assert str(caught.value).endswith(said)


def test_an_error_of_ours_passes_as_it_is(
    micro_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: Exception) -> None:
        raise error

    for error, message in (
        (CheckpointError("One line."), "One line."),
        (ValueError("two\nlines"), f"{micro_model} cannot be loaded to be trained: two lines"),
        (ValueError(), f"{micro_model} cannot be loaded to be trained: ValueError"),
        (ValueError("x" * 300), f"{micro_model} cannot be loaded to be trained: {'x' * 200}"),
    ):
        monkeypatch.setattr(
            "flowrvs.training.models._open", lambda folder, dtype, error=error: fail(error)
        )
        with pytest.raises(CheckpointError) as caught:
            open_model(micro_model, torch.float32)
        assert str(caught.value) == message
