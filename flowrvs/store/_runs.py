"""Model runs and which of their windows are finished."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flowrvs.store._core import ProjectCore
from flowrvs.store._document import RunRecord, event

__all__ = ["Runs"]


class Runs(ProjectCore):
    """The part of `Project` that lets an interrupted run go on."""

    # -- runs ----------------------------------------------------------------------------

    def begin_run(
        self, key: Mapping[str, Any], object_id: int, *, resume: bool = True
    ) -> RunRecord:
        """Note that a model is about to draw an object.

        Parameters
        ----------
        key : mapping
            Everything that the masks depend on, in values that JSON can hold. ``"range"``
            (first frame, one past the last) says which frames it draws.
        object_id : int
            The object.
        resume : bool
            Go on with the run of an equal key, if there is one; else draw all of it again.

        Returns
        -------
        RunRecord
            With the windows that are finished. Other runs of the object on the same frames
            are forgotten, as their masks are about to be replaced. Until `end_run`, what
            `write_model` writes of the object is one step of the history.
        """
        self._check_writable()
        one = self._object(object_id)
        wanted = _plain(key)
        self.end_run(object_id)
        model = str(key.get("model", self._doc.model or "model"))
        text = key.get("text", one.name)
        entry = self._open_runs[object_id] = self.history.begin(
            f"model: {text!r}{_frames(wanted)}", "model", model
        )
        with self._lock:
            found = None
            for run in list(self._doc.runs.values()):
                if run.object_id != one.id:
                    continue
                if resume and found is None and _plain(run.key) == wanted:
                    found = run
                elif _overlap(run.key, wanted):
                    self._put("runs", run.id, None, entry)
            self._doc.model = str(key.get("model", self._doc.model))
            if found is None:
                found = RunRecord(str(self._doc.new_id("run", 1)), one.id, wanted)
                self._put("runs", found.id, found, entry)
                self._doc.history.append(event("run", run=found.id, **wanted))
            self._save()
            return found

    @property
    def runs(self) -> dict[str, RunRecord]:
        """Every run by its id, finished windows included."""
        with self._lock:
            return dict(self._doc.runs)

    def mark_window_done(self, run_id: str, index: int) -> None:
        """Make the masks of a window safe on the disk, then note that it is finished.

        Raises
        ------
        StorageError
            They are not safe; the window does not count as finished.
        """
        self.flush()
        with self._lock:
            run = self._doc.runs.get(run_id)
            if run is not None:  # its object may have been removed meanwhile
                entry = self._open_runs.get(run.object_id)
                self._put("runs", run_id, replace(run, done=run.done | {index}), entry)
                self._save()

    def end_run(self, object_id: int) -> None:
        """Say that the run of an object is over: all of it is now one step to undo.

        A run that is never ended is so when the next one of its object begins, or when the
        project closes.
        """
        entry = self._open_runs.pop(object_id, None)
        if entry is None:
            return
        if entry.layers:
            self.history.end(entry)
        else:
            self.history.drop(entry)  # it wrote nothing


def _plain(key: Mapping[str, Any]) -> dict[str, Any]:
    """Return the key as JSON gives it back."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in key.items()}


def _frames(key: Mapping[str, Any]) -> str:
    if "range" not in key:
        return ""
    start, stop = key["range"]
    return f", frames {start}-{stop - 1}"


def _overlap(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    if "range" not in one or "range" not in other:
        return True
    return bool(one["range"][0] < other["range"][1] and other["range"][0] < one["range"][1])
