"""The one exception tree of flowrvs.

Every error a user can cause or repair is a :class:`FlowRVSError`; each one also
derives from the builtin that fits, so ``except ValueError`` keeps working.

::

    FlowRVSError
    ├── InputError (ValueError)            what was handed in cannot be used
    │   ├── VideoError                     a video, image folder, zarr, TIFF or array
    │   ├── DatasetError                   a MeViS-style split or prediction folder
    │   ├── ProjectError                   a .flowrvs project folder
    │   ├── CheckpointError                model weights or their configs
    │   ├── PluginError                    another package's model is broken
    │   └── MissingExtraError (ImportError)    a part of flowrvs is not installed
    ├── MissingPathError (FileNotFoundError)   nothing at this path
    ├── StorageError (OSError)             the disk is full, read-only or failing
    ├── NetworkError (ConnectionError)     the hub cannot be reached, or refuses
    ├── ClusterError (ConnectionError)     a cluster cannot be reached, or cannot compute
    ├── DeviceMemoryError (MemoryError)    the compute device ran out of memory
    ├── TrainingError (ArithmeticError)    the loss of a training is not finite, or rose
    └── Cancelled                          the user asked to stop

The message is one line: what is wrong, where, and what to do. Interfaces show it
as it is; the traceback belongs behind a "details" fold.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = [
    "Cancelled",
    "CheckpointError",
    "ClusterError",
    "DatasetError",
    "DeviceMemoryError",
    "FlowRVSError",
    "InputError",
    "MissingExtraError",
    "MissingPathError",
    "NetworkError",
    "PluginError",
    "ProjectError",
    "StorageError",
    "TrainingError",
    "VideoError",
    "first_line",
    "missing_extra",
]

#: What a module that is not there is installed by, and what it is for.
_EXTRAS = {
    **dict.fromkeys(
        ("accelerate", "diffusers", "huggingface_hub", "safetensors", "transformers", "torch"),
        ("models", "Running a model here"),
    ),
    "distributed": ("cluster", "Computing on a cluster"),
    "matplotlib": ("train", "The plot"),
    "peft": ("train", "An adapter (LoRA)"),
    "tensorboard": ("train", "The log for TensorBoard"),
}


class FlowRVSError(Exception):
    """Base of every error that flowrvs raises on purpose."""


class InputError(FlowRVSError, ValueError):
    """What was handed in cannot be used."""


class VideoError(InputError):
    """A video, image folder, zarr array, TIFF or array cannot be read."""


class DatasetError(InputError):
    """A dataset split or a prediction folder is malformed."""


class ProjectError(InputError):
    """A project folder is malformed, newer than this version, or in use."""


class CheckpointError(InputError):
    """Model weights or configs are malformed, incomplete or untrusted."""


class PluginError(InputError):
    """A model of another package cannot be loaded, or failed; the message names the package."""


class MissingExtraError(InputError, ImportError):
    """A part of flowrvs that this needs is not installed."""


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun, for messages: "1 mask", "2 masks"."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def some_failed(failed: Mapping[str, FlowRVSError], of: int, what: str) -> FlowRVSError:
    """Return what says why some of several videos failed: the error itself where all have one.

    Parameters
    ----------
    failed : mapping of str to FlowRVSError
        By video.
    of : int
        How many videos there were.
    what : str
        What could not be done with them: "imported".
    """
    if len(failed) == of and len({str(error) for error in failed.values()}) == 1:
        return next(iter(failed.values()))
    said = [f"{name} ({str(error).rstrip('.')})" for name, error in failed.items()]
    more = f"; and {len(said) - 3} more" if len(said) > 3 else ""
    return DatasetError(
        f"{len(said)} of {of} videos could not be {what}: {'; '.join(said[:3])}{more}."
    )


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says; the name of its class where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def missing_extra(error: ImportError) -> MissingExtraError | None:
    """Return what to say of a module that an extra of flowrvs brings; None for others."""
    module = (error.name or "").partition(".")[0]
    if module not in _EXTRAS:
        return None
    extra, purpose = _EXTRAS[module]
    other = ", or compute on a cluster with --scheduler" if extra == "models" else ""
    return MissingExtraError(
        f"{purpose} needs {module}, which is not installed: pip install "
        f"'napari-flowrvs[{extra}]'{other}."
    )


class MissingPathError(FlowRVSError, FileNotFoundError):
    """Nothing exists at the path that was given."""

    # FileNotFoundError formats errno tuples; ours always carries one sentence.
    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class StorageError(FlowRVSError, OSError):
    """The disk is full, read-only or failing."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class NetworkError(FlowRVSError, ConnectionError):
    """A download failed: no connection, no permission, or a server's fault."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class ClusterError(FlowRVSError, ConnectionError):
    """A scheduler cannot be reached, or none of its workers can compute."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class DeviceMemoryError(FlowRVSError, MemoryError):
    """The compute device ran out of memory.

    ``torch.OutOfMemoryError`` is a ``RuntimeError``, which napari's worker takes for
    "the worker was deleted" and swallows; it is converted at the library's border.
    """


class TrainingError(FlowRVSError, ArithmeticError):
    """A training went wrong: its loss is not finite any more, or rose far."""


class Cancelled(FlowRVSError):
    """The user asked to stop; finished work is kept."""
