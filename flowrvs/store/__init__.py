"""The project on disk: labels, edits, provenance, expressions and what runs have finished.

`Project` is the folder ``<name>.flowrvs``, a zarr v3 group; `LabelsArray` is what napari
edits; `Provenance` says who drew an object on a frame.
"""

from __future__ import annotations

from flowrvs.store.changes import ChangeRow, Step
from flowrvs.store.document import (
    FORMAT_VERSION,
    LayerRecord,
    ObjectRecord,
    ProjectEvent,
    RunRecord,
)
from flowrvs.store.history import History
from flowrvs.store.labels import LabelsArray
from flowrvs.store.masks import ObjectCounts
from flowrvs.store.project import SUFFIX, Project
from flowrvs.store.storage import Provenance

__all__ = [
    "FORMAT_VERSION",
    "SUFFIX",
    "ChangeRow",
    "History",
    "LabelsArray",
    "LayerRecord",
    "ObjectCounts",
    "ObjectRecord",
    "Project",
    "ProjectEvent",
    "Provenance",
    "RunRecord",
    "Step",
]
