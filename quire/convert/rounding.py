"""Rounds a matrix to a scheme: ranges that lose least are searched, then every weight is rounded.

For each group of a row, several ranges are tried, and the one kept whose rounding error weighs
least.  With calibration the weight is that of `importance`, which makes this AWQ's clipping
(arXiv:2306.00978); without, every error weighs alike.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from quire.convert.grid import Grid, Ranges, code_values
from quire.convert.importance import Importance, weight_of
from quire.convert.scheme import Scheme
from quire.errors import ConfigError
from quire.quant.matrix import QuantizedMatrix

__all__ = ["group_size_of", "over_rows", "quantized", "round_matrix", "search_ranges"]

Codes = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]

AT_A_TIME = 1 << 17
"""Elements that a thread works on: what stays in its share of the cache."""


def round_matrix(
    name: str,
    weights: Float32,
    grid: Grid,
    importance: Importance | None = None,
    search: bool = True,
) -> QuantizedMatrix:
    """The nearest matrix to weights [rows, cols], with the best ranges.

    importance: of errors; None: all weigh alike.  search: ranges; False: each reaches to its
    group's largest magnitude.
    Raises ConfigError where groups do not divide the columns.
    """
    rows, cols = weights.shape
    size = group_size_of(name, grid.scheme, cols)
    ranges = search_ranges(weights, grid, size, importance, search)
    groups = weights.reshape(rows, -1, size)
    codes = np.empty(groups.shape, np.uint8)

    def encode(part: slice) -> None:
        wide = Ranges(ranges.scales[part, :, None], ranges.zeros[part, :, None])
        codes[part] = grid.encode(groups[part], wide)

    over_rows(encode, rows, max(1, AT_A_TIME // cols))
    return quantized(name, grid, size, codes.reshape(weights.shape), ranges)


def search_ranges(
    weights: Float32,
    grid: Grid,
    size: int,
    importance: Importance | None = None,
    search: bool = True,
) -> Ranges:
    """The best ranges [rows, groups] of weights [rows, cols] in groups of `size`."""
    groups = weights.reshape(len(weights), -1, size)
    shrinks = grid.shrinks if search else (1.0,)
    scales = np.empty(groups.shape[:2], np.float32)
    zeros = np.empty(groups.shape[:2], np.float32)

    def fit(part: slice) -> None:
        # One group of many rows: its errors are weighed by one product of large matrices.
        for group in range(groups.shape[1]):
            own = None if importance is None else importance.blocks[group]
            best = _best(np.ascontiguousarray(groups[part, group]), grid, own, shrinks)
            scales[part, group], zeros[part, group] = best.scales, best.zeros

    over_rows(fit, len(weights), max(1, AT_A_TIME // size))
    return Ranges(scales, zeros)


def quantized(name: str, grid: Grid, size: int, codes: Codes, ranges: Ranges) -> QuantizedMatrix:
    """Codes and ranges as a matrix."""
    scheme = grid.scheme
    integer = scheme.numbers == "integer"
    zeros = ranges.zeros.astype(np.uint8) if integer and not scheme.symmetric else None
    table = None if integer else code_values(scheme.bits)
    return QuantizedMatrix(name, scheme.bits, size, codes, ranges.scales, zeros=zeros, table=table)


def group_size_of(name: str, scheme: Scheme, cols: int) -> int:
    """Columns that share a scale.  Raises ConfigError where groups do not divide the columns."""
    size = cols if scheme.group_size is None else scheme.group_size
    if cols % size:
        raise ConfigError(
            f"{name} has {cols} columns, which are no groups of {size}; "
            f"give a --group-size that divides them{_dividing(cols)}, or leave it unquantized "
            f"with --override {name.removesuffix('.weight')}=none"
        )
    return size


def _dividing(cols: int) -> str:
    sizes = [str(size) for size in (128, 64, 32, 16) if cols % size == 0]
    return f" ({' or '.join(sizes)})" if sizes else ""


def _best(
    groups: Float32, grid: Grid, importance: Float32 | None, shrinks: tuple[float, ...]
) -> Ranges:
    """The ranges [rows] of one group's weights [rows, size] that lose least."""
    best = grid.fit(groups, shrinks[0])
    if len(shrinks) == 1:
        return best
    least = None
    for shrink in shrinks:
        ranges = grid.fit(groups, shrink)
        errors = grid.nearest(groups, Ranges(ranges.scales[:, None], ranges.zeros[:, None]))
        errors -= groups
        loss = weight_of(errors, importance)
        if least is None:
            best, least = ranges, loss
            continue
        better = loss < least
        best, least = best.where(better, ranges), np.where(better, loss, least)
    return best


def over_rows(work: Callable[[slice], None], rows: int, step: int) -> None:
    """Do `work` on slices of `step` rows in threads; rows do not depend on each other."""
    parts = [slice(start, start + step) for start in range(0, rows, step)]
    if len(parts) == 1:
        work(parts[0])
        return
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(work, parts))
