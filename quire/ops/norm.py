"""Norms of rows or of their heads, alone and together with the residual sums beside them.

Sources: arXiv:1910.07467 (RMS), arXiv:1607.06450 (layer).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

import numpy as np

from quire.ops.elementwise import Add
from quire.ops.op import Cost, Environment, Float32, FusedOp, Op

__all__ = ["AddNorm", "LayerNorm", "NormAdd", "NormOp", "RmsNorm"]


@dataclass(frozen=True, slots=True)
class RmsNorm:
    """x / sqrt(mean(x^2) + eps) * (offset + weight) over each of `heads` equal segments of a row.

    heads 1: over the whole row, weight [width].  heads H: per head, one weight [D] for all of them,
    or, with wide_weight, each its part of a weight [width].  weight None: nothing is multiplied.
    """

    weight: str | None
    eps: float
    heads: int = 1
    offset: float = 0.0
    wide_weight: bool = False

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """As the input."""
        return inputs

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """The formula, per segment."""
        x = _segments(inputs[0], self.heads)
        normed = _scaled_to_one(x, self.eps)
        if self.weight is not None:
            normed = normed * _weight(self, env)
        return (normed.reshape(inputs[0].shape).astype(np.float32),)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """A handful of operations per element."""
        elements = rows * inputs[0]
        segments = 1 if self.wide_weight else self.heads
        weights = inputs[0] // segments * len(self.weight_names)
        return Cost(4 * elements, weights=weights, activations=2 * elements)

    @property
    def weight_names(self) -> tuple[str, ...]:
        """The norm's weight."""
        return () if self.weight is None else (self.weight,)


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """(x - mean) / sqrt(mean((x - mean)^2) + eps) * (offset + weight) + bias, as RmsNorm else.

    The bias, if there is one, is as wide as a segment; with wide_weight there is none.
    """

    weight: str | None
    bias: str | None
    eps: float
    heads: int = 1
    offset: float = 0.0
    wide_weight: bool = False

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """As the input."""
        return inputs

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """The formula, per segment."""
        x = _segments(inputs[0], self.heads)
        normed = _scaled_to_one(x - np.mean(x, axis=-1, keepdims=True, dtype=np.float32), self.eps)
        if self.weight is not None:
            normed = normed * _weight(self, env)
        if self.bias is not None:
            normed = normed + env.weights[self.bias]
        return (normed.reshape(inputs[0].shape).astype(np.float32),)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """A handful of operations per element."""
        elements = rows * inputs[0]
        segments = 1 if self.wide_weight else self.heads
        weights = inputs[0] // segments * len(self.weight_names)
        return Cost(7 * elements, weights=weights, activations=2 * elements)

    @property
    def weight_names(self) -> tuple[str, ...]:
        """Weight and bias."""
        return tuple(name for name in (self.weight, self.bias) if name is not None)


NormOp: TypeAlias = RmsNorm | LayerNorm


@dataclass(frozen=True, slots=True)
class NormAdd(FusedOp):
    """norm(x) * scale + residual: the norm stands on what a part of a block returns."""

    norm: NormOp
    add: Add
    num_inputs: ClassVar[int] = 2
    num_outputs: ClassVar[int] = 1

    @property
    def steps(self) -> tuple[tuple[Op, tuple[int, ...], tuple[int, ...]], ...]:
        """Norm, then add."""
        return (self.norm, (0,), (3,)), (self.add, (3, 1), (2,))


@dataclass(frozen=True, slots=True)
class AddNorm(FusedOp):
    """(normed, sum): sum = add(x, residual), normed = norm(sum), in one pass over the row."""

    norm: NormOp
    add: Add | NormAdd = field(default_factory=Add)
    num_inputs: ClassVar[int] = 2
    num_outputs: ClassVar[int] = 2

    @property
    def steps(self) -> tuple[tuple[Op, tuple[int, ...], tuple[int, ...]], ...]:
        """Add, then norm."""
        return (self.add, (0, 1), (3,)), (self.norm, (3,), (2,))


def _segments(x: Float32, heads: int) -> Float32:
    return x.reshape(len(x), heads, x.shape[1] // heads)  # [rows, heads, D]


def _weight(op: NormOp, env: Environment) -> Float32:
    """[D], or of each head [heads, D]."""
    assert op.weight is not None
    weight: Float32 = env.weights[op.weight] + np.float32(op.offset)
    return weight.reshape(op.heads, -1) if op.wide_weight else weight


def _scaled_to_one(x: Float32, eps: float) -> Float32:
    mean = np.mean(x * x, axis=-1, keepdims=True, dtype=np.float32)
    scaled: Float32 = x / np.sqrt(mean + np.float32(eps))
    return scaled
