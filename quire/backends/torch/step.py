"""What bodies may read besides their inputs: one step's tokens, the cache and the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, TypeVar

import numpy as np
import torch

from quire.backends.torch.devices import Device
from quire.backends.torch.host_copies import sent
from quire.backends.torch.kv_cache import DeviceKvCache
from quire.backends.torch.states import DeviceStates
from quire.backends.torch.weights import Weights
from quire.ops.batch import Batch

__all__ = ["Group", "Make", "Step", "start_step"]

Found = TypeVar("Found")
Make: TypeAlias = Callable[[Batch], np.ndarray]


class Group(Protocol):
    """The ranks that compute one model together; each calls with its own rows at the same node."""

    def exchange(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The rows of every rank, in the order of ranks."""
        ...


@dataclass(slots=True)
class Step:
    """One step on a device.  All index tensors are int64 there; `batch` has them on the host.

    tokens: [4, T], which cross to the device as one: see the four properties.
    logit_rows: [S], those that the head computes now.
    ranks: those that share the work.
    states: what recurrent layers know; without records where there are none.
    rules: of a step whose tokens are drawn by itself, see DrawnSteps.
    """

    batch: Batch
    device: Device
    kv_cache: DeviceKvCache
    weights: Weights
    tokens: torch.Tensor
    logit_rows: torch.Tensor
    states: DeviceStates
    ranks: Group | None = None
    rules: torch.Tensor | None = None
    _kept: dict[object, object] = field(default_factory=dict)
    _arrays: dict[object, tuple[Make, torch.Tensor]] = field(default_factory=dict)

    @property
    def token_ids(self) -> torch.Tensor:
        """[T]."""
        return self.tokens[0]

    @property
    def positions(self) -> torch.Tensor:
        """[T], of tokens in their requests."""
        return self.tokens[1]

    @property
    def blocks(self) -> torch.Tensor:
        """[T], the block that holds each token's keys and values."""
        return self.tokens[2]

    @property
    def offsets(self) -> torch.Tensor:
        """[T], the token's place in it."""
        return self.tokens[3]

    @property
    def is_decoding(self) -> bool:
        """Whether each request has a single token."""
        return self.once("is decoding", lambda: self.batch.is_decoding)

    @property
    def end(self) -> int:
        """All tokens stand at positions before this one; in a captured step those of every step."""
        return self.once("end", lambda: int(self.batch.positions.max()) + 1)

    def put(self, array: np.ndarray) -> torch.Tensor:
        """An array of the host, on the device."""
        return sent(array, self.device.torch_device)

    def once(self, key: object, make: Callable[[], Found]) -> Found:
        """What `make` returns, made once a step: layers have much in common."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]  # type: ignore[return-value]

    def array(self, key: object, make: Make, most: int = 0) -> torch.Tensor:
        """What `make` makes of the batch, on the device, made once a step.

        In a captured step, for every batch: its shape may depend only on how many tokens and
        requests there are.  most: or it has so many columns or fewer, and then what stands behind
        them may be anything.
        """
        if key not in self._arrays:
            array = sent(make(self.batch), self.device.torch_device)
            self._arrays[key] = make, array
        return self._arrays[key][1]


def start_step(
    batch: Batch,
    device: Device,
    kv_cache: DeviceKvCache,
    weights: Weights,
    states: DeviceStates,
    ranks: Group | None = None,
) -> Step:
    """A step over a batch, its indices copied to the device."""
    block, offset = np.divmod(batch.positions.astype(np.int64), kv_cache.layout.block_tokens)
    block_ids = batch.block_tables[batch.request_of_token(), block]
    tokens = np.stack([batch.token_ids, batch.positions, block_ids, offset])  # int64, as offsets
    rows = batch.logit_rows.astype(np.int64)
    sent_tokens, sent_rows = (sent(each, device.torch_device) for each in (tokens, rows))
    return Step(batch, device, kv_cache, weights, sent_tokens, sent_rows, states, ranks)
