"""What a project knows besides its pixels: the attributes of its zarr group."""

from __future__ import annotations

import contextlib
import errno
import getpass
import json
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from flowrvs.disk import is_flat, parse_json, read_regular, write_bytes
from flowrvs.errors import ProjectError, StorageError
from flowrvs.locks import FileLock
from flowrvs.masks.rle import MAX_PIXELS
from flowrvs.records import Expression, VideoInfo
from flowrvs.store.changes import Spans, frames_text, utc_now, utf8
from flowrvs.store.storage import failed, read_group, write_group

__all__ = [
    "FORMAT_VERSION",
    "SECTIONS",
    "ConfidenceRecord",
    "Document",
    "LayerRecord",
    "ObjectRecord",
    "ProjectEvent",
    "RunRecord",
    "WriterLock",
    "clipped",
    "from_row",
    "login_name",
    "plain_key",
    "read_document",
    "relative_path",
    "run_frames",
    "save_document",
    "with_full_path",
]

FORMAT_VERSION = 2
"""Version of the folder's layout that this code writes and the newest that it reads."""

SECTIONS = ("layers", "objects", "expressions", "prompts", "runs", "confidence")
"""Parts of the document that steps change; each needs the ones before it."""

_COPY = "document.json"
_COPY_BYTES = 256 * 2**20
_LARGEST = 65535
_MOST_FRAMES = 10**7


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_rate(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and 0 < value < float("inf"))


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


#: What a project can do without of what it knows of its video, and whether a value may be so.
_OPTIONAL = {
    "path": _is_text,
    "kind": lambda value: isinstance(value, str),
    "rate": _is_rate,
    "frame_names": _are_names,
    "fingerprint": _is_text,
}
_LOCK_BYTES = 512


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
    """On which frames of a layer the confidence was kept, and of which object."""

    layer: int  # also the name of its array in ``confidence/``
    #: Runs of frames by object. None: wherever it is the model's (format 1 did not tell).
    frames: Mapping[int, list[list[int]] | None]


@dataclass(frozen=True, slots=True)
class ProjectEvent:
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


