"""Sequence layers whose heads keep a matrix that every token fades, changes and reads.

A program takes some columns of one head's state, [Dk, columns], which never meet others: it reads
them once, goes through all tokens of a request with them in registers, and writes them once.  So a
token's bits do not hang on how many come with it, and a prompt is one launch.  What a token's own
numbers are brought to (lengths, decays) every program computes for itself.

Shapes: mixed [T, any] with queries, keys and values side by side, gates [T, H] and out [T, H * Dv]
in any stride of rows; vectors [H] float32; the step's arrays as short_convolution.py says.
Sources: arXiv:2412.06464 (gated delta rule), arXiv:2405.21060 (Mamba 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from quire.backends.torch.triton.launcher import Launcher
from quire.backends.torch.triton.short_convolution import RecurrentStep
from quire.backends.torch.triton.tiles import Tile

__all__ = ["LARGEST_KEY", "Heads", "follow_delta_rule", "follow_scan", "follow_tokens", "softplus"]

LARGEST_KEY = 256
COLUMNS = 8
"""Of a state, for a program of one warp: then no sum crosses warps."""


@dataclass(frozen=True)
class Heads:
    """G key heads of Dk numbers, H heads of values of Dv; decay_log and gate_bias: [H]."""

    key_heads: int
    heads: int
    key_dim: int
    value_dim: int
    decay_log: torch.Tensor
    gate_bias: torch.Tensor


def follow_delta_rule(
    gpu: Launcher,
    mixed: torch.Tensor,
    beta: torch.Tensor,
    decay: torch.Tensor,
    heads: Heads,
    step: RecurrentStep,
    out: torch.Tensor,
) -> None:
    """As quire.ops.recurrence.GatedDeltaRule says; mixed: [queries | keys | values]."""
    keys = heads.key_heads * heads.key_dim
    parts = (0, keys, 2 * keys)
    _follow(gpu, mixed, parts, decay, beta, None, (0.0, 0.0), heads, step, out)


def follow_scan(
    gpu: Launcher,
    mixed: torch.Tensor,
    steps: torch.Tensor,
    skip: torch.Tensor,
    limits: tuple[float, float],
    heads: Heads,
    step: RecurrentStep,
    out: torch.Tensor,
) -> None:
    """As quire.ops.recurrence.SelectiveScan says; mixed: [values | keys | queries].

    limits: the least and the most that a step is.
    """
    keys, values = heads.key_heads * heads.key_dim, heads.heads * heads.value_dim
    parts = (values + keys, values, 0)
    _follow(gpu, mixed, parts, steps, None, skip, limits, heads, step, out)


def _follow(
    gpu: Launcher,
    mixed: torch.Tensor,
    parts: tuple[int, int, int],
    gates: torch.Tensor,
    beta: torch.Tensor | None,
    skip: torch.Tensor | None,
    limits: tuple[float, float],
    heads: Heads,
    step: RecurrentStep,
    out: torch.Tensor,
) -> None:
    query, key, value = parts
    grid = (-(-heads.value_dim // COLUMNS), heads.heads, len(step.states))
    gpu.run(
        follow_tokens, grid, Tile(1, COLUMNS, 1, 1), mixed=mixed, gates=gates, beta=beta, out=out,
        decay_log=heads.decay_log, gate_bias=heads.gate_bias, skip=skip, records=step.records,
        starts=step.starts, states=step.states, state_start=step.start,
        least=limits[0], most=limits[1],
        scale=heads.key_dim**-0.5, mixed_stride=mixed.stride(0),
        gate_stride=gates.stride(0), beta_stride=0 if beta is None else beta.stride(0),
        out_stride=out.stride(0), record_stride=step.records.stride(0),
        QUERY=query, KEY=key, VALUE=value, GROUP=heads.heads // heads.key_heads,
        KEY_DIM=heads.key_dim, VALUE_DIM=heads.value_dim,
        BLOCK_K=triton.next_power_of_2(heads.key_dim), BLOCK_V=COLUMNS,
    )  # fmt: skip


@triton.jit
def softplus(x):
    """log(1 + exp(x)), exact to the last bits everywhere.

    Of e = exp(-|x|) <= 1, log(1 + e) is 2 atanh(e / (2 + e)), whose series ends soon.
    """
    e = tl.exp(-tl.abs(x))
    part = e / (2.0 + e)
    square = part * part
    series = square * 0.0 + 1.0 / 17
    for n in tl.static_range(7, -1, -1):
        series = series * square + 1.0 / (2 * n + 1)
    return tl.maximum(x, 0.0) + 2.0 * part * series


@triton.jit
def _unit(x):
    """A vector of length 1."""
    return x / tl.sqrt_rn(tl.sum(x * x, 0) + 1e-6)


@triton.jit
def follow_tokens(
    mixed, gates, beta, out, decay_log, gate_bias, skip, records, starts, states, state_start,
    least, most, scale, mixed_stride, gate_stride, beta_stride, out_stride, record_stride,
    QUERY: tl.constexpr, KEY: tl.constexpr, VALUE: tl.constexpr, GROUP: tl.constexpr,
    KEY_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Columns from program_id(0) * BLOCK_V on of head program_id(1), request program_id(2).

    beta: how much is written, of the delta rule; skip: how much of a value passes by, of the scan.
    """
    head, request = tl.program_id(1), tl.program_id(2)
    row = tl.arange(0, BLOCK_K)
    column = tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    is_key, is_value = row < KEY_DIM, column < VALUE_DIM
    start, end = tl.load(starts + request), tl.load(starts + request + 1)
    read, write = tl.load(states + 4 * request), tl.load(states + 4 * request + 1)
    mark, kept = tl.load(states + 4 * request + 2), tl.load(states + 4 * request + 3)
    inside = is_key[:, None] & is_value[None, :]
    place = records + state_start + head * (KEY_DIM * VALUE_DIM)
    place = place + (row * VALUE_DIM)[:, None] + column[None, :]
    state = tl.load(place + read.to(tl.int64) * record_stride, mask=inside & (read >= 0), other=0.0)
    rate = -tl.exp(tl.load(decay_log + head))
    bias = tl.load(gate_bias + head)
    key_at = (head // GROUP) * KEY_DIM + row
    column_at = head * VALUE_DIM + column
    first = start.to(tl.int64)
    mixed += first * mixed_stride
    gates += first * gate_stride + head
    out += first * out_stride
    if beta is not None:
        beta += first * beta_stride + head
    for t in range(start, end):
        query = tl.load(mixed + QUERY + key_at, mask=is_key, other=0.0).to(tl.float32)
        key = tl.load(mixed + KEY + key_at, mask=is_key, other=0.0).to(tl.float32)
        value = tl.load(mixed + VALUE + column_at, mask=is_value, other=0.0).to(tl.float32)
        span = softplus(tl.load(gates).to(tl.float32) + bias)
        if beta is None:
            span = tl.clamp(span, least, most, propagate_nan=tl.PropagateNan.ALL)
        state *= tl.exp(rate * span)
        if beta is None:
            written = span * value
        else:
            query, key = _unit(query) * scale, _unit(key)
            known = tl.sum(state * key[:, None], 0)
            written = (value - known) / (1.0 + tl.exp(-tl.load(beta).to(tl.float32)))
            beta += beta_stride
        state += key[:, None] * written[None, :]
        found = tl.sum(state * query[:, None], 0)
        if skip is not None:
            found += tl.load(skip + head) * value
        tl.store(out + column_at, found, mask=is_value)
        if t + 1 == start + mark:
            tl.store(place + kept.to(tl.int64) * record_stride, state, mask=inside)
        mixed += mixed_stride
        gates += gate_stride
        out += out_stride
    # A request that pads a step leaves no record.
    tl.store(place + write.to(tl.int64) * record_stride, state, mask=inside & (write >= 0))
