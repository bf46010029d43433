"""The experts of a mixture, expert by expert over the rows that chose it."""

from __future__ import annotations

import torch

from quire.backends.torch.ops.activation import gated
from quire.backends.torch.ops.linear import linear
from quire.backends.torch.registry import body
from quire.backends.torch.step import Step
from quire.ops.experts import Expert, MixtureOfExperts

__all__ = ["mixture_of_experts"]


@body(MixtureOfExperts)
def mixture_of_experts(
    step: Step, op: MixtureOfExperts, x: torch.Tensor, routes: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """In ascending order of experts; the host waits for the device to learn which are chosen."""
    ids = routes[:, : op.top_k].long().flatten()
    weights = routes[:, op.top_k :].flatten()
    by_expert = ids.sort(stable=True).indices  # of rows * top_k places
    last = op.first + len(op.experts)
    counts = torch.bincount(ids, minlength=last).tolist()
    total, start = torch.zeros(x.shape, device=x.device), sum(counts[: op.first])
    for expert, count in zip(op.experts, counts[op.first : last], strict=True):
        if count:
            places = by_expert[start : start + count]
            rows = places // op.top_k
            total[rows] += _expert(step, op, expert, x[rows], weights[places, None])
            start += count
    return total, x.new_empty(0)


def _expert(
    step: Step, op: MixtureOfExperts, expert: Expert, x: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    gate, up = linear(step, expert.gate, x), linear(step, expert.up, x)
    if op.scales_inputs:
        gate, up = gate * weight, up * weight
    out = linear(step, expert.down, gated(op.activation, gate, up))
    return out if op.scales_inputs else out * weight
