"""Clicks and memory equal what transformers answers, with random weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load, save

from flowrvs.errors import (
    Cancelled,
    DeviceMemoryError,
    InputError,
)
from flowrvs.models import sam2_memory
from flowrvs.models.sam2 import (
    _CLASSES,
    Memory,
    Sam2Tracker,
    _along,
    _check_order,
)
from flowrvs.progress import CancelToken
from flowrvs.protocols import Mark, TrackedObject, Tracker
from tests.fixtures.sam_models import FAMILIES, clip, disc, random_model

HEIGHT, WIDTH = 60, 90
Keys = Mapping[int, Mapping[int, np.ndarray]]


def tracker(family: str, seed: int = 0, **changes: Any) -> Sam2Tracker:
    network = random_model(family, seed, **changes)
    return Sam2Tracker(network, family, *_CLASSES[network.config.model_type][1])


@pytest.fixture(scope="module", params=FAMILIES)
def ours(request: pytest.FixtureRequest) -> Sam2Tracker:
    return tracker(request.param)


def two(*frames: int) -> dict[int, dict[int, np.ndarray]]:
    """Return keys of two objects, a disc and the one beside it."""
    return {frame: {3: disc(frame), 5: disc(frame, shift=25)} for frame in frames}


class Stock:
    """What transformers makes of the same: its sessions, and its processors' own methods."""

    def __init__(self, ours: Sam2Tracker, frames: np.ndarray) -> None:
        self.network = ours._network
        name = type(self.network).__name__.removesuffix("Model")
        package = type(self.network).__module__.replace("modeling_", "processing_")
        if name.startswith("EdgeTam"):  # it has the processor of SAM 2
            package = package.replace("edgetam_video", "sam2_video")
        # Its constructor wants torchvision; what is asked of it here does not.
        kind = getattr(
            importlib.import_module(package), name.replace("EdgeTam", "Sam2") + "Processor"
        )
        self.processor = kind.__new__(kind)
        self.processor.target_size = self.network.config.image_size
        self.processor.point_pad_value = -10
        # Equal to a second opinion but for halves that round either way: see below.
        pixels = torch.stack([ours._pixels(frame) for frame in frames])
        self.session = getattr(transformers, f"{name}InferenceSession")(
            video=pixels, video_height=HEIGHT, video_width=WIDTH, dtype=torch.float32
        )

    def add(self, frame: int, object_ids: list[int], **inputs: Any) -> np.ndarray:
        self.processor.add_inputs_to_inference_session(self.session, frame, object_ids, **inputs)
        return self.upscaled(self.network(self.session, frame_idx=frame))[0]

    def key(self, keys: Keys) -> Stock:
        for frame, masks in sorted(keys.items()):
            self.add(frame, list(masks), input_masks=list(masks.values()))
        return self

    def upscaled(self, answer: Any) -> np.ndarray:
        size = (HEIGHT, WIDTH)
        masks = torch.nn.functional.interpolate(
            answer.pred_masks, size, mode="bilinear", align_corners=False
        )
        return masks[:, 0].numpy()

    def propagate(self, **how: Any) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        return {
            answer.frame_idx: (
                self.upscaled(answer),
                answer.object_score_logits.sigmoid().flatten().numpy(),
            )
            for answer in self.network.propagate_in_video_iterator(self.session, **how)
        }


