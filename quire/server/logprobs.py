"""Writes log probabilities in three forms: chat, legacy completions, and vLLM's for prompts."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import Any

from quire.outputs import TokenLogprobs
from quire.server.protocol.chat_answer import ChatLogprobs, ChatTokenLogprob, ChatTopLogprob
from quire.server.protocol.completions import CompletionLogprobs
from quire.text.tokenizer import Tokenizer

__all__ = ["LegacyLogprobs", "chat_logprobs", "prompt_logprobs"]

LOWEST = -9999.0  # JSON has no minus infinity


def chat_logprobs(
    entries: Iterable[TokenLogprobs], num_top: int, tokenizer: Tokenizer, as_ids: bool
) -> ChatLogprobs:
    """Chat's form: the token, its bytes, and the `num_top` likeliest in its place."""

    def top(token: int, value: float) -> ChatTopLogprob:
        raw = tokenizer.token_bytes(token)
        text = _by_id(token) if as_ids else raw.decode("utf-8", "replace")
        return ChatTopLogprob(text, max(value, LOWEST), list(raw))

    def one(entry: TokenLogprobs) -> ChatTokenLogprob:
        token, own = next(iter(entry.items()))
        likely = sorted((value.rank, other) for other, value in entry.items())[:num_top]
        own_top = top(token, own.logprob)
        others = [top(other, entry[other].logprob) for rank, other in likely if rank <= num_top]
        return ChatTokenLogprob(own_top.token, own_top.logprob, own_top.bytes, others)

    return ChatLogprobs([one(entry) for entry in entries])


def prompt_logprobs(
    entries: Sequence[TokenLogprobs | None] | None,
) -> list[dict[str, Any] | None]:
    """vLLM's form: token id → logprob, rank and text; null for the first prompt token."""
    return [None if entry is None else _by_token(entry) for entry in entries or ()]


class LegacyLogprobs:
    """The legacy form of one completion, which goes on over its chunks.

    Offsets are exact: a token that continues a character has the offset of that character.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool, as_ids: bool) -> None:
        self._tokenizer = tokenizer
        self._hidden = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._as_ids = as_ids
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def add(
        self,
        tokens: Sequence[int],
        entries: Sequence[TokenLogprobs | None],
        begins_text: bool = False,
    ) -> CompletionLogprobs:
        """The lists for these tokens.  begins_text: no token stands before them."""
        offsets = [self._advance(token, begins_text and n == 0) for n, token in enumerate(tokens)]
        own = [
            None if entry is None else max(entry[token].logprob, LOWEST)
            for token, entry in zip(tokens, entries, strict=True)
        ]
        top = [
            entry
            if entry is None
            else {self._name(token): max(value.logprob, LOWEST) for token, value in entry.items()}
            for entry in entries
        ]
        return CompletionLogprobs(offsets, own, list(map(self._name, tokens)), top)

    def _advance(self, token: int, leading: bool) -> int:
        start = self._offset
        if token not in self._hidden:
            text = self._characters.decode(self._tokenizer.token_bytes(token, leading))
            self._offset += len(text)
        return start

    def _name(self, token: int) -> str:
        """The token's text; OpenAI's `bytes:\\xe4` for tokens that are not whole characters."""
        if self._as_ids:
            return _by_id(token)
        raw = self._tokenizer.token_bytes(token)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _by_token(entry: TokenLogprobs) -> dict[str, Any]:
    return {
        str(token): {
            "logprob": max(value.logprob, LOWEST),
            "rank": value.rank,
            "decoded_token": value.decoded_token,
        }
        for token, value in entry.items()
    }


def _by_id(token: int) -> str:
    return f"token_id:{token}"
