"""Steps launched before the one before them is known: the same outputs, and nobody waits."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from quire.assembly import Assembly
from quire.async_engine import AsyncEngine
from quire.config import EngineConfig
from quire.engine import Engine
from quire.llm import LLM
from quire.sampling_params import SamplingParams, StructuredOutput
from tests.engine.driving import Answer, Bench, Circumstances, Job, random_model
from tests.engine.random_worlds import World, mixed_jobs, mostly_plain
from tests.torch.strict_device import Waits, no_waiting, strict_device

pytestmark = pytest.mark.oracle
torch.set_num_threads(1)

MODELS: dict[str, dict[str, Any]] = {
    "llama": {"architecture": "LlamaForCausalLM", "num_hidden_layers": 1},
    "window": {"architecture": "MistralForCausalLM", "sliding_window": 8, "num_hidden_layers": 1},
}
CROWDED = Circumstances(num_blocks=8, token_budget=24, prefix_caching=True, plans_ahead=True)


class StrictBench(Bench):
    """Its device is one that has streams, and launching for which nobody may wait."""

    def engine(self, world: Circumstances) -> Engine:
        from quire.backends.torch.host_copies import HostCopies

        engine = super().engine(world)
        executable: Any = engine.runner.executable
        executable.device, launch = strict_device(), executable.launch
        executable._copies = HostCopies(executable.device)
        if world.plans_ahead:

            def launched(batch: Any) -> Any:
                executable._copies._side._stream.is_behind = False
                with no_waiting():
                    return launch(batch)

            executable.launch = launched
        return engine


@functools.cache
def prepared(name: str) -> tuple[Bench, list[Job], list[Answer]]:
    """A model, jobs of all kinds, and what each yields alone, a step at a time."""
    bench = StrictBench(random_model(**MODELS[name]), "torch")
    jobs = mostly_plain(mixed_jobs(seed=13, count=40))[30:]
    return bench, jobs, [bench.alone(job) for job in jobs]


@pytest.mark.parametrize("name", MODELS)
def test_every_request_says_what_it_says_alone(name: str) -> None:
    bench, jobs, expected = prepared(name)
    run = bench.run(jobs, CROWDED)
    for found, alone in zip(run.answers, expected, strict=True):
        assert (found.tokens, found.finish_reason) == (alone.tokens, alone.finish_reason)
        assert [list(each) for each in found.logprobs] == [list(each) for each in alone.logprobs]
        assert len(found.prompt_logprobs or ()) == len(alone.prompt_logprobs or ())
    if name == "llama":
        assert run.num_preemptions > 0 and run.num_hit_tokens > 0


def test_under_cancels_and_names_used_again() -> None:
    bench, jobs, expected = prepared("llama")
    engine = bench.engine(CROWDED)
    told = World(bench, engine, jobs, expected, {}, np.random.default_rng(3), 9)
    told.run()
    for number, answer in told.found.items():
        assert answer.tokens == expected[number].tokens[: len(answer.tokens)]
        assert answer.finish_reason in ("abort", expected[number].finish_reason)
    assert told.num_cancelled > 0 and engine.stats().scheduler.num_used_blocks == 0


def test_waiting_is_noticed() -> None:
    tensor = torch.arange(4)
    for read in (
        lambda: tensor.tolist(),
        lambda: int(tensor[0]),
        lambda: bool(tensor[0] > 1),
        lambda: tensor[tensor > 1],
        lambda: torch.nonzero(tensor),
        lambda: torch.repeat_interleave(tensor, tensor),
    ):
        with pytest.raises(Waits), no_waiting():
            read()
    with no_waiting():
        tensor[torch.tensor([1])] = torch.where(tensor > 1, tensor, 0)[2]


def test_what_looks_at_the_last_token_on_the_host_waits_for_it(texts: LLM) -> None:
    prepare = texts._assembly.frontend.prepare
    guided = StructuredOutput(regex="[0-9]{4}")
    for params, waits in (
        (SamplingParams(), False),
        (SamplingParams(repetition_penalty=1.2, frequency_penalty=0.5, min_tokens=3), False),
        (SamplingParams(bad_words=["she"]), True),
        (SamplingParams(structured_outputs=guided), True),
    ):
        request = prepare("Once", params, "a").completions[0].request
        assert request.plan_ahead is not waits


@pytest.fixture(scope="module")
def texts() -> Iterator[LLM]:
    """The demo model on torch."""
    yield LLM("demo", backend="torch", dtype="float32", kv_cache_dtype="float32", threads=1)


def test_texts_end_where_they_end(texts: LLM) -> None:
    """Stop strings, several completions, penalties, grammars; usage is counted alike."""
    prompts = ["Once upon a time", "The little dog", "One day", "Lily"]
    params = [
        SamplingParams(temperature=0.0, max_tokens=24, stop=["and", "the", "."]),
        SamplingParams(temperature=0.9, seed=4, n=3, max_tokens=16, stop=["a "], logprobs=1),
        SamplingParams(temperature=0.8, seed=2, max_tokens=20, repetition_penalty=1.3),
        SamplingParams(temperature=0.8, seed=3, max_tokens=9, bad_words=["she", "was"]),
    ]
    guided = SamplingParams(
        temperature=0.0, max_tokens=8, structured_outputs=StructuredOutput(regex="[0-9]{4}")
    )
    found = []
    for ahead in (False, True):
        texts._engine.plans_ahead = ahead
        outputs = texts.generate(prompts, params, use_tqdm=False)
        outputs += texts.generate(["Count:"], guided, use_tqdm=False)
        outputs += texts.generate(prompts[:1], params[0], use_tqdm=False)  # ends unforeseen
        found.append(
            [
                [(c.text, c.token_ids, c.finish_reason, c.stop_reason) for c in each.outputs]
                for each in outputs
            ]
        )
        stats = texts._engine.stats()
        assert not texts._engine.has_work and stats.scheduler.num_used_blocks == 0
    assert found[0] == found[1]
    assert "stop" in {reason for each in found[0] for _, _, reason, _ in each}


def test_streams_end_cleanly() -> None:
    """In a server: clients that hang up, deadlines, and a shutdown that waits."""
    config = EngineConfig(
        "demo", backend="torch", dtype="float32", kv_cache_dtype="float32", threads=1
    )
    assembly = Assembly(config)
    assembly.engine.plans_ahead = True

    async def serve() -> list[str | None]:
        engine = AsyncEngine(assembly)
        params = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True)
        streams = [engine.submit("Once upon a time", params) for _ in range(3)]
        late = engine.submit("One day", params, timeout_s=0.05)

        async def read(stream: Any, hang_up: bool) -> str | None:
            reason = None
            async for delta in stream:
                reason = delta.finish_reason
                if hang_up:
                    stream.cancel()
            return reason

        ends = await asyncio.gather(
            *(read(each, place == 1) for place, each in enumerate(streams)), read(late, False)
        )
        await engine.shutdown()
        assert engine.error is None
        return ends

    ends = asyncio.run(serve())
    assert ends[:3] == ["length", "abort", "length"]
    assert ends[3] in ("abort", "length")
    while assembly.engine.has_work:
        assembly.engine.step()
    assert assembly.engine.stats().scheduler.num_used_blocks == 0
