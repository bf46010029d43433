"""What each row of logits yields: the steps of quire.sampling.reference, for all rows at once.

Nothing here waits for the device: what it finds goes to the host in one piece, when it is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from quire.backends.torch.devices import Device
from quire.backends.torch.host_copies import Arriving, HostCopies, sent
from quire.backends.torch.sampling.changes import COUNTS, changes_of, has_changes, on_device
from quire.backends.torch.sampling.logprobs import entries_of
from quire.backends.torch.sampling.sampler import Sampler, sampler_of
from quire.backends.torch.sampling.token_counts import count_rows
from quire.sampling.state import SampledRows, SampleRow

__all__ = ["DrawnRows", "draw_rows", "sample_rows"]


def sample_rows(logits: torch.Tensor, rows: Sequence[SampleRow], device: Device) -> SampledRows:
    """What each row of logits [S, V] yields; all that was generated is known."""
    before = torch.zeros(len(rows), dtype=torch.int64, device=logits.device)
    return draw_rows(logits, rows, before, device).on_host(HostCopies(device))


@dataclass(frozen=True, slots=True)
class DrawnRows:
    """What rows of logits yield, on the device.

    tokens: [S] int64, see SampledRows.  asked, counts: rows that want log-probabilities, and of how
    many tokens.  listed: what logprobs_of made of them, None where there are none.
    """

    tokens: torch.Tensor
    asked: Sequence[int] = ()
    counts: Sequence[int] = ()
    listed: tuple[torch.Tensor, ...] | None = None

    def start(self, copies: HostCopies) -> Arriving:
        """Send it to the host."""
        return copies.start([self.tokens, *(self.listed or ())])

    def arrived(self, arriving: Arriving) -> SampledRows:
        """Wait for what `start` sent."""
        tokens, *listed = arriving.wait()
        found = tokens.tolist()
        if not listed:
            return SampledRows(found, {})
        ids, values, ranks = listed
        entries = zip(self.asked, entries_of(ids, values, ranks, self.counts), strict=True)
        return SampledRows(found, {place: each for place, each in entries if found[place] >= 0})

    def on_host(self, copies: HostCopies) -> SampledRows:
        """Send it to the host, and wait."""
        return self.arrived(self.start(copies))


def draw_rows(
    logits: torch.Tensor, rows: Sequence[SampleRow], before: torch.Tensor, device: Device
) -> DrawnRows:
    """What each row of logits [S, V] yields; the logits are not changed.

    before: [S] int64, the token that each row follows, which stands in for an UNKNOWN_TOKEN at the
    end of its output.  Sums are float64; a device without it leaves the work to the host.
    """
    sampler = sampler_of(device)
    if not device.has_float64:
        logits, before = logits.cpu(), before.cpu()
    tokens = _tokens(sampler, logits, rows, before)
    asked = [place for place, row in enumerate(rows) if row.num_logprobs >= 0]
    if not asked:
        return DrawnRows(tokens)
    counts = [rows[place].num_logprobs for place in asked]
    at, told = _index(asked, logits), sent(np.array(counts, np.int32) + 1, logits.device)
    listed = sampler.describe(logits[at], tokens[at], told, 1 + max(counts))
    return DrawnRows(tokens, asked, counts, listed)


def _tokens(
    sampler: Sampler, logits: torch.Tensor, rows: Sequence[SampleRow], before: torch.Tensor
) -> torch.Tensor:
    """Targets as they are; of the others the most likely token, or a drawn one."""
    num_tokens = logits.shape[1]
    places = [place for place, row in enumerate(rows) if row.target < 0]
    if len(places) == len(rows):
        return _choose(sampler, logits, rows, before)
    targets = [row.target if row.target < num_tokens else -1 for row in rows]
    tokens = _index(targets, logits)
    if places:
        at, some = _index(places, logits), [rows[place] for place in places]
        tokens = tokens.index_put((at,), _choose(sampler, logits[at], some, before[at]))
    return tokens


def _choose(
    sampler: Sampler, logits: torch.Tensor, rows: Sequence[SampleRow], before: torch.Tensor
) -> torch.Tensor:
    """A token [S] for each row, -1 where no logit is a number above minus infinity."""
    if any(has_changes(row) for row in rows):
        changes = changes_of(rows, logits.shape[1])
        counts, changes.columns[COUNTS, : len(rows)] = count_rows(
            rows, before, logits.shape[1], sampler.count_tokens
        )
        logits = sampler.change(logits, on_device(changes, counts, logits))
    rules = sent(sampler.rules(rows), logits.device)
    return sampler.draw(logits, rules, sampler.order(rows).kind)


def _index(numbers: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    return sent(np.array(numbers, np.int64), like.device)
