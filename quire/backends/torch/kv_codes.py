"""Keys and values as codes, as quire.ops.kv_codes defines them, on any device.

e4m3 floats are read and written as integers, so a device need not know them.
"""

from __future__ import annotations

import torch

__all__ = ["from_codes", "to_codes"]

LARGEST = {"int8": 127.0, "fp8": 448.0}


def to_codes(x: torch.Tensor, format: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes uint8 [..., D], of int4 [..., ceil(D / 2)], and facts [F, ...] of vectors [..., D]."""
    x = x.float()
    return _to_int4(x) if format == "int4" else _to_symmetric(x, format)


def from_codes(
    codes: torch.Tensor, facts: torch.Tensor, format: str, head_dim: int
) -> torch.Tensor:
    """The vectors [..., D] of codes and facts."""
    scale = facts[0][..., None]
    if format == "int4":
        both = torch.stack([codes & 15, codes >> 4], dim=-1).flatten(-2)[..., :head_dim]
        return both.float() * scale + facts[1][..., None]
    if format == "int8":
        return codes.view(torch.int8).float() * scale
    return _from_e4m3(codes) * scale


def _to_symmetric(x: torch.Tensor, format: str) -> tuple[torch.Tensor, torch.Tensor]:
    most = x.abs().amax(dim=-1)
    most = torch.where(torch.isfinite(most), most, torch.nan)
    parts = x / most[..., None] * LARGEST[format]
    parts = torch.where(most[..., None] > 0, parts, 0.0)
    is_float = format == "fp8"
    codes = _to_e4m3(parts) if is_float else parts.round().to(torch.int8).view(torch.uint8)
    return codes, (most / LARGEST[format])[None]


def _to_int4(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    finite = torch.isfinite(x).all(dim=-1)
    low, high = (torch.where(finite, each, 0.0) for each in (x.amin(dim=-1), x.amax(dim=-1)))
    scale = high / 15.0 - low / 15.0
    step = 0.5 * scale  # of halves, for the difference of two large numbers may be none
    parts = (0.5 * x - 0.5 * low[..., None]) / step[..., None]
    parts = torch.where((finite & (step > 0))[..., None], parts, 0.0)
    codes = parts.clamp(max=15.0).round().to(torch.uint8)
    codes = torch.nn.functional.pad(codes, (0, codes.shape[-1] % 2))
    pairs = codes[..., ::2] | codes[..., 1::2] << 4
    return pairs, torch.stack([torch.where(finite, scale, torch.nan), low])


def _from_e4m3(codes: torch.Tensor) -> torch.Tensor:
    bits = (codes & 0x7F).to(torch.int16) << 7  # of a float16 whose exponent is 8 too small
    magnitude = bits.view(torch.float16).float() * 256.0
    return torch.where(codes < 0x80, magnitude, -magnitude)


def _to_e4m3(x: torch.Tensor) -> torch.Tensor:
    """The nearest, ties to even; what is above them all becomes ±448."""
    bits = x.contiguous().view(torch.int32)
    magnitude = bits & 0x7FFFFFFF
    normal = (magnitude + 0x7FFFF + (magnitude >> 20 & 1) >> 20) - (120 << 3)
    small = x.abs() < 2**-6
    subnormal = (torch.where(small, x.abs(), 0.0) * 512.0).round().int()
    codes = torch.where(small, subnormal, normal).clamp(max=0x7E)
    return (codes | bits >> 24 & 0x80).to(torch.uint8)
