"""Recurrent sequence layers, token by token, all requests at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import softplus

from quire.backends.torch.registry import body
from quire.backends.torch.segments import rounds
from quire.backends.torch.step import Step
from quire.ops.recurrence import LEAST_SQUARE, GatedDeltaRule, SelectiveScan

__all__ = ["gated_delta_rule", "selective_scan"]


@body(GatedDeltaRule)
def gated_delta_rule(
    step: Step, op: GatedDeltaRule, mixed: torch.Tensor, beta: torch.Tensor, decay: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """S fades, learns what it did not know of v at k, and is read at q."""
    keys = op.key_heads * op.key_dim
    query, key, value = mixed.split([keys, keys, op.heads * op.value_dim], dim=1)
    query, key = (_heads(op, _unit(each.unflatten(1, (op.key_heads, -1)))) for each in (query, key))
    value = value.unflatten(1, (op.heads, -1))
    rate = -torch.exp(step.weights.vector(op.decay_log))
    kept = torch.exp(rate * softplus(decay + step.weights.vector(op.decay_bias)))  # [T, H]

    def follow(
        state: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kept: torch.Tensor,
        strength: torch.Tensor,
    ) -> torch.Tensor:
        state *= kept[..., None, None]
        unknown = value - torch.einsum("rhkv,rhk->rhv", state, key)
        state += key[..., None] * (strength[..., None] * unknown)[:, :, None]
        return torch.einsum("rhkv,rhk->rhv", state, query)

    query = query / op.key_dim**0.5
    return (_scan(step, op, follow, query, key, value, kept, torch.sigmoid(beta)),)


@body(SelectiveScan)
def selective_scan(
    step: Step, op: SelectiveScan, mixed: torch.Tensor, steps: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """S fades, takes in v at k, and is read at q, where v stands beside it."""
    keys = op.key_heads * op.key_dim
    value, key, query = mixed.split([op.heads * op.value_dim, keys, keys], dim=1)
    key, query = (_heads(op, each.unflatten(1, (op.key_heads, -1))) for each in (key, query))
    value = value.unflatten(1, (op.heads, -1))
    span = softplus(steps + step.weights.vector(op.step_bias)).clamp(op.least_step, op.most_step)
    kept = torch.exp(-torch.exp(step.weights.vector(op.decay_log)) * span)  # [T, H]

    def follow(
        state: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        added: torch.Tensor,
        kept: torch.Tensor,
    ) -> torch.Tensor:
        state *= kept[..., None, None]
        state += key[..., None] * added[:, :, None]
        return torch.einsum("rhkv,rhk->rhv", state, query)

    read = _scan(step, op, follow, query, key, span[..., None] * value, kept)
    skip = step.weights.vector(op.skip)[:, None] * value
    return (read + skip.flatten(1),)


def _scan(
    step: Step,
    op: GatedDeltaRule | SelectiveScan,
    follow: Callable[..., torch.Tensor],
    *inputs: torch.Tensor,
) -> torch.Tensor:
    """[T, H * Dv]: what `follow` reads for each token from the state [R, H, Dk, Dv] it changes."""
    out = inputs[0].new_empty((len(inputs[0]), op.heads, op.value_dim))
    for segments in rounds(step):
        shape = (op.heads, op.key_dim, op.value_dim)
        state = step.states.read(segments.read, op.state, shape)
        tokens = (each[segments.rows].split(segments.together) for each in inputs)
        read = [follow(state[: len(now[0])], *now) for now in zip(*tokens, strict=True)]
        out[segments.rows] = torch.cat(read)
        step.states.write(segments.write, op.state, state)
    return out.flatten(1)


def _unit(heads: torch.Tensor) -> torch.Tensor:
    """Heads [T, G, Dk] of length 1."""
    squares = (heads * heads).sum(dim=-1, keepdim=True)
    return heads / torch.sqrt(squares + float(LEAST_SQUARE))


def _heads(op: GatedDeltaRule | SelectiveScan, heads: torch.Tensor) -> torch.Tensor:
    """[T, H, Dk]: key heads, each as often as value heads read it."""
    return heads.repeat_interleave(op.heads // op.key_heads, dim=1)
