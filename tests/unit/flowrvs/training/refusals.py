"""Damaging files of data, and the whole line that refuses them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flowrvs.errors import DatasetError


def refused(message: str, call: Any, *args: Any, **options: Any) -> None:
    """A call is refused with exactly this line."""
    with pytest.raises(DatasetError) as caught:
        call(*args, **options)
    assert str(caught.value) == message


def rewrite(path: Path, change: Any) -> None:
    """Write a JSON file anew, as a call leaves what was in it."""
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
