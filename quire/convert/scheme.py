"""The quantization schemes: what a matrix's numbers become, and what they are multiplied by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from quire.errors import ConfigError

__all__ = ["SCHEMES", "Activations", "Scheme", "find_scheme"]

Activations = Literal["int8", "float8"] | None
"""How inputs are rounded at run time, each token alone; None: they stay floats."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """How the matrices of linear layers are stored.

    numbers: integers, or small floats (float8 is E4M3, float4 E2M1).  group_size: columns that
    share a scale; None: the whole row.  symmetric: zero is the middle code; else each group has a
    zero point of its own.  power_of_two: scales are powers of two (the MX formats).
    """

    name: str
    numbers: Literal["integer", "float8", "float4"]
    bits: int
    group_size: int | None
    symmetric: bool = True
    power_of_two: bool = False
    activations: Activations = None

    @property
    def bits_per_weight(self) -> float:
        """Bits of a code with its share of a group's scale and zero point; a row's count none."""
        if self.group_size is None:
            return float(self.bits)
        scale = 8 if self.power_of_two else 16
        return self.bits + (scale + (0 if self.symmetric else self.bits)) / self.group_size

    def grouped_by(self, group_size: int | None) -> Scheme:
        """The scheme with groups of another size; ConfigError where its format fixes the size."""
        if group_size is None:
            return self
        if self.power_of_two or self.group_size is None:
            own = "whole rows" if self.group_size is None else f"groups of {self.group_size}"
            raise ConfigError(f"group_size is {group_size} and {self.name} has {own}; leave it out")
        if group_size < 8:
            raise ConfigError(f"group_size is {group_size}; give 8 or more, usually 32, 64 or 128")
        return replace(self, group_size=group_size)


_ALL = (
    Scheme("w3a16", "integer", 3, 128),
    Scheme("w4a16", "integer", 4, 128),
    Scheme("w4a16_asym", "integer", 4, 128, symmetric=False),
    Scheme("w8a16", "integer", 8, None),
    Scheme("w4a8", "integer", 4, 128, activations="int8"),
    Scheme("w8a8", "integer", 8, None, activations="int8"),
    Scheme("fp8_w8a16", "float8", 8, None),
    Scheme("fp8", "float8", 8, None, activations="float8"),
    Scheme("mxfp4", "float4", 4, 32, power_of_two=True),
)

SCHEMES: Mapping[str, Scheme] = {scheme.name: scheme for scheme in _ALL}


def find_scheme(name: str, group_size: int | None = None) -> Scheme:
    """The scheme of this name; ConfigError, listing all of them, for one unknown."""
    key = name.lower().replace("-", "_")
    if key not in SCHEMES:
        raise ConfigError(f"there is no scheme {name!r}; choose one of {', '.join(SCHEMES)}")
    return SCHEMES[key].grouped_by(group_size)
