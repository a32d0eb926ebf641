"""Checkpoints of a training: what is in them, what cannot be resumed, the room they need."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType

from flowrvs.errors import (
    CheckpointError,
    DeviceMemoryError,
    StorageError,
)
from flowrvs.training import FlowConfig
from flowrvs.training.checkpoints import Checkpoints, read_best
from flowrvs.training.journal import Journal, read_log
from tests.fixtures.disk import small_disk
from tests.unit.flowrvs.training.small_engine import CONFIG, Line, Several, make_engine


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_killed_and_resumed_is_equal_to_uninterrupted_to_the_bit(
    tmp_path: Path, precision: str
) -> None:
    def trainee() -> Line:
        line = Line([0.3, 0.2])
        if precision == "bfloat16":
            line.module.bfloat16()
            line.loss = lambda module, group: (  # type: ignore[method-assign]
                module(torch.stack(group).bfloat16()).float().square().mean()
            )
        return line

    whole = make_engine(tmp_path / "whole", trainee())
    whole.run()

    class Killed(Exception):
        pass

    def kill(event) -> None:
        if event.done == 5:  # two steps after the checkpoint of step 3
            raise Killed

    with pytest.raises(Killed):
        make_engine(tmp_path / "killed", trainee(), progress=kill).run()
    assert json.loads((tmp_path / "killed/checkpoints/step-00000003/training.json").read_text())
    resumed = make_engine(tmp_path / "killed", trainee())
    resumed.resume()
    assert resumed.step == 3
    resumed.run()
    for a, b in zip(whole.parameters, resumed.parameters, strict=True):
        assert torch.equal(a, b)
    for a, b in zip(whole.ema.shadow_params, resumed.ema.shadow_params, strict=True):
        assert torch.equal(a, b)
        assert a.dtype == torch.float32
    assert whole.monitor == resumed.monitor
    logs = [
        [
            {k: v for k, v in line.items() if k not in ("seconds", "remaining")}
            for line in read_log(folder)
        ]
        for folder in (tmp_path / "whole/log.jsonl", tmp_path / "killed/log.jsonl")
    ]
    assert [line["step"] for line in logs[0] if "loss" in line] == [2, 4, 6, 8]
    # The mean over steps 3 and 4 lost its third step to the kill; all others are equal.
    assert [a for a in logs[0] if a["step"] != 4 or "J" in a] == [
        b for b in logs[1] if b["step"] != 4 or "J" in b
    ]


def test_checkpoints_are_pruned_and_leftovers_of_kills_are_ignored(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, save_every=1, keep=2)
    engine = make_engine(tmp_path, config=config)
    engine.run()
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000007", "step-00000008"]
    half = tmp_path / "checkpoints" / ".step-00000003.partial-1-00000000"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    longer = make_engine(tmp_path, config=dataclasses.replace(config, max_steps=9))
    longer.resume()
    assert longer.step == 8
    assert not half.exists()
    longer.run()
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000008", "step-00000009"]


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("optimizer.bin", b"nothing", r"cannot be read \(.+\)"),
        ("model.safetensors", b"", r"cannot be read \(.+\)"),
        ("training.json", b"{", r"cannot be read \(Expecting property name"),
        ("training.json", b"[]", r"cannot be read \(training.json is malformed\)"),
        ("training.json", None, r"cannot be read \(There is no file .+training.json"),
        ("ema-0.safetensors", None, r"cannot be read \(.+\)"),
    ],
)
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(
    tmp_path: Path, file: str, content: bytes | None, reason: str
) -> None:
    whole = make_engine(tmp_path)
    whole.run()
    newest = tmp_path / "checkpoints" / "step-00000008"
    (newest / file).unlink()
    if content is not None:
        (newest / file).write_bytes(content)
    again = make_engine(tmp_path)
    with pytest.warns(UserWarning, match=reason + r".*: going on from .+step-00000006\.$"):
        again.resume()
    assert again.step == 6
    again.run()  # the damaged one is not in the way of the new one of that step
    for name in ("step-00000008", "damaged-step-00000008"):
        assert (tmp_path / "checkpoints" / name).is_dir()
    for a, b in zip(whole.parameters, again.parameters, strict=True):
        assert torch.equal(a, b)
    (newest / file).unlink()  # a second time
    with pytest.warns(UserWarning, match=r"going on from .+step-00000006\.$"):
        make_engine(tmp_path).resume()


def test_other_options_or_data_are_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Nothing to resume"):
        make_engine(tmp_path).resume()
    make_engine(tmp_path).run()
    with pytest.raises(CheckpointError, match="batch_size .of all processes. was 2, seed was 42"):
        make_engine(tmp_path, config=dataclasses.replace(CONFIG, batch_size=4, seed=1)).resume()
    make_engine(tmp_path, config=dataclasses.replace(CONFIG, learning_rate=0.01)).resume()
    engine = make_engine(tmp_path)
    engine.checkpoints._identity["data"] = [["b", 2]]
    with pytest.raises(CheckpointError, match="data was"):
        engine.resume()
    engine = make_engine(tmp_path)
    engine.checkpoints._identity["sentences"] = "a digest"  # it began before they were compared
    engine.resume()
    engine.step = 9
    engine.save()
    engine.checkpoints._identity["sentences"] = "another"  # somebody mended a word meanwhile
    with pytest.raises(CheckpointError, match="other options: its sentences were others; give"):
        engine.resume()


def test_a_training_of_before_an_option_came_is_resumed_where_it_is_left_alone(
    tmp_path: Path,
) -> None:
    first = make_engine(tmp_path)
    first.run()
    file = first.checkpoints.list()[-1] / "training.json"
    document = json.loads(file.read_text())
    for name in ("cover_probability", "rehearsal_share"):
        del document["identity"]["config"][name]
    del document["total"], document["seconds"]
    file.write_text(json.dumps(document))
    for config in (CONFIG, dataclasses.replace(CONFIG, minutes=1.0)):
        again = make_engine(tmp_path, config=config)
        again.resume()
        assert (again.step, again.total) == (8, 8)
    changed = dataclasses.replace(CONFIG, cover_probability=0.3)
    with pytest.raises(CheckpointError, match=r"other options: cover_probability was 0\.0;"):
        make_engine(tmp_path, config=changed).resume()


def test_the_best_is_read_back_or_said_to_be_damaged(tmp_path: Path) -> None:
    assert read_best(tmp_path) is None
    trainee = Line([0.7, 0.4])
    make_engine(tmp_path, trainee).run()
    found = read_best(tmp_path)
    assert found is not None and found[0].keys() == {"weight"}
    assert torch.equal(found[0]["weight"], trainee.validated[0])
    assert found[1] == {"step": 4, "J": 0.0, "F": 0.0, "J&F": 0.7}
    path = tmp_path / "best.safetensors"
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1], whole.replace(b'"step"', b'"stop"')):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"best.safetensors cannot be read .*train again"):
            read_best(tmp_path)


def test_a_full_disk_is_seen_before_training(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("flowrvs.training.engine.free_bytes", lambda folder: 1000)
    trainee = Line()
    with pytest.raises(StorageError, match=r"Checkpoints need .* \(keep = 1\)"):
        make_engine(tmp_path, trainee).run()
    assert trainee.calls == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of files there")
def test_a_disk_that_is_full_while_it_trains_is_one_line(tmp_path: Path) -> None:
    trainee = Line([0.5])
    engine = make_engine(tmp_path, trainee)
    engine.save()
    before = (tmp_path / "checkpoints" / "step-00000000" / "optimizer.bin").read_bytes()
    engine.step = 1
    # Files of the weights, of AdamW's averages, and of the best; and the log.
    for limit, fail in ((60, engine.save), (700, engine.save), (60, engine.validate)):
        with small_disk(limit), pytest.raises(StorageError, match="^Cannot write to ") as caught:
            fail()
        assert "\n" not in str(caught.value)
    journal = Journal(tmp_path / "log")
    with small_disk(10), pytest.raises(StorageError, match=r"^Cannot write to .*log.jsonl: "):
        journal.report(step=1, loss=0.5)
    shutil.rmtree(tmp_path / "log")
    with pytest.raises(StorageError, match="the folder has vanished; put it back"):
        journal.report(step=1, loss=0.5)
    assert [path.name for path in engine.checkpoints.folder.iterdir()] == ["step-00000000"]
    assert (engine.checkpoints.folder / "step-00000000" / "optimizer.bin").read_bytes() == before


def test_what_a_checkpoint_tells(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, Line([0.25, 0.5]))
    engine.run()
    names = [path.name for path in engine.checkpoints.list()]
    assert names == ["step-00000006", "step-00000008"]
    document = json.loads((engine.checkpoints.newest() / "training.json").read_text())  # type: ignore[operator]
    assert (document["step"], document["total"], document["ema_step"]) == (8, 8, 8)
    assert document["monitor"] == dataclasses.asdict(engine.monitor)
    assert engine.monitor.best == 0.5 and engine.monitor.scores["J&F"] == 0.5
    assert 0 < document["seconds"] < 600
    identity = document["identity"]
    assert identity.keys() == {"data", "config"} and identity["data"] == [["a", 1]]
    changeable = {
        "epochs", "max_steps", "minutes", "workers", "save_every", "keep", "log_every",
        "validate_every", "keep_best", "spike_factor", "validate_first", "best_tolerance",
        "learning_rate", "cooldown", "milestones", "gamma", "warmup", "clip_norm",
    }  # fmt: skip
    assert set(dataclasses.asdict(CONFIG)) - set(identity["config"]) == changeable
    (tmp_path / "checkpoints" / "step-1").mkdir()
    (tmp_path / "checkpoints" / "step-00000099").touch()
    assert [path.name for path in engine.checkpoints.list()] == names
    mark = (engine.checkpoints.newest() / "training.json").stat().st_mtime_ns  # type: ignore[operator]
    engine.save()  # it is there already
    assert (engine.checkpoints.newest() / "training.json").stat().st_mtime_ns == mark  # type: ignore[operator]


def test_what_cannot_be_resumed_is_said_in_full(tmp_path: Path) -> None:
    def said(config: FlowConfig = CONFIG) -> str:
        with pytest.raises(CheckpointError) as caught:
            make_engine(tmp_path, config=config).resume()
        return str(caught.value)

    assert said() == (
        f"Nothing to resume: there is no checkpoint in {tmp_path}; leave out --resume."
    )
    make_engine(tmp_path).run()
    newest = tmp_path / "checkpoints" / "step-00000008"
    other = dataclasses.replace(CONFIG, batch_size=4, seed=1)
    assert said(other) == (
        f"{newest} belongs to a training with other options: batch_size (of all "
        "processes) was 2, seed was 42; give the same ones, or another --out."
    )
    file = newest / "training.json"
    document = json.loads(file.read_text())
    file.write_text(json.dumps(document | {"identity": document["identity"] | {"data": 5}}))
    assert said().startswith(f"{newest} belongs to a training with other options: data was 5; give")
    file.write_text(json.dumps(document | {"identity": 5}))
    assert "other options: data was None; give" in said()
    for path in (file, newest.with_name("step-00000006") / "training.json"):
        path.write_text("{")
    message = said()
    assert message.startswith(f"The checkpoint {newest} cannot be read (Expecting property name")
    assert message.endswith(", and there is no other one that can; train again into another --out.")
    assert len(list(newest.parent.iterdir())) == 2, "none is set aside"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("two\nlines"), "two lines"),
        (KeyError(), "KeyError"),
        (ValueError("x" * 130), "x" * 120),
    ],
)
def test_why_a_checkpoint_cannot_be_read(tmp_path: Path, error: Exception, reason: str) -> None:
    make_engine(tmp_path).run()
    engine = make_engine(tmp_path)

    def fail(folder: str, strict: bool) -> None:
        assert not strict  # frozen weights are not in it
        raise error

    engine.accelerator.load_state = fail  # type: ignore[method-assign]
    with pytest.raises(CheckpointError) as caught:
        engine.resume()
    assert str(caught.value) == (
        f"The checkpoint {tmp_path / 'checkpoints' / 'step-00000008'} cannot be read ({reason}), "
        "and there is no other one that can; train again into another --out."
    )


def test_a_full_device_says_nothing_about_a_checkpoint(tmp_path: Path) -> None:
    make_engine(tmp_path).run()
    engine = make_engine(tmp_path)
    there = sorted(engine.checkpoints.folder.iterdir())
    fails = iter([torch.OutOfMemoryError("CUDA out of memory.")])
    load = engine.accelerator.load_state

    def fail_once(*args: Any, **options: Any) -> None:
        for error in fails:
            raise error
        load(*args, **options)

    engine.accelerator.load_state = fail_once  # type: ignore[method-assign]
    with pytest.raises(DeviceMemoryError):
        engine.resume()
    assert sorted(engine.checkpoints.folder.iterdir()) == there, "none is set aside"


def test_the_room_that_checkpoints_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wide(Line):
        def __init__(self) -> None:
            super().__init__()
            self.module = torch.nn.Linear(3, 1, dtype=torch.float32)
            self.module.wide = torch.nn.Parameter(torch.zeros(10**6))

    # Weights and AdamW's two averages in 32 bits, the average of the weights: 16 bytes each.
    size = (10**6 + 4) * 16
    needed = size * (2 + 1) + 2**24
    for free, enough in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr("flowrvs.training.engine.free_bytes", lambda folder, free=free: free)
        engine = make_engine(tmp_path, Wide())
        if enough:
            engine._check_room()
            continue
        with pytest.raises(StorageError) as caught:
            engine._check_room()
        assert str(caught.value) == (
            f"Checkpoints need {needed / 1e9:.1f} GB, {tmp_path} has {free / 1e9:.1f} GB free; "
            "free some space, or keep fewer (keep = 1)."
        )


def test_shards_are_written_by_all_into_one_folder(tmp_path: Path) -> None:
    several: Any = Several()
    several.register_save_state_pre_hook = lambda hook: None
    several.distributed_type = DistributedType.FSDP
    checkpoints = Checkpoints(tmp_path, several, ["weight"], {"a": (1,)}, defaults={}, keep=1)
    checkpoints.folder.mkdir()
    for left in (".step-00000004.partial", "step-00000002"):
        (checkpoints.folder / left / "old").mkdir(parents=True)
    target = checkpoints.save(4, None, {"step": 4})
    assert several.calls == ["wait", ".step-00000004.partial", "wait", "wait"]
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step-00000004"]
    assert [path.name for path in target.iterdir()] == ["training.json"]
    document = json.loads((target / "training.json").read_text())
    assert document == {"identity": {"a": [1]}, "step": 4}
    several.is_main_process, several.process_index = False, 1
    average: Any = SimpleNamespace(shadow_params=[torch.ones(2)], optimization_step=3)
    several.calls.clear()
    second = checkpoints.folder / ".step-00000005.partial"
    checkpoints.save(5, average, {})
    assert [path.name for path in second.iterdir()] == ["ema-1.safetensors"]
    assert several.calls == ["wait", second.name, "wait", "wait"]
    whole = Several()
    whole.distributed_type = DistributedType.NO  # type: ignore[attr-defined]
    whole.register_save_state_pre_hook = lambda hook: None  # type: ignore[attr-defined]
    alone: Any = Checkpoints(tmp_path / "b", whole, [], {}, defaults={}, keep=1)  # type: ignore[arg-type]
    whole.is_main_process = False
    alone.save(1, None, {})
    assert whole.calls == ["wait"] and not (tmp_path / "b").exists()
