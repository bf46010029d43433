"""Mixtures of experts: nothing about who chose which expert is read by the host."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch

from quire.backends.torch.step import Step
from quire.backends.torch.triton.bodies.registering import gpu_of, rows_like, triton_body
from quire.backends.torch.triton.experts import (
    ExpertParts,
    Mixture,
    mixture_of_experts,
    mixtures_of,
)
from quire.backends.torch.weights import Weights
from quire.ops.experts import MixtureOfExperts

__all__ = ["compute_experts"]

_MIXTURES: WeakKeyDictionary[Weights, dict[str, tuple[Mixture, ...]]] = WeakKeyDictionary()
"""Found once for all steps: a model has thousands of experts."""


@triton_body(MixtureOfExperts)
def compute_experts(
    step: Step, op: MixtureOfExperts, x: torch.Tensor, routes: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """In ascending order of experts; those of other ranks add nothing."""
    mixtures = _mixtures(step.weights, op)
    out = rows_like(x, mixtures[0].down.first.num_rows)
    ids, weights = routes[:, : op.top_k].int() - op.first, routes[:, op.top_k :]
    mixture_of_experts(
        gpu_of(step), x, ids, weights, mixtures, op.activation, out,
        scales_inputs=op.scales_inputs, is_part=op.is_part,
    )  # fmt: skip
    return out, x.new_empty(0)


def _mixtures(weights: Weights, op: MixtureOfExperts) -> tuple[Mixture, ...]:
    if weights.offload is not None:  # they are somewhere else in the next step
        return mixtures_of(_experts(weights, op))
    found, name = _MIXTURES.setdefault(weights, {}), op.experts[0].gate.weight
    if name not in found:
        found[name] = mixtures_of(_experts(weights, op))
    return found[name]


def _experts(weights: Weights, op: MixtureOfExperts) -> list[ExpertParts]:
    def vector(name: str | None) -> torch.Tensor | None:
        return None if name is None else weights.vector(name)

    return [
        [(weights.matrix(part.weight), vector(part.bias)) for part in expert.parts]
        for expert in op.experts
    ]
