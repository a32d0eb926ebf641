"""``python -m flowrvs`` is the command ``flowrvs``."""

from __future__ import annotations

import sys

from flowrvs.cli import main

if __name__ == "__main__":
    sys.exit(main())
