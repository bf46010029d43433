"""Marks each request field as honoured, accepted without effect, or refused, and checks it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from quire.errors import RequestError

__all__ = ["FieldSupport", "accepted", "check_refused", "field_support", "honoured", "refused"]

Level = Literal["honoured", "accepted", "refused"]


@dataclass(frozen=True, slots=True)
class FieldSupport:
    """What becomes of one field; `neutral` are the values that a refused field may still have."""

    level: Level
    text: str
    neutral: tuple[object, ...] = ()


def honoured(text: str) -> Meta:
    """A field that does what it says."""
    return _meta(FieldSupport("honoured", text))


def accepted(text: str) -> Meta:
    """A field that cannot change the output, so that ignoring it is not a lie."""
    return _meta(FieldSupport("accepted", text))


def refused(text: str, *neutral: object) -> Meta:
    """A known field that would change the output and is not built: an error unless neutral."""
    return _meta(FieldSupport("refused", text, (None, *neutral)))


@cache
def field_support(kind: type[msgspec.Struct]) -> dict[str, FieldSupport]:
    """How each field of a request type is supported, by its name on the wire."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        field.encode_name: _support(hints[field.name]) for field in msgspec.structs.fields(kind)
    }


def check_refused(request: msgspec.Struct, path: str = "") -> None:
    """Raise RequestError for the first refused field with a value that would need honouring.

    path: where the request stands in an outer one, ending in a dot.
    """
    for name, support in _refused_fields(type(request)):
        value = getattr(request, name)
        if value not in support.neutral:
            raise RequestError(f"{path}{name} is not supported: {support.text}", path + name)
    for name in request.__struct_fields__:
        value = getattr(request, name)
        if isinstance(value, msgspec.Struct):
            check_refused(value, f"{path}{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], msgspec.Struct):
            for n, each in enumerate(value):
                check_refused(each, f"{path}{name}[{n}].")


@cache
def _refused_fields(kind: type[msgspec.Struct]) -> tuple[tuple[str, FieldSupport], ...]:
    found = field_support(kind).items()
    return tuple((name, support) for name, support in found if support.level == "refused")


def _meta(support: FieldSupport) -> Meta:
    return Meta(
        description=support.text,
        extra_json_schema={"x-support": support.level},
        extra={"support": support},
    )


def _support(hint: Any) -> FieldSupport:
    for note in get_args(hint)[1:] if get_origin(hint) is not None else ():
        if isinstance(note, Meta) and note.extra and "support" in note.extra:
            support: FieldSupport = note.extra["support"]
            return support
    return FieldSupport("honoured", "")
