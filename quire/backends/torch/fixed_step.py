"""A step at a fixed place on a device, which is recorded once and filled anew for each replay."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from quire.backends.torch.host_copies import sent
from quire.backends.torch.step import Make, Step
from quire.ops.batch import Batch

__all__ = ["FixedStep", "WideRooms"]


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
        nobody: Any = _NoBatch()
        rows = torch.arange(len(step.token_ids), device=step.tokens.device)
        rules = None if step.rules is None else step.rules.clone()
        found = cls(
            nobody, step.device, step.kv_cache, step.weights,
            step.tokens.clone(), rows, step.states, step.ranks, rules,
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
        self.tokens.copy_(step.tokens)
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
