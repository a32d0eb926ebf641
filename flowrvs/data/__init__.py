"""Datasets: read, write and check MeViS-style splits; export projects to several formats."""

from __future__ import annotations

from flowrvs.data.check import Finding, check_split
from flowrvs.data.export import FORMATS, ExportResult, export_projects
from flowrvs.data.mevis import MevisExpression, MevisSplit, MevisVideo, MevisWriter

__all__ = [
    "FORMATS",
    "ExportResult",
    "Finding",
    "MevisExpression",
    "MevisSplit",
    "MevisVideo",
    "MevisWriter",
    "check_split",
    "export_projects",
]
