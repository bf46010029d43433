"""Decoding steps that give their tokens as well, each done at one call.

What such a step does on its device begins with the last tokens of its requests, which may only be
known there, and ends with the next ones: nothing else is read by the step behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
import torch

from quire.backends.torch.calls import Call
from quire.backends.torch.captured_steps import CapturedSteps
from quire.backends.torch.host_copies import sent
from quire.backends.torch.latest_tokens import LatestTokens
from quire.backends.torch.sampling.adjust import is_plain
from quire.backends.torch.sampling.draw import Kind
from quire.backends.torch.sampling.rows import Sampler
from quire.backends.torch.step import Step
from quire.control.plan import UNKNOWN_TOKEN
from quire.ops.batch import Batch
from quire.sampling.state import SampleRow

__all__ = ["DrawnSteps"]

TOKENS = -1
"""The number of the value that is drawn."""
PLACES = 5
"""The row of a step's rules behind the sampler's: where in LatestTokens its requests are."""

Make: TypeAlias = Callable[[Sequence[Call], Collection[int]], CapturedSteps]


class DrawnSteps:
    """Runs decoding steps of a Program whole.

    calls: of body and head.  logits: the number of what they make.  most_tokens: of a step whose
    logits are computed at once.  make: what captures calls, and leaves some values.
    """

    def __init__(
        self,
        calls: Sequence[Call],
        logits: int,
        latest: LatestTokens,
        sampler: Sampler,
        most_tokens: int,
        make: Make,
    ) -> None:
        self._calls, self._logits = calls, logits
        self._latest, self._tokens = latest, latest.tokens
        self._sampler = sampler
        self._most_tokens = most_tokens
        self._make = make
        self._of_kinds: dict[Kind, CapturedSteps] = {}

    @property
    def num_graphs(self) -> int:
        """How many were recorded."""
        return sum(each.num_graphs for each in self._of_kinds.values())

    def kind(self, batch: Batch, rows: Sequence[SampleRow]) -> Kind | None:
        """How the rows of a batch are drawn; None where more is asked for than that.

        Each request has one token and one row, which is sampled as the model gives it.
        """
        is_whole = batch.is_decoding and len(rows) == batch.num_requests <= self._most_tokens
        if not is_whole or self._latest.tokens is not self._tokens:
            return None
        is_more = any(row.target >= 0 or row.num_logprobs >= 0 or not is_plain(row) for row in rows)
        return None if is_more else self._sampler.kind(rows)

    def run(
        self, step: Step, kind: Kind, slots: np.ndarray, rows: Sequence[SampleRow]
    ) -> torch.Tensor:
        """The tokens [R] of a step, which is padded.  slots: [R], of its requests."""
        count = len(step.token_ids)
        rules = self._sampler.rules(rows)
        wide = np.zeros((len(rules) + 1, max(-(-count // 4) * 4, rules.shape[1])), rules.dtype)
        wide[:PLACES, : rules.shape[1]] = rules
        wide[PLACES, : len(slots)] = slots + 1
        step.rules = sent(wide, step.device.torch_device)
        step.logit_rows = torch.arange(count, device=step.token_ids.device)
        if kind not in self._of_kinds:
            self._of_kinds[kind] = self._make(self._all_calls(kind), {TOKENS})
        found = self._of_kinds[kind].run(step)[TOKENS]
        return found[: len(rows), 0].clone()  # while it goes to the host, the next step is drawn

    def _all_calls(self, kind: Kind) -> list[Call]:
        """From tokens to tokens."""
        fill = Call(partial(_fill_in, self._tokens), None, (), (), (), "always")
        draw = partial(_draw, self._tokens, self._sampler, kind)
        return [fill, *self._calls, Call(draw, None, (self._logits,), (TOKENS,), (), "always")]


def _fill_in(latest: torch.Tensor, step: Step, op: None) -> tuple[torch.Tensor, ...]:
    """As LatestTokens.fill_in does."""
    known = latest[_places(step)].clamp(min=0)
    step.token_ids.copy_(torch.where(step.token_ids == UNKNOWN_TOKEN, known, step.token_ids))
    return ()


def _draw(
    latest: torch.Tensor, sampler: Sampler, kind: Kind, step: Step, op: None, logits: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The tokens [T, 1], which the next step finds."""
    assert step.rules is not None
    tokens = sampler.draw(logits, step.rules[:PLACES, : len(logits)], kind)
    latest.index_put_((_places(step),), tokens)
    return (tokens[:, None],)


def _places(step: Step) -> torch.Tensor:
    assert step.rules is not None
    return step.rules[PLACES, : len(step.token_ids)].long()
