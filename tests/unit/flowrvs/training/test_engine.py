"""The loop: exact updates and averages, exact resumption, rates, scores and the log."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType

from flowrvs.errors import (
    Cancelled,
    DeviceMemoryError,
    InputError,
)
from flowrvs.progress import CancelToken, ProgressClock
from flowrvs.training.engine import Engine, Monitor, make_accelerator, merit_of, rate_factor
from flowrvs.training.journal import Journal, plot_log, read_log
from flowrvs.training.optimizers import make_optimizers
from flowrvs.training.sentences import SpokenTransformer
from tests.fixtures.micro import micro_pipeline
from tests.unit.flowrvs.training.small_engine import CONFIG, Line, Numbers, Several, make_engine


def test_steps_are_adamw_with_the_published_schedule_and_average(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    engine.run()
    reference = Line()
    weight = reference.module.weight
    optimizer = torch.optim.AdamW([weight], lr=0.05, weight_decay=5e-4)
    average = weight.detach().clone()
    losses = []
    for step in range(8):
        # Four steps are a pass of eight samples; the rate drops after passes 1 and 3.
        optimizer.param_groups[0]["lr"] = 0.05 * (0.5 if step >= 4 else 1.0)
        points = torch.stack([Numbers()[2 * step], Numbers()[2 * step + 1]])
        optimizer.zero_grad()
        loss = (reference.module(points)[:, 0] - points.sum(1)).square().mean()
        loss.backward()
        losses.append(loss.item())
        torch.nn.utils.clip_grad_norm_([weight], 1.0)
        optimizer.step()
        decay = min(0.9, (1 + step) / (10 + step)) if step else 0.0
        average += (1 - decay) * (weight.detach() - average)
    trained = dict(engine.module.named_parameters())["weight"]
    torch.testing.assert_close(trained, weight, rtol=1e-6, atol=1e-7)
    weights, facts = engine.result()
    torch.testing.assert_close(weights["weight"], average, rtol=1e-6, atol=1e-7)
    # Adam would not notice a loss that is too large: the log tells it, two steps a line.
    told = [line["loss"] for line in read_log(tmp_path / "log.jsonl")]
    expected = [sum(losses[i : i + 2]) / 2 for i in range(0, 8, 2)]
    assert told == pytest.approx(expected, abs=2e-6)
    assert list(weights) == ["weight"]  # the frozen bias is not written
    assert facts["step"] == 8
    assert engine.ema.shadow_params[0].dtype == torch.float32


def test_every_sample_counts_as_much_whatever_it_is_computed_with(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, batch_size=5, max_steps=1, log_every=1)
    points = torch.stack([Numbers()[n] for n in range(5)])
    assert (points[:, 0] > 0).sum() in (1, 2, 3, 4), "two groups, of which one is larger"
    expected = (Line().module(points)[:, 0] - points.sum(1)).square().mean().item()
    make_engine(tmp_path, config=config).run()
    (line,) = read_log(tmp_path / "log.jsonl")
    assert line["loss"] == pytest.approx(expected, abs=2e-6)


def test_what_was_known_counts_as_much_as_what_is_learned() -> None:
    scores = {"J": 0.9, "F": 0.7, "J&F": 0.8, "old J": 0.1, "old F": 0.3, "old J&F": 0.2}
    assert merit_of(scores) == pytest.approx(0.5)
    assert merit_of({"J": 0.0, "J&F": 0.25}) == 0.25


def test_a_log_goes_on_behind_the_step_that_is_resumed(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for step in (1, 2, 3):
        journal.add(loss=step, norm=2.0)
        journal.add(loss=step + 1)
        journal.report(step=step)
    journal.rewind(2)
    journal.report(step=3)
    lines = [{k: v for k, v in x.items() if k != "seconds"} for x in read_log(journal.path)]
    means = [{"step": step, "loss": step + 0.5, "norm": 2.0} for step in (1, 2)]
    assert lines == [*means, {"step": 3}]


def test_rates_warm_up_and_drop_at_milestones() -> None:
    config = dataclasses.replace(CONFIG, warmup=4)
    assert [rate_factor(config, step, 0, 9) for step in (0, 1, 3, 8)] == [0.25, 0.5, 1.0, 1.0]
    rates = [rate_factor(CONFIG, 9, epoch, 99) for epoch in (0, 1, 2, 3)]
    assert rates == [1, 0.5, 0.5, 0.25]
    cooling = dataclasses.replace(CONFIG, cooldown=0.4)
    rates = [rate_factor(cooling, step, 0, 100) for step in (0, 60, 80, 99)]
    assert rates == pytest.approx([1.0, 1.0, 0.5, 0.025])


def test_matrices_of_the_blocks_learn_by_muon_all_else_by_adamw(tmp_path: Path) -> None:
    def build() -> torch.nn.Module:
        torch.manual_seed(1)
        blocks = torch.nn.ModuleList([torch.nn.Linear(3, 3)])
        return torch.nn.ModuleDict({"blocks": blocks, "head": torch.nn.Linear(3, 1)})

    def loss(module: torch.nn.Module, points: torch.Tensor) -> torch.Tensor:
        found = module["head"](module["blocks"][0](points).tanh())  # type: ignore[index]
        return (found[:, 0] - points.sum(1)).square().mean()

    line = Line()
    line.module = build()
    line.validate = lambda module: {}  # type: ignore[method-assign]
    line.groups = lambda samples: [samples]  # type: ignore[method-assign]
    line.loss = lambda module, group: loss(module, torch.stack(group))  # type: ignore[method-assign]
    config = dataclasses.replace(
        CONFIG, matrix_learning_rate=0.02, max_steps=3, cooldown=1.0, save_every=2, milestones=()
    )
    engine = make_engine(tmp_path, line, config)
    engine.run()
    reference = build()
    matrix = reference["blocks"][0].weight  # type: ignore[index]
    rest = [p for p in reference.parameters() if p is not matrix]
    adam = torch.optim.AdamW(rest, weight_decay=5e-4)
    muon = torch.optim.Muon([matrix], weight_decay=5e-4, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        adam.param_groups[0]["lr"] = 0.05 * (3 - step) / 3
        muon.param_groups[0]["lr"] = 0.02 * (3 - step) / 3
        reference.zero_grad()
        loss(reference, torch.stack([Numbers()[2 * step], Numbers()[2 * step + 1]])).backward()
        torch.nn.utils.clip_grad_norm_(list(reference.parameters()), 1.0)
        adam.step()
        muon.step()
    expected = dict(reference.named_parameters())
    for name, value in engine.module.named_parameters():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    again = Line()
    again.module = build()
    resumed = make_engine(tmp_path, again, config)
    resumed.resume()  # both optimizers' states are in the checkpoint
    (state,) = resumed.optimizers[1].state_dict()["state"].values()
    assert torch.equal(state["momentum_buffer"], muon.state[matrix]["momentum_buffer"])


def test_every_weight_has_one_optimizer_and_its_rate() -> None:
    pipeline = micro_pipeline()
    named = list(SpokenTransformer(pipeline.transformer, pipeline.text_encoder).named_parameters())
    made = make_optimizers(named, 1.0, matrix_rate=2.0, word_rate=3.0, weight_decay=0.1)
    rates = {id(p): rate for o, rate in made for g in o.param_groups for p in g["params"]}
    assert len(rates) == len(named)
    of = {name: rates[id(parameter)] for name, parameter in named}
    assert {name for name, rate in of.items() if rate == 3.0} == {"text_encoder.shared.weight"}
    assert (
        of["transformer.blocks.0.attn1.to_q.weight"] == of["transformer.blocks.0.ffn.net.2.weight"]
    )
    assert of["transformer.blocks.0.ffn.net.2.weight"] == 2.0
    others = ("blocks.0.attn1.to_q.bias", "proj_out.weight", "condition_embedder.time_proj.weight")
    assert {of[f"transformer.{name}"] for name in others} == {1.0}
    assert of["text_encoder.encoder.block.0.layer.0.SelfAttention.q.weight"] == 1.0
    assert [rate for _, rate in make_optimizers(named, 1.0, weight_decay=0.1)] == [1.0]
    adam, muon, words = (optimizer for optimizer, _ in made)
    groups = [optimizer.param_groups[0] for optimizer in (adam, muon, words)]
    assert [type(o) for o in (adam, words)] == [torch.optim.AdamW] * 2
    assert isinstance(muon, torch.optim.Muon) and groups[1]["adjust_lr_fn"] == "match_rms_adamw"
    assert [(g["lr"], g["weight_decay"]) for g in groups] == [(1.0, 0.1), (2.0, 0.1), (3.0, 0.0)]
    assert groups[0]["betas"] == groups[2]["betas"] == (0.9, 0.999)
    other = make_optimizers(named, 1.0, word_rate=3.0, weight_decay=0.1, betas=(0.8, 0.9))
    assert [o.param_groups[0]["betas"] for o, _ in other] == [(0.8, 0.9)] * 2
    (matrix,) = [(n, p) for n, p in named if n.endswith("blocks.0.attn1.to_q.weight")]
    assert len(make_optimizers([matrix], 1.0, matrix_rate=2.0, weight_decay=0.1)) == 1


def test_the_number_of_steps_follows_the_time_that_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock:
        now = 100.0

    clock = SimpleNamespace(monotonic=lambda: Clock.now)
    monkeypatch.setattr("flowrvs.training.engine.time", clock)

    class Slow(Line):
        pace = 1.0

        def loss(self, module: torch.nn.Module, group: list[torch.Tensor]) -> torch.Tensor:
            Clock.now += self.pace
            return super().loss(module, group)

        def groups(self, samples: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
            return [list(samples)]

        def validate(self, module: torch.nn.Module) -> dict[str, float]:
            Clock.now += 2.0
            return {}

    slow = Slow()
    config = dataclasses.replace(CONFIG, minutes=1.0, max_steps=8, validate_every=4, save_every=4)
    totals: list[int] = []

    def watch(event) -> None:
        totals.append(event.total)
        if event.done == 8:
            slow.pace = 3.0  # a game is started
        if event.done == 20:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        make_engine(tmp_path, slow, config, progress=watch).run()
    # Four steps and a validation take 6 of the 60 seconds, then 14: each is known one step later.
    assert totals[:4] == [8] * 4 and totals[4:12] == [4 + 4 * 54 // 6] * 8
    assert totals[12:16] == [12 + 4 * (60 - 26) // 14] * 4
    resumed = make_engine(tmp_path, slow, config, progress=lambda event: totals.append(event.total))
    resumed.resume()
    assert (resumed.step, resumed.total) == (20, 20 + 4 * (60 - 54) // 14)
    resumed.run()
    assert resumed.step == totals[-1] == 21


def test_the_best_average_is_kept_and_comes_out(tmp_path: Path) -> None:
    trainee = Line([0.7, 0.4])
    engine = make_engine(tmp_path, trainee)
    engine.run()
    weights, facts = engine.result()
    assert facts == {"step": 4, "J": 0.0, "F": 0.0, "J&F": 0.7}
    torch.testing.assert_close(weights["weight"], trainee.validated[0], rtol=0, atol=0)
    assert not torch.equal(trainee.validated[0], trainee.validated[1])
    last = make_engine(tmp_path, Line(), dataclasses.replace(CONFIG, keep_best=False))
    last.resume()
    weights, facts = last.result()
    torch.testing.assert_close(weights["weight"], trainee.validated[1], rtol=0, atol=0)
    # Validation looked at the averages, and training went on from its own weights.
    assert not torch.equal(trainee.validated[1], engine.parameters[0])


def test_what_a_kill_left_of_a_log_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n5\n\n{"step": 2, "loss": 0.5}\n{"ste')
    assert read_log(tmp_path / "log.jsonl") == [{"step": 1}, {"step": 2, "loss": 0.5}]


@pytest.mark.parametrize(("scores", "chosen"), [((0.7, 0.65, 0.62), 8), ((0.7, 0.5, 0.58), 3)])
def test_a_later_state_is_taken_unless_it_scores_clearly_lower(
    tmp_path: Path, scores: tuple[float, ...], chosen: int
) -> None:
    config = dataclasses.replace(CONFIG, best_tolerance=0.1, validate_every=3)
    engine = make_engine(tmp_path, Line(scores), config)
    engine.run()
    assert engine.result()[1]["step"] == chosen
    assert engine.monitor.best == 0.7  # so that many small losses do not add up


def test_the_progress_line_tells_loss_score_and_time(tmp_path: Path) -> None:
    events = []
    make_engine(tmp_path, Line([0.25, 0.5]), progress=events.append).run()
    assert [event.done for event in events] == list(range(1, 9))
    assert events[0].message.startswith("step 1, loss ")
    assert "J&F" not in events[2].message
    assert events[3].message.endswith(", J&F 0.250")
    assert events[5].remaining is not None
    lines = [line for line in read_log(tmp_path / "log.jsonl") if "loss" in line]
    assert [line["remaining"] >= 0 for line in lines] == [True] * 4
    assert lines[-1]["remaining"] == 0


def test_the_plot_and_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("tensorboard")
    from PIL import Image

    make_engine(tmp_path, Line([0.25, 0.5]), tensorboard=True).run()
    plot_log(tmp_path / "log.jsonl", tmp_path / "log.png")
    with Image.open(tmp_path / "log.png") as picture:
        assert picture.width > 600
        assert len(set(picture.convert("L").get_flattened_data())) > 10
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"J&F" in events.read_bytes()


def test_what_the_log_tells_of_a_step(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, log_every=3)
    make_engine(tmp_path, Line([0.25, 0.5]), config).run()
    lines = read_log(tmp_path / "log.jsonl")
    steps = [line for line in lines if "total" in line]
    # Every third and the last; eight samples are a pass of four steps.
    assert [(x["step"], x["total"], x["epoch"]) for x in steps] == [
        (3, 8, 0.75),
        (6, 8, 1.5),
        (8, 8, 2.0),
    ]
    assert [x["rate"] for x in steps] == pytest.approx([0.05, 0.025, 0.025])
    assert all(
        x.keys() == {"step", "total", "epoch", "rate", "remaining", "loss", "norm", "seconds"}
        for x in steps
    )
    scored = [{k: v for k, v in x.items() if k != "seconds"} for x in lines if "J" in x]
    # The mean of the steps since the last line is told with the scores.
    assert [(x["step"], x["J"], x["J&F"]) for x in scored] == [(4, 0.0, 0.25), (8, 0.0, 0.5)]


def test_without_an_average_the_weights_themselves_come_out(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, ema_decay=0.0)
    engine = make_engine(tmp_path, config=config)
    engine.run()
    assert engine.ema is None and not list(tmp_path.rglob("ema-*"))
    weights, facts = engine.result()
    assert torch.equal(weights["weight"], engine.parameters[0]) and facts == {"step": 8}
    again = make_engine(tmp_path, config=config)
    again.resume()
    assert torch.equal(again.parameters[0], engine.parameters[0])


def test_how_many_steps_there_are(tmp_path: Path) -> None:
    def total(length: int = 8, **changes: Any) -> tuple[int, int]:
        config = dataclasses.replace(CONFIG, **({"max_steps": 0} | changes))
        engine = make_engine(tmp_path, config=config)
        engine = Engine(
            Line(), Numbers(), length, config, tmp_path, engine.accelerator, identity={}
        )
        return engine.steps_per_epoch, engine.total

    assert total() == (4, 16) and total(length=9) == (4, 16)
    assert total(length=1) == (1, 4) and total(max_steps=5) == (4, 5)
    assert total(max_steps=99) == (4, 16) and total(batch_size=8, epochs=3) == (1, 3)


def test_what_nothing_can_be_trained_with(tmp_path: Path) -> None:
    frozen = Line()
    frozen.module.requires_grad_(False)
    with pytest.raises(InputError, match=r"^Nothing is to be trained: no weights were chosen\.$"):
        make_engine(tmp_path, frozen)

    class Small(Line):
        def loss(self, module: torch.nn.Module, group: list[torch.Tensor]) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(DeviceMemoryError) as caught:
        make_engine(tmp_path, Small()).run()
    assert str(caught.value) == (
        "The device ran out of memory: use --lora RANK, --cache DIR, gradient_checkpointing, "
        "fewer frames or a smaller short_side."
    )


def test_the_smoothed_loss() -> None:
    monitor = Monitor()
    assert monitor == Monitor(None, None, 0, -1.0, {}, {})
    for loss, smoothed in ((2.0, 2.0), (4.0, 2.1), (4.0, 2.195)):
        monitor.spikes(loss, 10)
        assert monitor.smoothed == pytest.approx(smoothed)
    flat = Monitor()
    for _ in range(99):
        flat.spikes(1.0, 2)
    assert flat.lowest is None
    flat.spikes(1.0, 2)
    assert flat.lowest == 1.0 and flat.count == 100
    assert not flat.spikes(21.0, 2), "twice is not more than twice"
    assert flat.spikes(2.1, 2)
    assert flat.lowest == 1.0


def test_a_score_before_the_first_step(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, validate_first=True)
    trainee = Line([0.9, 0.1, 0.2])
    start = trainee.module.weight.detach().clone()
    engine = make_engine(tmp_path, trainee, config)
    engine.run()
    assert engine.monitor.before == {"J": 0.0, "F": 0.0, "J&F": 0.9}
    assert torch.equal(trainee.validated[0], start)
    assert engine.result()[1]["step"] == 0  # nothing that was learned was better
    longer = dataclasses.replace(config, max_steps=12)
    again = make_engine(tmp_path, Line([0.3]), longer)
    again.resume()
    again.run()
    assert len(again.trainee.validated) == 1 and again.monitor.before["J&F"] == 0.9
    cancel = CancelToken()
    cancel.cancel()
    early = make_engine(tmp_path / "b", Line([0.5]), config, cancel=cancel)
    with pytest.raises(Cancelled, match="Stopped at step 0"):
        early.run()
    assert early.monitor.before == {} and not early.trainee.validated


def test_modules_train_and_are_scored_in_their_own_mode(tmp_path: Path) -> None:
    modes: list[bool] = []

    class Told(Line):
        def loss(self, module: torch.nn.Module, group: list[torch.Tensor]) -> torch.Tensor:
            modes.append(module.training)
            return super().loss(module, group)

        def validate(self, module: torch.nn.Module) -> dict[str, float]:
            assert not module.training
            return super().validate(module)

    trainee = Told([0.5, 0.5])
    trainee.module.eval()
    make_engine(tmp_path, trainee).run()
    assert modes and all(modes) and len(trainee.validated) == 2


def test_what_is_told_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_accelerator("mixed", "cpu").mixed_precision == "bf16"
    assert make_accelerator("bfloat16", "cpu").mixed_precision == "no"
    assert make_accelerator("float32", "cpu").device == torch.device("cpu")
    chosen: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    make_accelerator("float32", "cuda:1")
    make_accelerator("float32", "cuda")
    assert chosen == ["cuda:1"]


def test_rates_of_several_wishes_together() -> None:
    config = dataclasses.replace(CONFIG, warmup=10, cooldown=0.5)
    # Half after the first milestone, four tenths of the fall, three of ten steps of the rise.
    assert rate_factor(config, 2, 1, 10) == pytest.approx(0.5 * 1.0 * 0.3)
    assert rate_factor(config, 8, 1, 10) == pytest.approx(0.5 * 0.4 * 0.9)
    assert rate_factor(config, 9, 3, 10) == pytest.approx(0.25 * 0.2 * 1.0)
    assert rate_factor(config, 20, 0, 99) == 1.0


def test_all_processes_agree_on_how_many_steps_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(tmp_path, config=dataclasses.replace(CONFIG, minutes=1.0))
    now = SimpleNamespace(monotonic=lambda: 130.0)
    monkeypatch.setattr("flowrvs.training.engine.time", now)
    engine.step, engine._paced, engine._began, engine._spent = 6, (2, 5.0), 120.0, 15.0
    for answer, more in ((7.9, 7), (0.3, 1), (-5.0, 1)):
        several: Any = Several(answer)
        engine.accelerator, engine._paced = several, (2, 5.0)
        clock = ProgressClock(99)
        engine._fit_time(clock)
        # 25 of 60 seconds are gone; four steps took 20.
        assert several.calls == [((60 - 25) * 4 / 20, "mean")]
        assert engine.total == clock.total == 6 + more
        assert engine._paced == (6, 25.0)


def test_muon_wants_whole_matrices(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, matrix_learning_rate=0.1)
    several: Any = SimpleNamespace(num_processes=1, distributed_type=DistributedType.DEEPSPEED)
    with pytest.raises(InputError) as caught:
        Engine(Line(), Numbers(), 8, config, tmp_path, several, identity={})
    assert str(caught.value) == (
        "Muon needs whole matrices: no matrix_learning_rate with FSDP, DeepSpeed."
    )


def test_the_log_is_closed_whatever_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    board = SimpleNamespace(
        add_scalar=lambda *row: None, flush=lambda: None, close=lambda: told.append("close")
    )
    monkeypatch.setattr("flowrvs.training.journal._summary_writer", lambda folder: board)
    make_engine(tmp_path, tensorboard=True).run()
    assert told == ["close"]
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        make_engine(tmp_path / "b", tensorboard=True, cancel=cancel).run()
    assert told == ["close"] * 2
    make_engine(tmp_path / "c").run()
    assert told == ["close"] * 2
