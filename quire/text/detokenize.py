"""Turns tokens into text as they come, never showing half a character.

The text of an output is what the prompt and the output together say, less what the prompt says.
So the first token keeps the space that joins it to the prompt, and loses it only where no visible
token stands before it; bytes that complete a character which the prompt began yield the whole
character.  With an empty prompt the text equals `tokenizer.decode(ids)`.
"""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Iterable, Sequence
from typing import Protocol

from quire.text.tokenizer import Tokenizer

__all__ = ["Detokenizer", "make_detokenizer"]

CONTEXT_TOKENS = (
    8  # of the prompt; a UTF-8 character has 4 bytes, so at most 3 tokens are unfinished
)
MAX_HELD_TOKENS = 3
REPLACEMENT = "\ufffd"


class Detokenizer(Protocol):
    """The text of one growing output."""

    def push(self, ids: Iterable[int]) -> str:
        """Add tokens; return the new text that is certain, which may be empty.

        What cannot become a character any more, such as a lone continuation byte, is U+FFFD at
        once.
        """
        ...

    def finish(self) -> str:
        """Return the text held back, with U+FFFD for a character that stayed incomplete."""
        ...


def make_detokenizer(
    tokenizer: Tokenizer, prompt_ids: Sequence[int] = (), skip_special_tokens: bool = True
) -> Detokenizer:
    """A detokenizer for the output behind a prompt."""
    hidden = tokenizer.special_ids if skip_special_tokens else frozenset[int]()
    context = _last_visible(prompt_ids, hidden)
    kind = _ByteDetokenizer if tokenizer.byte_exact else _WindowDetokenizer
    return kind(tokenizer, context, hidden)


class _ByteDetokenizer:
    """For tokenizers whose text is the concatenation of their tokens' bytes."""

    __slots__ = ("_held", "_hidden", "_leading", "_texts", "_tokenizer")

    def __init__(
        self, tokenizer: Tokenizer, context: Sequence[int], hidden: frozenset[int]
    ) -> None:
        self._tokenizer = tokenizer
        self._texts = tokenizer.texts
        self._hidden = hidden
        self._leading = not context
        self._held = b""
        for token in context:  # leaves behind only a character that the prompt did not finish
            self._decode(tokenizer.token_bytes(token))

    def push(self, ids: Iterable[int]) -> str:
        text = ""
        for token in ids:
            if token in self._hidden:
                continue
            whole = self._texts[token]
            if whole is None or self._held or self._leading:
                text += self._decode(self._tokenizer.token_bytes(token, self._leading))
                self._leading = False
            else:  # most tokens
                text += whole
        return text

    def finish(self) -> str:
        held, self._held = self._held, b""
        return held.decode("utf-8", "replace")

    def _decode(self, data: bytes) -> str:
        """The text of these bytes and those held; holds the beginning of a character at the end."""
        if self._held:
            data = self._held + data
        text, used = utf_8_decode(data, "replace", False)
        self._held = data[used:]
        return text


class _WindowDetokenizer:
    """For any other tokenizer: decode the last piece shown again, together with what is new."""

    def __init__(
        self, tokenizer: Tokenizer, context: Sequence[int], hidden: frozenset[int]
    ) -> None:
        self._tokenizer = tokenizer
        self._hidden = hidden
        self._shown = list(context)
        self._new: list[int] = []
        self._shown_text = self._decode(self._shown)

    def push(self, ids: Iterable[int]) -> str:
        return "".join([self._push(token) for token in ids if token not in self._hidden])

    def finish(self) -> str:
        return self._show(self._decode(self._shown + self._new)) if self._new else ""

    def _push(self, token: int) -> str:
        self._new.append(token)
        text = self._decode(self._shown + self._new)
        unclear = len(text) <= len(self._shown_text) or text.endswith(REPLACEMENT)
        if unclear and len(self._new) <= MAX_HELD_TOKENS:
            return ""
        return self._show(text)

    def _show(self, text: str) -> str:
        added = text[len(self._shown_text) :]
        self._shown, self._new = self._new, []
        self._shown_text = self._decode(self._shown)
        return added

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False) if ids else ""


def _last_visible(prompt_ids: Sequence[int], hidden: frozenset[int]) -> list[int]:
    found: list[int] = []
    for token in reversed(prompt_ids):
        if token not in hidden:
            found.append(token)
        if len(found) == CONTEXT_TOKENS:
            break
    return found[::-1]
