"""Parses JSON in which no object has a key twice, so that two readers cannot disagree."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["parse_json"]


def parse_json(raw: bytes) -> Any:
    """Parse UTF-8 JSON.

    Raises ValueError for text that is not JSON, nests too deeply or repeats a key.
    """
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError("its JSON nests too deeply") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object whose keys all differ."""
    built: dict[str, Any] = {}
    for key, value in pairs:
        if key in built:
            raise ValueError(f"its JSON has the key {key!r:.200} twice")
        built[key] = value
    return built
