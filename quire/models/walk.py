"""Walks through a spec: finds the parts of one kind, or changes every weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast

from quire.models.linear import Weight

__all__ = ["each_weight", "parts"]

Part = TypeVar("Part")


def parts(part: object, kind: type[Part]) -> Iterator[Part]:
    """Every value of one kind within a part of a spec, in the order of the fields that hold them.

    So a new part needs no code to have its weights loaded, counted and quantized.  What a language
    model sees with is not part of it.
    """
    if isinstance(part, kind):
        yield part
    elif isinstance(part, tuple):
        for each in part:
            yield from parts(each, kind)
    elif is_dataclass(part):
        for name in part.__dataclass_fields__:
            if name != "vision":
                yield from parts(getattr(part, name), kind)


def each_weight(part: Part, change: Callable[[Weight], Weight]) -> Part:
    """A part of a spec, with every weight in it changed."""
    made: Any = part
    if isinstance(part, Weight):
        made = change(part)
    elif isinstance(part, tuple):
        made = tuple(each_weight(each, change) for each in part)
    elif is_dataclass(part) and not isinstance(part, type):
        values = {each.name: getattr(part, each.name) for each in fields(part)}
        made = replace(part, **{key: each_weight(v, change) for key, v in values.items()})
    return cast(Part, made)
