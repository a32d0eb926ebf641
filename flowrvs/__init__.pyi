from .errors import (
    Cancelled,
    CheckpointError,
    ClusterError,
    DatasetError,
    DeviceMemoryError,
    FlowRVSError,
    InputError,
    MissingExtraError,
    MissingPathError,
    ProjectError,
    StorageError,
    VideoError,
)
from .inference import plan_windows, segment, segment_into
from .pipelines import FlowRVSPipeline, load
from .progress import CancelToken, Progress
from .records import Expression, Segmenter, SegmentRequest, VideoInfo, Window, WindowMasks
from .store import Project
from .video import Video, open_video

__version__: str

__all__ = [
    "CancelToken",
    "Cancelled",
    "CheckpointError",
    "ClusterError",
    "DatasetError",
    "DeviceMemoryError",
    "Expression",
    "FlowRVSError",
    "FlowRVSPipeline",
    "InputError",
    "MissingExtraError",
    "MissingPathError",
    "Progress",
    "Project",
    "ProjectError",
    "SegmentRequest",
    "Segmenter",
    "StorageError",
    "Video",
    "VideoError",
    "VideoInfo",
    "Window",
    "WindowMasks",
    "load",
    "open_video",
    "plan_windows",
    "segment",
    "segment_into",
]
