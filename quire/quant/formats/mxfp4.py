"""MXFP4: 4-bit floats in groups of 32 that share a power of two, as gpt-oss has them.

    blocks  uint8 [experts, out, groups, 16]   two codes in a byte, the low half first
    scales  uint8 [experts, out, groups]       exponents: 2 ** (scale - 127)
    weight = E2M1[code] * 2 ** (scale - 127)

A file of compressed-tensors calls them weight_packed [out, in / 2] and weight_scale [out, in / 32].
Source: OCP Microscaling Formats 1.0; transformers 5, integrations/mxfp4.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.quant.formats.scheme import ModuleSchemes, Scheme, Tensors
from quire.quant.formats.settings import Settings, is_listed
from quire.quant.formats.small_floats import E2M1, E8M0
from quire.quant.formats.words import pairs_of_nibbles
from quire.quant.matrix import QuantizedMatrix

__all__ = ["GROUP", "exponents", "read_expert", "read_packed", "scheme", "schemes"]

GROUP = 32
STACKS = ("gate_up_proj", "down_proj")
"""The tensors of gpt-oss that hold all experts of a layer."""


def schemes(config: Mapping[str, Any]) -> ModuleSchemes:
    """The experts of gpt-oss; all else is in plain floats."""
    settings = Settings(config, "quantization_config (mxfp4)")
    settings.get("quant_method")
    plain = settings.names("modules_to_not_convert")
    settings.skip("dequantize")
    settings.finish()
    parts = ("blocks", "scales")
    stacks = Scheme("mxfp4 stacks", 4, GROUP, "table", parts, read_expert, stacked=True)

    def scheme_of(module: str) -> Scheme | None:
        parent, _, last = module.rpartition(".")
        is_stack = last in STACKS and parent.endswith(".experts")
        return stacks if is_stack and not is_listed(module, plain) else None

    return scheme_of


def read_expert(tensors: Tensors) -> QuantizedMatrix:
    """The matrix [out, in] of one expert."""
    rows, cols = tensors.shape
    if cols % GROUP:
        raise tensors.error(f"MXFP4 needs columns in groups of {GROUP}")
    blocks = tensors.take("blocks", ("U8",), (rows, cols // GROUP, GROUP // 2))
    codes = pairs_of_nibbles(blocks).reshape(rows, cols)
    scales = exponents(tensors, "scales", (rows, cols // GROUP))
    return QuantizedMatrix(tensors.module, 4, GROUP, codes, scales, table=E2M1)


def scheme(label: str, unused: tuple[str, ...]) -> Scheme:
    """How compressed-tensors stores such a layer."""
    parts = ("weight_packed", "weight_scale")
    return Scheme(label, 4, GROUP, "table", parts, read_packed, (), unused)


def read_packed(tensors: Tensors) -> QuantizedMatrix:
    """The matrix of a layer of compressed-tensors."""
    rows, cols = tensors.shape
    if cols % GROUP:
        raise tensors.error(f"MXFP4 needs columns in groups of {GROUP}")
    codes = pairs_of_nibbles(tensors.take("weight_packed", ("U8",), (rows, cols // 2)))
    scales = exponents(tensors, "weight_scale", (rows, cols // GROUP))
    return QuantizedMatrix(tensors.module, 4, GROUP, codes, scales, table=E2M1)


def exponents(tensors: Tensors, part: str, *shapes: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """A tensor of exponents as the powers of two that they mean."""
    return tensors.finite(part, E8M0[tensors.take(part, ("U8", "F8_E8M0"), *shapes)])
