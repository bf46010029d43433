"""What a language model sees with: an encoder of images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from quire.models.block import Block
from quire.models.feed_forward import MLP
from quire.models.linear import Linear, Norm
from quire.models.rope import Rope
from quire.models.walk import parts

__all__ = ["Vision", "VisionTower"]


@dataclass(frozen=True, slots=True)
class VisionTower:
    """An encoder of images: blocks over patches, and a merger that makes token rows of them.

    A patch is one row of its pixels, which `patch` takes.  Patches come in groups of `merge` that
    lie in a square; merger_norm is of each, and the merger reads the rows of a group side by side.
    """

    patch: Linear
    blocks: tuple[Block, ...]
    merger_norm: Norm
    merge: int
    merger: MLP

    @property
    def patch_values(self) -> int:
        """Numbers in a patch."""
        return self.patch.weight.shape[1]

    @property
    def ropes(self) -> tuple[Rope, ...]:
        """The distinct rotations of its layers, in order of first use."""
        return tuple(dict.fromkeys(parts(self, Rope)))

    def linears(self) -> Iterator[Linear]:
        """Every linear layer, in order of use."""
        return parts(self, Linear)


@dataclass(frozen=True, slots=True)
class Vision:
    """How a language model sees: image_token stands where an image's rows go, side by side.

    A patch is `patch` pixels wide and high and `frames` images deep; merge x merge become a token.
    The tower is no part of the language model: it is not quantized, nor divided over ranks.
    """

    tower: VisionTower
    image_token: int
    patch: int
    frames: int
    merge: int
