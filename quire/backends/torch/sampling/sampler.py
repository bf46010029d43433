"""How a device samples: in plain torch, or by kernels where it has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from quire.backends.torch.devices import Device
from quire.backends.torch.sampling.changes import Changes, changed, has_changes
from quire.backends.torch.sampling.draw import Kind, draw, kind_of, rules_of
from quire.backends.torch.sampling.logprobs import logprobs_of
from quire.backends.torch.sampling.token_counts import Count, count_tokens
from quire.sampling.state import SampleRow

__all__ = ["Order", "Sampler", "sampler_of"]


class Order(NamedTuple):
    """What is done for all rows of a step alike.

    changes: some logits are changed before.  tells: log-probabilities are told.
    """

    kind: Kind
    changes: bool
    tells: bool


class Sampler(NamedTuple):
    """Logits are [S, V]; none of this waits for the device, and all but `rules` can be captured.

    order: rows → what has to be done for them.  rules: rows → int32 [5, at least S], a column for
    each row, see rules_of.
    change: see changed.  draw: see draw.  describe: see logprobs_of.  count_tokens: see there.
    """

    order: Callable[[Sequence[SampleRow]], Order]
    rules: Callable[[Sequence[SampleRow]], npt.NDArray[np.int32]]
    change: Callable[[torch.Tensor, Changes], torch.Tensor]
    draw: Callable[[torch.Tensor, torch.Tensor, Kind], torch.Tensor]
    describe: Callable[
        [torch.Tensor, torch.Tensor, torch.Tensor, int],
        tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    ]
    count_tokens: Count


def sampler_of(device: Device) -> Sampler:
    """Plain torch, or kernels where the device has them."""
    if device.triton_architecture is None:
        return Sampler(_order, rules_of, changed, draw, logprobs_of, count_tokens)
    from quire.backends.torch.triton.bodies import sampling
    from quire.backends.torch.triton.launcher import launcher_of
    from quire.backends.torch.triton.logit_changes import count_tokens as count

    gpu = launcher_of(device)
    return Sampler(
        _whole_order,
        sampling.rules_of,
        partial(sampling.changed, gpu),
        lambda logits, rules, kind: sampling.draw(gpu, logits, rules),
        partial(sampling.logprobs_of, gpu),
        partial(count, gpu),
    )


def _order(rows: Sequence[SampleRow]) -> Order:
    return Order(
        kind_of(rows),
        any(has_changes(row) for row in rows),
        any(row.num_logprobs >= 0 for row in rows),
    )


def _whole_order(rows: Sequence[SampleRow]) -> Order:
    """One of two: kernels leave rows alone that ask for nothing."""
    found = _order(rows)
    is_more = found.changes or found.tells
    return Order("ranked", is_more, is_more)
