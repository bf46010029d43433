"""The methods by the names that users choose them by."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from quire.speculative.ngram import NgramMethod
from quire.speculative.proposer import Method
from quire.speculative.speculator import Speculator
from quire.speculative.suffix import SuffixMethod

__all__ = ["METHODS", "load_speculator"]

METHODS: Mapping[str, Callable[[], Method]] = {"ngram": NgramMethod, "suffix": SuffixMethod}


def load_speculator(method: str, most: int) -> Speculator | None:
    """What drafts for a scheduler, at most `most` tokens per request and step; None for "off"."""
    return None if method == "off" else Speculator(METHODS[method](), most)
