"""Rows of tables."""

from __future__ import annotations

import torch

from quire.backends.torch.registry import body
from quire.backends.torch.step import Step
from quire.ops.embedding import EmbeddingLookup

__all__ = ["embedding_lookup"]


@body(EmbeddingLookup)
def embedding_lookup(step: Step, op: EmbeddingLookup) -> tuple[torch.Tensor, ...]:
    """Rows of the table, scaled; zeros where it has none."""
    table = step.weights.matrix(op.table)
    rows = {
        "token": step.token_ids - op.first,
        "position": step.positions + op.offset,
        "first": torch.zeros_like(step.positions),
    }[op.index]
    inside = (rows >= 0) & (rows < table.num_rows)
    found = table.widened(torch.where(inside, rows, 0)).float() * op.scale
    return (torch.where(inside[:, None], found, 0.0),)
