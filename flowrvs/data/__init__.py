"""Datasets: read, write, check and correct MeViS-style splits; other formats out and in.

The public names are imported when they are first used: reading a split needs no store.
"""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
