"""What stops a training: a loss that is not finite, spikes, Ctrl-C, processes that end."""

from __future__ import annotations

import dataclasses
import gc
import os
import pickle
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import dataloader

from flowrvs.errors import (
    Cancelled,
    DatasetError,
    TrainingError,
)
from flowrvs.progress import CancelToken
from flowrvs.training.engine import Engine, Monitor
from tests.unit.flowrvs.training.small_engine import CONFIG, Line, Numbers, Several, make_engine


def test_a_loss_that_is_not_finite_stops_before_it_harms(tmp_path: Path) -> None:
    trainee = Line()
    trainee.spoil_at = 8
    engine = make_engine(tmp_path, trainee)
    with pytest.raises(TrainingError, match="The loss is nan") as caught:
        engine.run()
    stopped = engine.step
    assert f"step-{stopped:08}" in str(caught.value)
    assert all(p.isfinite().all() for p in engine.parameters)
    again = make_engine(tmp_path)
    again.resume()
    assert again.step == stopped
    trainee.calls, trainee.spoil_at = 0, 1
    with pytest.raises(TrainingError, match="nan.* at step 1: stopped; there is no checkpoint yet"):
        make_engine(tmp_path / "b", trainee).run()
    for a, b in zip(engine.parameters, again.parameters, strict=True):
        assert torch.equal(a, b)


def test_a_picture_that_cannot_be_read_stops_with_its_line(tmp_path: Path) -> None:
    class Damaged(Numbers):
        def __getitem__(self, number: int) -> torch.Tensor:
            if number == 5:
                raise DatasetError("The picture x.jpg cannot be read; copy it again.")
            return super().__getitem__(number)

    engine = make_engine(tmp_path)
    engine.dataset = Damaged()
    with pytest.raises(DatasetError, match=r"^The picture x.jpg cannot be read; copy it again.$"):
        engine.run()
    assert engine.step == 2  # its batch is not begun
    assert (tmp_path / "checkpoints" / "step-00000002").is_dir()  # with another picture it goes on
    # As it comes back from a worker process.
    error = pickle.loads(pickle.dumps(DatasetError("a line")))
    assert (type(error), str(error)) == (DatasetError, "a line")


class Struck(Numbers):
    """A process that reads sample 9 gets a signal."""

    def __init__(self, signal_: signal.Signals) -> None:
        self.signal = signal_

    def __getitem__(self, number: int) -> torch.Tensor:
        if number == 9:
            os.kill(os.getpid(), self.signal)
        return super().__getitem__(number)


@pytest.fixture
def deaf() -> Iterator[None]:
    """Have torch's handler, which another test may have set, not hear of a reader that is killed.

    It would raise wherever this process is by then: its list of readers ends with the loader.
    """
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    yield
    gc.collect()
    assert not any(type(it) is dataloader._MultiProcessingDataLoaderIter for it in gc.get_objects())
    signal.signal(signal.SIGCHLD, before)


def ending(engine: Engine) -> str:
    """Run, and return what the error says: the error itself would keep the loader."""
    try:
        engine.run()
    except TrainingError as error:
        return str(error)
    return ""


@pytest.mark.skipif(sys.platform != "linux", reason="a fork is safe enough there alone")
@pytest.mark.usefixtures("deaf")
def test_processes_that_read_clips_survive_ctrl_c_and_their_end_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A fork is quicker; fresh processes, which are nobody's children, are asked whether they live.
    monkeypatch.setattr("flowrvs.training.engine._FRESH", "fork")
    watch = dataloader._MultiProcessingDataLoaderIter
    monkeypatch.setattr(dataloader._utils.signal_handling, "_set_SIGCHLD_handler", lambda: None)
    monkeypatch.setattr(watch._try_get_data, "__defaults__", (0.2,))
    config = dataclasses.replace(CONFIG, workers=1)
    engine = make_engine(tmp_path / "a", config=config)
    engine.dataset = Struck(signal.SIGINT)  # Ctrl-C in a terminal is for all processes in it
    engine.run()
    assert engine.step == 8
    engine = make_engine(tmp_path / "b", config=config)
    engine.dataset = Struck(signal.SIGKILL)
    said = ending(engine)
    assert 0 < engine.step < 5
    newest = engine.checkpoints.newest()
    assert newest is not None and newest.name == f"step-{engine.step:08}"
    assert said == (
        f"A process that reads clips has ended at step {engine.step}, which a full memory does; "
        f"the state is in {newest}: give fewer workers, then --resume."
    )


