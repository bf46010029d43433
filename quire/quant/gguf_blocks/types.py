"""The tensor types of GGUF by number: which are read, and what the others are called."""

from __future__ import annotations

from dataclasses import dataclass

from quire.quant.gguf_blocks import one_scale, two_scales
from quire.quant.gguf_blocks.block_format import BlockFormat

__all__ = ["BLOCK_FORMATS", "NUMBERS", "PLAIN", "TensorType", "tensor_type"]

BLOCK_FORMATS: dict[str, BlockFormat] = {
    each.name: each for each in (*one_scale.FORMATS, *two_scales.FORMATS)
}
PLAIN = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I8": 1, "I16": 2, "I32": 4, "I64": 8}
"""Types with one number per element → its bytes."""

# Numbers that ggml once used for other layouts, and takes no more, are left out.
NAMES = {
    **{0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1"},
    **{10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K"},
    **{16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S"},
    **{22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64"},
    **{29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4"},
}
NUMBERS = {name: number for number, name in NAMES.items()}


@dataclass(frozen=True, slots=True)
class TensorType:
    """A type whose rows are runs of `nbytes` for every `columns` elements."""

    name: str
    columns: int
    nbytes: int


def tensor_type(number: int) -> TensorType:
    """The type of this number.  Raises ValueError, naming it, for one that is not read."""
    name = NAMES.get(number)
    if name in PLAIN:
        return TensorType(name, 1, PLAIN[name])
    if name in BLOCK_FORMATS:
        return TensorType(name, BLOCK_FORMATS[name].columns, BLOCK_FORMATS[name].nbytes)
    shown = f"{name}, which is not read" if name else f"number {number}, which is unknown"
    raise ValueError(f"has the type {shown}; read: {', '.join([*PLAIN, *BLOCK_FORMATS])}")
