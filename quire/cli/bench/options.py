"""Checks that benchmark options share."""

from __future__ import annotations

from typing import Any

from quire.cli.usage import UsageError

__all__ = ["require_positive"]


def require_positive(bench: Any, *names: str) -> None:
    """Raises UsageError for a field of these that is below 1."""
    for name in names:
        if getattr(bench, name) < 1:
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} is {getattr(bench, name)}; give 1 or more")
