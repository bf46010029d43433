"""A step that is planned while the one before it runs changes nothing that a request is told."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from quire.engine import Engine
from quire.sampling_params import SamplingParams
from tests.engine.driving import Answer, Bench, Circumstances, Job, Run, random_model
from tests.engine.late_device import LateDevice
from tests.engine.random_worlds import World, cut, mixed_jobs, mostly_plain

WORLDS = {
    "roomy": Circumstances(plans_ahead=True),
    "crowded": Circumstances(num_blocks=9, token_budget=24, prefix_caching=True, plans_ahead=True),
    "one by one": Circumstances(max_num_seqs=1, plans_ahead=True),
    "whole prompts": Circumstances(chunked_prefill=False, num_blocks=12, plans_ahead=True),
}
MODELS = {
    "llama": {"architecture": "LlamaForCausalLM"},
    "window": {"architecture": "MistralForCausalLM", "sliding_window": 8},
    "delta nets": {
        "architecture": "Qwen3_5ForCausalLM",
        "num_hidden_layers": 2,
        "layer_types": ["linear_attention", "full_attention"],
    },
}


class LateBench(Bench):
    """Engines whose device runs behind."""

    device: LateDevice

    def engine(self, world: Circumstances) -> Engine:
        engine = super().engine(world)
        if world.plans_ahead:
            self.device = LateDevice(engine.runner.executable)
            engine.runner.executable = self.device
        return engine


@functools.cache
def prepared(name: str) -> tuple[LateBench, list[Job], list[Answer]]:
    """A model, jobs of all kinds, and what each yields alone, a step at a time."""
    changes: dict[str, Any] = {"num_hidden_layers": 1, **MODELS[name]}
    bench = LateBench(random_model(**changes), "native-portable")
    jobs = mostly_plain(mixed_jobs(seed=11, count=40))
    return bench, jobs, [bench.alone(job) for job in jobs]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("world", WORLDS)
def test_every_request_says_what_it_says_alone(name: str, world: str) -> None:
    """Tokens, log-probabilities of output and prompt, and ends, to the last bit."""
    bench, jobs, expected = prepared(name)
    run: Run = bench.run(jobs, WORLDS[world])
    assert run.answers == expected
    assert bench.device.num_filled > len(jobs)
    if world == "crowded" and name != "window":
        assert run.num_preemptions > 0 and run.num_hit_tokens > 0


@pytest.mark.parametrize("name", ["llama", "delta nets"])
@pytest.mark.parametrize("world", ["roomy", "crowded"])
def test_under_cancels_and_names_used_again(world: str, name: str) -> None:
    bench, jobs, expected = prepared(name)
    engine, by_name = bench.engine(WORLDS[world]), dict[int, Answer]()
    told = World(bench, engine, jobs, expected, by_name, np.random.default_rng(3), 9)
    told.run()
    assert len(told.found) == len(jobs) and told.num_cancelled > 0
    for number, answer in told.found.items():
        alone = expected[number]
        if answer.finish_reason == "abort":
            alone = cut(alone, len(answer.tokens))
        assert answer == alone, jobs[number]
    stats = engine.stats().scheduler
    assert (stats.num_used_blocks, stats.num_running, stats.num_waiting) == (0, 0, 0)


def test_a_step_ahead_costs_no_further_steps() -> None:
    """But the one behind the last, whose tokens are dropped or which is not there at all."""
    bench, _, _ = prepared("llama")
    job = Job(tuple(range(5)), SamplingParams(temperature=0.0, max_tokens=10), seed=1)
    ahead, alone = (bench.run([job], replace(WORLDS["roomy"], plans_ahead=on)) for on in (1, 0))
    assert ahead.num_steps == alone.num_steps + 1
    assert bench.device.num_filled == 9


def test_a_grammar_is_told_every_token_before_the_next_is_planned() -> None:
    bench, jobs, expected = prepared("llama")
    place = next(place for place, job in enumerate(jobs) if job.grammar is not None)
    run = bench.run([jobs[place]], WORLDS["roomy"])
    assert run.answers == [expected[place]]
    assert bench.device.num_filled == 0


def test_a_device_that_fails_ends_the_requests_on_their_way(monkeypatch: Any) -> None:
    """And the engine goes on with others."""
    bench, jobs, expected = prepared("llama")
    engine, run = bench.engine(WORLDS["roomy"]), bench.device.inner.run
    plain = [place for place, job in enumerate(jobs) if job.grammar is None]
    first, second = [place for place in plain if len(expected[place].tokens) > 6][:2]
    bench.submit(engine, "first", jobs[first])
    engine.step()
    engine.step()

    def failing(batch: Any) -> Any:
        raise RuntimeError("the device is lost")

    monkeypatch.setattr(bench.device.inner, "run", failing)
    with pytest.raises(RuntimeError, match="lost"):
        for _ in range(3):
            engine.step()
    assert not engine.has_work and engine.stats().scheduler.num_used_blocks == 0
    monkeypatch.setattr(bench.device.inner, "run", run)
    bench.device._queue.clear()
    bench.submit(engine, "second", jobs[second])
    answer = Answer()
    while engine.has_work:
        for update in engine.step():
            answer.add(update)
    assert answer == expected[second]


def test_a_request_cancelled_in_flight_leaves_nothing_to_its_name() -> None:
    """Its prompt's log-probabilities are not those of the next request of that name."""
    bench, _, _ = prepared("llama")
    engine = bench.engine(WORLDS["roomy"])
    params = SamplingParams(temperature=0.0, max_tokens=4, prompt_logprobs=1)
    jobs = [Job(tuple(range(start, start + 9)), params, seed=1) for start in (0, 20)]
    bench.submit(engine, "a", jobs[0])
    engine.step()
    assert engine.cancel("a") is not None
    bench.submit(engine, "a", replace(jobs[1], params=replace(params, prompt_logprobs=None)))
    answer = Answer()
    while engine.has_work:
        for update in engine.step():
            answer.add(update)
    assert answer.prompt_logprobs is None and len(answer.tokens) == 4
