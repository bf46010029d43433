"""Says which variables a chat template reads, so that none is given in vain."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from quire.errors import RequestError

__all__ = ["check_variables", "reads"]


def reads(sources: Iterable[str], name: str) -> bool:
    """Whether one of the templates mentions a variable, whatever it does with it."""
    word = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")
    return name.isidentifier() and any(word.search(source) for source in sources)


def check_variables(sources: Iterable[str], variables: Mapping[str, Any]) -> None:
    """Raise RequestError for a variable that is given, not None, and that no template mentions."""
    texts = tuple(sources)
    for name, value in variables.items():
        if value is not None and not reads(texts, name):
            raise RequestError(
                f"the chat template does not read {name!r}, so it would have no effect", name
            )
