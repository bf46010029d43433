"""Finds the parts of one kind in a part of a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import TypeVar

__all__ = ["parts"]

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