@dataclass
class Document:
    """The attributes of a project, as Python values."""

    video: VideoInfo
    relative: str | None = None  # the video's path from the project's folder
    model: str | None = None  # the one that ran last
    history: list[dict[str, Any]] = field(default_factory=list)  # what was done as a whole
    layers: dict[int, LayerRecord] = field(default_factory=dict)
    objects: dict[int, ObjectRecord] = field(default_factory=dict)
    expressions: dict[str, Expression] = field(default_factory=dict)
    prompts: dict[str, int] = field(default_factory=dict)  # the objects made for expressions
    runs: dict[str, RunRecord] = field(default_factory=dict)
    confidence: dict[int, ConfidenceRecord] = field(default_factory=dict)
    next_ids: dict[str, int] = field(default_factory=dict)
    removed: set[int] = field(default_factory=set)  # ids that no other object gets
    extra: dict[str, Any] = field(default_factory=dict)  # of others, kept as they are
    damage: list[str] = field(default_factory=list)  # what could not be read, in a line each
    version: int = FORMAT_VERSION  # the format that it was read from
    moment: int = 0  # of the history: what ended, was undone or redone by then is in here

    def row(self, section: str, key: str) -> Any:
        """Return a value of a section as JSON can hold it; None where there is none."""
        value = getattr(self, section).get(plain_key(section, key))
        return None if value is None else _to_row(section, value)

    def put(self, section: str, key: Any, value: Any) -> Any:
        """Set or remove (None) a value of a section; return the one before."""
        table = getattr(self, section)
        old = table.get(key)
        if value is None:
            table.pop(key, None)
        else:
            table[key] = value
        return old

    def log(self, name: str, **details: Any) -> None:
        """Add to what was done to the project as a whole."""
        self.history.append({"time": utc_now(), "event": name, **details})

    def new_id(self, kind: str, first: int) -> int:
        """Return an id that `kind` of thing never had before, counting from `first`."""
        value = self.next_ids.get(kind, first)
        self.next_ids[kind] = value + 1
        return value

    def to_attributes(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""

        def rows(section: str) -> list[Any]:
            return [_to_row(section, value) for value in getattr(self, section).values()]

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
            "removed": Spans.of(sorted(self.removed)).runs,
            "moment": self.moment,
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
        if not is_flat(attributes):
            raise ProjectError(f"{path} has damaged attributes (nested too deep).")
        try:
            document = cls._read(attributes)
            document.version = version
            return document
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ProjectError(f"{path} has damaged attributes ({error!r:.200}).") from error

    @classmethod
    def _read(cls, attributes: Mapping[str, Any]) -> Document:
        known = {f.name for f in fields(VideoInfo)}
        video = {k: v for k, v in attributes["video"].items() if k in known}
        odd = [k for k, fits in _OPTIONAL.items() if k in video and not fits(video[k])]
        video |= {k: {"kind": "array", "frame_names": ()}.get(k) for k in odd}
        video["frame_names"] = tuple(video.get("frame_names", ()))
        document = cls(VideoInfo(**video))
        document.damage += [f"a damaged {k!r} of the video" for k in odd]
        shape = (document.video.frame_count, document.video.height, document.video.width)
        if not all(type(n) is int and n > 0 for n in shape):
            raise ValueError("a video without frames")
        if shape[0] > _MOST_FRAMES or shape[1] * shape[2] > MAX_PIXELS:
            raise ValueError("a video larger than any")
        ours = document.to_attributes()
        document.extra = {k: v for k, v in attributes.items() if k not in ours}
        relative, model = attributes.get("video_relative"), attributes.get("model")
        document.relative = relative if isinstance(relative, str) else None
        document.model = model if isinstance(model, str) else None
        document.history = [e for e in attributes.get("history", ()) if isinstance(e, dict)]
        for section in ("layers", "objects", "expressions", "runs", "confidence"):
            table = getattr(document, section)
            for row in attributes.get(section, ()):
                # A damaged row costs what it names, and nothing else.
                try:
                    value = from_row(section, row)
                except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
                    document.damage.append(f"a damaged row of {section}")
                else:
                    table[_key(section, value)] = value
        moment = attributes.get("moment")
        document.moment = moment if type(moment) is int else 0
        prompts = attributes.get("prompts", {})
        document.prompts = {str(k): v for k, v in prompts.items() if type(v) is int}
        document.removed = set(_from_spans(attributes.get("removed", ()), _LARGEST))
        document._mend(attributes["next_ids"])
        return document

    def _mend(self, next_ids: Mapping[str, Any]) -> None:
        """Leave out what refers to nothing, and count ids beyond those that are there."""
        for record in list(self.objects.values()):
            if record.layer not in self.layers:
                self.layers[record.layer] = LayerRecord(record.layer, f"layer {record.layer}")
        for key, expression in list(self.expressions.items()):
            left = expression.object_ids & self.objects.keys()
            if left != expression.object_ids:
                self.damage.append(f"objects of {expression.text!r:.80} that are not there")
                self.expressions[key] = replace(expression, object_ids=left)
        self.prompts = {
            k: v for k, v in self.prompts.items() if k in self.expressions and v in self.objects
        }
        self.runs = {k: run for k, run in self.runs.items() if run.object_id in self.objects}
        for layer, kept in list(self.confidence.items()):
            if not kept.frames:
                members = {i: None for i, record in self.objects.items() if record.layer == layer}
                self.confidence[layer] = ConfidenceRecord(layer, members)
        numbers: dict[str, Iterable[int | str]] = {
            "layer": self.layers,
            "object": {*self.objects, *self.removed},
            "expression": [k for k in self.expressions if k.isdecimal()],
            "run": [k for k in self.runs if k.isdecimal()],
        }
        for kind, used in numbers.items():
            following = max((int(i) + 1 for i in used), default=0)
            saved = next_ids.get(kind)
            if type(saved) is int or following:
                self.next_ids[kind] = max(saved if type(saved) is int else 0, following)


# -- the files -------------------------------------------------------------------------


def save_document(folder: Path, attributes: Mapping[str, Any]) -> None:
    """Write the attributes, and a copy for a disk that damages them, beside the journal."""
    write_group(folder, attributes)
    target = folder / "history" / _COPY
    with contextlib.suppress(StorageError):  # without waiting for the disk
        if target.parent.exists():
            data = json.dumps(attributes, ensure_ascii=False).encode("utf-8", "backslashreplace")
            write_bytes(target, data, durable=False)


def read_document(folder: Path) -> tuple[Document, bool]:
    """Return the document of a project, and whether it is the copy of a damaged one."""
    newer = False
    try:
        attributes = read_group(folder)
        version = attributes.get("format_version")
        newer = isinstance(version, int) and version > FORMAT_VERSION
        return Document.from_attributes(attributes, folder), False
    except ProjectError as error:
        if newer:
            raise
        try:
            attributes = parse_json(read_regular(folder / "history" / _COPY, _COPY_BYTES))
            return Document.from_attributes(attributes, folder), True
        except (OSError, ValueError, AttributeError):
            raise error from None


class WriterLock:
    """Holds a project for writing: one process at a time.

    The lock lies on ``writer/zarr.json``, an empty zarr group (so that zarr's readers know
    what it is) whose attributes name the process that holds it. The system releases the lock
    when that process ends, however it ends.

    Raises
    ------
    ProjectError
        Another process, or this one, has the project open for writing.
    StorageError
        The folder cannot be written to.
    """

    def __init__(self, project: Path) -> None:
        self._project = project
        self._lock = FileLock(project / "writer" / "zarr.json")
        try:
            self._lock.path.parent.mkdir(exist_ok=True)
            mine = self._lock.acquire()
        except OSError as error:
            raise failed(error, project) from error
        if not mine:
            holder = self._holder()
            raise ProjectError(f"{project} is open for writing in {holder}; close it there first.")
        # Written in place, padded to one size: a kill must not leave half a document.
        who = {"pid": os.getpid(), "host": socket.gethostname()}
        document = {"zarr_format": 3, "node_type": "group", "attributes": who}
        try:
            self._lock.write(json.dumps(document).encode().ljust(_LOCK_BYTES))
        except OSError as error:
            self.release()
            raise failed(error, project) from error

    def release(self) -> None:
        """Let others write; further calls do nothing."""
        self._lock.release()

    def check(self) -> None:
        """Raise a `StorageError` where what is written would land elsewhere."""
        if self._lock.in_place():
            return
        if not self._lock.path.exists():
            raise failed(FileNotFoundError(errno.ENOENT, "gone"), self._project)
        raise StorageError(
            f"Cannot write to {self._project}: another folder lies in its place; put the old one "
            "back. Nothing in memory is lost."
        )

    def _holder(self) -> str:
        try:
            who = json.loads(read_regular(self._lock.path, _LOCK_BYTES))["attributes"]
            if who["pid"] == os.getpid() and who["host"] == socket.gethostname():
                return "this program"
            return f"another process (pid {int(who['pid'])} on {who['host']!s:.80})"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"


# -- values ----------------------------------------------------------------------------


def clipped(color: Iterable[float]) -> tuple[float, float, float]:
    """Return a colour with red, green and blue within 0 to 1."""
    red, green, blue = (min(1.0, max(0.0, float(c))) for c in color)
    return red, green, blue


def login_name() -> str:
    """Return the name that a person has logged in by."""
    with contextlib.suppress(OSError, KeyError, ImportError):
        return getpass.getuser()
    return "a person"


def relative_path(path: str, folder: Path) -> str | None:
    """Return the way from a folder to a file, with slashes; None to another drive."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:
        return None


def with_full_path(info: VideoInfo) -> VideoInfo:
    """Return `info` with a path that holds in any working directory."""
    if info.path is None or not os.path.exists(info.path):
        return info
    return replace(info, path=os.path.abspath(info.path))


def _to_row(section: str, value: Any) -> Any:
    """Return a value of a section of the document as JSON can hold it."""
    if section == "expressions":
        ids = sorted(value.object_ids)
        return {"exp_id": value.exp_id, "text": value.text, "object_ids": ids}
    if section == "runs":
        done = Spans.of(sorted(value.done)).runs
        return {"id": value.id, "object_id": value.object_id, "key": dict(value.key), "done": done}
    if section == "confidence":
        return {"layer": value.layer, "frames": {str(i): v for i, v in value.frames.items()}}
    if section == "objects":
        return {**asdict(value), "color": list(value.color)}
    return asdict(value) if section == "layers" else value


def from_row(section: str, row: Any) -> Any:
    """Return what `_to_row` was given; a damaged row raises whatever Python finds."""
    if section == "layers":
        return LayerRecord(_number(row["id"]), _text(row["name"]))
    if section == "objects":
        number, layer = _number(row["id"]), _number(row["layer"])
        return ObjectRecord(number, _text(row["name"]), clipped(row["color"]), layer)
    if section == "expressions":
        ids = frozenset(_number(i) for i in row["object_ids"])
        return Expression(_text(row["exp_id"]), _text(row["text"]), ids)
    if section == "runs":
        done = _from_spans(row["done"], 2**24)
        return RunRecord(_text(row["id"]), _number(row["object_id"]), {**row["key"]}, done)
    if section == "confidence":
        if isinstance(row, int):  # format 1 named the layers only
            return ConfidenceRecord(row, {})
        frames = {
            _number(int(i)): None if runs is None else [[int(a), int(b)] for a, b in runs]
            for i, runs in row["frames"].items()
        }
        return ConfidenceRecord(_number(row["layer"]), frames)
    if section == "prompts":
        return _number(row)
    return row


def _number(value: Any) -> int:
    """Return the id of a layer or an object."""
    if type(value) is not int or not 0 < value <= _LARGEST:
        raise ValueError("no id")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("no text")
    return utf8(value)


def plain_key(section: str, key: str) -> Any:
    """Return the key in a section of the document that a step's row has as text."""
    return key if section in ("expressions", "prompts", "runs") else int(key)


def _key(section: str, value: Any) -> Any:
    if section == "expressions":
        return value.exp_id
    return value.layer if section == "confidence" else value.id


def _from_spans(spans: Any, limit: int) -> frozenset[int]:
    pairs = [(int(first), int(stop)) for first, stop in spans]
    if any(not 0 <= first <= stop <= limit + 1 for first, stop in pairs):
        raise ValueError("numbers beyond all bounds")
    return frozenset(i for first, stop in pairs for i in range(first, stop))


def run_frames(key: Mapping[str, Any]) -> str:
    """Name the frames of a run."""
    return f", {frames_text(*key['range'])}" if "range" in key else ""
