"""Recurrent sequence layers: pieces of requests side by side, each by a handful of products."""

from __future__ import annotations

import torch
from torch.nn.functional import softplus

from quire.backends.torch.registry import body
from quire.backends.torch.segments import Piece, pieces, rounds
from quire.backends.torch.step import Step
from quire.ops.recurrence import LEAST_SQUARE, GatedDeltaRule, SelectiveScan

__all__ = ["gated_delta_rule", "selective_scan"]


@body(GatedDeltaRule, captured="decode")
def gated_delta_rule(
    step: Step, op: GatedDeltaRule, mixed: torch.Tensor, beta: torch.Tensor, decay: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """S fades, learns what it did not know of v at k, and is read at q."""
    keys = op.key_heads * op.key_dim
    query, key, value = mixed.split([keys, keys, op.heads * op.value_dim], dim=1)
    query, key = (_heads(op, _unit(each.unflatten(1, (op.key_heads, -1)))) for each in (query, key))
    value = value.unflatten(1, (op.heads, -1))
    rate = -torch.exp(step.weights.vector(op.decay_log))
    faded = rate * softplus(decay + step.weights.vector(op.decay_bias))  # [T, H]
    query = query / op.key_dim**0.5
    return (_scan(step, op, query, key, value, faded, torch.sigmoid(beta)),)


@body(SelectiveScan, captured="decode")
def selective_scan(
    step: Step, op: SelectiveScan, mixed: torch.Tensor, steps: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """S fades, takes in v at k, and is read at q, where v stands beside it."""
    keys = op.key_heads * op.key_dim
    value, key, query = mixed.split([op.heads * op.value_dim, keys, keys], dim=1)
    key, query = (_heads(op, each.unflatten(1, (op.key_heads, -1))) for each in (key, query))
    value = value.unflatten(1, (op.heads, -1))
    span = softplus(steps + step.weights.vector(op.step_bias)).clamp(op.least_step, op.most_step)
    faded = -torch.exp(step.weights.vector(op.decay_log)) * span  # [T, H]
    read = _scan(step, op, query, key, span[..., None] * value, faded)
    skip = step.weights.vector(op.skip)[:, None] * value
    return (read + skip.flatten(1),)


def _scan(
    step: Step,
    op: GatedDeltaRule | SelectiveScan,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    faded: torch.Tensor,
    strength: torch.Tensor | None = None,
) -> torch.Tensor:
    """[T, H * Dv]: what each token reads of the state [R, H, Dk, Dv] that it changes.

    query, key: [T, H, Dk].  value: [T, H, Dv].  faded: [T, H], logarithms.  strength: see _follow.
    """
    gates = torch.stack([faded, torch.ones_like(faded) if strength is None else strength], dim=-1)
    inputs, shape = (query, key, value, gates), (op.heads, op.key_dim, op.value_dim)
    out = torch.empty_like(value)
    for index, segments in enumerate(rounds(step)):
        state = step.states.read(segments.read, op.state, shape)
        for piece in pieces(step, index):
            now = [each[piece.rows] for each in inputs]  # [r, L, H, any]
            now, spoilt = (now, None) if piece.rows.shape[1] == 1 else _cleared(piece, now)
            turned = (each.transpose(1, 2) for each in now)
            read, after = _follow(state[piece.runs], *turned, is_scan=strength is None)
            if spoilt is not None:
                read = read.masked_fill(spoilt.transpose(1, 2)[..., None], torch.nan)
                after = after.masked_fill(spoilt[:, -1, :, None, None], torch.nan)
            out[piece.to] = read.transpose(1, 2).flatten(0, 1)[piece.tokens]
            state[piece.runs] = after
        step.states.write(segments.write, op.state, state)
    return out.flatten(1)


def _cleared(piece: Piece, inputs: list[torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Zeros in place of no token, and from the first number that is none on; where that is.

    It would reach earlier tokens through products with 0.
    """
    *numbers, gates = inputs
    bad = ~torch.stack([each.isfinite().all(dim=-1) for each in numbers]).all(dim=0)
    bad |= gates.isnan().any(dim=-1)
    is_token = piece.is_token[..., None]
    spoilt = (bad & is_token).cumsum(1) > 0  # [r, L, H]
    left_out = (spoilt | ~is_token)[..., None]
    return [each.masked_fill(left_out, 0) for each in inputs], spoilt


def _follow(
    state: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    gates: torch.Tensor,
    *,
    is_scan: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What L tokens of each run read, [r, H, L, Dv], and the state behind them, by products.

    Token i reads what it finds of the state before them all and of what tokens up to it wrote.  By
    the delta rule it writes strength * (value - what it knew at its key), the solution of a system
    in which only earlier ones stand; else value.  gates: [r, H, L, 2], how the state fades, as a
    logarithm, and the strength.
    Sources: arXiv:2405.21060, section 6 (products in place of a scan); arXiv:2412.06464.
    """
    faded, strength = gates[..., 0], gates[..., 1:]
    since = faded.cumsum(-1).exp()[..., None]
    found = since * (query @ state)
    if not is_scan:
        value = strength * (value - since * (key @ state))
    if faded.shape[-1] == 1:
        written = key.mT * value
        return found + (query * key).sum(dim=-1, keepdim=True) * value, since * state + written
    between = _between(faded)
    if not is_scan:
        known = strength * (key @ key.mT) * between
        value = torch.linalg.solve_triangular(known, value, upper=False, unitriangular=True)
    written = (key * between[..., -1, :, None]).mT @ value
    return found + ((query @ key.mT) * between) @ value, since[..., -1:, :] * state + written


def _between(faded: torch.Tensor) -> torch.Tensor:
    """[r, H, L, L]: how much is left at token i of what token j wrote.

    Each from sums of its own: of two sums from the first token on little might be left.
    """
    length = faded.shape[-1]
    is_later = torch.ones(length, length, dtype=torch.bool, device=faded.device).tril(-1)
    return torch.where(is_later, faded[..., None], 0.0).cumsum(-2).exp().tril()


def _unit(heads: torch.Tensor) -> torch.Tensor:
    """Heads [T, G, Dk] of length 1."""
    squares = (heads * heads).sum(dim=-1, keepdim=True)
    return heads / torch.sqrt(squares + float(LEAST_SQUARE))


def _heads(op: GatedDeltaRule | SelectiveScan, heads: torch.Tensor) -> torch.Tensor:
    """[T, H, Dk]: key heads, each as often as value heads read it."""
    shared = heads[:, :, None].expand(-1, -1, op.heads // op.key_heads, -1)
    return shared.flatten(1, 2)  # repeat_interleave may wait for the device
