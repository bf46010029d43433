"""Writes a SentencePiece BPE model as the protocol buffer that its library reads.

Source: sentencepiece_model.proto of SentencePiece; the wire format of protocol buffers.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

__all__ = ["BYTE", "CONTROL", "NORMAL", "UNKNOWN", "UNUSED", "USER_DEFINED", "model_proto"]

# What a piece is; GGUF has the same numbers.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
BPE = 2


def model_proto(
    pieces: Sequence[str],
    scores: Sequence[float],
    types: Sequence[int],
    *,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    byte_fallback: bool,
    charsmap: bytes = b"",
) -> bytes:
    """The bytes of a tokenizer.model: pieces with their scores and types, and two settings.

    charsmap: compiled rules that normalise characters; empty: none.
    """
    entries = zip(pieces, scores, types, strict=True)
    vocabulary = b"".join(_bytes(1, _piece(*entry)) for entry in entries)
    unknown = "".join(piece for piece, kind in zip(pieces, types, strict=True) if kind == UNKNOWN)
    trainer = _integer(3, BPE) + _integer(35, byte_fallback) + _bytes(45, unknown.encode())
    normalizer = (
        _bytes(2, charsmap)
        + _integer(3, add_dummy_prefix)
        + _integer(4, remove_extra_whitespaces)
        + _integer(5, True)  # spaces are written as ▁
    )
    return vocabulary + _bytes(2, trainer) + _bytes(3, normalizer)


def _piece(text: str, score: float, kind: int) -> bytes:
    number = _varint(2 << 3 | 5) + struct.pack("<f", score)
    return _bytes(1, text.encode()) + number + _integer(3, kind)


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last have the upper bit."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
