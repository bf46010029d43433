"""The engine in its thread: streams, cancellation, limits, death and shutdown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from quire.assembly import Assembly
from quire.async_engine import AsyncEngine, RequestStream
from quire.config import EngineConfig
from quire.errors import EngineError, QueueFullError, RequestError
from quire.llm import LLM
from quire.outputs import CompletionOutput, Delta
from quire.sampling_params import SamplingParams, StructuredOutput
from tests.engine.conftest import SMALL

PROMPT = "In the beginning"
LONG = SamplingParams(temperature=0.0, max_tokens=200, ignore_eos=True)
SHORT = SamplingParams(temperature=0.0, max_tokens=20)


@pytest_asyncio.fixture
async def engine(assembly: Assembly) -> AsyncIterator[AsyncEngine]:
    """A running engine; unless it died, nothing may be left when it stops."""
    running = AsyncEngine(assembly)
    yield running
    await running.shutdown(drain=False)
    assert not running._thread.is_alive()
    if running.error is None:
        assert_clean(running)


def assert_clean(engine: AsyncEngine) -> None:
    scheduler = engine._assembly.engine.scheduler
    scheduler.check()
    assert not scheduler.has_work
    assert scheduler.stats().num_used_blocks == 0


async def collect(stream: RequestStream) -> list[CompletionOutput]:
    """The completions of a stream, from its deltas."""
    outputs: dict[int, CompletionOutput] = {}
    async for delta in stream:
        outputs.setdefault(delta.index, CompletionOutput(delta.index)).add(delta)
    return [outputs[index] for index in sorted(outputs)]


async def take(stream: RequestStream, count: int) -> list[Delta]:
    """The first deltas of a stream; iteration may go on later."""
    iterator = aiter(stream)
    return [await anext(iterator) for _ in range(count)]


async def until(condition: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        await asyncio.sleep(0.002)


# --- streams


async def test_deltas_add_up_to_the_output_of_the_blocking_api(
    engine: AsyncEngine, llm: LLM
) -> None:
    prompts: Sequence[Any] = [PROMPT, "道可道", [5, 6, 7], "A"]
    params = SamplingParams(temperature=1.0, seed=3, max_tokens=25, logprobs=1, n=2)
    expected = llm.generate(prompts, params, use_tqdm=False)
    streams = [engine.submit(prompt, params) for prompt in prompts]
    found = await asyncio.gather(*map(collect, streams))
    assert found == [output.outputs for output in expected]


async def test_tokens_come_one_by_one(engine: AsyncEngine) -> None:
    deltas = [delta async for delta in engine.submit(PROMPT, SHORT)]
    assert [len(delta.token_ids) for delta in deltas] == [1] * 20
    assert [delta.finish_reason for delta in deltas] == [None] * 19 + ["length"]
    assert deltas[-1].metrics is not None and deltas[-1].metrics.finished_s > 0


async def test_prompt_log_probabilities_come_first(engine: AsyncEngine) -> None:
    params = SamplingParams(max_tokens=3, prompt_logprobs=1, temperature=0)
    stream = engine.submit(PROMPT, params)
    first, *others = [delta async for delta in stream]
    assert first.prompt_logprobs is not None
    assert len(first.prompt_logprobs) == len(stream.prompt_token_ids)
    texts = [
        [entry.decoded_token for entry in entries.values()]
        for entries in first.prompt_logprobs
        if entries
    ]
    assert all(text for row in texts for text in row)
    assert all(delta.prompt_logprobs is None for delta in others)


async def test_a_stop_string_ends_the_run_as_well(engine: AsyncEngine) -> None:
    (whole,) = await collect(engine.submit(PROMPT, LONG))
    stop = whole.text[20:26]
    params = SamplingParams(temperature=0.0, max_tokens=200, ignore_eos=True, stop=stop)
    before = engine.stats().num_generation_tokens
    (output,) = await collect(engine.submit(PROMPT, params))
    assert output.text == whole.text[: whole.text.index(stop)]
    assert (output.finish_reason, output.stop_reason) == ("stop", stop)
    await until(lambda: engine.stats().scheduler.num_running == 0)
    await until(lambda: not engine._streams)
    assert engine.stats().num_generation_tokens - before < params.max_tokens


async def test_the_prefix_cache_is_shared_unless_salted(engine: AsyncEngine) -> None:
    async def cached(salt: str) -> int:
        stream = engine.submit([9] * 40, SHORT, cache_salt=salt)
        return [delta async for delta in stream][-1].num_cached_tokens

    assert [await cached(salt) for salt in ("", "", "a", "a", "")] == [0, 32, 0, 32, 32]


async def test_priority_decides_who_runs_first() -> None:
    config = EngineConfig("demo", **{**SMALL, "max_num_seqs": 1}, scheduling_policy="priority")
    engine = AsyncEngine.from_config(config)
    order: list[str] = []

    async def run(name: str, priority: int) -> None:
        await collect(engine.submit(PROMPT, SHORT, request_id=name, priority=priority))
        order.append(name)

    blocker = asyncio.create_task(collect(engine.submit(PROMPT, LONG, priority=-9)))
    await asyncio.sleep(0)
    await asyncio.gather(run("late", 5), run("soon", 1), run("never mind", 9), blocker)
    assert order == ["soon", "late", "never mind"]
    await engine.shutdown()


# --- cancellation and deadlines


async def test_cancelling_in_the_middle_leaks_nothing(engine: AsyncEngine) -> None:
    stream = engine.submit(PROMPT, LONG)
    await take(stream, 5)
    stream.cancel()
    deltas = [delta async for delta in stream]
    assert deltas[-1].finish_reason == "abort"
    await until(lambda: engine.stats().scheduler.num_used_blocks == 0)
    assert_clean(engine)


async def test_cancelling_many_at_random_moments(engine: AsyncEngine) -> None:
    async def run(index: int) -> str | None:
        params = SamplingParams(max_tokens=60, seed=index, n=1 + index % 3, ignore_eos=True)
        stream = engine.submit(PROMPT, params)
        if index % 2:
            await asyncio.sleep(0.003 * index)
            stream.cancel()
        return (await collect(stream))[-1].finish_reason

    reasons = await asyncio.gather(*map(run, range(24)))
    assert set(reasons[::2]) == {"length"}
    assert "abort" in reasons[1::2]
    await until(lambda: engine.stats().scheduler.num_used_blocks == 0)
    assert_clean(engine)


async def test_cancelling_before_the_first_token_and_twice(engine: AsyncEngine) -> None:
    stream = engine.submit(PROMPT, LONG)
    stream.cancel()
    stream.cancel()
    (output,) = await collect(stream)
    assert output.finish_reason == "abort"
    stream.cancel()


async def test_a_deadline(engine: AsyncEngine) -> None:
    engine._assembly.engine.runner.run = slowed(engine, 0.02)  # type: ignore[method-assign]
    (output,) = await collect(engine.submit(PROMPT, LONG, timeout_s=0.3))
    assert output.finish_reason == "abort"
    assert len(output.token_ids) < 200


def slowed(engine: AsyncEngine, seconds: float) -> Any:
    run = engine._assembly.engine.runner.run

    def slow(plan: Any) -> Any:
        time.sleep(seconds)
        return run(plan)

    return slow


# --- refusals


@pytest.mark.parametrize(
    ("prompt", "params", "param"),
    [
        ("", SHORT, "prompt"),
        ([1] * 300, SHORT, "prompt"),
        ([6000], SHORT, "prompt"),
        (PROMPT, SamplingParams(stop_token_ids=(6000,)), "stop_token_ids"),
        (PROMPT, SamplingParams(structured_outputs=StructuredOutput(regex="(")), None),
    ],
    ids=["empty", "long", "unknown token", "unknown stop token", "grammar"],
)
async def test_bad_requests_are_refused_at_once(
    engine: AsyncEngine, prompt: Any, params: SamplingParams, param: str | None
) -> None:
    with pytest.raises(RequestError) as caught:
        engine.submit(prompt, params)
    assert caught.value.param == (param or "structured_outputs")
    assert not engine._streams


async def test_slow_demands_hold_up_nobody(engine: AsyncEngine) -> None:
    """They are made ready once, off the event loop, for all completions."""
    words = tuple(f"word {number}" for number in range(300))
    fields = {f"f{number}": {"type": "string", "pattern": "^[a-z]{1,50}$"} for number in range(300)}
    form = StructuredOutput(json={"type": "object", "properties": fields})
    params = SamplingParams(n=32, max_tokens=1, structured_outputs=form, bad_words=words)
    started = time.perf_counter()
    warming, ticks = asyncio.ensure_future(engine.warm(params)), 0
    while not warming.done():
        await asyncio.sleep(0.001)
        ticks += 1
    warming_s, before = time.perf_counter() - started, time.thread_time()
    outputs = engine.submit(PROMPT, params)
    assert ticks > 10
    assert time.thread_time() - before < warming_s
    assert len(await collect(outputs)) == 32


async def test_a_full_queue_says_when_to_come_again() -> None:
    options = {**SMALL, "max_num_queued_reqs": 3, "max_num_seqs": 1}
    engine = AsyncEngine.from_config(EngineConfig("demo", **options))
    engine._assembly.engine.runner.run = slowed(engine, 0.02)  # type: ignore[method-assign]
    running = engine.submit(PROMPT, LONG)
    await take(running, 1)
    streams = [engine.submit(PROMPT, SHORT) for _ in range(3)]
    with pytest.raises(QueueFullError) as caught:
        engine.submit(PROMPT, SHORT)
    assert (caught.value.status, caught.value.retry_after_s >= 1) == (429, True)
    with pytest.raises(QueueFullError):
        engine.submit(PROMPT, SamplingParams(n=2))
    running.cancel()
    del engine._assembly.engine.runner.run
    await asyncio.gather(*map(collect, streams))
    await engine.shutdown()
    assert_clean(engine)


async def test_what_is_on_its_way_in_counts_as_waiting() -> None:
    options = {**SMALL, "max_num_queued_reqs": 3}
    engine = AsyncEngine.from_config(EngineConfig("demo", **options))
    two, three = replace(SHORT, n=2), replace(SHORT, n=3)
    with engine._work:  # its thread takes nothing in
        stream = engine.submit(PROMPT, two)
        with pytest.raises(QueueFullError):
            engine.submit(PROMPT, two)
    assert len(await collect(stream)) == 2
    assert len(await collect(engine.submit(PROMPT, three))) == 3
    await engine.shutdown()
    assert_clean(engine)


async def test_a_request_id_in_use_is_refused_and_the_first_goes_on(engine: AsyncEngine) -> None:
    first = engine.submit(PROMPT, SHORT, request_id="twin")
    with pytest.raises(RequestError) as caught:
        engine.submit(PROMPT, SHORT, request_id="twin")
    assert caught.value.param == "request_id"
    (output,) = await collect(first)
    assert len(output.token_ids) == 20
    (again,) = await collect(engine.submit(PROMPT, SHORT, request_id="twin"))
    assert again == output


async def test_a_bug_in_one_text_costs_no_other(engine: AsyncEngine) -> None:
    class Broken:
        def push(self, *_: object) -> Delta:
            raise ZeroDivisionError

    expected = await collect(engine.submit(PROMPT, SHORT))
    for limit in (1, 20):  # the bug comes with the last token, or before
        params = replace(SHORT, n=2, max_tokens=limit)
        broken, other = engine.submit(PROMPT, params), engine.submit(PROMPT, SHORT)
        next(iter(broken.unfinished.values())).assembler = Broken()  # type: ignore[assignment]
        both = asyncio.gather(collect(broken), collect(other), return_exceptions=True)
        found = await asyncio.wait_for(both, 20)
        assert isinstance(found[0], EngineError)
        assert isinstance(found[0].__cause__, ZeroDivisionError)
        assert found[1] == expected
        await until(lambda: not engine._streams)


# --- receivers


async def test_a_receiver_is_told_what_iteration_yields(engine: AsyncEngine) -> None:
    params = SamplingParams(temperature=1.0, seed=3, max_tokens=25, n=2)
    expected = await collect(engine.submit(PROMPT, params))
    outputs = [CompletionOutput(0), CompletionOutput(1)]

    def receive(delta: Any) -> None:
        outputs[delta.index].add(delta)

    stream = engine.submit(PROMPT, params, receive=receive)
    await until(lambda: not stream.unfinished)
    assert outputs == expected


async def test_a_receiver_that_fails_costs_no_other(engine: AsyncEngine) -> None:
    expected = await collect(engine.submit(PROMPT, SHORT))
    told: list[Any] = []

    def receive(item: Any) -> None:
        told.append(item)
        if isinstance(item, Delta):
            raise ZeroDivisionError

    engine.submit(PROMPT, SHORT, receive=receive)
    assert await collect(engine.submit(PROMPT, SHORT)) == expected
    assert [type(item) for item in told] == [Delta, EngineError]
    await until(lambda: not engine._streams)


# --- death


async def test_death_tells_its_cause_to_everyone(engine: AsyncEngine) -> None:
    streams = [engine.submit(PROMPT, LONG) for _ in range(3)]
    await take(streams[0], 2)
    cause = ZeroDivisionError("the kernel tripped")

    def die(plan: Any) -> None:
        raise cause

    engine._assembly.engine.runner.run = die  # type: ignore[method-assign]
    for stream in streams:
        with pytest.raises(EngineError, match="ZeroDivisionError: the kernel tripped") as caught:
            await collect(stream)
        assert caught.value.__cause__ is cause
    assert engine.error is cause
    with pytest.raises(EngineError, match="the kernel tripped") as caught:
        engine.submit(PROMPT, SHORT)
    assert caught.value.__cause__ is cause
    await engine.shutdown()


# --- shutdown


async def test_shutdown_lets_requests_finish(assembly: Assembly) -> None:
    engine = AsyncEngine(assembly)
    stream = engine.submit(PROMPT, SHORT)
    stopping = asyncio.create_task(engine.shutdown())
    await asyncio.sleep(0)
    with pytest.raises(QueueFullError) as caught:
        engine.submit(PROMPT, SHORT)
    assert caught.value.status == 503
    (output,) = await collect(stream)
    assert (len(output.token_ids), output.finish_reason) == (20, "length")
    await stopping
    assert_clean(engine)


@pytest.mark.parametrize("drain", [False, True])
async def test_shutdown_aborts_what_does_not_finish(assembly: Assembly, drain: bool) -> None:
    engine = AsyncEngine(assembly)
    engine._assembly.engine.runner.run = slowed(engine, 0.02)  # type: ignore[method-assign]
    stream = engine.submit(PROMPT, LONG)
    await engine.shutdown(drain, timeout_s=0.2)
    (output,) = await collect(stream)
    assert output.finish_reason == "abort"
    assert_clean(engine)


async def test_an_idle_engine_stops_at_once(assembly: Assembly) -> None:
    engine = AsyncEngine(assembly)
    started = time.monotonic()
    await engine.shutdown()
    assert time.monotonic() - started < 60
    assert not engine._thread.is_alive()


async def test_what_it_tells_about_itself(engine: AsyncEngine) -> None:
    assert engine.config.model == engine.info.name == "demo"
    assert engine.tokenizer.vocab_size == engine.info.vocab_size
    assert engine.default_sampling["top_k"] == 40
    await collect(engine.submit(PROMPT, SHORT))
    assert engine.stats().num_generation_tokens == 20