def scaled(frame: np.ndarray, name: str, size: int) -> torch.Tensor:
    """Resize by PIL, a second opinion: bilinear with antialias, then rounded to bytes."""
    channels = [Image.fromarray(frame[..., c].astype(np.float32)) for c in range(3)]
    small = [np.array(c.resize((size, size), Image.Resampling.BILINEAR)) for c in channels]
    values = torch.from_numpy(np.stack(small)).round() / 255
    mean, deviation = _CLASSES["sam3_video" if name.startswith("Sam3") else "sam2_video"][1]
    return (values - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[:, None, None]


def same(
    found: Iterable[tuple[int, Mapping[int, TrackedObject]]],
    stock: dict[int, tuple[np.ndarray, np.ndarray]],
    objects: Sequence[int] = (3, 5),
) -> None:
    answers = dict(found)
    assert list(answers) == list(stock)
    for frame, (logits, scores) in stock.items():
        assert list(answers[frame]) == list(objects)
        for index, key in enumerate(objects):
            found_here = answers[frame][key]
            assert found_here.logits.dtype == np.float32
            np.testing.assert_allclose(found_here.logits, logits[index], atol=1e-4)
            assert found_here.score == pytest.approx(scores[index], abs=1e-5)


def test_it_is_a_tracker(ours: Sam2Tracker) -> None:
    assert isinstance(ours, Tracker)


def test_pictures_are_scaled_as_pil_does(ours: Sam2Tracker) -> None:
    frame = clip(1)[0]
    expected = scaled(frame, type(ours._network).__name__, ours._size)
    off = (ours._pixels(frame) - expected).abs() * ours._deviation
    assert off.max() < 1.01 and (off > 0.01).float().mean() < 0.001  # of 255: halves go either way


# -- clicks ------------------------------------------------------------------------------


def test_clicks_and_boxes_equal_a_sessions(ours: Sam2Tracker) -> None:
    frames = clip(1)
    encoded = ours.encode(frames[0])
    stock = Stock(ours, frames)
    click, away = Mark.point(30.5, 20), Mark.point(50, 5.25, positive=False)
    box = Mark.box(5, 6, 70, 50)
    cases: list[tuple[list[Mark], dict[str, Any]]] = [
        ([click], {"input_points": [[[[30.5, 20]]]], "input_labels": [[[1]]]}),
        ([click, away], {"input_points": [[[[30.5, 20], [50, 5.25]]]], "input_labels": [[[1, 0]]]}),
        ([box], {"input_boxes": [[[5, 6, 70, 50]]]}),
        (
            [click, Mark.box(1, 1, 9, 9), away, box],  # the last box counts, and comes first
            {
                "input_points": [[[[30.5, 20], [50, 5.25]]]],
                "input_labels": [[[1, 0]]],
                "input_boxes": [[[5, 6, 70, 50]]],
            },
        ),
    ]
    answers = []
    for marks, inputs in cases:
        answers.append(ours.pick(encoded, marks))
        np.testing.assert_allclose(answers[-1], stock.add(0, [1], **inputs), atol=1e-4)
        stock.session.reset_tracking_data()
    assert all(answer.std() > 0.1 for answer in answers)
    assert len({answer.tobytes() for answer in answers}) == len(answers)


def test_an_earlier_answer_is_the_mask_prompt(ours: Sam2Tracker) -> None:
    stock = Stock(ours, clip(1))
    side = ours._network.prompt_encoder.mask_input_size[0]
    ours_here = ours.encode(np.zeros((side, side, 3), np.uint8))
    before = np.random.default_rng(0).normal(0, 9, (side, side)).astype(np.float32)
    before[0, 0] = -1024  # what a network says where it sees nothing; it learned to +-32
    point = {
        "point_coords": torch.tensor([[[[7.0, 9.0]]]]) * (ours._size / side),
        "point_labels": torch.tensor([[[1]]]),
    }
    stock.session.processed_frames = {0: ours._pixels(np.zeros((side, side, 3), np.uint8))}
    index = stock.session.obj_id_to_idx(1)
    expected = ours._network._run_single_frame_inference(
        inference_session=stock.session,
        frame_idx=0,
        obj_idx=index,
        batch_size=1,
        is_init_cond_frame=True,
        point_inputs=point,
        mask_inputs=None,
        reverse=False,
        prev_sam_mask_logits=torch.from_numpy(before).clamp(-32, 32)[None, None],
        **({"run_mem_encoder": False} if "EdgeTam" in type(ours._network).__name__ else {}),
    )
    found = ours.pick(ours_here, [Mark.point(7, 9)], before)
    np.testing.assert_allclose(found, expected["pred_masks"][0, 0].numpy(), atol=1e-4)
    assert not np.allclose(found, ours.pick(ours_here, [Mark.point(7, 9)]), atol=0.1)


def test_a_stroke_is_a_few_clicks_along_it(ours: Sam2Tracker) -> None:
    encoded = ours.encode(clip(1)[0])
    short = Mark.scribble([(30, 20), (31, 20), (32, 20)])
    np.testing.assert_array_equal(
        ours.pick(encoded, [short]), ours.pick(encoded, [Mark.point(31, 20)])
    )
    corner = Mark.scribble([(10, 10), (40, 10), (40, 30)], positive=False)
    clicks = [
        Mark.point(x, y, False) for x, y in [(15, 10), (25, 10), (35, 10), (40, 15), (40, 25)]
    ]
    np.testing.assert_allclose(
        ours.pick(encoded, [short, corner]),
        ours.pick(encoded, [Mark.point(31, 20), *clicks]),
        atol=1e-4,
    )


def test_without_a_mark_there_is_nothing_to_pick(ours: Sam2Tracker) -> None:
    with pytest.raises(InputError, match="set a mark"):
        ours.pick(ours.encode(clip(1)[0]), [])


# -- memory ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "start", "reverse"),
    [((0, 9), 0, False), ((25,), 25, True), ((3, 12, 20), 25, True), ((12,), 12, False)],
)
def test_long_ways_equal_a_session_that_forgets_nothing(
    ours: Sam2Tracker, keys: tuple[int, ...], start: int, reverse: bool
) -> None:
    frames = clip(26)
    stock = Stock(ours, frames).key(two(*keys)).propagate(start_frame_idx=start, reverse=reverse)
    order = range(start, -1, -1) if reverse else range(start, 26)
    asked: list[int] = []

    def read(index: int) -> np.ndarray:
        asked.append(index)
        return frames[index]

    same(ours.follow(read, two(*keys), order), stock)
    assert asked == [*keys, *(index for index in order if index not in keys)]
    moving = [logits.std() for frame, (logits, _) in stock.items() if frame not in keys]
    assert min(moving) > 0.1 and len(set(moving)) == len(moving)


