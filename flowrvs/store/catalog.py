"""Names: layers, objects, sentences, the video, and which windows of model runs are finished."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flowrvs.errors import InputError, ProjectError, StorageError
from flowrvs.records import Expression, VideoInfo
from flowrvs.store.changes import utf8
from flowrvs.store.document import (
    LayerRecord,
    ObjectRecord,
    RunRecord,
    clipped,
    relative_path,
    run_frames,
    with_full_path,
)
from flowrvs.store.state import State

__all__ = ["Catalog", "Runs"]


class Catalog:
    """What a project knows by name, and the changes of it; each is one step to undo."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._document = state.document

    # -- the video -----------------------------------------------------------------------

    def check_video(self, info: VideoInfo) -> None:
        """Make sure that a video is the one of this project; note where it lies now.

        Raises
        ------
        ProjectError
            It is another video.
        """
        own, info = self._document.video, with_full_path(info)
        size = (own.frame_count, own.height, own.width)
        other = (info.frame_count, info.height, info.width)
        same = own.fingerprint is None or info.fingerprint in (None, own.fingerprint)
        if size != other or not same:
            raise ProjectError(
                f"{self._state.path} holds the masks of {own.path or 'another video'} "
                f"({own.frame_count} frames, {own.width}x{own.height}), not of "
                f"{info.path or 'this one'} ({info.frame_count} frames, {info.width}x"
                f"{info.height}); choose another project."
            )
        if self._state.writable and info.path is not None and info.path != own.path:
            self.note_video(info.path)

    def note_video(self, path: str) -> None:
        """Note where the video lies."""
        with self._state.lock:
            self._document.video = replace(self._document.video, path=path)
            self._document.relative = relative_path(path, self._state.path)
            self._state.save()

    def note(self, name: str, value: Any) -> None:
        """Keep a JSON value under a name of the caller's own, `Project.notes`; no step of undo."""
        state = self._state
        state.check_writable()
        with state.lock:
            if self._document.extra.get(name) != value:
                self._document.extra[name] = value
                state.save_later()

    # -- layers and objects --------------------------------------------------------------

    def add_layer(self, name: str) -> LayerRecord:
        """Make an empty layer."""
        state = self._state
        state.check_writable()
        state.check_there()
        with state.lock:
            layer = LayerRecord(self._document.new_id("layer", 1), utf8(name))
            try:
                state.new_layer_array(layer.id)
            except StorageError:
                shutil.rmtree(state.path / "layers" / str(layer.id), ignore_errors=True)
                raise
            state.put("layers", layer.id, layer)
            state.save()
        state.tell("catalog")
        return layer

    def rename_layer(self, layer_id: int, name: str) -> LayerRecord:
        """Give a layer another name."""
        self._state.volume(layer_id)
        layer = LayerRecord(layer_id, utf8(name))
        with self._state.named_step(f"rename {self._document.layers[layer_id].name!r}"):
            self._state.put("layers", layer_id, layer)
        return layer

    def add_object(
        self, name: str, layer_id: int, color: tuple[float, float, float] | None = None
    ) -> ObjectRecord:
        """Make an object without pixels.

        Parameters
        ----------
        name : str
            As shown to the user.
        layer_id : int
            The layer that will hold its pixels.
        color : tuple of 3 floats, optional
            Red, green, blue, 0 to 1; one that stands out from the others by default.

        Raises
        ------
        ProjectError
            There is no such layer, or 65535 objects exist already.
        """
        state = self._state
        state.check_writable()
        # A layer's lock comes before the document's: a stroke takes them in this order too.
        with state.volume(layer_id).lock, state.lock:
            record = state.new_object(self._document.new_id("object", 1), name, layer_id, color)
            state.save()
        state.tell("catalog")
        return record

    def update_object(
        self,
        object_id: int,
        *,
        name: str | None = None,
        color: tuple[float, float, float] | None = None,
    ) -> ObjectRecord:
        """Rename or recolour an object."""
        state = self._state
        old = state.object(object_id)
        verb = "rename" if name is not None else "recolour"
        with state.named_step(f"{verb} {old.name!r}"):
            record = state.object(object_id)
            if name is not None:
                record = replace(record, name=utf8(name))
            if color is not None:
                record = replace(record, color=clipped(color))
            state.put("objects", object_id, record)
        return record

    # -- sentences -----------------------------------------------------------------------

    def add_expression(self, text: str, object_ids: Iterable[int] = ()) -> Expression:
        """Add a sentence and the objects that it means, none of them for a sentence without.

        Raises
        ------
        InputError
            The sentence is blank.
        ProjectError
            An object is not there.
        """
        text = _sentence(text)
        with self._state.named_step(f"add the sentence {text.strip()!r}"):
            meant = self._existing(object_ids)
            expression = Expression(str(self._document.new_id("expression", 0)), text, meant)
            self._state.put("expressions", expression.exp_id, expression)
        return expression

    def set_expression_objects(self, exp_id: str, object_ids: Iterable[int]) -> Expression:
        """Say which objects a sentence means: any number, in any layers, or none."""
        with self._state.named_step(f"objects of {self._wording(exp_id)}"):
            return self._change(exp_id, object_ids=self._existing(object_ids))

    def set_expression_text(self, exp_id: str, text: str) -> Expression:
        """Word a sentence otherwise; the objects that it means stay."""
        text = _sentence(text)
        with self._state.named_step(f"change the sentence {self._wording(exp_id)}"):
            return self._change(exp_id, text=text)

    def remove_expression(self, exp_id: str) -> None:
        """Forget a sentence; its objects and their masks stay."""
        with self._state.named_step(f"remove the sentence {self._wording(exp_id)}"):
            self._state.put("prompts", exp_id, None)
            self._state.put("expressions", exp_id, None)

    def _wording(self, exp_id: str) -> str:
        return repr(self._state.expression(exp_id).text.strip())

    def _change(self, exp_id: str, **changes: Any) -> Expression:
        expression = replace(self._state.expression(exp_id), **changes)
        self._state.put("expressions", exp_id, expression)
        return expression

    def add_prompt(self, text: str) -> tuple[Expression, ObjectRecord]:
        """Add a sentence with a new object in a new layer, for a model to draw.

        A text that was prompted before (white space aside) gives what it gave then.
        """
        state, document = self._state, self._document
        state.check_writable()
        words = _sentence(text).split()
        with state.lock:
            for exp_id, object_id in document.prompts.items():
                known = document.expressions.get(exp_id)
                if known and known.text.split() == words and object_id in document.objects:
                    return known, document.objects[object_id]
            with state.one_save():
                name = " ".join(words)
                record = self.add_object(name, self.add_layer(name).id)
                exp_id = str(document.new_id("expression", 0))
                expression = Expression(exp_id, _sentence(text).strip(), frozenset({record.id}))
                state.put("expressions", exp_id, expression)
                state.put("prompts", exp_id, record.id)
        state.tell("catalog")
        return expression, record

    def forget_object(self, object_id: int) -> None:
        """Remove an object without pixels, and its layer if nothing else lives there."""
        state, document = self._state, self._document
        with state.lock:
            layer_id = state.object(object_id).layer
            for run in [run for run in document.runs.values() if run.object_id == object_id]:
                state.put("runs", run.id, None)
            for exp_id in [key for key, made in document.prompts.items() if made == object_id]:
                state.put("prompts", exp_id, None)
            for expression in list(document.expressions.values()):
                if object_id in expression.object_ids:
                    left = replace(expression, object_ids=expression.object_ids - {object_id})
                    state.put("expressions", expression.exp_id, left)
            state.put("objects", object_id, None)
            document.removed.add(object_id)
            if not any(record.layer == layer_id for record in document.objects.values()):
                state.put("layers", layer_id, None)
            state.save()
        _forget_spread(state.path / "history" / "spread", object_id)

    def _existing(self, object_ids: Iterable[int]) -> frozenset[int]:
        return frozenset(self._state.object(int(i)).id for i in object_ids)


