"""Mistral's tekken.json: ranks behind special tokens, which older files do not name."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from quire.errors import CheckpointError
from quire.text.chat_template import load_chat_template
from quire.text.tokenizer import load_tokenizer

HAO = "好".encode()
WORDS = (
    *(b"he", b"ll", b"hell", b"hello", b" w", b" wo", b" wor", b" worl", b" world"),
    *(HAO[:2], HAO, b"un"),
)
TOKENS = [*(bytes([byte]) for byte in range(256)), *WORDS]
PATTERN = r" ?\p{L}+| ?[^\s\p{L}]+|\s+"
SPECIALS = 24


def write(directory: Path, **changes: Any) -> Path:
    """A small file of version 7, with changes to its settings; None leaves one out."""
    own = ("special_tokens", "vocab")
    settings = {
        "pattern": PATTERN,
        "num_vocab_tokens": len(TOKENS),
        "default_vocab_size": SPECIALS + len(TOKENS) - 1,  # the last is one too many
        "default_num_special_tokens": SPECIALS,
        "version": "v7",
        **{key: value for key, value in changes.items() if key not in own},
    }
    content: dict[str, Any] = {
        "config": {key: value for key, value in settings.items() if value is not None},
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
            for rank, token in enumerate(TOKENS)
        ],
        **{key: value for key, value in changes.items() if key in own},
    }
    (directory / "tekken.json").write_text(json.dumps(content))
    return directory


def ids(*tokens: bytes) -> list[int]:
    return [SPECIALS + TOKENS.index(token) for token in tokens]


def test_ranks_stand_behind_the_special_tokens(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write(tmp_path))
    assert tokenizer.vocab_size == SPECIALS + len(TOKENS) - 1
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    text = "hello world 好 hel"
    found = [b"hello", b" world", b" ", HAO, b" ", b"he", b"l"]
    assert tokenizer.encode(text) == [1, *ids(*found)]
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("un", add_special_tokens=False) == ids(b"u", b"n")


def test_special_tokens_have_names_or_numbers(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write(tmp_path))
    text = "[INST]hello[/INST]<SPECIAL_23>"
    assert tokenizer.encode(text) == [1, 3, *ids(b"hello"), 4, 23]
    assert tokenizer.decode(tokenizer.encode(text)) == "hello"
    named = [{"rank": 0, "token_str": "<unk>"}, {"rank": 5, "token_str": "[ARGS]"}]
    tokenizer = load_tokenizer(write(tmp_path, special_tokens=named))
    assert tokenizer.encode("[ARGS][INST]", add_special_tokens=False)[0] == 5
    assert tokenizer.token_text(3) == "<SPECIAL_3>"


def test_a_chat_of_version_seven(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write(tmp_path))
    chat = [("system", "s"), ("user", "u"), ("assistant", "a"), ("user", "v")]
    messages = [{"role": role, "content": text} for role, text in chat]
    assert load_chat_template(tokenizer).render(messages) == (
        "<s>[SYSTEM_PROMPT]s[/SYSTEM_PROMPT][INST]u[/INST]a</s>[INST]v[/INST]"
    )
    assert load_tokenizer(write(tmp_path, version="v3")).chat_template is None


@pytest.mark.parametrize(
    "changes",
    [
        {"pattern": None},
        {"default_vocab_size": "many"},
        {"default_vocab_size": SPECIALS + 255},
        {"vocab": [{"rank": 0}]},
        {"vocab": 3},
        {"special_tokens": [3]},
        {"version": "new"},
    ],
    ids=str,
)
def test_a_damaged_file_is_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"tekken\.json"):
        load_tokenizer(write(tmp_path, **changes))
