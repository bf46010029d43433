"""Quantized matrices as blocks of GGUF: Q4_0, Q4_1 and Q8_0, without rounding anything twice."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quire.quant.matrix import QuantizedMatrix

__all__ = ["block_format_of", "encode"]

COLUMNS = 32
Bytes = npt.NDArray[np.uint8]


def block_format_of(matrix: QuantizedMatrix) -> str:
    """The name of the format whose blocks hold this matrix.

    Raises ValueError where none does: other than 4 or 8 bits, a table, columns in another order,
    groups or rows that do not fill blocks of 32 columns.
    """
    whole = matrix.group_size % COLUMNS == 0 and matrix.shape[1] % COLUMNS == 0
    plain = matrix.table is None and matrix.order is None and whole
    signed = matrix.zeros is None and matrix.minimums is None
    if plain and matrix.bits == 4:
        return "Q4_0" if signed else "Q4_1"
    if plain and matrix.bits == 8 and signed:
        return "Q8_0"
    raise ValueError(
        f"{matrix.name!r}, {matrix.bits} bits in groups of {matrix.group_size}, fits none of "
        "Q4_0, Q4_1 and Q8_0"
    )


def encode(matrix: QuantizedMatrix) -> Bytes:
    """The rows as blocks, [rows, bytes of a row], in the format that `block_format_of` names.

    Scales are rounded to float16, and so is -minimum, or -zero * scale.
    """
    kind, (rows, cols) = block_format_of(matrix), matrix.shape
    repeat = matrix.group_size // COLUMNS
    codes = matrix.codes.reshape(rows, cols // COLUMNS, COLUMNS)

    def per_block(values: npt.NDArray[np.float32]) -> Bytes:
        blocks = np.repeat(values, repeat, axis=1)[:, : cols // COLUMNS]
        return np.ascontiguousarray(blocks[..., None].astype("<f2")).view(np.uint8)

    pieces = [per_block(matrix.scales)]
    if kind == "Q4_1":
        pieces.append(per_block(_offsets(matrix)))
    if kind == "Q8_0":
        pieces.append(codes ^ np.uint8(128))
    else:
        pieces.append(codes[..., :16] | (codes[..., 16:] << np.uint8(4)))
    return np.concatenate(pieces, axis=-1).reshape(rows, -1)


def _offsets(matrix: QuantizedMatrix) -> npt.NDArray[np.float32]:
    if matrix.minimums is not None:
        return -matrix.minimums
    assert matrix.zeros is not None
    return -matrix.zeros.astype(np.float32) * matrix.scales
