"""SAM 3 by noun phrase, with a tiny network of random weights."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Sam3VideoConfig, Sam3VideoInferenceSession, Sam3VideoModel

from flowrvs.errors import Cancelled, CheckpointError, MissingPathError
from flowrvs.models.networks import scaled_picture
from flowrvs.models.sam3 import Sam3Segmenter, load_segmenter
from flowrvs.progress import CancelToken
from flowrvs.protocols import InstanceSegmenter
from tests.fixtures.sam_models import clip, save_model

SIZE, HIDDEN = 112, 128


def sam3(seed: int = 0, **changes: Any) -> Sam3VideoModel:
    """Make the stock network, tiny; thresholds are such that it finds some things."""
    vision = {
        "model_type": "sam3_vision_model",
        "backbone_config": {
            "model_type": "sam3_vit_model",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "window_size": 4,
            "global_attn_indexes": [1],
            "image_size": SIZE,
            "pretrain_image_size": 56,
            "patch_size": 14,
        },
        "fpn_hidden_size": HIDDEN,
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
    }
    small = {"hidden_size": HIDDEN, "num_layers": 1, "num_attention_heads": 2}
    small["intermediate_size"] = 32
    detector = {
        "model_type": "sam3",
        "vision_config": vision,
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": 99,
            "hidden_size": 32,
            "intermediate_size": 32,
            "projection_dim": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 32,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        "geometry_encoder_config": small,
        "detr_encoder_config": small,
        "detr_decoder_config": small | {"num_queries": 6},
        "mask_decoder_config": {"hidden_size": HIDDEN, "num_attention_heads": 2},
    }
    tracker = {
        "model_type": "sam3_tracker_video",
        "vision_config": vision,
        "prompt_encoder_config": {"hidden_size": HIDDEN, "image_size": SIZE, "patch_size": 14},
        "mask_decoder_config": {
            "hidden_size": HIDDEN,
            "mlp_dim": 32,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 32,
        },
        "image_size": SIZE,
        "memory_attention_hidden_size": HIDDEN,
        "memory_attention_num_layers": 1,
        "memory_attention_feed_forward_hidden_size": 32,
        "memory_encoder_hidden_size": HIDDEN,
        "memory_encoder_output_channels": 64,
        "mask_downsampler_embed_dim": HIDDEN,
        "memory_fuser_embed_dim": HIDDEN,
        "memory_fuser_intermediate_dim": 32,
    }
    settings = {
        "low_res_mask_size": 32,
        "score_threshold_detection": 0.05,
        "new_det_thresh": 0.1,
        "hotstart_delay": 3,
        "hotstart_unmatch_thresh": 2,
        "hotstart_dup_thresh": 2,
        "recondition_every_nth_frame": 4,
    }
    config = Sam3VideoConfig(detector_config=detector, tracker_config=tracker, **settings | changes)
    torch.manual_seed(seed)
    model = Sam3VideoModel(config).eval().requires_grad_(False)
    draws = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        noise = torch.randn(value.shape, generator=draws)
        if value.ndim < 2 and "norm" in name and name.endswith("weight"):
            value.copy_(1 + 0.3 * noise)
        elif value.ndim >= 2 and "embed" not in name and "token" not in name:
            value.copy_(noise / value[0].numel() ** 0.5)
        else:
            value.copy_(0.3 * noise)
    return model


def tokens(text: str, **how: Any) -> dict[str, torch.Tensor]:
    """Number words by their letters, padded as a tokenizer does."""
    assert how["padding"] == "max_length" and how["truncation"]
    known = [1 + sum(map(ord, word)) % 90 for word in text.split()][: how["max_length"]]
    ids = torch.zeros(1, how["max_length"], dtype=torch.long)
    ids[0, : len(known)] = torch.tensor(known)
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


FRAMES = clip(14)


def stock_answers(model: Sam3VideoModel, text: str) -> list[dict[int, np.ndarray]]:
    """Return what the stock iterator makes of the frames, and the stock processor of that.

    The processor cannot be imported without torchvision; this is its `postprocess_outputs`.
    """
    half = torch.full((3, 1, 1), 127.5)
    video = torch.stack([scaled_picture(frame, SIZE, half, half) for frame in FRAMES])
    session = Sam3VideoInferenceSession(
        video=video, video_height=60, video_width=90, dtype=torch.float32
    )
    prompt = session.add_prompt(text)
    known = tokens(text, padding="max_length", truncation=True, max_length=32)
    session.prompt_input_ids[prompt] = known["input_ids"]
    session.prompt_attention_masks[prompt] = known["attention_mask"]
    found = []
    for out in model.propagate_in_video_iterator(session):
        hidden = set(out.suppressed_obj_ids) | session.hotstart_removed_obj_ids
        masks = {}
        for i in sorted(set(out.obj_id_to_mask) - hidden):
            low = out.obj_id_to_mask[i][:, None]
            large = torch.nn.functional.interpolate(low, (60, 90), mode="bilinear")
            if (large > 0).any():
                masks[i] = (large[0, 0] > 0).numpy()
        sure = {i: out.obj_id_to_tracker_score.get(i, 0.0) for i in masks}
        taken = np.zeros((60, 90), bool)  # by those of which the tracker is surer
        shown = {}
        for i in sorted(masks, key=lambda i: (-sure[i], i)):
            shown[i] = masks[i] & ~taken
            taken |= masks[i]
        found.append({i: mask for i, mask in shown.items() if mask.any()})
    return found


@pytest.mark.parametrize(
    ("seed", "changes"),
    [
        (0, {}),
        (1, {"hotstart_delay": 0}),
        (2, {"hotstart_delay": 0, "recondition_every_nth_frame": 3, "high_iou_thresh": 0.0}),
        (3, {"hotstart_delay": 5, "hotstart_unmatch_thresh": 5, "hotstart_dup_thresh": 5}),
    ],
)
def test_instances_are_those_of_the_stock_processor(seed: int, changes: dict) -> None:
    model = sam3(seed, **changes)
    segmenter = Sam3Segmenter(model, tokens)
    assert isinstance(segmenter, InstanceSegmenter)
    asked: list[int] = []

    def read(t: int) -> np.ndarray:
        asked.append(t)
        return FRAMES[t]

    ours = list(segmenter.find_instances(read, "the disc", range(14)))
    assert [t for t, _ in ours] == list(range(14))
    wanted = stock_answers(model, "the disc")
    assert sum(len(found) for found in wanted) > 0  # there is something to compare
    for (_, found), masks in zip(ours, wanted, strict=True):
        assert set(found) == set(masks)
        for i, mask in masks.items():
            np.testing.assert_array_equal(found[i].logits > 0, mask)
            assert found[i].logits.dtype == np.float32 and 0.5 <= found[i].score <= 1


def test_memory_does_not_grow_with_the_video() -> None:
    segmenter = Sam3Segmenter(sam3(1, hotstart_delay=0), tokens)
    segmenter._network.config.tracker_config.max_object_pointers_in_encoder = 3
    sessions: list[Any] = []
    longest = 0
    make = segmenter._session
    segmenter._session = lambda *a: sessions.append(make(*a)) or sessions[-1]  # type: ignore
    for t, _ in segmenter.find_instances(lambda t: FRAMES[t % 14], "the disc", range(14)):
        (session,) = sessions
        for outputs in session.output_dict_per_obj.values():
            longest = max(longest, len(outputs["non_cond_frame_outputs"]))
        if t < 13:
            continue
        assert longest == 6, "until it has reached so far back, it keeps all"
        assert session.output_dict_per_obj
        for outputs in session.output_dict_per_obj.values():
            assert len(outputs["non_cond_frame_outputs"]) <= 6  # and the frame to come
        assert len(session.obj_id_to_tracker_score_frame_wise) <= 2
        assert len(session.suppressed_obj_ids) <= 2
        assert all(len(known) <= 1 for known in session.mask_inputs_per_obj.values())


def test_one_mask_a_sentence_is_the_union() -> None:
    model = sam3(1, hotstart_delay=0)
    segmenter = Sam3Segmenter(model, tokens)
    pieces = list(segmenter.segment_window(FRAMES[:5], ["the disc", "a cat"]))
    assert [piece.shape for piece in pieces] == [(1, 60, 90)] * 10
    for (_, found), piece in zip(
        segmenter.find_instances(FRAMES.__getitem__, "the disc", range(5)), pieces[:5], strict=True
    ):
        union = np.zeros((60, 90), bool)
        for instance in found.values():
            union |= instance.mask
        np.testing.assert_array_equal(piece[0] > 0, union)


def test_it_stops_between_frames() -> None:
    token = CancelToken()
    segmenter = Sam3Segmenter(sam3(hotstart_delay=0), tokens)
    answers = segmenter.find_instances(FRAMES.__getitem__, "a disc", range(14), cancel=token)
    next(answers)
    token.cancel()
    with pytest.raises(Cancelled):
        next(answers)


def test_it_stops_between_answers_that_are_late() -> None:
    token = CancelToken()
    segmenter = Sam3Segmenter(sam3(hotstart_delay=3), tokens)
    answers = segmenter.find_instances(FRAMES.__getitem__, "a disc", range(3), cancel=token)
    assert next(answers)[0] == 0
    token.cancel()  # all frames have been looked at by now
    with pytest.raises(Cancelled):
        next(answers)


def test_duplicates_and_parts_as_the_kernels_do() -> None:
    from flowrvs.models.sam3 import _Kernels

    ious = torch.tensor([[1, 0.6, 0], [0.6, 1, 0.2], [0, 0.2, 1]])
    kept = _Kernels.generic_nms(ious, torch.tensor([0.5, 0.9, 0.7]), 0.5, use_iou_matrix=True)
    assert kept.tolist() == [1, 2]
    kept = _Kernels.generic_nms(ious, torch.tensor([0.5, 0.9, 0.7]), 0.6)
    assert kept.tolist() == [1, 2, 0], "as much as the threshold is not more"
    assert kept.dtype == torch.long
    kept = _Kernels.generic_nms(ious, torch.tensor([0.9, 0.5, 0.7]), 0.1)
    assert kept.tolist() == [0, 2], "those in the order of their scores"
    mask = torch.zeros(2, 1, 6, 8, dtype=torch.uint8)
    mask[0, 0, 1:3, 1:4] = 1
    mask[0, 0, 3, 4] = 1  # joined by a corner
    mask[0, 0, 5, 7] = 1
    labels, counts = _Kernels.cc_2d(mask)
    assert counts[0, 0, 1, 1] == 7 and counts[0, 0, 5, 7] == 1 and counts[0, 0, 0, 0] == 0
    assert labels[0].max() == 2 and labels[1].max() == 0


def test_a_folder_as_the_hub_has_it(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    model = sam3(1, hotstart_delay=0)
    model.save_pretrained(tmp_path / "sam3")
    with pytest.raises(CheckpointError, match="lacks tokenizer.json"):
        load_segmenter(tmp_path / "sam3", device="cpu")  # no words
    words = {"[PAD]": 0, "[UNK]": 3, "the": 5, "disc": 6}
    plain = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    plain.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(tmp_path / "sam3")
    segmenter = load_segmenter(tmp_path / "sam3", device="cpu")
    assert segmenter.name == f"sam3@{segmenter.weights[:8]}"
    assert len(list(segmenter.find_instances(FRAMES.__getitem__, "the disc", range(3)))) == 3


def test_what_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWRVS_HOME", str(tmp_path))
    with pytest.raises(MissingPathError, match="flowrvs models fetch sam3-tracker"):
        load_segmenter("sam3")
    save_model("sam3-tracker", tmp_path / "alone")
    with pytest.raises(CheckpointError, match="lacks SAM 3's detector"):
        load_segmenter(tmp_path / "alone")


def test_a_step_is_told_of_for_every_sentence() -> None:
    segmenter = Sam3Segmenter(sam3(1, hotstart_delay=0), tokens)
    told: list[int] = []
    pieces = segmenter.segment_window(FRAMES[:2], ["a", "b"], on_step=lambda: told.append(1))
    assert [len(told) for _ in pieces] == [0, 0, 1, 1] and len(told) == 2


def test_scores_are_between_a_half_and_one() -> None:
    """What is there is seen, however unsure the network is of it."""
    segmenter = Sam3Segmenter(sam3(1, hotstart_delay=0), tokens)
    low = torch.full((1, 4, 4), -5.0)
    low[0, :2] = 5

    def found(score: float, **more: Any) -> Any:
        out = {
            "suppressed_obj_ids": None,
            "obj_id_to_mask": {4: low, 2: -low},
            "obj_id_to_tracker_score": {4: 0.9},
            "obj_id_to_score": {4: score, 2: 0.7},
        }
        session = SimpleNamespace(hotstart_removed_obj_ids=more.pop("removed", set()))
        return segmenter._found(session, 7, SimpleNamespace(**out | more), (8, 8))

    frame, both = found(0.2)
    assert frame == 7 and list(both) == [2, 4]
    assert (both[4].score, both[2].score) == (0.5, pytest.approx(0.7))
    assert found(1.5)[1][4].score == 1.0 and found(0.8)[1][4].score == pytest.approx(0.8)
    assert list(found(0.8, removed={4})[1]) == [2]
    assert list(found(0.8, suppressed_obj_ids={2})[1]) == [4]
    assert found(0.8, removed={4}, suppressed_obj_ids={2}) == (7, {})
    # Where both claim a pixel it is that one's of which the tracker is surer.
    same = found(0.8, obj_id_to_mask={4: low, 2: low})[1]
    assert list(same) == [4] and (same[4].logits > 0).sum() == 32
    other = found(0.8, obj_id_to_mask={4: low, 2: low + 1}, obj_id_to_tracker_score={})[1]
    assert list(other) == [2], "of equals the first"
