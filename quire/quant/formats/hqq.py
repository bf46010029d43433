"""HQQ: codes with float zero points, groups cut from the whole matrix along one of two axes.

    W_q    uint8, or int32 for 3 bits   parts of the codes above one another, the first highest
    scale  float [groups, 1] (axis 1) or [1, groups] (axis 0)
    zero   as scale
    nbits, group_size, axis, packing, …: one number or some letters each
    axis 1: groups are runs of `group_size` weights of the rows laid end to end
    axis 0: of weights that stand rows * cols / group_size apart
    weight = (code - zero) * scale

Source: hqq 0.2.8, hqq/core/bitpack.py and quantize.py (HQQLinear.state_dict).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.quant.formats.scheme import ModuleSchemes, Scheme, Tensors
from quire.quant.formats.settings import Settings, is_listed
from quire.quant.matrix import QuantizedMatrix

__all__ = ["read", "schemes"]

BITS = (1, 2, 3, 4, 8)
CODES_IN_A_WORD = {1: 8, 2: 4, 3: 10, 4: 2, 8: 1}
PACKINGS = {1: "1bit_u8", 2: "2bit_u8", 3: "3bit_32", 4: "4bit_u8", 8: "8bit_u8"}
CHECKED = ("nbits", "axis", "group_size", "packing", "view_as_float", "quant_scale", "quant_zero")
UNUSED = (
    "channel_wise",
    "compute_dtype",
    "encoded_state_dict",
    "offload_meta",
    "optimize",
    "round_zero",
    "shape",
    "stores_quant_config",
    "unpack_view_dtype",
)
"""How the codes were found and how another engine should compute."""


def schemes(config: Mapping[str, Any]) -> ModuleSchemes:
    """How a checkpoint with this quantization_config stores each linear layer."""
    settings = Settings(config, "quantization_config (hqq)")
    settings.get("quant_method")
    plain = settings.names("skip_modules")
    inner = settings.section("quant_config")
    settings.finish()
    if inner is None:
        raise settings.error("quant_config", None, "an object")
    one = inner.section("weight_quant_params")
    if one is not None:
        every = _scheme(one)
        inner.section("scale_quant_params")
        inner.section("zero_quant_params")
        inner.skip("offload_meta", "scale_quant_params", "zero_quant_params")
        inner.finish()
        return lambda module: None if _is_head(module) or is_listed(module, plain) else every
    named: dict[str, Scheme | None] = {}
    for name, value in inner.items():
        section = Settings(value, f"{inner.where}.{name}") if isinstance(value, dict) else None
        weights = section.section("weight_quant_params") if section else None
        named[name] = _scheme(weights or section) if section else None

    def scheme_of(module: str) -> Scheme | None:
        return next((found for name, found in named.items() if module.endswith(f".{name}")), None)

    return scheme_of


def read(tensors: Tensors, bits: int, group_size: int | None, axis: int) -> QuantizedMatrix:
    """The matrix that the tensors of one layer hold; CheckpointError if they do not fit."""
    rows, cols = tensors.shape
    size = group_size or (cols if axis == 1 else rows)
    if rows * cols % size:
        raise tensors.error(f"its weights do not make whole groups of {size}")
    _check(tensors, bits, group_size, axis)
    groups = rows * cols // size
    grouped = (groups, size) if axis == 1 else (size, groups)
    codes = _unpack(tensors, bits, grouped).reshape(rows, cols)
    shape = (groups, 1) if axis == 1 else (1, groups)
    scale, zero = tensors.floats("scale", shape), tensors.floats("zero", shape)
    if axis == 1:  # a group may end inside a row, or hold several
        run = math.gcd(size, cols)
        group_of = np.arange(rows * cols // run) * run // size
    else:  # every column of a row has a scale of its own
        run = 1
        group_of = np.arange(rows * cols) % groups
    scales = scale.reshape(-1)[group_of].reshape(rows, -1)
    minimums = scales * zero.reshape(-1)[group_of].reshape(rows, -1)
    return QuantizedMatrix(tensors.module, bits, run, codes, scales, minimums=minimums)


def _scheme(settings: Settings) -> Scheme:
    bits = settings.integer("nbits", 4, BITS)
    size = settings.get("group_size")
    if size is not None and (type(size) is not int or size < 1):
        raise settings.error("group_size", size, "a positive number or null")
    axis = settings.integer("axis", 0, (0, 1))
    if settings.flag("view_as_float", False):
        raise settings.error("view_as_float", True, "codes as integers")
    settings.skip("channel_wise", "optimize", "round_zero", "compute_dtype")
    settings.finish()
    return Scheme(
        f"hqq {bits} bits, {f'groups of {size}' if size else 'whole rows'} along axis {axis}",
        bits,
        size if axis == 1 else 1,
        "minimums",
        ("W_q", "scale", "zero"),
        partial(read, bits=bits, group_size=size, axis=axis),
        CHECKED,
        UNUSED,
    )


def _check(tensors: Tensors, bits: int, group_size: int | None, axis: int) -> None:
    """What a layer says of itself must be what the config says of it."""
    expected = {"nbits": bits, "axis": axis, "group_size": group_size}
    expected |= {"view_as_float": 0, "quant_scale": 0, "quant_zero": 0}
    for part, value in expected.items():
        if part in tensors and tensors.take(part, ("I32", "U8", "I64"), (), (1,)) != value:
            raise tensors.error(f".{part} is not {value}, what the config makes of it")
    if "packing" in tensors:
        packing = tensors.take("packing", ("U8",)).tobytes()
        if packing != PACKINGS[bits].encode():
            raise tensors.error(f".packing is {packing!r:.40}, not {PACKINGS[bits]}")


def _unpack(tensors: Tensors, bits: int, shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Codes of this shape."""
    count = CODES_IN_A_WORD[bits]
    height = -(-shape[0] // count)
    dtype = "I32" if bits == 3 else "U8"
    words = tensors.take("W_q", (dtype,), (height, shape[1]))
    mask = (1 << bits) - 1
    parts = [words >> bits * (count - 1 - each) & mask for each in range(count)]
    codes: npt.NDArray[np.uint8] = np.concatenate(parts)[: shape[0]].astype(np.uint8)
    return codes


def _is_head(module: str) -> bool:
    return module == "lm_head" or module.endswith(".lm_head")
