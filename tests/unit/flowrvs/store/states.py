"""All that a step may change in the small project, to be compared with how it was before."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowrvs.store import Project

__all__ = ["FULL", "LEFT", "same", "state"]

FULL = np.ones((10, 12, 16), bool)
LEFT = FULL & (np.arange(16) < 8)


def state(project: Project) -> dict[str, Any]:
    """Everything that a step may change."""
    return {
        **{f"pixels {i}": np.asarray(project.labels(i)) for i in project.layers},
        **{f"provenance {i}": project.provenance(i) for i in project.objects},
        **{f"areas {i}": project.areas(i) for i in project.objects},
        "objects": project.objects,
        "expressions": project.expressions,
        "runs": {key: run.done for key, run in project.runs.items()},
    }


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    if one.keys() != other.keys():
        print(one.keys(), other.keys())
        return False
    for key, value in one.items():
        if isinstance(value, np.ndarray):
            equal = np.array_equal(value, other[key])
        else:
            equal = value == other[key]
        if not equal:
            print(f"{key} differs:\n{value}\n{other[key]}")
            return False
    return True