@pytest.mark.parametrize(
    ("error", "stop"),
    [
        # It died while it handed a clip over.
        (ConnectionResetError(104, "Connection reset by peer"), TrainingError),
        (EOFError(), TrainingError),
        # As torch hands errors on that were raised in it.
        (RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nshapes"), RuntimeError),
        (EOFError("Caught EOFError in DataLoader worker process 0.\nno data"), EOFError),
    ],
)
def test_a_process_that_has_ended_is_told_from_an_error_in_it(
    tmp_path: Path, error: Exception, stop: type[Exception]
) -> None:
    class Faulty(Numbers):
        def __getitem__(self, number: int) -> torch.Tensor:
            if number == 5:
                raise error
            return super().__getitem__(number)

    engine = make_engine(tmp_path)
    engine.dataset = Faulty()
    with pytest.raises(stop) as caught:
        engine.run()
    assert (caught.value is error) == (stop is not TrainingError)


def test_what_was_trained_outlasts_a_validation_that_fails(tmp_path: Path) -> None:
    class Unread(Line):
        def validate(self, module: torch.nn.Module) -> dict[str, float]:
            raise DatasetError("The picture x.jpg is missing; copy it again.")

    config = dataclasses.replace(CONFIG, save_every=100)
    engine = make_engine(tmp_path / "a", Unread(), config)
    with pytest.raises(DatasetError, match=r"^The picture x.jpg is missing; copy it again.$"):
        engine.run()
    again = make_engine(tmp_path / "a", Line([0.5, 0.7]), config)
    again.resume()
    assert again.step == 4
    again.run()
    assert again.result()[1]["J&F"] == 0.7 and again.step == 8
    first = make_engine(tmp_path / "b", Unread(), dataclasses.replace(config, validate_first=True))
    with pytest.raises(DatasetError):
        first.run()
    assert not first.checkpoints.list()  # it would be in the way of another try


def test_spikes_are_seen_after_a_hundred_steps() -> None:
    monitor = Monitor()
    assert not any(monitor.spikes(1.0, 10) for _ in range(120))
    assert not monitor.spikes(50.0, 10)  # a single bad clip
    assert any(monitor.spikes(50.0, 10) for _ in range(20))
    early = Monitor()
    assert not any(early.spikes(10.0**n, 10) for n in range(99))
    silent = Monitor()
    assert not any(silent.spikes(float(10**n), 0) for n in range(200))


def test_cancelling_saves_the_step_it_is_at(tmp_path: Path) -> None:
    cancel = CancelToken()
    engine = make_engine(
        tmp_path,
        cancel=cancel,
        progress=lambda event: cancel.cancel() if event.done == 4 else None,
    )
    with pytest.raises(Cancelled, match="Stopped at step 4; go on with --resume"):
        engine.run()
    assert (tmp_path / "checkpoints" / "step-00000004").is_dir()
    again = make_engine(tmp_path)
    again.resume()
    assert again.step == 4


@pytest.mark.parametrize("stop", [Cancelled, KeyboardInterrupt])  # a second Ctrl-C
@pytest.mark.parametrize("at", [0, 4, 8])
def test_a_validation_that_was_stopped_is_made_when_it_goes_on(
    tmp_path: Path, stop: type[BaseException], at: int
) -> None:
    config = dataclasses.replace(CONFIG, validate_first=True)

    class Stopped(Line):
        def validate(self, module: torch.nn.Module) -> dict[str, float]:
            if engine.step == at:
                raise stop("now")
            return super().validate(module)

    engine = make_engine(tmp_path / "a", Stopped([0.1, 0.7, 0.4]), config)
    with pytest.raises(stop):
        engine.run()
    assert engine.step == at and engine.module.training
    last = Line([0.1, 0.7, 0.4][at // 4 :])
    engine = make_engine(tmp_path / "a", last, config)
    engine.resume()
    engine.run()
    whole = make_engine(tmp_path / "b", Line([0.1, 0.7, 0.4]), config)
    whole.run()
    assert engine.monitor == whole.monitor and engine.monitor.before["J&F"] == 0.1
    assert torch.equal(engine.result()[0]["weight"], whole.result()[0]["weight"])
    assert engine.result()[1] == whole.result()[1] == {"step": 4, "J": 0.0, "F": 0.0, "J&F": 0.7}


def test_a_spike_stops_and_names_the_last_good_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Monitor, "spikes", lambda self, loss, factor: self.count == 0 and factor == 7
    )
    config = dataclasses.replace(CONFIG, spike_factor=7.0, save_every=1)
    with pytest.raises(TrainingError) as caught:
        engine = make_engine(tmp_path, config=config)
        engine.monitor = Monitor(smoothed=12.345, lowest=0.5)
        engine.run()
    assert str(caught.value) == (
        "The loss rose to 12.3 from 0.5 at step 1: stopped; there is no checkpoint yet. Lower the "
        "learning rate, then --resume."
    )
    first = make_engine(tmp_path / "b", config=dataclasses.replace(CONFIG, max_steps=1))
    first.run()
    engine = make_engine(tmp_path / "b", config=config)
    engine.resume()
    engine.monitor = Monitor(smoothed=12.345, lowest=0.5)
    with pytest.raises(
        TrainingError, match=r"at step 2: stopped; the last good state is in .*step-0"
    ):
        engine.run()


def test_all_processes_stop_where_one_is_asked_to(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    saved: list[int] = []
    engine.save = lambda: saved.append(engine.step)  # type: ignore[method-assign]
    for asked, answer, stops in ((False, 0.0, False), (False, 1.0, True), (True, 2.0, True)):
        several: Any = Several(answer)
        engine.accelerator, engine.cancel = several, CancelToken()
        if asked:
            engine.cancel.cancel()
        if stops:
            with pytest.raises(Cancelled):
                engine._check_cancelled()
        else:
            engine._check_cancelled()
        assert several.calls == [(float(asked), "sum")]
    assert saved == [0, 0]
