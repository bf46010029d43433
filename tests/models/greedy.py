"""64 greedy tokens, each the most likely one by an oracle that reads prompt and output at once.

Where every logit is within TOLERANCE of the oracle's, and the oracle's first choice is further than
two of them before its second, both choose the same token; so no tie decides a test, and the oracle
alone would have written the same text.  A prompt with a tie on its way is passed over: of two
tokens, or of two experts, which is seen where the oracle's logits jump when its embeddings move by
their rounding.  Any other distance fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.models.computing import Float32, Model, distance

__all__ = ["assert_greedy", "kept_rotation"]

COUNT = 64
TOLERANCE = 1e-4
CLEAR = 2 * TOLERANCE
PROMPTS = 5
DISTURBANCE = 1e-5
DRAWS = 8

Expected = Callable[[list[int], list[int]], Float32]


def assert_greedy(ours: Model, oracle: Any, length: int, expected: Expected) -> None:
    """Compare the tokens behind the first prompt along which the oracle is never in doubt.

    oracle: the transformers model.  length: of the prompts.  expected: its logits [P + n, V] of a
    prompt of P tokens and n behind it.
    """
    for seed in range(PROMPTS):
        random = np.random.default_rng(seed)
        prompt = random.integers(3, ours.spec.vocab_size, length).tolist()
        output, logits = ours.greedy(prompt, COUNT)
        read = partial(expected, prompt, output)
        theirs = read()[length - 1 : -1]
        if distance(logits, theirs) > TOLERANCE:
            assert_tied_experts(oracle, read, logits, theirs)
        elif lead(theirs) > CLEAR:
            assert output == theirs.argmax(axis=1).tolist()
            return
    pytest.fail(f"along each of {PROMPTS} prompts there is a tie")


def lead(logits: Float32) -> float:
    """How far the most likely token is before the next, at the closest, by the largest logit."""
    second, first = np.partition(logits, -2, axis=1)[:, -2:].T
    return float((first - second).min() / np.abs(logits).max())


def assert_tied_experts(
    oracle: Any, read: Callable[[], Float32], ours: Float32, theirs: Float32
) -> None:
    """Where ours first differs, the oracle jumps as far by itself."""
    far = np.abs(ours - theirs).max(axis=1) / np.abs(theirs).max()
    row = int((far > TOLERANCE).argmax())
    for seed in range(DRAWS):
        with disturbed(oracle, seed):
            again = read()[-len(theirs) - 1 :]
            jump = np.abs(again[row] - theirs[row]).max() / np.abs(theirs).max()
        if jump > far[row] / 2:
            return
    pytest.fail(f"token {row} behind the prompt is off by {far[row]:.1e} of the largest logit")


@contextmanager
def disturbed(oracle: Any, seed: int) -> Iterator[None]:
    """The oracle with embeddings that are off by DISTURBANCE of each number."""
    table = oracle.get_input_embeddings().weight.data
    kept = table.clone()
    noise = np.random.default_rng(seed).standard_normal(tuple(table.shape)) * DISTURBANCE
    table.mul_(table.new_tensor(1 + noise))
    try:
        yield
    finally:
        table.copy_(kept)


@contextmanager
def kept_rotation(oracle: Any, compute: Callable[[], object]) -> Iterator[None]:
    """Let the oracle keep the rotation that it has behind `compute`.

    It chooses one anew at every length, we by the prompt's.
    """
    compute()
    changing = [
        each
        for each in oracle.modules()
        if isinstance(kind := getattr(each, "rope_type", None), str)
        and ("dynamic" in kind or "longrope" in kind)
    ]
    kinds = [each.rope_type for each in changing]
    for each in changing:
        each.rope_type = "default"
    try:
        yield
    finally:
        for each, kind in zip(changing, kinds, strict=True):
            each.rope_type = kind
