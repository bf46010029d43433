"""Ops in which the ranks of a tensor-parallel group meet.

Source: arXiv:1909.08053 (which products must be summed, which stay apart).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quire.ops.op import Cost, Environment, Float32, WithoutWeights

__all__ = ["AllGather", "AllReduce"]


@dataclass(frozen=True, slots=True)
class AllReduce(WithoutWeights):
    """[rows, width] = the sum of every rank's rows, added in the order of ranks."""

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """As the input."""
        return inputs

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """The sum, the same bits on every rank."""
        total, *others = _exchange(env, inputs[0])
        for rows in others:
            total = total + rows
        return (total,)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """Each rank's rows are read and the sum is written."""
        return Cost(rows * inputs[0], activations=2 * rows * inputs[0])


@dataclass(frozen=True, slots=True)
class AllGather(WithoutWeights):
    """[rows, width] = every rank's columns side by side, in the order of ranks."""

    width: int

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """The width of all ranks together."""
        return (self.width,)

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """The concatenation."""
        return (np.concatenate(_exchange(env, inputs[0]), axis=1),)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """A copy."""
        return Cost(activations=2 * rows * self.width)


def _exchange(env: Environment, rows: Float32) -> tuple[Float32, ...]:
    assert env.group is not None, "a graph with collectives runs in a group of ranks"
    return env.group.exchange(rows)
