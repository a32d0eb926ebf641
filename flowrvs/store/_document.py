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
    "ConfidenceRecord",
    "Document",
    "LayerRecord",
    "ObjectRecord",
    "RunRecord",
    "event",
    "from_row",
    "placed",
    "to_row",
]

FORMAT_VERSION = 2
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


@dataclass(frozen=True, slots=True)
class ConfidenceRecord:
    """On which frames of a layer the confidence was kept, and of which object.

    Attributes
    ----------
    layer : int
        The layer, also the name of its array in ``confidence/``.
    frames : mapping of int to list of [first, one past the last]
        By object. None: wherever the object is the model's (format 1 did not tell).
    """

    layer: int
    frames: Mapping[int, list[list[int]] | None]


@dataclass
class Document:
    """The attributes of a project, as Python values.

    Attributes
    ----------
    video : VideoInfo
        The video that the masks belong to.
    relative : str or None
        The video's path from the project's folder, for when both are moved.
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
    relative: str | None = None
    model: str | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    layers: dict[int, LayerRecord] = field(default_factory=dict)
    objects: dict[int, ObjectRecord] = field(default_factory=dict)
    expressions: dict[str, Expression] = field(default_factory=dict)
    prompts: dict[str, int] = field(default_factory=dict)
    runs: dict[str, RunRecord] = field(default_factory=dict)
    confidence: dict[int, ConfidenceRecord] = field(default_factory=dict)
    next_ids: dict[str, int] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def new_id(self, kind: str, first: int) -> int:
        """Return an id that `kind` of thing never had before, counting from `first`."""
        value = self.next_ids.get(kind, first)
        self.next_ids[kind] = value + 1
        return value

    def to_attributes(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""

        def rows(section: str) -> list[Any]:
            return [to_row(section, value) for value in getattr(self, section).values()]

        return {
            **self.extra,
            "format": "flowrvs-project",
            "format_version": FORMAT_VERSION,
            "video": asdict(self.video),
            "video_relative": self.relative,
            "model": self.model,
            "history": self.history,
            "layers": rows("layers"),
            "objects": rows("objects"),
            "expressions": rows("expressions"),
            "prompts": self.prompts,
            "confidence": rows("confidence"),
            "runs": rows("runs"),
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

        def read(section: str) -> dict[Any, Any]:
            values = [from_row(section, row) for row in attributes.get(section, ())]
            return {_key(section, value): value for value in values}

        layers, objects, expressions = read("layers"), read("objects"), read("expressions")
        for one in objects.values():
            layers[one.layer]  # a KeyError says that the layer is missing
        for expression in expressions.values():
            if not expression.object_ids <= objects.keys():
                raise ValueError(f"expression {expression.exp_id} means objects that are not there")
        confidence = read("confidence")
        for layer, kept in confidence.items():
            if not kept.frames:
                members = {one.id: None for one in objects.values() if one.layer == layer}
                confidence[layer] = ConfidenceRecord(layer, members)
        own = cls(VideoInfo(**video)).to_attributes()
        return cls(
            video=VideoInfo(**video),
            relative=attributes.get("video_relative"),
            model=attributes.get("model"),
            history=list(attributes.get("history", ())),
            layers=layers,
            objects=objects,
            expressions=expressions,
            prompts={k: int(v) for k, v in attributes.get("prompts", {}).items()},
            runs=read("runs"),
            confidence=confidence,
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


def to_row(section: str, value: Any) -> Any:
    """Return a value of a section of the document as JSON can hold it."""
    if section == "expressions":
        ids = sorted(value.object_ids)
        return {"exp_id": value.exp_id, "text": value.text, "object_ids": ids}
    if section == "runs":
        done = _to_spans(value.done)
        return {"id": value.id, "object_id": value.object_id, "key": dict(value.key), "done": done}
    if section == "confidence":
        return {"layer": value.layer, "frames": {str(i): v for i, v in value.frames.items()}}
    if section == "objects":
        return {**asdict(value), "color": list(value.color)}
    return asdict(value) if section == "layers" else value


def from_row(section: str, row: Any) -> Any:
    """Return what `to_row` was given.

    Raises
    ------
    KeyError, TypeError, ValueError
        The row is damaged.
    """
    if section == "layers":
        return LayerRecord(int(row["id"]), row["name"])
    if section == "objects":
        red, green, blue = (float(c) for c in row["color"])
        return ObjectRecord(int(row["id"]), row["name"], (red, green, blue), int(row["layer"]))
    if section == "expressions":
        return Expression(row["exp_id"], row["text"], frozenset(int(i) for i in row["object_ids"]))
    if section == "runs":
        done = _from_spans(row["done"])
        return RunRecord(row["id"], int(row["object_id"]), row["key"], done)
    if section == "confidence":
        if isinstance(row, int):  # format 1 named the layers only
            return ConfidenceRecord(row, {})
        return ConfidenceRecord(int(row["layer"]), {int(i): v for i, v in row["frames"].items()})
    return row


def _key(section: str, value: Any) -> Any:
    if section == "expressions":
        return value.exp_id
    return value.layer if section == "confidence" else value.id


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
