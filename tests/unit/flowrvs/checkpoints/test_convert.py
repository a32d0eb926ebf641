"""From the public layouts to a folder that loads, or a line that says why not."""

from __future__ import annotations

import argparse
import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import UMT5EncoderModel

import flowrvs
from flowrvs.checkpoints import convert as convert_module
from flowrvs.checkpoints import shards
from flowrvs.checkpoints.convert import convert
from flowrvs.checkpoints.manifest import read_manifest, verify_manifest
from flowrvs.checkpoints.shards import check_weights
from flowrvs.errors import Cancelled, CheckpointError, InputError, MissingPathError, StorageError
from flowrvs.pipelines import FlowRVSPipeline
from flowrvs.progress import CancelToken, Progress
from tests.fixtures.public_layout import SMALL, PublicLayout, write_public_layout


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> PublicLayout:
    return write_public_layout(tmp_path_factory.mktemp("public"), kind="ema")


@pytest.fixture
def broken(layout: PublicLayout, tmp_path: Path) -> PublicLayout:
    """A copy that a test may damage."""
    shutil.copytree(layout.base.parent, tmp_path / "public")
    base, dit, vae = (tmp_path / "public" / p.name for p in (layout.base, layout.dit, layout.vae))
    return PublicLayout(base, dit, vae, layout.parts)


def _run(layout: PublicLayout, out: Path, **options: object) -> Path:
    return convert(layout.base, layout.dit, layout.vae, out, **options)


def _assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize(
    ("kind", "vae_kind", "generation", "injection"),
    [
        ("raw", "raw", "old", True),
        ("model", "model", "old", True),
        ("ema", "model", "new", False),
        ("ema", "raw", "new", True),
        ("raw", "model", "new", False),
    ],
)
def test_every_layout_gives_the_stock_parts(
    tmp_path: Path, kind: str, vae_kind: str, generation: str, injection: bool
) -> None:
    layout = write_public_layout(
        tmp_path, kind=kind, vae_kind=vae_kind, generation=generation, video_injection=injection
    )
    out = _run(layout, tmp_path / "made", shard_bytes=100_000)
    pipe = flowrvs.load(out, device="cpu", dtype="float32")
    assert pipe.injects_video == injection
    assert pipe.name == "made"
    _assert_same(pipe.transformer.state_dict(), layout.parts.transformer.state_dict())
    _assert_same(pipe.vae.state_dict(), layout.parts.vae.state_dict())
    text = UMT5EncoderModel.from_pretrained(out / "text_encoder")
    _assert_same(text.state_dict(), layout.parts.text_encoder.state_dict())
    assert len(list((out / "vae").glob("*-of-*.safetensors"))) > 1
    assert verify_manifest(out) == []
    assert check_weights(out) == []
    for path in out.glob("*/*-of-*.safetensors"):
        tensors = load_file(path)
        assert len(tensors) == 1 or sum(t.nbytes for t in tensors.values()) <= 100_000
    index = json.loads((out / "vae" / "diffusion_pytorch_model.safetensors.index.json").read_text())
    total = sum(value.nbytes for value in layout.parts.vae.state_dict().values())
    assert index["metadata"]["total_size"] == total


