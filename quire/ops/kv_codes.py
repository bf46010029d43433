"""Keys and values as codes: what a vector of D numbers becomes in a narrow KV cache.

    int8   code * scale                codes -127 .. 127, scale = max |x| / 127
    fp8    e4m3(code) * scale          scale = max |x| / 448
    int4   code * scale + minimum      codes 0 .. 15, scale = (max x - min x) / 15, minimum = min x

Each vector, of one token and head, has float32 numbers of its own.  One that is not finite has
codes 0 and scale NaN: whoever sees it becomes NaN.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quire.ops.number_formats import E4M3, e4m3_codes

__all__ = ["NUM_FACTS", "from_codes", "to_codes"]

Float32 = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]

NUM_FACTS = {"int8": 1, "fp8": 1, "int4": 2}
"""Format → how many float32 numbers a vector has beside its codes: a scale, and a minimum."""

LARGEST = {"int8": np.float32(127), "fp8": np.float32(448)}
STEPS = np.float32(15)
HALF = np.float32(0.5)


def to_codes(x: np.ndarray, format: str) -> tuple[Codes, Float32]:
    """Codes [..., D], one a byte, and the numbers [NUM_FACTS, ...] of vectors [..., D]."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        x = x.astype(np.float32)
        return _to_int4(x) if format == "int4" else _to_symmetric(x, format)


def from_codes(codes: Codes, facts: Float32, format: str) -> Float32:
    """The vectors [..., D] that codes and numbers stand for."""
    scale = facts[0][..., None]
    if format == "int4":
        shifted: Float32 = codes.astype(np.float32) * scale + facts[1][..., None]
        return shifted
    whole = E4M3[codes] if format == "fp8" else codes.view(np.int8).astype(np.float32)
    numbers: Float32 = whole * scale
    return numbers


def _to_symmetric(x: Float32, format: str) -> tuple[Codes, Float32]:
    most = np.abs(x).max(axis=-1)
    most = np.where(np.isfinite(most), most, np.float32(np.nan))
    parts = x / most[..., None] * LARGEST[format]
    parts = np.where(most[..., None] > 0, parts, np.float32(0))
    codes = e4m3_codes(parts) if format == "fp8" else np.rint(parts).astype(np.int8).view(np.uint8)
    return codes, (most / LARGEST[format])[None]


def _to_int4(x: Float32) -> tuple[Codes, Float32]:
    finite = np.isfinite(x).all(axis=-1)
    low, high = (np.where(finite, each, np.float32(0)) for each in (x.min(-1), x.max(-1)))
    scale = high / STEPS - low / STEPS
    step = HALF * scale  # of halves, for the difference of two large numbers may be none
    parts = (HALF * x - HALF * low[..., None]) / step[..., None]
    some = finite & np.asarray(step > 0)
    parts = np.where(some[..., None], parts, np.float32(0))
    codes = np.rint(np.minimum(parts, STEPS)).astype(np.uint8)
    return codes, np.stack([np.where(finite, scale, np.float32(np.nan)), low])
