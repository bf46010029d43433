"""What a family's own tokenizer class knows that no file of its checkpoints says.

Some families came with a Python class in place of a tokenizer.json.  What such a class adds to the
vocabulary, its special tokens, what it puts before a text, the form of a chat, is data here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from quire.text.family_templates import (
    BAICHUAN,
    CHAT_ML,
    CHAT_ML_WITH_SYSTEM,
    CHATGLM_2,
    CHATGLM_3,
    GLM_4,
    INTERNLM,
    KIMI_K2,
)
from quire.text.pre_tokenizers import GLM_4_WORDS, KIMI_WORDS, QWEN_WORDS, PreTokenizer
from quire.text.tokenizer_config import AddedToken, TokenizerConfig

__all__ = ["FAMILIES", "TokenizerFamily", "Vocabulary", "complete", "find_family"]


class Vocabulary(Protocol):
    """The pieces of a SentencePiece model."""

    def get_piece_size(self) -> int: ...
    def id_to_piece(self, token: int) -> str: ...
    def piece_to_id(self, piece: str) -> int: ...


@dataclass(frozen=True, slots=True)
class TokenizerFamily:
    """One tokenizer class.

    tokenizer_class: as tokenizer_config.json names it.  known_by: parts of a model's name that tell
    families of one class apart; the last family of a class needs none.
    words: how text is cut before merges; for files of tiktoken ranks only.
    specials: tokens that follow the vocabulary, in order.  reserved: how many follow it in all;
    those without a name are "<|reserved_token_N|>".  behind: special → what must stand before it.
    renamed: piece of the vocabulary → the special token that took its place.
    roles: variable of the chat template → id of a piece.  named: "bos_token" and its like → text.
    prefix: tokens that stand before a text.  turn_ends: tokens with which an answer ends.
    """

    tokenizer_class: str
    chat_template: str
    known_by: tuple[str, ...] = ()
    words: PreTokenizer | None = None
    specials: tuple[str, ...] = ()
    reserved: int = 0
    behind: Mapping[str, str] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    roles: Mapping[str, int] = field(default_factory=dict)
    named: Mapping[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    turn_ends: tuple[str, ...] = ()


QWEN = TokenizerFamily(
    "QWenTokenizer",
    CHAT_ML_WITH_SYSTEM,
    words=QWEN_WORDS,
    specials=(
        *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        *(f"<|extra_{number}|>" for number in range(205)),
    ),
    named={"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    turn_ends=("<|im_end|>",),
)
_GLM_ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
GLM_4_FAMILY = TokenizerFamily(
    "ChatGLM4Tokenizer",
    GLM_4,
    words=GLM_4_WORDS,
    specials=(
        *("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", *_GLM_ROLES),
        *("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"),
    ),
    named={"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    prefix=("[gMASK]", "<sop>"),
    turn_ends=("<|user|>", "<|observation|>"),
)
KIMI = TokenizerFamily(
    "TikTokenTokenizer",
    KIMI_K2,
    words=KIMI_WORDS,
    reserved=256,  # their names are in tokenizer_config.json
    named={"bos_token": "[BOS]", "eos_token": "[EOS]"},
    turn_ends=("<|im_end|>",),
)
# "sop" is a token of its own right behind "[gMASK]" alone, not in "sophisticated".
_GLM_MASKS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
CHATGLM2 = TokenizerFamily(
    "ChatGLMTokenizer",
    CHATGLM_2,
    known_by=("chatglm2", "codegeex2"),
    specials=_GLM_MASKS,
    behind={"sop": "[gMASK]", "eop": "[gMASK]"},
    named={"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"},
    prefix=("[gMASK]", "sop"),
)
CHATGLM3 = replace(
    CHATGLM2,
    chat_template=CHATGLM_3,
    known_by=(),
    specials=(*_GLM_MASKS, *_GLM_ROLES),
    turn_ends=("<|user|>", "<|observation|>"),
)
_SENTENCEPIECE_NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
BAICHUAN_FAMILY = TokenizerFamily(
    "BaichuanTokenizer",
    BAICHUAN,
    roles={"user_token": 195, "assistant_token": 196},  # reserved ones; their names changed once
    named=_SENTENCEPIECE_NAMES,
)
INTERNLM_FAMILY = TokenizerFamily(
    "InternLMTokenizer",
    INTERNLM,
    renamed={"<eoh>": "<eoh>", "<eoa>": "<eoa>"},
    named=_SENTENCEPIECE_NAMES,
    turn_ends=("<eoa>",),
)
INTERNLM2 = TokenizerFamily(
    "InternLM2Tokenizer",
    CHAT_ML,
    renamed={
        "[UNUSED_TOKEN_141]": "<|plugin|>",
        "[UNUSED_TOKEN_142]": "<|interpreter|>",
        "[UNUSED_TOKEN_143]": "<|action_end|>",
        "[UNUSED_TOKEN_144]": "<|action_start|>",
        "[UNUSED_TOKEN_145]": "<|im_end|>",
        "[UNUSED_TOKEN_146]": "<|im_start|>",
    },
    named=_SENTENCEPIECE_NAMES,
    turn_ends=("<|im_end|>",),
)

FAMILIES = (
    *(QWEN, GLM_4_FAMILY, KIMI),
    *(CHATGLM2, CHATGLM3, BAICHUAN_FAMILY, INTERNLM_FAMILY, INTERNLM2),
)


def find_family(config: TokenizerConfig, file_name: str = "") -> TokenizerFamily | None:
    """The family that the config's class names, or a vocabulary file that just one family has."""
    files = {"qwen.tiktoken": QWEN, "tiktoken.model": KIMI}
    same_class = [each for each in FAMILIES if each.tokenizer_class == config.tokenizer_class]
    for family in same_class:
        if not family.known_by or any(part in config.model_name for part in family.known_by):
            return family
    return files.get(file_name)


def complete(
    config: TokenizerConfig,
    family: TokenizerFamily,
    size: int,
    vocabulary: Vocabulary | None = None,
) -> TokenizerConfig:
    """The config with all that the family adds to it; what a file says goes before that.

    size: of the vocabulary, where the family's own tokens begin.
    """
    named = {**family.named, **config.special_tokens}
    added = dict(config.added_tokens)
    taken = {token.content for token in added.values()}
    for token, content in _own_tokens(family, size, vocabulary).items():
        if content not in taken:
            added.setdefault(token, AddedToken(content, special=True, normalized=False))
    for token, each in added.items():
        if each.content in family.behind:
            added[token] = replace(each, behind=family.behind[each.content])
    if vocabulary is not None:
        known = {name: t for name, t in family.roles.items() if t < vocabulary.get_piece_size()}
        named |= {name: vocabulary.id_to_piece(token) for name, token in known.items()}
    return replace(
        config,
        special_tokens=named,
        added_tokens=added,
        chat_templates=config.chat_templates or {"default": family.chat_template},
        prefix=family.prefix,
        turn_ends=family.turn_ends,
    )


def _own_tokens(
    family: TokenizerFamily, size: int, vocabulary: Vocabulary | None
) -> dict[int, str]:
    """The family's special tokens by id."""
    reserved = {size + n: f"<|reserved_token_{size + n}|>" for n in range(family.reserved)}
    own = {size + n: name for n, name in enumerate(family.specials)}
    renamed = family.renamed.items() if vocabulary is not None else ()
    for piece, content in renamed:
        assert vocabulary is not None
        token = vocabulary.piece_to_id(piece)
        if vocabulary.id_to_piece(token) == piece:
            own[token] = content
    return {**reserved, **own}
