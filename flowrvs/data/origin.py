"""Where a project was imported from: what it needs to bring its corrections home."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flowrvs.data.formats import TABLE
from flowrvs.data.pictures import is_safe_name
from flowrvs.disk import parse_json, read_regular, write_bytes
from flowrvs.errors import FlowRVSError

__all__ = ["Origin"]

_ORIGIN = "origin.json"
_LARGEST_ORIGIN = 64 << 20


@dataclass(slots=True)
class Origin:
    """The place in a dataset that a project was read from, in its folder as ``origin.json``.

    Attributes
    ----------
    format : str
        Format of the dataset.
    split : str
        Its folder.
    video : str
        Name of the video in it.
    frames : list of str
        The frames that the dataset lists.
    objects : dict of int to (obj_id, anno_id)
        By the object's id in the project; -1 for an anno_id that the format lacks.
    expressions : dict of str to str
        The dataset's exp_id by the project's.
    digests : dict of str to str
        Of the parts that were read, to notice that somebody else changed them since.
    unknown : list of str
        The project's exp_ids of the sentences whose target the dataset does not say.
    pictures : str
        Where the frames lie, when the reader was told.
    notes : list of str
        What a person should know of how it was read.
    begun : bool
        A write-back has begun, and not ended.
    """

    format: str
    split: str
    video: str
    frames: list[str] = field(default_factory=list)
    objects: dict[int, tuple[int, int]] = field(default_factory=dict)
    expressions: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    pictures: str = ""
    notes: list[str] = field(default_factory=list)
    begun: bool = False

    @property
    def goes_home(self) -> bool:
        """True when corrections are written back into datasets of this format."""
        return self.format in TABLE and TABLE[self.format].home

    def save(self, project: Path) -> None:
        """Write it into the folder of a project."""
        write_bytes(project / _ORIGIN, (json.dumps(asdict(self), indent=1) + "\n").encode())

    @classmethod
    def load(cls, project: Path) -> Origin | None:
        """Return what `save` wrote; None for a project that was not imported, or where a file
        of another kind was put in its place."""
        try:
            data: dict[str, Any] = parse_json(read_regular(project / _ORIGIN, _LARGEST_ORIGIN))
            data["objects"] = {int(k): (int(o), int(a)) for k, (o, a) in data["objects"].items()}
            origin = cls(**data)
        except (FlowRVSError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
            return None
        texts = [origin.format, origin.split, origin.video, origin.pictures]
        lists = (origin.frames, origin.unknown, origin.notes)
        tables = (origin.expressions, origin.digests)
        if not all(isinstance(v, list) for v in lists) or not all(
            isinstance(v, dict) for v in tables
        ):
            return None
        texts += [text for value in lists for text in value]
        texts += [text for value in tables for pair in value.items() for text in pair]
        if not all(isinstance(text, str) for text in texts):
            return None
        # They become names of files and folders.
        return origin if all(map(is_safe_name, (origin.video, *origin.frames))) else None
