"""Reads a quantization_config strictly: what nobody read and could matter is an error."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from quire.errors import ModelError

__all__ = ["Settings", "is_listed", "is_named"]


class Settings:
    """A JSON object of a quantization config that remembers which keys were asked for.

    where: what the object is, for messages.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = values
        self._read: set[str] = set()
        self.where = where

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key; `default` when it is absent or null."""
        self._read.add(key)
        value = self._values.get(key)
        return default if value is None else value

    def integer(self, key: str, default: int | None, allowed: Sequence[int] | None = None) -> int:
        """A whole number, one of `allowed` if that is given."""
        value = self.get(key, default)
        if type(value) is not int or (allowed is not None and value not in allowed):
            wanted = "a whole number" if allowed is None else f"one of {_list(allowed)}"
            raise self.error(key, value, wanted)
        return value

    def group_size(self, key: str, default: int) -> int | None:
        """Columns that share a scale; None for whole rows, which configs write as -1."""
        size = self.integer(key, default)
        if size == -1:
            return None
        if size < 1:
            raise self.error(key, size, "a positive number or -1")
        return size

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, value, "true or false")
        return value

    def choice(self, key: str, default: str | None, allowed: Sequence[str]) -> str:
        """One of some words, in any case."""
        value = self.get(key, default)
        if not isinstance(value, str) or value.lower() not in allowed:
            raise self.error(key, value, f"one of {_list(allowed)}")
        return value.lower()

    def names(self, *keys: str) -> tuple[str, ...]:
        """A list of words, from all of these keys together."""
        found: list[str] = []
        for key in keys:
            value = self.get(key, [])
            if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
                raise self.error(key, value, "a list of names")
            found += value
        return tuple(found)

    def section(self, key: str) -> Settings | None:
        """The object at a key, None when there is none."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(key, value, "a JSON object")
        return Settings(value, f"{self.where}.{key}")

    def items(self) -> list[tuple[str, Any]]:
        """All keys and values, as they are."""
        self._read.update(self._values)
        return list(self._values.items())

    def skip(self, *keys: str) -> None:
        """These keys are known to say nothing about how weights are read."""
        self._read.update(keys)

    def finish(self) -> None:
        """Raise ModelError for keys with a value that nobody asked for."""
        active = {
            key: value
            for key, value in self._values.items()
            if key not in self._read and value not in (None, False, 0, "", [], {})
        }
        if active:
            shown = ", ".join(f"{key}={value!r:.80}" for key, value in active.items())
            raise ModelError(
                f"{self.where} sets {shown}, which Quire does not know and which may change what "
                "the weights mean; use another checkpoint of this model"
            )

    def error(self, key: str, value: object, wanted: str) -> ModelError:
        """What a key is and what it should be."""
        return ModelError(f"{self.where}: {key} is {value!r:.200}; Quire reads {wanted}")


def is_named(module: str, names: Sequence[str]) -> bool:
    """Whether a name is a run of whole parts of the module's path ("lm_head", "mlp.gate")."""
    path = f".{module}."
    return any(f".{name.strip('.')}." in path for name in names)


def is_listed(module: str, names: Sequence[str]) -> bool:
    """Whether a list of modules to leave alone names this one.

    A name counts as in `is_named`, or as a regular expression, perhaps after "re:", that matches
    the module from its start up to the end of a part, as transformers has it.
    """
    return is_named(module, names) or any(_matches(name, module) for name in names)


def _matches(pattern: str, module: str) -> bool:
    pattern = pattern.removeprefix("re:")
    try:
        return re.match(rf"(?:{pattern})(?:(?<=\.)|(?=\.|$))", module) is not None
    except re.error:
        return False


def _list(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))
