"""MXFP4: 4-bit floats in groups of 32 that share a power of two, as gpt-oss has them.

    blocks  uint8 [..., rows, groups, 16]   two codes in a byte, the low half first
    scales  uint8 [..., rows, groups]       exponents: 2 ** (scale - 127)
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
from quire.quant.formats.settings import Settings
from quire.quant.formats.small_floats import E2M1, E8M0
from quire.quant.formats.words import pairs_of_nibbles
from quire.quant.matrix import QuantizedMatrix

__all__ = ["GROUP", "decode", "exponents", "read_packed", "scheme", "schemes"]

GROUP = 32


def schemes(config: Mapping[str, Any]) -> ModuleSchemes:
    """gpt-oss has its linear layers in plain floats; its experts are read through `decode`."""
    settings = Settings(config, "quantization_config (mxfp4)")
    settings.get("quant_method")
    settings.names("modules_to_not_convert")
    settings.skip("dequantize")
    settings.finish()
    return lambda module: None


def decode(
    name: str, blocks: npt.NDArray[np.uint8], scales: npt.NDArray[np.uint8]
) -> QuantizedMatrix:
    """One expert's matrix [rows, cols] of blocks [rows, groups, 16] and scales [rows, groups].

    Raises ValueError for shapes that do not fit and for a scale of 255, which is no number.
    """
    if blocks.ndim != 3 or blocks.shape[2] != GROUP // 2 or scales.shape != blocks.shape[:2]:
        raise ValueError(
            f"{name!r} has blocks {list(blocks.shape)} and scales {list(scales.shape)}, not "
            "[rows, groups, 16] and [rows, groups]"
        )
    if (scales == 0xFF).any():
        raise ValueError(f"{name!r} has a scale of 255, which is no number")
    codes = pairs_of_nibbles(blocks).reshape(len(blocks), -1)
    return QuantizedMatrix(name, 4, GROUP, codes, E8M0[scales], table=E2M1)


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
