"""A training of one line, which is over in a moment; what its tests share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from flowrvs.training import FlowConfig
from flowrvs.training.engine import Engine, make_accelerator

CONFIG = FlowConfig(
    max_steps=8,
    epochs=4,
    batch_size=2,
    learning_rate=0.05,
    ema_decay=0.9,
    save_every=3,
    validate_every=4,
    log_every=2,
    workers=0,
    milestones=(1, 3),
    gamma=0.5,
)


class Numbers(torch.utils.data.Dataset):
    """Sample n is a point that follows from n."""

    def __getitem__(self, number: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(number)
        return torch.randn(3, generator=generator)


class Line:
    """Learns a linear map; samples come in two sorts that cannot be stacked."""

    def __init__(self, scores: Sequence[float] = ()) -> None:
        torch.manual_seed(0)
        self.module = torch.nn.Linear(3, 1)
        self.module.bias.requires_grad_(False)
        self.scores = list(scores)
        self.validated: list[torch.Tensor] = []
        self.spoil_at: int | None = None
        self.calls = 0

    def groups(self, samples: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
        parts = [[s for s in samples if s[0] > 0], [s for s in samples if s[0] <= 0]]
        return [part for part in parts if part]

    def loss(self, module: torch.nn.Module, group: list[torch.Tensor]) -> torch.Tensor:
        self.calls += 1
        points = torch.stack(group)
        loss = (module(points)[:, 0] - points.sum(1)).square().mean()
        return loss * float("nan") if self.calls == self.spoil_at else loss

    def validate(self, module: torch.nn.Module) -> dict[str, float]:
        self.validated.append(module.weight.detach().clone())
        return {"J": 0.0, "F": 0.0, "J&F": self.scores.pop(0)} if self.scores else {}


def make_engine(out: Path, trainee: Any = None, config: FlowConfig = CONFIG, **options) -> Engine:
    return Engine(
        trainee or Line(),
        Numbers(),
        8,
        config,
        out,
        make_accelerator("float32", "cpu"),
        identity={"data": [["a", 1]]},
        **options,
    )


class Several:
    """Stands for accelerate where several processes train: notes what is asked for."""

    num_processes, process_index, is_main_process = 2, 0, True
    device = torch.device("cpu")

    def __init__(self, answer: float = 0.0) -> None:
        self.calls: list[Any] = []
        self.answer = answer

    def reduce(self, value: torch.Tensor, how: str) -> torch.Tensor:
        self.calls.append((float(value), how))
        return torch.tensor(self.answer)

    def wait_for_everyone(self) -> None:
        self.calls.append("wait")

    def save_state(self, folder: str) -> None:
        Path(folder).mkdir(exist_ok=True)
        self.calls.append(Path(folder).name)
