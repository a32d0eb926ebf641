"""Models of other packages, and our own trackers, found through entry points.

A package offers a model under the group ``flowrvs.segmenters`` or ``flowrvs.trackers``: a name,
and the function that loads it, ``load(name, *, device="auto", precision="auto")``. Nothing of a
package is imported before one of its models is asked for.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import metadata
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from flowrvs.errors import (
    DeviceMemoryError,
    FlowRVSError,
    InputError,
    MissingPathError,
    PluginError,
    missing_extra,
)
from flowrvs.protocols import (
    FrameBlock,
    InstanceSegmenter,
    Mark,
    ReadFrame,
    RememberingTracker,
    Segmenter,
    TrackedObject,
    Tracker,
    TrackerMemory,
)
from flowrvs.records import check_windows

__all__ = ["Plugin", "PluginKind", "find_plugin", "load_plugin", "load_tracker", "plugins"]

PluginKind = Literal["segmenter", "tracker"]
GROUPS: dict[PluginKind, str] = {
    "segmenter": "flowrvs.segmenters",
    "tracker": "flowrvs.trackers",
}
#: The distribution whose errors are told as they are.
_OURS = "napari-flowrvs"

_METHODS = {"segmenter": ("segment_window",), "tracker": ("encode", "pick", "follow")}


@dataclass(frozen=True, slots=True)
class Plugin:
    """A model that a package offers.

    Attributes
    ----------
    name : str
        What it is asked for by.
    kind : {"segmenter", "tracker"}
    package, version : str
        Of the distribution, as pip knows it.
    target : str
        The function that loads it, as ``module:function``.
    fault : str
        Why it cannot be used, in one line; "" where nothing is known against it.
    """

    name: str
    kind: PluginKind
    package: str
    version: str
    target: str
    fault: str = ""

    @property
    def ours(self) -> bool:
        """Whether it is a part of flowrvs."""
        return self.package == _OURS


# What was found out against plugins in this process, when they were loaded.
_faults: dict[Plugin, str] = {}


def plugins(kind: PluginKind | None = None) -> tuple[Plugin, ...]:
    """Return what the installed packages offer, in the order of kinds and names.

    Of several of one kind and name the first that Python finds is taken; the others are listed
    as faulty.

    Parameters
    ----------
    kind : {"segmenter", "tracker"}, optional
        Only these.
    """
    found = _installed(tuple(sys.path))
    return tuple(
        replace(plugin, fault=plugin.fault or _faults.get(plugin, ""))
        for plugin in found
        if kind in (None, plugin.kind)
    )


@lru_cache(maxsize=8)
def _installed(_path: tuple[str, ...]) -> tuple[Plugin, ...]:
    found: list[Plugin] = []
    for kind, group in GROUPS.items():
        known: dict[str, Plugin] = {}
        rows: list[Plugin] = []
        for point in metadata.entry_points(group=group):
            package = point.dist.name if point.dist is not None else "an unknown package"
            version = point.dist.version if point.dist is not None else ""
            plugin = Plugin(point.name, kind, package, version, point.value)
            first = known.setdefault(plugin.name, plugin)
            if first is not plugin:
                if (first.package, first.target) == (package, plugin.target):
                    continue  # the same package on the path twice
                fault = f"the package {first.package} offers this name, too"
            else:
                fault = _obvious_fault(plugin)
            rows.append(replace(plugin, fault=fault))
        found += sorted(rows, key=lambda row: row.name)  # the first that was found first
    return tuple(found)


def _obvious_fault(plugin: Plugin) -> str:
    """Return what is wrong with an entry point as far as can be seen without importing it."""
    module, colon, function = plugin.target.partition(":")
    if not colon or not function or not plugin.name.strip() or not plugin.name.isprintable():
        return f"its entry point {plugin.name} = {plugin.target} is not name = module:function"
    path: Sequence[str] | None = None
    whole = ""
    for part in module.split("."):
        whole = f"{whole}.{part}" if whole else part
        spec = importlib.machinery.PathFinder.find_spec(whole, path)
        if spec is None and whole in sys.modules:
            spec = sys.modules[whole].__spec__
        if spec is None:
            # An editable install may have a finder of its own, which is asked on import alone.
            return "" if path is None else f"its module {module} is not there"
        path = list(spec.submodule_search_locations or [])
    return ""


def find_plugin(kind: PluginKind, name: str) -> Plugin | None:
    """Return the plugin of a name; None where no package offers it."""
    return next((plugin for plugin in plugins(kind) if plugin.name == name), None)


def load_plugin(plugin: Plugin, *, device: str = "auto", precision: str = "auto") -> Any:
    """Import a plugin and load its model.

    Parameters
    ----------
    plugin : Plugin
    device : str
        ``"auto"``, or a torch device such as ``"cuda:1"``.
    precision : str
        ``"auto"``, ``"float32"``, ``"float16"`` or ``"bfloat16"``.

    Returns
    -------
    Segmenter or Tracker
        Whatever goes wrong in it later is a `PluginError` that names the package.

    Raises
    ------
    PluginError
        It cannot be imported, or what it gives is no such model.
    FlowRVSError
        What the package itself says: weights that have to be fetched, for example.
    """
    if plugin.fault:
        raise PluginError(_line(plugin, plugin.fault))
    point = metadata.EntryPoint(plugin.name, plugin.target, GROUPS[plugin.kind])
    try:
        with _blaming(plugin, "cannot be loaded"):
            model = point.load()(plugin.name, device=device, precision=precision)
            fault = _fault_of(model, plugin.kind)
            if fault:
                raise PluginError(_line(plugin, fault))
    except PluginError as error:
        _faults[plugin] = str(error).removeprefix(_line(plugin, "")).removesuffix(_ADVICE)
        raise
    _faults.pop(plugin, None)
    if plugin.ours:
        return model
    if plugin.kind == "tracker":
        remembers = callable(getattr(model, "recall", None))
        return (_GuardedRemembering if remembers else _GuardedTracker)(model, plugin)
    if isinstance(model, InstanceSegmenter):
        return _GuardedInstances(model, plugin)
    return _GuardedSegmenter(model, plugin)


def load_tracker(name: str, *, device: str = "auto", precision: str = "auto") -> Tracker:
    """Load a tracker by its name.

    Parameters
    ----------
    name : str
        As ``flowrvs models list`` shows it.
    device, precision : str
        As for `load_plugin`.

    Raises
    ------
    MissingPathError
        No package offers it.
    PluginError, FlowRVSError
        As for `load_plugin`.
    """
    plugin = find_plugin("tracker", name)
    if plugin is None:
        if find_plugin("segmenter", name) is not None:
            raise InputError(f"{name} takes sentences, not marks: give it as --model of segment.")
        known = ", ".join(p.name for p in plugins("tracker")) or "none"
        raise MissingPathError(
            f"No tracker {name!r}: there are {known}; 'classical' needs none. Others come with "
            "packages (docs/bring-your-model.md)."
        )
    tracker: Tracker = load_plugin(plugin, device=device, precision=precision)
    return tracker


_ADVICE = "; update or remove the package."


def _line(plugin: Plugin, what: str) -> str:
    head = f"The {plugin.kind} {plugin.name!r} of the package {plugin.package} {plugin.version}: "
    return f"{head}{what}{_ADVICE}" if what else head


def _fault_of(model: object, kind: PluginKind) -> str:
    """Return what keeps an object from being a model of a kind; "" where nothing does."""
    name = getattr(model, "name", None)
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        return f"its name is {name!r}, not a text"
    for method in _METHODS[kind]:
        if not callable(getattr(model, method, None)):
            return f"it has no method {method}"
    if kind == "segmenter":
        size, overlap = (getattr(model, key, None) for key in ("window_size", "overlap"))
        if not isinstance(size, int) or not isinstance(overlap, int):
            return f"its window_size and overlap are {size!r} and {overlap!r}, not whole numbers"
        try:
            check_windows(size, overlap)
        except InputError as error:
            return str(error).rstrip(".")
    return ""


@contextmanager
def _blaming(plugin: Plugin, what: str = "went wrong") -> Iterator[None]:
    """Let what a package does wrong be told as its fault; what it says on purpose is kept."""
    try:
        yield
    except FlowRVSError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            raise DeviceMemoryError(_line(plugin, "the memory is too small")) from error
        extra = missing_extra(error) if isinstance(error, ImportError) else None
        if extra is not None and plugin.ours:
            raise extra from error
        first = (str(error).strip().splitlines() or [""])[0][:200]
        reason = f"{type(error).__name__}: {first}" if first else type(error).__name__
        raise PluginError(_line(plugin, f"{what} ({reason})")) from error


class _GuardedSegmenter:
    """A segmenter of another package, whose faults name it."""

    def __init__(self, model: Segmenter, plugin: Plugin) -> None:
        self.name = model.name
        self.weights = str(getattr(model, "weights", plugin.version))
        self.window_size, self.overlap = int(model.window_size), int(model.overlap)
        self.whole_video = bool(getattr(model, "whole_video", False))
        self._model, self._plugin = model, plugin

    def segment_window(
        self, frames: FrameBlock, texts: Sequence[str], **how: Any
    ) -> Iterator[npt.NDArray[np.float32]]:
        with _blaming(self._plugin):
            yield from self._model.segment_window(frames, texts, **how)


class _GuardedInstances(_GuardedSegmenter):
    _model: InstanceSegmenter

    def find_instances(
        self, read: ReadFrame, text: str, frames: Sequence[int], **how: Any
    ) -> Iterator[tuple[int, dict[int, TrackedObject]]]:
        with _blaming(self._plugin):
            yield from self._model.find_instances(read, text, frames, **how)


class _GuardedTracker:
    """A tracker of another package, whose faults name it."""

    def __init__(self, model: Tracker, plugin: Plugin) -> None:
        self.name = model.name
        self._model, self._plugin = model, plugin

    def encode(self, image: npt.NDArray[np.uint8]) -> Any:
        with _blaming(self._plugin):
            return self._model.encode(image)

    def pick(
        self,
        encoded: Any,
        marks: Sequence[Mark],
        previous: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.float32]:
        with _blaming(self._plugin):
            return self._model.pick(encoded, marks, previous)

    def follow(
        self,
        read: ReadFrame,
        keys: Mapping[int, Mapping[int, npt.NDArray[np.bool_]]],
        frames: Sequence[int],
        **how: Any,
    ) -> Iterator[tuple[int, dict[int, TrackedObject]]]:
        with _blaming(self._plugin):
            yield from self._model.follow(read, keys, frames, **how)


class _GuardedMemory:
    """A memory of another package's tracker."""

    def __init__(self, memory: TrackerMemory, plugin: Plugin) -> None:
        self.memory, self._plugin = memory, plugin
        self.about = memory.about

    def copy(self) -> _GuardedMemory:
        with _blaming(self._plugin):
            return _GuardedMemory(self.memory.copy(), self._plugin)

    def to_bytes(self) -> bytes:
        with _blaming(self._plugin):
            self.memory.about = self.about
            return bytes(self.memory.to_bytes())


class _GuardedRemembering(_GuardedTracker):
    _model: RememberingTracker

    def recall(self, data: bytes = b"") -> _GuardedMemory:
        with _blaming(self._plugin):
            return _GuardedMemory(self._model.recall(data), self._plugin)

    def follow(
        self,
        read: ReadFrame,
        keys: Mapping[int, Mapping[int, npt.NDArray[np.bool_]]],
        frames: Sequence[int],
        *,
        memory: _GuardedMemory | None = None,
        **how: Any,
    ) -> Iterator[tuple[int, dict[int, TrackedObject]]]:
        how["memory"] = None if memory is None else memory.memory
        return super().follow(read, keys, frames, **how)
