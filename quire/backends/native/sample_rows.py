"""Fills the sampler's row records, and reads its results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from quire.backends.native.library import SAMPLE_RESULT, SAMPLE_ROW
from quire.outputs import Logprob
from quire.sampling.state import SampledRows, SampleRow, SamplingState

__all__ = ["SampleBatch"]


class SampleBatch:
    """The records of one step's rows, and room for what the sampler says of them."""

    def __init__(self, rows: Sequence[SampleRow]) -> None:
        self._num_logprobs = [row.num_logprobs for row in rows]
        self.records = _records(rows, self._num_logprobs)
        self.results = np.zeros(len(rows), SAMPLE_RESULT)
        most = max(self._num_logprobs, default=0)
        if most > 0:
            self._top_ids = np.zeros((len(rows), most), np.int32)
            self._top_logprobs = np.zeros((len(rows), most), np.float32)
            self.results["top_ids"] = _row_addresses(self._top_ids)
            self.results["top_logprobs"] = _row_addresses(self._top_logprobs)

    def sampled(self) -> SampledRows:
        """The results, once the sampler has run."""
        tokens = self.results["token"].tolist()
        wanted = enumerate(zip(tokens, self._num_logprobs, strict=True))
        return SampledRows(
            tokens,
            {
                place: self._logprobs(place, token, count)
                for place, (token, count) in wanted
                if count >= 0 and token >= 0
            },
        )

    def _logprobs(self, place: int, token: int, count: int) -> dict[int, Logprob]:
        """The token's first, then those of the `count` most likely ones."""
        result = self.results[place]
        entries = {token: Logprob(float(result["logprob"]), int(result["rank"]))}
        if count > 0:
            others = self._top_ids[place, :count].tolist()
            logprobs = self._top_logprobs[place, :count].tolist()
            for rank, (other, logprob) in enumerate(zip(others, logprobs, strict=True), 1):
                if other >= 0 and other not in entries:
                    entries[other] = Logprob(logprob, rank)
        return entries


def _records(rows: Sequence[SampleRow], num_logprobs: Sequence[int]) -> np.ndarray[Any, Any]:
    """What each row wants from the sampler: what its state says, and what changes every step."""
    states = [row.state for row in rows]
    for state in states:
        if state.native is None:
            state.native = _record(state).tobytes()
    joined = bytearray().join([state.native for state in states])
    records = np.frombuffer(joined, SAMPLE_ROW)
    records["output_index"] = records["num_output"] = [row.output_index for row in rows]
    records["num_logprobs"] = num_logprobs
    records["target"] = [row.target for row in rows]
    for place in np.flatnonzero(records["num_forbidden"]).tolist():
        if rows[place].output_index >= states[place].params.min_tokens:
            records["num_forbidden"][place] = 0
    return records


def _record(state: SamplingState) -> Any:
    """The part of a row record that stays the same from step to step."""
    params, record = state.params, np.zeros((), SAMPLE_ROW)
    record["seed"] = state.seed
    for name in ("prompt", "allowed", "forbidden", "bad_words", "bias_ids"):
        array = getattr(state, name)
        record[name] = array.ctypes.data
        record["num_bias" if name == "bias_ids" else f"num_{name}"] = len(array)
    record["bias"] = state.bias.ctypes.data
    record["output"] = state.output_address
    record["bitmask"] = 0 if state.mask is None else state.mask.ctypes.data
    record["top_k"] = max(params.top_k, 0)
    for name in ("temperature", "top_p", "min_p", "repetition_penalty"):
        record[name] = getattr(params, name)
    record["presence_penalty"] = params.presence_penalty
    record["frequency_penalty"] = params.frequency_penalty
    return record


def _row_addresses(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    first, step = array.ctypes.data, array.strides[0]
    return np.asarray(first + step * np.arange(len(array)), np.uintp)
