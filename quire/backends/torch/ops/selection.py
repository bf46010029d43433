"""Ops that only pick."""

from __future__ import annotations

import torch

from quire.backends.torch.registry import body
from quire.backends.torch.step import Step
from quire.ops.selection import Columns, SelectRows

__all__ = ["columns", "select_rows"]


@body(Columns, captured="always")
def columns(step: Step, op: Columns, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """A view."""
    return (x[:, op.start : op.stop],)


@body(SelectRows, captured="decode")
def select_rows(step: Step, op: SelectRows, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The rows whose logits are wanted, some side by side as one."""
    return (x.reshape(-1, op.group * x.shape[1])[step.logit_rows],)
