"""GPTQ: rounds column after column, and lets the columns still to come make up for each error.

With H the second moment of the inputs, the error tr((W - Q) H (W - Q)^T) is least when the error of
column j is spread over the later columns by row j of U, where H^-1 = U^T U and U is upper
triangular.  Columns with the largest diagonal of H come first (act-order); ranges are searched
before any column is rounded, so that groups keep their place and no order has to be stored.

Source: arXiv:2210.17323.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quire.convert.grid import Grid, Ranges
from quire.convert.importance import Importance
from quire.convert.rounding import group_size_of, quantized, search_ranges
from quire.quant.matrix import QuantizedMatrix

__all__ = ["Spread", "gptq", "spread_of"]

Float32 = npt.NDArray[np.float32]

BLOCK = 128
"""Columns rounded before their errors are applied to all columns behind them."""
DAMPING = 0.01
"""What is added to the diagonal of H, as a share of its mean."""


class Spread:
    """How errors spread, for all matrices that read one input: U by columns in act-order."""

    def __init__(self, order: npt.NDArray[np.int64], upper: Float32) -> None:
        self.order = order
        self.upper = upper


def spread_of(moment: Float32, damping: float = DAMPING) -> Spread:
    """The spread for inputs with this second moment [cols, cols].

    Damping is raised tenfold until the damped moment can be factored in float32.
    """
    diagonal = np.diagonal(moment).copy()
    mean = float(diagonal.mean(dtype=np.float64)) or 1.0
    order = np.argsort(-diagonal, kind="stable")
    flipped = order[::-1]
    while True:
        # H = M M^T with M upper triangular is the Cholesky factor of H read backwards; U = M^-1.
        turned = moment[np.ix_(flipped, flipped)]
        turned[np.diag_indices_from(turned)] += np.float32(damping * mean)
        try:
            lower = np.linalg.cholesky(turned)
            break
        except np.linalg.LinAlgError:
            damping *= 10
    del turned
    return Spread(order, _inverse_of_lower(lower)[::-1, ::-1])


def gptq(
    name: str, weights: Float32, grid: Grid, moment: Float32, spread: Spread
) -> QuantizedMatrix:
    """Weights [rows, cols] rounded by GPTQ for inputs with this second moment."""
    rows, cols = weights.shape
    size = group_size_of(name, grid.scheme, cols)
    ranges = search_ranges(weights, grid, size, Importance.of(moment, size))
    scales, zeros = np.ascontiguousarray(ranges.scales.T), np.ascontiguousarray(ranges.zeros.T)
    left = weights.T[spread.order]  # [cols, rows], what is still to be rounded
    codes = np.empty((cols, rows), np.uint8)
    for start in range(0, cols, BLOCK):
        stop = min(start + BLOCK, cols)
        errors = np.empty((stop - start, rows), np.float32)
        for at in range(start, stop):
            group = spread.order[at] // size
            own = Ranges(scales[group], zeros[group])
            code = grid.encode(left[at], own)
            error = (left[at] - grid.decode(code, own)) / spread.upper[at, at]
            if at + 1 < stop:
                left[at + 1 : stop] -= spread.upper[at, at + 1 : stop, None] * error
            codes[spread.order[at]] = code
            errors[at - start] = error
        left[stop:] -= spread.upper[start:stop, stop:].T @ errors
    return quantized(name, grid, size, np.ascontiguousarray(codes.T), ranges)


def _inverse_of_lower(lower: Float32) -> Float32:
    """The inverse of a lower triangular matrix, halved until a half is small."""
    count = len(lower)
    if count <= 256:
        return np.tril(np.linalg.inv(lower.astype(np.float64))).astype(np.float32)
    half = count // 2
    inverse = np.zeros_like(lower)
    first, last = _inverse_of_lower(lower[:half, :half]), _inverse_of_lower(lower[half:, half:])
    inverse[:half, :half], inverse[half:, half:] = first, last
    inverse[half:, :half] = -(last @ (lower[half:, :half] @ first))
    return inverse
