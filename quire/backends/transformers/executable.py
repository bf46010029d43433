"""Runs a model of transformers as an Executable: one row of all tokens, our cache and sampler."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch
import transformers

from quire.backends.torch.arrays import as_tensor
from quire.backends.torch.kv_cache import DeviceKvCache
from quire.backends.torch.sampling.rows import sample_rows
from quire.backends.torch.states import DeviceStates
from quire.backends.torch.step import Step, start_step
from quire.backends.torch.weights import Weights
from quire.backends.transformers.attention import Paged
from quire.backends.transformers.build import WrappedModel
from quire.ops.batch import Batch
from quire.ops.kv_cache import KvCache
from quire.outputs import Logprob
from quire.sampling.slots import SlotStates
from quire.sampling.state import SampledRows, SamplingState

__all__ = ["LOGIT_ROWS", "TransformersExecutable"]

LOGIT_ROWS = 128
"""Computed at a time; a step that wants more computes its tokens again for each so many."""


class TransformersExecutable:
    """A wrapped model and its KV cache on one device.

    kv_cache: on a CPU its arena is used where it is; other devices have one of their own.
    """

    def __init__(self, model: WrappedModel, kv_cache: KvCache) -> None:
        self._model = model
        self._device = model.device
        device = model.device.torch_device
        size = kv_cache.num_blocks * kv_cache.layout.bytes_per_block
        on_host = model.device.is_cpu
        arena = as_tensor(kv_cache.arena, device) if on_host else _zeros(size, device)
        self._cache = DeviceKvCache(kv_cache.layout, kv_cache.num_blocks, arena)
        self._weights = Weights(model.sinks, (), model.device)
        self._states = DeviceStates(torch.zeros((0, 0), device=device))
        self._keeps_rows = "logits_to_keep" in inspect.signature(model.module.forward).parameters
        self._slots = SlotStates()

    @property
    def summary(self) -> str:
        """See Executable."""
        return (
            f"kernels: transformers {transformers.__version__} with paged attention on "
            f"{self._device.title}; a family of Quire's own would be faster"
        )

    @property
    def expert_usage(self) -> Mapping[int, npt.NDArray[np.int64]]:
        """See Executable.  Empty: transformers does not tell."""
        return {}

    def admit(self, slot: int, state: SamplingState) -> None:
        """See Executable."""
        self._slots.admit(slot, state)

    def run(self, batch: Batch) -> SampledRows:
        """See Executable."""
        rows = self._slots.rows(batch)
        tokens: list[int] = []
        logprobs: dict[int, dict[int, Logprob]] = {}
        with torch.inference_mode():
            for logits in self._logits(batch):
                start = len(tokens)
                some = rows[start : start + len(logits)]
                sampled = sample_rows(logits, some, self._device)
                tokens += sampled.tokens
                logprobs.update({start + at: found for at, found in sampled.logprobs.items()})
        return SampledRows(tokens, logprobs)

    def logits(self, batch: Batch) -> npt.NDArray[np.float32]:
        """See Executable."""
        with torch.inference_mode():
            found = [np.asarray(logits.cpu().numpy()) for logits in self._logits(batch)]
        return np.concatenate([np.empty((0, self._model.spec.vocab_size), np.float32), *found])

    def _logits(self, batch: Batch) -> Iterator[torch.Tensor]:
        """The logits [S, V] of some rows at a time; without rows only the cache changes."""
        step = start_step(batch, self._device, self._cache, self._weights, self._states)
        for rows in step.logit_rows.split(LOGIT_ROWS):
            yield self._forward(step, rows)

    def _forward(self, step: Step, rows: torch.Tensor) -> torch.Tensor:
        tokens = step.token_ids[None]
        kept = {"logits_to_keep": rows} if self._keeps_rows else {}
        made = self._model.module(
            input_ids=tokens,
            position_ids=step.positions[None],
            attention_mask=torch.ones_like(tokens),
            use_cache=False,
            paged=Paged(step, self._model.layers),
            **kept,
        )
        logits: torch.Tensor = made.logits[0].float()
        return logits if kept else logits[rows]


def _zeros(size: int, device: torch.device) -> torch.Tensor:
    return torch.zeros(size, dtype=torch.uint8, device=device)
