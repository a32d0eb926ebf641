"""Manifests: what they hold, and the faults that they find."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from flowrvs.checkpoints.files import fingerprint, size_text
from flowrvs.checkpoints.manifest import (
    MANIFEST,
    add_source,
    read_manifest,
    verify_folder,
    verify_manifest,
    write_manifest,
)
from flowrvs.checkpoints.shards import check_weights
from flowrvs.errors import Cancelled, CheckpointError, MissingPathError
from flowrvs.progress import CancelToken, Progress


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two shards, an index and a config."""
    part = tmp_path / "model" / "text_encoder"
    part.mkdir(parents=True)
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for k, name in enumerate(names):
        save_file({f"w{k}": np.full((40, 40), k, np.float32)}, part / name)
    index = {"weight_map": {f"w{k}": name for k, name in enumerate(names)}}
    (part / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model" / "model_index.json").write_text("{}")
    return tmp_path / "model"


SHARD = "text_encoder/model-00002-of-00002.safetensors"


def test_a_fingerprint_is_of_names_sizes_beginnings_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowrvs.checkpoints.files._SAMPLE", 10)
    data = bytes(range(100, 140))

    def mark(content: bytes, name: str = "a/w") -> str:
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        found = fingerprint(tmp_path / "model")
        path.unlink()
        return found

    changed = {at: mark(data[:at] + b"!" + data[at + 1 :]) != mark(data) for at in range(40)}
    assert [at for at in changed if not changed[at]] == list(range(10, 30))
    assert len({mark(data), mark(data, "a/v"), mark(data, "b/w"), mark(data[:10] + data)}) == 4
    short = bytes(15)  # its end is not read twice, nor is it left out
    assert all(mark(short[:at] + b"!" + short[at + 1 :]) != mark(short) for at in range(15))


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_499, "999.5 kB"), (999_500, "1.0 MB")]
    + [(1_549_000, "1.5 MB"), (999_600_000, "1.0 GB"), (14_000_000_000_000, "14000.0 GB")],
)
def test_sizes_in_words(count: int, text: str) -> None:
    assert size_text(count) == text


