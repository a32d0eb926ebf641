"""The command line; one module a verb, each with ``HELP``, ``add_arguments``, ``run``."""

from __future__ import annotations

from flowrvs.cli._main import main

__all__ = ["main"]
