"""Turns the text of one option into a value: human integers, JSON objects, numbers or "auto"."""

from __future__ import annotations

import json
import re
from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import Any

__all__ = ["auto_or", "human_integer", "json_object"]

NUMBER = re.compile(r"([+-]?\d+(?:\.\d+)?)([kKmMgGtT]?)")
POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def human_integer(text: str) -> int:
    """An integer, if need be with a unit: 32k is 32000, 32K is 32768, 1g and 1G likewise."""
    match = NUMBER.fullmatch(text.strip().replace("_", ""))
    if match is None:
        raise ArgumentTypeError(
            f"{text!r} is not an integer such as 4096, 32k (32000) or 32K (32768)"
        )
    number, unit = match.groups()
    factor = (1024 if unit.isupper() else 1000) ** POWERS[unit.lower()]
    value = float(number) * factor if "." in number else int(number) * factor
    if value != int(value):
        raise ArgumentTypeError(f"{text!r} is not a whole number")
    return int(value)


def json_object(text: str) -> dict[str, Any]:
    """A JSON object, such as {"rope_theta": 10000}."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ArgumentTypeError(f"{text!r} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ArgumentTypeError(f'{text!r} is not a JSON object such as {{"key": 1}}')
    return value


def auto_or(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    """A converter that also takes "auto", which means None: Quire chooses."""

    def convert_or_none(text: str) -> Any:
        return None if text == "auto" else convert(text)

    return convert_or_none
