"""Embeddings of sentences, kept on disk: a known sentence never loads the text encoder.

The production encoder takes 11 GB, an embedding about 150 kB. They are filed under the
encoder that made them and found by the cleaned sentence.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import platformdirs
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

__all__ = ["EmbeddingCache", "cache_home", "fingerprint"]

_SAMPLE = 2**22


def cache_home() -> Path:
    """Folder of what can be computed again: ``$FLOWRVS_HOME/cache``, or the user's cache."""
    home = os.environ.get("FLOWRVS_HOME")
    if home:
        return Path(home).expanduser() / "cache"
    return platformdirs.user_cache_path("flowrvs", appauthor=False)


def fingerprint(*folders: Path) -> str:
    """Hash of a text encoder and its tokenizer.

    Of every file the size, the first and the last 4 MiB count: other weights differ
    everywhere, and eleven gigabytes need not be read for a sentence.
    """
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            size = path.stat().st_size
            digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
            with path.open("rb") as file:
                digest.update(file.read(_SAMPLE))
                if size > _SAMPLE:
                    file.seek(max(_SAMPLE, size - _SAMPLE))
                    digest.update(file.read())
    return digest.hexdigest()[:32]


class EmbeddingCache:
    """Embeddings of one encoder, a small safetensors file each.

    It may be shared by processes and deleted at any time; whatever is wrong with it, it
    only forgets.

    Parameters
    ----------
    folder : Path
        Of this encoder alone (`fingerprint`); created when something is kept.
    limit : int
        Bytes that it may take; what was not used for longest goes first.
    """

    def __init__(self, folder: Path, *, limit: int = 2**30) -> None:
        self.folder = folder
        self.limit = limit

    def get(self, text: str) -> torch.Tensor | None:
        """Return the embedding of a cleaned sentence, (tokens, d_model), or None."""
        path = self._path(text)
        try:
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get("text") != text:
                    return None
                embedding = file.get_tensor("embedding")
        except (OSError, SafetensorError, ValueError):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return embedding

    def put(self, text: str, embedding: torch.Tensor) -> None:
        """Keep the embedding of a cleaned sentence, without its padding."""
        path = self._path(text)
        part = path.with_name(f".{path.name}.{os.getpid()}.partial")
        with contextlib.suppress(OSError, SafetensorError):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._shrink()
            tensor = embedding.detach().cpu().contiguous().clone()
            save_file({"embedding": tensor}, part, metadata={"text": text})
            part.replace(path)
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)

    def _path(self, text: str) -> Path:
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:40]}.safetensors"

    def _shrink(self) -> None:
        files = [(p, p.stat()) for p in self.folder.glob("*.safetensors")]
        total = sum(stat.st_size for _, stat in files)
        for path, stat in sorted(files, key=lambda item: item[1].st_mtime):
            if total < self.limit:
                return
            path.unlink(missing_ok=True)
            total -= stat.st_size
