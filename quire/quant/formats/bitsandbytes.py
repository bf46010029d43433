"""bitsandbytes: 4-bit codes of a table (NF4, FP4) in blocks, and int8 rows.

    4 bits  weight                    uint8 [codes / 2, 1]   the high half of a byte first
            weight.absmax             float32 [blocks], or uint8 codes if it is quantized itself
            weight.quant_map          float32 [16]           the value of each code
            weight.quant_state.bitsandbytes__nf4 or __fp4    JSON: blocksize, shape, nested_…
            weight.nested_absmax, weight.nested_quant_map    of absmax: float32 [blocks], [256]
            weight = quant_map[code] * absmax, in blocks of the rows laid end to end
    8 bits  weight int8 [out, in], SCB float32 [out]:        weight = code * SCB / 127

Source: bitsandbytes 0.50, functional.py (QuantState) and nn/modules.py (Linear8bitLt).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.quant.formats.scheme import ModuleSchemes, Scheme, Tensors
from quire.quant.formats.settings import Settings, is_listed
from quire.quant.matrix import QuantizedMatrix

__all__ = ["read_four", "read_int8", "schemes"]

BLOCK = 64
"""Weights that share an absmax unless the file says otherwise."""
ABSMAX, MAP = "weight.absmax", "weight.quant_map"
NESTED_ABSMAX, NESTED_MAP = "weight.nested_absmax", "weight.nested_quant_map"
UNUSED = (
    "bnb_4bit_compute_dtype",
    "bnb_4bit_quant_storage",
    "bnb_4bit_use_double_quant",
    "llm_int8_enable_fp32_cpu_offload",
    "llm_int8_has_fp16_weight",
    "llm_int8_threshold",
)
"""How another engine should compute; what it stored is in the tensors."""


def schemes(config: Mapping[str, Any]) -> ModuleSchemes:
    """How a checkpoint with this quantization_config stores each linear layer."""
    settings = Settings(config, "quantization_config (bitsandbytes)")
    settings.get("quant_method")
    four = settings.flag("load_in_4bit", False) | settings.flag("_load_in_4bit", False)
    eight = settings.flag("load_in_8bit", False) | settings.flag("_load_in_8bit", False)
    if four == eight:
        raise settings.error("load_in_4bit", four, "one of load_in_4bit and load_in_8bit as true")
    kind = settings.choice("bnb_4bit_quant_type", "fp4", ("nf4", "fp4"))
    plain = settings.names("llm_int8_skip_modules", "modules_to_not_convert")
    settings.skip(*UNUSED)
    settings.finish()
    scheme = _four(kind) if four else _eight()

    def scheme_of(module: str) -> Scheme | None:
        head = module == "lm_head" or module.endswith(".lm_head")
        return None if head or is_listed(module, plain) else scheme

    return scheme_of


def read_four(tensors: Tensors, kind: str) -> QuantizedMatrix:
    """The matrix that the tensors of a 4-bit layer hold; CheckpointError if they do not fit."""
    rows, cols = tensors.shape
    state = _state(tensors, _state_part(kind))
    block = _positive(tensors, state, "blocksize")
    if state.get("quant_type", kind) != kind or state.get("shape") != [rows, cols]:
        raise tensors.error(f"its quant_state says {state!r:.200}, not {kind} of this shape")
    count = rows * cols
    half = -(-count // 2)
    packed = tensors.take("weight", ("U8",), (half, 1), (1, half), (half,)).reshape(-1)
    codes = np.stack([packed >> 4, packed & 15], axis=-1).reshape(-1)[:count].reshape(rows, cols)
    absmax = _absmax(tensors, state, -(-count // block))
    # Blocks run on from row to row: where they end inside one, groups are what fits both.
    size = math.gcd(block, cols)
    scales = absmax[np.arange(count // size) * size // block].reshape(rows, cols // size)
    table = tensors.floats(MAP, (16,))
    return QuantizedMatrix(tensors.module, 4, size, codes, scales, table=table)


def read_int8(tensors: Tensors) -> QuantizedMatrix:
    """The matrix that the tensors of an int8 layer hold."""
    rows, cols = tensors.shape
    if "weight_format" in tensors and tensors.take("weight_format", ("U8",), ()) != 0:
        raise tensors.error(".weight_format is not 0, rows one after another")
    values = tensors.take("weight", ("I8",), (rows, cols))
    codes = (values.astype(np.int16) + 128).astype(np.uint8)
    scales = tensors.floats("SCB", (rows,), (rows, 1)).reshape(rows, 1) / np.float32(127)
    return QuantizedMatrix(tensors.module, 8, cols, codes, scales)


def _four(kind: str) -> Scheme:
    return Scheme(
        f"bitsandbytes {kind}, blocks of {BLOCK}",
        4,
        BLOCK,
        "table",
        ("weight", ABSMAX, MAP, _state_part(kind)),
        partial(read_four, kind=kind),
        (NESTED_ABSMAX, NESTED_MAP),
    )


def _eight() -> Scheme:
    label = "bitsandbytes int8, whole rows"
    return Scheme(label, 8, None, "symmetric", ("weight", "SCB"), read_int8, ("weight_format",))


def _state_part(kind: str) -> str:
    return f"weight.quant_state.bitsandbytes__{kind}"


def _state(tensors: Tensors, part: str) -> dict[str, Any]:
    """The JSON object that stands in a tensor of bytes."""
    try:
        state = json.loads(tensors.take(part, ("U8",)).tobytes())
    except (ValueError, RecursionError) as error:
        raise tensors.error(f".{part} is not JSON: {error}") from None
    if not isinstance(state, dict):
        raise tensors.error(f".{part} holds {state!r:.100}, not an object")
    return state


def _positive(tensors: Tensors, state: Mapping[str, Any], key: str) -> int:
    value = state.get(key)
    if type(value) is not int or value < 1:
        raise tensors.error(f"its quant_state has the {key} {value!r:.100}")
    return value


def _absmax(tensors: Tensors, state: Mapping[str, Any], blocks: int) -> npt.NDArray[np.float32]:
    """The largest magnitude of each block."""
    if NESTED_ABSMAX not in tensors:
        return tensors.floats(ABSMAX, (blocks,), (blocks, 1)).reshape(-1)
    size = _positive(tensors, state, "nested_blocksize")
    offset = state.get("nested_offset")
    if type(offset) not in (int, float):
        raise tensors.error(f"its quant_state has the nested_offset {offset!r:.100}")
    codes = tensors.take(ABSMAX, ("U8",), (blocks,), (blocks, 1)).reshape(-1)
    scales = tensors.floats(NESTED_ABSMAX, (-(-blocks // size),))
    values = tensors.floats(NESTED_MAP, (256,))[codes] * scales[np.arange(blocks) // size]
    return tensors.finite(ABSMAX, values + np.float32(offset))
