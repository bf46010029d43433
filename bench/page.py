"""Puts what was measured into a page, between two marks."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["between_marks", "replace_between_marks"]


def between_marks(page: Path, name: str) -> str:
    """What stands between `<!-- NAME -->` and the next `<!-- end -->`, each on a line.

    Raises ValueError for a page without these marks.
    """
    text = page.read_text(encoding="utf-8")
    start, stop = _span(page, name, text)
    return text[start:stop]


def replace_between_marks(page: Path, name: str, text: str) -> None:
    """Put text, which ends in a newline, between the marks of this name.  Raises ValueError."""
    old = page.read_text(encoding="utf-8")
    start, stop = _span(page, name, old)
    page.write_text(old[:start] + text + old[stop:], encoding="utf-8")


def _span(page: Path, name: str, text: str) -> tuple[int, int]:
    marked = re.search(rf"<!-- {re.escape(name)} -->\n(.*?)<!-- end -->", text, re.DOTALL)
    if marked is None:
        raise ValueError(f"{page} has no <!-- {name} --> and <!-- end --> to write between")
    return marked.span(1)
