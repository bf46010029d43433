"""Looks up a row for each token: its own, or that of its position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from quire.ops.op import Cost, Environment, Float32

__all__ = ["EmbeddingLookup", "Index"]

Index: TypeAlias = Literal["token", "position", "first"]
"""Which row of a table a token gets: that of its id, of its position + offset, or row 0."""


@dataclass(frozen=True, slots=True)
class EmbeddingLookup:
    """[T, E] = table[row of each token] * scale; zeros where the table has no such row.

    The table is [V, E], or the rows of one rank from token `first` on.
    """

    table: str
    width: int
    scale: float = 1.0
    first: int = 0
    index: Index = "token"
    offset: int = 0

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """E."""
        return (self.width,)

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """Rows of the table, scaled."""
        batch, table = env.batch, env.weights[self.table]
        rows = {
            "token": batch.token_ids - self.first,
            "position": batch.positions + self.offset,
            "first": np.zeros_like(batch.positions),
        }[self.index]
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
