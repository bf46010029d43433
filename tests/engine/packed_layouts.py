"""A matrix of every layout that is packed, and the demo model made of them."""

from __future__ import annotations

import functools
import zlib

import numpy as np

from quire.quant.matrix import QuantizedMatrix
from quire.quant.packed_floats import E4M3
from quire.quant.packing import pack_matrix
from quire.weights.hub import DEMO
from tests.models.computing import Loaded, load
from tests.quant.tables import E2M1, NF4

TABLES = {"nf4": (NF4, 64), "mxfp4": (E2M1, 32), "nvfp4": (E2M1, 16)}
KINDS = (
    *[("minimums", bits, group) for bits in (4, 8) for group in (32, 128)],
    *[("zeros", bits, group) for bits in (4, 8) for group in (32, 128)],
    *[("minimums", 4, 16), ("symmetric", 3, 16), ("symmetric", 6, 16), ("symmetric", 8, 1024)],
    *[(name, 4, group) for name, (_, group) in TABLES.items()],
    ("fp8", 8, 128),
)  # fmt: skip


def rounded(name: str, weights: np.ndarray, kind: str, bits: int, group: int) -> QuantizedMatrix:
    """The nearest codes, group by group."""
    rows, cols = weights.shape
    group = min(group, cols)
    parts = weights.reshape(rows, -1, group)
    if kind in TABLES or kind == "fp8":
        table = E4M3[:127] if kind == "fp8" else TABLES[kind][0]
        scales = np.abs(parts).max(-1) / np.abs(table).max()
        steps = np.sort(table)
        middles = (steps[1:] + steps[:-1]) / 2
        codes = np.argsort(table, kind="stable")[
            np.searchsorted(middles, parts / scales[..., None])
        ].reshape(rows, cols)
        whole = E4M3 if kind == "fp8" else table
        return QuantizedMatrix(name, bits, group, codes.astype(np.uint8), scales, table=whole)
    most = (1 << bits) - 1
    if kind == "symmetric":
        scales = np.abs(parts).max(-1) / (most >> 1)
        codes = np.rint(parts / scales[..., None]) + (1 << (bits - 1))
        codes = codes.clip(0, most).astype(np.uint8).reshape(rows, cols)
        return QuantizedMatrix(name, bits, group, codes, scales)
    low, high = np.minimum(parts.min(-1), 0), np.maximum(parts.max(-1), 0)
    scales = (high - low) / most
    zeros = np.rint(-low / scales)
    start = zeros if kind == "zeros" else -low / scales
    codes = np.rint(parts / scales[..., None] + start[..., None]).clip(0, most)
    codes = codes.astype(np.uint8).reshape(rows, cols)
    if kind == "zeros":
        return QuantizedMatrix(name, bits, group, codes, scales, zeros=zeros.astype(np.uint8))
    return QuantizedMatrix(name, bits, group, codes, scales, minimums=-low)


@functools.cache
def demo() -> Loaded:
    """Kinds in turn over the matrices; every third has its columns sorted."""
    plain = load(DEMO)
    weights = dict(plain.weights)
    names = sorted({linear.weight.name for linear in plain.spec.linears()})
    for i, name in enumerate(names):
        matrix = rounded(name, weights[name].float32(), *KINDS[i % len(KINDS)])
        if i % 3 == 0 and matrix.bits * (matrix.table is not None) < 8:
            seed = matrix.shape[1] if i % 2 else zlib.crc32(name.encode())
            order = np.random.default_rng(seed).permutation(matrix.shape[1]).astype(np.int32)
            sorted_weights = weights[name].float32()[:, order]
            matrix = rounded(name, sorted_weights, *KINDS[i % len(KINDS)])
            matrix = QuantizedMatrix(
                name, matrix.bits, matrix.group_size, matrix.codes, matrix.scales, matrix.zeros,
                matrix.minimums, matrix.table, order,
            )  # fmt: skip
        packed = pack_matrix(matrix)
        assert packed is not None
        weights[name] = packed
    return Loaded(plain.spec, weights)
