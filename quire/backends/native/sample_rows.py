"""Fills the sampler's row records, and reads its results."""

from __future__ import annotations

from typing import Any

import numpy as np

from quire.backends.native.library import SAMPLE_RESULT, SAMPLE_ROW
from quire.ops.batch import Batch
from quire.outputs import Logprob
from quire.sampling.history import OutputHistory
from quire.sampling.state import SampledRows, SamplingState

__all__ = ["SampleBatch", "SampleTable"]

Records = np.ndarray[Any, Any]


class SampleTable:
    """The records of all running requests, one per slot; a step gathers those that it samples."""

    def __init__(self) -> None:
        self._records = np.zeros(8, SAMPLE_ROW)
        self._min_tokens = np.zeros(8, np.int64)
        self._states: dict[int, SamplingState] = {}
        self._history = OutputHistory()

    def admit(self, slot: int, state: SamplingState) -> None:
        """See Executable."""
        while slot >= len(self._records):
            self._records = np.concatenate([self._records, np.zeros_like(self._records)])
            self._min_tokens = np.concatenate([self._min_tokens, np.zeros_like(self._min_tokens)])
        self._records[slot] = _record(state)
        self._min_tokens[slot] = state.params.min_tokens
        self._states[slot] = state  # whose arrays the record points to
        self._history.keep(slot, state.reads_output)

    def rows(self, batch: Batch) -> Records:
        """The records of the batch's logit rows."""
        self._history.note(batch, self._records["num_prompt"][batch.slots])
        slots = batch.slots[batch.request_of_token()[batch.logit_rows]]
        records = self._records[slots]
        positions = batch.positions[batch.logit_rows]
        index = positions + 1 - records["num_prompt"]
        records["output_index"] = records["num_output"] = np.maximum(index, 0)
        records["output"] = self._history.addresses(slots)
        records["num_forbidden"] *= index < self._min_tokens[slots]
        for place in np.flatnonzero(index < 0).tolist():  # what comes next is known: the prompt
            state = self._states[int(slots[place])]
            records["target"][place] = state.prompt[positions[place] + 1]
            records["num_logprobs"][place] = state.params.prompt_logprobs
        return records


class SampleBatch:
    """The records of one step's rows, and room for what the sampler says of them."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self.results = np.zeros(len(records), SAMPLE_RESULT)
        self._num_logprobs = records["num_logprobs"].tolist()
        most = max(self._num_logprobs, default=0)
        if most > 0:
            self._top_ids = np.zeros((len(records), most), np.int32)
            self._top_logprobs = np.zeros((len(records), most), np.float32)
            self.results["top_ids"] = _row_addresses(self._top_ids)
            self.results["top_logprobs"] = _row_addresses(self._top_logprobs)

    def sampled(self) -> SampledRows:
        """The results, once the sampler has run."""
        tokens = self.results["token"].tolist()
        asked = [place for place, count in enumerate(self._num_logprobs) if count >= 0]
        return SampledRows(
            tokens, {place: self._logprobs(place) for place in asked if tokens[place] >= 0}
        )

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