def test_a_whole_folder_has_no_faults(folder: Path) -> None:
    events: list[Progress] = []
    write_manifest(folder, {"repo": "a/b"}, progress=events.append)
    content = read_manifest(folder)
    assert content["source"] == {"repo": "a/b"}
    assert set(content["files"]) == {
        "model_index.json",
        SHARD,
        SHARD.replace("00002-of", "00001-of"),
        "text_encoder/model.safetensors.index.json",
    }
    assert content["files"]["model_index.json"] == {
        "size": 2,
        "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    }
    assert events[-1].done == events[-1].total == sum(e["size"] for e in content["files"].values())
    assert verify_folder(folder) == ([], True)
    (folder / ".DS_Store").write_text("x")
    (folder / "notes.txt").write_text("mine")
    assert verify_manifest(folder) == []


def test_every_damaged_file_is_named_once(folder: Path) -> None:
    write_manifest(folder, {})
    shard = folder / SHARD
    whole = shard.stat().st_size
    with shard.open("r+b") as stream:
        stream.truncate(whole - 100)
    first = folder / SHARD.replace("00002-of", "00001-of")
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    (folder / "model_index.json").unlink()
    named = [fault.split(" is ")[0] for fault in verify_manifest(folder)]
    assert named == ["model_index.json", SHARD.replace("00002-of", "00001-of"), SHARD]
    faults, hashed = verify_folder(folder)
    assert hashed
    assert sorted(fault.split(" is ")[0] for fault in faults) == sorted(
        [SHARD, SHARD.replace("00002-of", "00001-of"), "model_index.json"]
    )
    assert f"{SHARD} is truncated: {whole - 100} of {whole} bytes (6.5 kB)" in faults
    assert "model_index.json is missing" in faults
    (folder / "model_index.json").write_text("{} ")
    assert "model_index.json is too long: 3 of 2 bytes" in verify_manifest(folder)


@pytest.mark.parametrize("left", [0, 5, 20, 200])
def test_a_cut_shard_is_found_without_a_manifest(folder: Path, left: int) -> None:
    with (folder / SHARD).open("r+b") as stream:
        stream.truncate(left)
    faults = check_weights(folder)
    assert len(faults) == 1 and faults[0].startswith(f"{SHARD} is ")
    assert verify_folder(folder) == (faults, False)


def test_hidden_files_are_not_the_models(folder: Path) -> None:
    (folder / ".cache" / "hub").mkdir(parents=True)
    (folder / ".cache" / "hub" / "x.safetensors").write_bytes(b"half")
    assert verify_folder(folder) == ([], False)


def test_a_missing_shard_is_found_through_the_index(folder: Path) -> None:
    (folder / SHARD).unlink()
    assert check_weights(folder) == [f"{SHARD} is missing"]
    with pytest.raises(MissingPathError, match=MANIFEST):
        verify_manifest(folder)


@pytest.mark.parametrize("name", ["../out", "/etc/passwd", "a\\b", "C:x", "a/../../b"])
def test_a_manifest_that_leads_outside_is_refused(folder: Path, name: str) -> None:
    entry = {"size": 1, "sha256": "0" * 64}
    (folder / MANIFEST).write_text(json.dumps({"format": 1, "files": {name: entry}}))
    with pytest.raises(CheckpointError, match="not a manifest"):
        verify_manifest(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": []}', '{"files": {"a": 1}}', "\x00"])
def test_a_manifest_that_is_none_is_one_line(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text)
    with pytest.raises(CheckpointError) as caught:
        verify_manifest(folder)
    assert "\n" not in str(caught.value)


def test_a_newer_manifest_is_told(folder: Path) -> None:
    (folder / MANIFEST).write_text(json.dumps({"format": 2, "files": {}}))
    with pytest.raises(CheckpointError, match="newer flowrvs; update flowrvs"):
        verify_manifest(folder)
    write_manifest(folder, {"base": "a"})
    add_source(folder, {"model": "b"})
    assert read_manifest(folder)["source"] == {"base": "a", "model": "b"}


def test_cancel_leaves_the_old_manifest(folder: Path) -> None:
    write_manifest(folder, {"old": True})
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        write_manifest(folder, {"old": False}, cancel=token)
    assert read_manifest(folder)["source"] == {"old": True}
    with pytest.raises(Cancelled):
        verify_manifest(folder, cancel=token)


@pytest.mark.parametrize(
    "header",
    [
        '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, "9"]}}',
        '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, Infinity]}}',
        "[" * 100_000,
    ],
)
def test_a_header_of_nonsense_is_a_fault(folder: Path, header: str) -> None:
    text = header.encode()
    (folder / SHARD).write_bytes(len(text).to_bytes(8, "little") + text)
    (fault,) = check_weights(folder)
    assert fault.startswith(SHARD)


@pytest.mark.parametrize("name", ["../text_encoder/model-00001-of-00002.safetensors", "x" * 5000])
def test_an_index_that_leads_elsewhere_is_a_fault(folder: Path, name: str) -> None:
    index = "text_encoder/model.safetensors.index.json"
    (folder / index).write_text(json.dumps({"weight_map": {"w0": name}}))
    assert check_weights(folder) == [f"{index} is no index of shards of its folder"]


def test_nested_json_is_one_line(folder: Path) -> None:
    (folder / MANIFEST).write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="cannot be read"):
        verify_manifest(folder)


@pytest.mark.parametrize(
    ("code", "damage"),
    [
        ("float32", np.nan),
        ("float32", np.inf),
        ("float16", -np.inf),
        ("bfloat16", np.nan),
        ("float64", np.nan),
    ],
)
def test_numbers_that_are_none_are_found_without_a_manifest(
    folder: Path, code: str, damage: float
) -> None:
    weights = torch.full((5, 7), 3.0).to(getattr(torch, code))
    weights[0, 0] = torch.finfo(weights.dtype).max
    counts = torch.full((3,), -1, dtype=torch.int64)  # all bits set, and no fault
    save_torch({"sound": weights.clone(), "w": weights, "n": counts}, folder / SHARD)
    events: list[Progress] = []
    assert verify_folder(folder, events.append) == ([], False)
    assert 0 < events[-1].done <= events[-1].total
    weights[3, 2] = damage
    save_torch({"sound": torch.ones(3), "w": weights, "n": counts}, folder / SHARD)
    faults, hashed = verify_folder(folder)
    assert faults == [f"{SHARD} is damaged: w holds NaN or infinity"] and not hashed
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        verify_folder(folder, cancel=token)


@pytest.mark.parametrize(
    ("name", "entry", "good"),
    [
        ("a/b.c", {"size": 1, "sha256": "0" * 64}, True),
        ("a..b", {"size": 1, "sha256": "0" * 64, "more": 5}, True),
        ("a", {"size": "1", "sha256": "0" * 64}, False),
        ("a", {"size": 1.0, "sha256": "0" * 64}, False),
        ("a", {"sha256": "0" * 64}, False),
        ("a", {"size": 1}, False),
        ("a", {"size": 1, "sha256": "0" * 63}, False),
        ("a", {"size": 1, "sha256": "0" * 65}, False),
        ("a", {"size": 1, "sha256": "A" * 64}, False),
        ("a", [1, "0" * 64], False),
        ("..", {"size": 1, "sha256": "0" * 64}, False),
        ("/a", {"size": 1, "sha256": "0" * 64}, False),
        ("a\\b", {"size": 1, "sha256": "0" * 64}, False),
        ("a:b", {"size": 1, "sha256": "0" * 64}, False),
    ],
)
def test_entries_of_a_manifest(folder: Path, name: str, entry: object, good: bool) -> None:
    content = {"format": 1, "files": {"b": {"size": 1, "sha256": "f" * 64}, name: entry}}
    (folder / MANIFEST).write_text(json.dumps(content))
    if good:
        assert read_manifest(folder) == content
        return
    with pytest.raises(CheckpointError) as caught:
        read_manifest(folder)
    assert str(caught.value) == (
        f"{folder / MANIFEST} is not a manifest of model files; fetch the model again."
    )


def test_what_is_told_while_files_are_hashed(folder: Path) -> None:
    sizes = {
        p.relative_to(folder).as_posix(): p.stat().st_size for p in sorted(folder.rglob("*.*"))
    }
    for verb, work in (
        ("Hashing", lambda told: write_manifest(folder, {}, progress=told)),
        ("Checking", lambda told: verify_manifest(folder, told)),
    ):
        events: list[Progress] = []
        work(events.append)
        done = np.cumsum(list(sizes.values())).tolist()
        assert [(e.message, e.done, e.total) for e in events] == [
            (f"{verb} {name}", at, done[-1]) for name, at in zip(sizes, done, strict=True)
        ]
    text = (folder / MANIFEST).read_text()
    assert text.endswith("}\n") and list(json.loads(text)) == [
        "format",
        "flowrvs",
        "source",
        "files",
    ]


def test_numbers_are_looked_at_where_no_hash_is_known(folder: Path) -> None:
    first = SHARD.replace("00002-of", "00001-of")
    save_file({"w": np.full(3, np.inf, np.float32)}, folder / first)
    (folder / SHARD).write_bytes((folder / SHARD).read_bytes()[:-1])
    faults, hashed = verify_folder(folder)
    assert not hashed and [fault.split(" is ")[0] for fault in faults] == [SHARD, first]
    assert faults[1] == f"{first} is damaged: w holds NaN or infinity"
