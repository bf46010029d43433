"""Maps a file read-only, so that its bytes are read when they are used and never copied."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.errors import CheckpointError

__all__ = ["map_file", "mapping_of"]

LFS_POINTER = b"version https://git-lfs"


def map_file(path: Path) -> npt.NDArray[np.uint8]:
    """Map all bytes of a file, and no more: an index past the real size is an IndexError.

    The map lives as long as the array or a view of it.  Whoever shortens the file meanwhile
    takes the pages away (SIGBUS); replacing it by renaming is safe.
    Raises CheckpointError if it is missing, unreadable, empty or a Git LFS pointer.
    """
    try:
        if not path.is_file():  # a FIFO would block in open()
            raise CheckpointError(f"{path}: no such file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise CheckpointError(f"{path}: the file is empty; download it again")
            pages = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if pages[: len(LFS_POINTER)] == LFS_POINTER:
        raise CheckpointError(
            f"{path}: this is a Git LFS pointer, not the weights; run `git lfs pull` there"
        )
    return np.frombuffer(pages, dtype=np.uint8)


def mapping_of(array: npt.NDArray[Any]) -> mmap.mmap | None:
    """The map of a file that an array is a view of; None where it is of none."""
    owner: Any = array
    while isinstance(owner, np.ndarray | memoryview):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    return owner if isinstance(owner, mmap.mmap) else None
