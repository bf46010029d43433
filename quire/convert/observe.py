"""Calibration as a graph pass: observers stand before matrices and note what flows in.

x → matmul q                        x → observe → matmul q
x → matmul k                 ⇒      x ----------→ matmul k
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np

from quire.convert.importance import near_size
from quire.graph.ir import Node, Value
from quire.ops.linear import MatMul
from quire.ops.op import Cost, Environment, Float32, WithoutWeights

__all__ = ["Observe", "Statistics", "observe_inputs"]

SAMPLE_ROWS = 512
ROWS_AT_A_TIME = 4096
"""Rows gathered for one product: many small ones would mostly move the moment to and fro."""


class Statistics:
    """What was seen of one input, a row for each token.

    moment: the sum of x^T x, [width, width]; None unless it is wanted.  near: its blocks on the
    diagonal, [blocks, size, size].  largest: max |x| by column.  total: the sum of |x| by column.
    sample: some of the rows.
    """

    def __init__(self, width: int, expected_rows: int, with_moment: bool) -> None:
        self.rows = 0
        self.largest = np.zeros(width, np.float32)
        self.total = np.zeros(width, np.float64)
        size = near_size(width)
        self._near = np.zeros((width // size, size, size), np.float32)
        self._moment = np.zeros((width, width), np.float32) if with_moment else None
        self._waiting: list[Float32] = []
        self._stride = max(1, expected_rows // SAMPLE_ROWS)
        self._sample: list[Float32] = []

    @property
    def moment(self) -> Float32 | None:
        """The sum of x^T x."""
        self._multiply()
        return self._moment

    @property
    def near(self) -> Float32:
        """The blocks of the moment on its diagonal."""
        self._multiply()
        return self._near

    @property
    def mean_magnitude(self) -> Float32:
        """The mean of |x| by column."""
        return (self.total / max(self.rows, 1)).astype(np.float32)

    @property
    def sample(self) -> Float32:
        """Rows at equal distances."""
        return np.concatenate([np.empty((0, len(self.largest)), np.float32), *self._sample])

    def divided(self, factors: Float32) -> Statistics:
        """What would have been seen if every column were divided by its factor."""
        other = copy(self)
        other.largest, other.total = self.largest / factors, self.total / factors
        by_block = factors.reshape(len(self._near), -1)
        other._near = self.near / by_block[:, None, :] / by_block[:, :, None]
        moment = self._moment
        if moment is not None:
            other._moment = moment / factors
            other._moment /= factors[:, None]
        other._sample = [rows / factors for rows in self._sample]
        return other

    def add(self, x: Float32) -> None:
        """Note the rows x [rows, width], of which there may be none: no token met this expert."""
        if not len(x):
            return
        first = -self.rows % self._stride
        self._sample.append(x[first :: self._stride].copy())
        self.rows += len(x)
        magnitudes = np.abs(x)
        np.maximum(self.largest, magnitudes.max(axis=0), out=self.largest)
        self.total += magnitudes.sum(axis=0, dtype=np.float64)
        self._waiting.append(x)
        if sum(map(len, self._waiting)) >= ROWS_AT_A_TIME:
            self._multiply()

    def _multiply(self) -> None:
        """Add the products of the rows that wait."""
        if self._waiting:
            rows = np.concatenate(self._waiting)
            self._waiting.clear()
            by_block = rows.reshape(len(rows), len(self._near), -1)
            self._near += by_block.transpose(1, 2, 0) @ by_block.transpose(1, 0, 2)
            if self._moment is not None:
                self._moment += rows.T @ rows


@dataclass(frozen=True, slots=True, eq=False)
class Observe(WithoutWeights):
    """Adds its input to statistics; has no output."""

    statistics: Statistics

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """No outputs."""
        return ()

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """Adds every row."""
        self.statistics.add(inputs[0])
        return ()

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """The second moment."""
        return Cost(2 * rows * inputs[0] ** 2)


def observe_inputs(
    nodes: Sequence[Node], expected_rows: int, with_moment: bool
) -> tuple[tuple[Node, ...], dict[str, Statistics]]:
    """The nodes with an observer before the first matrix that reads a value; statistics by weight.

    Matrices that read one value share its statistics.
    """
    seen: dict[Value, Statistics] = {}
    found: dict[str, Statistics] = {}
    changed: list[Node] = []
    for node in nodes:
        if isinstance(node.op, MatMul):
            (x,) = node.inputs
            if x not in seen:
                seen[x] = Statistics(x.width, expected_rows, with_moment)
                changed.append(Node(Observe(seen[x]), (x,), (), node.layer))
            found |= {part.weight: seen[x] for part in node.op.parts}
        changed.append(node)
    return tuple(changed), found
