"""What an error of rounding weighs: the part of the inputs' second moment that lies in one group.

A group's error e weighs e H e^T, H the second moment of the group's own inputs; groups wider than
BLOCK columns, and those that do not divide it, are weighed by the diagonal of H alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import numpy as np
import numpy.typing as npt

__all__ = ["Importance", "near_size", "weight_of"]

Float32 = npt.NDArray[np.float32]

BLOCK = 128


def near_size(width: int) -> int:
    """Columns of a block of the second moment that inputs of this width are observed with."""
    return gcd(width, BLOCK)


@dataclass(frozen=True, slots=True)
class Importance:
    """Blocks of H on its diagonal, [groups, size, size], or the diagonal itself, [groups, size]."""

    blocks: Float32

    @classmethod
    def of(cls, near: Float32, size: int) -> Importance:
        """The importance for groups of `size` columns, from blocks [n, w, w] of the moment."""
        width = near.shape[1]
        if width % size:
            return cls(np.diagonal(near, axis1=1, axis2=2).reshape(-1, size))
        starts = range(0, width, size)
        parts = np.stack([near[:, at : at + size, at : at + size] for at in starts], axis=1)
        return cls(parts.reshape(-1, size, size))

    def divided(self, factors: Float32) -> Importance:
        """The importance when every input is divided by its factor."""
        by_group = factors.reshape(len(self.blocks), -1)
        if self.blocks.ndim == 2:
            return Importance(self.blocks / by_group**2)
        return Importance(self.blocks / by_group[:, None, :] / by_group[:, :, None])


def weight_of(errors: Float32, importance: Float32 | None) -> Float32:
    """The weight [rows] of errors [rows, size] of one group; None: all columns weigh alike."""
    weighed = errors
    if importance is not None:
        weighed = errors * importance if importance.ndim == 1 else errors @ importance
    weights: Float32 = np.einsum("ri,ri->r", weighed, errors)
    return weights
