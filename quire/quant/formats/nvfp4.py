"""NVFP4: 4-bit floats in groups of 16 with float8 scales and one float32 scale of the matrix.

    ModelOpt            weight uint8 [out, in / 2], weight_scale float8 [out, in / 16],
                        weight_scale_2 float32:       weight = E2M1[code] * (scale * scale_2)
    compressed-tensors  weight_packed, weight_scale, weight_global_scale:
                                                      weight = E2M1[code] * (scale / global_scale)

Two codes stand in a byte, the low half first.
Source: TensorRT Model Optimizer's hf_quant_config.json; compressed-tensors 0.20, compressors/nvfp4.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from quire.quant.formats.scheme import Scheme, Tensors
from quire.quant.formats.small_floats import E2M1, E4M3
from quire.quant.formats.words import pairs_of_nibbles
from quire.quant.matrix import QuantizedMatrix

__all__ = ["GROUP", "read", "scheme"]

GROUP = 16


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
