"""A few of the faults of `tests.fuzz.mutate`; ``FLOWRVS_FUZZ=500`` puts in as many times more."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fuzz.mutate import Fuzz

ROUNDS = 40 * int(os.environ.get("FLOWRVS_FUZZ", "1"))


@pytest.mark.skipif(os.name != "posix", reason="pipes, links and alarms of POSIX")
def test_faults_in_datasets_and_projects_end_in_a_line(tmp_path: Path) -> None:
    fuzz = Fuzz(tmp_path, seed=0)
    found = {number: wrong for number in range(ROUNDS) if (wrong := fuzz.round(number))}
    assert not found
    # Some are borne and some are refused: the verbs were really run.
    assert {"import 0", "import 2", "check 0", "check 2", "export 0", "draw 0"} <= set(fuzz.ended)
