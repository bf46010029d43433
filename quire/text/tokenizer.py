"""Finds the tokenizer of a checkpoint directory and says what every tokenizer can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from quire.errors import CheckpointError
from quire.text.hf_tokenizer import HFTokenizer
from quire.text.sentencepiece_tokenizer import SentencePieceTokenizer
from quire.text.tokenizer_config import read_tokenizer_config

__all__ = ["Tokenizer", "load_tokenizer"]


class Tokenizer(Protocol):
    """Turns text into token ids and back; safe to share between threads.

    vocab_size: one more than the largest token id, which may be less than the model's vocabulary.
    byte_exact: the text of a sequence is exactly the concatenation of its tokens' bytes.
    special_ids: tokens that `skip_special_tokens` hides.
    special_tokens_map: "bos_token" and its like → text, as chat templates want them.
    chat_templates: by name; the usual one is "default".
    """

    @property
    def vocab_size(self) -> int: ...
    @property
    def byte_exact(self) -> bool: ...
    @property
    def special_ids(self) -> frozenset[int]: ...
    @property
    def bos_token_id(self) -> int | None: ...
    @property
    def eos_token_id(self) -> int | None: ...
    @property
    def special_tokens_map(self) -> Mapping[str, str]: ...
    @property
    def chat_templates(self) -> Mapping[str, str]: ...
    @property
    def chat_template(self) -> str | None: ...

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Text → ids; special tokens written out in the text become special tokens.

        Raises RequestError for text that is not Unicode (a lone surrogate).
        """
        ...

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Ids → text, as the beginning of a text; bytes that are not UTF-8 become U+FFFD.

        An id outside the vocabulary, which a padded model may sample, adds nothing.
        """
        ...

    def token_bytes(self, token: int, leading: bool = False) -> bytes:
        """The bytes a token adds after other tokens, or as the first of a text if `leading`."""
        ...

    def token_text(self, token: int) -> str:
        """The token alone, for people to read: incomplete characters show as U+FFFD."""
        ...


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a checkpoint directory: tokenizer.json, else SentencePiece tokenizer.model.

    Raises CheckpointError, naming the file, if none is there or it is damaged.
    """
    config = read_tokenizer_config(directory)
    if (directory / "tokenizer.json").is_file():
        return HFTokenizer(directory / "tokenizer.json", config)
    if (directory / "tokenizer.model").is_file():
        return SentencePieceTokenizer(directory / "tokenizer.model", config)
    raise CheckpointError(
        f"{directory} has no tokenizer: neither tokenizer.json (Hugging Face) nor tokenizer.model "
        "(SentencePiece) is there; copy one from the original model, or point --tokenizer at a "
        "directory that has one"
    )
