"""Every registered family: what a request yields alone, it yields in any circumstances.

A family is tested here by being registered, with its tiny config; test_invariance.py is thorough.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest

from quire.models.registry import load_families
from tests.engine.driving import Answer, Bench, Circumstances, Job, random_jobs, random_model

BUILDERS = {family.build: name for name, family in reversed(load_families().items())}
FAMILIES = sorted(BUILDERS.values())
COUNT = 6

WORLDS = {
    "in a batch": Circumstances(token_budget=400, threads=2),
    "in chunks": Circumstances(token_budget=17, logit_rows=4),
    "preempted": Circumstances(num_blocks=6, token_budget=64, prefix_caching=True),
}


@functools.cache
def bench(name: str, quantization: str) -> Bench:
    return Bench(random_model(name, quantization=quantization), "native-auto")


@functools.cache
def jobs_and_answers(name: str, quantization: str) -> tuple[list[Job], list[Answer]]:
    """Random jobs that go on for 24 tokens, and what each yields alone."""
    jobs = [
        replace(job, params=replace(job.params, max_tokens=24, min_tokens=24))
        for job in random_jobs(seed=11, count=COUNT)
    ]
    return jobs, [bench(name, quantization).alone(job) for job in jobs]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("quantization", ["auto", "int4"])
@pytest.mark.parametrize("name", FAMILIES)
def test_alone_or_not(name: str, quantization: str, world: str) -> None:
    jobs, expected = jobs_and_answers(name, quantization)
    run = bench(name, quantization).run(jobs, WORLDS[world])
    assert run.answers == expected
    everywhere_windows = bench(name, quantization).loaded.spec.window is not None
    if world == "preempted" and not everywhere_windows:
        assert run.num_preemptions > 0
    assert len({tuple(answer.tokens) for answer in expected}) == COUNT, "prompts must matter"
