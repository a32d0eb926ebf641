"""What stands in the library's place behind a verb."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flowrvs.progress import CancelToken


class Recorder:
    """Takes the place of the library's function behind a verb, and notes how it was called."""

    def __init__(self, result: Any) -> None:
        self.result = result
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.calls.append((args, options))
        return self.result

    def only(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The one call; its progress and token are the verb's own."""
        ((args, options),) = self.calls
        for name, kind in (("cancel", CancelToken), ("progress", object)):
            given = options.pop(name)
            assert isinstance(given, kind) and callable(given) == (name == "progress")
        return args, options


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str, Any], Recorder]:
    """Put a recorder, which answers what it is given, in the place of a function."""

    def install(place: Any, name: str, result: Any) -> Recorder:
        recorder = Recorder(result)
        monkeypatch.setattr(place, name, recorder)
        return recorder

    return install
