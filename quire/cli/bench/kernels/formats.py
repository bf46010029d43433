"""The formats of weights that `quire bench kernel` times, under the names that people know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from quire.backends.native import abi as c

__all__ = ["FORMATS", "USUAL_FORMATS", "WeightFormat"]

SMALL_TABLE = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
WIDE_TABLE = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """What a Matrix says of its format; group_size 0: floats without scales."""

    dtype: int
    group_size: int = 0
    has_zero_points: bool = False
    has_minimums: bool = False
    table: tuple[int, ...] = ()

    @property
    def is_integer(self) -> bool:
        """Whether kernels multiply it with activations in int8."""
        return self.dtype in (c.INT4, c.INT8, c.TABLE4)

    def matrix(self, rows: int, cols: int) -> Any:
        """A Matrix [rows, cols] without data."""
        matrix = c.Matrix(None, rows, cols, self.dtype, self.group_size)
        matrix.has_zero_points, matrix.has_minimums = self.has_zero_points, self.has_minimums
        matrix.table[: len(self.table)] = self.table
        return matrix


FORMATS = {
    "float32": WeightFormat(c.F32),
    "float16": WeightFormat(c.F16),
    "bfloat16": WeightFormat(c.BF16),
    "int8": WeightFormat(c.INT8, 128),
    "int4": WeightFormat(c.INT4, 32),
    "awq": WeightFormat(c.INT4, 128, has_zero_points=True),
    "q2_k": WeightFormat(c.INT4, 16, has_minimums=True),
    "q3_k": WeightFormat(c.INT4, 16),
    "q4_k": WeightFormat(c.INT4, 32, has_minimums=True),
    "q5_k": WeightFormat(c.INT8, 32, has_minimums=True),
    "q6_k": WeightFormat(c.INT8, 16),
    "iq4_nl": WeightFormat(c.TABLE4, 32, table=WIDE_TABLE),
    "nf4": WeightFormat(c.TABLE4, 64, table=WIDE_TABLE),
    "mxfp4": WeightFormat(c.TABLE4, 32, table=SMALL_TABLE),
    "nvfp4": WeightFormat(c.TABLE4, 16, table=SMALL_TABLE),
    "fp8": WeightFormat(c.FLOAT8, 128),
}
USUAL_FORMATS = ("float32", "float16", "bfloat16", "int8", "int4")
"""What is timed where nobody says which."""
