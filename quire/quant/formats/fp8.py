"""float8 matrices with scales of the matrix, of rows, or of blocks, as DeepSeek-V3's checkpoints.

    weight            float8 [out, in]
    weight_scale_inv  float32, bfloat16 or exponents [out / 128, in / 128]   of blocks
    weight_scale      one number, or [out, 1]      without blocks, and in FBGEMM's checkpoints
    weight[o, i] = value(weight[o, i]) * scale

The scale multiplies, whatever its name says.  Source: DeepSeek-V3, inference/fp8_cast_bf16.py;
transformers 5, integrations/finegrained_fp8.py and fbgemm_fp8.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.quant.formats.scheme import ModuleSchemes, Scheme, Tensors
from quire.quant.formats.settings import Settings, is_listed
from quire.quant.formats.small_floats import E8M0, FLOAT8
from quire.quant.matrix import QuantizedMatrix

__all__ = ["expand_blocks", "float8_matrix", "read_blocks", "read_whole", "schemes"]

UNUSED = ("input_scale", "input_scale_ub", "activation_scale")
"""Of activations, which Quire rounds by itself, finer than these say."""


def schemes(config: Mapping[str, Any]) -> ModuleSchemes:
    """How a checkpoint with this quantization_config stores each linear layer."""
    settings = Settings(config, "quantization_config (fp8)")
    settings.get("quant_method")
    settings.choice("fmt", "e4m3", ("e4m3", "float8_e4m3fn", "e5m2"))
    settings.choice("activation_scheme", "dynamic", ("dynamic", "static"))
    settings.choice("scale_fmt", "float", ("float", "ue8m0"))
    block = settings.get("weight_block_size")
    sizes = isinstance(block, list) and [type(each) for each in block] == [int, int]
    if block is not None and not (sizes and min(block) > 0):
        raise settings.error("weight_block_size", block, "two positive numbers")
    plain = settings.names("modules_to_not_convert", "ignored_layers")
    settings.skip("activation_scale_ub")  # of FBGEMM: what its kernel clips activations to
    settings.skip("dequantize", "expert_dtype", "kv_cache_scheme")
    settings.finish()
    scheme = _whole() if block is None else _blocks((block[0], block[1]))

    def scheme_of(module: str) -> Scheme | None:
        head = module == "lm_head" or module.endswith(".lm_head")
        return None if head or is_listed(module, plain) else scheme

    return scheme_of


def read_blocks(tensors: Tensors, block: tuple[int, int]) -> QuantizedMatrix:
    """A matrix with a scale for each block of rows and columns."""
    rows, cols = tensors.shape
    down, across = -(-rows // block[0]), -(-cols // block[1])
    if tensors.dtype("weight_scale_inv") in ("F8_E8M0", "U8"):
        codes = tensors.take("weight_scale_inv", ("F8_E8M0", "U8"), (down, across))
        scales = tensors.finite("weight_scale_inv", E8M0[codes])
    else:
        scales = tensors.floats("weight_scale_inv", (down, across))
    return float8_matrix(tensors, block[1], expand_blocks(scales, rows, block[0]), "weight")


def read_whole(tensors: Tensors) -> QuantizedMatrix:
    """A matrix with one scale, or one for each row."""
    rows, cols = tensors.shape
    scales = tensors.floats("weight_scale", (), (1,), (1, 1), (rows,), (rows, 1)).reshape(-1, 1)
    each = np.ascontiguousarray(np.broadcast_to(scales, (rows, 1)))
    return float8_matrix(tensors, cols, each, "weight")


def float8_matrix(
    tensors: Tensors, group_size: int, scales: npt.NDArray[np.float32], part: str
) -> QuantizedMatrix:
    """A matrix of float8 codes with scales [rows, groups]; CheckpointError for codes of NaN."""
    codes = tensors.take(part, tuple(FLOAT8), tensors.shape)
    table = FLOAT8[tensors.dtype(part)]
    used = np.bincount(codes.reshape(-1), minlength=256) > 0
    if not np.isfinite(table[used]).all():
        raise tensors.error(f".{part} has numbers that are not finite")
    values = np.where(np.isfinite(table), table, np.float32(0))
    return QuantizedMatrix(tensors.module, 8, group_size, codes, scales, table=values)


def expand_blocks(
    scales: npt.NDArray[np.float32], rows: int, height: int
) -> npt.NDArray[np.float32]:
    """Scales [blocks down, groups] for each row: [rows, groups]."""
    return np.repeat(scales, height, axis=0)[:rows]


def _blocks(block: tuple[int, int]) -> Scheme:
    label = f"float8 in blocks of {block[0]} × {block[1]}"
    parts = ("weight", "weight_scale_inv")
    return Scheme(label, 8, block[1], "table", parts, partial(read_blocks, block=block), (), UNUSED)


def _whole() -> Scheme:
    parts = ("weight", "weight_scale")
    return Scheme("float8 in whole rows", 8, None, "table", parts, read_whole, (), UNUSED)
