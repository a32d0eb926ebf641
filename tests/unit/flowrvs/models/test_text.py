"""Sentences to tokens and embeddings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import T5TokenizerFast

from flowrvs.data.synthetic import vocabulary
from flowrvs.models.presets import PRESETS, build_text_encoder
from flowrvs.models.text import (
    add_words,
    build_word_tokenizer,
    clean_prompt,
    embed_tokens,
    tokenize,
)


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


def test_words_that_are_new_get_tokens_behind_the_others() -> None:
    tokenizer = build_word_tokenizer(["red", "cat"])
    texts = ["a red zebra", "the zebra and the ox", "the cat"]
    more, new = add_words(tokenizer, texts)
    # By how often they come, then by the alphabet.
    assert new == ["the", "zebra", "a", "and", "ox"]
    before, after = tokenizer.get_vocab(), more.get_vocab()
    assert all(after[token] == number for token, number in before.items())
    numbers = [after["\u2581" + word] for word in new]
    assert numbers == list(range(len(before), len(before) + 5))
    assert more("the red ox").input_ids == [
        after["\u2581the"], after["\u2581red"], after["\u2581ox"], after["</s>"]
    ]  # fmt: skip
    assert add_words(tokenizer, texts, most=2)[1] == ["the", "zebra"]
    same, none = add_words(tokenizer, ["red cat"])
    assert same is tokenizer and none == []


def test_sentences_are_cut_at_their_length_and_end_with_a_mark() -> None:
    tokenizer = build_word_tokenizer(["red", "cat"])
    end, pad = tokenizer.get_vocab()["</s>"], tokenizer.get_vocab()["<pad>"]
    red, cat = (tokenizer.get_vocab()["\u2581" + word] for word in ("red", "cat"))
    tokens, mask = tokenize(tokenizer, ["red cat", "red", "red cat red cat red"], 4)
    assert tokens.tolist() == [[red, cat, end, pad], [red, end, pad, pad], [red, cat, red, end]]
    assert mask.tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
