"""Ops in which the ranks of a tensor-parallel group meet."""

from __future__ import annotations

import torch

from quire.backends.torch.registry import body
from quire.backends.torch.step import Step
from quire.ops.collective import AllGather, AllReduce

__all__ = ["all_gather", "all_reduce"]


@body(AllReduce)
def all_reduce(step: Step, op: AllReduce, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The sum in the order of ranks, the same bits on every rank."""
    total, *others = _exchange(step, rows)
    for each in others:
        total = total + each
    return (total,)


@body(AllGather)
def all_gather(step: Step, op: AllGather, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The concatenation."""
    return (torch.cat(_exchange(step, rows), dim=1),)


def _exchange(step: Step, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    assert step.ranks is not None, "a graph with collectives runs in a group of ranks"
    return step.ranks.exchange(rows)
