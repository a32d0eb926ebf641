"""Files of weights, byte by byte: headers, shards, indices, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from flowrvs.checkpoints import shards
from flowrvs.checkpoints.shards import (
    MappedTensors,
    Shard,
    check_indices,
    check_weights,
    count_numbers,
    first_damaged,
    open_safetensors,
    plan_shards,
    verify_shards,
    weight_files,
    write_shards,
)
from flowrvs.errors import Cancelled, CheckpointError
from flowrvs.progress import CancelToken

F32, F16 = torch.float32, torch.float16
TENSORS = {
    "a": torch.arange(6, dtype=F16).reshape(2, 3),
    "b": torch.arange(5, dtype=torch.float64),
    "c": torch.arange(4, dtype=F32),
    "d": torch.tensor(7, dtype=torch.bfloat16),
}  # 12, 40, 16 and 2 bytes


def raw(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(start: Any, stop: Any, shape: Any = (1,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    ("limit", "groups"),
    [
        (70, ["abcd"]),
        (69, ["abc", "d"]),
        (68, ["abc", "d"]),
        (67, ["ab", "cd"]),
        (52, ["ab", "cd"]),
        (51, ["a", "b", "cd"]),
        (18, ["a", "b", "cd"]),
        (17, ["a", "b", "c", "d"]),
        (1, ["a", "b", "c", "d"]),
    ],
)
def test_tensors_are_spread_in_order_over_files_of_a_size(limit: int, groups: list[str]) -> None:
    kinds = MappedTensors(lambda: TENSORS).kinds
    plan = plan_shards(kinds, "m", limit)
    assert ["".join(shard.tensors) for shard in plan] == groups
    count = len(groups)
    assert [shard.file for shard in plan] == (
        ["m.safetensors"]
        if count == 1
        else [f"m-0000{n + 1}-of-0000{count}.safetensors" for n in range(count)]
    )
    assert [shard.nbytes for shard in plan] == [
        sum({"a": 12, "b": 40, "c": 16, "d": 2}[name] for name in group) for group in groups
    ]
    assert all(shard.tensors[name] == kinds[name] for shard in plan for name in shard.tensors)


def test_a_file_is_written_as_the_format_says(tmp_path: Path) -> None:
    source, steps = MappedTensors(lambda: TENSORS), list[int]()
    plan = plan_shards(source.kinds, "m", 1000)
    write_shards(tmp_path, plan, source, "m", steps.append)
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"], "one needs no index"
    data = (tmp_path / "m.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert header == {
        "__metadata__": {"format": "pt"},
        "b": {"dtype": "F64", "shape": [5], "data_offsets": [0, 40]},
        "c": {"dtype": "F32", "shape": [4], "data_offsets": [40, 56]},
        "a": {"dtype": "F16", "shape": [2, 3], "data_offsets": [56, 68]},
        "d": {"dtype": "BF16", "shape": [], "data_offsets": [68, 70]},
    }
    assert list(header) == ["__metadata__", "b", "c", "a", "d"] and length % 8 == 0
    assert len(data) == 8 + length + 70 and steps == [40, 16, 12, 2]
    assert data[8 + length :][:40] == np.arange(5.0).tobytes()
    found = load_file(tmp_path / "m.safetensors")
    assert all(torch.equal(found[name], value) for name, value in TENSORS.items())
    assert check_weights(tmp_path) == []
    verify_shards(tmp_path, plan)


def test_several_files_have_an_index(tmp_path: Path) -> None:
    source = MappedTensors(lambda: TENSORS)
    plan = plan_shards(source.kinds, "m", 52)
    write_shards(tmp_path, plan, source, "m", lambda count: None)
    first, second = "m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"
    assert sorted(p.name for p in tmp_path.iterdir()) == [first, second, "m.safetensors.index.json"]
    assert json.loads((tmp_path / "m.safetensors.index.json").read_text()) == {
        "metadata": {"total_size": 70},
        "weight_map": {"a": first, "b": first, "c": second, "d": second},
    }
    found = open_safetensors([tmp_path / first, tmp_path / second])
    assert all(torch.equal(found[name], value) for name, value in TENSORS.items())
    assert check_weights(tmp_path) == []
    (tmp_path / second).unlink()
    assert check_weights(tmp_path) == [f"{second} is missing"]


def test_pieces_and_scales_and_casts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_PIECE", 3)
    opened: list[int] = []

    def opener() -> dict[str, torch.Tensor]:
        opened.append(1)
        return TENSORS

    source = MappedTensors(opener, {"c": 0.5})
    pieces: list[list[float]] = []
    for name in ("b", "c"):
        source.copy(name, lambda piece: pieces.append(piece.tolist()))
    assert pieces == [[0, 1, 2], [3, 4], [0, 0.5, 1], [1.5]]
    assert len(opened) == 2, "for the kinds, and for the numbers"
    # The mapping is opened afresh once more than so much was read of it.
    monkeypatch.setattr(shards, "_TOUCHED", 40)
    opened.clear()
    source.close()
    for _ in range(3):
        source.copy("b", lambda piece: None)  # 40 bytes each
    assert len(opened) == 2
    plan = [Shard("m.safetensors", {"c": ((4,), F16)})]
    write_shards(tmp_path, plan, source, "m", lambda count: None)
    opened.clear()
    source.copy("b", lambda piece: None)
    assert opened, "it was let go of once all was written"
    (found,) = load_file(tmp_path / "m.safetensors").values()
    assert found.dtype == F16 and found.tolist() == [0, 0.5, 1, 1.5]


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda t: t, False),
        (lambda t: {**t, "c": t["c"].half()}, True),
        (lambda t: {**t, "c": t["c"].reshape(2, 2)}, True),
        (lambda t: {"a": t["a"]}, True),
        (lambda t: {**t, "x": t["c"].clone()}, True),
    ],
)
def test_what_was_written_is_read_back(tmp_path: Path, change: Any, wrong: bool) -> None:
    tensors = {name: TENSORS[name] for name in ("a", "c")}
    plan = plan_shards(MappedTensors(lambda: tensors).kinds, "m", 1000)
    save_file(change(dict(tensors)), tmp_path / "m.safetensors")
    if not wrong:
        verify_shards(tmp_path, plan)
        return
    with pytest.raises(CheckpointError) as caught:
        verify_shards(tmp_path, plan)
    assert str(caught.value) == "m.safetensors does not read back as written; check the disk."


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (raw({"a": entry(0, 4)}, bytes(4)), None),
        (raw({}, b""), None),
        (raw({"__metadata__": {"x": "y"}}), None),
        (raw({"a": entry(0, 0, [0, 5])}), None),
        (raw({"a": entry(0, 4)}, bytes(3)), "is truncated: {} of {} bytes"),
        (raw({"a": entry(0, 4)}, bytes(4), 500), "is truncated: {} of 508 bytes (508 B)"),
        (b"", "is damaged: no safetensors file"),
        (bytes(7), "is damaged: no safetensors file"),
        (raw(b"{}", b"", 16 * 2**20 + 1), "is damaged: no safetensors file"),
        (raw(b"{}", b"", 16 * 2**20), "is truncated: 10 of 16777224 bytes (16.8 MB)"),
        (
            raw({"a": entry(-1, 4)}, bytes(4)),
            "is damaged: no header of weights (offsets that are none)",
        ),
        (
            raw({"a": entry(4, 0)}, bytes(4)),
            "is damaged: no header of weights (offsets that are none)",
        ),
        (
            raw({"a": entry(0, 4, [-1])}, bytes(4)),
            "is damaged: no header of weights (offsets that are none)",
        ),
        (raw({"a": entry(0, 4.0)}, bytes(4)), "is damaged: no header of weights (TypeError)"),
        (raw({"a": entry(0, 4, [1.0])}, bytes(4)), "is damaged: no header of weights (TypeError)"),
        (raw({"a": entry(0, 4, 5)}, bytes(4)), "is damaged: no header of weights (TypeError)"),
        (raw({"a": {}}), "is damaged: no header of weights (KeyError)"),
        (
            raw({"a": entry(0, 4, dtype=5)}, bytes(4)),
            "is damaged: no header of weights (AttributeError)",
        ),
        (raw({"a": entry(0, 4)}, bytes(5)), "is damaged: "),
        (raw({"a": entry(0, 8)}, bytes(8)), "is damaged: "),
    ],
)
def test_what_a_header_may_be(tmp_path: Path, data: bytes, fault: str | None) -> None:
    path = tmp_path / "vae" / "w.safetensors"
    path.parent.mkdir()
    path.write_bytes(data)
    faults = check_weights(tmp_path)
    if fault is None:
        assert faults == []
        open_safetensors([path])
        return
    size = len(data)
    said = fault.format(size, size + 1) if fault.count("{}") == 2 else fault.format(size)
    assert len(faults) == 1 and faults[0].startswith(f"vae/w.safetensors {said}")
    assert "\n" not in faults[0]
    with pytest.raises(CheckpointError, match="is damaged or cut short .*; download it again"):
        open_safetensors([path])


def test_indices_name_files_beside_them(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    names = ["b.safetensors", "a.safetensors", "b.safetensors"]
    content = {"weight_map": dict(zip("xyz", names, strict=True))}
    for folder in (tmp_path, tmp_path / "vae"):
        (folder / "m.safetensors.index.json").write_text(json.dumps(content))
    save_file({"x": torch.ones(1)}, tmp_path / "a.safetensors")
    assert check_indices(tmp_path) == [
        "b.safetensors is missing",
        "vae/a.safetensors is missing",
        "vae/b.safetensors is missing",
    ]
    for text in ("[]", "{}", '{"weight_map": 5}', '{"weight_map": {"a": 5}}', "x"):
        (tmp_path / "m.safetensors.index.json").write_text(text)
        assert check_indices(tmp_path)[0] == (
            "m.safetensors.index.json is no index of shards of its folder"
        )
    for name, good in (("x" * 255, True), ("x" * 256, False), ("", False), ("a\tb", False)):
        (tmp_path / "m.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        fault = check_indices(tmp_path)[0]
        assert fault == (f"{name} is missing" if good else fault) and ("no index" in fault) != good


def test_files_of_a_transformers_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        weight_files(tmp_path)
    assert str(caught.value) == f"{tmp_path} holds no model.safetensors; download it again."
    single, index = tmp_path / "model.safetensors", tmp_path / "model.safetensors.index.json"
    single.write_bytes(b"")
    assert weight_files(tmp_path) == ([], [single])
    names = {"x": "b.safetensors", "y": "a.safetensors"}
    index.write_text(json.dumps({"weight_map": names}))
    with pytest.raises(CheckpointError) as caught:
        weight_files(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} lacks a.safetensors, b.safetensors; download them again."
    )
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path in files:
        path.write_bytes(b"")
    assert weight_files(tmp_path) == ([index], files)
    index.write_text(json.dumps({"weight_map": {"x": "../a"}}))
    with pytest.raises(CheckpointError, match="names files outside its folder; download it again"):
        weight_files(tmp_path)


def test_numbers_are_counted_by_part(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    save_file({"x": torch.ones(2, 3), "y": torch.tensor(1.0)}, tmp_path / "vae" / "1.safetensors")
    save_file({"z": torch.ones(5)}, tmp_path / "vae" / "2.safetensors")
    save_file({"z": torch.ones(4)}, tmp_path / "m.safetensors")
    assert count_numbers(tmp_path) == {"model": 4, "vae": 12}


def test_damage_is_found_in_any_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "CHUNK", 16)
    path = tmp_path / "w.safetensors"
    counts: list[int] = []
    good = {"a": torch.ones(9), "b": torch.ones(3, dtype=torch.float64)}
    save_file({**good, "i": torch.full((2,), -1)}, path)
    assert first_damaged(path, step=counts.append) is None
    # 36 bytes, 24, and none of whole numbers.
    assert sorted(counts) == [4, 8, 16, 16, 16] and sum(counts) == 60
    for name, values in good.items():
        for place in range(len(values)):
            bad = values.clone()
            bad[place] = [np.nan, np.inf, -np.inf][place % 3]
            save_file({**good, name: bad}, path)
            assert first_damaged(path) == name, (name, place)
    save_file(good, path)
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    assert first_damaged(path) in good, "cut off since"
    token = CancelToken()
    path.write_bytes(data)
    seen: list[int] = []
    with pytest.raises(Cancelled):
        first_damaged(path, cancel=token, step=lambda n: (seen.append(n), token.cancel()))
    assert len(seen) == 1
