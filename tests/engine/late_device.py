"""An executable that computes what it is given as late as it may, or at any time before."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from quire.backends.executable import Executable
from quire.control.plan import UNKNOWN_TOKEN
from quire.ops.batch import Batch
from quire.sampling.state import SampledRows, SamplingState

COPIED = ("token_ids", "positions", "block_tables", "states")


@dataclass
class LateStep:
    """A batch, and what came of it once it was run."""

    device: LateDevice
    batch: Batch
    admitted: list[tuple[int, SamplingState]]
    sampled: SampledRows | None = None

    def wait(self) -> SampledRows:
        self.device.run_until(self)
        assert self.sampled is not None
        return self.sampled


class LateDevice:
    """What another executable would be with a device that runs behind.

    It takes copies of what later steps fill anew.  chance: of running a step when it is launched.
    num_filled: tokens that the host did not know.
    """

    overlaps = True

    def __init__(self, inner: Executable, seed: int = 0, chance: float = 0.3) -> None:
        self.inner = inner
        self.program = inner.program
        self.num_filled = 0
        self._random = random.Random(seed)
        self._chance = chance
        self._queue: list[LateStep] = []
        self._admitted: list[tuple[int, SamplingState]] = []
        self._latest: dict[int, int] = {}

    @property
    def summary(self) -> str:
        return self.inner.summary

    @property
    def expert_usage(self) -> Mapping[int, Any]:
        return self.inner.expert_usage

    def admit(self, slot: int, state: SamplingState) -> None:
        """Steps on their way still sample for who had the slot before."""
        self._admitted.append((slot, state))

    def launch(self, batch: Batch) -> LateStep:
        assert len(self._queue) <= 1, "a third step on its way"
        copies = {name: getattr(batch, name).copy() for name in COPIED}
        step = LateStep(self, replace(batch, **copies), self._admitted)
        self._admitted = []
        self._queue.append(step)
        if self._random.random() < self._chance:
            self.run_until(step)
        return step

    def run_until(self, step: LateStep) -> None:
        while step.sampled is None:
            self._run(self._queue.pop(0))

    def _run(self, step: LateStep) -> None:
        for slot, state in step.admitted:
            self.inner.admit(slot, state)
        batch = step.batch
        slots = batch.slots[batch.request_of_token()].tolist()
        for place in np.flatnonzero(batch.token_ids == UNKNOWN_TOKEN).tolist():
            batch.token_ids[place] = self._latest[slots[place]]
            self.num_filled += 1
        step.sampled = self.inner.run(batch)
        for at, token in zip(batch.logit_rows.tolist(), step.sampled.tokens, strict=True):
            self._latest[slots[at]] = max(token, 0)

    def run(self, batch: Batch) -> SampledRows:
        return self.launch(batch).wait()

    def logits(self, batch: Batch) -> Any:
        return self.inner.logits(batch)
