"""Sentences to tokens and embeddings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import T5TokenizerFast

from flowrvs.data.synthetic import vocabulary
from flowrvs.models.presets import PRESETS, build_text_encoder
from flowrvs.models.text import build_word_tokenizer, clean_prompt, embed_tokens, tokenize


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  the   red\tcircle\n", "the red circle"),
        ("the &quot;red&quot; &amp;amp; blue", "the red &amp; blue"),
        ('a "quoted" back\\slash', "a quoted backslash"),
        ('one " two', "one  two"),
        ("&nbsp;a&nbsp;&nbsp;b&#10;", "\xa0a\xa0\xa0b\n"),
        ("&amp;lt;b&amp;gt;", "&lt;b&gt;"),
        ("a\x1cb\u3000\x85c", "a\x1cb c"),
    ],
)
def test_cleaning(raw: str, clean: str) -> None:
    assert clean_prompt(raw) == clean


def test_words_are_one_token_and_survive_saving(tmp_path: Path) -> None:
    tokenizer = build_word_tokenizer(vocabulary())
    words = vocabulary()
    ids = tokenizer(" ".join(words)).input_ids
    assert len(ids) == len(words) + 1
    assert tokenizer.unk_token_id not in ids
    tokenizer.save_pretrained(tmp_path)
    again = T5TokenizerFast.from_pretrained(tmp_path)
    assert again("the blue cross zigzag").input_ids == tokenizer("the blue cross zigzag").input_ids


def test_embeddings_are_zero_after_the_sentence() -> None:
    tokenizer = build_word_tokenizer(vocabulary())
    encoder = build_text_encoder(PRESETS["micro"], len(tokenizer)).eval()
    tokens, mask = tokenize(tokenizer, ["the red circle", "all the small blue squares"], 12)
    with torch.no_grad():
        embedded = embed_tokens(encoder, tokens, mask)
    assert embedded.shape == (2, 12, 16)
    for row, length in zip(embedded, mask.sum(1), strict=True):
        assert row[:length].abs().sum(1).min() > 0
        assert row[length:].abs().max() == 0
