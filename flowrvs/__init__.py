"""FlowRVS: from a sentence to video masks, without a screen.

The public names below are imported when they are first used, so that
``import flowrvs`` is quick and leaves torch alone.
"""

from __future__ import annotations

import lazy_loader as _lazy

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
