"""Fills the sampler's row records, and reads its results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.backends.native.abi import SAMPLE_RESULT, SAMPLE_ROW
from quire.ops.batch import Batch
from quire.outputs import Logprob
from quire.sampling.history import OutputHistory
from quire.sampling.state import SampledRows, SamplingState

__all__ = ["SampleBatch", "SampleTable"]

Records = np.ndarray[Any, Any]
Int32 = npt.NDArray[np.int32]


class SampleTable:
    """The records of all running requests, one per slot; a step gathers those that it samples."""

    def __init__(self) -> None:
        self.records = np.zeros(8, SAMPLE_ROW)
        self.states: dict[int, SamplingState] = {}
        self.history = OutputHistory()
        self._batch: SampleBatch | None = None

    def admit(self, slot: int, state: SamplingState) -> None:
        """See Executable."""
        while slot >= len(self.records):
            self.records = np.concatenate([self.records, np.zeros_like(self.records)])
        self.records[slot] = _record(state)
        self.states[slot] = state  # whose arrays the record points to
        self.history.keep(slot, state.reads_output)
        self._batch = None

    def sample(self, batch: Batch) -> SampleBatch:
        """The records of the batch's logit rows; those of the last step, if it had the same."""
        if self._batch is None or batch is not self._batch.batch:
            self._batch = SampleBatch(self, batch)
        self._batch.move()
        return self._batch


class SampleBatch:
    """The records of one step's rows, and room for what the sampler says of them."""

    def __init__(self, table: SampleTable, batch: Batch) -> None:
        self.batch = batch
        self._history = table.history
        self._row_slots = batch.slots[batch.request_of_token()[batch.logit_rows]]
        states = [table.states[slot] for slot in self._row_slots.tolist()]
        self.records = table.records[self._row_slots]
        self._num_prompt = table.records["num_prompt"][batch.slots]  # [R]
        self._first = self.records["num_prompt"].astype(np.int64) - 1  # position of output 0
        self._num_forbidden = self.records["num_forbidden"].copy()
        self._min_tokens = np.array([state.params.min_tokens for state in states], np.int64)
        self._forbids = bool(self._num_forbidden.any())
        self._reads_output = any(table.states[slot].reads_output for slot in batch.slots.tolist())
        self._report_on_prompts(batch.positions[batch.logit_rows], states)
        self._num_logprobs: list[int] = self.records["num_logprobs"].tolist()
        self._asked = [place for place, count in enumerate(self._num_logprobs) if count >= 0]
        self._make_results(max(self._num_logprobs, default=0))

    def move(self) -> None:
        """Sample behind the positions that the batch has now."""
        positions, records = self.batch.positions, self.records
        if len(records) < len(positions):
            positions = positions[self.batch.logit_rows]
        index = positions - self._first
        if self._reports:
            index = np.maximum(index, 0)
        records["output_index"] = records["num_output"] = index
        if self._forbids:
            records["num_forbidden"] = self._num_forbidden * (index < self._min_tokens)
        if self._reads_output:
            self._history.note(self.batch, self._num_prompt)
            records["output"] = self._history.addresses(self._row_slots)

    def _report_on_prompts(self, positions: Int32, states: Sequence[SamplingState]) -> None:
        """Where a row stands before the end of its prompt, name the token that comes next."""
        reports = np.flatnonzero(positions < self._first).tolist()
        self._reports = bool(reports)
        for place in reports:
            state, record = states[place], self.records[place]
            record["target"] = state.prompt[positions[place] + 1]
            record["num_logprobs"] = state.params.prompt_logprobs

    def _make_results(self, most: int) -> None:
        self.results = np.zeros(len(self.records), SAMPLE_RESULT)
        if most > 0:
            self._top_ids = np.zeros((len(self.records), most), np.int32)
            self._top_logprobs = np.zeros((len(self.records), most), np.float32)
            self.results["top_ids"] = _row_addresses(self._top_ids)
            self.results["top_logprobs"] = _row_addresses(self._top_logprobs)
        self.addresses = self.records.ctypes.data, self.results.ctypes.data

    def sampled(self) -> SampledRows:
        """The results, once the sampler has run."""
        tokens = self.results["token"].tolist()
        found = {place: self._logprobs(place) for place in self._asked if tokens[place] >= 0}
        return SampledRows(tokens, found)

    def _logprobs(self, place: int) -> dict[int, Logprob]:
        """The token's first, then those of the most likely ones."""
        result, count = self.results[place], self._num_logprobs[place]
        entries = {int(result["token"]): Logprob(float(result["logprob"]), int(result["rank"]))}
        if count > 0:
            others = self._top_ids[place, :count].tolist()
            logprobs = self._top_logprobs[place, :count].tolist()
            for rank, (other, logprob) in enumerate(zip(others, logprobs, strict=True), 1):
                if other >= 0 and other not in entries:
                    entries[other] = Logprob(logprob, rank)
        return entries


def _record(state: SamplingState) -> Records:
    """The part of a row record that stays the same from step to step."""
    params, record = state.params, np.zeros((), SAMPLE_ROW)
    record["seed"] = state.seed
    for name in ("prompt", "allowed", "forbidden", "bad_words", "bias_ids"):
        array = getattr(state, name)
        record[name] = array.ctypes.data
        record["num_bias" if name == "bias_ids" else f"num_{name}"] = len(array)
    record["bias"] = state.bias.ctypes.data
    record["bitmask"] = 0 if state.mask is None else state.mask.ctypes.data
    record["target"] = -1
    record["num_logprobs"] = -1 if params.logprobs is None else params.logprobs
    record["top_k"] = max(params.top_k, 0)
    for name in ("temperature", "top_p", "min_p", "repetition_penalty"):
        record[name] = getattr(params, name)
    record["presence_penalty"] = params.presence_penalty
    record["frequency_penalty"] = params.frequency_penalty
    return record


def _row_addresses(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    first, step = array.ctypes.data, array.strides[0]
    return np.asarray(first + step * np.arange(len(array)), np.uintp)
