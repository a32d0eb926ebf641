"""Against the published code itself, where FLOWRVS_PUBLIC_CODE names a checkout of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PUBLIC = os.environ.get("FLOWRVS_PUBLIC_CODE", "")

pytestmark = pytest.mark.skipif(
    not PUBLIC, reason="FLOWRVS_PUBLIC_CODE names no checkout of the published code"
)


def test_masks_are_those_of_the_published_code(root: Path) -> None:
    command = [sys.executable, str(root / "benchmarks" / "compare_public.py"), "--json"]
    command += ["--public", PUBLIC, "--models", "small-16", "small-32"]
    command += ["--dtypes", "float32", "--steps", "1", "2", "--seed", "5"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["missed"] == []
    assert {row["model"] for row in report["rows"]} == {"small-16", "small-32"}
    for row in report["rows"]:
        assert row["difference"] <= 1e-4
    for model in report["models"]:
        assert model["iou"] >= 0.9999
    shares = [row["foreground"] for row in report["rows"]]
    assert sum(0.05 < share < 0.95 for share in shares) > len(shares) // 2, shares
