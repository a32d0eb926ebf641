"""What an improvement chooses by itself, and what it passes on, keeps and clears away."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flowrvs.errors import Cancelled, InputError
from flowrvs.locks import FileLock
from flowrvs.models.presets import PRESETS, build_transformer, build_vae
from flowrvs.progress import CancelToken
from flowrvs.training import FlowConfig, Improvement, corrections, improve, plan_improvement
from flowrvs.training.background import BackgroundTraining
from flowrvs.training.flow import flow_step_loss
from flowrvs.training.run import Trained
from flowrvs.training.setup import prepare_data
from flowrvs.training.sources.world import WorldSource
from tests.fixtures.micro import micro_pipeline
from tests.fixtures.training_data import make_project
from tests.unit.flowrvs.training.test_flow import FLOW

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two projects, not to be changed."""
    folder = tmp_path_factory.mktemp("projects")
    for name, seed in (("a", 3), ("b", 4)):
        make_project(folder, name, seed)
    return folder


def large_pipeline() -> Any:
    """The size of the official model, without its weights."""
    with torch.device("meta"):
        transformer = build_transformer(PRESETS["production"])
        vae = build_vae(PRESETS["production"], mask_decoder=True)
    pipeline = micro_pipeline()
    pipeline.register_modules(transformer=transformer, vae=vae)
    pipeline.register_to_config(sample_height=480, sample_width=832)
    return pipeline


def changed_options(config: FlowConfig) -> dict[str, Any]:
    default = dataclasses.asdict(FlowConfig())
    return {k: v for k, v in dataclasses.asdict(config).items() if v != default[k]}


def test_small_models_learn_whole_and_large_ones_by_adapters() -> None:
    common = {
        "milestones": (),
        "ema_decay": 0.99,
        "max_steps": 1000,
        "validate_every": 100,
        "save_every": 100,
        "epochs": 10**6,
        "validate_first": True,
        "best_tolerance": 0.03,
    }
    assert changed_options(corrections._config(micro_pipeline())) == common | {
        "sampler": "consecutive",
        "batch_size": 16,
        "learning_rate": 5e-4,
        "matrix_learning_rate": 1e-3,
        "word_learning_rate": 5e-3,
        "warmup": 30,
        "cooldown": 0.8,
        "object_weight": 4.0,
        "part_probability": 0.5,
        "ground_colour_probability": 0.7,
        "ground_probability": 0.7,
        "cover_probability": 0.3,
        "rehearsal_share": 0.33,
        "cache_variants": 6,
        "gradient_checkpointing": False,
        "boundary_probability": 0.9,
        "crop_probability": 0.0,
        "train_text": True,
        "remember": True,
        "workers": 0,
        "log_every": 5,
    }
    large = corrections._config(large_pipeline())
    assert changed_options(large) == common | {
        "sampler": "mixed",
        "learning_rate": 1e-4,
        "lora_rank": 32,
    }


def test_the_memory_by_hand() -> None:
    pipeline = micro_pipeline()
    transformer, vae = pipeline.transformer, pipeline.vae
    weights = sum(p.numel() for p in transformer.parameters())
    encoder = sum(p.numel() for p in vae.parameters())
    layers, width, inner = 2, 2 * 12, 32
    config = FlowConfig(
        frames=9, batch_size=3, gradient_checkpointing=True, short_side=640, long_side=960
    )
    tokens = 3 * 640 * 960 // pipeline.token_pixels**2
    base = 80 * 640 * 960 // vae.config.patch_size**2 * vae.config.base_dim

    def taken(trained: int, own: int, average: int, kept: int, size: int = 4) -> int:
        state = trained * (3 * own + average)
        return weights * size + state + encoder * size + max(3 * tokens * width * kept, base) * size

    rank = layers * 4 * (16 * width + 2 * (width + inner))
    for changes, expected in (
        ({}, taken(weights, 4, 4, layers + 20)),
        ({"ema_decay": 0.0}, taken(weights, 4, 0, layers + 20)),
        ({"gradient_checkpointing": False}, taken(weights, 4, 4, layers * 42)),
        ({"lora_rank": 4}, taken(rank, 4, 4, layers + 60)),
        ({"lora_rank": 4, "gradient_checkpointing": False}, taken(rank, 4, 4, layers * 50)),
    ):
        changed = dataclasses.replace(config, **changes)
        assert corrections.training_bytes(pipeline, changed, torch.float32) == expected, changes
    halved = taken(weights, 2, 4, layers + 20, 2)
    assert corrections.training_bytes(pipeline, config, torch.bfloat16) == halved
    box = dataclasses.replace(config, short_side=0, long_side=0)
    own = dataclasses.replace(
        config,
        short_side=pipeline.config.sample_height,
        long_side=pipeline.config.sample_width,
    )
    assert corrections.training_bytes(pipeline, box, torch.float32) == corrections.training_bytes(
        pipeline, own, torch.float32
    )


