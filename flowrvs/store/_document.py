"""What a project knows besides its pixels: the attributes of its zarr group."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flowrvs.errors import ProjectError
from flowrvs.records import Expression, VideoInfo

__all__ = [
    "FORMAT_VERSION",
    "Document",
    "LayerRecord",
    "ObjectRecord",
    "RunRecord",
    "event",
    "placed",
]

FORMAT_VERSION = 1
"""Version of the folder's layout that this code writes and the newest that it reads."""


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """A label volume in which objects exclude each other.

    Attributes
    ----------
    id : int
        Its number, also the name of its array in ``layers/``.
    name : str
        As shown to the user.
    """

    id: int
    name: str


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    """One object of a video.

    Attributes
    ----------
    id : int
        Unique in the project, 1 to 65535; the value of its pixels.
    name : str
        As shown to the user.
    color : tuple of 3 floats
        Red, green and blue, 0 to 1.
    layer : int
        Id of the layer that holds its pixels.
    """

    id: int
    name: str
    color: tuple[float, float, float]
    layer: int


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A model run of one sentence and what of it is finished.

    Attributes
    ----------
    id : str
        Unique in the project.
    object_id : int
        The object that it draws.
    key : mapping
        Everything that the masks depend on: sentence, model, steps, range, window plan.
    done : frozenset of int
        Indices of the windows whose masks are safe on the disk.
    """

    id: str
    object_id: int
    key: Mapping[str, Any]
    done: frozenset[int] = frozenset()


@dataclass
class Document:
    """The attributes of a project, as Python values.

    Attributes
    ----------
    video : VideoInfo
        The video that the masks belong to.
    model : str or None
        The model that ran last.
    history : list of dict
        What was done and when, oldest first.
    prompts : dict of str to int
        For every expression that was prompted, the object made for it.
    extra : dict
        Attributes of others, kept as they are.
    """

    video: VideoInfo
    model: str | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    layers: dict[int, LayerRecord] = field(default_factory=dict)
    objects: dict[int, ObjectRecord] = field(default_factory=dict)
    expressions: dict[str, Expression] = field(default_factory=dict)
    prompts: dict[str, int] = field(default_factory=dict)
    runs: dict[str, RunRecord] = field(default_factory=dict)
    confidence: list[int] = field(default_factory=list)
    next_ids: dict[str, int] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def new_id(self, kind: str, first: int) -> int:
        """Return an id that `kind` of thing never had before, counting from `first`."""
        value = self.next_ids.get(kind, first)
        self.next_ids[kind] = value + 1
        return value

    def to_attributes(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return {
            **self.extra,
            "format": "flowrvs-project",
            "format_version": FORMAT_VERSION,
            "video": asdict(self.video),
            "model": self.model,
            "history": self.history,
            "layers": [asdict(layer) for layer in self.layers.values()],
            "objects": [asdict(one) for one in self.objects.values()],
            "expressions": [
                {"exp_id": e.exp_id, "text": e.text, "object_ids": sorted(e.object_ids)}
                for e in self.expressions.values()
            ],
            "prompts": self.prompts,
            "confidence": self.confidence,
            "runs": [
                {
                    "id": run.id,
                    "object_id": run.object_id,
                    "key": dict(run.key),
                    "done": _to_spans(run.done),
                }
                for run in self.runs.values()
            ],
            "next_ids": self.next_ids,
        }

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any], path: Path) -> Document:
        """Read what `to_attributes` wrote.

        Raises
        ------
        ProjectError
            It is no project, a newer one, or its attributes contradict each other.
        """
        version = attributes.get("format_version")
        if attributes.get("format") != "flowrvs-project" or not isinstance(version, int):
            raise ProjectError(f"{path} is not a flowrvs project.")
        if version > FORMAT_VERSION:
            raise ProjectError(
                f"{path} was written by a newer flowrvs (format {version}; this one reads up to "
                f"{FORMAT_VERSION}): upgrade napari-flowrvs to open it."
            )
        try:
            return cls._read(attributes)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ProjectError(f"{path} has damaged attributes ({error!r}).") from error

    @classmethod
    def _read(cls, attributes: Mapping[str, Any]) -> Document:
        known = {f.name for f in fields(VideoInfo)}
        video = {k: v for k, v in attributes["video"].items() if k in known}
        video["frame_names"] = tuple(video.get("frame_names", ()))
        layers = {int(r["id"]): LayerRecord(int(r["id"]), r["name"]) for r in attributes["layers"]}
        objects = {}
        for row in attributes["objects"]:
            red, green, blue = (float(c) for c in row["color"])
            one = ObjectRecord(int(row["id"]), row["name"], (red, green, blue), int(row["layer"]))
            layers[one.layer]  # a KeyError says that the layer is missing
            objects[one.id] = one
        expressions = {}
        for row in attributes["expressions"]:
            meant = frozenset(int(i) for i in row["object_ids"])
            if not meant <= objects.keys():
                raise ValueError(f"expression {row['exp_id']} means objects that are not there")
            expressions[row["exp_id"]] = Expression(row["exp_id"], row["text"], meant)
        runs = {
            row["id"]: RunRecord(
                row["id"], int(row["object_id"]), row["key"], _from_spans(row["done"])
            )
            for row in attributes.get("runs", ())
        }
        own = cls(VideoInfo(**video)).to_attributes()
        return cls(
            video=VideoInfo(**video),
            model=attributes.get("model"),
            history=list(attributes.get("history", ())),
            layers=layers,
            objects=objects,
            expressions=expressions,
            prompts={k: int(v) for k, v in attributes.get("prompts", {}).items()},
            runs=runs,
            confidence=[int(i) for i in attributes.get("confidence", ())],
            next_ids={k: int(v) for k, v in attributes["next_ids"].items()},
            extra={k: v for k, v in attributes.items() if k not in own},
        )


def placed(info: VideoInfo) -> VideoInfo:
    """Return `info` with a path that holds in any working directory."""
    if info.path is None or not os.path.exists(info.path):
        return info
    return replace(info, path=os.path.abspath(info.path))


def event(name: str, **details: Any) -> dict[str, Any]:
    """Return a row of the history."""
    return {"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": name, **details}


def _to_spans(indices: frozenset[int]) -> list[list[int]]:
    """Return sorted ``[first, past the last]`` runs: a long run stays a short list."""
    spans: list[list[int]] = []
    for index in sorted(indices):
        if spans and spans[-1][1] == index:
            spans[-1][1] = index + 1
        else:
            spans.append([index, index + 1])
    return spans


def _from_spans(spans: list[list[int]]) -> frozenset[int]:
    return frozenset(i for first, stop in spans for i in range(first, stop))
