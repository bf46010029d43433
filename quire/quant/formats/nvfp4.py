"""NVFP4: 4-bit floats in groups of 16 with float8 scales and one float32 scale of the matrix.

    ModelOpt            weight uint8 [out, in / 2], weight_scale float8 [out, in / 16],
                        weight_scale_2 float32:       weight = E2M1[code] * (scale * scale_2)
    compressed-tensors  weight_packed, weight_scale, weight_global_scale:
                                                      weight = E2M1[code] * (scale / global_scale)

Two codes stand in a byte, the low half first.  ModelOpt's FP8 has weight float8, weight_scale.
Source: TensorRT Model Optimizer's hf_quant_config.json; compressed-tensors 0.20, compressors/nvfp4.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from quire.quant.formats.fp8 import read_whole
from quire.quant.formats.scheme import ModuleSchemes, Scheme, Tensors
from quire.quant.formats.settings import Settings, is_named
from quire.quant.formats.small_floats import E2M1, E4M3
from quire.quant.formats.words import pairs_of_nibbles
from quire.quant.matrix import QuantizedMatrix

__all__ = ["GROUP", "read", "scheme", "schemes"]

GROUP = 16
UNUSED = ("input_scale",)


def schemes(config: Mapping[str, Any]) -> ModuleSchemes:
    """How a checkpoint of ModelOpt with this quantization_config stores each linear layer."""
    settings = Settings(config, "quantization_config (modelopt)")
    settings.get("quant_method")
    settings.skip("producer", "kv_cache_scheme", "config_groups", "quant_type")
    inner = settings.section("quantization") or settings
    algorithm = inner.choice("quant_algo", None, ("nvfp4", "fp8"))
    inner.integer("group_size", GROUP, (GROUP,))
    plain = inner.names("exclude_modules", "ignore", "modules_to_not_convert")
    inner.skip("kv_cache_quant_algo", "has_zero_point", "pre_quant_scale")
    inner.finish()
    settings.finish()
    if algorithm == "nvfp4":
        stored = scheme("nvfp4", "weight", "weight_scale_2", False, UNUSED)
    else:
        parts = ("weight", "weight_scale")
        stored = Scheme("float8 (modelopt)", 8, None, "table", parts, read_whole, (), UNUSED)

    def scheme_of(module: str) -> Scheme | None:
        matched = any(fnmatch.fnmatchcase(module, pattern) for pattern in plain)
        return None if matched or is_named(module, plain) else stored

    return scheme_of


def scheme(label: str, weight: str, second: str, divided: bool, unused: tuple[str, ...]) -> Scheme:
    """How a layer is stored; weight, second: ends of the names of its codes and matrix scale.

    divided: the float8 scales are divided by the matrix scale, else multiplied.
    """
    reader = partial(read, weight=weight, second=second, divided=divided)
    parts = (weight, "weight_scale", second)
    return Scheme(label, 4, GROUP, "table", parts, reader, (), unused)


def read(tensors: Tensors, weight: str, second: str, divided: bool) -> QuantizedMatrix:
    """The matrix that the tensors of one layer hold."""
    rows, cols = tensors.shape
    if cols % GROUP:
        raise tensors.error(f"NVFP4 needs columns in groups of {GROUP}")
    codes = pairs_of_nibbles(tensors.take(weight, ("U8",), (rows, cols // 2)))
    small = E4M3[tensors.take("weight_scale", ("F8_E4M3",), (rows, cols // GROUP))]
    whole = tensors.floats(second, (), (1,)).reshape(())
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        scales = small / whole if divided else small * whole
    scales = tensors.finite("weight_scale", scales.astype(np.float32))
    return QuantizedMatrix(tensors.module, 4, GROUP, codes, scales, table=E2M1)
