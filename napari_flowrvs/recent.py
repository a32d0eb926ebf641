"""What the widget remembers between sessions: sentences and model folders."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import platformdirs

__all__ = ["Recent"]

_LIMIT = 50


class Recent:
    """Recent sentences and model folders, newest first, in a small JSON file.

    A file that cannot be read or written is no reason to disturb anybody: then the
    memory lasts for this session only.

    Parameters
    ----------
    path : path, optional
        The JSON file; by default in the user's configuration folder.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        folder = platformdirs.user_config_dir("napari-flowrvs", appauthor=False)
        self._path = Path(folder) / "memory.json" if path is None else Path(path)
        self._lists: dict[str, list[str]] = {"sentences": [], "models": []}
        self._load()

    def _load(self) -> None:
        try:
            stored = json.loads(self._path.read_text("utf-8"))
        except (OSError, ValueError):
            return
        if not isinstance(stored, dict):
            return
        for key in self._lists:
            values = stored.get(key)
            if isinstance(values, list):
                self._lists[key] = [v for v in values if isinstance(v, str)][:_LIMIT]

    @property
    def sentences(self) -> tuple[str, ...]:
        """Recent sentences, newest first."""
        return tuple(self._lists["sentences"])

    @property
    def models(self) -> tuple[str, ...]:
        """Model names and folders that were used, newest first."""
        return tuple(self._lists["models"])

    def add_sentences(self, texts: Iterable[str]) -> None:
        """Remember `texts`; the first of them comes first."""
        self._add("sentences", texts)

    def add_model(self, model: str) -> None:
        """Remember the name or folder of a model."""
        self._add("models", [model])

    def forget_sentences(self) -> None:
        """Forget all sentences."""
        self._lists["sentences"] = []
        self._save()

    def _add(self, key: str, values: Iterable[str]) -> None:
        merged = dict.fromkeys([*values, *self._lists[key]])
        self._lists[key] = list(merged)[:_LIMIT]
        self._save()

    def _save(self) -> None:
        part = self._path.with_suffix(".part")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(self._lists, indent=1, ensure_ascii=False), "utf-8")
            os.replace(part, self._path)
        except OSError:
            return
