"""One tree of errors, each also the builtin that fits, and what is told of others' errors."""

from __future__ import annotations

import pytest

from flowrvs import errors
from flowrvs.errors import FlowRVSError, InputError, MissingExtraError, first_line, missing_extra

BUILTINS = {
    "InputError": ValueError,
    "VideoError": ValueError,
    "DatasetError": ValueError,
    "ProjectError": ValueError,
    "CheckpointError": ValueError,
    "PluginError": ValueError,
    "MissingExtraError": ImportError,
    "MissingPathError": FileNotFoundError,
    "StorageError": OSError,
    "NetworkError": ConnectionError,
    "ClusterError": ConnectionError,
    "DeviceMemoryError": MemoryError,
    "TrainingError": ArithmeticError,
    "Cancelled": Exception,
}


def test_each_error_is_also_a_builtin_and_says_its_one_line() -> None:
    tree = {name for name in errors.__all__ if name[0].isupper()} - {"FlowRVSError"}
    assert tree == BUILTINS.keys()
    for name, builtin in BUILTINS.items():
        kind = getattr(errors, name)
        assert issubclass(kind, FlowRVSError) and issubclass(kind, builtin)
        assert str(kind("what, where, what to do.")) == "what, where, what to do."
        assert str(kind()) == ""
        assert issubclass(kind, InputError) == issubclass(kind, ValueError)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n  one  \n"), "one"),
        (ValueError("x" * 201), "x" * 200),
        (ValueError(" \n "), "ValueError"),
        (KeyError(), "KeyError"),
    ],
)
def test_the_first_line_of_an_error(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_a_part_that_is_not_installed() -> None:
    """The command that installs it, and the way without it."""
    cluster = ", or compute on a cluster with --scheduler"
    for module, extra, purpose, other in (
        ("torch", "models", "Running a model here", cluster),
        ("transformers.models.umt5", "models", "Running a model here", cluster),
        ("accelerate", "models", "Running a model here", cluster),
        ("diffusers", "models", "Running a model here", cluster),
        ("huggingface_hub", "models", "Running a model here", cluster),
        ("safetensors", "models", "Running a model here", cluster),
        ("distributed", "cluster", "Computing on a cluster", ""),
        ("peft", "train", "An adapter (LoRA)", ""),
        ("matplotlib.pyplot", "train", "The plot", ""),
        ("tensorboard", "train", "The log for TensorBoard", ""),
    ):
        told = missing_extra(ImportError("x", name=module))
        assert type(told) is MissingExtraError
        assert str(told) == (
            f"{purpose} needs {module.partition('.')[0]}, which is not installed: pip install "
            f"'napari-flowrvs[{extra}]'{other}."
        )
    assert missing_extra(ImportError("x", name="numpy")) is None
    assert missing_extra(ImportError("x")) is None
