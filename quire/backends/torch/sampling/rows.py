"""What each row of logits yields: the steps of quire.sampling.reference, for all rows at once.

Nothing here waits for the device: what it finds goes to the host in one piece, when it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch

from quire.backends.torch.devices import Device
from quire.backends.torch.host_copies import Arriving, HostCopies, sent
from quire.backends.torch.sampling.adjust import adjusted
from quire.backends.torch.sampling.draw import Kind, drawn, kind_of, rules_of
from quire.backends.torch.sampling.logprobs import entries_of, logprobs_of
from quire.sampling.state import SampledRows, SampleRow

__all__ = ["DrawnRows", "Sampler", "draw_rows", "sample_rows", "sampler_of"]

Choose: TypeAlias = Callable[[torch.Tensor, Sequence[SampleRow], torch.Tensor], torch.Tensor]
Describe: TypeAlias = Callable[
    [torch.Tensor, torch.Tensor, int], tuple[torch.Tensor, torch.Tensor, torch.Tensor]
]


class Sampler(NamedTuple):
    """choose: logits [S, V], rows and `before` of draw_rows → tokens [S], -1 where there is none.

    describe: see logprobs_of.  The same as `choose` of plain rows, for steps that are captured:
    kind: rows → what does for all of them.  rules: rows → an array [5, any], a column for each row.
    draw: logits, rules on the device, kind → tokens [S].
    """

    choose: Choose
    describe: Describe
    kind: Callable[[Sequence[SampleRow]], Kind]
    rules: Callable[[Sequence[SampleRow]], np.ndarray[Any, Any]]
    draw: Callable[[torch.Tensor, torch.Tensor, Kind], torch.Tensor]


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
    at = _index(asked, logits)
    return DrawnRows(tokens, asked, counts, sampler.describe(logits[at], tokens[at], max(counts)))


def sampler_of(device: Device) -> Sampler:
    """Plain torch, or kernels where the device has them."""
    if device.triton_architecture is None:
        return Sampler(_adjust_and_choose, logprobs_of, kind_of, rules_of, _draw)
    from quire.backends.torch.triton.bodies import sampling
    from quire.backends.torch.triton.launcher import launcher_of

    gpu = launcher_of(device)
    return Sampler(
        partial(sampling.choose, gpu),
        partial(sampling.logprobs_of, gpu),
        lambda rows: "ranked",
        sampling.rules_of,
        lambda logits, rules, kind: sampling.draw(gpu, logits, rules),
    )


def _tokens(
    sampler: Sampler, logits: torch.Tensor, rows: Sequence[SampleRow], before: torch.Tensor
) -> torch.Tensor:
    """Targets as they are; of the others the most likely token, or a drawn one."""
    num_tokens = logits.shape[1]
    places = [place for place, row in enumerate(rows) if row.target < 0]
    if len(places) == len(rows):
        return sampler.choose(logits, rows, before)
    targets = [row.target if row.target < num_tokens else -1 for row in rows]
    tokens = _index(targets, logits)
    if places:
        at, some = _index(places, logits), [rows[place] for place in places]
        tokens = tokens.index_put((at,), sampler.choose(logits[at], some, before[at]))
    return tokens


def _adjust_and_choose(
    logits: torch.Tensor, rows: Sequence[SampleRow], before: torch.Tensor
) -> torch.Tensor:
    return _choose(adjusted(logits, rows, before), rows)


def _choose(logits: torch.Tensor, rows: Sequence[SampleRow]) -> torch.Tensor:
    """A token [S] for each row, -1 where no logit is a number above minus infinity."""
    tokens, is_one = _best(logits)
    random = [place for place, row in enumerate(rows) if row.state.params.temperature != 0]
    if random:
        at, some = _index(random, logits), [rows[place] for place in random]
        tokens[at] = drawn(logits[at], sent(rules_of(some), logits.device), kind_of(some))
    return torch.where(is_one, tokens, -1)


def _draw(logits: torch.Tensor, rules: torch.Tensor, kind: Kind) -> torch.Tensor:
    """The same, where the device alone knows which temperatures are 0."""
    tokens, is_one = _best(logits)
    if kind != "greedy":
        is_random = rules[0] != 0
        rules = torch.cat([torch.where(is_random, rules[:1], 1.0), rules[1:]])
        tokens = torch.where(is_random, drawn(logits, rules, kind), tokens)
    return torch.where(is_one, tokens, -1)


def _best(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The most likely token of each row, the first of equals; whether there is one."""
    numbers = torch.where(logits.isnan(), -torch.inf, logits)
    return numbers.argmax(dim=1), numbers.amax(dim=1) > -torch.inf


def _index(numbers: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    return sent(np.array(numbers, np.int64), like.device)
