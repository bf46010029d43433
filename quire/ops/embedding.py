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
    """[T, E] = table[row of each token] * scale; the table is [V, E]."""

    table: str
    width: int
    scale: float = 1.0
    index: Index = "token"
    offset: int = 0

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """E."""
        return (self.width,)

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """Rows of the table, scaled."""
        batch = env.batch
        rows = batch.token_ids if self.index == "token" else batch.positions + self.offset
        rows = np.zeros_like(rows) if self.index == "first" else rows
        return (env.weights[self.table][rows] * np.float32(self.scale),)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """One row of the table per token."""
        return Cost(weights=rows * self.width, activations=rows * self.width)

    @property
    def weight_names(self) -> tuple[str, ...]:
        """The table."""
        return (self.table,)
