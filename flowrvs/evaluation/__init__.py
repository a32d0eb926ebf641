"""Official scores: J, F and J&F over frames, then over expressions; predictions to score.

The public names are imported when they are first used: a scoring process is started with
what it needs alone.
"""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
