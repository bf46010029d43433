"""Rotates queries and keys by their positions, and stores keys and values in the KV cache.

Source: arXiv:2104.09864.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from quire.ops.op import Cost, Environment, Float32, FusedOp, Op, WithoutWeights

__all__ = ["KvWrite", "RopeAngles", "Rotate", "RotateKvWrite"]


@dataclass(frozen=True, slots=True)
class RopeAngles(WithoutWeights):
    """[T, dims] = [cos | sin] of position * frequency, times a factor; once a step for all layers.

    Frequencies and factor are rows of `batch.frequencies[table]`, one row per rope class in use.
    axes: which of a token's three axis_positions turns each pair; empty, or in a batch without
    them: its position.
    """

    table: int
    dims: int
    axes: tuple[int, ...] = ()

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """dims: half cosines, half sines."""
        return (self.dims,)

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """The product is rounded to float32, as the models were trained with."""
        batch = env.batch
        positions = batch.positions[:, None]
        if self.axes and batch.axis_positions is not None:
            positions = batch.axis_positions[:, list(self.axes)]
        positions = positions.astype(np.float32)
        rows = batch.frequencies[self.table][batch.rope_rows]
        angles = (positions * rows[:, :-1]).astype(np.float64)
        both = np.concatenate([np.cos(angles), np.sin(angles)], axis=1) * rows[:, -1:]
        return (both.astype(np.float32),)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """One sine or cosine per value, counted as ten operations."""
        return Cost(10 * rows * self.dims, activations=rows * self.dims)


@dataclass(frozen=True, slots=True)
class Rotate(WithoutWeights):
    """Turns each pair of the first `dims` values of every head by its angle; the rest stay.

    Inputs: x [T, heads * D] and the angles.  Pairs are (i, i + dims/2) or (2i, 2i + 1).
    """

    heads: int
    dims: int
    pairing: Literal["half", "interleaved"]

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """As x."""
        return (inputs[0],)

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """(a, b) → (a cos - b sin, b cos + a sin)."""
        x, angles = inputs
        rows, half = x.shape[0], self.dims // 2
        out = x.reshape(rows, self.heads, -1).copy()  # [T, heads, D]
        first = slice(0, half) if self.pairing == "half" else slice(0, self.dims, 2)
        second = slice(half, self.dims) if self.pairing == "half" else slice(1, self.dims, 2)
        cos, sin = angles[:, None, :half], angles[:, None, half:]  # [T, 1, dims/2]
        a, b = out[:, :, first].copy(), out[:, :, second].copy()
        out[:, :, first] = a * cos - b * sin
        out[:, :, second] = b * cos + a * sin
        return (out.reshape(rows, -1),)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """Three operations per value."""
        return Cost(3 * rows * inputs[0], activations=rows * (2 * inputs[0] + inputs[1]))


@dataclass(frozen=True, slots=True)
class KvWrite(WithoutWeights):
    """Stores keys and values, each [T, K * D], at the tokens' positions; has no output."""

    layer: int
    kv_heads: int

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """No outputs."""
        return ()

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """Token by token."""
        batch, size = env.batch, env.kv_cache.layout.block_tokens
        keys, values = (x.reshape(x.shape[0], self.kv_heads, -1) for x in inputs)  # [T, K, D]
        for token, request in enumerate(batch.request_of_token()):
            block, offset = divmod(int(batch.positions[token]), size)
            block_id = int(batch.block_tables[request, block])
            env.kv_cache.write(self.layer, block_id, offset, keys[token], values[token])
        return ()

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """Read once, written once."""
        elements = rows * sum(inputs)
        return Cost(activations=elements, kv=elements)


@dataclass(frozen=True, slots=True)
class RotateKvWrite(FusedOp):
    """rotated q = rotate(q); kv_write(rotate(k), v).  Inputs: q, k, v and the angles."""

    query: Rotate
    key: Rotate
    write: KvWrite
    num_inputs: ClassVar[int] = 4
    num_outputs: ClassVar[int] = 1

    @property
    def steps(self) -> tuple[tuple[Op, tuple[int, ...], tuple[int, ...]], ...]:
        """Rotate both, then write."""
        return (
            (self.query, (0, 3), (4,)),
            (self.key, (1, 3), (5,)),
            (self.write, (5, 2), ()),
        )
