"""Video in and pictures out: frame-exact lazy reading, overlays, JPEG."""

from __future__ import annotations

from flowrvs.video.open import Video, open_video

__all__ = ["Video", "open_video"]
