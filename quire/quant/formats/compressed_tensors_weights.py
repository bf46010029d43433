"""The tensors of one layer of compressed-tensors: integers and float8.

    pack-quantized        weight_packed int32 [out, words], weight_scale [out, groups],
                          weight_zero_point int32 [words of out, groups], weight_g_idx int32 [in]
    int-, naive-quantized weight int8 [out, in], weight_scale, weight_zero_point int8
    float-quantized       weight float8 [out, in]; weight_scale of all, rows, groups or blocks
    weight = (code - zero point) * scale; packed codes stand 2**(bits - 1) above the signed ones.

Source: compressed-tensors 0.20, compressors/pack_quantized and compressors/naive_quantized.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.quant.formats import mxfp4
from quire.quant.formats.fp8 import expand_blocks, float8_matrix
from quire.quant.formats.group_order import groups_in_order, order_of_groups
from quire.quant.formats.half_scales import half_scales, zeros_of
from quire.quant.formats.scheme import Tensors
from quire.quant.formats.words import WORD_BITS, pack_words, unpack_words, words_for
from quire.quant.matrix import QuantizedMatrix

__all__ = [
    "Weights",
    "int_tensors",
    "packed_tensors",
    "read_float8",
    "read_integers",
    "read_packed",
]


@dataclass(frozen=True, slots=True)
class Weights:
    """What a config group says of weights.  group_size: None for other strategies than groups."""

    bits: int
    kind: str
    strategy: str
    symmetric: bool
    group_size: int | None = None
    block: tuple[int, int] | None = None


def read_packed(tensors: Tensors, weights: Weights) -> QuantizedMatrix:
    """Integers of 1 to 8 bits in 32-bit words."""
    (rows, cols), bits = tensors.shape, weights.bits
    if "weight_shape" in tensors:
        shape = tensors.take("weight_shape", ("I64", "I32"), (2,))
        if tuple(shape) != (rows, cols):
            raise tensors.error(f".weight_shape is {shape.tolist()}")
    dense, sparse = words_for(cols, bits), -(-cols // (WORD_BITS // bits))
    words = tensors.take("weight_packed", ("I32",), (rows, dense), (rows, sparse))
    codes = unpack_words(words, bits, cols) if words.shape[1] == dense else _whole(words, bits)
    scales = _scales(tensors, weights)
    zeros = None
    if not weights.symmetric:
        packed = tensors.take("weight_zero_point", ("I32",))
        if packed.shape != (words_for(rows, bits), scales.shape[1]):
            raise tensors.error(f".weight_zero_point has the shape {list(packed.shape)}")
        zeros = np.ascontiguousarray(unpack_words(packed.T, bits, rows).T)
    size = _columns(weights, cols)
    order = order_of_groups(tensors, "weight_g_idx", size)
    if order is not None:
        codes = np.ascontiguousarray(codes[:, :cols][:, order])
    return QuantizedMatrix(
        tensors.module, bits, size, codes[:, :cols], scales, _kept(zeros, bits), order=order
    )


def read_integers(tensors: Tensors, weights: Weights) -> QuantizedMatrix:
    """Integers in a byte each."""
    middle = 1 << (weights.bits - 1)
    values = tensors.take("weight", ("I8",), tensors.shape)
    if weights.bits < 8 and ((values < -middle) | (values >= middle)).any():
        raise tensors.error(f".weight has numbers that {weights.bits} bits do not hold")
    scales = _scales(tensors, weights)
    zeros = None
    if not weights.symmetric:
        points = tensors.take("weight_zero_point", ("I8",), scales.shape, scales.shape[:1], ())
        zeros = _lifted(np.broadcast_to(points.reshape(-1, scales.shape[1]), scales.shape), middle)
    size = _columns(weights, tensors.shape[1])
    codes = _lifted(values, middle)
    return QuantizedMatrix(
        tensors.module, weights.bits, size, codes, scales, _kept(zeros, weights.bits)
    )


def read_float8(tensors: Tensors, weights: Weights) -> QuantizedMatrix:
    """float8 numbers."""
    return float8_matrix(
        tensors, _columns(weights, tensors.shape[1]), _scales(tensors, weights), "weight"
    )


def packed_tensors(matrix: QuantizedMatrix) -> dict[str, npt.NDArray[Any]]:
    """The tensors of a matrix as pack-quantized, by the ends of their names."""
    codes, group_of = groups_in_order(matrix)
    tensors: dict[str, npt.NDArray[Any]] = {
        "weight_packed": pack_words(codes, matrix.bits),
        "weight_scale": _stored_scales(matrix),
        "weight_shape": np.array(matrix.shape, np.int64),
    }
    zeros = zeros_of(matrix)
    if matrix.zeros is not None:
        packed = pack_words(np.ascontiguousarray(zeros.T), matrix.bits)
        tensors["weight_zero_point"] = np.ascontiguousarray(packed.T)
    if matrix.order is not None:
        tensors["weight_g_idx"] = group_of
    return tensors


def int_tensors(matrix: QuantizedMatrix) -> dict[str, npt.NDArray[Any]]:
    """The tensors of a matrix as int-quantized, by the ends of their names."""
    if matrix.order is not None:
        raise ValueError(f"{matrix.name!r} has its columns in another order; use pack-quantized")
    zeros, middle = zeros_of(matrix), 1 << (matrix.bits - 1)
    tensors = {"weight": _signed(matrix.codes, middle), "weight_scale": _stored_scales(matrix)}
    if matrix.zeros is not None:
        tensors["weight_zero_point"] = _signed(zeros, middle)
    return tensors


def _columns(weights: Weights, cols: int) -> int:
    """Columns that share a scale."""
    if weights.block:
        return weights.block[1]
    return cols if weights.group_size is None else weights.group_size


def _scales(tensors: Tensors, weights: Weights) -> npt.NDArray[np.float32]:
    """[rows, groups], whatever the strategy."""
    rows, cols = tensors.shape
    groups = -(-cols // _columns(weights, cols))
    if weights.block:
        down = -(-rows // weights.block[0])
        return expand_blocks(_floats(tensors, (down, groups)), rows, weights.block[0])
    if weights.strategy == "tensor":
        return np.full((rows, 1), _floats(tensors, (), (1,), (1, 1)).reshape(()), np.float32)
    shapes = ((rows, groups),) if groups > 1 else ((rows, 1), (rows,))
    return _floats(tensors, *shapes).reshape(rows, groups)


def _floats(tensors: Tensors, *shapes: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """weight_scale as float32; mxfp8 stores exponents."""
    if tensors.dtype("weight_scale") == "U8":
        return mxfp4.exponents(tensors, "weight_scale", *shapes)
    return tensors.floats("weight_scale", *shapes)


def _whole(words: npt.NDArray[np.int32], bits: int) -> npt.NDArray[np.uint8]:
    """Codes of which none crosses two words: how older versions packed 3, 5, 6 and 7 bits."""
    shifts = np.arange(0, WORD_BITS - bits + 1, bits, dtype=np.uint32)
    codes = words.view(np.uint32)[..., None] >> shifts & np.uint32((1 << bits) - 1)
    narrow: npt.NDArray[np.uint8] = codes.astype(np.uint8).reshape(len(words), -1)
    return narrow


def _lifted(values: npt.NDArray[np.int8], middle: int) -> npt.NDArray[np.uint8]:
    return (values.astype(np.int16) + middle).astype(np.uint8)


def _signed(codes: npt.NDArray[np.uint8], middle: int) -> npt.NDArray[np.int8]:
    return (codes.astype(np.int16) - middle).astype(np.int8)


def _kept(zeros: npt.NDArray[np.uint8] | None, bits: int) -> npt.NDArray[np.uint8] | None:
    """Zero points, unless all of them are what codes without any stand above."""
    return None if zeros is None or (zeros == 1 << (bits - 1)).all() else zeros


def _stored_scales(matrix: QuantizedMatrix) -> npt.NDArray[Any]:
    try:
        return half_scales(matrix)
    except ValueError:
        return matrix.scales
