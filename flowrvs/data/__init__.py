"""Datasets: read, write, check and correct MeViS-style splits; other formats out and in."""

from __future__ import annotations

from flowrvs.data.check import Finding, check_split
from flowrvs.data.export import (
    FORMATS,
    ExportResult,
    append_projects,
    assign_projects,
    export_projects,
    export_splits,
)
from flowrvs.data.importing import import_split, import_video, list_videos
from flowrvs.data.mevis import MevisExpression, MevisSplit, MevisVideo, MevisWriter
from flowrvs.data.write_back import WriteBackResult, write_back

__all__ = [
    "FORMATS",
    "ExportResult",
    "Finding",
    "MevisExpression",
    "MevisSplit",
    "MevisVideo",
    "MevisWriter",
    "WriteBackResult",
    "append_projects",
    "assign_projects",
    "check_split",
    "export_projects",
    "export_splits",
    "import_split",
    "import_video",
    "list_videos",
    "write_back",
]