@pytest.mark.parametrize("seed", [1, 2])
def test_other_weights_and_short_clips(seed: int) -> None:
    for family in FAMILIES:
        model = tracker(family, seed, presence=-seed)
        frames = clip(5, seed=seed)
        for reverse in (False, True):
            stock = Stock(model, frames).key(two(1, 4))
            order = [4, 3, 2, 1, 0] if reverse else [1, 2, 3, 4]
            expected = stock.propagate(start_frame_idx=order[0], reverse=reverse)
            same(model.follow(frames.__getitem__, two(1, 4), order, frame_count=5), expected)


def test_objects_with_keys_of_their_own_do_not_meet(ours: Sam2Tracker) -> None:
    frames = clip(9)
    keys = {0: {3: disc(0)}, 2: {5: disc(2, shift=25)}, 6: {3: disc(6), 8: np.zeros_like(disc(0))}}
    found = dict(ours.follow(frames.__getitem__, keys, range(9), frame_count=9))
    if ours.name == "edgetam":  # whose session cannot have keys of some objects on a frame
        for key in (3, 5, 8):
            alone = {f: {key: masks[key]} for f, masks in keys.items() if key in masks}
            stock = Stock(ours, frames).key(alone).propagate(start_frame_idx=0)
            same(((f, {key: objects[key]}) for f, objects in found.items()), stock, [key])
    else:
        stock = Stock(ours, frames).key(keys).propagate(start_frame_idx=0)
        same(found.items(), stock, [3, 5, 8])
    assert found[6][8].score < 0.01 and not found[6][8].mask.any()
    assert (found[6][3].mask == disc(6)).mean() > 0.97  # as the network renders the key


def test_not_there_is_an_answer() -> None:
    model = tracker("sam2", presence=-3)
    frames = clip(3)
    found = dict(model.follow(frames.__getitem__, two(0), range(3)))
    assert found[2][3].score < 0.5 and not found[2][3].mask.any()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_models_own_limit_of_key_frames(family: str) -> None:
    model = tracker(family, max_cond_frame_num=2)
    frames = clip(12)
    keys = two(0, 2, 4, 9, 11)
    stock = Stock(model, frames).key(keys).propagate(start_frame_idx=0)
    same(model.follow(frames.__getitem__, keys, range(12)), stock)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_stopped_run_goes_on_as_if_it_had_not(ours: Sam2Tracker, reverse: bool) -> None:
    frames = clip(24)
    keys = two(1, 22)
    start = 22 if reverse else 1
    stock = Stock(ours, frames).key(keys).propagate(start_frame_idx=start, reverse=reverse)
    memory, cancel = Memory(), CancelToken()
    answers: dict[int, Any] = {}
    for frame, objects in ours.follow(
        frames.__getitem__, keys, list(stock), memory=memory, cancel=cancel
    ):
        answers[frame] = objects
        if len(answers) == 9:
            break
    rest = list(stock)[9:]
    cancel.cancel()
    with pytest.raises(Cancelled):
        next(ours.follow(frames.__getitem__, keys, rest, memory=memory, cancel=cancel))
    memory.about = {"done": "9"}
    again = ours.recall(memory.to_bytes())  # as another process would
    assert again.about == memory.about and memory.copy().frames == memory.frames
    answers |= ours.follow(frames.__getitem__, keys, rest, memory=again)
    for frame, objects in ours.follow(frames.__getitem__, keys, rest[:2], memory=memory):
        for key in (3, 5):  # to the bit
            np.testing.assert_array_equal(objects[key].logits, answers[frame][key].logits)
    same(answers.items(), stock)
    without = dict(ours.follow(frames.__getitem__, keys, rest[:2]))
    assert abs(without[rest[0]][3].logits - answers[rest[0]][3].logits).max() > 1e-3