def test_a_step_is_timed_as_it_will_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, ...]] = []

    def step(transformer: Any, start: Any, end: Any, times: Any, **options: Any) -> torch.Tensor:
        words = options["encoder_hidden_states"]
        seen.append((start.shape, end.shape, times.tolist(), words.shape, words.dtype, options))
        assert all(p.dtype == torch.float32 for p in transformer.parameters())
        return flow_step_loss(transformer, start, end, times, **options)

    monkeypatch.setattr(corrections, "flow_step_loss", step)
    ticks = iter([0.0, 5.0, 10.0, 12.5] * 2)
    # Not the clock of all: other threads would take ticks of it.
    clock = SimpleNamespace(perf_counter=lambda: next(ticks))
    monkeypatch.setattr(corrections, "time", clock)
    pipeline = micro_pipeline()
    config = dataclasses.replace(FLOW, frames=9, batch_size=2, gradient_checkpointing=True)
    assert corrections._time_step(pipeline, config, CPU, torch.float32) == 2.5  # the second one
    height, width = pipeline.config.sample_height, pipeline.config.sample_width
    shape = (2, 16, 3, height // 8, width // 8)
    length, dim = pipeline.config.max_sequence_length, pipeline.transformer.config.text_dim
    assert [row[:5] for row in seen] == [
        (shape, shape, [1000.0] * 2, (2, length, dim), torch.float32)
    ] * 2
    assert seen[0][5]["inject"] is False and seen[0][5]["dtype"] == torch.float32
    assert all(p.grad is None and p.requires_grad for p in pipeline.transformer.parameters())
    assert pipeline.transformer.is_gradient_checkpointing

    clips: list[tuple[int, ...]] = []

    class Encoder:
        def __init__(self, vae: Any, *, mixed: bool) -> None:
            assert vae is pipeline.vae
            clips.append((mixed,))

        def latent(self, clip: Any) -> torch.Tensor:
            clips.append(clip.shape)
            return torch.zeros(1)

    monkeypatch.setattr(corrections, "ClipEncoder", Encoder)
    mixed = dataclasses.replace(config, precision="mixed")
    assert corrections._time_encoding(pipeline, mixed, CPU) == 2.5
    assert clips == [(True,)] + [(9, height, width, 3)] * 2


@pytest.mark.parametrize("mixed_pace", [1.0, 3.0])
def test_a_plan_by_the_pace_of_this_machine(
    micro_model: Path, projects: Path, monkeypatch: pytest.MonkeyPatch, mixed_pace: float
) -> None:
    monkeypatch.setattr(corrections, "_REHEARSED", 6)
    monkeypatch.setattr(
        corrections, "_time_step", lambda *args, mixed=False: mixed_pace if mixed else 2.0
    )
    monkeypatch.setattr(corrections, "_time_encoding", lambda *args: 0.1)
    plan = plan_improvement([projects], model=micro_model, minutes=60, device="cpu")
    pace, precision = min((2.0, "float32"), (mixed_pace, "mixed"))
    assert (plan.model, plan.note, plan.device) == (str(micro_model), "", "cpu")
    assert plan.config.precision == precision
    pipeline = micro_pipeline()
    prepared = prepare_data(
        [projects], plan.config, pipeline, variants=6, rehearsal=WorldSource(6, 32, 48)
    )
    steps, seconds = corrections._fit_steps(prepared, plan.config, pace, 0.1, 3600.0)
    assert (plan.steps, plan.seconds) == (steps, seconds)
    every = -(-steps // 6)
    config = plan.config
    assert (config.max_steps, config.validate_every, config.save_every) == (steps, every, every)
    assert config.minutes == pytest.approx(0.96 * 60)
    assert plan.memory == corrections.training_bytes(pipeline, config, torch.float32)
    assert (plan.videos, plan.sentences, plan.objects, plan.frames) == (1, 2, 1, 4)
    assert (plan.held_out_videos, plan.held_out_sentences, plan.left_out) == (1, 2, {})
    names = {field.name for field in dataclasses.fields(plan)}
    assert plan.as_dict() == {name: getattr(plan, name) for name in names - {"config"}}
    few = plan_improvement([projects], model=micro_model, device="cpu", max_steps=8)
    assert (few.steps, few.config.max_steps, few.config.minutes) == (8, 8, 0.0)
    assert few.config.validate_every == few.config.save_every == 5
    for minutes in (0, -1, 1e5, float("nan")):
        with pytest.raises(InputError, match=f"^{minutes:g} minutes is no time to train in; give"):
            plan_improvement([projects], model=micro_model, minutes=minutes, device="cpu")


@pytest.mark.parametrize(("rank", "precision"), [(0, "mixed"), (2, "bfloat16")])
def test_on_a_gpu_whole_models_keep_their_weights_in_32_bits(
    micro_model: Path, projects: Path, monkeypatch: pytest.MonkeyPatch, rank: int, precision: str
) -> None:
    asked: list[Any] = []
    options = dataclasses.replace(corrections._config(micro_pipeline()), lora_rank=rank)
    if rank:
        options = dataclasses.replace(options, remember=False, object_weight=0.0)
    gpu = torch.device("meta")
    for name, answer in (
        ("choose_device", lambda name: asked.append(name) or gpu),
        ("choose_precision", lambda *args: asked.append(args) or "bfloat16"),
        ("_config", lambda pipeline: options),
        ("_rehearsal", lambda model: None),
        ("_time_step", lambda *args, mixed: asked.append((*args[1:], mixed)) or 2.0),
        ("_time_encoding", lambda *args: asked.append(args[1:]) or 0.1),
    ):
        monkeypatch.setattr(corrections, name, answer)
    plan = plan_improvement([projects], model=micro_model, device="gpu0", max_steps=60)
    dtype = torch.bfloat16 if rank else torch.float32
    timed = (options, gpu, dtype, not rank)
    chosen = dataclasses.replace(options, precision=precision)
    assert asked == ["gpu0", ("auto", "meta"), timed, (chosen, gpu)]
    assert (plan.device, plan.config.precision) == ("meta", precision)
    assert plan.config.validate_every == plan.config.save_every == 10
    pipeline = micro_pipeline()
    assert plan.memory == corrections.training_bytes(pipeline, plan.config, dtype)


def test_what_speaks_of_the_world_rehearses_it(
    micro_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corrections, "WorldSource", lambda *numbers: numbers)
    assert corrections._rehearsal(micro_model) == (400, 32, 48)
    other = tmp_path / "other"
    shutil.copytree(micro_model, other)
    file = other / "tokenizer" / "tokenizer.json"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("\u2581circle", "\u2581circus"), encoding="utf-8")
    assert corrections._rehearsal(other) is None  # it lacks a word


def test_why_this_model_is_started_from(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = "the bundled model learns, which knows shapes only."
    gpu = torch.device("cuda")
    assert corrections.choose_base(Path("x"), gpu) == ("x", "")
    assert corrections.choose_base("auto", CPU) == ("tiny", f"There is no GPU here: {shapes}")
    assert corrections.choose_base("auto", gpu) == (
        "tiny",
        "There is a GPU, but not the official model ('flowrvs models fetch mevis'): the bundled "
        "one learns, which knows shapes only.",
    )
    monkeypatch.setattr(corrections, "is_whole", lambda name: name == "mevis")
    said = "The official model gets adapters (LoRA); its weights stay as they are."
    assert corrections.choose_base("auto", gpu) == ("mevis", said)


PLAN = Improvement(
    "tiny", "note", "cpu", 1, 2, 3, 4, 5, 6, {"x": 1}, 7, 8.0, 9, FlowConfig(max_steps=7, frames=5)
)


def test_an_improvement_passes_on_what_it_was_given(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corrections, "_rehearsal", lambda model: f"world of {model}")
    monkeypatch.setattr(corrections, "_POLL_SECONDS", 0.01)
    monkeypatch.chdir(tmp_path)
    work = home / ".mine.training"
    left = ("best.safetensors", "log.jsonl", "example.png", "checkpoints/a", "cache/a")
    calls: list[tuple[Any, ...]] = []

    def fill(*names: str) -> None:
        for name in names:
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).touch()

    def train(*args: Any, cancel: CancelToken, **options: Any) -> Trained:
        calls.append((*args, options))
        assert not (work / "cancel").exists()
        there = {name for name in left if (work / name).exists()}
        assert there == (set(left) if options["resume"] else set())
        assert not FileLock(work / "lock").acquire(), "one process at a time"
        with pytest.raises(InputError, match="^mine is being trained by another process; choose"):
            improve(["x"], name="mine", plan=PLAN, resume=options["resume"])
        fill(*left, "cancel")
        if options["progress"] is None:
            return Trained(home / "mine", 7, {}, {})
        assert cancel._event.wait(30), "the file was seen"
        cancel.raise_if_cancelled()
        raise AssertionError

    monkeypatch.setattr(corrections, "train_flow", train)
    fill(*left)
    given: dict[str, Any] = {"name": "mine", "device": "cpu"}
    progress, token = print, CancelToken()
    with pytest.raises(Cancelled):
        improve(["a", tmp_path / "b"], plan=PLAN, progress=progress, cancel=token, **given)
    expected: dict[str, Any] = {
        "rehearsal": "world of tiny",
        "name": "mine",
        "device": "cpu",
        "target": home / "mine",
        "examples": work / "example.png",
        "resume": False,
        "improving": True,
        "progress": progress,
    }
    data = ["a", tmp_path / "b"]
    assert calls == [("tiny", data, work, PLAN.config, expected)]
    assert token.cancelled and not (work / "cancel").exists()
    assert all((work / name).exists() for name in left), "it may go on"
    document = json.loads((work / "plan.json").read_text())
    assert document == json.loads(json.dumps(PLAN.as_dict())) | {
        "name": "mine",
        "data": [str(tmp_path / "a"), str(tmp_path / "b")],
        "config": json.loads(json.dumps(dataclasses.asdict(PLAN.config))),
    }
    # What was planned goes on, whatever is asked for now.
    (home / "mine").mkdir()
    trained = improve(data, resume=True, model="other", minutes=9, **given)
    assert trained.folder == home / "mine"
    expected |= {"resume": True, "progress": None}
    assert calls[1] == ("tiny", data, work, PLAN.config, expected)
    assert {path.name for path in work.iterdir()} == {
        "lock", "plan.json", "log.jsonl", "example.png",
    }  # fmt: skip
    assert FileLock(work / "lock").acquire()
    with pytest.raises(InputError) as caught:
        improve(data, **given)
    assert str(caught.value) == f"{home / 'mine'} is there already; choose another name."
    fill("checkpoints/step-00000003/a")  # hours of somebody's machine
    (home / "mine").rmdir()
    with pytest.raises(InputError, match="^mine was begun before: give --resume, or choose anot"):
        improve(data, **given)


def test_a_wish_to_stop_while_it_is_planned_is_heard(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = BackgroundTraining("mine")

    def plan(*args: Any, **options: Any) -> Improvement:
        assert BackgroundTraining("mine").look().phase == "preparing", "whoever looks"
        BackgroundTraining("mine").cancel()
        assert training.stopping
        return PLAN

    def train(*args: Any, cancel: CancelToken, **options: Any) -> Trained:
        assert cancel._event.wait(30)
        raise Cancelled("Stopped.")

    monkeypatch.setattr(corrections, "plan_improvement", plan)
    monkeypatch.setattr(corrections, "_rehearsal", lambda model: None)
    monkeypatch.setattr(corrections, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(corrections, "train_flow", train)
    with pytest.raises(Cancelled):
        improve(["a"], name="mine")
    assert not training.stopping


def test_without_a_plan_it_makes_one(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    def plan(data: Any, **options: Any) -> Improvement:
        asked.append((data, options))
        return PLAN

    monkeypatch.setattr(corrections, "plan_improvement", plan)
    monkeypatch.setattr(corrections, "_rehearsal", lambda model: None)
    monkeypatch.setattr(
        corrections, "train_flow", lambda *args, **options: Trained(args[2], 1, {}, {})
    )
    other = tmp_path / "other"
    given: dict[str, Any] = {"model": "m", "minutes": 3, "device": "cpu", "max_steps": 5}
    told: list[Improvement] = []
    trained = improve(["a"], name="x", home=other, planned=told.append, **given)
    assert asked == [(["a"], given)] and told == [PLAN]
    assert trained.folder == other / ".x.training" and not home.exists()


def test_only_what_was_begun_goes_on(home: Path) -> None:
    work = home / ".mine.training"
    with pytest.raises(InputError) as caught:
        improve(["a"], name="mine", resume=True)
    said = f"Nothing to resume: there is no training in {work}; leave out --resume."
    assert str(caught.value) == said
    for text in ("{", "[]", "{}", '{"model": "m"}', '{"model": "m", "config": {"x": 1}}'):
        (work / "plan.json").write_text(text)
        with pytest.raises(InputError, match=r"plan.json cannot be read \(.+\); train again under"):
            improve(["a"], name="mine", resume=True)
