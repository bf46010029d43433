"""What a checkpoint says about its tokenizer outside the vocabulary file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quire.errors import CheckpointError

__all__ = ["AddedToken", "TokenizerConfig", "read_tokenizer_config"]

CONFIG_FILE = "tokenizer_config.json"
NAMED_SPECIALS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
EXTRA_SPECIALS = ("additional_special_tokens", "extra_special_tokens")


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token matched in the text before the vocabulary's own rules apply.

    lstrip, rstrip: it swallows the white space on its left, right.
    normalized: it is looked for in the normalised text, not in the raw one.
    behind: it is a token only right behind this text; with a SentencePiece model.
    """

    content: str
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True
    single_word: bool = False
    behind: str = ""


@dataclass(frozen=True, slots=True)
class TokenizerConfig:
    """The settings of tokenizer_config.json and the small files beside it.

    special_tokens: "bos_token" and its like → the token's text.  extra_special_tokens: the unnamed
    ones.  added_tokens: by id.  chat_templates: by name; the usual one is "default".
    add_bos, add_eos, legacy and add_prefix_space are None where the files do not say.
    tokenizer_class: of transformers, or of the family's own.  model_name: in small letters.
    prefix: tokens before every text.  turn_ends: tokens with which an answer ends, beside eos.
    """

    special_tokens: Mapping[str, str]
    extra_special_tokens: tuple[str, ...]
    added_tokens: Mapping[int, AddedToken]
    chat_templates: Mapping[str, str]
    add_bos: bool | None
    add_eos: bool | None
    legacy: bool | None
    add_prefix_space: bool | None
    tokenizer_class: str | None = None
    model_name: str = ""
    prefix: tuple[str, ...] = ()
    turn_ends: tuple[str, ...] = ()


def read_tokenizer_config(directory: Path) -> TokenizerConfig:
    """Read every file beside the vocabulary; each of them may be absent.

    Raises CheckpointError, naming the file, where one cannot be read.
    """
    settings = _read_json(directory / CONFIG_FILE)
    named = {**_read_json(directory / "special_tokens_map.json"), **settings}
    try:
        specials, extra = _special_tokens(named)
        return TokenizerConfig(
            special_tokens=specials,
            extra_special_tokens=extra,
            added_tokens=_added_tokens(directory, settings, {*specials.values(), *extra}),
            chat_templates=_chat_templates(directory, settings),
            add_bos=_flag(settings, "add_bos_token"),
            add_eos=_flag(settings, "add_eos_token"),
            legacy=_flag(settings, "legacy"),
            add_prefix_space=_flag(settings, "add_prefix_space"),
            tokenizer_class=_class_name(settings),
            model_name=_model_name(directory, settings),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{directory / CONFIG_FILE} is malformed: {error!r}") from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}; it must be a JSON object")
    return value


def _special_tokens(settings: Mapping[str, Any]) -> tuple[dict[str, str], tuple[str, ...]]:
    specials = {name: _text(settings[name]) for name in NAMED_SPECIALS if settings.get(name)}
    extra: list[str] = []
    for key in EXTRA_SPECIALS:
        value = settings.get(key) or []
        if isinstance(value, Mapping):  # named extras, such as {"image_token": "<image>"}
            specials |= {name: _text(token) for name, token in value.items()}
        else:
            extra += [_text(token) for token in value]
    return specials, tuple(extra)


def _text(token: Any) -> str:
    return str(token["content"] if isinstance(token, Mapping) else token)


def _flag(settings: Mapping[str, Any], name: str) -> bool | None:
    value = settings.get(name)
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; it must be true or false")
    return value


def _class_name(settings: Mapping[str, Any]) -> str | None:
    """The tokenizer's class; older files name it only in `auto_map`, as module.Class."""
    own = (settings.get("auto_map") or {}).get("AutoTokenizer") or [None]
    name = settings.get("tokenizer_class") or (own if isinstance(own, str) else own[0])
    return None if name is None else str(name).rpartition(".")[2]


def _model_name(directory: Path, settings: Mapping[str, Any]) -> str:
    """What the files call the model, and the directory too."""
    config = _read_json(directory / "config.json")
    names = (settings.get("name_or_path"), config.get("_name_or_path"), directory.resolve().name)
    return " ".join(str(name) for name in names if name).lower()


def _added_tokens(
    directory: Path, settings: Mapping[str, Any], specials: set[str]
) -> dict[int, AddedToken]:
    declared = settings.get("added_tokens_decoder") or {}
    added = {int(token): _added_token(entry) for token, entry in declared.items()}
    for content, token in _read_json(directory / "added_tokens.json").items():
        special = content in specials
        added.setdefault(int(token), AddedToken(content, special, normalized=not special))
    return added


def _added_token(entry: Mapping[str, Any]) -> AddedToken:
    flags = ("special", "lstrip", "rstrip", "single_word")
    normalized = bool(entry.get("normalized", not entry.get("special", False)))
    chosen: dict[str, Any] = {name: bool(entry.get(name, False)) for name in flags}
    return AddedToken(str(entry["content"]), normalized=normalized, **chosen)


def _chat_templates(directory: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """The templates by name; a file of its own goes before the entry in the config."""
    templates: dict[str, str] = {}
    legacy = _read_json(directory / "chat_template.json").get("chat_template")
    for value in (settings.get("chat_template"), legacy):
        if isinstance(value, str):
            templates["default"] = value
        else:
            templates |= {entry["name"]: entry["template"] for entry in value or []}
    files = {"default": directory / "chat_template.jinja"}
    files |= {path.stem: path for path in directory.glob("additional_chat_templates/*.jinja")}
    for name, path in files.items():
        if path.is_file():
            templates[name] = path.read_text(encoding="utf-8")
    return templates
