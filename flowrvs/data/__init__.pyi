from .check import Finding, check_split
from .export import (
    FORMATS,
    ExportOptions,
    ExportResult,
    append_projects,
    assign_projects,
    export_projects,
    export_splits,
)
from .importing import import_split, import_video, list_videos
from .mevis import MevisExpression, MevisSplit, MevisVideo, MevisWriter
from .preview import Preview, PreviewRow, parse_shares, preview_export
from .faults import repair_split
from .write_back import WriteBackResult, can_write_back, write_back

__all__ = [
    "FORMATS",
    "ExportOptions",
    "ExportResult",
    "Finding",
    "MevisExpression",
    "MevisSplit",
    "MevisVideo",
    "MevisWriter",
    "Preview",
    "PreviewRow",
    "WriteBackResult",
    "append_projects",
    "assign_projects",
    "can_write_back",
    "check_split",
    "export_projects",
    "export_splits",
    "import_split",
    "import_video",
    "list_videos",
    "parse_shares",
    "preview_export",
    "repair_split",
    "write_back",
]
