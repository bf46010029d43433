"""Tokenizes through the `tokenizers` library, with a tokenizer.json as a rule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import tokenizers

from quire.errors import CheckpointError, RequestError
from quire.text.token_bytes import TokenTexts, decode_bytes, find_byte_rule
from quire.text.tokenizer_config import AddedToken, TokenizerConfig

__all__ = ["HFTokenizer", "read_tokenizer_json"]


class HFTokenizer:
    """A tokenizer with the additions of tokenizer_config.json, as transformers reads them.

    Which tokens begin and end a text is the backend's own rule; `add_bos_token` is not asked, as in
    transformers 5.  Spaces are never "cleaned up" after decoding, whatever the config says: that
    would damage code, and would change text that was already streamed.
    origin: where it comes from, for messages.  Raises CheckpointError where the two do not fit.
    """

    def __init__(self, backend: tokenizers.Tokenizer, config: TokenizerConfig, origin: str) -> None:
        self._backend = backend
        _add_tokens(self._backend, config.added_tokens, origin)
        self.special_tokens_map: Mapping[str, str] = dict(config.special_tokens)
        self.chat_templates: Mapping[str, str] = dict(config.chat_templates)
        self.chat_template = self.chat_templates.get("default")
        self.bos_token_id = self._find_id(config.special_tokens.get("bos_token"))
        self.eos_token_id = self._find_id(config.special_tokens.get("eos_token"))
        ends = map(self._find_id, config.turn_ends)
        self.turn_end_ids = frozenset(token for token in ends if token is not None)
        self._mark_specials(config)
        self._added = self._backend.get_added_tokens_decoder()
        flagged = (token for token, added in self._added.items() if added.special)
        self.special_ids = frozenset(flagged)
        self.added_ids = frozenset(self._added)
        largest = max(self._added, default=-1)
        self.vocab_size = max(self._backend.get_vocab_size(with_added_tokens=True), largest + 1)
        self._rule = find_byte_rule(self._backend.decoder)
        self._is_byte_level = type(self._backend.decoder).__name__ == "ByteLevel"
        self.byte_exact = self._rule is not None
        self._bytes: dict[int, bytes] = {}
        self.texts = TokenTexts(self)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Text → ids."""
        try:
            return self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        except (TypeError, UnicodeEncodeError) as error:
            raise RequestError(f"the text is not valid Unicode: {error}") from error

    def encode_pair(self, first: str, second: str) -> list[int]:
        """Two texts → ids, with the special tokens that stand around a pair."""
        try:
            return self._backend.encode(first, second).ids
        except (TypeError, UnicodeEncodeError) as error:
            raise RequestError(f"the text is not valid Unicode: {error}") from error

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Ids → text, as the beginning of a text."""
        if self.byte_exact:
            return decode_bytes(self, ids, skip_special_tokens)
        known = [token for token in ids if 0 <= token < self.vocab_size]
        return self._backend.decode(known, skip_special_tokens=skip_special_tokens)

    def token_bytes(self, token: int, leading: bool = False) -> bytes:
        """The bytes a token adds; where the decoder is not byte exact, those of the token alone."""
        if leading:
            return self._find_bytes(token, leading=True)
        data = self._bytes.get(token)
        if data is None:
            data = self._bytes[token] = self._find_bytes(token, leading=False)
        return data

    def token_text(self, token: int) -> str:
        """The token alone, for people to read."""
        return self.token_bytes(token).decode("utf-8", "replace")

    def _find_bytes(self, token: int, leading: bool) -> bytes:
        piece = self._backend.id_to_token(token) if 0 <= token < self.vocab_size else None
        if piece is None:
            return b""
        if self._rule is None:
            return self._backend.decode([token], skip_special_tokens=False).encode()
        if self._is_byte_level and token in self._added:  # spelled as it is, not in byte letters
            return piece.encode()
        return self._rule(piece, leading)

    def _find_id(self, content: str | None) -> int | None:
        return None if content is None else self._backend.token_to_id(content)

    def _mark_specials(self, config: TokenizerConfig) -> None:
        """Make the named special tokens special; those the vocabulary lacks stay unknown."""
        named = [*config.special_tokens.values(), *config.extra_special_tokens]
        self._backend.add_special_tokens(
            [
                tokenizers.AddedToken(content, normalized=False)
                for content in named
                if self._find_id(content) is not None
            ]
        )


def read_tokenizer_json(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer of a file.  Raises CheckpointError for a damaged one."""
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"{path} is damaged or not a tokenizer.json: {error}") from error
    backend.no_truncation()
    backend.no_padding()
    return backend


def _add_tokens(
    backend: tokenizers.Tokenizer, declared: Mapping[int, AddedToken], origin: str
) -> None:
    """Add what the config declares and the file lacks, at the ids that the config gives."""
    present = {added.content for added in backend.get_added_tokens_decoder().values()}
    absent = [(token, added) for token, added in declared.items() if added.content not in present]
    missing = dict(sorted(absent, key=lambda entry: entry[0]))
    backend.add_tokens(list(_backend_tokens(missing.values())))
    for token, added in missing.items():
        got = backend.token_to_id(added.content)
        if got != token:
            raise CheckpointError(
                f"tokenizer_config.json puts {added.content!r} at id {token}, but with {origin} "
                f"its id is {got}; take both files from the same release"
            )


def _backend_tokens(tokens: Iterable[AddedToken]) -> Iterable[tokenizers.AddedToken]:
    for token in tokens:
        yield tokenizers.AddedToken(
            token.content,
            single_word=token.single_word,
            lstrip=token.lstrip,
            rstrip=token.rstrip,
            normalized=token.normalized,
            special=token.special,
        )
