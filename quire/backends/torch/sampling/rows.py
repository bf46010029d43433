"""What each row of logits yields: the steps of quire.sampling.reference, for all rows at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
import torch

from quire.backends.torch.arrays import as_tensor
from quire.backends.torch.devices import Device
from quire.backends.torch.sampling.adjust import adjusted
from quire.backends.torch.sampling.draw import drawn
from quire.backends.torch.sampling.logprobs import logprobs_of
from quire.outputs import Logprob
from quire.sampling.state import SampledRows, SampleRow

__all__ = ["Sampler", "sample_rows"]

Choose: TypeAlias = Callable[[torch.Tensor, Sequence[SampleRow]], torch.Tensor]
Describe: TypeAlias = Callable[
    [torch.Tensor, Sequence[int], Sequence[int]], "list[dict[int, Logprob]]"
]


class Sampler(NamedTuple):
    """choose: logits [S, V] and rows → tokens [S].  describe: see logprobs_of."""

    choose: Choose
    describe: Describe


def sample_rows(logits: torch.Tensor, rows: Sequence[SampleRow], device: Device) -> SampledRows:
    """What each row of logits [S, V] yields; the logits are not changed.

    Sums are float64; a device without it leaves the work to the host.
    """
    sampler = _sampler(device)
    if not device.has_float64:
        logits = logits.cpu()
    tokens = _tokens(sampler, logits, rows)
    asked = [
        place for place, row in enumerate(rows) if row.num_logprobs >= 0 and tokens[place] >= 0
    ]
    found: dict[int, dict[int, Logprob]] = {}
    if asked:
        counts = [rows[place].num_logprobs for place in asked]
        told = [tokens[place] for place in asked]
        entries = sampler.describe(logits[_index(asked, logits)], told, counts)
        found = dict(zip(asked, entries, strict=True))
    return SampledRows(tokens, found)


def _sampler(device: Device) -> Sampler:
    """Plain torch, or kernels where the device has them."""
    if device.triton_architecture is None:
        return Sampler(lambda logits, rows: _choose(adjusted(logits, rows), rows), logprobs_of)
    from quire.backends.torch.triton.bodies import sampling
    from quire.backends.torch.triton.launcher import launcher_of

    gpu = launcher_of(device)
    return Sampler(partial(sampling.choose, gpu), partial(sampling.logprobs_of, gpu))


def _tokens(sampler: Sampler, logits: torch.Tensor, rows: Sequence[SampleRow]) -> list[int]:
    """Targets as they are; of the others the most likely token, or a drawn one."""
    num_tokens = logits.shape[1]
    tokens = [row.target if row.target < num_tokens else -1 for row in rows]
    places = [place for place, row in enumerate(rows) if row.target < 0]
    if not places:
        return tokens
    some = [rows[place] for place in places]
    chosen = logits if len(some) == len(rows) else logits[_index(places, logits)]
    for place, token in zip(places, sampler.choose(chosen, some).tolist(), strict=True):
        tokens[place] = token
    return tokens


def _choose(logits: torch.Tensor, rows: Sequence[SampleRow]) -> torch.Tensor:
    """A token [S] for each row, -1 where no logit is a number above minus infinity."""
    numbers = torch.where(logits.isnan(), -torch.inf, logits)
    best, tokens = numbers.amax(dim=1), numbers.argmax(dim=1)  # the first of equals
    random = [place for place, row in enumerate(rows) if row.state.params.temperature != 0]
    if random:
        at = _index(random, logits)
        tokens[at] = drawn(logits[at], [rows[place] for place in random])
    return torch.where(best > -torch.inf, tokens, -1)


def _index(places: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    return as_tensor(np.array(places, np.int64), like.device)
