"""What the flow's training asks for, step by step: times and noise, groups, caches, adapters."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from flowrvs.checkpoints.files import fingerprint
from flowrvs.errors import InputError
from flowrvs.progress import CancelToken
from flowrvs.training import (
    DecoderConfig,
    FlowConfig,
    decoder,
    flow,
    train_decoder,
    train_flow,
)
from flowrvs.training.decoder import DecoderTrainee
from flowrvs.training.encoded import CachedData, EncodedSample, MemoryCache
from flowrvs.training.engine import make_accelerator
from flowrvs.training.flow import FlowTrainee, flow_step_loss
from flowrvs.training.objective import sample_timesteps
from flowrvs.training.parts import part_of
from flowrvs.training.sentences import LearningTexts
from tests.fixtures.micro import micro_pipeline

CONFIG = FlowConfig(frames=5, seed=7, boundary_probability=0.3, time_power=1.0)
SHAPE = torch.Size((16, 2, 4, 6))


class Encoder:
    """Stands for the VAE: says what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []

    def latent(self, clip: np.ndarray) -> torch.Tensor:
        assert clip.dtype == bool and not clip.any()
        self.asked.append(clip.shape)
        return torch.full((16, 1 + (len(clip) - 1) // 4, *(n // 8 for n in clip.shape[1:])), 5.0)


class Texts:
    """Stands for embeddings."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def conditions(self, texts: list[str], *rest: Any) -> dict[str, torch.Tensor]:
        self.calls.append((texts, *rest))
        return {"encoder_hidden_states": torch.zeros(len(texts), 3, 16)}

    def refresh(self, pipeline: Any) -> None:
        self.calls.append(pipeline)


def make_trainee(config: FlowConfig = CONFIG, **options: Any) -> Any:
    pipeline = micro_pipeline(**options)
    data: Any = SimpleNamespace(held_out=[])
    cpu = make_accelerator("float32", "cpu")
    return FlowTrainee(pipeline, Encoder(), Texts(), config, cpu, data, torch.float32)  # type: ignore[arg-type]


def sample(number: int, value: float = 0.0, cells: Any = None) -> EncodedSample:
    generator = torch.Generator().manual_seed(number)
    objects = meant = None
    if cells is not None:
        objects = torch.zeros(SHAPE[1:])
        objects[:, cells[0], cells[1]] = 1
        meant = objects.clone()
    moments = torch.randn(32, *SHAPE[1:], generator=generator)
    target = torch.full(SHAPE, value) + torch.randn(SHAPE, generator=generator)
    return EncodedSample(number, f"text {number}", moments, target, objects, meant)


def test_time_and_noise_follow_from_the_number() -> None:
    trainee = make_trainee()
    for number in (0, 5, 2**40):
        generator = torch.Generator().manual_seed((7 * 1_000_003 + number) % 2**63)
        time = sample_timesteps(1, 0.3, 1.0, torch.device("cpu"), generator)
        found = trainee.draw(number, SHAPE)
        assert torch.equal(found[0], time)
        assert torch.equal(found[1], torch.randn(SHAPE, generator=generator))
    times = torch.cat([trainee.draw(n, torch.Size((1,)))[0] for n in range(300)])
    assert 0.2 < (times == 1000).float().mean() < 0.4


@pytest.mark.parametrize("inject", [False, True])
def test_a_step_shows_the_state_and_the_video_if_wished(inject: bool) -> None:
    start, end = torch.randn(2, 16, 1, 2, 2), torch.randn(2, 16, 1, 2, 2)
    times, text = torch.tensor([1000.0, 250.0]), torch.randn(2, 3, 16)
    seen: list[Any] = []

    def transformer(**options: Any) -> tuple[torch.Tensor]:
        seen.append(options)
        return (options["hidden_states"][:, :16].float() * 0,)

    loss = flow_step_loss(
        transformer, start, end, times, inject=inject, dtype=torch.bfloat16,  # type: ignore[arg-type]
        encoder_hidden_states=text,
    )  # fmt: skip
    torch.testing.assert_close(loss, (start - end).square().mean())
    (options,) = seen
    state = torch.stack([start[0], 0.25 * start[1] + 0.75 * end[1]])
    expected = torch.cat([state, start], 1) if inject else state
    assert torch.equal(options.pop("hidden_states"), expected.bfloat16())
    assert options.keys() == {"timestep", "return_dict", "encoder_hidden_states"}
    assert options["timestep"] is times and options["return_dict"] is False
    objects = torch.zeros(2, 1, 2, 2)
    objects[0, 0, 0, 0] = 1
    heavy = flow_step_loss(
        transformer, start, end, times, inject=inject, dtype=torch.float32,  # type: ignore[arg-type]
        objects=objects, object_weight=3.0, encoder_hidden_states=text,
    )  # fmt: skip
    error, weight = (start - end).square().mean(1), 1 + 3 * objects
    torch.testing.assert_close(heavy, (error * weight).sum() / weight.sum())


def test_parts_by_number_and_clips_of_one_size_together() -> None:
    config = dataclasses.replace(CONFIG, part_probability=0.5)
    trainee = make_trainee(config)
    samples = [sample(n, cells=(1, 2)) for n in range(12)]
    groups = trainee.groups(samples)
    assert sorted(s.number for group in groups for s in group) == list(range(12))
    assert {len({s.target.shape for s in group}) for group in groups} == {1} and len(groups) == 2
    for found in (s for group in groups for s in group):
        whole, rng = samples[found.number], np.random.default_rng([7, 6, found.number])
        if rng.random() >= 0.5:
            assert found is whole
            continue
        rows, columns = part_of(rng, (4, 6), (2, 2))
        for part in ("moments", "target", "objects", "meant"):
            assert torch.equal(getattr(found, part), getattr(whole, part)[..., rows, columns])
    plain = trainee.groups([sample(n) for n in range(12)])
    assert all(s.objects is None and s.meant is None for group in plain for s in group)
    assert all(
        s is samples[s.number] for (group,) in [make_trainee().groups(samples)] for s in group
    )


def test_the_loss_of_a_group_by_hand() -> None:
    config = dataclasses.replace(CONFIG, object_weight=2.0)
    for augmented in (True, False):
        trainee = make_trainee(dataclasses.replace(config, start_point_augmentation=augmented))
        trainee._mean += 0.5
        trainee._std *= 2
        group = [sample(3, cells=(0, 0)), sample(4, cells=(2, 3))]
        group[1].moments[16:] = 100.0  # what nobody can be so unsure of
        losses = []
        for each in group:
            time, noise = trainee.draw(each.number, SHAPE)
            mean, logvar = each.moments[:16], each.moments[16:].clamp(-30, 20)
            start = (mean + augmented * torch.exp(logvar / 2) * noise - 0.5) / 2
            share = time / 1000
            state = share * start + (1 - share) * each.target
            text = torch.zeros(1, 3, 16)
            velocity = trainee.module(state[None], time, text, return_dict=False)[0][0]
            error = (velocity - start + each.target).square().mean(0)
            losses.append((error * (1 + 2 * each.objects)).sum())
        expected = sum(losses) / sum((1 + 2 * each.objects).sum() for each in group)
        torch.testing.assert_close(
            trainee.loss(trainee.module, group), expected, rtol=1e-4, atol=1e-4
        )
        texts = trainee._texts.calls[-1]
        assert texts == (["text 3", "text 4"], torch.device("cpu"), torch.float32)


def test_grounds_and_covers_follow_from_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(
        CONFIG, object_weight=1.0, ground_probability=0.6, cover_probability=0.4
    )
    trainee = make_trainee(config)
    group = [sample(n, cells=(n % 4, n % 6)) for n in range(8)]
    asked: list[Any] = []

    def exchange(start: Any, end: Any, objects: Any, meant: Any, **options: Any) -> Any:
        asked.append((objects, meant, options))
        return start, end

    monkeypatch.setattr(flow, "exchange_grounds", exchange)
    plain = make_trainee(dataclasses.replace(config, ground_probability=0.0, cover_probability=0.0))
    torch.testing.assert_close(trainee.loss(trainee.module, group), plain.loss(plain.module, group))
    (objects, meant, options) = asked.pop()
    draws = np.array([np.random.default_rng([7, 7, n]).random(2) for n in range(8)])
    assert options["exchanged"].tolist() == (draws[:, 0] < 0.6).tolist()
    assert options["covered"].tolist() == (draws[:, 1] < 0.4).tolist()
    assert (
        torch.equal(objects, torch.stack([s.objects for s in group])) and (meant == objects).all()
    )
    assert (options["nothing"] == 5).all() and options["nothing"].shape == SHAPE
    assert trainee._encoder.asked == [(5, 32, 48)]
    trainee.loss(trainee.module, group)
    assert trainee._encoder.asked == [(5, 32, 48)], "encoded once"
    asked.clear()
    trainee.loss(trainee.module, group[:1])
    assert asked == [], "there is no other clip"
    for changes in ({"ground_probability": 0.0}, {"cover_probability": 0.0}):
        single = make_trainee(dataclasses.replace(config, **changes))
        single.loss(single.module, group[:2])
        assert len(asked) == 1
        asked.clear()


def test_scoring_uses_what_was_learned_and_puts_things_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trainee = make_trainee()
    assert trainee.validate(trainee.module) == {} and trainee._texts.calls == []
    trainee._data.held_out, trainee._examples = ["item"], tmp_path
    places: list[Any] = []
    monkeypatch.setattr(type(trainee._pipeline.vae), "to", lambda self, place: places.append(place))
    asked: list[Any] = []
    monkeypatch.setattr(flow, "score_held_out", lambda *args: asked.append(args) or {"J": 1.0})
    trainee._accelerator = SimpleNamespace(device="gpu")
    assert trainee.validate(trainee.module) == {"J": 1.0}
    cancel = trainee._cancel = CancelToken()
    assert trainee.validate(trainee.module) == {"J": 1.0}
    pair = (trainee._pipeline, ["item"], trainee._accelerator, tmp_path)
    assert asked == [(*pair, None), (*pair, cancel)]
    assert places == ["gpu", torch.device("cpu")] * 2
    assert trainee._texts.calls == [trainee._pipeline] * 2


def test_wishes_that_exclude_each_other(tmp_path: Path) -> None:
    def refused(message: str, **options: Any) -> None:
        changes = {k: options.pop(k) for k in list(options) if hasattr(CONFIG, k)}
        with pytest.raises(InputError) as caught:
            train_flow("nowhere", [], tmp_path, dataclasses.replace(CONFIG, **changes), **options)
        assert str(caught.value) == message

    refused(
        "train_text goes with all weights, not with lora_rank; leave one out.",
        train_text=True,
        lora_rank=2,
    )
    refused("A cluster fills a cache: give a folder for it with --cache.", scheduler="x")
    for name, more in (
        ("ground_probability", {"batch_size": 2}),
        ("cover_probability", {"batch_size": 2}),
        ("cover_probability", {"object_weight": 1.0, "batch_size": 1}),
    ):
        refused(
            "ground_probability and cover_probability go with object_weight above 0, for which it "
            "is read where things are, and with a batch_size of 2 at least: one clip lends another "
            "its ground.",
            **more,
            **{name: 0.1},
        )
    remember = "remember goes with workers = 0 and without a cache on disk."
    refused(remember, remember=True, workers=1)
    refused(remember, remember=True, workers=0, cache="c")


def test_new_channels_are_not_left_untrained_by_adapters() -> None:
    config = dataclasses.replace(CONFIG, lora_rank=2, video_injection=True)
    with pytest.raises(InputError, match=r"^video_injection gives the model new channels, which"):
        flow._prepare_transformer(micro_pipeline(), config)


def test_what_of_the_transformer_is_trained() -> None:
    def prepared(**changes: Any) -> Any:
        pipeline = micro_pipeline()
        flow._prepare_transformer(pipeline, dataclasses.replace(CONFIG, **changes))
        return pipeline

    plain = prepared()
    assert all(p.requires_grad for p in plain.transformer.parameters())
    assert plain.transformer.is_gradient_checkpointing and not plain.injects_video
    wide = prepared(video_injection=True, gradient_checkpointing=False)
    assert wide.transformer.config.in_channels == 32 and wide.injects_video
    assert not wide.transformer.is_gradient_checkpointing
    assert all(p.requires_grad for p in wide.transformer.parameters())
    adapted = prepared(lora_rank=2, lora_alpha=6).transformer
    settings = adapted.peft_config["default"]
    assert (settings.r, settings.lora_alpha) == (2, 6)
    assert all(("lora" in n) == p.requires_grad for n, p in adapted.named_parameters())
    same = prepared(lora_rank=2, lora_alpha=6).transformer.state_dict()
    assert all(torch.equal(v, same[k]) for k, v in adapted.state_dict().items())
    other = prepared(lora_rank=2, seed=8).transformer.state_dict()
    assert not all(torch.equal(v, other[k]) for k, v in adapted.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "length", "processes", "samples"),
    [
        ({"batch_size": 3, "epochs": 4}, 10, 1, 3 * 4 * 3),
        ({"batch_size": 3, "epochs": 4}, 10, 2, 1 * 4 * 6),
        ({"batch_size": 8, "epochs": 4}, 3, 1, 4 * 8),
        ({"batch_size": 3, "epochs": 4, "max_steps": 5}, 10, 1, 5 * 3),
        ({"batch_size": 3, "epochs": 4, "max_steps": 50}, 10, 1, 3 * 4 * 3),
    ],
)
def test_as_much_is_encoded_as_will_be_asked_for(
    monkeypatch: pytest.MonkeyPatch, changes: Any, length: int, processes: int, samples: int
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(flow, "needed_draws", lambda *args: asked.append(args) or ("draws", 7))
    monkeypatch.setattr(flow, "fill_cache", lambda *args, **options: asked.append((args, options)))
    accelerator = SimpleNamespace(
        num_processes=processes,
        process_index=processes - 1,
        wait_for_everyone=lambda: asked.append("wait"),
    )
    config = dataclasses.replace(CONFIG, **changes)
    run: Any = SimpleNamespace(config=config, accelerator=accelerator, progress=print, cancel="c")
    data: Any = SimpleNamespace(epoch_length=length)
    flow._fill(data, "cache", "encoder", run)  # type: ignore[arg-type]
    assert asked == [
        (data, samples, processes - 1, processes),
        (("draws", 7, "cache", "encoder"), {"progress": print, "cancel": "c"}),
        "wait",
    ]


# -- how a whole training is put together ------------------------------------------------


class Run:
    """Stands for `TrainingRun`: trains nothing, and notes what it was given."""

    def __init__(
        self, stage: str, model: Any, out: Any, config: FlowConfig, **options: Any
    ) -> None:
        self.began = (stage, model, out, config, options)
        self.config, self.base, self.out = config, Path(model), Path(out)
        self.accelerator: Any = make_accelerator("float32", "cpu")
        self.pipeline = micro_pipeline()
        self.precision = {"auto": "float32"}.get(config.precision, config.precision)
        self.dtype = torch.float32
        self.progress, self.cancel = "progress", "cancel"
        self.given: Any = None
        runs.append(self)

    def train(self, trainee: Any, dataset: Any, data: Any, **options: Any) -> Any:
        self.given = (trainee, dataset, data, options)
        return trainee.module, "trained", "card"

    def trained(self, folder: Path, card: Any) -> Any:
        return folder, card


runs: list[Run] = []


@pytest.fixture
def wired(monkeypatch: pytest.MonkeyPatch, micro_model: Path) -> dict[str, list[Any]]:
    """What a training calls, by name: arguments and options."""
    asked: dict[str, list[Any]] = {}
    train = SimpleNamespace(epoch_length=8, settings=None)
    prepared = SimpleNamespace(train=train, texts=lambda: ["a text"], held_out=[])

    def note(module: Any, name: str, answer: Any = None) -> None:
        def call(*args: Any, **options: Any) -> Any:
            asked.setdefault(name, []).append((args, options))
            return answer

        monkeypatch.setattr(module, name, call)

    runs.clear()
    for module in (flow, decoder):
        monkeypatch.setattr(module, "TrainingRun", Run)
        monkeypatch.setattr(
            module, "has_mask_decoder", lambda base: base == micro_model, raising=False
        )
        note(module, "prepare_data", prepared)
        note(module, "write_model")
        note(module, "use_fast_layers")
    note(flow, "open_texts", "bank")
    note(flow, "_fill")
    note(flow, "save_adapter")
    note(flow, "choose_attention")
    note(flow, "EncodeCluster", "cluster")
    monkeypatch.setattr(
        torch.nn.Module,
        "load_state_dict",
        lambda self, *a, **k: asked.setdefault("load", []).append((a, k)),
    )
    return asked


def test_a_training_is_put_together(
    wired: dict[str, list[Any]], micro_model: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(
        CONFIG, rehearsal_share=0.2, gradient_checkpointing=False, precision="mixed"
    )
    out = tmp_path / "out"
    found = train_flow(
        micro_model, ["data"], out, config, weights=[1.0], rehearsal="world", examples="e",  # type: ignore[arg-type]
        improving=True, name="n", device="cpu",
    )  # fmt: skip
    (run,) = runs
    assert found == (out / "model", "card")
    assert run.began == ("flow", micro_model, out, config, {"name": "n", "device": "cpu"})
    assert wired["use_fast_layers"] == [((run.pipeline.vae,), {})]
    plain = {
        "weights": [1.0],
        "variants": 0,
        "objects": False,
        "rehearsal": "world",
        "rehearsal_share": 0.2,
    }
    assert wired["prepare_data"] == [((["data"], config, run.pipeline), plain)]
    rest = (torch.float32, ["a text"], run.accelerator, "progress", "cancel")
    assert wired["open_texts"] == [((micro_model, run.pipeline, out / "cache", *rest, None), {})]
    trainee, dataset, data, options = run.given
    assert dataset is data.train and options == {"improving": True}
    assert trainee._encoder.vae is run.pipeline.vae and trainee._encoder.mixed is True
    assert (trainee._texts, trainee._config, trainee._examples) == ("bank", config, "e")
    attention = ((run.pipeline.transformer, torch.device("cpu")), {"mixed": True})
    assert wired["choose_attention"] == [attention]
    assert wired["load"] == [(("trained",), {"strict": False})]
    changed = {"transformer": run.pipeline.transformer}
    written = ((micro_model, out / "model", run.pipeline, changed, "card"), {})
    assert wired["write_model"] == [written] and "save_adapter" not in wired


def test_a_training_with_a_cache(
    wired: dict[str, list[Any]], micro_model: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(CONFIG, object_weight=1.0, cache_variants=3, lora_rank=2)
    kept = tmp_path / "kept"
    options: dict[str, Any] = {"cache": kept, "scheduler": "tcp://x", "target": tmp_path / "t"}
    found = train_flow(micro_model, ["data"], tmp_path, config, **options)
    (run,) = runs
    assert found == (tmp_path / "t", "card")
    ((_, given),) = wired["prepare_data"]
    assert (given["variants"], given["objects"], given["rehearsal_share"]) == (3, True, 0.5)
    cluster = (("tcp://x", micro_model, torch.float32), {"mixed": False})
    assert wired["EncodeCluster"] == [cluster]
    ((args, _),) = wired["open_texts"]
    assert (args[2], args[-1]) == (kept, "cluster")
    trainee, dataset, data, options = run.given
    key = fingerprint(micro_model / "vae")
    assert isinstance(dataset, CachedData) and dataset.data is data.train
    assert dataset.encoder is None and dataset.cache.folder == kept / f"latents-{key}-float32"
    assert wired["_fill"] == [((data.train, dataset.cache, "cluster", run), {})]
    assert options == {"improving": False} and trainee._encoder.mixed is False
    assert wired["save_adapter"] == [((trainee.module, "trained", tmp_path / "t", "card"), {})]
    assert "write_model" not in wired and "load" not in wired
    train_flow(micro_model, ["data"], tmp_path, config, cache=kept)
    assert runs[1].given[1].cache.folder == dataset.cache.folder
    assert wired["_fill"][1][0][2] is runs[1].given[0]._encoder
    adapted = train_flow(micro_model, ["data"], tmp_path, config)
    assert adapted == (tmp_path / "lora", "card")


def test_a_training_that_remembers_and_learns_words(
    wired: dict[str, list[Any]], micro_model: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(
        CONFIG, remember=True, workers=0, train_text=True, cache_variants=3
    )
    base = tmp_path / "base"
    shutil.copytree(micro_model, base)
    train_flow(base, ["data"], tmp_path / "out", config)
    (run,) = runs
    assert wired["prepare_data"][0][1]["variants"] == 3
    trainee, dataset, data, _ = run.given
    assert isinstance(dataset, CachedData) and isinstance(dataset.cache, MemoryCache)
    assert dataset.encoder is trainee._encoder and dataset.data is data.train
    texts = trainee._texts
    assert isinstance(texts, LearningTexts) and "text" in " ".join(texts.tokenizer.get_vocab())
    assert trainee.module.text_encoder is texts.encoder
    ((args, _),) = wired["write_model"]
    # A base whose VAE gives pictures: the one that gives masks is written, too.
    assert args[3] == {
        "transformer": run.pipeline.transformer,
        "text_encoder": texts.encoder,
        "tokenizer": texts.tokenizer,
        "vae": run.pipeline.vae,
    }
    assert "_fill" not in wired and "open_texts" not in wired


def test_the_decoders_training_is_put_together(
    wired: dict[str, list[Any]], micro_model: Path, tmp_path: Path
) -> None:
    config: Any = DecoderConfig(frames=5)
    found = train_decoder(micro_model, ["data"], tmp_path, config, weights=[2.0], device="cpu")
    (run,) = runs
    assert found == (tmp_path / "model", "card")
    assert run.began == ("decoder", micro_model, tmp_path, config, {"device": "cpu"})
    vae = run.pipeline.vae
    assert wired["use_fast_layers"] == [((vae,), {"exact": False})]
    assert wired["prepare_data"] == [((["data"], config, run.pipeline), {"weights": [2.0]})]
    trainee, dataset, data, options = run.given
    assert isinstance(trainee, DecoderTrainee) and trainee._vae is vae and options == {}
    assert dataset is data.train and trainee._config is config
    assert wired["load"] == [(("trained",), {"strict": False})]
    changed = {"vae": vae}
    assert wired["write_model"] == [
        ((micro_model, tmp_path / "model", run.pipeline, changed, "card"), {})
    ]
    train_decoder(micro_model, ["data"], tmp_path)
    assert runs[1].config == DecoderConfig()
    train_flow(micro_model, ["data"], tmp_path)
    assert runs[2].config == FlowConfig()
