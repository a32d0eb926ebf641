"""A second copy of what a project knows by name, for a disk that damages the first."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowrvs.disk import write_bytes
from flowrvs.errors import ProjectError, StorageError
from flowrvs.store._document import FORMAT_VERSION, Document
from flowrvs.store._files import read_group

__all__ = ["keep_copy", "read_document"]

_NAME = "document.json"


def keep_copy(folder: Path, attributes: Mapping[str, Any]) -> None:
    """Write the copy, beside the journal if there is one; without waiting for the disk."""
    target = folder / "history" / _NAME
    with contextlib.suppress(StorageError):
        if target.parent.exists():
            write_bytes(target, json.dumps(attributes, ensure_ascii=False).encode(), durable=False)


def read_document(folder: Path) -> tuple[Document, bool]:
    """Return the document of a project, and whether it is the copy of a damaged one.

    Raises
    ------
    ProjectError
        It is no project, a newer one, or both are damaged.
    """
    try:
        attributes = read_group(folder)
        version = attributes.get("format_version")
        newer = isinstance(version, int) and version > FORMAT_VERSION
    except ProjectError as error:
        return _read_copy(folder, error), True
    try:
        return Document.from_attributes(attributes, folder), False
    except ProjectError as error:
        if newer:
            raise
        return _read_copy(folder, error), True


def _read_copy(folder: Path, error: ProjectError) -> Document:
    try:
        attributes = json.loads((folder / "history" / _NAME).read_bytes())
        return Document.from_attributes(attributes, folder)
    except (OSError, ValueError, AttributeError):
        raise error from None