def test_numbers_of_several_widths_are_aligned(tmp_path: Path) -> None:
    tensors = {
        "a": torch.ones(3, dtype=torch.float16),
        "b": torch.arange(5.0),
        "ccc": torch.ones(1),
    }
    source = shards.MappedTensors(lambda: tensors)
    assert [len(s.tensors) for s in shards.plan_shards(source.kinds, "model", 26)] == [2, 1]
    assert [len(s.tensors) for s in shards.plan_shards(source.kinds, "model", 25)] == [1, 2]
    assert [len(s.tensors) for s in shards.plan_shards(source.kinds, "model", 1)] == [1, 1, 1]
    tmp_path = tmp_path / "part"
    tmp_path.mkdir()
    (plan,) = shards.plan_shards(source.kinds, "model", 30)  # 6 + 20 + 4 bytes
    shards.write_shards(tmp_path, [plan], source, "model", lambda count: None)
    begin, header = shards._header(tmp_path / plan.file)
    assert begin % 8 == 0
    for name, entry in header.items():
        assert (begin + entry["data_offsets"][0]) % tensors[name].element_size() == 0, name
    _assert_same(load_file(tmp_path / plan.file), tensors)
    assert shards.count_numbers(tmp_path.parent)[tmp_path.name] == 9
    shards.verify_shards(tmp_path, [plan])
    save_file({**tensors, "b": torch.ones(5, dtype=torch.float16)}, tmp_path / plan.file)
    with pytest.raises(CheckpointError, match="does not read back as written"):
        shards.verify_shards(tmp_path, [plan])


def test_the_folder_computes_what_the_parts_do(layout: PublicLayout, tmp_path: Path) -> None:
    pipe = FlowRVSPipeline.from_pretrained(_run(layout, tmp_path / "made", name="mine"))
    config = pipe.config
    assert (config.name, config.max_sequence_length, config.lower_case) == ("mine", 256, False)
    assert (config.sample_height, config.sample_width) == (480, 832)
    assert (config.window_size, config.overlap) == (81, 8)
    parts = layout.parts
    own = FlowRVSPipeline(
        parts.transformer, parts.vae, parts.text_encoder, parts.tokenizer, pipe.scheduler
    )
    for made in (pipe, own):
        made.register_to_config(sample_height=32, sample_width=48)
    frames = np.random.default_rng(0).integers(0, 255, (5, 40, 50, 3), np.uint8)
    outputs = [made(frames, ["the RED & blue"]).logits for made in (pipe, own)]
    # Not equal: how numbers lie in memory decides which kernels add them up.
    np.testing.assert_allclose(*outputs, atol=1e-4)
    assert np.ptp(outputs[0]) > 0.1


def _differing(state: dict[str, torch.Tensor]) -> bool:
    """Tell whether no two weights are equal: only then a swap of two is noticed."""
    seen = {(tuple(t.shape), t.numpy().tobytes()) for t in state.values()}
    return len(seen) == len(state)


def test_no_two_weights_of_the_fixture_are_equal(layout: PublicLayout) -> None:
    assert _differing(layout.parts.transformer.state_dict())
    assert _differing(layout.parts.vae.state_dict())


