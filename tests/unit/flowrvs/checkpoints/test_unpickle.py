"""Nothing in a downloaded pickle is run, and every bad file gets one line."""

from __future__ import annotations

import argparse
import collections
import io
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from flowrvs.checkpoints.unpickle import _globals, _plain, _short, open_checkpoint
from flowrvs.errors import CheckpointError, MissingPathError


class _Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, call: object, *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call, self.arguments


class Disguise(argparse.Namespace):
    """Looks like what training runs save."""


def _save(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def _zip(program: bytes, path: Path, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")
    return path


def test_what_training_saves_opens(tmp_path: Path) -> None:
    content = {
        "model": collections.OrderedDict(a=torch.arange(4.0)),
        "milestones": collections.Counter([30]),
        "args": argparse.Namespace(lr=1e-4, names=["x"]),
    }
    found = open_checkpoint(_save(content, tmp_path / "a.pth"))
    assert torch.equal(found["model"]["a"], torch.arange(4.0))
    assert found["args"].lr == 1e-4


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    ("call", "arguments", "name"),
    [
        (os.system, ("touch {mark}",), "system"),
        (eval, ("open({mark!r}, 'w')",), "eval"),
        (getattr, (io, "open"), "getattr"),
        (torch.hub.load, ("x", "y"), "torch.hub.load"),
        (Disguise, (), "Disguise"),
    ],
)
def test_other_globals_are_refused_by_name(
    tmp_path: Path, call: object, arguments: tuple, name: str, nested: bool, protocol: int
) -> None:
    mark = tmp_path / "ran"
    filled = [a.format(mark=str(mark)) if isinstance(a, str) else a for a in arguments]
    filled = [a for a in filled if a is not io]
    content: object = _Runs(call, *filled)
    if nested:
        content = {
            "model": {"a": torch.zeros(2)},
            "args": argparse.Namespace(deep=[{"x": content}]),
        }
    path = tmp_path / "bad.pth"
    torch.save(content, path, pickle_protocol=protocol)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    message = str(caught.value)
    assert "is refused" in message and name in message and "\n" not in message
    assert not mark.exists()


def test_a_class_that_other_code_allowed_is_refused(tmp_path: Path) -> None:
    path = _save({"args": Disguise(x=1)}, tmp_path / "bad.pth")
    with (
        torch.serialization.safe_globals([Disguise]),
        pytest.raises(CheckpointError, match="Disguise"),
    ):
        open_checkpoint(path)


def test_bare_pickles(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    path = tmp_path / "bare.pth"
    path.write_bytes(pickle.dumps(_Runs(os.system, f"touch {mark}")))
    with pytest.raises(CheckpointError, match=r"would run \w+\.system"):
        open_checkpoint(path)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match="bare pickle"):
        open_checkpoint(path)
    torch.save({"a": torch.zeros(1)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="bare pickle"):
        open_checkpoint(path)
    assert not mark.exists()


@pytest.mark.parametrize("keep", [0, 3, 100, -1, -30, -200])
def test_cut_short(tmp_path: Path, keep: int) -> None:
    path = _save({"model": {"a": torch.rand(300)}}, tmp_path / "a.pth")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count("download the file again") == 1


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with pytest.raises(MissingPathError, match="no checkpoint"):
        open_checkpoint(path)
    with pytest.raises(CheckpointError, match="is no file"):
        open_checkpoint(tmp_path)
    for content, message in (
        (b"<html>not found</html>", "no PyTorch checkpoint"),
        (os.urandom(2000), "no PyTorch checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(path)


def test_zip_files_that_torch_did_not_write(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match=r"\ba\.pth is a zip file, but not one that torch"):
        open_checkpoint(path)
    _zip(pickle.dumps({"a": 1}, protocol=2), path, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"\ba\.pth is a zip file, but not one that torch"):
        open_checkpoint(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("b/data.pkl", pickle.dumps(_Runs(os.getpid), protocol=2))
    with pytest.raises(CheckpointError, match=r"\ba\.pth is a zip file, but not one that torch"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    "program",
    [
        b"",
        b"\x80\x02",
        b"\x80\x02}q\x00(X\xff\xff\xff\x7fa",
        b"cos\nsystem\n(S'true'\ntR.",
        b"\xff" * 50,
    ],
)
def test_programs_that_are_no_pickles(tmp_path: Path, program: bytes) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(_zip(program, tmp_path / "a.pth"))
    assert "\n" not in str(caught.value)


def test_a_pickle_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _save({"model": {"a": torch.zeros(3)}}, tmp_path / "a.pth")
    with zipfile.ZipFile(path) as archive:
        (size,) = [r.file_size for r in archive.infolist() if r.filename.endswith("data.pkl")]
    monkeypatch.setattr("flowrvs.checkpoints.unpickle._LARGEST", size)
    assert open_checkpoint(path)["model"]["a"].tolist() == [0, 0, 0]
    monkeypatch.setattr("flowrvs.checkpoints.unpickle._LARGEST", size - 1)
    with pytest.raises(CheckpointError, match="holds a pickle too large for weights"):
        open_checkpoint(path)


def test_a_tensor_larger_than_its_file(tmp_path: Path) -> None:
    path = _save({"model": {"a": torch.zeros(3, 4)}}, tmp_path / "a.pth")
    with zipfile.ZipFile(path) as archive:
        records = {r.filename: archive.read(r) for r in archive.infolist()}
    changed = tmp_path / "b.pth"
    with zipfile.ZipFile(changed, "w") as archive:
        for name, data in records.items():
            if name.endswith("data.pkl"):  # the storage's count of numbers, 12, becomes 2**30
                assert data.count(b"K\x0ct") == 1
                data = data.replace(b"K\x0ct", b"J\x00\x00\x00\x40t")
            archive.writestr(name, data)
    with pytest.raises(CheckpointError, match="cannot be read"):
        tensor = open_checkpoint(changed)["model"]["a"]
        assert tensor.untyped_storage().nbytes() <= changed.stat().st_size
        raise CheckpointError("cannot be read, or no larger than the file")


def test_names_in_the_zip_that_are_no_text(tmp_path: Path) -> None:
    path = _save({"a": torch.zeros(4)}, tmp_path / "a.pth")
    content = path.read_bytes()
    cut = content.rindex(b"a/version")
    path.write_bytes(content[:cut] + b"\xff" + content[cut + 1 :])
    with pytest.raises(CheckpointError, match="is damaged.*download the file again"):
        open_checkpoint(path)


def test_a_name_with_control_characters_is_shown_escaped(tmp_path: Path) -> None:
    program = b"\x80\x04\x8c\x06o\x1b[2J\n\x8c\x03sys\x93."
    with (
        pytest.warns(UserWarning, match="pickle protocol 4"),
        pytest.raises(CheckpointError, match="is refused") as caught,
    ):
        open_checkpoint(_zip(program, tmp_path / "bad.pth"))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_every_name_that_a_pickle_would_import_is_found(protocol: int) -> None:
    """A module that is named twice is only referred to the second time."""
    many = [f"s{i}" for i in range(300)]  # beyond what a byte can refer to
    content = [many, collections.deque, collections.OrderedDict, Path, collections.deque]
    content += ["os.system"]
    found = _globals(pickle.dumps(content, protocol))
    kinds = {kind.split(".")[-1] for kind in found}
    assert {"deque", "OrderedDict", "Path"} <= kinds
    assert "collections.deque" in found and "collections.OrderedDict" in found
    assert not any("?" in name or name.endswith("system") for name in found)
    assert _globals(b"(S'true'\nios\nsystem\n.") == ["os.system"]
    # What is pushed between module and name, and taken away again, is neither.
    assert _globals(b"\x80\x04\x8c\x02osK\x050\x8c\x06system\x93.") == ["os.system"]


def _said(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    return str(caught.value)


def test_what_is_wrong_with_a_file_is_said_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    for content, message in (
        (b"", "is empty; download the file again."),
        (b"PK\x03\x04" + bytes(10), "is cut short (after 14 bytes); download the file again."),
        (b"vers", "is a Git LFS pointer, not the file itself; run 'git lfs pull'."),
        (b"html", "is no PyTorch checkpoint; download the file again."),
        (
            b"\x80\x02}.",
            "is a bare pickle, not a file of torch.save since version 1.6; save it again with a "
            "current torch.",
        ),
        (
            b"\x80\x02cos\nsystem\ncargparse\nNamespace\nccollections\nOrderedDict\ncx\ny\n.",
            "is refused: its pickle would run os.system, x.y, which no weights need; delete the "
            "file and download it from its authors.",
        ),
        (
            b"\x80\x02ca\na\ncb\nb\ncc\nc\ncd\nd\n.",
            "is refused: its pickle would run a.a, b.b, c.c, which no weights need; delete the "
            "file and download it from its authors.",
        ),
    ):
        path.write_bytes(content)
        assert _said(path) == f"{path} {message}"
    assert _said(tmp_path) == f"{tmp_path} is no file; give the .pth file itself."
    with pytest.raises(MissingPathError) as caught:
        open_checkpoint(tmp_path / "b.pth")
    assert str(caught.value) == f"There is no checkpoint {tmp_path / 'b.pth'}; check the path."


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _save({"a": torch.zeros(1)}, tmp_path / "a.pth")

    def refuses(self: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuses)
    assert _said(path) == f"{path} cannot be read: Permission denied; check the file."


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("argparse.Namespace", True),
        ("collections.OrderedDict", True),
        ("collections.Counter", True),
        ("torch.FloatStorage", True),
        ("torch.Size", True),
        ("torch.device", True),
        ("torch._utils._rebuild_tensor_v2", True),
        ("torch.nn.parameter.Parameter", True),
        ("collections.deque", False),
        ("torch.hub.load", False),
        ("xtorch.Size", False),
        ("torch.Sizes", False),
        ("torch_utils._rebuild_tensor", False),
    ],
)
def test_names_that_weights_need(name: str, plain: bool) -> None:
    assert _plain(name) == plain


def test_long_reasons_are_cut() -> None:
    assert _short("a\n  b") == "a b"
    assert _short("x" * 120) == "x" * 120
    assert _short("x" * 121) == "x" * 117 + "..."


def test_references_of_pickles() -> None:
    assert _globals(b"\x82\x05.") == ["copyreg.extension_5"]
    assert _globals(b"\x83\x05\x01\x84\x01\0\0\0.") == [
        "copyreg.extension_261",
        "copyreg.extension_1",
    ]
    # Kept as 0 and 1, then named by number; and one that nobody kept.
    program = b"\x80\x04\x8c\x02os\x94\x8c\x06system\x940h\x00h\x01\x93h\x00h\x07\x93."
    assert _globals(program) == ["os.system", "os.?"]
    assert _globals(b"\x80\x04cos\nsystem\n\x8c\xff") == ["os.system"], "cut short"
