"""Says in GGUF's metadata what a SentencePiece model says, the `llama` kind of tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quire.errors import CheckpointError
from quire.text.gguf_tokenizer import PREFIX
from quire.text.sentencepiece_proto import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
)
from quire.text.sentencepiece_tokenizer import SPACE, open_model
from quire.text.tokenizer_config import AddedToken

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

__all__ = ["pieces_of"]

COMPOSED = "ﬁ①"
"""Characters that normalization by NFKC takes apart."""


def pieces_of(path: Path, added: Mapping[int, AddedToken], vocab_size: int) -> dict[str, Any]:
    """The metadata of a tokenizer.model: its pieces with their scores and types.

    added: further tokens by id, or what stands in place of a piece.  vocab_size: of the model;
    tokens up to there that nobody has are made up and unused.
    Raises CheckpointError for more tokens than that, and for a model that changes characters.
    """
    model = open_model(path)
    count = max(model.get_piece_size(), max(added, default=-1) + 1)
    if count > vocab_size:
        raise CheckpointError(f"{path} has {count} tokens, the model {vocab_size}")
    if COMPOSED not in model.normalize(COMPOSED):
        raise CheckpointError(f"{path} changes characters by rules that are not written to GGUF")
    tokens = [f"[PAD{number}]" for number in range(vocab_size)]
    scores = np.full(vocab_size, -1000.0, np.float32)
    types = np.full(vocab_size, UNUSED, np.int32)
    for number in range(model.get_piece_size()):
        tokens[number], scores[number] = model.id_to_piece(number), model.get_score(number)
        types[number] = _kind(model, number)
    for number, token in added.items():
        tokens[number] = token.content
        types[number] = CONTROL if token.special else USER_DEFINED
    return {
        PREFIX + "model": "llama",
        PREFIX + "pre": "default",
        PREFIX + "tokens": tokens,
        PREFIX + "scores": scores,
        PREFIX + "token_type": types,
        PREFIX + "add_space_prefix": model.normalize("a").startswith(SPACE),
    }


def _kind(model: SentencePieceProcessor, number: int) -> int:
    tests = {
        UNKNOWN: model.is_unknown,
        CONTROL: model.is_control,
        UNUSED: model.is_unused,
        BYTE: model.is_byte,
    }
    return next((kind for kind, test in tests.items() if test(number)), NORMAL)
