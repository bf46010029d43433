"""Nodes bound to their bodies, and running them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from quire.backends.torch.registry import Captured, Compute
from quire.backends.torch.step import Step

__all__ = ["Call", "Values", "run_calls"]

Values = dict[int, torch.Tensor]
"""The values of a step that somebody still reads, by number."""


@dataclass(frozen=True, slots=True)
class Call:
    """A node bound to its body.  Values are numbers; those in `over` nobody reads any more."""

    compute: Compute
    op: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    over: tuple[int, ...]
    captured: Captured = "never"


def run_calls(calls: Iterable[Call], step: Step, values: Values) -> None:
    """Compute what the calls compute; `values` has their inputs, and then what is left."""
    for call in calls:
        results = call.compute(step, call.op, *(values[each] for each in call.inputs))
        values.update(zip(call.outputs, results, strict=True))
        for each in call.over:
            values.pop(each, None)
