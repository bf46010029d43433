"""AWQ as AutoAWQ's "gemm" layout stores it: 4-bit codes with a zero point for each group.

    qweight  int32   [in, out / 8]       eight outputs in a word
    qzeros   int32   [in / group, out / 8]
    scales   float16 [in / group, out]
    weight[o, i] = (code[i, o] - zero[i // group, o]) * scale[i // group, o]

The nibbles of a word, lowest first, are its outputs 0, 2, 4, 6, 1, 3, 5, 7.
Source: AutoAWQ 0.2, awq/utils/packing_utils.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.quant.formats.calibration_keys import CALIBRATION
from quire.quant.formats.half_scales import half_scales, zeros_of
from quire.quant.formats.scheme import ModuleSchemes, Scheme, Tensors, whole_rows
from quire.quant.formats.settings import Settings, is_listed
from quire.quant.formats.words import pack_words, unpack_words
from quire.quant.matrix import QuantizedMatrix

__all__ = ["config", "read", "scheme", "schemes", "write"]

BITS = 4
OUTPUTS_OF_NIBBLES = np.array([0, 2, 4, 6, 1, 3, 5, 7])


def schemes(config: Mapping[str, Any]) -> ModuleSchemes:
    """How a checkpoint with this quantization_config stores each linear layer."""
    settings = Settings(config, "quantization_config (awq)")
    settings.get("quant_method")
    for bits in ("bits", "w_bit"):
        settings.integer(bits, BITS, (BITS,))
    group_size = settings.group_size("group_size", settings.integer("q_group_size", 128))
    for layout in ("version", "format", "checkpoint_format"):
        settings.choice(layout, "gemm", ("gemm",))
    settings.choice("pack_dtype", "int32", ("int32",))
    settings.choice("data_type", "int", ("int",))
    for how in ("zero_point", "sym"):  # symmetric files hold zero points of 8
        settings.flag(how, True)
    plain = settings.names("modules_to_not_convert")
    settings.skip(*CALIBRATION)
    settings.finish()
    usual = scheme(group_size)

    def scheme_of(module: str) -> Scheme | None:
        head = module == "lm_head" or module.endswith(".lm_head")  # AutoAWQ leaves it alone
        return None if head or is_listed(module, plain) else usual

    return scheme_of


def scheme(group_size: int | None) -> Scheme:
    """How a layer with groups of this size is stored."""
    label = f"awq {BITS} bits, {_groups(group_size)}"
    parts = ("qweight", "qzeros", "scales")
    return Scheme(label, BITS, group_size, "zeros", parts, partial(read, group_size=group_size))


def read(tensors: Tensors, group_size: int | None) -> QuantizedMatrix:
    """The matrix that the tensors of one layer hold; CheckpointError if they do not fit."""
    rows, cols = tensors.shape
    size = whole_rows(group_size, cols)
    if rows % 8 or cols % size:
        raise tensors.error(f"AWQ needs outputs in eights and whole groups of {size} inputs")
    groups = cols // size
    codes = _nibbles(tensors.take("qweight", ("I32",), (cols, rows // 8)))
    zeros = _nibbles(tensors.take("qzeros", ("I32",), (groups, rows // 8)))
    scales = tensors.floats("scales", (groups, rows)).T
    return QuantizedMatrix(
        tensors.module,
        BITS,
        size,
        np.ascontiguousarray(codes.T),
        np.ascontiguousarray(scales),
        np.ascontiguousarray(zeros.T),
    )


def write(name: str, matrix: QuantizedMatrix) -> dict[str, npt.NDArray[Any]]:
    """The tensors of layer `name` (without ".weight"), by their full names.

    Raises ValueError for what the format cannot hold: other than 4 bits, minimums, a table,
    another order of the columns, scales that float16 would round, outputs not in eights.
    """
    rows, cols = matrix.shape
    if matrix.bits != BITS or matrix.order is not None or rows % 8 or cols % matrix.group_size:
        raise ValueError(
            f"{name!r} is {rows} × {cols} in {matrix.bits} bits and groups of "
            f"{matrix.group_size}; AWQ holds 4 bits, columns in their order, outputs in eights, "
            "whole groups"
        )
    return {
        f"{name}.qweight": _words(matrix.codes.T),
        f"{name}.qzeros": _words(zeros_of(matrix).T),
        f"{name}.scales": np.ascontiguousarray(half_scales(matrix).T),
    }


def config(group_size: int | None, not_converted: Sequence[str] = ()) -> dict[str, Any]:
    """The quantization_config of a checkpoint with such tensors; group_size None: whole rows."""
    return {
        "quant_method": "awq",
        "bits": BITS,
        "group_size": -1 if group_size is None else group_size,
        "version": "gemm",
        "zero_point": True,
        "modules_to_not_convert": list(not_converted) or None,
    }


def _nibbles(words: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """[n, outputs] of [n, outputs / 8]."""
    nibbles = unpack_words(words, BITS, words.shape[1] * 8).reshape(len(words), -1, 8)
    codes = np.empty_like(nibbles)
    codes[..., OUTPUTS_OF_NIBBLES] = nibbles
    return codes.reshape(len(words), -1)


def _words(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """The inverse of `_nibbles`."""
    eights = codes.reshape(len(codes), -1, 8)[..., OUTPUTS_OF_NIBBLES]
    return pack_words(eights.reshape(len(codes), -1), BITS)


def _groups(group_size: int | None) -> str:
    return "whole rows" if group_size is None else f"groups of {group_size}"
