"""Makes a tokenizer of a tekken.json: Mistral's tiktoken ranks, behind a thousand special tokens.

Source: the tekken.json files of Mistral's checkpoints; mistral-common 1.8, tokenizers/tekken.py.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from quire.errors import CheckpointError
from quire.text.family_templates import MISTRAL_7
from quire.text.hf_tokenizer import HFTokenizer
from quire.text.pre_tokenizers import PreTokenizer
from quire.text.tiktoken_tokenizer import check_bytes, ranked_backend, spelled
from quire.text.tokenizer_config import AddedToken, TokenizerConfig

__all__ = ["load_tekken_tokenizer"]

FIRST_SPECIALS = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]"),
    *("[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    "[TOOL_CONTENT]",
)
"""Those of files that do not name theirs; the others of a thousand are <SPECIAL_n>."""
NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
SYSTEM_PROMPTS_SINCE = 7
"""The version from which on a system prompt stands between tokens of its own."""


def load_tekken_tokenizer(path: Path, config: TokenizerConfig) -> HFTokenizer:
    """The tokenizer of a tekken.json; what tokenizer_config.json says goes before its own.

    A file of version 7 or later brings a form of chats without tools, if there is none beside it.
    Raises CheckpointError for a file that is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        settings = content["config"]
        specials = _specials(content, int(settings["default_num_special_tokens"]))
        ranks = _ranks(content, int(settings["default_vocab_size"]) - len(specials))
        words = PreTokenizer((str(settings["pattern"]),))
        version = int(str(settings.get("version", "v3")).lstrip("v").partition("m")[0])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error!r:.200}") from error
    check_bytes(path, ranks)
    added = {
        token: AddedToken(name, special=True, normalized=False)
        for token, name in enumerate(specials)
    }
    templates = {"default": MISTRAL_7} if version >= SYSTEM_PROMPTS_SINCE else {}
    config = replace(
        config,
        special_tokens={**NAMED, **config.special_tokens},
        added_tokens={**added, **config.added_tokens},
        chat_templates=config.chat_templates or templates,
    )
    vocabulary = {token: len(specials) + rank for rank, token in enumerate(ranks)}
    backend = ranked_backend(vocabulary, words, config, ("<s>",))
    return HFTokenizer(backend, config, str(path))


def _specials(content: Mapping[str, Any], count: int) -> list[str]:
    """The special tokens in order."""
    listed = content.get("special_tokens")
    named = dict(enumerate(FIRST_SPECIALS))
    if listed:
        named = {int(each["rank"]): str(each["token_str"]) for each in listed}
    return [named.get(token, f"<SPECIAL_{token}>") for token in range(count)]


def _ranks(content: Mapping[str, Any], count: int) -> list[str]:
    """The first tokens of the vocabulary in byte letters, by rank; files hold more."""
    entries = sorted(content["vocab"], key=lambda entry: int(entry["rank"]))[: max(count, 0)]
    return [spelled(binascii.a2b_base64(entry["token_bytes"])) for entry in entries]