def _packed(tensors: Mapping[str, torch.Tensor], **about: str) -> bytes:
    return save(dict(tensors), {"crc32": sam2_memory._checksum(tensors, about), **about})


def test_a_file_that_is_no_memory_of_this_network_is_refused(ours: Sam2Tracker) -> None:
    frames = clip(4)
    memory = Memory(about={"done": "3"})
    list(ours.follow(frames.__getitem__, two(0), range(4), memory=memory))
    data = memory.to_bytes()
    tensors = load(data)
    assert len(tensors) == 12 and ours.recall(_packed(tensors, done="3")).about == memory.about
    pointer, features = tensors["3/2/object_pointer"], tensors["3/2/maskmem_features"]
    half = bytearray(data)
    half[-5] ^= 1
    other = bytearray(data)
    other[data.index(b'"done":"3"') + 8] = ord("4")
    foreign: list[bytes | dict[str, torch.Tensor]] = [
        b"x",
        data[:-1],
        data + b"\0",
        bytes(half),
        bytes(other),
        save(tensors),  # without its checksum
        {"3/2/object_pointer": pointer[:, :-1].clone()},
        {"3/2/object_pointer": pointer.double()},
        {"3/2/object_pointer": pointer * float("nan")},
        {"3/2/object_pointer": torch.where(pointer == pointer.max(), torch.inf, pointer)},
        {"3/2/maskmem_features": features},  # without a pointer
        {"3/2/object_pointer": pointer, "3/2/maskmem_features": features[1:].clone()},
        {"3/2/maskmem_pos_enc": features},
        {"3/-2/object_pointer": pointer},
        {"3/2/object_pointer": torch.tensor(1.0)},
    ]
    for content in foreign:
        content = content if isinstance(content, bytes) else _packed(content)
        with pytest.raises(InputError, match="no memory of this tracker, or damaged"):
            ours.recall(content)


def test_a_memory_that_lacks_what_is_asked_for_does_without(ours: Sam2Tracker) -> None:
    frames = clip(12)
    memory = Memory()
    list(ours.follow(frames.__getitem__, two(0), range(10), memory=memory))
    assert "maskmem_features" not in memory.frames[3][1]
    back = dict(ours.follow(frames.__getitem__, two(0), [2], memory=memory))
    assert back.keys() == {2}


def test_a_correction_replaces_what_was_remembered(ours: Sam2Tracker) -> None:
    frames = clip(8)
    memory = Memory()
    list(ours.follow(frames.__getitem__, two(0), range(6), memory=memory))
    corrected = two(0) | {4: {3: disc(4, shift=9)}}
    found = dict(ours.follow(frames.__getitem__, corrected, [6], memory=memory))
    assert 4 not in memory.frames[3] and 4 in memory.frames[5]
    other = dict(ours.follow(frames.__getitem__, two(0), [6], memory=memory))
    assert abs(found[6][3].logits - other[6][3].logits).max() > 1e-3


@pytest.mark.parametrize(
    ("key", "order", "reverse"),
    [(5, [0, 1, 2], False), (1, [5, 4, 3], True), (5, [2], True), (1, [4], False)],
)
def test_the_way_is_that_of_the_frames_whichever_side_the_key_lies_on(
    key: int, order: list[int], reverse: bool
) -> None:
    model, frames = tracker("sam2"), clip(7)
    stock = Stock(model, frames).key(two(key)).propagate(start_frame_idx=order[0], reverse=reverse)
    found = model.follow(frames.__getitem__, two(key), order, frame_count=7)
    same(found, {frame: stock[frame] for frame in order})


@pytest.mark.parametrize("backwards", [False, True])
def test_what_comes_again_is_not_remembered(backwards: bool) -> None:
    """A frame that is followed a second time does not look at its own first answer."""
    ours, frames, key = tracker("sam2"), clip(8), 7 if backwards else 0
    order = list(range(7, -1, -1) if backwards else range(8))
    memory, before = Memory(), None
    for frame, _ in ours.follow(frames.__getitem__, two(key), order[:6], memory=memory):
        if frame == order[4]:
            before = memory.copy()
    assert before is not None
    again = dict(ours.follow(frames.__getitem__, two(key), order[5:7], memory=memory))
    once = dict(ours.follow(frames.__getitem__, two(key), order[5:7], memory=before))
    for frame in order[5:7]:
        for name in (3, 5):
            np.testing.assert_array_equal(again[frame][name].logits, once[frame][name].logits)


