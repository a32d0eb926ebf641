"""Corrections that save labour: spread, clean, combine, split, link, and where to look first.

They work on a `flowrvs.store.Project` without Qt and without a model. What changes masks
returns a `Preview` that is looked at, then accepted as one step that can be undone.
"""

from __future__ import annotations

from flowrvs.editing.links import accept_link, link_offer
from flowrvs.editing.preview import Preview, PreviewGroup
from flowrvs.editing.review import doubt, quick_doubt, review_order
from flowrvs.editing.spreading import Flows, copy_to_next, spread, spread_together
from flowrvs.editing.tools import clean, combine, split_components
from flowrvs.masks.match import Match
from flowrvs.masks.propagate import Spread

__all__ = [
    "Flows",
    "Match",
    "Preview",
    "PreviewGroup",
    "Spread",
    "accept_link",
    "clean",
    "combine",
    "copy_to_next",
    "doubt",
    "link_offer",
    "quick_doubt",
    "review_order",
    "split_components",
    "spread",
    "spread_together",
]
