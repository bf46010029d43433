"""Writes a file that is there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["PART_SUFFIX", "whole_file"]

PART_SUFFIX = ".part"
"""Of what is not written yet; a process that is killed leaves it behind."""


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A new file, of mode 0600, that takes the place of `path` once its block of code is over.

    Nothing is left behind where that raises.  Raises OSError where the file cannot be made.
    """
    handle, name = tempfile.mkstemp(PART_SUFFIX, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
