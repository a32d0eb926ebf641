"""Sentences to embeddings: cleaning, tokens, and the zeroed padding of Wan."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence

import torch
from transformers import T5TokenizerFast, UMT5EncoderModel

__all__ = ["add_words", "build_word_tokenizer", "clean_prompt", "embed_tokens", "tokenize"]

# The separators U+001C to U+001F are no white space to the published code.
_BLANKS = re.compile(r"[^\S\x1c-\x1f]+")


def clean_prompt(text: str) -> str:
    r"""Clean a sentence as the model was trained on it.

    White space is collapsed, then HTML entities are unescaped once, then ``"`` and ``\``
    dropped, in this order: what an entity or a dropped mark leaves behind stays, as in the
    published code (FlowRVS inference, step "prompt").
    """
    text = html.unescape(_BLANKS.sub(" ", text).strip())
    return re.sub(r'["\\]+', "", text)


def tokenize(
    tokenizer: T5TokenizerFast, texts: Sequence[str], length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and mask of sentences, int64, shape (B, length) each.

    Clean them first, once: `clean_prompt` may change a sentence again the second time.
    """
    batch = tokenizer(
        list(texts),
        padding="max_length",
        max_length=length,
        truncation=True,
        add_special_tokens=True,
        return_attention_mask=True,
        return_tensors="pt",
    )
    return batch.input_ids, batch.attention_mask


def embed_tokens(
    encoder: UMT5EncoderModel, tokens: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Embeddings of tokens, zero after each sentence's true length.

    Returns
    -------
    Tensor, shape (B, length, d_model)
    """
    hidden = encoder(tokens, attention_mask=mask).last_hidden_state
    return hidden * mask.unsqueeze(-1).to(hidden.dtype)


def build_word_tokenizer(words: Sequence[str]) -> T5TokenizerFast:
    """A small T5 tokenizer: whole words, and letters for everything else.

    Parameters
    ----------
    words : sequence of str
        Lower-case words that become one token each.
    """
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'-"
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -6.0)]
    vocabulary += [("\u2581" + word, -2.0) for word in words]
    vocabulary += [(letter, -8.0) for letter in letters]
    return T5TokenizerFast(vocab=vocabulary, extra_ids=0)


def add_words(
    tokenizer: T5TokenizerFast, texts: Sequence[str], most: int = 1000
) -> tuple[T5TokenizerFast, list[str]]:
    """Give words that a tokenizer spells by letters, or does not know, a token of their own.

    Parameters
    ----------
    tokenizer : T5TokenizerFast
        Of `build_word_tokenizer`.
    texts : sequence of str
        Cleaned sentences in which the words are.
    most : int
        Words at most; the most frequent ones.

    Returns
    -------
    T5TokenizerFast
        Its tokens keep their numbers; the new ones follow after them.
    list of str
        The new words, in the order of their tokens.
    """
    counts: dict[str, int] = {}
    for text in texts:
        for word in text.split():
            counts[word] = counts.get(word, 0) + 1
    known = tokenizer.get_vocab()
    new = [word for word in counts if "\u2581" + word not in known]
    new = sorted(sorted(new), key=lambda word: -counts[word])[:most]
    if not new:
        return tokenizer, []
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    vocabulary = [(token, score) for token, score in model["vocab"]]
    vocabulary += [("\u2581" + word, -2.0) for word in new]
    return T5TokenizerFast(vocab=vocabulary, extra_ids=0), new
