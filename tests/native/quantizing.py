"""Activation rows as the quantize op writes them, and random packed matrices."""

from __future__ import annotations

from typing import Any

import numpy as np

from quire.backends.native import abi as c
from quire.backends.native import library
from quire.ops.quantize import row_floats
from quire.quant.packed import BITS, PackedDtype, PackedMatrix, pack
from quire.quant.packed_floats import pack_bytes
from tests.native.one_op import run

Array = np.ndarray[Any, Any]

ROW_BLOCK = np.dtype(
    [
        ("scale", "f4"),
        ("sum", "f4"),
        ("correction", "i4"),
        ("code_sums", "i2", 2),
        ("codes", "i1", 32),
    ]
)
"""struct QuantizedBlock of csrc/cpu/packed.h."""


def quantize(pool: library.ThreadPool, isa: int, x: Array) -> Array:
    """Rows of QuantizedBlock, as float32 [M, 12 * blocks], of x [M, K]."""
    op = c.Op(kind=c.OP_QUANTIZE)
    (out,) = run(pool, isa, op, [x], [row_floats(x.shape[1], "int8")])
    return out


def blocks_of(rows: Array) -> Array:
    """The same rows as records: [M, blocks] of ROW_BLOCK."""
    return np.ascontiguousarray(rows).view(np.uint8).view(ROW_BLOCK).reshape(len(rows), -1)


def random_packed(
    rng: np.random.Generator,
    dtype: PackedDtype,
    shape: tuple[int, int],
    group_size: int,
    offset: str = "",
    table: tuple[int, ...] = (),
) -> PackedMatrix:
    """Codes of every value, scales of both signs; offset: "", "zero points" or "minimums"."""
    rows, cols = shape
    codes = rng.integers(0, 1 << BITS[dtype], shape, np.uint8)
    groups = -(-cols // group_size)
    scales = rng.normal(0, 0.1, (rows, groups)).astype(np.float16)
    zeros = rng.integers(0, 1 << BITS[dtype], (rows, groups), np.uint8)
    minimums = rng.normal(0, 1, (rows, groups)).astype(np.float16)
    return pack(
        "w",
        dtype,
        group_size,
        codes,
        scales,
        zeros if offset == "zero points" else None,
        minimums=minimums if offset == "minimums" else None,
        exponent=int(rng.integers(-3, 4)),
        table=table,
    )


def random_float8(
    rng: np.random.Generator, shape: tuple[int, int], group_size: int, codes: Array | None = None
) -> PackedMatrix:
    """A matrix with every code, and scales of both signs."""
    codes = rng.integers(0, 256, shape, np.uint8) if codes is None else codes
    scales = rng.normal(0, 0.1, (shape[0], -(-shape[1] // group_size))).astype(np.float32)
    return PackedMatrix("w", "F8_E4M3", shape, group_size, False, pack_bytes(codes, scales))
