"""Running a segmenter over a video: planned windows, decoded ahead, stitched and resumable."""

from __future__ import annotations

from flowrvs.inference.into import segment_into
from flowrvs.inference.run import Plan, make_plan, segment
from flowrvs.inference.windows import kept_frames, plan_windows

__all__ = ["Plan", "kept_frames", "make_plan", "plan_windows", "segment", "segment_into"]
