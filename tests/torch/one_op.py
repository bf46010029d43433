"""One op by its torch body and by its reference, over the same batch, weights and cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from quire.backends.torch.arrays import as_tensor
from quire.backends.torch.backend import chosen_body
from quire.backends.torch.devices import Device, find_device
from quire.backends.torch.kv_cache import DeviceKvCache
from quire.backends.torch.states import DeviceStates
from quire.backends.torch.step import Step, start_step
from quire.backends.torch.weights import Weights
from quire.ops.batch import Batch
from quire.ops.kv_cache import KvCache, KvLayout
from quire.ops.op import Environment
from quire.ops.recurrent_state import NO_STATES, RecurrentStates
from quire.weights.tensor import RawTensor

CPU = find_device("cpu")


class Both:
    """A reference environment and a torch step that are filled alike.

    Caches begin as NaN, so that reading what nobody wrote is seen.  records: [count, floats], the
    recurrent states of both.  device: whose bodies compute; its memory is the host's.
    """

    def __init__(
        self,
        layout: KvLayout,
        batch: Batch,
        num_blocks: int,
        weights: Mapping[str, np.ndarray] | None = None,
        records: np.ndarray = NO_STATES.arena,
        device: Device = CPU,
    ) -> None:
        weights = dict(weights or {})
        cache, own = KvCache(layout, num_blocks), KvCache(layout, num_blocks)
        cache.arena[:] = own.arena[:] = 0xFF
        states = RecurrentStates(*records.shape)
        states.arena[:] = records
        self.records = records.copy()
        self.env = Environment(batch, cache, weights, states=states)
        stored = {name: RawTensor(name, "F32", x.shape, x) for name, x in weights.items()}
        device_cache = DeviceKvCache(layout, num_blocks, as_tensor(own.arena, device.torch_device))
        self._weights = Weights(stored, (), device)
        device_states = DeviceStates(torch.from_numpy(self.records))
        self.step: Step = start_step(batch, device, device_cache, self._weights, device_states)

    def at(self, batch: Batch) -> None:
        """Go on with another batch over the same caches."""
        env, step = self.env, self.step
        self.env = Environment(batch, env.kv_cache, env.weights, states=env.states)
        self.step = start_step(batch, step.device, step.kv_cache, self._weights, step.states)

    def torch(self, op: Any, *inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs of the body that is chosen on the device."""
        tensors = [torch.from_numpy(each.copy()) for each in inputs]
        with torch.inference_mode():
            outputs = chosen_body(op, self.step.device).compute(self.step, op, *tensors)
        return [each.numpy() for each in outputs]

    def reference(self, op: Any, *inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs of the reference."""
        return list(op.reference(self.env, *inputs))
