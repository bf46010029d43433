"""Finds the exact bytes that each token adds to a text, for decoders that work token by token."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from tokenizers.decoders import Decoder

__all__ = ["ByteSource", "TokenTexts", "byte_level_alphabet", "decode_bytes", "find_byte_rule"]

ByteRule = Callable[[str, bool], bytes]
"""(the token as the vocabulary spells it, whether it begins the text) → the bytes it adds."""

BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
ANCHOR = "a"
# Steps that treat each token alone.  Bytes may only be joined with their neighbours by Fuse, and
# what follows Fuse may only look at the beginning of the text.
TOKEN_BY_TOKEN = re.compile(
    r"((Replace|Metaspace|Strip) )*(ByteFallback )?(Fuse (Strip )*)?|WordPiece "
)


class ByteSource(Protocol):
    """The part of a tokenizer that byte-exact decoding needs."""

    @property
    def special_ids(self) -> frozenset[int]: ...
    def token_bytes(self, token: int, leading: bool = False) -> bytes: ...


class TokenTexts(dict[int, str | None]):
    """What each token adds to a text after other tokens; None where it holds part of a character.

    Filled as tokens are asked for.
    """

    def __init__(self, source: ByteSource) -> None:
        super().__init__()
        self._source = source

    def __missing__(self, token: int) -> str | None:
        try:
            text = self._source.token_bytes(token).decode()
        except UnicodeDecodeError:
            text = None
        self[token] = text
        return text


def decode_bytes(source: ByteSource, ids: Sequence[int], skip_special_tokens: bool) -> str:
    """The text whose bytes are those of the tokens; what is not UTF-8 becomes U+FFFD."""
    shown = [i for i in ids if not (skip_special_tokens and i in source.special_ids)]
    parts = [source.token_bytes(token, leading=n == 0) for n, token in enumerate(shown)]
    return b"".join(parts).decode("utf-8", "replace")


def find_byte_rule(decoder: Decoder | None) -> ByteRule | None:
    """The rule that equals a `tokenizers` decoder, or None where it looks at several tokens.

    One difference is deliberate: ByteFallback turns a whole run of bytes into U+FFFD when any of
    it is not UTF-8; the rule loses only the bytes that are not, so that text never changes later.
    """
    if decoder is None:
        return _spaced
    state = json.loads(decoder.__getstate__())
    if state["type"] == "ByteLevel":
        return _byte_level
    steps = state["decoders"] if state["type"] == "Sequence" else [state]
    if not _is_token_by_token(steps):
        return None
    has_bytes = any(step["type"] == "ByteFallback" for step in steps)
    return _asking(decoder, has_bytes)


def _is_token_by_token(steps: Sequence[dict[str, Any]]) -> bool:
    kinds = [step["type"] for step in steps]
    if not TOKEN_BY_TOKEN.fullmatch("".join(f"{kind} " for kind in kinds)):
        return False
    after_fuse = steps[kinds.index("Fuse") :] if "Fuse" in kinds else []
    return all(step.get("stop", 0) == 0 for step in after_fuse)


def _spaced(piece: str, leading: bool) -> bytes:
    return (piece if leading else " " + piece).encode()


def _byte_level(piece: str, leading: bool) -> bytes:
    table = byte_level_alphabet()
    if all(char in table for char in piece):
        return bytes(map(table.__getitem__, piece))
    return piece.encode()


def _asking(decoder: Decoder, has_bytes: bool) -> ByteRule:
    """A rule that asks the decoder what the piece adds at the start, or after an anchor."""
    skipped = len(decoder.decode([ANCHOR]))

    def rule(piece: str, leading: bool) -> bytes:
        byte = BYTE_PIECE.fullmatch(piece) if has_bytes else None
        if byte and int(byte[1], 16) >= 0x80:
            return bytes.fromhex(byte[1])
        if leading:
            return decoder.decode([piece]).encode()
        return decoder.decode([ANCHOR, piece])[skipped:].encode()

    return rule


@cache
def byte_level_alphabet() -> dict[str, int]:
    """The printable character that stands for each byte in byte-level vocabularies → the byte.

    Source: GPT-2's encoder.py.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if chr(byte) not in table)
    return table | {chr(0x100 + n): byte for n, byte in enumerate(others)}
