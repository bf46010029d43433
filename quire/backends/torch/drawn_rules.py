"""What a step that draws must know of its requests, at fixed places on the device.

Zeros mean nothing is wanted: so a step of zeros draws for nobody and leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from quire.backends.torch.host_copies import sent
from quire.backends.torch.sampling.changes import COUNTS, Changes, HostChanges, changes_of
from quire.backends.torch.sampling.sampler import Sampler
from quire.backends.torch.sampling.token_counts import TokenCounts, has_penalties
from quire.ops.batch import Batch
from quire.sampling.state import SampleRow

__all__ = ["MOST_BIASES", "MOST_TOLD", "DrawnRules", "RulesBuffer"]

MOST_TOLD = 20
"""Most likely tokens that a row can be told of; what more is asked for is told behind the step."""
MOST_BIASES = 512
"""Of a row; one with more is drawn behind the step."""

DRAWS, PLACES, TOLD, LAST, COLUMNS = 0, 5, 6, 7, 8
"""Rows of a step's rules; those from LAST on only where logits are changed."""


@dataclass(frozen=True)
class DrawnRules:
    """Views of the rules [8 or 14, at least T] int32 of a step with T tokens, a column for each.

    draws: [5, T], see rules_of.  places: [T], where in LatestTokens the drawn token belongs.  told:
    [T], see logprobs_of.  last: [T], the row of counts that misses the token itself, or 0.
    columns: [6, T], see Changes.
    """

    rules: torch.Tensor
    num_tokens: int

    @property
    def draws(self) -> torch.Tensor:
        """See DrawnRules."""
        return self.rules[DRAWS:PLACES, : self.num_tokens]

    @property
    def places(self) -> torch.Tensor:
        """See DrawnRules."""
        return self.rules[PLACES, : self.num_tokens]

    @property
    def told(self) -> torch.Tensor:
        """See DrawnRules."""
        return self.rules[TOLD, : self.num_tokens]

    @property
    def last(self) -> torch.Tensor:
        """See DrawnRules."""
        return self.rules[LAST, : self.num_tokens]

    @property
    def columns(self) -> torch.Tensor:
        """See DrawnRules."""
        return self.rules[COLUMNS:, : self.num_tokens]


class RulesBuffer:
    """Room for the masks, biases and counts of any captured step; most steps do not touch them.

    most_rows: of a step.  num_tokens: in the vocabulary.
    """

    def __init__(
        self, most_rows: int, num_tokens: int, sampler: Sampler, device: torch.device
    ) -> None:
        self._most_rows, self._num_tokens = most_rows, num_tokens
        self._sampler = sampler
        self._device = device
        self._counts = TokenCounts(most_rows, num_tokens, device, sampler.count_tokens)
        masks, biases = (most_rows + 1, -(-num_tokens // 32)), (2, most_rows, MOST_BIASES)
        self._masks = torch.full(masks, -1, dtype=torch.int32, device=device)
        self._biases = torch.zeros(biases, dtype=torch.int32, device=device)

    def forget(self, slot: int) -> None:
        """Another request has this slot now."""
        self._counts.forget(slot)

    def has_room(self, batch: Batch, rows: Sequence[SampleRow]) -> bool:
        """Whether all that the rows want can be known before the step.

        Not the prompts' tokens that are reported on; and not penalties of a request with several
        rows, each of which has said something else.
        """
        if batch.num_tokens > self._most_rows:
            return False
        if any(
            row.target >= 0 or row.num_logprobs > MOST_TOLD or len(row.state.bias_ids) > MOST_BIASES
            for row in rows
        ):
            return False
        slots = batch.slots[batch.logit_rows]
        if len(np.unique(slots)) == len(slots):
            return True
        return not any(has_penalties(row) for row in rows)

    def fill(self, batch: Batch, rows: Sequence[SampleRow], has_changes: bool) -> torch.Tensor:
        """The rules of a step on the device, see DrawnRules; the rest goes to where it belongs."""
        width, at = -(-batch.num_tokens // 4) * 4, batch.logit_rows
        rules = np.zeros((COLUMNS + 6 if has_changes else LAST, width), np.int32)
        rules[DRAWS:PLACES, at] = self._sampler.rules(rows)[:, : len(rows)]
        is_last = np.diff(batch.slots, append=-1) != 0  # of the request's tokens
        rules[PLACES, : batch.num_tokens] = np.where(is_last, batch.slots + 1, 0)
        rules[TOLD, at] = [row.num_logprobs + 1 for row in rows]
        if has_changes:
            changes = changes_of(rows, self._num_tokens)
            slots = batch.slots[at].tolist()
            changes.columns[COUNTS, : len(rows)], rules[LAST, at] = self._counts.bring_up(
                slots, rows
            )
            rules[COLUMNS:, at] = changes.columns[:, : len(rows)]
            self._take_in(changes, at)
        return sent(rules, self._device)

    def count(self, token_ids: torch.Tensor, rules: DrawnRules) -> None:
        """Count the tokens [T] of a step, the last ones of their outputs."""
        tokens = token_ids.int()[:, None]
        self._sampler.count_tokens(
            self._counts.counts, rules.last, tokens, torch.zeros_like(rules.last)
        )

    def changes(self, rules: DrawnRules) -> Changes:
        """As the sampler reads them."""
        rows = rules.num_tokens
        return Changes(rules.columns, self._masks, self._biases[:, :rows], self._counts.counts)

    def _take_in(self, changes: HostChanges, at: np.ndarray) -> None:
        if changes.masks is not None:
            self._masks[: len(changes.masks)].copy_(sent(changes.masks, self._device))
        if changes.biases is not None:
            some, to = (sent(each, self._device) for each in (changes.biases, at.astype(np.int64)))
            self._biases[:, to, : some.shape[2]] = some
