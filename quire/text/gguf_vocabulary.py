"""Says in GGUF's metadata what a tokenizer.json says, for byte-level BPE."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from quire.errors import CheckpointError
from quire.text.gguf_tokenizer import PREFIX, SPECIALS, TEMPLATE
from quire.text.hf_tokenizer import HFTokenizer, read_tokenizer_json
from quire.text.pre_tokenizers import GPT_2, PRE_TOKENIZERS, PreTokenizer
from quire.text.sentencepiece_proto import CONTROL, NORMAL, UNUSED, USER_DEFINED
from quire.text.tokenizer_config import TokenizerConfig, read_tokenizer_config

__all__ = ["gguf_vocabulary"]


def gguf_vocabulary(directory: Path, vocab_size: int) -> dict[str, Any]:
    """The metadata of the tokenizer in a directory, ready for a GGUF file.

    vocab_size: of the model; tokens that the tokenizer lacks up to there are made up and unused.
    Raises CheckpointError for a tokenizer of another kind than byte-level BPE, or with a
    pre-tokenizer that GGUF has no name for.
    """
    path, config = directory / "tokenizer.json", read_tokenizer_config(directory)
    backend = read_tokenizer_json(path)
    tokenizer = HFTokenizer(backend, config, str(path))  # adds what the config declares
    state = json.loads(backend.to_str())
    if state["model"]["type"] != "BPE" or (state["decoder"] or {}).get("type") != "ByteLevel":
        raise CheckpointError(f"{path} is not byte-level BPE, the one kind that is written as GGUF")
    tokens, types = _tokens(backend, vocab_size)
    merges = state["model"]["merges"]
    return {
        PREFIX + "model": "gpt2",
        PREFIX + "pre": _name(path, state),
        PREFIX + "tokens": tokens,
        PREFIX + "token_type": types,
        PREFIX + "merges": [each if isinstance(each, str) else " ".join(each) for each in merges],
        **_special_tokens(tokenizer, config),
        **_chat_templates(config),
    }


def _tokens(backend: tokenizers.Tokenizer, size: int) -> tuple[list[str], np.ndarray]:
    """The tokens in order of their ids, and what they are."""
    tokens = [f"[PAD{number}]" for number in range(size)]
    types = np.full(size, UNUSED, np.int32)
    for token, number in backend.get_vocab(with_added_tokens=True).items():
        tokens[number], types[number] = token, NORMAL
    for number, added in backend.get_added_tokens_decoder().items():
        types[number] = CONTROL if added.special else USER_DEFINED
    return tokens, types


def _special_tokens(tokenizer: HFTokenizer, config: TokenizerConfig) -> dict[str, Any]:
    """The ids of the named ones, and which of them stand around a text."""
    found: dict[str, Any] = {}
    for name, key in SPECIALS.items():
        ids = tokenizer.encode(config.special_tokens.get(name, ""), add_special_tokens=False)
        if len(ids) == 1:
            found[PREFIX + key] = ids[0]
    plain, whole = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
    at = whole.index(plain[0])
    found[PREFIX + "add_bos_token"] = whole[:at] == [found.get(PREFIX + "bos_token_id")]
    found[PREFIX + "add_eos_token"] = whole[at + len(plain) :] == [
        found.get(PREFIX + "eos_token_id")
    ]
    return found


def _chat_templates(config: TokenizerConfig) -> dict[str, str]:
    return {
        TEMPLATE if name == "default" else f"{TEMPLATE}.{name}": template
        for name, template in config.chat_templates.items()
    }


def _name(path: Path, state: Mapping[str, Any]) -> str:
    """What GGUF calls the pre-tokenizer."""
    ours = PreTokenizer(
        tuple(_patterns(state["pre_tokenizer"])),
        nfc=(state["normalizer"] or {}).get("type") == "NFC",
        ignore_merges=bool(state["model"].get("ignore_merges")),
    )
    for name, known in PRE_TOKENIZERS.items():
        facts = (tuple(known.patterns), known.nfc, known.ignore_merges)
        if facts == (ours.patterns, ours.nfc, ours.ignore_merges):
            return name
    raise CheckpointError(
        f"{path} has a pre-tokenizer that GGUF has no name for: {ours}; "
        f"those that are written: {', '.join(PRE_TOKENIZERS)}"
    )


def _patterns(state: Mapping[str, Any] | None) -> list[str]:
    """The patterns that cut a text, in order; what is none of them stands there by its type."""
    kind = None if state is None else state["type"]
    if state is None or (kind == "ByteLevel" and not state.get("use_regex", True)):
        return []
    if kind == "ByteLevel":
        return [GPT_2]
    if kind == "Sequence":
        return [each for part in state["pretokenizers"] for each in _patterns(part)]
    if kind == "Digits" and state["individual_digits"]:
        return [r"\p{N}"]
    is_cut = kind == "Split" and state["behavior"] == "Isolated" and not state["invert"]
    return [state["pattern"].get("Regex", kind) if is_cut else str(kind)]
