"""Frozen records of what was done to a project."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Change", "ChangeRow", "Kind", "Step"]

Kind = Literal["human", "model"]


@dataclass(frozen=True, slots=True)
class Step:
    """What one undo takes back.

    Attributes
    ----------
    id : int
        Unique in the project, growing.
    name : str
        In the user's words: ``"brush stroke on 'the red circle', frame 12"``.
    kind : str
        ``"human"`` or ``"model"``.
    who, when : str
        Who did it, and when (ISO 8601, UTC).
    start, stop : int
        First frame that it touched and one past the last; both 0 for a change of names only.
    layer_ids, object_ids : frozenset of int
        What it touched.
    frames : int
        Number of frames that it touched: undoing takes a few milliseconds each.
    state : str
        ``"open"`` while it is being made, ``"done"`` or ``"undone"``.
    """

    id: int
    name: str
    kind: Kind
    who: str
    when: str
    start: int
    stop: int
    layer_ids: frozenset[int]
    object_ids: frozenset[int]
    frames: int
    state: str


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """Who touched an object on a frame.

    Attributes
    ----------
    when : str
        ISO 8601, UTC.
    who : str
        A person's or a model's name.
    kind : str
        ``"human"`` or ``"model"``.
    name : str
        The step's name.
    """

    when: str
    who: str
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Change:
    """What listeners of a project are told.

    Attributes
    ----------
    kind : str
        ``"pixels"`` (with provenance), ``"provenance"`` alone, ``"catalog"`` (objects,
        layers, expressions) or ``"history"`` (what can be undone).
    layer_id : int or None
        The layer.
    start, stop : int
        The frames ``start <= t < stop``.
    """

    kind: str
    layer_id: int | None = None
    start: int = 0
    stop: int = 0
