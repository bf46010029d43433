"""Looks up a row for each token: its own, that of its position, or one that the step brings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from quire.ops.op import Cost, Environment, Float32, WithoutWeights

__all__ = ["EmbeddingLookup", "GivenRows", "Index"]

Index: TypeAlias = Literal["token", "position", "first"]
"""Which row of a table a token gets: that of its id, of its position + offset, or row 0."""


@dataclass(frozen=True, slots=True)
class EmbeddingLookup:
    """[T, E] = table[row of each token] * scale; zeros where the table has no such row.

    The table is [V, E], or the rows of one rank from token `first` on.  A token id below 0 is one
    of the batch's given rows, as it is; the rank with the first token has it.
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
        found = np.where(inside[:, None], found, np.float32(0))
        if self.index == "token" and self.first == 0 and batch.given_rows is not None:
            given = np.flatnonzero(batch.token_ids < 0)
            found[given] = batch.given_rows[-1 - batch.token_ids[given]]
        return (found,)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """One row of the table per token."""
        return Cost(weights=rows * self.width, activations=rows * self.width)

    @property
    def weight_names(self) -> tuple[str, ...]:
        """The table."""
        return (self.table,)


@dataclass(frozen=True, slots=True)
class GivenRows(WithoutWeights):
    """[T, width]: the rows that the batch brings, one for each token."""

    width: int

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """width."""
        return (self.width,)

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """The rows."""
        rows = env.batch.given_rows
        assert rows is not None
        return (rows[: env.batch.num_tokens],)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """A copy."""
        return Cost(activations=2 * rows * self.width)
