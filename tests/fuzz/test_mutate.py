"""A few of the faults of `tests.fuzz.mutate`; ``FLOWRVS_FUZZ=500`` puts in as many times more."""

from __future__ import annotations

import os

import pytest

from tests.fuzz.mutate import Fuzz

ROUNDS = 60 * int(os.environ.get("FLOWRVS_FUZZ", "1"))


@pytest.mark.skipif(os.name != "posix", reason="pipes, links and alarms of POSIX")
def test_faults_in_datasets_and_projects_end_in_a_line(tmp_path):
    fuzz = Fuzz(tmp_path, seed=0)
    found = {n: wrong for n in range(ROUNDS) if (wrong := fuzz.round(n))}
    assert not found
    # Most faults are refused; that some are not shows that the verbs were really run.
    assert all(fuzz.ended.get(verb, 0) > ROUNDS // 20 for verb in ("import", "check", "export"))
