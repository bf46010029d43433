"""The engine loop: what it reports, what it counts, and what one bad request does to the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from quire.control.plan import Update
from quire.control.request import Request
from quire.control.scheduler import Scheduler
from quire.control.stop import StopRules
from quire.engine import Engine
from quire.errors import QueueFullError, RequestError
from quire.graph.program import StepLimits
from quire.runtime.rope_tables import RopeTables
from quire.runtime.runner import Runner
from quire.sampling.state import SamplingState
from quire.sampling_params import SamplingParams
from tests.engine.driving import Bench, Circumstances, Job, random_model
from tests.models.computing import ISAS, Loaded, bind, kv_cache, need

LLAMA = random_model("LlamaForCausalLM")
GREEDY = SamplingParams(temperature=0.0, max_tokens=6)


class Clock:
    """Time that passes only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make(
    loaded: Loaded = LLAMA,
    clock: Callable[[], float] | None = None,
    num_blocks: int = 32,
    max_num_seqs: int = 4,
    max_queued: int | None = None,
    lookahead: int = 64,
) -> Engine:
    spec, limits = loaded.spec, StepLimits(64, 4)
    ropes = RopeTables(spec.ropes, 64)
    cache = kv_cache(spec, num_blocks=num_blocks)
    executable = bind(loaded, "native-portable", cache, ropes, 1, limits)
    scheduler = Scheduler(
        num_blocks, 16, 64, max_num_seqs, max_queued=max_queued, lookahead_tokens=lookahead
    )
    return Engine(scheduler, Runner(executable, ropes), *([clock] if clock else []))


def submit(
    engine: Engine,
    name: str,
    prompt: list[int] | None = None,
    params: SamplingParams = GREEDY,
    deadline: float | None = None,
    forbidden: tuple[int, ...] = (),
) -> None:
    prompt = prompt or list(range(10, 20))
    assert params.max_tokens is not None
    stop = StopRules(params.max_tokens, params.min_tokens, stop_token_ids=frozenset(forbidden))
    arrival = engine._clock()
    request = Request(name, prompt, stop, arrival=arrival, deadline=deadline)
    engine.submit(request, SamplingState(prompt, params, 1, forbidden))


def finish(engine: Engine) -> dict[str, list[Update]]:
    """Step until nothing is left; the updates of each request."""
    updates: dict[str, list[Update]] = {}
    while engine.has_work:
        assert engine.stats().num_steps < 1000, "it does not end"
        for update in engine.step():
            updates.setdefault(update.request_id, []).append(update)
        engine.scheduler.check()
    assert engine.stats().scheduler.num_used_blocks == 0
    return updates


def tokens(updates: list[Update]) -> list[int]:
    return [token for update in updates for token in update.tokens]


# --- updates


def test_each_step_yields_a_token_of_each_request() -> None:
    engine = make()
    submit(engine, "a")
    submit(engine, "b", list(range(30)))
    for step in range(6):
        updates = engine.step()
        assert [update.request_id for update in updates] == ["a", "b"]
        assert {len(update.tokens) for update in updates} == {1}
        ended = {update.finish_reason for update in updates}
        assert ended == ({"length"} if step == 5 else {None})
    assert not engine.has_work
    assert engine.step() == []


def test_log_probabilities_come_with_their_tokens() -> None:
    engine = make()
    submit(engine, "a", params=replace(GREEDY, logprobs=2, prompt_logprobs=1))
    submit(engine, "b")
    updates = finish(engine)
    first, *others = [update.details for update in updates["a"]]
    assert first.prompt_logprobs is not None and len(first.prompt_logprobs) == 10
    assert first.prompt_logprobs[0] is None and None not in first.prompt_logprobs[1:]
    assert all(details.prompt_logprobs is None for details in others)
    for update in updates["a"]:
        assert update.details.logprobs is not None
        assert [next(iter(entry)) for entry in update.details.logprobs] == list(update.tokens)
    assert all(update.details[:2] == (None, None) for update in updates["b"])


def test_all_probabilities_sum_to_one() -> None:
    params = replace(GREEDY, logprobs=128, prompt_logprobs=128)
    answer = Bench(LLAMA, "native-portable").alone(Job(tuple(range(20)), params, 1))
    assert answer.prompt_logprobs is not None
    entries = [entry for entry in (*answer.prompt_logprobs, *answer.logprobs) if entry]
    assert len(entries) == 19 + 6
    for entry in entries:
        assert len(entry) == 128
        total = sum(np.exp(value.logprob) for value in entry.values())
        assert total == pytest.approx(1, abs=1e-5)
        assert sorted(value.rank for value in entry.values()) == list(range(1, 129))


# --- counts and times


def test_counts() -> None:
    engine = make()
    submit(engine, "a")
    submit(engine, "b", [5] * 30)
    engine.step()
    stats = engine.stats()
    assert (stats.num_steps, stats.num_prompt_tokens, stats.num_generation_tokens) == (1, 40, 2)
    assert stats.step_tokens == 40
    finish(engine)
    stats = engine.stats()
    assert (stats.num_steps, stats.num_prompt_tokens, stats.num_generation_tokens) == (6, 40, 12)
    assert stats.step_tokens == 2


