"""torchao's plain tensors as transformers writes them to safetensors: int4, int8 and float8.

    Int4Tensor  _weight_qdata uint8 [out, in / 2]       two's complement, the low half first
                _weight_scale, _weight_zero_point float [in / group, out]
                weight = code * scale + zero point
    Int8Tensor, IntxUnpackedToInt8Tensor
                _weight_qdata int8 [out, in]
                _weight_scale [out, groups], perhaps _weight_zero_point int8 [out, groups]
                weight = (code - zero point) * scale
    Float8Tensor  _weight_qdata float8 [out, in], _weight_scale [out, groups] or [blocks, groups]

The tensors say which it is.  Those in the order of a GPU's kernels (Int4TilePackedTo4dTensor, …)
are refused.  Source: torchao 0.18, quantization/quantize_/workflows and prototype/safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from quire.quant.formats.fp8 import expand_blocks, float8_matrix
from quire.quant.formats.scheme import ModuleSchemes, Scheme, Tensors
from quire.quant.formats.settings import Settings, is_listed
from quire.quant.formats.small_floats import FLOAT8
from quire.quant.formats.words import pairs_of_nibbles
from quire.quant.matrix import QuantizedMatrix

__all__ = ["read", "schemes"]

QDATA, SCALE, ZERO = "_weight_qdata", "_weight_scale", "_weight_zero_point"
ACTIVATIONS = ("_weight_act_quant_scale", "_weight_act_quant_zero_point")


def schemes(config: Mapping[str, Any]) -> ModuleSchemes:
    """How a checkpoint with this quantization_config stores each linear layer."""
    settings = Settings(config, "quantization_config (torchao)")
    settings.get("quant_method")
    kinds = settings.section("quant_type")
    if kinds is None:
        raise settings.error("quant_type", None, "an object with the config of torchao")
    plain = settings.names("modules_to_not_convert")
    settings.skip("include_input_output_embeddings", "untie_embedding_weights", "quant_type_kwargs")
    settings.finish()
    scheme = _scheme(kinds.get("default"))

    def scheme_of(module: str) -> Scheme | None:
        return None if is_listed(module, plain) else scheme

    return scheme_of


def read(tensors: Tensors) -> QuantizedMatrix:
    """The matrix that the tensors of one layer hold; CheckpointError if they do not fit."""
    dtype = tensors.dtype(QDATA)
    if dtype in FLOAT8:
        return _float8(tensors)
    return _int8(tensors) if dtype == "I8" else _int4(tensors)


def _scheme(kind: Any) -> Scheme:
    """What a config names, as far as people want to know before the tensors are read."""
    name = kind.get("_type") if isinstance(kind, dict) else None
    data = kind.get("_data") if isinstance(kind, dict) else None
    size = data.get("group_size") if isinstance(data, dict) else None
    four = isinstance(name, str) and name.startswith("Int4")
    floats = isinstance(name, str) and name.startswith("Float8")
    return Scheme(
        f"torchao {name or 'tensors'}",
        4 if four else 8,
        size if type(size) is int and size > 0 else 128 if four else None,
        "table" if floats else "minimums" if four else "symmetric",
        (QDATA, SCALE),
        read,
        (ZERO,),
        ACTIVATIONS,
    )


def _int4(tensors: Tensors) -> QuantizedMatrix:
    rows, cols = tensors.shape
    packed = tensors.take(QDATA, ("U8", "I8"), (rows, cols // 2)).view(np.uint8)
    codes = pairs_of_nibbles(packed) ^ np.uint8(8)  # from two's complement to 8 above it
    scales = tensors.floats(SCALE)
    groups = len(scales) if scales.ndim == 2 else 0
    if groups < 1 or cols % groups or scales.shape[1] != rows:
        raise tensors.error(f".{SCALE} has the shape {list(scales.shape)}, not [groups, {rows}]")
    zeros = tensors.floats(ZERO, scales.shape)
    scales = np.ascontiguousarray(scales.T)
    minimums = np.float32(8) * scales - zeros.T
    return QuantizedMatrix(tensors.module, 4, cols // groups, codes, scales, minimums=minimums)


def _int8(tensors: Tensors) -> QuantizedMatrix:
    rows, cols = tensors.shape
    values = tensors.take(QDATA, ("I8",), (rows, cols))
    scales = tensors.floats(SCALE)
    if scales.size == rows:
        scales = scales.reshape(rows, 1)
    if scales.ndim != 2 or scales.shape[0] != rows or cols % max(scales.shape[1], 1):
        raise tensors.error(f".{SCALE} has the shape {list(scales.shape)}, not [{rows}, groups]")
    zeros = None
    if ZERO in tensors:
        points = tensors.take(ZERO, ("I8",)).reshape(-1)
        if points.size != scales.size:
            raise tensors.error(f".{ZERO} has {points.size} numbers for {scales.size} groups")
        lifted = (points.astype(np.int16) + 128).astype(np.uint8).reshape(scales.shape)
        zeros = None if (lifted == 128).all() else lifted
    codes = (values.astype(np.int16) + 128).astype(np.uint8)
    return QuantizedMatrix(tensors.module, 8, cols // scales.shape[1], codes, scales, zeros)


def _float8(tensors: Tensors) -> QuantizedMatrix:
    rows, cols = tensors.shape
    scales = tensors.floats(SCALE)
    if scales.size in (1, rows):
        scales = np.broadcast_to(scales.reshape(-1, 1), (rows, 1))
    if scales.ndim != 2 or rows % max(len(scales), 1) or cols % max(scales.shape[1], 1):
        raise tensors.error(f".{SCALE} has the shape {list(scales.shape)}")
    each = expand_blocks(np.ascontiguousarray(scales), rows, rows // len(scales))
    return float8_matrix(tensors, cols // scales.shape[1], each, QDATA)