@pytest.mark.parametrize("beside", [True, False])
def test_averages_are_named_in_the_order_of_the_trained_module(
    broken: PublicLayout, tmp_path: Path, beside: bool
) -> None:
    """Norms of query and key have one shape: only their numbers tell which is which."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(broken.dit, weights_only=True)
    if not beside:
        del content["model"]
        torch.save(content, broken.dit)
    pipe = flowrvs.load(_run(broken, tmp_path / "made"), device="cpu", dtype="float32")
    found, wanted = pipe.transformer.state_dict(), broken.parts.transformer.state_dict()
    assert sum("norm_q" in name or "norm_k" in name for name in wanted) >= 8
    _assert_same(found, wanted)


@pytest.mark.parametrize(
    ("injection", "given", "length"), [(False, None, 256), (True, None, 64), (True, 100, 100)]
)
def test_sentences_are_as_long_as_in_training(
    tmp_path: Path, injection: bool, given: int | None, length: int
) -> None:
    """64 tokens before the public change of 26 February 2026, 256 since."""
    layout = write_public_layout(tmp_path / "public", kind="raw", video_injection=injection)
    pipe = FlowRVSPipeline.from_pretrained(_run(layout, tmp_path / "made", text_length=given))
    assert pipe.config.max_sequence_length == length
    for wrong in (0, 513):
        with pytest.raises(InputError, match=f"A text length of {wrong} is impossible"):
            _run(layout, tmp_path / "no", text_length=wrong)


def test_casting(layout: PublicLayout, tmp_path: Path) -> None:
    out = _run(layout, tmp_path / "a", dtype="float16", text_dtype="bfloat16", shard_bytes=9_000)
    kinds = {
        part: {
            t.dtype for file in (out / part).glob("*.safetensors") for t in load_file(file).values()
        }
        for part in ("transformer", "vae", "text_encoder")
    }
    half = {torch.float16}
    assert kinds == {"transformer": half, "vae": half, "text_encoder": {torch.bfloat16}}
    text = UMT5EncoderModel.from_pretrained(out / "text_encoder")
    assert text.dtype == torch.bfloat16
    for name, value in layout.parts.text_encoder.state_dict().items():
        assert torch.equal(text.state_dict()[name], value.bfloat16()), name
    with pytest.raises(InputError, match="Unknown precision 'int8'"):
        _run(layout, tmp_path / "b", dtype="int8")


def test_tensors_larger_than_a_piece_and_than_what_is_mapped(
    layout: PublicLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_PIECE", 100)
    monkeypatch.setattr(shards, "_TOUCHED", 50_000)
    out = _run(layout, tmp_path / "made")
    found = load_file(out / "vae" / "diffusion_pytorch_model.safetensors")
    _assert_same(found, layout.parts.vae.state_dict())


def test_text_shards_that_stay_as_they_are_are_linked(layout: PublicLayout, tmp_path: Path) -> None:
    out = _run(layout, tmp_path / "made")
    for path in (layout.base / "text_encoder").glob("*.safetensors"):
        assert path.samefile(out / "text_encoder" / path.name)


def _edit(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


def test_keys_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    layout = write_public_layout(tmp_path / "public", kind="raw", vae_kind="raw")

    def change(state: dict[str, torch.Tensor]) -> None:
        del state["proj_out.bias"]
        state["surplus.weight"] = torch.zeros(2)
        state["scale_shift_table"] = torch.zeros(1, 2, 5)
        state["patch_embedding.bias"] = torch.zeros(24, dtype=torch.int32)

    _edit(layout.dit, change)
    with pytest.raises(CheckpointError) as caught:
        _run(layout, tmp_path / "made")
    message = str(caught.value)
    assert "1 missing: proj_out.bias" in message
    assert "1 unexpected: surplus.weight" in message
    assert "1 of another shape: scale_shift_table [1, 2, 5] instead of [1, 2, 24]" in message
    assert "1 no floating-point tensors: patch_embedding.bias" in message
    assert "\n" not in message

    def empty(state: dict[str, torch.Tensor]) -> None:
        for key in [key for key in state if "decoder" in key]:
            del state[key]

    _edit(layout.vae, empty)
    good = write_public_layout(tmp_path / "good", kind="raw")
    with pytest.raises(CheckpointError, match=r"\d+ missing: decoder.*and \d+ more"):
        convert(good.base, good.dit, layout.vae, tmp_path / "made")
    with pytest.raises(CheckpointError, match=r"no weight patch_embedding\.weight"):
        convert(good.base, good.vae, good.vae, tmp_path / "made")
    with pytest.raises(CheckpointError, match="missing"):
        convert(good.base, good.dit, good.dit, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_profilers_counters_are_no_weights(broken: PublicLayout, tmp_path: Path) -> None:
    def change(content: dict) -> None:
        content["model"]["vae.encoder.total_ops"] = torch.zeros(1, dtype=torch.float64)
        content["model"]["vae.total_params"] = torch.zeros(1, dtype=torch.float64)

    _edit(broken.vae, change)
    (broken.base / "tokenizer" / ".DS_Store").write_bytes(b"x")
    out = _run(broken, tmp_path / "made")
    assert not (out / "tokenizer" / ".DS_Store").exists()
    found = load_file(out / "vae" / "diffusion_pytorch_model.safetensors")
    _assert_same(found, broken.parts.vae.state_dict())


def test_averages_of_another_model(broken: PublicLayout, tmp_path: Path) -> None:
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(broken.dit, weights_only=True)
    weights = content["ema_model"]["shadow_params"]
    weights[5], weights[6] = weights[6], weights[5]
    torch.save(content, broken.dit)
    with pytest.raises(CheckpointError, match="2 of another shape"):
        _run(broken, tmp_path / "made")
    weights.pop()
    torch.save(content, broken.dit)
    with pytest.raises(CheckpointError, match="68 averaged weights, but the transformer has 69"):
        _run(broken, tmp_path / "made")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("text_encoder/model-00002-of-00002.safetensors", "text_encoder lacks model-00002"),
        ("text_encoder/config.json", "lacks text_encoder/config.json"),
        ("transformer/config.json", "lacks transformer/config.json"),
        ("tokenizer", "lacks tokenizer/"),
        ("", "no base folder"),
    ],
)
def test_a_base_with_holes(broken: PublicLayout, tmp_path: Path, where: str, message: str) -> None:
    path = broken.base / where
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises((CheckpointError, MissingPathError), match=message):
        _run(broken, tmp_path / "made")


def test_a_damaged_base(broken: PublicLayout, tmp_path: Path) -> None:
    shard = broken.base / "text_encoder" / "model-00001-of-00002.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        _run(broken, tmp_path / "made")
    save_file({"other": torch.zeros(3)}, shard)
    with pytest.raises(CheckpointError, match="does not fit the model; .* missing"):
        _run(broken, tmp_path / "made")
    shard.write_bytes(whole)
    config = broken.base / "vae" / "config.json"
    config.write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        _run(broken, tmp_path / "made")
    config.write_text(json.dumps({"base_dim": "wide"}))
    with pytest.raises(CheckpointError, match="describes no vae"):
        _run(broken, tmp_path / "made")


def test_stopping_leaves_nothing(layout: PublicLayout, tmp_path: Path) -> None:
    for share in (0.0, 0.3, 0.7):
        token = CancelToken()

        def watch(event: Progress, token: CancelToken = token, share: float = share) -> None:
            assert 0 <= event.done <= event.total
            if event.fraction >= share:
                token.cancel()

        with pytest.raises(Cancelled, match="nothing was written"):
            _run(layout, tmp_path / "made", progress=watch, cancel=token)
        assert list(tmp_path.iterdir()) == []


def test_progress_ends_at_its_total(layout: PublicLayout, tmp_path: Path) -> None:
    events: list[Progress] = []
    out = _run(layout, tmp_path / "made", text_dtype="float16", progress=events.append)
    assert events[-1].done == events[-1].total
    assert [e.done for e in events] == sorted(e.done for e in events)
    assert out.is_dir()


def test_a_full_disk_leaves_nothing(
    layout: PublicLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shards.os, "fsync", full)
        with pytest.raises(StorageError, match="disk is full"):
            _run(layout, tmp_path / "made")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("flowrvs.checkpoints.convert.free_bytes", lambda folder: 1000)
    with pytest.raises(StorageError, match=r"needs .* but 1.0 kB are free"):
        _run(layout, tmp_path / "made")


def test_a_text_encoder_on_another_disk_is_copied_and_counted(
    layout: PublicLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def apart(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    linked = _run(layout, tmp_path / "linked")
    sizes = {path: path.stat().st_size for path in linked.glob("*/*.safetensors")}
    encoder = {p: size for p, size in sizes.items() if p.parent.name == "text_encoder"}
    written = sum(
        size - 8 - int.from_bytes(path.read_bytes()[:8], "little")  # without its header
        for path, size in sizes.items()
        if path not in encoder
    )
    monkeypatch.setattr(convert_module.os, "link", apart)
    events: list[Progress] = []
    copied = _run(layout, tmp_path / "copied", progress=events.append)
    assert events[-1].done == events[-1].total
    taken = sum(p.stat().st_size for p in (copied / "text_encoder").glob("model*"))
    assert events[-1].total == 2 * (written + taken)
    assert max(e.done for e in events if e.message == "Writing weights") == written + taken
    for path in encoder:
        copy = copied / path.relative_to(linked)
        assert copy.read_bytes() == path.read_bytes() and not copy.samefile(path)
    assert verify_manifest(copied) == []
    # Room for what is written, but not for the copy as well.
    monkeypatch.setattr(convert_module, "free_bytes", lambda folder: written)
    with pytest.raises(StorageError, match="are free"):
        _run(layout, tmp_path / "made")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copied", "linked"]


def test_a_folder_in_use_is_left_alone(layout: PublicLayout, tmp_path: Path) -> None:
    out = tmp_path / "made"
    out.mkdir()
    _run(layout, out)  # an empty one is taken
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(InputError, match="already exists"):
        _run(layout, out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_what_a_killed_run_left_is_removed(layout: PublicLayout, tmp_path: Path) -> None:
    left = tmp_path / ".made.partial-999999999-abcd"
    left.mkdir()
    (left / "half").write_bytes(b"x")
    _run(layout, tmp_path / "made")
    assert not left.exists()


_PEAK = """
import resource, sys
from pathlib import Path
from flowrvs.checkpoints import shards
from flowrvs.checkpoints.convert import convert
shards._TOUCHED = 4 << 20
paths = [Path(name) for name in sys.argv[1:]]
for start in (0, 4):  # the small one first: imports and all else that is needed anyway
    convert(*paths[start : start + 4])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts other things elsewhere")
