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
from quire.backends.torch.drawn_rules import MOST_TOLD, DrawnRules, RulesBuffer
from quire.backends.torch.host_copies import sent
from quire.backends.torch.latest_tokens import LatestTokens
from quire.backends.torch.sampling.rows import DrawnRows
from quire.backends.torch.sampling.sampler import Order, Sampler
from quire.backends.torch.step import Step
from quire.control.plan import UNKNOWN_TOKEN
from quire.ops.batch import Batch
from quire.sampling.state import SampleRow

__all__ = ["DrawnSteps"]

TOKENS, IDS, VALUES, RANKS = -1, -2, -3, -4
"""The numbers of the values that are drawn, and told of them."""

Make: TypeAlias = Callable[[Sequence[Call], Collection[int]], CapturedSteps]


class DrawnSteps:
    """Runs decoding steps of a Program whole.

    calls: of body and head.  logits: the number of what they make.  buffer: what rows ask for, of
    the largest step.  make: what captures calls, and leaves some values.
    """

    def __init__(
        self,
        calls: Sequence[Call],
        logits: int,
        latest: LatestTokens,
        sampler: Sampler,
        buffer: RulesBuffer,
        make: Make,
    ) -> None:
        self._calls, self._logits = calls, logits
        self._latest, self._tokens = latest, latest.tokens
        self._sampler = sampler
        self._buffer = buffer
        self._make = make
        self._of_orders: dict[Order, CapturedSteps] = {}

    @property
    def num_graphs(self) -> int:
        """How many were recorded."""
        return sum(each.num_graphs for each in self._of_orders.values())

    def order(self, batch: Batch, rows: Sequence[SampleRow]) -> Order | None:
        """How the rows of a batch are drawn; None where that cannot be done in one go.

        Each request has one token then, and a row or none.
        """
        if not batch.is_decoding or self._latest.tokens is not self._tokens:
            return None
        return self._sampler.order(rows) if self._buffer.has_room(batch, rows) else None

    def run(self, step: Step, order: Order, rows: Sequence[SampleRow]) -> DrawnRows:
        """What the rows of a step yield; the step is padded."""
        step.rules = self._buffer.fill(step.batch, rows, order.changes)
        at = step.logit_rows
        step.logit_rows = torch.arange(len(step.token_ids), device=at.device)
        if order not in self._of_orders:
            wanted = {TOKENS, IDS, VALUES, RANKS} if order.tells else {TOKENS}
            self._of_orders[order] = self._make(self._all_calls(order), wanted)
        found = self._of_orders[order].run(step)
        tokens = found[TOKENS][at, 0]  # a copy: while it goes to the host, the next step is drawn
        asked = [place for place, row in enumerate(rows) if row.num_logprobs >= 0]
        if not asked:
            return DrawnRows(tokens)
        counts = [rows[place].num_logprobs for place in asked]
        some = at[sent(np.array(asked), at.device)]
        ids, values, ranks = (found[each][some] for each in (IDS, VALUES, RANKS))
        return DrawnRows(tokens, asked, counts, (ids, values, ranks[:, 0]))

    def _all_calls(self, order: Order) -> list[Call]:
        """From tokens to tokens."""
        fill = Call(partial(_fill_in, self._tokens), None, (), (), (), "always")
        outputs = (TOKENS, IDS, VALUES, RANKS) if order.tells else (TOKENS,)
        draw = partial(_draw, self._tokens, self._sampler, self._buffer, order)
        return [fill, *self._calls, Call(draw, None, (self._logits,), outputs, (), "always")]


def _fill_in(latest: torch.Tensor, step: Step, op: None) -> tuple[torch.Tensor, ...]:
    """As LatestTokens.fill_in does."""
    known = latest[_rules(step).places.long()].clamp(min=0)
    step.token_ids.copy_(torch.where(step.token_ids == UNKNOWN_TOKEN, known, step.token_ids))
    return ()


def _draw(
    latest: torch.Tensor,
    sampler: Sampler,
    buffer: RulesBuffer,
    order: Order,
    step: Step,
    op: None,
    logits: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """The tokens [T, 1], which the next step finds, and what is told of them, [T, any]."""
    rules, numbers = _rules(step), logits
    if order.changes:
        buffer.count(step.token_ids, rules)
        logits = sampler.change(logits, buffer.changes(rules))
    tokens = sampler.draw(logits, rules.draws, order.kind)
    latest.index_put_((rules.places.long(),), tokens)
    if not order.tells:
        return (tokens[:, None],)
    ids, values, ranks = sampler.describe(numbers, tokens, rules.told, 1 + MOST_TOLD)
    return tokens[:, None], ids, values, ranks[:, None]


def _rules(step: Step) -> DrawnRules:
    assert step.rules is not None
    return DrawnRules(step.rules, len(step.token_ids))
