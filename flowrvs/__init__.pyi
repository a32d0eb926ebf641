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
    PluginError,
    ProjectError,
    StorageError,
    VideoError,
)
from .inference import load_segmenter, plan_windows, segment, segment_into
from .pipelines import FlowRVSPipeline, load
from .plugins import load_tracker
from .progress import CancelToken, Progress
from .records import (
    Expression,
    InstanceSegmenter,
    Mark,
    Segmenter,
    SegmentRequest,
    TrackedObject,
    Tracker,
    VideoInfo,
    Window,
    WindowMasks,
)
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
    "InstanceSegmenter",
    "Mark",
    "MissingExtraError",
    "MissingPathError",
    "PluginError",
    "Progress",
    "Project",
    "ProjectError",
    "SegmentRequest",
    "Segmenter",
    "StorageError",
    "TrackedObject",
    "Tracker",
    "Video",
    "VideoError",
    "VideoInfo",
    "Window",
    "WindowMasks",
    "load",
    "load_segmenter",
    "load_tracker",
    "open_video",
    "plan_windows",
    "segment",
    "segment_into",
]
