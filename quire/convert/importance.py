"""What an error of rounding weighs: the part of the inputs' second moment that lies in one group.

A group's error e weighs e H e^T, H the second moment of the group's own inputs; groups wider than
256 columns are weighed by the diagonal of H alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Importance"]

Float32 = npt.NDArray[np.float32]

WIDEST_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Importance:
    """Blocks of H on its diagonal, [groups, size, size], or the diagonal itself, [groups, size]."""

    blocks: Float32

    @classmethod
    def of(cls, moment: Float32, size: int) -> Importance:
        """The importance for groups of `size` columns of inputs with this second moment."""
        count = len(moment) // size
        if size > WIDEST_BLOCK:
            return cls(np.ascontiguousarray(np.diagonal(moment)).reshape(count, size))
        starts = range(0, count * size, size)
        return cls(np.stack([moment[at : at + size, at : at + size] for at in starts]))

    def divided(self, factors: Float32) -> Importance:
        """The importance when every input is divided by its factor."""
        by_group = factors.reshape(len(self.blocks), -1)
        if self.blocks.ndim == 2:
            return Importance(self.blocks / by_group**2)
        return Importance(self.blocks / by_group[:, None, :] / by_group[:, :, None])

    def of_errors(self, errors: Float32) -> Float32:
        """The weight [rows, groups] of errors [rows, groups, size]."""
        if self.blocks.ndim == 2:
            by_column: Float32 = np.einsum("rgi,gi->rg", errors * errors, self.blocks)
            return by_column
        by_group = errors.transpose(1, 0, 2)  # [groups, rows, size]
        weights: Float32 = np.einsum("gri,gri->rg", by_group @ self.blocks, by_group)
        return weights
