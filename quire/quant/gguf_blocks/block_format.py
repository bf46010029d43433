"""What a GGUF block format is, and the bit fields that its blocks are made of.

A row is a run of blocks of equal size.  In each, codes stand as bit fields: the fields of one byte
belong to columns that are a fixed distance apart, so a block is read as [chunks, fields, bytes].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quire.quant.matrix import QuantizedMatrix

__all__ = ["BlockFormat", "Blocks", "fields", "half", "split"]

Bytes = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks of a matrix, taken apart; every array begins with the axes [rows, blocks].

    codes: [..., columns].  scales and minimums: [..., groups].  table: [2**bits], for all blocks.
    """

    codes: Bytes
    scales: Float32
    minimums: Float32 | None = None
    table: Float32 | None = None


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """One format: its name in GGUF, columns and bytes of a block, bits of a code, and a reader.

    group_size: columns that share a scale.  read: bytes [rows, blocks, nbytes] → their parts.
    """

    name: str
    columns: int
    nbytes: int
    bits: int
    group_size: int
    read: Callable[[Bytes], Blocks]

    def matrix(self, name: str, raw: Bytes) -> QuantizedMatrix:
        """The matrix whose rows are raw, [rows, bytes of a row]: exactly what the format says."""
        rows = len(raw)
        with np.errstate(over="ignore", invalid="ignore"):  # scales may be anything
            blocks = self.read(raw.reshape(rows, -1, self.nbytes))
        minimums = None if blocks.minimums is None else blocks.minimums.reshape(rows, -1)
        return QuantizedMatrix(
            name,
            self.bits,
            self.group_size,
            np.ascontiguousarray(blocks.codes.reshape(rows, -1)),
            np.ascontiguousarray(blocks.scales.reshape(rows, -1)),
            minimums=minimums,
            table=blocks.table,
        )


def split(blocks: Bytes, *sizes: int) -> list[Bytes]:
    """Cut the bytes of each block into pieces of these sizes, which make up the whole block."""
    assert sum(sizes) == blocks.shape[-1]
    return np.split(blocks, np.cumsum(sizes)[:-1], axis=-1)


def half(raw: Bytes) -> Float32:
    """float16 numbers, [..., bytes] → [..., numbers], widened."""
    return np.ascontiguousarray(raw).view("<f2").astype(np.float32)


def fields(raw: Bytes, bits: int, run: int) -> Bytes:
    """Unpack bit fields: [..., bytes] → [..., columns], the lowest field of a byte first.

    run: bytes whose first fields are neighbouring columns; their second fields follow, and so on.
    """
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    runs = raw.reshape(*raw.shape[:-1], -1, 1, run) >> shifts  # [..., runs, fields, run]
    runs &= np.uint8((1 << bits) - 1)
    return runs.reshape(*raw.shape[:-1], -1)
