"""Says in GGUF's metadata what a tokenizer.json says, for byte-level BPE and SentencePiece."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from quire.errors import CheckpointError
from quire.text.gguf_pieces import pieces_of
from quire.text.gguf_tokenizer import PREFIX, SPECIALS, TEMPLATE
from quire.text.hf_tokenizer import HFTokenizer, read_tokenizer_json
from quire.text.pre_tokenizers import GPT_2, PRE_TOKENIZERS, PreTokenizer
from quire.text.sentencepiece_proto import CONTROL, NORMAL, UNUSED, USER_DEFINED
from quire.text.tokenizer import Tokenizer, load_tokenizer
from quire.text.tokenizer_config import AddedToken, TokenizerConfig, read_tokenizer_config

__all__ = ["gguf_vocabulary"]


def gguf_vocabulary(directory: Path, vocab_size: int) -> dict[str, Any]:
    """The metadata of the tokenizer in a directory, ready for a GGUF file.

    vocab_size: of the model; tokens that the tokenizer lacks up to there are made up and unused.
    Byte-level BPE is told by its tokenizer.json, SentencePiece by its tokenizer.model.
    Raises CheckpointError for a tokenizer of another kind, or with a pre-tokenizer that GGUF has no
    name for.
    """
    config, tokenizer = read_tokenizer_config(directory), load_tokenizer(directory)
    vocabulary = _vocabulary(directory, config, vocab_size)
    return {**vocabulary, **_special_tokens(tokenizer), **_chat_templates(config)}


def _vocabulary(directory: Path, config: TokenizerConfig, vocab_size: int) -> dict[str, Any]:
    """The tokens, and what cuts a text into them."""
    path, pieces = directory / "tokenizer.json", directory / "tokenizer.model"
    added = config.added_tokens
    if path.is_file():
        backend = read_tokenizer_json(path)
        HFTokenizer(backend, config, str(path))  # adds what the config declares
        state = json.loads(backend.to_str())
        if _is_byte_level(state):
            return _byte_level(path, backend, state, vocab_size)
        found = backend.get_added_tokens_decoder().items()
        added = {number: AddedToken(token.content, token.special) for number, token in found}
    if not pieces.is_file():
        raise CheckpointError(
            f"{path} is not byte-level BPE, and there is no tokenizer.model beside it: other "
            "tokenizers are not written as GGUF"
        )
    return pieces_of(pieces, added, vocab_size)


def _is_byte_level(state: Mapping[str, Any]) -> bool:
    decoder = state["decoder"] or {}
    return state["model"]["type"] == "BPE" and decoder.get("type") == "ByteLevel"


def _byte_level(
    path: Path, backend: tokenizers.Tokenizer, state: Mapping[str, Any], vocab_size: int
) -> dict[str, Any]:
    tokens, types = _tokens(backend, vocab_size)
    merges = state["model"]["merges"]
    return {
        PREFIX + "model": "gpt2",
        PREFIX + "pre": _name(path, state),
        PREFIX + "tokens": tokens,
        PREFIX + "token_type": types,
        PREFIX + "merges": [each if isinstance(each, str) else " ".join(each) for each in merges],
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


def _special_tokens(tokenizer: Tokenizer) -> dict[str, Any]:
    """The ids of the named ones, and which of them stand around a text."""
    found: dict[str, Any] = {}
    for name, key in SPECIALS.items():
        text = tokenizer.special_tokens_map.get(name, "")
        ids = tokenizer.encode(text, add_special_tokens=False)
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
