"""Recurrent sequence layers: a matrix of each head that every token fades, changes and reads.

A head's state S, [Dk, Dv] float32, starts at zero; a request carries it from step to step.  Tokens
follow one another in it, so a step of many tokens gives the same bits as many steps of one.
Notation: G key heads (groups), H value heads; value head h reads key head h // (H / G).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quire.ops.op import Cost, Environment, Float32

__all__ = ["GatedDeltaRule", "SelectiveScan"]

LEAST_SQUARE = np.float32(1e-6)
"""Added to the squared length of a query or key that is brought to length 1."""


@dataclass(frozen=True, slots=True)
class GatedDeltaRule:
    """[T, H * Dv] from rows [queries | keys | values], beta [T, H] and decay [T, H].

    Queries and keys, [G, Dk], are brought to length 1, queries then divided by sqrt(Dk).  Then
    S *= exp(-exp(decay_log) * softplus(decay + decay_bias)); S += k (sigmoid(beta) * (v - S^T k))^T
    and the output is S^T q.  decay_log, decay_bias: [H].  state: where the heads' [H, Dk, Dv] stand
    in a request's record.
    Source: arXiv:2412.06464.
    """

    state: int
    key_heads: int
    heads: int
    key_dim: int
    value_dim: int
    decay_log: str
    decay_bias: str

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """The value heads."""
        return (self.heads * self.value_dim,)

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """The formulas, token by token."""
        mixed, beta, decay = inputs
        ends = np.cumsum([self.key_heads * self.key_dim] * 2)
        query, key, value = np.split(mixed, ends, axis=1)
        query, key = (self._unit_heads(each) for each in (query, key))
        query = query / np.float32(self.key_dim**0.5)
        value = value.reshape(-1, self.heads, self.value_dim)
        rate = -np.exp(env.weights[self.decay_log])
        kept = np.exp(rate * _softplus(decay + env.weights[self.decay_bias]))  # [T, H]
        with np.errstate(over="ignore"):
            step = 1 / (1 + np.exp(-beta))
        out = np.empty_like(value)
        shape = (self.heads, self.key_dim, self.value_dim)
        for start, end, read, write in env.batch.state_segments():
            state = env.states.read(read, self.state, shape)
            for t in range(start, end):
                state *= kept[t, :, None, None]
                known = np.einsum("hkv,hk->hv", state, key[t])
                state += key[t][:, :, None] * (step[t, :, None] * (value[t] - known))[:, None]
                out[t] = np.einsum("hkv,hk->hv", state, query[t])
            env.states.write(write, self.state, state)
        return (out.reshape(len(out), -1).astype(np.float32),)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """Four products per number of the state and token; the state is read and written."""
        return _scan_cost(self.heads * self.key_dim * self.value_dim, rows, sum(inputs))

    @property
    def weight_names(self) -> tuple[str, ...]:
        """The decay's two vectors."""
        return self.decay_log, self.decay_bias

    def _unit_heads(self, x: Float32) -> Float32:
        """[T, H, Dk]: key heads of length 1, each as often as value heads read it."""
        heads = x.reshape(len(x), self.key_heads, self.key_dim)
        squares = (heads * heads).sum(axis=-1, keepdims=True, dtype=np.float32)
        unit = heads / np.sqrt(squares + LEAST_SQUARE)
        return np.repeat(unit, self.heads // self.key_heads, axis=1)


@dataclass(frozen=True, slots=True)
class SelectiveScan:
    """[T, H * Dv] from rows [values | keys | queries] and steps [T, H]: Mamba 2.

    dt = clamp(softplus(steps + step_bias), least_step, most_step); S *= exp(-exp(decay_log) * dt);
    S += k (dt * v)^T and the output is S^T q + skip * v.  Keys and queries, [G, Dk], are what the
    paper calls B and C.  decay_log, step_bias, skip: [H].  state: as in GatedDeltaRule.
    Source: arXiv:2405.21060.
    """

    state: int
    key_heads: int
    heads: int
    key_dim: int
    value_dim: int
    decay_log: str
    step_bias: str
    skip: str
    least_step: float = 0.0
    most_step: float = float("inf")

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """The value heads."""
        return (self.heads * self.value_dim,)

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """The formulas, token by token."""
        mixed, steps = inputs
        values = self.heads * self.value_dim
        value, key, query = np.split(
            mixed, [values, values + self.key_heads * self.key_dim], axis=1
        )
        key, query = (self._heads(each) for each in (key, query))
        value = value.reshape(-1, self.heads, self.value_dim)
        step = _softplus(steps + env.weights[self.step_bias])
        step = np.clip(step, np.float32(self.least_step), np.float32(self.most_step))
        kept = np.exp(-np.exp(env.weights[self.decay_log]) * step)  # [T, H]
        out = env.weights[self.skip][:, None] * value
        shape = (self.heads, self.key_dim, self.value_dim)
        for start, end, read, write in env.batch.state_segments():
            state = env.states.read(read, self.state, shape)
            for t in range(start, end):
                state *= kept[t, :, None, None]
                state += key[t][:, :, None] * (step[t, :, None] * value[t])[:, None]
                out[t] += np.einsum("hkv,hk->hv", state, query[t])
            env.states.write(write, self.state, state)
        return (out.reshape(len(out), -1).astype(np.float32),)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """Four products per number of the state and token; the state is read and written."""
        return _scan_cost(self.heads * self.key_dim * self.value_dim, rows, sum(inputs))

    @property
    def weight_names(self) -> tuple[str, ...]:
        """The decay's two vectors and the skip."""
        return self.decay_log, self.step_bias, self.skip

    def _heads(self, x: Float32) -> Float32:
        """[T, H, Dk]: key heads, each as often as value heads read it."""
        heads = x.reshape(len(x), self.key_heads, self.key_dim)
        return np.repeat(heads, self.heads // self.key_heads, axis=1)


def _softplus(x: Float32) -> Float32:
    """log(1 + exp(x)); x itself above 20, where they are one number."""
    with np.errstate(over="ignore"):
        return np.where(x > 20, x, np.log1p(np.exp(x))).astype(np.float32)


def _scan_cost(state: int, rows: int, width: int) -> Cost:
    return Cost(flops=8 * rows * state, activations=rows * width + 2 * state)
