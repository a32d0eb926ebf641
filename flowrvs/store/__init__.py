"""The project on disk: labels, edits, provenance, expressions and what runs have finished.

`Project` is the folder ``<name>.flowrvs``, a zarr v3 group; `LabelsArray` is what napari
edits; `Provenance` says who drew an object on a frame.
"""

from __future__ import annotations

from flowrvs.store._document import FORMAT_VERSION, LayerRecord, ObjectRecord, RunRecord
from flowrvs.store._pixels import ObjectCounts
from flowrvs.store._steps import Change, ChangeRow, Step
from flowrvs.store._tracks import Provenance
from flowrvs.store.history import History
from flowrvs.store.labels import LabelsArray
from flowrvs.store.project import SUFFIX, Project

__all__ = [
    "FORMAT_VERSION",
    "SUFFIX",
    "Change",
    "ChangeRow",
    "History",
    "LabelsArray",
    "LayerRecord",
    "ObjectCounts",
    "ObjectRecord",
    "Project",
    "Provenance",
    "RunRecord",
    "Step",
]
