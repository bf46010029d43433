"""Makes a tokenizer of the metadata of a GGUF file: byte-level BPE, or SentencePiece."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, processors

from quire.errors import CheckpointError
from quire.text.hf_tokenizer import HFTokenizer
from quire.text.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from quire.text.sentencepiece_proto import BYTE, CONTROL, UNKNOWN, UNUSED, USER_DEFINED, model_proto
from quire.text.sentencepiece_tokenizer import SentencePieceTokenizer
from quire.text.tokenizer_config import AddedToken, TokenizerConfig
from quire.weights.gguf.container import Strings
from quire.weights.gguf.model import GgufModel

if TYPE_CHECKING:
    from quire.text.tokenizer import Tokenizer

__all__ = ["load_gguf_tokenizer"]

PREFIX = "tokenizer.ggml."
TEMPLATE = "tokenizer.chat_template"
SPECIALS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "sep_token": "seperator_token_id",  # spelt like this in every file
    "pad_token": "padding_token_id",
    "mask_token": "mask_token_id",
}


def load_gguf_tokenizer(gguf: GgufModel) -> Tokenizer:
    """The tokenizer that a file describes; `tokenizer.ggml.model` says of which kind.

    Raises CheckpointError for a kind or a pre-tokenizer that is not known, naming those that are,
    and for metadata that are missing or do not fit each other.
    """
    facts = _Facts(gguf)
    kind = facts.get("model")
    if kind == "gpt2":
        return _byte_level(facts)
    if kind == "llama":
        return _sentencepiece(facts)
    raise CheckpointError(
        f"{gguf.origin}: {PREFIX}model is {kind!r:.80}; known: gpt2, llama; "
        "point --tokenizer at a directory that has a tokenizer.json"
    )


class _Facts:
    """The vocabulary and the settings, checked."""

    def __init__(self, gguf: GgufModel) -> None:
        self.origin = gguf.origin
        self._metadata = gguf.metadata
        self.tokens = self.strings("tokens")
        self.types = self._numbers("token_type", np.int32, 1)

    def get(self, key: str) -> Any:
        return self._metadata.get(PREFIX + key)

    def strings(self, key: str) -> list[str]:
        value = self.get(key)
        if not isinstance(value, Strings):
            raise CheckpointError(f"{self.origin}: has no array of strings {PREFIX}{key}")
        return list(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key)
        if value is not None and not isinstance(value, bool):
            raise CheckpointError(f"{self.origin}: {PREFIX}{key} is {value!r:.80}, not a bool")
        return default if value is None else value

    def special(self, key: str) -> int | None:
        """A token id; None where the file gives none, or one outside of the vocabulary."""
        value = self.get(key)
        return value if type(value) is int and 0 <= value < len(self.tokens) else None

    def scores(self) -> Sequence[float]:
        scores: list[float] = self._numbers("scores", np.float32, 0).tolist()
        return scores

    def config(self) -> TokenizerConfig:
        """What would stand in tokenizer_config.json."""
        ids = {name: self.special(key) for name, key in SPECIALS.items()}
        return TokenizerConfig(
            special_tokens={n: self.tokens[token] for n, token in ids.items() if token is not None},
            extra_special_tokens=(),
            added_tokens=self._added_tokens(),
            chat_templates=self._chat_templates(),
            add_bos=self.flag("add_bos_token", True),
            add_eos=self.flag("add_eos_token", False),
            legacy=True,
            add_prefix_space=self.flag("add_space_prefix", True),
        )

    def _added_tokens(self) -> dict[int, AddedToken]:
        """The tokens that are matched in a text as they are."""
        control = {*np.flatnonzero(self.types == CONTROL).tolist()}
        added = sorted(control.union(np.flatnonzero(self.types == USER_DEFINED).tolist()))
        return {
            token: AddedToken(self.tokens[token], token in control, normalized=False)
            for token in added
        }

    def _chat_templates(self) -> dict[str, str]:
        named = {
            key[len(TEMPLATE) + 1 :] or "default": value
            for key, value in self._metadata.items()
            if key == TEMPLATE or key.startswith(TEMPLATE + ".")
        }
        return {name: value for name, value in named.items() if isinstance(value, str)}

    def _numbers(self, key: str, dtype: type, default: int) -> np.ndarray:
        """One number for each token."""
        value = self.get(key)
        if value is None:
            return np.full(len(self.tokens), default, dtype)
        if not isinstance(value, np.ndarray) or len(value) != len(self.tokens):
            raise CheckpointError(
                f"{self.origin}: {PREFIX}{key} is not one number for each of its "
                f"{len(self.tokens)} tokens"
            )
        return value.astype(dtype)


def _byte_level(facts: _Facts) -> HFTokenizer:
    cut = _pre_tokenizer(facts)
    config = facts.config()
    used = (facts.types != UNUSED).tolist()
    vocab = {token: i for i, token in enumerate(facts.tokens) if used[i]}
    if len(vocab) != sum(used):
        raise CheckpointError(f"{facts.origin}: two tokens of {PREFIX}tokens are the same")
    try:
        merges = [_pair(merge) for merge in facts.strings("merges")]
        model = models.BPE(vocab, merges, ignore_merges=cut.ignore_merges)
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"{facts.origin}: {PREFIX}merges do not fit: {error}") from error
    backend = tokenizers.Tokenizer(model)
    cut.apply_to(backend)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = _ends(facts, config.special_tokens, cut)
    _add_tokens(backend, config.added_tokens)
    return HFTokenizer(backend, config, facts.origin)


def _pre_tokenizer(facts: _Facts) -> PreTokenizer:
    name = facts.get("pre") or "default"
    if name not in PRE_TOKENIZERS:
        raise CheckpointError(
            f"{facts.origin}: {PREFIX}pre is {name!r:.80}; known: {', '.join(PRE_TOKENIZERS)}; "
            "point --tokenizer at a directory that has a tokenizer.json"
        )
    return PRE_TOKENIZERS[name]


def _pair(merge: str) -> tuple[str, str]:
    """The halves of a merge; a space is their border, as byte letters have none."""
    left, _, right = merge.partition(" ")
    if not (left and right):
        raise ValueError(f"{merge!r:.80} is not two tokens")
    return left, right


def _ends(
    facts: _Facts, named: Mapping[str, str], cut: PreTokenizer
) -> processors.PostProcessor | None:
    """What puts the bos and eos tokens around a text, if anything does."""
    wanted = {
        "bos_token": facts.flag("add_bos_token", cut.add_bos),
        "eos_token": facts.flag("add_eos_token", False),
    }
    ends = {name: named[name] for name, asked in wanted.items() if asked and name in named}
    if not ends:
        return processors.ByteLevel(trim_offsets=False)
    single = [ends.get("bos_token", ""), "$A", ends.get("eos_token", "")]
    ids = [(text, facts.tokens.index(text)) for text in dict.fromkeys(ends.values())]
    return processors.TemplateProcessing(
        single=[each for each in single if each], special_tokens=ids
    )


def _add_tokens(backend: tokenizers.Tokenizer, added: Mapping[int, AddedToken]) -> None:
    """Let the backend find these tokens in a text; their ids are those of the vocabulary."""
    for special, add in ((True, backend.add_special_tokens), (False, backend.add_tokens)):
        contents = [each.content for each in added.values() if each.special is special]
        add([tokenizers.AddedToken(text, normalized=False, special=special) for text in contents])


def _sentencepiece(facts: _Facts) -> SentencePieceTokenizer:
    types = np.where(facts.types == UNKNOWN, UNUSED, facts.types)
    types[facts.special("unknown_token_id") or 0] = UNKNOWN  # just one may be
    charsmap = facts.get("precompiled_charsmap")
    proto = model_proto(
        facts.tokens,
        facts.scores(),
        types.tolist(),
        add_dummy_prefix=facts.flag("add_space_prefix", True),
        remove_extra_whitespaces=facts.flag("remove_extra_whitespaces", False),
        byte_fallback=bool((types == BYTE).any()),
        charsmap=charsmap.tobytes() if isinstance(charsmap, np.ndarray) else b"",
    )
    return SentencePieceTokenizer(proto, facts.config(), facts.origin)
