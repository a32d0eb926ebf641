"""Where an imported project comes from, kept in its folder as ``origin.json``."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flowrvs.data._atomic import write_atomic

__all__ = ["Origin", "digest"]

_NAME = "origin.json"


@dataclass(slots=True)
class Origin:
    """The place in a dataset that a project was read from.

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
    """

    format: str
    split: str
    video: str
    frames: list[str] = field(default_factory=list)
    objects: dict[int, tuple[int, int]] = field(default_factory=dict)
    expressions: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    def save(self, project: Path) -> None:
        """Write it into the folder of a project."""
        data = asdict(self)
        write_atomic(project / _NAME, (json.dumps(data, indent=1) + "\n").encode())

    @classmethod
    def load(cls, project: Path) -> Origin | None:
        """Return what `save` wrote; None for a project that was not imported."""
        try:
            data: dict[str, Any] = json.loads((project / _NAME).read_text(encoding="utf-8"))
            data["objects"] = {int(k): (int(o), int(a)) for k, (o, a) in data["objects"].items()}
            return cls(**data)
        except (OSError, ValueError, TypeError, KeyError):
            return None


def digest(raw: bytes) -> str:
    """Return a hash of a part of a file."""
    return hashlib.sha256(raw).hexdigest()
