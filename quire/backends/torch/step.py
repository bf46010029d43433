"""What bodies may read besides their inputs: one step's tokens, the cache and the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
import torch

from quire.backends.torch.devices import Device
from quire.backends.torch.host_copies import sent
from quire.backends.torch.kv_cache import DeviceKvCache
from quire.backends.torch.states import DeviceStates
from quire.backends.torch.weights import Weights
from quire.ops.batch import Batch

__all__ = ["Group", "Step", "start_step"]

Found = TypeVar("Found")


class Group(Protocol):
    """The ranks that compute one model together; each calls with its own rows at the same node."""

    def exchange(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The rows of every rank, in the order of ranks."""
        ...


@dataclass(slots=True)
class Step:
    """One step on a device.  All index tensors are int64 there; `batch` has them on the host.

    token_ids, positions: [T].  blocks, slots: [T], where each token's keys and values stand.
    logit_rows: [S], those that the head computes now.  ranks: those that share the work.
    states: what recurrent layers know; without records where there are none.
    """

    batch: Batch
    device: Device
    kv_cache: DeviceKvCache
    weights: Weights
    token_ids: torch.Tensor
    positions: torch.Tensor
    blocks: torch.Tensor
    slots: torch.Tensor
    logit_rows: torch.Tensor
    states: DeviceStates
    ranks: Group | None = None
    _kept: dict[object, object] = field(default_factory=dict)

    def put(self, array: np.ndarray) -> torch.Tensor:
        """An array of the host, on the device."""
        return sent(array, self.device.torch_device)

    def once(self, key: object, make: Callable[[], Found]) -> Found:
        """What `make` returns, made once a step: layers have much in common."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]  # type: ignore[return-value]


def start_step(
    batch: Batch,
    device: Device,
    kv_cache: DeviceKvCache,
    weights: Weights,
    states: DeviceStates,
    ranks: Group | None = None,
) -> Step:
    """A step over a batch, its indices copied to the device."""
    block, slot = np.divmod(batch.positions.astype(np.int64), kv_cache.layout.block_tokens)
    block_ids = batch.block_tables[batch.request_of_token(), block].astype(np.int64)
    arrays = batch.token_ids, batch.positions, block_ids, slot, batch.logit_rows
    ids, positions, blocks, slots, rows = (
        sent(each.astype(np.int64), device.torch_device) for each in arrays
    )
    return Step(
        batch, device, kv_cache, weights, ids, positions, blocks, slots, rows, states, ranks
    )
