"""Layers, objects and expressions: what a project knows by name."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from flowrvs.errors import InputError, ProjectError, StorageError
from flowrvs.records import Expression, VideoInfo
from flowrvs.store._core import ProjectCore
from flowrvs.store._document import LayerRecord, ObjectRecord, placed
from flowrvs.store._files import create_array

__all__ = ["Catalog"]


class Catalog(ProjectCore):
    """The part of `Project` that names things."""

    # -- what is known -------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """The project's folder."""
        return self._path

    @property
    def writable(self) -> bool:
        """False for a project that was opened for reading only, or closed."""
        return self._writer is not None and not self._closed

    @property
    def video(self) -> VideoInfo:
        """The video that the masks belong to."""
        return self._doc.video

    @property
    def model(self) -> str | None:
        """Name of the model that ran last."""
        return self._doc.model

    @property
    def history(self) -> list[dict[str, Any]]:
        """What was done and when (``time`` in ISO 8601, UTC; ``event``), oldest first."""
        with self._lock:
            return [dict(row) for row in self._doc.history]

    @property
    def layers(self) -> dict[int, LayerRecord]:
        """Every layer by its id."""
        with self._lock:
            return dict(self._doc.layers)

    @property
    def objects(self) -> dict[int, ObjectRecord]:
        """Every object by its id."""
        with self._lock:
            return dict(self._doc.objects)

    @property
    def expressions(self) -> dict[str, Expression]:
        """Every expression by its id."""
        with self._lock:
            return dict(self._doc.expressions)

    @property
    def storage_error(self) -> StorageError | None:
        """Why the last write in the background failed; None while all is well."""
        error = self._flusher.error
        return error if isinstance(error, StorageError) else None

    @property
    def unsaved(self) -> int:
        """Number of frames (and provenance chunks) that are not on the disk yet."""
        return sum(volume.dirty for volume in list(self._volumes.values()))

    def check_video(self, info: VideoInfo) -> None:
        """Make sure that a video is the one of this project; note where it lies now.

        Raises
        ------
        ProjectError
            It is another video.
        """
        own, info = self._doc.video, placed(info)
        size = (own.frame_count, own.height, own.width)
        other = (info.frame_count, info.height, info.width)
        same = own.fingerprint is None or info.fingerprint in (None, own.fingerprint)
        if size != other or not same:
            raise ProjectError(
                f"{self._path} holds the masks of {own.path or 'another video'} ({own.frame_count} "
                f"frames, {own.width}x{own.height}), not of {info.path or 'this one'} "
                f"({info.frame_count} frames, {info.width}x{info.height}); choose another project."
            )
        if self.writable and info.path is not None and info.path != own.path:
            with self._lock:
                self._doc.video = replace(own, path=info.path)
                self._save()

    # -- layers, objects, expressions ----------------------------------------------------

    def add_layer(self, name: str) -> LayerRecord:
        """Make an empty layer."""
        self._check_writable()
        with self._lock:
            layer = LayerRecord(self._doc.new_id("layer", 1), str(name))
            shape = self._shape
            path = self._path / "layers" / str(layer.id)
            create_array(path, shape, (1, *shape[1:]), "uint16", ("t", "y", "x"))
            self._open_layer(layer.id)
            self._doc.layers[layer.id] = layer
            self._save()
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
        self._check_writable()
        # A layer's lock comes before the document's: a stroke takes them in this order too.
        with self._volume(layer_id).cache.lock, self._lock:
            one = self._new_object(self._doc.new_id("object", 1), name, layer_id, color)
            self._save()
            return one

    def update_object(
        self,
        object_id: int,
        *,
        name: str | None = None,
        color: tuple[float, float, float] | None = None,
    ) -> ObjectRecord:
        """Rename or recolour an object."""
        self._check_writable()
        with self._lock:
            one = self._object(object_id)
            if name is not None:
                one = replace(one, name=str(name))
            if color is not None:
                red, green, blue = (min(1.0, max(0.0, float(c))) for c in color)
                one = replace(one, color=(red, green, blue))
            self._doc.objects[object_id] = one
            self._save()
            return one

    def rename_layer(self, layer_id: int, name: str) -> LayerRecord:
        """Give a layer another name."""
        self._check_writable()
        with self._lock:
            self._volume(layer_id)
            self._doc.layers[layer_id] = LayerRecord(layer_id, str(name))
            self._save()
            return self._doc.layers[layer_id]

    def remove_object(self, object_id: int) -> None:
        """Erase an object: its pixels, provenance, runs, and its place in expressions."""
        self._check_writable()
        one = self._object(object_id)
        self._volume(one.layer).detach(object_id)
        with self._lock:
            del self._doc.objects[object_id]
            for key, expression in self._doc.expressions.items():
                left = expression.object_ids - {object_id}
                self._doc.expressions[key] = replace(expression, object_ids=left)
            self._doc.prompts = {k: v for k, v in self._doc.prompts.items() if v != object_id}
            self._doc.runs = {k: r for k, r in self._doc.runs.items() if r.object_id != object_id}
            self._save()
        shutil.rmtree(self._path / "provenance" / str(object_id), ignore_errors=True)

    def add_expression(self, text: str, object_ids: Iterable[int] = ()) -> Expression:
        """Add a sentence and the objects that it means, none of them for a sentence without.

        Raises
        ------
        InputError
            The sentence is blank.
        ProjectError
            An object is not there.
        """
        self._check_writable()
        if not text.strip():
            raise InputError("The sentence is blank; describe what to find.")
        with self._lock:
            expression = Expression(
                str(self._doc.new_id("expression", 0)), text, self._existing(object_ids)
            )
            self._doc.expressions[expression.exp_id] = expression
            self._save()
            return expression

    def set_expression_objects(self, exp_id: str, object_ids: Iterable[int]) -> Expression:
        """Say which objects a sentence means."""
        self._check_writable()
        with self._lock:
            expression = replace(self._expression(exp_id), object_ids=self._existing(object_ids))
            self._doc.expressions[exp_id] = expression
            self._save()
            return expression

    def remove_expression(self, exp_id: str) -> None:
        """Forget a sentence; its objects and their masks stay."""
        self._check_writable()
        with self._lock:
            self._expression(exp_id)
            del self._doc.expressions[exp_id]
            self._doc.prompts.pop(exp_id, None)
            self._save()

    def add_prompt(self, text: str) -> tuple[Expression, ObjectRecord]:
        """Add a sentence with a new object in a new layer, for a model to draw.

        A text that was prompted before (white space aside) gives what it gave then.
        """
        self._check_writable()
        words = text.split()
        if not words:
            raise InputError("The sentence is blank; describe what to find.")
        with self._lock:
            for exp_id, object_id in self._doc.prompts.items():
                if self._doc.expressions[exp_id].text.split() == words:
                    return self._doc.expressions[exp_id], self._doc.objects[object_id]
            with self._one_save():
                name = " ".join(words)
                one = self.add_object(name, self.add_layer(name).id)
                expression = self.add_expression(text.strip(), [one.id])
                self._doc.prompts[expression.exp_id] = one.id
            return expression, one