def test_memory_does_not_grow_with_the_weights(layout: PublicLayout, tmp_path: Path) -> None:
    wide = replace(SMALL, transformer={**SMALL.transformer, "ffn_dim": 200_000})
    large = write_public_layout(tmp_path / "large", kind="ema", preset=wide, dtype=torch.bfloat16)
    weights = sum(t.nbytes for t in large.parts.transformer.state_dict().values()) >> 20
    assert weights > 70
    command = [sys.executable, "-c", _PEAK]
    for name, one in (("a", layout), ("b", large)):
        command += map(str, (one.base, one.dit, one.vae, tmp_path / name))
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    control, peak = map(int, done.stdout.split())
    assert peak - control < weights // 3


@pytest.mark.parametrize(
    ("value", "dtype"), [(float("nan"), None), (float("inf"), None), (1e30, "float16")]
)
def test_weights_that_are_no_numbers_are_refused(
    broken: PublicLayout, tmp_path: Path, value: float, dtype: str | None
) -> None:
    content = torch.load(broken.vae, weights_only=True)
    content["model"]["vae.quant_conv.weight"].view(-1)[5] = value
    torch.save(content, broken.vae)
    with pytest.raises(CheckpointError, match=r"quant_conv.weight is not finite in float\d\d"):
        _run(broken, tmp_path / "out", dtype=dtype)
    assert [p.name for p in tmp_path.iterdir()] == ["public"]


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("transformer", "out_channels", "x"),
        ("vae", "patch_size", [1]),
        ("text_encoder", "d_model", "x"),
    ],
)
def test_a_config_of_nonsense_is_one_line(
    broken: PublicLayout, tmp_path: Path, part: str, key: str, value: object
) -> None:
    path = broken.base / part / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(CheckpointError, match=f"describes no {part}"):
        _run(broken, tmp_path / "out")


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("transformer", "num_layers", 5000),
        ("transformer", "ffn_dim", 10**12),
        ("vae", "dim_mult", [1, 10**9]),
        ("text_encoder", "num_layers", float("inf")),
        ("text_encoder", "vocab_size", 10**10),
    ],
)
def test_a_config_that_asks_for_all_memory_is_refused(
    broken: PublicLayout, tmp_path: Path, part: str, key: str, value: object
) -> None:
    path = broken.base / part / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(CheckpointError, match=f"has an impossible {key}"):
        _run(broken, tmp_path / "out")


