"""Recurrent states on a device."""

from __future__ import annotations

from math import prod

import torch

__all__ = ["DeviceStates"]


class DeviceStates:
    """The records of quire.ops.recurrent_state on a device: arena [count, floats], float32.

    Where steps are padded the last one is nobody's, and requests that are nobody's leave it.
    """

    def __init__(self, arena: torch.Tensor) -> None:
        self.arena = arena

    def read(self, records: torch.Tensor, start: int, shape: tuple[int, ...]) -> torch.Tensor:
        """Copies [R, *shape] of a range of records [R]; zeros of record -1."""
        found = self.arena[records.clamp(min=0), start : start + prod(shape)]
        found = torch.where(records[:, None] < 0, 0.0, found)
        return found.unflatten(1, shape)

    def write(self, records: torch.Tensor, start: int, values: torch.Tensor) -> None:
        """Store [R, *shape] at a range of records [R]; -1 is the last one."""
        numbers = values.flatten(1)
        self.arena[records, start : start + numbers.shape[1]] = numbers
