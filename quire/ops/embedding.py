"""Looks up the row of each token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quire.ops.op import Cost, Environment, Float32

__all__ = ["EmbeddingLookup"]


@dataclass(frozen=True, slots=True)
class EmbeddingLookup:
    """[T, E] = table[token_ids - first] * scale; zeros where the table has no such row.

    The table is [V, E], or the rows of one rank from token `first` on.
    """

    table: str
    width: int
    scale: float = 1.0
    first: int = 0

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """E."""
        return (self.width,)

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """Rows of the table, scaled."""
        table, rows = env.weights[self.table], env.batch.token_ids - self.first
        inside = (rows >= 0) & (rows < len(table))
        found = table[np.where(inside, rows, 0)] * np.float32(self.scale)
        return (np.where(inside[:, None], found, np.float32(0)),)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """One row of the table per token."""
        return Cost(weights=rows * self.width, activations=rows * self.width)

    @property
    def weight_names(self) -> tuple[str, ...]:
        """The table."""
        return (self.table,)
