"""Fills the sampler's row records, and reads its results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from quire.backends.native.library import SAMPLE_RESULT, SAMPLE_ROW
from quire.outputs import Logprob
from quire.sampling.state import SampledRow, SampleRow, SamplingState

__all__ = ["SampleBatch"]


class SampleBatch:
    """The records of one step's rows, and room for what the sampler says of them."""

    def __init__(self, rows: Sequence[SampleRow]) -> None:
        self._rows = rows
        self.records = _records(rows)
        self.results = np.zeros(len(rows), SAMPLE_RESULT)
        most = max((row.num_logprobs for row in rows), default=0)
        self._top_ids = np.zeros((len(rows), max(most, 1)), np.int32)
        self._top_logprobs = np.zeros((len(rows), max(most, 1)), np.float32)
        if most > 0:
            self.results["top_ids"] = _row_addresses(self._top_ids)
            self.results["top_logprobs"] = _row_addresses(self._top_logprobs)

    def sampled(self) -> list[SampledRow]:
        """The results, once the sampler has run."""
        tokens = self.results["token"].tolist()
        return [
            SampledRow(token)
            if row.num_logprobs < 0 or token < 0
            else SampledRow(token, self._logprobs(i, row, token))
            for i, (row, token) in enumerate(zip(self._rows, tokens, strict=True))
        ]

    def _logprobs(self, i: int, row: SampleRow, token: int) -> dict[int, Logprob]:
        """The token's first, then those of the most likely ones."""
        result = self.results[i]
        entries = {token: Logprob(float(result["logprob"]), int(result["rank"]))}
        for rank in range(row.num_logprobs):
            other = int(self._top_ids[i, rank])
            if other >= 0 and other not in entries:
                entries[other] = Logprob(float(self._top_logprobs[i, rank]), rank + 1)
        return entries


def _records(rows: Sequence[SampleRow]) -> np.ndarray[Any, Any]:
    """What each row wants from the sampler: what its state says, and what changes every step."""
    if not rows:
        return np.zeros(0, SAMPLE_ROW)
    for row in rows:
        if row.state.native is None:
            row.state.native = _record(row.state).tobytes()
    records = np.frombuffer(bytearray().join(row.state.native for row in rows), SAMPLE_ROW)
    records["output_index"] = records["num_output"] = [row.output_index for row in rows]
    records["num_logprobs"] = [row.num_logprobs for row in rows]
    records["target"] = [row.target for row in rows]
    for i, row in enumerate(rows):
        if len(row.state.forbidden) and row.output_index >= row.state.params.min_tokens:
            records["num_forbidden"][i] = 0
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
