"""Rotary position embedding: every scaling rule, from config values to inverse frequencies.

Sources: arXiv:2104.09864 (RoPE), arXiv:2309.00071 (NTK-aware, dynamic and YaRN scaling),
arXiv:2402.13753 (LongRoPE), the Llama 3.1 model card (llama3 rule), the remote code of Qwen
(doubling rule).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["Rope", "RopeScaling", "longrope_attention_factor", "yarn_attention_factor"]


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How positions are stretched beyond the trained length; a kind reads only its own fields.

    original_length: the trained length; up to it, dynamic and doubling do nothing.  factors: what
    each pair's frequency is divided by; of longrope, up to the trained length, and beyond it by
    long_factors.  attention_factor: on cosines and sines; beyond it long_attention_factor.
    """

    kind: Literal[
        "default", "linear", "dynamic", "doubling", "llama3", "yarn", "factors", "longrope"
    ] = "default"
    factor: float = 1.0
    original_length: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0
    factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    long_attention_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotates the first `dims` values of each head; pairs are (i, i + dims/2) or (2i, 2i + 1).

    sections: how many pairs in turn the time, the row and the column of a token turn, where it
    stands in an image; none: its place in the text turns all (arXiv:2409.12191, M-RoPE).
    restarts: each section has the frequencies of a head of its own.
    """

    dims: int
    theta: float
    pairing: Literal["half", "interleaved"] = "half"
    scaling: RopeScaling = RopeScaling()
    sections: tuple[int, ...] = ()
    restarts: bool = False

    @property
    def axes(self) -> tuple[int, ...]:
        """Which of the three positions turns each pair; empty where there is but one."""
        return tuple(axis for axis, count in enumerate(self.sections) for _ in range(count))

    def length_class(self, length: int) -> int:
        """The length whose frequencies a request with a prompt of `length` tokens uses.

        0 unless the rule depends on length and the prompt exceeds the trained length.  It is fixed
        when the request is admitted, so cached keys never change their rotation.
        """
        kind, trained = self.scaling.kind, self.scaling.original_length
        if kind not in ("dynamic", "doubling", "longrope") or length <= trained:
            return 0
        if kind == "doubling":
            return trained << math.ceil(math.log2(length / trained))
        return trained + 1 if kind == "longrope" else length

    def inverse_frequencies(self, length_class: int = 0) -> list[float]:
        """Radians per position for each of the dims/2 pairs."""
        theta, scaling = self.theta, self.scaling
        if scaling.kind == "dynamic" and length_class:
            stretch = scaling.factor * length_class / scaling.original_length - (scaling.factor - 1)
            theta *= stretch ** (self.dims / (self.dims - 2))
        if scaling.kind == "doubling" and length_class:
            stretch = 2 * length_class / scaling.original_length - 1
            theta *= stretch ** (self.dims / (self.dims - 2))
        counts = self.sections if self.restarts else (self.dims // 2,)
        plain = [theta ** (-i / count) for count in counts for i in range(count)]
        if scaling.kind == "linear":
            return [f / scaling.factor for f in plain]
        if scaling.kind == "llama3":
            return [_llama3(f, scaling) for f in plain]
        if scaling.kind == "yarn":
            return _yarn(plain, self)
        if scaling.kind in ("factors", "longrope"):
            factors = scaling.long_factors if length_class else scaling.factors
            return [f / factor for f, factor in zip(plain, factors, strict=True)]
        return plain

    def table_row(self, length_class: int = 0) -> list[float]:
        """The inverse frequencies, and behind them the factor on cosines and sines."""
        scaling, is_long = self.scaling, self.scaling.kind == "longrope" and length_class
        factor = scaling.long_attention_factor if is_long else scaling.attention_factor
        return [*self.inverse_frequencies(length_class), factor]


def _llama3(frequency: float, scaling: RopeScaling) -> float:
    """Keep short wavelengths, divide long ones by the factor, blend in between."""
    wavelength = 2 * math.pi / frequency
    if wavelength < scaling.original_length / scaling.high_freq_factor:
        return frequency
    if wavelength >= scaling.original_length / scaling.low_freq_factor:
        return frequency / scaling.factor
    smooth = scaling.original_length / wavelength - scaling.low_freq_factor
    smooth /= scaling.high_freq_factor - scaling.low_freq_factor
    return (1 - smooth) * frequency / scaling.factor + smooth * frequency


def _yarn(plain: list[float], rope: Rope) -> list[float]:
    """Blend extrapolation (fast pairs) and interpolation (slow pairs) along a linear ramp."""
    scaling = rope.scaling

    def pair_turning(turns: float) -> float:
        ratio = scaling.original_length / (turns * 2 * math.pi)
        return rope.dims * math.log(ratio) / (2 * math.log(rope.theta))

    low, high = pair_turning(scaling.beta_fast), pair_turning(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dims - 1)
    if low == high:
        high += 0.001
    blended = []
    for i, frequency in enumerate(plain):
        slow = min(max((i - low) / (high - low), 0.0), 1.0)
        blended.append(frequency / scaling.factor * slow + frequency * (1 - slow))
    return blended


def yarn_attention_factor(
    factor: float, mscale: float | None = None, mscale_all_dim: float | None = None
) -> float:
    """The factor on cosines and sines that YaRN recommends for a stretch of `factor`."""

    def mscale_of(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if mscale and mscale_all_dim:
        return mscale_of(mscale) / mscale_of(mscale_all_dim)
    return mscale_of(1.0)


def longrope_attention_factor(factor: float, original_length: int) -> float:
    """The factor on cosines and sines that LongRoPE recommends for a stretch of `factor`."""
    if factor <= 1 or original_length < 2:
        return 1.0
    return math.sqrt(1 + math.log(factor) / math.log(original_length))
