"""Finds the tokenizer of a checkpoint and says what every tokenizer can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from quire.errors import CheckpointError
from quire.text.hf_tokenizer import HFTokenizer, read_tokenizer_json
from quire.text.sentencepiece_tokenizer import SentencePieceTokenizer, read_proto
from quire.text.tekken_tokenizer import load_tekken_tokenizer
from quire.text.tiktoken_tokenizer import is_rank_file, load_tiktoken_tokenizer
from quire.text.token_bytes import TokenTexts
from quire.text.tokenizer_config import read_tokenizer_config
from quire.text.tokenizer_family import find_family

__all__ = ["Tokenizer", "load_tokenizer"]

RANK_FILES = ("qwen.tiktoken", "tiktoken.model", "tokenizer.model")


class Tokenizer(Protocol):
    """Turns text into token ids and back; safe to share between threads.

    vocab_size: one more than the largest token id, which may be less than the model's vocabulary.
    byte_exact: the text of a sequence is exactly the concatenation of its tokens' bytes.
    texts: the text that each token adds after others, for a tokenizer that is byte_exact.
    special_ids: tokens that `skip_special_tokens` hides.
    added_ids: tokens that stand beside the vocabulary, as most special ones do.
    turn_end_ids: tokens that end an answer beside eos, where the family has such.
    special_tokens_map: "bos_token" and its like → text, as chat templates want them.
    chat_templates: by name; the usual one is "default".
    """

    @property
    def vocab_size(self) -> int: ...
    @property
    def byte_exact(self) -> bool: ...
    @property
    def texts(self) -> TokenTexts: ...
    @property
    def special_ids(self) -> frozenset[int]: ...
    @property
    def added_ids(self) -> frozenset[int]: ...
    @property
    def bos_token_id(self) -> int | None: ...
    @property
    def eos_token_id(self) -> int | None: ...
    @property
    def turn_end_ids(self) -> frozenset[int]: ...
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


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a GGUF file, or of a directory: tokenizer.json, else a vocabulary alone.

    Raises CheckpointError, naming the file, if none is there or it is damaged.
    """
    if path.suffix == ".gguf":
        from quire.text.gguf_tokenizer import load_gguf_tokenizer  # here: few need numpy
        from quire.weights.gguf.model import open_gguf

        return load_gguf_tokenizer(open_gguf(path))
    config = read_tokenizer_config(path)
    if (file := path / "tokenizer.json").is_file():
        return HFTokenizer(read_tokenizer_json(file), config, str(file))
    if (file := path / "tekken.json").is_file():
        return load_tekken_tokenizer(file, config)
    for name in RANK_FILES:
        if (file := path / name).is_file() and is_rank_file(file):
            return load_tiktoken_tokenizer(file, config)
    if (file := path / "tokenizer.model").is_file():
        return SentencePieceTokenizer(read_proto(file), config, str(file), find_family(config))
    raise CheckpointError(
        f"{path} has no tokenizer: neither tokenizer.json (Hugging Face) nor tokenizer.model "
        "(SentencePiece, tiktoken), tekken.json, qwen.tiktoken or tiktoken.model is there; copy "
        "one from the original model, or point --tokenizer at a directory that has one"
    )
