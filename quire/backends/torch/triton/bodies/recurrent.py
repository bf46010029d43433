"""Layers with a state: a launch for all tokens of a step, each in its request's own order."""

from __future__ import annotations

import torch

from quire.backends.torch.step import Step
from quire.backends.torch.triton.bodies.registering import gpu_of, rows_like, triton_body
from quire.backends.torch.triton.recurrence import (
    LARGEST_KEY,
    Heads,
    follow_delta_rule,
    follow_scan,
)
from quire.backends.torch.triton.short_convolution import RecurrentStep, convolve
from quire.ops.convolution import ShortConvolution
from quire.ops.recurrence import GatedDeltaRule, SelectiveScan

__all__ = ["compute_convolution", "compute_delta_rule", "compute_scan"]


def _declines(op: GatedDeltaRule | SelectiveScan) -> str | None:
    if op.key_dim > LARGEST_KEY:
        return f"keys of {op.key_dim} do not fit; Triton's have {LARGEST_KEY} numbers at most"
    return None


@triton_body(ShortConvolution, captured="decode")
def compute_convolution(
    step: Step, op: ShortConvolution, x: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """silu(bias + the sum over taps)."""
    weights = step.weights
    matrices = [weights.matrix(name).widened(slice(None))[:, 0].float() for name in op.weights]
    bias = _side_by_side([weights.vector(name) for name in op.biases]) if op.biases else None
    out = rows_like(x, x.shape[1])
    convolve(gpu_of(step), x, _side_by_side(matrices), bias, _recurrent_step(step, op.state), out)
    return (out,)


@triton_body(GatedDeltaRule, declines=_declines, captured="decode")
def compute_delta_rule(
    step: Step, op: GatedDeltaRule, mixed: torch.Tensor, beta: torch.Tensor, decay: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """S fades, learns what it did not know of v at k, and is read at q."""
    out, heads = rows_like(mixed, op.heads * op.value_dim), _heads(step, op, op.decay_bias)
    now = _recurrent_step(step, op.state)
    follow_delta_rule(gpu_of(step), mixed, beta, decay, heads, now, out)
    return (out,)


@triton_body(SelectiveScan, declines=_declines, captured="decode")
def compute_scan(
    step: Step, op: SelectiveScan, mixed: torch.Tensor, steps: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """S fades, takes in v at k, and is read at q, where v stands beside it."""
    out, heads = rows_like(mixed, op.heads * op.value_dim), _heads(step, op, op.step_bias)
    skip, limits = step.weights.vector(op.skip), (op.least_step, op.most_step)
    now = _recurrent_step(step, op.state)
    follow_scan(gpu_of(step), mixed, steps, skip, limits, heads, now, out)
    return (out,)


def _side_by_side(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _heads(step: Step, op: GatedDeltaRule | SelectiveScan, bias: str) -> Heads:
    log, bias_of = step.weights.vector(op.decay_log), step.weights.vector(bias)
    return Heads(op.key_heads, op.heads, op.key_dim, op.value_dim, log, bias_of)


def _recurrent_step(step: Step, start: int) -> RecurrentStep:
    """What layers read of the step, on the device once for all."""
    return RecurrentStep(
        step.states.arena,
        start,
        step.array("requests", lambda batch: batch.request_of_token()),
        step.array("query starts", lambda batch: batch.query_start),
        step.array("states", lambda batch: batch.states),
    )