def _forget_spread(folder: Path, object_id: int) -> None:
    """Remove what a tracker remembers of a spread of an object, with others or alone."""
    with contextlib.suppress(OSError):
        for file in () if folder.is_symlink() else folder.glob("*-*.safetensors"):
            ids = file.name.partition("-")[0].split("_")
            if str(object_id) in ids or ids == ["many"]:
                file.unlink()


def _sentence(text: str) -> str:
    if not text.strip():
        raise InputError("The sentence is blank; describe what to find.")
    return utf8(text)


class Runs:
    """Model runs, and which of their windows are finished: an interrupted one can go on."""

    def __init__(self, state: State) -> None:
        self._state = state

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
        state, document = self._state, self._state.document
        state.check_writable()
        record = state.object(object_id)
        wanted = _plain(key)
        self._state.end_run(object_id)
        model = str(key.get("model", document.model or "model"))
        name = f"model: {key.get('text', record.name)!r}{run_frames(wanted)}"
        entry = state.history.begin(name, "model", model)
        self._state.open_runs[object_id] = entry
        with state.lock:
            found = None
            for run in list(document.runs.values()):
                if run.object_id != record.id:
                    continue
                if resume and found is None and _plain(run.key) == wanted:
                    found = run
                elif _overlap(run.key, wanted):
                    state.put("runs", run.id, None, entry)
            if "model" in key:
                document.model = utf8(key["model"])
            if found is None:
                found = RunRecord(str(document.new_id("run", 1)), record.id, wanted)
                state.put("runs", found.id, found, entry)
                document.log("run", run=found.id, **wanted)
            state.save()
            return found

    def mark_window_done(self, run_id: str, index: int) -> None:
        """Make the masks of a window safe on the disk, then note that it is finished.

        A run that is over, or whose object was removed, gets no more windows.

        Raises
        ------
        StorageError
            They are not safe; the window does not count as finished.
        """
        state = self._state
        state.flush()
        with state.lock:
            run = state.document.runs.get(run_id)
            entry = None if run is None else self._state.open_runs.get(run.object_id)
            if run is not None and entry is not None:  # the run may have been ended meanwhile
                state.put("runs", run_id, replace(run, done=run.done | {index}), entry)
                state.save()


def _plain(key: Mapping[str, Any]) -> dict[str, Any]:
    """Return the key as JSON gives it back."""
    return {
        k: list(v) if isinstance(v, tuple) else utf8(v) if isinstance(v, str) else v
        for k, v in key.items()
    }


def _overlap(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    if "range" not in a or "range" not in b:
        return True
    return bool(a["range"][0] < b["range"][1] and b["range"][0] < a["range"][1])
