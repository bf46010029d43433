"""The sampler defined in numpy: slow, obviously right, and what every faster sampler must equal.

A row goes through these steps: masks and bias, penalties, the greedy choice or the filters
temperature, min-p, top-k and top-p in this order, and the draw.  A filter judges what the filters
before it left: top-p is a share of the probability that remains after min-p and top-k.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.outputs import Logprob
from quire.sampling.state import SampledRows, SampleRow, SamplingState

__all__ = [
    "adjust_logits",
    "draw",
    "ends_of_bad_words",
    "log_probabilities",
    "philox4x32",
    "sample_rows",
    "softmax_weights",
    "truncate",
    "uniform",
]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.signedinteger[Any]]

LARGEST = np.finfo(np.float32).max
MASK32 = 0xFFFFFFFF


def sample_rows(logits: Float32, rows: Sequence[SampleRow]) -> SampledRows:
    """What each row of logits [S, V] yields; the logits are not changed."""
    tokens: list[int] = []
    logprobs: dict[int, dict[int, Logprob]] = {}
    for place, (one, row) in enumerate(zip(logits, rows, strict=True)):
        if row.target >= 0:
            tokens.append(row.target if row.target < len(one) else -1)
        else:
            tokens.append(_choose(adjust_logits(one, row), row))
        if row.num_logprobs >= 0 and tokens[-1] >= 0:
            logprobs[place] = _describe(one, tokens[-1], row.num_logprobs)
    return SampledRows(tokens, logprobs)


def _choose(logits: Float32, row: SampleRow) -> int:
    """The next token, or -1 when no logit is a number above minus infinity."""
    params = row.state.params
    if not (logits > -np.inf).any():
        return -1
    if params.temperature == 0.0:
        return int(np.nanargmax(logits))
    weights = softmax_weights(logits, params.temperature)
    kept = truncate(logits, weights, params.min_p, params.top_k, params.top_p)
    return draw(np.where(kept, weights, 0.0), uniform(row.state.seed, len(row.output)))


def adjust_logits(logits: Float32, row: SampleRow) -> Float32:
    """A copy of the logits [V] with masks, bias and penalties; unknown token ids are ignored."""
    state, output = row.state, row.output
    params, size = state.params, len(logits)
    out = logits.copy()
    if state.mask is not None:
        words = state.mask.view(np.uint32)
        out[(words[np.arange(size) // 32] >> (np.arange(size) % 32)) & 1 == 0] = -np.inf
    if len(state.allowed):
        others = np.ones(size, bool)
        others[_known(state.allowed, size)] = False
        out[others] = -np.inf
    if len(output) < params.min_tokens:
        out[_known(state.forbidden, size)] = -np.inf
    out[_known(ends_of_bad_words(state, output), size)] = -np.inf
    for token, bias in zip(state.bias_ids, state.bias, strict=True):
        if token < size:
            out[token] += bias
    return _penalize(out, state, output)


def _known(tokens: Iterable[int] | Integers, size: int) -> Integers:
    array = np.asarray(tokens, np.int64)
    return array[(array >= 0) & (array < size)]


def ends_of_bad_words(state: SamplingState, generated: Integers) -> list[int]:
    """The last token of each bad word whose other tokens are the end of the output."""
    ends, flat, output = [], state.bad_words.tolist(), generated.tolist()
    while flat:
        word, flat = flat[1 : 1 + flat[0]], flat[1 + flat[0] :]
        start = len(output) - (len(word) - 1)
        if start >= 0 and output[start:] == word[:-1]:
            ends.append(word[-1])
    return ends


def _penalize(logits: Float32, state: SamplingState, generated: Integers) -> Float32:
    params = state.params
    output = _known(generated, len(logits))
    seen = np.union1d(output, _known(state.prompt, len(logits)))
    penalty = np.float32(params.repetition_penalty)
    if penalty != 1:
        values = logits[seen]
        logits[seen] = np.where(values > 0, values / penalty, values * penalty)
    tokens, counts = np.unique(output, return_counts=True)
    logits[tokens] -= np.float32(params.frequency_penalty) * counts.astype(np.float32)
    logits[tokens] -= np.float32(params.presence_penalty)
    return logits


def softmax_weights(logits: Float32, temperature: float) -> Float32:
    """exp((l - max) / temperature): probabilities [V] up to a common factor; NaN weighs nothing."""
    finite = np.clip(np.where(np.isnan(logits), -LARGEST, logits), -LARGEST, LARGEST)
    with np.errstate(over="ignore", under="ignore"):
        scaled = (finite - finite.max()) / np.float32(temperature)
        weights: Float32 = np.exp(scaled, dtype=np.float32)
    return weights


def truncate(logits: Float32, weights: Float32, min_p: float, top_k: int, top_p: float) -> Bools:
    """Which tokens [V] min-p, top-k and top-p leave; min_p 0, top_k 0 and top_p 1 leave all.

    Tokens rank by logit, equal ones by id.  The most likely token always stays.
    """
    kept: Bools = weights >= np.float32(min_p)
    ranked = _by_rank(logits)
    ranked = ranked[kept[ranked]]
    if top_k > 0:
        ranked = ranked[:top_k]
    if top_p < 1.0:
        sums = np.cumsum(weights[ranked].astype(np.float64))
        enough = float(np.float32(top_p)) * sums[-1]
        ranked = ranked[: int(np.searchsorted(sums, enough)) + 1]
    kept = np.zeros(len(logits), bool)
    kept[ranked] = True
    return kept


def draw(weights: npt.NDArray[np.floating[Any]], u: float) -> int:
    """The first token id whose running sum of weights exceeds u times their total."""
    sums = np.cumsum(weights.astype(np.float64))
    token = int(np.searchsorted(sums, u * sums[-1], side="right"))
    return min(token, int(np.flatnonzero(weights)[-1]))


def _describe(logits: Float32, token: int, num_logprobs: int) -> dict[int, Logprob]:
    """The token first, then the most likely ones, with 1-based ranks."""
    logprobs, ranked = log_probabilities(logits), _by_rank(logits)
    rank = 1 + int(np.flatnonzero(ranked == token)[0])
    entries = {token: Logprob(float(logprobs[token]), rank)}
    for position, other in enumerate(ranked[:num_logprobs].tolist()):
        entries.setdefault(other, Logprob(float(logprobs[other]), position + 1))
    return entries


def log_probabilities(logits: Float32) -> Float64:
    """log softmax of logits [V] as the model gave them, before any adjustment."""
    total = softmax_weights(logits, 1.0).astype(np.float64).sum()
    out: Float64 = logits.astype(np.float64) - (float(np.nanmax(logits)) + np.log(total))
    return out


def _by_rank(logits: Float32) -> Integers:
    """All token ids, most likely first; equal ones by id."""
    return np.argsort(-logits, kind="stable")


def uniform(seed: int, index: int) -> float:
    """The random number in [0, 1) of one output index: a multiple of 2^-24."""
    words = philox4x32((index & MASK32, index >> 32, 0, 0), (seed & MASK32, seed >> 32))
    return (words[0] >> 8) / 2**24


def philox4x32(
    counter: tuple[int, int, int, int], key: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Philox4x32-10: a bijection of 128-bit counters for each 64-bit key.

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
    """
    for step in range(10):
        a, b = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        first = (key[0] + step * 0x9E3779B9) & MASK32
        second = (key[1] + step * 0xBB67AE85) & MASK32
        counter = (
            (b >> 32) ^ counter[1] ^ first,
            b & MASK32,
            (a >> 32) ^ counter[3] ^ second,
            a & MASK32,
        )
    return counter
