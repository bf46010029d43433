"""Tokenizes with a SentencePiece model, as transformers' slow Llama tokenizer does."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quire.errors import CheckpointError, ConfigError, RequestError
from quire.text.token_bytes import TokenTexts, decode_bytes
from quire.text.tokenizer_config import AddedToken, TokenizerConfig
from quire.text.tokenizer_family import TokenizerFamily, complete

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

__all__ = ["SPACE", "SentencePieceTokenizer", "open_model", "read_proto"]

SPACE = "▁"
# Protocol buffers merge on concatenation: normalizer_spec { add_dummy_prefix: false }.
NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"
_CONTROL = AddedToken("", special=True)


class SentencePieceTokenizer:
    """The bytes of a tokenizer.model with the added tokens and flags of tokenizer_config.json.

    With `legacy` (the default where the config does not say) each stretch of text between special
    tokens gets a space of its own in front; without, only the beginning of the text does.
    origin: where it comes from, for messages.  family: adds what its own class would.
    Raises CheckpointError for a damaged model, ConfigError where `sentencepiece` is not installed.
    """

    def __init__(
        self,
        proto: bytes,
        config: TokenizerConfig,
        origin: str,
        family: TokenizerFamily | None = None,
    ) -> None:
        self._model = _processor(origin, proto)
        self._num_pieces = self._model.get_piece_size()
        if family is not None:
            config = complete(config, family, self._num_pieces, self._model)
        has_prefix = self._model.normalize("a").startswith(SPACE)
        self._legacy = config.legacy is not False
        self._prefix_space = has_prefix and config.add_prefix_space is not False
        self._segments = self._model
        if not self._legacy or not self._prefix_space:
            self._segments = _processor(origin, proto + NO_DUMMY_PREFIX)
        self._set_specials(config)
        self.vocab_size = max(self._num_pieces, max(self._content, default=-1) + 1)
        self.byte_exact = True
        self.special_tokens_map: Mapping[str, str] = self._find_names(config)
        self.chat_templates: Mapping[str, str] = dict(config.chat_templates)
        self.chat_template = self.chat_templates.get("default")
        self.turn_end_ids = frozenset(self._ids(config.turn_ends))
        self._begin = _end(self.bos_token_id, config.add_bos is not False)
        if config.prefix:
            self._begin = self._ids(config.prefix)
        self._finish = _end(self.eos_token_id, config.add_eos is True)
        self._bytes: dict[int, bytes] = {}
        self.texts = TokenTexts(self)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Text → ids."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError(f"the text is not valid Unicode: {error}") from error
        ids = self._encode_parts(text)
        return [*self._begin, *ids, *self._finish] if add_special_tokens else ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Ids → text, as the beginning of a text."""
        return decode_bytes(self, ids, skip_special_tokens)

    def token_bytes(self, token: int, leading: bool = False) -> bytes:
        """The bytes a token adds."""
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
        if token in self._content:
            return self._content[token].encode()
        if not 0 <= token < self._num_pieces:
            return b""
        piece: str = self._model.id_to_piece(token)
        if self._model.is_byte(token):
            return bytes.fromhex(piece[3:5])
        text = piece.replace(SPACE, " ")
        return (text.removeprefix(" ") if leading and self._prefix_space else text).encode()

    def _set_specials(self, config: TokenizerConfig) -> None:
        """Gather the tokens that are matched in the text as they are, and the special ones."""
        model, count = self._model, self._num_pieces
        control = [i for i in range(count) if model.is_control(i) or model.is_unknown(i)]
        self._added = {model.id_to_piece(i): (i, _CONTROL) for i in control}
        for content in [*config.special_tokens.values(), *config.extra_special_tokens]:
            token = model.piece_to_id(content)
            if model.id_to_piece(token) == content:
                self._added[content] = (token, AddedToken(content, special=True))
        for token, added in config.added_tokens.items():
            self._added[added.content] = (token, _supported(added))
        self._content = {token: content for content, (token, _) in self._added.items()}
        self.added_ids = frozenset(self._content)
        self.special_ids = frozenset(
            [*control, *(token for token, added in self._added.values() if added.special)]
        )
        self.bos_token_id = self._find_id(config, "bos_token", model.bos_id())
        self.eos_token_id = self._find_id(config, "eos_token", model.eos_id())
        longest_first = sorted(self._added, key=len, reverse=True)
        self._pattern = re.compile(f"({'|'.join(map(self._expression, longest_first))})")

    def _expression(self, content: str) -> str:
        behind = self._added[content][1].behind
        return (f"(?<={re.escape(behind)})" if behind else "") + re.escape(content)

    def _ids(self, contents: Sequence[str]) -> list[int]:
        """Of those contents that are tokens."""
        return [self._added[content][0] for content in contents if content in self._added]

    def _find_id(self, config: TokenizerConfig, name: str, default: int) -> int | None:
        content = config.special_tokens.get(name)
        if content in self._added:
            return self._added[content][0]
        return default if default >= 0 else None

    def _find_names(self, config: TokenizerConfig) -> dict[str, str]:
        """The special tokens by name; the model file fills in what the config leaves out."""
        ids = {"bos_token": self.bos_token_id, "eos_token": self.eos_token_id}
        found = {
            name: self._content[token] for name, token in ids.items() if token in self._content
        }
        return {**found, **config.special_tokens}

    def _encode_parts(self, text: str) -> list[int]:
        if not text:
            return []
        if not self._legacy:
            text = text.replace(SPACE, " ")
            text = SPACE + text if self._prefix_space else text
        ids: list[int] = []
        for n, part in enumerate(self._split(text)):
            ids += [self._added[part][0]] if n % 2 else self._segments.encode(part)
        space = self._model.piece_to_id(SPACE)
        if not self._legacy and ids[:1] == [space] and ids[1:2] and ids[1] in self.special_ids:
            return ids[1:]
        return ids

    def _split(self, text: str) -> list[str]:
        """Text, added token, text and so on; tokens may swallow the white space beside them."""
        parts = self._pattern.split(text)
        for n in range(1, len(parts), 2):
            added = self._added[parts[n]][1]
            if added.rstrip:
                parts[n + 1] = parts[n + 1].lstrip()
            if added.lstrip:
                parts[n - 1] = parts[n - 1].rstrip()
        return parts


def read_proto(path: Path) -> bytes:
    """The bytes of a tokenizer.model.  Raises CheckpointError if it cannot be read or is empty."""
    try:
        proto = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not proto:  # the library takes this for "load a model later"
        raise CheckpointError(f"{path} is empty; download it again")
    return proto


def open_model(path: Path) -> SentencePieceProcessor:
    """The library's view of a tokenizer.model.  Raises CheckpointError if it is damaged."""
    return _processor(str(path), read_proto(path))


def _processor(origin: str, proto: bytes) -> SentencePieceProcessor:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise ConfigError(
            f"{origin} needs the sentencepiece package: pip install sentencepiece"
        ) from error
    try:
        return SentencePieceProcessor(model_proto=proto)
    except RuntimeError as error:
        raise CheckpointError(
            f"{origin} is damaged or not a SentencePiece model ({error}); download it again"
        ) from error


def _supported(added: AddedToken) -> AddedToken:
    if added.single_word:
        raise CheckpointError(
            f"the added token {added.content!r} is single_word, which is supported with a "
            "tokenizer.json only; convert tokenizer.model to one"
        )
    return added


def _end(token: int | None, wanted: bool) -> list[int]:
    return [token] if wanted and token is not None else []
