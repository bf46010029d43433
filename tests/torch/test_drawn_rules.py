"""What a captured step draws, from rules at fixed places, is what is drawn outside, bit for bit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from quire.backends.torch.devices import find_device
from quire.backends.torch.drawn_rules import MOST_BIASES, MOST_TOLD, RulesBuffer
from quire.backends.torch.sampling.sampler import sampler_of
from quire.sampling.state import SampleRow, SamplingState
from quire.sampling_params import SamplingParams
from tests.native.sampled_rows import row
from tests.torch.drawn_worlds import live

pytestmark = pytest.mark.oracle

CPU = find_device("cpu")


@pytest.mark.parametrize("seed", range(4))
def test_requests_that_come_and_go(seed: int) -> None:
    assert live(CPU, seed, 60) > 30


def has_room(rows: list[SampleRow], slots: list[int], num_tokens: int = 2) -> bool:
    buffer = RulesBuffer(4, 600, sampler_of(CPU), torch.device("cpu"))
    at = np.arange(len(rows))
    batch: Any = SimpleNamespace(num_tokens=num_tokens, slots=np.array(slots), logit_rows=at)
    return buffer.has_room(batch, rows)


def test_what_stays_outside() -> None:
    plain, penalized = row(), row(output=[1], presence_penalty=1.0)
    assert has_room([plain, penalized], [0, 1]) and has_room([plain, plain], [0, 0])
    assert not has_room([penalized, penalized], [0, 0])  # guesses: each has said something else
    assert not has_room([plain], [0], num_tokens=5)
    assert not has_room([row(prompt=[1, 2], target=2, prompt_logprobs=1)], [0])
    for most, wanted in ((MOST_TOLD, {"logprobs": MOST_TOLD}), (MOST_BIASES, {})):
        for more in (0, 1):
            bias = {} if wanted else dict.fromkeys(range(most + more), 1.0)
            params = SamplingParams(logprobs=most + more if wanted else None, logit_bias=bias)
            one = SampleRow(SamplingState([1], params, 0), np.zeros(0, np.int32))
            assert has_room([one], [0]) is not bool(more)
