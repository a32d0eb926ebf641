"""Layers, objects and expressions: what a project knows by name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from flowrvs.errors import InputError, ProjectError, StorageError
from flowrvs.records import Expression, VideoInfo
from flowrvs.store._core import ProjectCore
from flowrvs.store._document import LayerRecord, ObjectRecord, placed
from flowrvs.store._files import create_array

__all__ = ["Catalog", "relative_path"]


def relative_path(path: str, folder: Path) -> str | None:
    """Return the way from a folder to a file, with slashes; None to another drive."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:
        return None


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
    def log(self) -> list[dict[str, Any]]:
        """What was done as a whole, and when (ISO 8601, UTC), oldest first: ``time``, ``event``."""
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
        return self._flusher.error

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
            self._note_video(info.path)

    def _note_video(self, path: str) -> None:
        with self._lock:
            self._doc.video = replace(self._doc.video, path=path)
            self._doc.relative = relative_path(path, self._path)
            self._save()

    # -- layers, objects, expressions ----------------------------------------------------

    def add_layer(self, name: str) -> LayerRecord:
        """Make an empty layer."""
        self._check_writable()
        self._check_there()
        with self._lock:
            layer = LayerRecord(self._doc.new_id("layer", 1), str(name))
            shape = self._shape
            path = self._path / "layers" / str(layer.id)
            try:
                create_array(path, shape, (1, *shape[1:]), "uint16", ("t", "y", "x"))
            except StorageError:
                shutil.rmtree(path, ignore_errors=True)
                raise
            self._put("layers", layer.id, layer)
            self._save()
        self._tell("catalog")
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
        self._tell("catalog")
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
        old = self._object(object_id)
        verb = "rename" if name is not None else "recolour"
        with self._catalog_step(f"{verb} {old.name!r}"):
            one = self._object(object_id)
            if name is not None:
                one = replace(one, name=str(name))
            if color is not None:
                red, green, blue = (min(1.0, max(0.0, float(c))) for c in color)
                one = replace(one, color=(red, green, blue))
            self._put("objects", object_id, one)
        return one

    def rename_layer(self, layer_id: int, name: str) -> LayerRecord:
        """Give a layer another name."""
        self._check_writable()
        self._volume(layer_id)
        layer = LayerRecord(layer_id, str(name))
        with self._catalog_step(f"rename {self._doc.layers[layer_id].name!r}"):
            self._put("layers", layer_id, layer)
        return layer

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
        with self._catalog_step(f"add the sentence {text.strip()!r}"):
            meant = self._existing(object_ids)
            expression = Expression(str(self._doc.new_id("expression", 0)), text, meant)
            self._put("expressions", expression.exp_id, expression)
        return expression

    def set_expression_objects(self, exp_id: str, object_ids: Iterable[int]) -> Expression:
        """Say which objects a sentence means: any number, in any layers, or none."""
        self._check_writable()
        old = self._expression(exp_id)
        with self._catalog_step(f"objects of {old.text.strip()!r}"):
            expression = replace(self._expression(exp_id), object_ids=self._existing(object_ids))
            self._put("expressions", exp_id, expression)
        return expression

    def set_expression_text(self, exp_id: str, text: str) -> Expression:
        """Word a sentence otherwise; the objects that it means stay."""
        self._check_writable()
        if not text.strip():
            raise InputError("The sentence is blank; describe what to find.")
        old = self._expression(exp_id)
        with self._catalog_step(f"change the sentence {old.text.strip()!r}"):
            expression = replace(self._expression(exp_id), text=text)
            self._put("expressions", exp_id, expression)
        return expression

    def remove_expression(self, exp_id: str) -> None:
        """Forget a sentence; its objects and their masks stay."""
        self._check_writable()
        old = self._expression(exp_id)
        with self._catalog_step(f"remove the sentence {old.text.strip()!r}"):
            self._put("prompts", exp_id, None)
            self._put("expressions", exp_id, None)

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
                known = self._doc.expressions.get(exp_id)
                if known and known.text.split() == words and object_id in self._doc.objects:
                    return known, self._doc.objects[object_id]
            with self._one_save():
                name = " ".join(words)
                one = self.add_object(name, self.add_layer(name).id)
                meant = frozenset({one.id})
                exp_id = str(self._doc.new_id("expression", 0))
                expression = Expression(exp_id, text.strip(), meant)
                self._put("expressions", exp_id, expression)
                self._put("prompts", exp_id, one.id)
        self._tell("catalog")
        return expression, one

    @contextmanager
    def _catalog_step(self, name: str) -> Iterator[None]:
        """Make the changes of the document inside one saved step."""
        with self.history.step(name):
            with self._one_save():
                yield
        self._tell("catalog")
