"""Moves mapped matrices into huge pages, where the kernels stream them faster.

A file's pages are of 4 KiB: every one costs a look-up of its address, and a prefetcher stops at its
end.  Decoding reads every matrix once a token, so a copy of a second's worth pays at once.
See docs/decisions/0013-weights-in-huge-pages.md.
"""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.backends.executable import LoadedWeights, StoredWeight
from quire.ops.aligned import CACHE_LINE
from quire.weights.mapped_file import mapping_of

__all__ = ["has_huge_pages", "in_huge_pages", "is_mapped"]

ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PIECE = 8 * 1024**2
"""Bytes that a thread copies at a time."""

Bytes = npt.NDArray[np.uint8]


def has_huge_pages(enabled: Path = ENABLED) -> bool:
    """Whether the system gives huge pages to large arrays; numpy asks for them by itself."""
    try:
        return "[never]" not in enabled.read_text()
    except OSError:
        return False


def in_huge_pages(weights: LoadedWeights, names: Collection[str], threads: int) -> LoadedWeights:
    """The weights, with those of `names` that lie in a mapped file copied into one large array.

    They keep their order, so the prefetchers that run on behind an expert's gate find its up there.
    The file stays mapped only as long as other weights lie in it.
    """
    moving = {name: w for name, w in weights.items() if name in names and is_mapped(w.data)}
    sizes = [_padded(weight.data.nbytes) for weight in moving.values()]
    arena = np.empty(sum(sizes) + CACHE_LINE, np.uint8)
    start = -arena.ctypes.data % CACHE_LINE
    moved: dict[str, StoredWeight] = {}
    copies: list[tuple[Bytes, Bytes]] = []
    for (name, weight), size in zip(moving.items(), sizes, strict=True):
        source = weight.data.reshape(-1).view(np.uint8)
        target = arena[start : start + source.size]
        copies += _pieces(source, target)
        data = target.view(weight.data.dtype).reshape(weight.data.shape)
        moved[name] = replace(weight, data=data)  # type: ignore[type-var]
        start += size
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(_move, copies))
    return {**weights, **moved}


def _move(piece: tuple[Bytes, Bytes]) -> None:
    """Copy a piece, and take its pages out of this process: only the system's cache keeps them.

    Or the process would hold every weight twice by the end of the copy.
    """
    source, target = piece
    np.copyto(target, source)
    pages = mapping_of(source)
    if pages is not None and hasattr(mmap, "MADV_DONTNEED"):
        start = source.ctypes.data - np.frombuffer(pages, np.uint8).ctypes.data
        before = start % mmap.PAGESIZE
        pages.madvise(mmap.MADV_DONTNEED, start - before, before + source.size)


def _pieces(source: Bytes, target: Bytes) -> Iterator[tuple[Bytes, Bytes]]:
    for at in range(0, source.size, PIECE):
        yield source[at : at + PIECE], target[at : at + PIECE]


def is_mapped(array: npt.NDArray[Any]) -> bool:
    """Whether the array is a view of a mapped file."""
    return mapping_of(array) is not None


def _padded(size: int) -> int:
    return -(-size // CACHE_LINE) * CACHE_LINE