def test_times() -> None:
    clock = Clock()
    engine = make(clock=clock)
    submit(engine, "a", params=replace(GREEDY, max_tokens=2))
    clock.now = 105.0
    (first,) = (update.details for update in engine.step())
    clock.now = 107.0
    (last,) = (update.details for update in engine.step())
    assert first.metrics is not None and last.metrics is not None
    assert (first.metrics.arrival_s, first.metrics.finished_s) == (100.0, 0.0)
    assert (last.metrics.first_scheduled_s, last.metrics.first_token_s) == (105.0, 105.0)
    assert last.metrics.finished_s == engine.stats().heartbeat_s == 107.0


def test_preemptions_are_reported() -> None:
    engine = make(num_blocks=4, lookahead=0)
    for name in ("a", "b"):
        submit(engine, name, list(range(14)), replace(GREEDY, max_tokens=40))
    updates = finish(engine)
    counts = [updates[name][-1].details.metrics.num_preemptions for name in ("a", "b")]  # type: ignore[union-attr]
    assert counts[0] == 0 < counts[1]
    assert engine.stats().scheduler.num_preemptions == sum(counts)
    assert tokens(updates["a"]) == tokens(updates["b"])


# --- ends


def test_a_deadline_ends_a_running_and_a_waiting_request() -> None:
    clock = Clock()
    engine = make(clock=clock, max_num_seqs=1)
    submit(engine, "runs", params=replace(GREEDY, max_tokens=50), deadline=110.0)
    submit(engine, "waits", deadline=105.0)
    submit(engine, "stays")
    engine.step()
    clock.now = 106.0
    ended = [update for update in engine.step() if update.finish_reason]
    assert [(update.request_id, update.finish_reason) for update in ended] == [("waits", "abort")]
    clock.now = 111.0
    updates = finish(engine)
    assert updates["runs"][0].finish_reason == "abort"
    assert len(tokens(updates["stays"])) == 6


def test_cancelling() -> None:
    engine = make(max_num_seqs=1)
    submit(engine, "runs")
    submit(engine, "waits")
    engine.step()
    for name in ("runs", "waits"):
        update = engine.cancel(name, "stop")
        assert update is not None and update.details.metrics is not None
        assert (update.request_id, update.finish_reason) == (name, "stop")
        assert engine.cancel(name) is None
    assert not engine.has_work and engine.step() == []
    engine.scheduler.check()


def test_a_full_queue_refuses() -> None:
    engine = make(max_num_seqs=1, max_queued=2)
    submit(engine, "a")
    submit(engine, "b")
    with pytest.raises(QueueFullError) as caught:
        submit(engine, "c")
    assert caught.value.status == 429
    assert set(finish(engine)) == {"a", "b"}


def test_an_id_in_use_is_refused_and_the_first_goes_on() -> None:
    engine = make()
    submit(engine, "a")
    with pytest.raises(RequestError, match="'a' is in use"):
        submit(engine, "a")
    assert len(tokens(finish(engine)["a"])) == 6


# --- requests that fail


def test_a_request_with_nothing_to_choose_from_fails_alone() -> None:
    engine = make()
    nothing = replace(GREEDY, allowed_token_ids=(7,), min_tokens=3)
    submit(engine, "bad", params=nothing, forbidden=(7,))
    submit(engine, "good")
    updates = finish(engine)
    assert [update.finish_reason for update in updates["bad"]] == ["error"]
    assert tokens(updates["bad"]) == []
    alone = make()
    submit(alone, "good")
    assert tokens(updates["good"]) == tokens(finish(alone)["good"])


def poisoned(loaded: Loaded, token: int) -> Loaded:
    """The model with NaN in the embedding of one token."""
    name = loaded.spec.embedding.weight.name
    weight = loaded.weights[name]
    data = weight.data.copy()
    data[token] = np.nan
    return Loaded(loaded.spec, {**loaded.weights, name: replace(weight, data=data)})  # type: ignore[type-var]


@pytest.mark.parametrize("backend", ISAS)
def test_nan_stays_with_its_request(backend: str) -> None:
    """Beside it in one batch, and after it in the blocks of the cache that it leaves behind."""
    need(backend)
    bench, sick = Bench(LLAMA, backend), Bench(poisoned(LLAMA, 99), backend)
    params = replace(GREEDY, logprobs=3, prompt_logprobs=1)
    good = [Job(tuple(range(10, 10 + n)), params, 1, arrival=n) for n in (3, 17, 33)]
    bad = [Job((*range(20 + n), 99, 5), GREEDY, 1, arrival=n) for n in (0, 3, 18, 30)]
    world = Circumstances(num_blocks=8, token_budget=40)
    run = sick.run(bad + good, world)
    assert [answer.finish_reason for answer in run.answers[:4]] == ["error"] * 4
    assert run.answers[4:] == [bench.alone(job) for job in good]


def test_a_failed_run_ends_its_requests_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make(max_num_seqs=1)
    submit(engine, "a")
    submit(engine, "b")
    with monkeypatch.context() as patch:
        patch.setattr(engine.runner.executable, "run", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.step()
    engine.scheduler.check()
    assert len(tokens(finish(engine)["b"])) == 6


# --- rotations that depend on the length


def test_many_waiting_requests_of_different_rope_classes() -> None:
    """Every one has its own frequencies from the moment it is queued."""
    loaded = random_model(
        "LlamaForCausalLM",
        max_position_embeddings=8,
        rope_scaling={"type": "dynamic", "factor": 8.0},
    )
    bench = Bench(loaded, "native-portable")
    jobs = [Job(tuple(range(n)), GREEDY, 1) for n in range(4, 50)]
    run = bench.run(jobs, Circumstances(max_num_seqs=3))
    assert run.answers == [bench.alone(job) for job in jobs]
