"""Mixtures of experts: nothing about who chose which expert is read by the host."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch

from quire.backends.torch.ops import experts as plain
from quire.backends.torch.step import Step
from quire.backends.torch.triton.bodies.registering import gpu_of, rows_like, triton_body
from quire.backends.torch.triton.experts import (
    ExpertMatrices,
    Mixture,
    expert_matrices,
    mixture_of_experts,
)
from quire.backends.torch.weights import Weights
from quire.ops.experts import MixtureOfExperts
from quire.ops.linear import LinearPart

__all__ = ["compute_experts"]

_MIXTURES: WeakKeyDictionary[Weights, dict[str, Mixture | None]] = WeakKeyDictionary()
"""Found once for all steps: a model has thousands of experts."""


def _declines(op: MixtureOfExperts) -> str | None:
    return "no Triton body leaves out experts of other ranks" if op.is_part else None


@triton_body(MixtureOfExperts, declines=_declines, captured="never")
def compute_experts(
    step: Step, op: MixtureOfExperts, x: torch.Tensor, routes: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """In ascending order of experts; those of different makes are computed one by one."""
    mixture = _mixture_of(step.weights, op)
    if mixture is None:
        return plain.mixture_of_experts(step, op, x, routes)
    out = rows_like(x, mixture.down.first.num_rows)
    ids, weights = routes[:, : op.top_k].int(), routes[:, op.top_k :]
    mixture_of_experts(
        gpu_of(step), x, ids, weights, mixture, op.activation, out, scales_inputs=op.scales_inputs
    )
    return out, x.new_empty(0)


def _mixture_of(weights: Weights, op: MixtureOfExperts) -> Mixture | None:
    if weights.offload is not None:  # they are somewhere else in the next step
        return _mixture(weights, op)
    mixtures, name = _MIXTURES.setdefault(weights, {}), op.experts[0].gate.weight
    if name not in mixtures:
        mixtures[name] = _mixture(weights, op)
    return mixtures[name]


def _mixture(weights: Weights, op: MixtureOfExperts) -> Mixture | None:
    def stack(parts: list[LinearPart]) -> ExpertMatrices | None:
        biases = [None if part.bias is None else weights.vector(part.bias) for part in parts]
        return expert_matrices([weights.matrix(part.weight) for part in parts], biases)

    gate, up, down = (
        stack([getattr(expert, which) for expert in op.experts]) for which in ("gate", "up", "down")
    )
    if gate is None or up is None or down is None:
        return None
    return Mixture(gate, up, down)
