"""Running a segmenter over a video: planned windows, decoded ahead, stitched and resumable."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=["cluster"],
    submod_attrs={
        "into": ["segment_into"],
        "loading": ["load_segmenter"],
        "run": ["Plan", "make_plan", "segment"],
        "windows": ["kept_frames", "plan_windows"],
    },
)
