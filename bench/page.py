"""Puts what was measured into a page, between two marks."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["replace_between_marks"]


def replace_between_marks(page: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- NAME -->` and the next `<!-- end -->`, each on a line.

    text: ends in a newline.  Raises ValueError for a page without these marks.
    """
    marked = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    old = page.read_text(encoding="utf-8")
    if not marked.search(old):
        raise ValueError(f"{page} has no <!-- {name} --> and <!-- end --> to write between")
    fresh = marked.sub(lambda found: found[1] + text + found[2], old, count=1)
    page.write_text(fresh, encoding="utf-8")
