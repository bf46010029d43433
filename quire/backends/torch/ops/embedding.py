"""Rows of tables, and rows that the step brings."""

from __future__ import annotations

import numpy as np
import torch

from quire.backends.torch.registry import body
from quire.backends.torch.step import Step
from quire.ops.embedding import EmbeddingLookup, GivenRows

__all__ = ["embedding_lookup", "given_rows"]


@body(EmbeddingLookup, captured="always")
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
    found = torch.where(inside[:, None], found, 0.0)
    brought = step.batch.given_rows
    if op.index == "token" and op.first == 0 and brought is not None:
        ids = step.batch.token_ids
        given = np.flatnonzero(ids < 0)
        found[step.put(given)] = step.put(brought[-1 - ids[given]])
    return (found,)


@body(GivenRows)
def given_rows(step: Step, op: GivenRows) -> tuple[torch.Tensor, ...]:
    """One for each token."""
    brought = step.batch.given_rows
    assert brought is not None
    return (step.put(brought[: step.batch.num_tokens]),)