def test_memory_does_not_grow(ours: Sam2Tracker) -> None:
    frames = clip(40)
    memory, sizes = Memory(), []
    for _ in ours.follow(frames.__getitem__, two(0, 30), range(40), memory=memory):
        kept = memory.frames[5]
        full = [frame for frame, output in kept.items() if "maskmem_features" in output]
        assert len(full) <= ours._network.config.num_maskmem - 1
        tensors = [value for output in kept.values() for value in output.values()]
        sizes.append((len(kept), sum(value.nbytes for value in tensors)))
    assert max(count for count, _ in sizes) == 15
    assert max(size for _, size in sizes[30:]) <= max(size for _, size in sizes[:30])


# -- stops and faults ----------------------------------------------------------------------


def test_a_cancel_stops_within_the_frame(ours: Sam2Tracker) -> None:
    frames = clip(4)
    cancel, memory = CancelToken(), Memory()
    asked: list[int] = []

    def read(index: int) -> np.ndarray:
        asked.append(index)
        if index == 2:
            cancel.cancel()
        return frames[index]

    run = ours.follow(read, two(0), range(4), memory=memory, cancel=cancel)
    assert [next(run)[0], next(run)[0]] == [0, 1]
    computed: list[object] = []
    hook = ours._network.mask_decoder.register_forward_hook(lambda *_: computed.append(_))
    with pytest.raises(Cancelled):
        next(run)
    hook.remove()
    assert asked == [0, 1, 2] and not computed and list(memory.frames[3]) == [1]
    assert not any(block._forward_pre_hooks for block in ours._blocks)


def test_a_full_device_is_one_line(ours: Sam2Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 TiB")

    frames = clip(3)
    encoded = ours.encode(frames[0])
    monkeypatch.setattr(ours._network.mask_decoder, "forward", full)
    for work in (
        lambda: ours.pick(encoded, [Mark.point(1, 1)]),
        lambda: list(ours.follow(frames.__getitem__, two(0), range(3))),
    ):
        with pytest.raises(DeviceMemoryError) as caught:
            work()
        assert "\n" not in str(caught.value) and "smaller model" in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "frames", "text"),
    [
        ({}, [0], "draw the object"),
        ({0: {}}, [0], "draw the object"),
        ({0: {1: disc(0)}, 2: {1: disc(0, 40, 50)}}, [0, 1], "differ in size"),
        ({0: {1: disc(0)}}, [0, 2, 1], "one direction"),
        ({0: {1: disc(0)}}, [1, 1], "each once"),
        ({0: {1: disc(0)}}, [-1, 0], "from 0 on"),
    ],
)
def test_what_cannot_be_followed_is_told(keys: Any, frames: list[int], text: str) -> None:
    with pytest.raises(InputError, match=text):
        next(tracker("sam2").follow(clip(3).__getitem__, keys, frames))


def test_no_frames_give_no_answers(ours: Sam2Tracker) -> None:
    assert list(ours.follow(clip(3).__getitem__, two(0), [])) == []


@pytest.mark.parametrize(
    ("points", "step", "clicks"),
    [
        ([(3, 4)], 5, [(3, 4)]),
        ([(0, 0), (4, 0)], 5, [(2, 0)]),
        ([(0, 0), (5, 0)], 5, [(1.25, 0), (3.75, 0)]),
        ([(0, 0), (9.9, 0)], 5, [(2.475, 0), (7.425, 0)]),
        ([(0, 0), (10, 0)], 5, [(10 / 6, 0), (5, 0), (50 / 6, 0)]),
        ([(0, 0), (0, 20), (20, 20)], 8, [(0, 4), (0, 12), (0, 20), (8, 20), (16, 20)]),
        ([(0, 0), (100, 0)], 1, [(10, 0), (30, 0), (50, 0), (70, 0), (90, 0)]),
    ],
)
def test_clicks_along_a_stroke(
    points: list[tuple[float, float]], step: float, clicks: list[tuple[float, float]]
) -> None:
    assert _along(points, step) == [pytest.approx(click) for click in clicks]


@pytest.mark.parametrize(
    ("frames", "good"),
    [
        ([], True),
        ([4], True),
        ([0, 1, 5], True),
        ([5, 3, 0], True),
        ([0, 2, 1], False),
        ([3, 3], False),
        ([-1, 0], False),
        ([1, 2, 2], False),
    ],
)
def test_orders_in_which_frames_are_followed(frames: list[int], good: bool) -> None:
    if good:
        _check_order(frames)
        return
    with pytest.raises(InputError) as caught:
        _check_order(frames)
    assert str(caught.value) == "Frames are followed in one direction, each once, from 0 on."
