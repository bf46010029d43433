"""Rounds activations to int8, so that integer kernels can multiply them.

Each row is cut into blocks of 32 columns; a block's scale is its largest magnitude / 127 and its
codes are x / scale, rounded to nearest even.  Every matrix that reads the row shares the codes.
A matrix whose columns were sorted reads blocks of columns in its order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quire.ops.column_order import ColumnOrder
from quire.ops.op import Cost, Environment, Float32, FusedOp, Op

__all__ = ["BLOCK", "Quantize", "Quantized", "quantized_codes", "quantized_floats"]

BLOCK = 32
"""Columns that share an activation scale."""


def quantized_floats(width: int) -> int:
    """The room of one quantized row in float32: four numbers and 32 codes per block."""
    return -(-width // BLOCK) * (4 + BLOCK // 4)


def quantized_codes(x: Float32) -> tuple[np.ndarray, Float32]:
    """The codes [rows, blocks, 32], in float32, and the scales [rows, blocks, 1] of x [rows, K].

    A block with a number that is not finite has a scale that is none.
    """
    rows, width = x.shape
    padded = np.zeros((rows, -(-width // BLOCK) * BLOCK), np.float32)
    padded[:, :width] = x
    blocks = padded.reshape(rows, -1, BLOCK)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        largest = np.abs(blocks).max(axis=-1, keepdims=True)
        inverse = np.where(largest > 0, np.float32(127) / largest, np.float32(0))
        inverse[~np.isfinite(inverse)] = 0
        return np.rint(blocks * inverse), largest / np.float32(127)


@dataclass(frozen=True, slots=True)
class Quantize:
    """x, rounded to what int8 codes and a scale per block of 32 columns can say.

    order: in which columns make blocks; None: as they stand.
    """

    order: ColumnOrder | None = None

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """As the input."""
        return inputs

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """Codes times scales, as float32."""
        rows, width = inputs[0].shape
        x = inputs[0] if self.order is None else self.order.stored(inputs[0])
        codes, scales = quantized_codes(x)
        rounded = (codes * scales).reshape(rows, -1)[:, :width].astype(np.float32)
        return (rounded if self.order is None else self.order.restored(rounded),)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """A few operations per element."""
        elements = rows * inputs[0]
        return Cost(4 * elements, activations=2 * elements)

    @property
    def weight_names(self) -> tuple[str, ...]:
        """None."""
        return ()


@dataclass(frozen=True, slots=True)
class Quantized(FusedOp):
    """`op`, with its first output quantized while the row is in the nearest cache."""

    op: Op
    num_inputs: int
    num_outputs: int
    order: ColumnOrder | None = None

    @property
    def steps(self) -> tuple[tuple[Op, tuple[int, ...], tuple[int, ...]], ...]:
        """The op, its first output into a temporary; then quantize that."""
        inputs = tuple(range(self.num_inputs))
        outputs = tuple(range(self.num_inputs, self.num_inputs + self.num_outputs))
        plain = self.num_inputs + self.num_outputs
        return (self.op, inputs, (plain, *outputs[1:])), (
            Quantize(self.order),
            (plain,),
            outputs[:1],
        )
