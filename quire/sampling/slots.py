"""What the rows of a batch are sampled by, where it is known by slots: see Executable.admit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quire.ops.batch import Batch
from quire.sampling.history import OutputHistory
from quire.sampling.state import SampleRow, SamplingState

__all__ = ["SlotStates"]


class SlotStates:
    """The sampling states of running requests, one per slot, and what they have generated."""

    def __init__(self) -> None:
        self._states: dict[int, SamplingState] = {}
        self._history = OutputHistory()

    def admit(self, slot: int, state: SamplingState) -> None:
        """See Executable."""
        self._states[slot] = state
        self._history.keep(slot, True)

    def rows(self, batch: Batch) -> list[SampleRow]:
        """What each logit row of the batch is for; its tokens are noted."""
        states = [self._states[slot] for slot in batch.slots.tolist()]
        self._history.note(batch, np.array([len(state.prompt) for state in states], np.int32))
        requests, rows = batch.request_of_token(), []
        for at in batch.logit_rows.tolist():
            state, slot = states[requests[at]], int(batch.slots[requests[at]])
            index = int(batch.positions[at]) + 1
            target = int(state.prompt[index]) if index < len(state.prompt) else -1
            output = self._history.tokens(slot, max(0, index - len(state.prompt)))
            rows.append(SampleRow(state, output, target))
        return rows

    def learn(self, batch: Batch, rows: Sequence[SampleRow], tokens: Sequence[int]) -> None:
        """Note what `rows`, those of the batch, drew, where the batch behind it did not know it."""
        drawn = [place for place, row in enumerate(rows) if row.target < 0]
        slots = batch.slots[batch.request_of_token()[batch.logit_rows[drawn]]]
        indices = np.array([len(rows[place].output) for place in drawn], np.int32)
        self._history.learn(slots, indices, np.array(tokens, np.int32)[drawn])
