"""Rounds activations to int8 or bfloat16, for kernels that multiply those.

int8: each row is cut into blocks of 32 columns; a block's scale is its largest magnitude / 127 and
its codes are x / scale, rounded to nearest even.  Every matrix that reads the row shares them.
A matrix whose columns were sorted reads blocks of columns in its order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from quire.ops.column_order import ColumnOrder
from quire.ops.number_formats import bfloat16_bits, float32_from_bfloat16
from quire.ops.op import Cost, Environment, Float32, FusedOp, Op, WithoutWeights

__all__ = ["BLOCK", "Quantize", "Quantized", "RowFormat", "quantized_codes", "row_floats"]

BLOCK = 32
"""Columns that share an activation scale."""

RowFormat = Literal["float32", "bfloat16", "int8"]
"""How rows of activations are stored."""


def row_floats(width: int, format: RowFormat) -> int:
    """The room of one row in float32; an int8 block has four numbers and 32 codes."""
    per_block = {"float32": BLOCK, "bfloat16": BLOCK // 2, "int8": 4 + BLOCK // 4}[format]
    return width if format == "float32" else -(-width // BLOCK) * per_block


def quantized_codes(x: Float32) -> tuple[np.ndarray, Float32]:
    """The codes [rows, blocks, 32], in float32, and the scales [rows, blocks, 1] of x [rows, K].

    A block with a number that is not finite has a scale that is none.
    """
    rows, width = x.shape
    num_blocks = -(-width // BLOCK)
    padded = np.zeros((rows, num_blocks * BLOCK), np.float32)
    padded[:, :width] = x
    blocks = padded.reshape(rows, num_blocks, BLOCK)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        largest = np.abs(blocks).max(axis=-1, keepdims=True)
        inverse = np.where(largest > 0, np.float32(127) / largest, np.float32(0))
        inverse[~np.isfinite(inverse)] = 0
        return np.rint(blocks * inverse), largest / np.float32(127)


@dataclass(frozen=True, slots=True)
class Quantize(WithoutWeights):
    """x, rounded to what bfloat16, or int8 codes and a scale per block of 32 columns, can say.

    order: in which columns make blocks; None: as they stand.
    """

    format: RowFormat = "int8"
    order: ColumnOrder | None = None

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """As the input."""
        return inputs

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """Rounded, as float32."""
        if self.format == "bfloat16":
            return (float32_from_bfloat16(bfloat16_bits(inputs[0])),)
        rows, width = inputs[0].shape
        x = inputs[0] if self.order is None else self.order.stored(inputs[0])
        codes, scales = quantized_codes(x)
        rounded = (
            (codes * scales).reshape(rows, codes.shape[1] * BLOCK)[:, :width].astype(np.float32)
        )
        return (rounded if self.order is None else self.order.restored(rounded),)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """A few operations per element."""
        elements = rows * inputs[0]
        return Cost(4 * elements, activations=2 * elements)


@dataclass(frozen=True, slots=True)
class Quantized(FusedOp):
    """`op`, with its first output quantized while the row is in the nearest cache."""

    op: Op
    num_inputs: int
    num_outputs: int
    format: RowFormat = "int8"
    order: ColumnOrder | None = None

    @property
    def steps(self) -> tuple[tuple[Op, tuple[int, ...], tuple[int, ...]], ...]:
        """The op, its first output into a temporary; then quantize that."""
        inputs = tuple(range(self.num_inputs))
        outputs = tuple(range(self.num_inputs, self.num_inputs + self.num_outputs))
        plain = self.num_inputs + self.num_outputs
        return (self.op, inputs, (plain, *outputs[1:])), (
            Quantize(self.format, self.order),
            (plain,),
            outputs[:1],
        )
