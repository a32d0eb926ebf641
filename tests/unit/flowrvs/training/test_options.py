"""Options: presets hold the published values, typing errors get one line, docs list them all."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from flowrvs.errors import InputError, MissingPathError, StorageError
from flowrvs.training import DecoderConfig, FlowConfig, build_config, load_scratch_config
from flowrvs.training.options import Option, list_options, make_config, read_toml
from flowrvs.training.scratch.config import TABLES, FlowStage, VaeStage

ROOT = Path(__file__).resolve().parents[4]


def test_the_preset_paper_holds_the_published_values() -> None:
    config = build_config(FlowConfig, preset="paper")
    published = {
        "learning_rate": 5e-5,
        "weight_decay": 5e-4,
        "clip_norm": 1.0,
        "ema_decay": 0.9999,
        "gradient_checkpointing": True,
        "precision": "bfloat16",
        "frames": 17,
        "short_side": 480,
        "long_side": 832,
        "boundary_probability": 0.5,
        "milestones": (30,),
        "gamma": 0.9,
        "epochs": 50,
        "batch_size": 1,
        "start_point_augmentation": True,
        "no_target": False,
        "sampler": "sparse",
    }
    assert {key: getattr(config, key) for key in published} == published
    assert build_config(DecoderConfig, preset="paper").short_side == 480


def test_the_command_line_wins_over_the_file_and_the_file_over_the_preset(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('preset = "paper"\nlearning_rate = 1e-3\nframes = 9\nseed = 7\n')
    config = build_config(
        FlowConfig, file=path, settings=["frames=5", "sampler=mixed"], max_steps=3, lora_rank=None
    )
    assert (config.learning_rate, config.frames, config.seed) == (1e-3, 5, 7)
    assert (config.sampler, config.max_steps, config.weight_decay) == ("mixed", 3, 5e-4)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lerning_rate=1", "unknown keys lerning_rate; known ones"),
        ("learning_rate=-1", "learning_rate in the options is -1.0; it must be from 0 to 1"),
        ("frames=4", "4k \\+ 1"),
        ("frames=5.5", "must be a whole number"),
        ("frames=true", "must be a whole number"),
        ("no_target=1", "must be true or false"),
        ("learning_rate=nan", "not nan"),
        ("learning_rate=fast", "must be a number, not 'fast'"),
        ("sampler=dense", "choose one of sparse, consecutive, mixed"),
        ("milestones=3", "must be a list"),
        ("milestones=[0]", "at least 1"),
        ("batch_size=0", "at least 1"),
        ("frames", "write KEY=VALUE"),
        ("frames=5\nseed=1", "cannot be read|must be a whole number"),
    ],
)
def test_bad_settings_get_one_line(setting: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        build_config(FlowConfig, settings=[setting])
    assert "\n" not in str(caught.value).replace(setting, "")


def test_bad_files_get_one_line(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    with pytest.raises(MissingPathError, match="No config file"):
        build_config(FlowConfig, file=path)
    for text, message in (
        ("frames = ", "not a TOML"),
        ("lora_rnk = 1", f"{path} has unknown keys lora_rnk"),
        ('preset = "papers"', "No preset 'papers'; choose one of paper"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=re.escape(message)) as caught:
            build_config(FlowConfig, file=path)
        assert "\n" not in str(caught.value)
    with pytest.raises(
        StorageError, match=re.escape(f"Cannot read {tmp_path}: it is no plain file")
    ):
        build_config(FlowConfig, file=tmp_path)


@pytest.mark.parametrize(
    "setting",
    [
        *("remember=true", "cache_variants=2", "matrix_learning_rate=0.1"),
        *("word_learning_rate=0.1", "colour_probability=0.5", "ground_colour_probability=0.5"),
    ],
)
def test_what_the_decoder_has_no_use_for_is_refused_and_not_passed_over(setting: str) -> None:
    build_config(FlowConfig, settings=[setting])
    with pytest.raises(InputError, match="unknown keys"):
        build_config(DecoderConfig, settings=[setting])


def test_bad_scratch_configs_get_one_line(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    for text, message in (
        ("preset = 'tiny'", "lacks out"),
        ("out='x'\npreset='huge'", "no preset 'huge'"),
        ("out='x'\n[vae]\nlerning_rate=1", "unknown keys lerning_rate"),
        ("out='x'\n[[flow.phases]]\nstep=1", "unknown keys step"),
        ("out='x'\n[[flow.phases]]\nsteps=1\nframes=4\nbatch=1", "4k"),
        ("out='x'\nflow=3", "must be a table"),
        ("out='x'\n[flow]\nlog_every=0", "log_every in .*, flow is 0; it must be at least 1"),
        ("out='x'\n[vae]\nmask_share=1.5", "mask_share in .*, vae is 1.5; it must be from 0 to 1"),
        ("out='x'\n[flow]\nattribute_weight=1\nattribute_block=6", "has 6 blocks, the first is 0"),
        ("out='x'\n[[vae.phases]]\nsteps=1\nframes=37\nbatch=1", "37 frames; scenes of the VAE"),
        ("out='x'\n[[vae.phases]]\nsteps=1\nframes=5\nbatch=1\nheight=200", "from 0 to 96"),
        ("out='x'\n[[vae.phases]]\nsteps=1\nframes=5\nbatch=1\nheight=64", "both height and"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message) as caught:
            load_scratch_config(path)
        assert "\n" not in str(caught.value)


def test_the_shipped_config_is_valid() -> None:
    path = ROOT / "flowrvs" / "training" / "scratch" / "configs" / "tiny.toml"
    config = load_scratch_config(path)
    assert config.preset == "tiny"
    assert sum(phase.steps for phase in config.flow.phases) == 3190
    assert config.vae.mask_phases[0].steps == 300
    assert config.flow.train_text_encoder


def test_the_docs_list_every_option_with_its_default_and_its_range() -> None:
    lines = (ROOT / "docs" / "training.md").read_text("utf-8").splitlines()
    for kind in (FlowConfig, DecoderConfig):
        options = list(list_options(kind))
        assert [item.name for item in options] == [f.name for f in dataclasses.fields(kind)]
        for item in options:
            row = f"| `{item.name}` | `{json.dumps(item.default)}` | {item.range} | {item.help} |"
            assert row in lines, row
    # Of a training from scratch, below the name of each table; what is required has no default.
    for table, kind in TABLES.items():
        heading = lines.index(f"`{table}`:" if table else "### `scratch`")
        end = next(
            (n for n in range(heading + 3, len(lines)) if not lines[n].startswith("|")), None
        )
        for item in list_options(kind):
            row = f"| `{item.name}` | `{json.dumps(item.default)}` | {item.range} | {item.help} |"
            assert row in lines[heading:end], row


@pytest.mark.parametrize("kind", [FlowConfig, DecoderConfig, VaeStage, FlowStage])
def test_every_number_has_the_range_that_is_told(kind: type) -> None:
    for item in list_options(kind):
        whole = isinstance(item.default, (int, tuple))
        for bound, step in ((item.low, -1), (item.high, 1)):
            if bound is None:
                continue
            value, beyond = (int(v) if whole else float(v) for v in (bound, bound + step))
            many = isinstance(item.default, tuple)
            made = make_config(kind, {item.name: [value] if many else value}, "x")
            assert getattr(made, item.name) == ((value,) if many else value)
            with pytest.raises(InputError, match=f"^{item.name} in x is {beyond}; it must be"):
                make_config(kind, {item.name: [value, beyond] if many else beyond}, "x")
        for choice in item.choices:
            assert getattr(make_config(kind, {item.name: choice}, "x"), item.name) == choice
        if isinstance(item.default, (int, float)) and not isinstance(item.default, bool):
            assert item.low is not None, f"{item.name} may be negative"


def test_settings_as_they_are_typed(tmp_path: Path) -> None:
    config = build_config(
        FlowConfig,
        settings=["max-steps = 3", 'sampler="mixed"', "learning_rate=1", "milestones=[2, 5]"],
        epochs=None,
    )
    assert (config.max_steps, config.sampler, config.milestones) == (3, "mixed", (2, 5))
    assert config.learning_rate == 1.0 and isinstance(config.learning_rate, float)
    for setting, message in (
        ("frames", "'frames' sets nothing; write KEY=VALUE."),
        (
            'split=a"b',
            "The value of 'split=a\"b' cannot be read; write it as in a TOML file.",
        ),
        ("learning_rate=true", "learning_rate in the options must be a number, not True."),
        ("split=3", "split in the options must be a text, not 3."),
        ("milestones=3", "milestones in the options must be a list, not 3."),
        ("milestones=[1.5]", "milestones in the options must be a whole number, not 1.5."),
        ("gamma=1.5", "gamma in the options is 1.5; it must be from 0 to 1."),
        ("keep=0", "keep in the options is 0; it must be at least 1."),
        ("clip_norm=nan", "clip_norm in the options must be a number, not nan."),
        ("sampler=x", "sampler in the options is 'x'; choose one of sparse, consecutive, mixed."),
        ("frames=6", "frames is 6; it must be 4k + 1, such as 1, 9 or 17."),
    ):
        with pytest.raises(InputError) as caught:
            build_config(FlowConfig, settings=[setting])
        assert str(caught.value) == message
    path = tmp_path / "c.toml"
    with pytest.raises(MissingPathError) as missing:
        read_toml(path)
    assert str(missing.value) == f"No config file at {path}; give the path of a TOML file."
    for data in (b"a = ", b"a = '\xff'"):
        path.write_bytes(data)
        with pytest.raises(
            InputError,
            match=rf"^{re.escape(str(path))} is not a TOML file \(.+\); correct that line",
        ):
            read_toml(path)
    with pytest.raises(InputError, match=r"^No preset 'x'; choose one of paper, corrections\.$"):
        build_config(FlowConfig, preset="x")
    path.write_text('preset = "paper"')
    assert build_config(FlowConfig, file=path, preset="corrections").sampler == "mixed"
    decoder = dataclasses.asdict(build_config(DecoderConfig, preset="paper"))
    assert decoder["no_target"] is False and "lora_rank" not in decoder


def test_what_of_nested_options_is_wrong_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    known = "known ones: steps, frames, batch, height, width, refresh."
    for text, message in (
        ("preset='tiny'", f"{path} lacks out; add a line for each."),
        ("out='x'\nflow=3", f"flow in {path} must be a table."),
        (
            "out='x'\n[[flow.phases]]\nsteps=1\nframes=1\nbatch=1\nb=1\na=1",
            f"{path}, flow, phases has unknown keys a, b; {known}",
        ),
        (
            "out='x'\n[[vae.phases]]\nsteps=1",
            f"{path}, vae, phases lacks frames, batch; add a line",
        ),
        ("out='x'\n[vae]\nwarmup=1.5", f"warmup in {path}, vae must be a whole number, not 1.5."),
    ):
        path.write_text(text)
        with pytest.raises(InputError) as caught:
            load_scratch_config(path)
        assert str(caught.value).startswith(message)


def test_ranges_in_words() -> None:
    assert Option("a", "b", 1).range == ""
    assert Option("a", "b", 1, low=0.5).range == "at least 0.5"
    assert Option("a", "b", 1, low=0, high=2.0).range == "0 to 2"
    assert Option("a", "b", "x", choices=("x", "y")).range == "x, y"
