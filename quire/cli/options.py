"""Makes command-line options of dataclass fields, and a dataclass's arguments of what was given."""

from __future__ import annotations

import argparse
import types
from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from quire.cli.aliases import ALIASES, HINTS, SYNONYMS
from quire.cli.values import auto_or, human_integer, json_object

__all__ = ["add_options", "given_options"]


def add_options(
    parser: argparse.ArgumentParser,
    title: str,
    config_class: type,
    skip: Sequence[str] = (),
    helps: Mapping[str, str] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Add an option for each field that has a default; a field without one is positional.

    helps: the help of a field, where its metadata has none.  defaults: what --help says in place of
    the field's own default.
    """
    group = parser.add_argument_group(title)
    kinds = get_type_hints(config_class)
    for option in fields(config_class):
        if option.name in skip:
            continue
        help_text = option.metadata.get("help") or (helps or {})[option.name]
        if _default(option) is MISSING:
            parser.add_argument(option.name, metavar=option.name.upper(), nargs="?", help=help_text)
            continue
        names = [f"--{option.name.replace('_', '-')}", *ALIASES.get(option.name, ())]
        default = (defaults or {}).get(option.name, _default(option))
        shown = (help_text + _shown_default(default)).replace("%", "%%")
        group.add_argument(*names, dest=option.name, help=shown, **_settings(option.name, kinds))


def given_options(namespace: argparse.Namespace, config_class: type) -> dict[str, Any]:
    """The fields of a class that the command line or the config file set, by name."""
    given = vars(namespace)
    return {each.name: given[each.name] for each in fields(config_class) if each.name in given}


def _settings(name: str, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of add_argument for a field, by its type."""
    inner, optional = _without_none(kinds[name])
    origin = get_origin(inner)
    if inner is bool:
        return {"action": argparse.BooleanOptionalAction}
    if origin is Literal:
        choices = [str(choice) for choice in get_args(inner)]
        return {"type": _choice(name, choices), "metavar": f"{{{','.join(choices)}}}"}
    if origin is tuple:
        item = human_integer if get_args(inner)[0] is int else str
        return {"nargs": "+", "action": "extend", "type": item, "metavar": _metavar(item)}
    convert = _converter(inner)
    if optional and convert is not str:
        return {"type": auto_or(convert), "metavar": _metavar(convert)}
    return {"type": convert, "metavar": _metavar(convert)}


def _choice(name: str, choices: Sequence[str]) -> Callable[[str], str]:
    """A converter that takes one of the choices, by its name here or elsewhere."""

    def choose(text: str) -> str:
        value = SYNONYMS.get(name, {}).get(text, text)
        if value in choices:
            return value
        hint = f"; {HINTS[name]}" if name in HINTS else ""
        raise ArgumentTypeError(
            f"invalid choice: {text!r} (choose from {', '.join(choices)}){hint}"
        )

    return choose


def _converter(kind: Any) -> Any:
    if kind is int:
        return human_integer
    if kind in (float, str):
        return kind
    if is_dataclass(kind) or get_origin(kind) is not None:
        return json_object
    raise TypeError(f"no option can be made of a field of type {kind}")


def _without_none(kind: Any) -> tuple[Any, bool]:
    """X | None → (X, True); anything else → (kind, False)."""
    if get_origin(kind) not in (Union, types.UnionType):
        return kind, False
    rest = [each for each in get_args(kind) if each is not type(None)]
    if len(rest) != 1:
        raise TypeError(f"no option can be made of a field of type {kind}")
    return rest[0], True


def _metavar(convert: Any) -> str:
    return {human_integer: "N", float: "X", json_object: "JSON"}.get(convert, "TEXT")


def _default(option: Field[Any]) -> Any:
    if option.default_factory is not MISSING:
        return option.default_factory()
    return option.default


def _shown_default(value: Any) -> str:
    if value is None or value == () or value == {} or value == "":
        return ""
    if isinstance(value, bool):
        return f" (default: {'on' if value else 'off'})"
    return f" (default: {value})"