@pytest.mark.parametrize("name", ["../x.safetensors", "x" * 5000])
def test_an_index_of_the_base_stays_in_its_folder(
    broken: PublicLayout, tmp_path: Path, name: str
) -> None:
    path = broken.base / "text_encoder" / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"shared.weight": name}}))
    with pytest.raises(CheckpointError, match="names files outside its folder"):
        _run(broken, tmp_path / "out")


def test_code_of_the_base_is_not_asked_for(
    broken: PublicLayout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = tmp_path / "ran"
    path = broken.base / "tokenizer" / "tokenizer_config.json"
    more = {"tokenizer_class": "Other", "auto_map": {"AutoTokenizer": ["other.Other"] * 2}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))
    (path.parent / "other.py").write_text(f"open({str(mark)!r}, 'w')\n")
    with pytest.raises(CheckpointError, match="describes no tokenizer"):
        _run(broken, tmp_path / "out")
    assert not mark.exists() and "[y/N]" not in capsys.readouterr().out


def test_the_working_folder_is_left_alone(
    layout: PublicLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be replaced: whoever is in it would be nowhere."""
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    with pytest.raises(InputError, match="is the folder that you are in"):
        _run(layout, Path("."))
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]
    assert _run(layout, Path("new")) == tmp_path / "mine" / "new"
    index = json.loads((tmp_path / "mine" / "new" / "model_index.json").read_text())
    assert index["name"] == "new"


@pytest.mark.parametrize("length", [8, 512])
def test_lengths_of_sentences_that_are_possible(
    layout: PublicLayout, tmp_path: Path, length: int
) -> None:
    with pytest.raises(MissingPathError):  # not for the length
        convert(tmp_path / "none", layout.dit, layout.vae, tmp_path / "o", text_length=length)


def test_the_index_of_a_converted_model(layout: PublicLayout, tmp_path: Path) -> None:
    import diffusers

    out = _run(layout, tmp_path / "made", name="mine", text_length=77)
    assert json.loads((out / "model_index.json").read_text()) == {
        "_class_name": "FlowRVSPipeline",
        "_diffusers_version": diffusers.__version__,
        "lower_case": False,
        "max_sequence_length": 77,
        "name": "mine",
        "overlap": 8,
        "sample_height": 480,
        "sample_width": 832,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
        "whole_video": True,
        "window_size": 81,
    }
    assert json.loads((out / "scheduler" / "scheduler_config.json").read_text())["shift"] == 1.0
    assert read_manifest(out)["source"] == {
        "base": layout.base.name,
        "dit": layout.dit.name,
        "vae": layout.vae.name,
    }
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    tokenizer = {f"tokenizer/{p.name}" for p in (layout.base / "tokenizer").iterdir()}
    encoder = {f"text_encoder/{p.name}" for p in (layout.base / "text_encoder").iterdir()}
    assert files == {
        *tokenizer,
        *encoder,
        "flowrvs-manifest.json",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    }
    config = (layout.base / "text_encoder" / "config.json").read_text()
    assert (out / "text_encoder" / "config.json").read_text() == config, "as it was"


@pytest.mark.parametrize("channels", [15, 17, 31, 48])
def test_a_transformer_of_other_channels(
    tmp_path: Path, layout: PublicLayout, channels: int
) -> None:
    odd = tmp_path / "odd.pth"
    torch.save({"patch_embedding.weight": torch.zeros(24, channels, 1, 2, 2)}, odd)
    with pytest.raises(CheckpointError) as caught:
        convert(layout.base, odd, layout.vae, tmp_path / "made")
    assert str(caught.value) == (
        f"{odd} takes {channels} channels; a FlowRVS transformer takes 16, or 32 with the video "
        "injected."
    )
