"""What bodies may read besides their inputs: one step's tokens, the cache and the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import torch

from quire.backends.torch.devices import Device
from quire.backends.torch.host_copies import sent
from quire.backends.torch.kv_cache import DeviceKvCache
from quire.backends.torch.states import DeviceStates
from quire.backends.torch.weights import Weights
from quire.ops.batch import Batch

__all__ = ["FixedStep", "Group", "Step", "WideRooms", "start_step"]

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

    token_ids, positions: [T].  blocks, offsets: [T], the block that holds each token's keys and
    values, and its place there.  logit_rows: [S], those that the head computes now.
    ranks: those that share the work.
    states: what recurrent layers know; without records where there are none.
    rules: of a step whose tokens are drawn by itself, see DrawnSteps.
    """

    batch: Batch
    device: Device
    kv_cache: DeviceKvCache
    weights: Weights
    token_ids: torch.Tensor
    positions: torch.Tensor
    blocks: torch.Tensor
    offsets: torch.Tensor
    logit_rows: torch.Tensor
    states: DeviceStates
    ranks: Group | None = None
    rules: torch.Tensor | None = None
    _kept: dict[object, object] = field(default_factory=dict)
    _arrays: dict[object, tuple[Make, torch.Tensor]] = field(default_factory=dict)

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


class _NoBatch:
    """In place of the arrays of the host, which a captured body must not read."""

    given_rows = axis_positions = None

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a captured body reads {name} of the batch; use Step.array")


@dataclass(frozen=True, slots=True)
class WideRooms:
    """Where arrays stand that are wide: one place for all sizes of captured steps.

    rows: of the largest step.  end: no request has a token at this position.
    """

    rows: int
    end: int
    places: dict[object, torch.Tensor] = field(default_factory=dict)

    def take(self, key: object, array: torch.Tensor, most: int) -> torch.Tensor:
        """Room [rows of the array, most] of its dtype."""
        if key not in self.places:
            self.places[key] = array.new_zeros((self.rows, most))
        return self.places[key][: len(array)]


class FixedStep(Step):
    """A step whose tensors stay where they are, for bodies that are captured.

    What `once` makes is recorded with what made it, so it stays too.  A head computes every row.
    """

    @classmethod
    def like(cls, step: Step, rooms: WideRooms) -> FixedStep:
        """With copies of a step's tensors."""
        ids, positions, blocks, offsets = (
            each.clone() for each in (step.token_ids, step.positions, step.blocks, step.offsets)
        )
        nobody: Any = _NoBatch()
        rows = torch.arange(len(ids), device=ids.device)
        rules = None if step.rules is None else step.rules.clone()
        found = cls(
            nobody, step.device, step.kv_cache, step.weights,
            ids, positions, blocks, offsets, rows, step.states, step.ranks, rules,
        )  # fmt: skip
        found._newest, found._recorded = step.batch, {}
        found._is_decoding, found._rooms = step.is_decoding, rooms
        return found

    _newest: Batch
    _recorded: dict[object, object]
    _is_decoding: bool
    _rooms: WideRooms

    @property
    def is_decoding(self) -> bool:
        """See Step."""
        return self._is_decoding

    @property
    def end(self) -> int:
        """See Step."""
        return self._rooms.end

    def load(self, step: Step) -> None:
        """Take in the numbers of another step of as many tokens."""
        self._newest = step.batch
        for mine, its in (
            (self.token_ids, step.token_ids),
            (self.positions, step.positions),
            (self.blocks, step.blocks),
            (self.offsets, step.offsets),
        ):
            mine.copy_(its)
        if self.rules is not None and step.rules is not None:
            self.rules.copy_(step.rules)
        for make, array in self._arrays.values():
            _fill(array, sent(make(step.batch), self.device.torch_device))

    def put(self, array: np.ndarray) -> torch.Tensor:
        """Refused: a replay would not do it again."""
        raise AssertionError("a captured body sends an array of its own; use Step.array")

    def array(self, key: object, make: Make, most: int = 0) -> torch.Tensor:
        """See Step."""
        if key not in self._arrays:
            array = sent(make(self._newest), self.device.torch_device)
            room = self._rooms.take(key, array, most) if most else torch.empty_like(array)
            self._arrays[key] = make, room
            _fill(room, array)
        return self._arrays[key][1]

    def forget_kept(self) -> None:
        """Before recording: what was not recorded has to be made anew."""
        self._kept = dict(self._recorded)

    def keep(self) -> None:
        """After it: what was made is made again by each replay."""
        self._recorded = dict(self._kept)


def _fill(room: torch.Tensor, array: torch.Tensor) -> None:
    """Write an array into a room, which may have more columns."""
    assert array.shape[1:] <= room.shape[1:], f"{tuple(array.shape)} into {tuple(room.shape)}"
    narrow = room[:, : array.shape[1]] if array.ndim == 2 else room
    narrow.copy_(array)


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
    block_ids = batch.block_tables[batch.request_of_token(), block].astype(np.int64)
    arrays = batch.token_ids, batch.positions, block_ids, offset, batch.logit_rows
    ids, positions, blocks, offsets, rows = (
        sent(each.astype(np.int64), device.torch_device) for each in arrays
    )
    return Step(
        batch, device, kv_cache, weights, ids, positions, blocks, offsets, rows, states, ranks
    )
