"""Slots, rows and shapes that last between steps never show one request what another one left.

A world of random arrivals, cancels, preemptions and guesses on few slots, in which the names of
requests are used again at once.  Each request says what it says alone, as far as it comes.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest

from tests.engine.driving import Answer, Bench, Circumstances, Job, random_model
from tests.engine.forced_guesses import Forced
from tests.engine.random_worlds import VOCABULARY, World, cut, mixed_jobs

WORLDS = {
    "crowded": Circumstances(num_blocks=9, token_budget=24, prefix_caching=True),
    "roomy": Circumstances(num_blocks=40, token_budget=300),
    "one by one": Circumstances(max_num_seqs=1),
}
NUM_JOBS = {"native-portable": 48, "reference": 16, "torch": 8}


@functools.cache
def prepared(backend: str) -> tuple[Bench, list[Job], list[Answer]]:
    """A model, jobs, and what each yields alone."""
    bench = Bench(random_model("LlamaForCausalLM", num_hidden_layers=1), backend)
    jobs = mixed_jobs(seed=5, count=NUM_JOBS[backend])
    return bench, jobs, [bench.alone(job) for job in jobs]


@pytest.mark.parametrize("guesses", [False, True], ids=["plain", "guesses"])
@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("backend", NUM_JOBS)
def test_a_request_says_what_it_says_alone(backend: str, name: str, guesses: bool) -> None:
    bench, jobs, expected = prepared(backend)
    circumstances, by_name = WORLDS[name], dict[int, Answer]()
    if guesses:
        circumstances = replace(circumstances, drafter=lambda: Forced(by_name, 0.3, VOCABULARY))
    engine = bench.engine(circumstances)
    most_live = 1 if name == "one by one" else 9
    world = World(bench, engine, jobs, expected, by_name, np.random.default_rng(8), most_live)
    world.run()
    assert len(world.found) == len(jobs)
    for number, answer in world.found.items():
        alone = expected[number]
        if answer.finish_reason == "abort":
            alone = cut(alone, len(answer.tokens))
        assert answer.tokens == alone.tokens, jobs[number]
        assert answer == alone or not backend.startswith("native"), jobs[
            number
        ]  # others round freely
    assert world.num_cancelled > 0
    if name == "crowded":
        assert engine.stats().scheduler.num_preemptions > 0
