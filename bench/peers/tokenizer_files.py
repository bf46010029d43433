"""Makes up a byte-level BPE tokenizer of any size whose tokens are all plain letters.

Every engine streams such tokens one by one: none is half a character, and none is a word that a
server might take for the end of an answer.
"""

from __future__ import annotations

import itertools
import json
import string
from pathlib import Path
from typing import Any

__all__ = ["FIRST_WORD", "bpe", "byte_letters", "write_tokenizer"]

FIRST_WORD = 256
"""Tokens below are single bytes; prompts draw their tokens from here on."""


def byte_letters() -> list[str]:
    """The printable character that stands for each byte in GPT-2's byte-level BPE."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = itertools.count(256)
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def bpe(size: int, special: frozenset[int]) -> tuple[list[str], list[str]]:
    """Tokens in order of their ids, and merges; `special` ids are named, the others spelt.

    Raises ValueError for a size that words of four letters do not fill.
    """
    letters = string.ascii_lowercase
    words = (
        "".join(each) for count in (2, 3, 4) for each in itertools.product(letters, repeat=count)
    )
    tokens, merges = byte_letters(), []
    while len(tokens) < size:
        if len(tokens) in special:
            tokens.append(f"<|special{len(tokens)}|>")
            continue
        word = next(words, None)
        if word is None:
            raise ValueError(f"a vocabulary of {size} is larger than can be made up")
        tokens.append(word)
        merges.append(f"{word[:-1]} {word[-1]}")
    return tokens, merges


def write_tokenizer(directory: Path, config: dict[str, Any]) -> None:
    """Write tokenizer.json and tokenizer_config.json for a model's config."""
    bos, eos = config["bos_token_id"], config["eos_token_id"]
    tokens, merges = bpe(config["vocab_size"], frozenset((bos, eos)))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": each, "content": tokens[each], **flags, "special": True} for each in (bos, eos)
        ],
        "normalizer": None,
        "pre_tokenizer": {**level, "use_regex": True},
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": merges,
        },
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[bos],
        "eos_token": tokens[eos],
        "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"],
    }
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
