"""Steps that draw for requests which come, go, are run elsewhere and run again, at fixed places."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from quire.backends.torch.devices import Device
from quire.backends.torch.drawn_rules import MOST_TOLD, DrawnRules, RulesBuffer
from quire.backends.torch.host_copies import HostCopies
from quire.backends.torch.sampling.rows import DrawnRows, draw_rows
from quire.backends.torch.sampling.sampler import sampler_of
from quire.control.plan import UNKNOWN_TOKEN
from quire.sampling.state import SampledRows, SampleRow, SamplingState
from quire.sampling_params import SamplingParams
from tests.torch.strict_device import no_waiting

VOCABULARY = 40
NUM_SLOTS, MOST_ROWS = 8, 4


@dataclass
class Life:
    """A request, and what it said so far."""

    state: SamplingState
    output: list[int]

    def row(self, is_known: bool) -> SampleRow:
        output = np.array(self.output, np.int32)
        if not is_known and len(output) and not len(self.state.bad_words):
            output[-1] = UNKNOWN_TOKEN
        return SampleRow(self.state, output)


def live(device: Device, seed: int, num_steps: int) -> int:
    """Every step draws and tells what the same rows are given outside; how many changed logits."""
    random, sampler = np.random.default_rng(seed), sampler_of(device)
    buffer = RulesBuffer(MOST_ROWS, VOCABULARY, sampler, torch.device("cpu"))
    lives = [born(random) for _ in range(NUM_SLOTS)]
    num_changed = 0
    for _ in range(num_steps):
        slots = random.permutation(NUM_SLOTS)[: random.integers(1, MOST_ROWS)]
        rows = [lives[slot].row(random.random() < 0.5) for slot in slots]
        before = [([0, *lives[slot].output])[-1] for slot in slots]
        logits = torch.from_numpy(random.standard_normal((4, VOCABULARY)).astype(np.float32) * 3)
        order = sampler.order(rows)
        num_changed += order.changes
        expected = outside(device, logits[: len(rows)], rows, before)
        assert inside(buffer, device, logits, slots, rows, before) == expected
        for slot, token in zip(slots, expected.tokens, strict=True):
            if random.random() < 0.8:  # else it is run again
                lives[slot].output.append(token)
        for slot, each in enumerate(lives):
            if random.random() < 0.2:  # in steps that count nothing
                each.output += random.integers(0, VOCABULARY, 2).tolist()
            if random.random() < 0.1:
                lives[slot] = born(random)
                buffer.forget(slot)
    return num_changed


def born(random: np.random.Generator) -> Life:
    """A request that wants one thing or another."""

    def ids(count: int) -> list[int]:
        return random.integers(0, VOCABULARY + 3, count).tolist()

    wants: list[dict[str, Any]] = [
        {},
        {"repetition_penalty": 1.3, "frequency_penalty": -0.4},
        {"presence_penalty": 0.7, "logprobs": 2},
        {"logit_bias": dict(zip(ids(4), (3.0, -2.0, 0.5, 9.0), strict=True)), "top_p": 0.9},
        {"allowed_token_ids": ids(9), "logprobs": 0, "temperature": 0.0},
        {"min_tokens": 3, "repetition_penalty": 0.8, "top_k": 9},
    ]
    params = SamplingParams(**wants[random.integers(len(wants))], max_tokens=99)
    words = [[token] for token in ids(3)] if random.random() < 0.3 else []
    state = SamplingState(ids(5), params, int(random.integers(99)), ids(2), words)
    if random.random() < 0.2:
        state.mask = random.integers(-(2**31), 2**31, 2, np.int64).astype(np.int32)
    return Life(state, ids(int(random.integers(3))))


def outside(
    device: Device, logits: torch.Tensor, rows: list[SampleRow], before: list[int]
) -> SampledRows:
    return draw_rows(logits, rows, torch.tensor(before), device).on_host(HostCopies(device))


def inside(
    buffer: RulesBuffer,
    device: Device,
    logits: torch.Tensor,
    slots: np.ndarray,
    rows: list[SampleRow],
    before: list[int],
) -> SampledRows:
    """As a captured step of four tokens does it."""
    sampler, size = sampler_of(device), len(logits)
    padding = [-1] * (size - len(rows))
    batch: Any = SimpleNamespace(
        num_tokens=size, slots=np.array([*slots, *padding]), logit_rows=np.arange(len(rows))
    )
    order = sampler.order(rows)
    last, is_plain = torch.tensor([*before, *padding]), device.triton_architecture is None
    with no_waiting() if is_plain else nullcontext():  # the interpreter reads what kernels read
        rules, changed = DrawnRules(buffer.fill(batch, rows, order.changes).clone(), size), logits
        if order.changes:
            buffer.count(last, rules)
            changed = sampler.change(logits, buffer.changes(rules))
        tokens = sampler.draw(changed, rules.draws, order.kind)
        listed = sampler.describe(logits, tokens, rules.told, 1 + MOST_TOLD)
    told = [place for place, row in enumerate(rows) if row.num_logprobs >= 0]
    counts = [rows[place].num_logprobs for place in told]
    found = tuple(each[told] for each in listed) if told else None
    return DrawnRows(tokens[: len(rows)], told, counts, found).on_host(HostCopies(device))
