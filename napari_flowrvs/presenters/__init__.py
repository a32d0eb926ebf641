"""View-models of the plugin: no Qt and no napari, so they are tested without a screen."""

from __future__ import annotations

from napari_flowrvs.presenters.export import ExportInputs, ExportPresenter
from napari_flowrvs.presenters.job import Failure, Job, Phase, run_here
from napari_flowrvs.presenters.memory import Memory
from napari_flowrvs.presenters.opening import OpenPresenter
from napari_flowrvs.presenters.segment import Prompt, SegmentInputs, SegmentPresenter

__all__ = [
    "ExportInputs",
    "ExportPresenter",
    "Failure",
    "Job",
    "Memory",
    "OpenPresenter",
    "Phase",
    "Prompt",
    "SegmentInputs",
    "SegmentPresenter",
    "run_here",
]
