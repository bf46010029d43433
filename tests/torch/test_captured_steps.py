"""What is captured and replayed gives what running it gives, and padding changes nothing."""

from __future__ import annotations

import functools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from quire.backends.torch.calls import Call
from quire.backends.torch.captured_steps import CapturedSteps
from quire.backends.torch.devices import find_device
from quire.backends.torch.executable import TorchExecutable
from quire.backends.torch.graph_memory import GraphMemory
from quire.backends.torch.padding import SIZES, idle, one_by_one, padded, size_for
from quire.backends.torch.sampling.rows import draw_rows
from quire.backends.torch.sampling.sampler import sampler_of
from quire.backends.torch.step import Step
from quire.engine import Engine
from quire.ops.batch import Batch
from quire.ops.recurrent_state import RecurrentStates
from quire.runtime.rope_tables import RopeTables
from quire.sampling.state import SampleRow, SamplingState
from quire.sampling_params import SamplingParams
from tests.engine.driving import Answer, Bench, Circumstances, Job, random_model
from tests.engine.random_worlds import World, mixed_jobs, mostly_plain
from tests.torch.strict_device import Recordings, Waits, no_waiting, strict_device
from tests.torch.test_engine import expect_same

pytestmark = pytest.mark.oracle
torch.set_num_threads(1)

MODELS: dict[str, dict[str, Any]] = {
    "llama": {"architecture": "LlamaForCausalLM"},
    "window": {"architecture": "MistralForCausalLM", "sliding_window": 8},
    "latents": {"architecture": "DeepseekV2ForCausalLM"},
    "experts": {"architecture": "Qwen3MoeForCausalLM"},
    "softcaps": {"architecture": "Gemma2ForCausalLM"},
    "integers": {"architecture": "Qwen2ForCausalLM", "quantization": "int8"},
    "delta nets": {
        "architecture": "Qwen3_5ForCausalLM",
        "num_hidden_layers": 2,
        "layer_types": ["linear_attention", "full_attention"],
    },
    "mamba": {
        "architecture": "GraniteMoeHybridForCausalLM",
        "num_hidden_layers": 2,
        "layer_types": ["mamba", "attention"],
    },
}
CPU = find_device("cpu")
NOTHING = torch.zeros(1, dtype=torch.int64)
CROWDED = Circumstances(num_blocks=9, token_budget=24, prefix_caching=True, plans_ahead=True)


class CapturingBench(Bench):
    """Its executables capture steps."""

    executable: TorchExecutable
    recordings: Recordings

    def engine(self, world: Circumstances) -> Engine:
        engine = super().engine(world)
        if world.plans_ahead:
            plain: Any = engine.runner.executable
            self.recordings = Recordings()
            self.executable = TorchExecutable(
                plain.program,
                self.loaded.weights,
                plain.kv_cache,
                strict_device(),
                RecurrentStates(*plain._states.arena.shape, on_host=False),
                recorder=self.recordings,
            )
            engine.runner.executable = self.executable
        return engine


@functools.cache
def prepared(name: str) -> tuple[CapturingBench, list[Job], list[Answer]]:
    """A model, jobs, and what each yields alone, without captures."""
    bench = CapturingBench(random_model(**MODELS[name]), "torch")
    count = 8 if name == "llama" else 4
    jobs = mostly_plain(mixed_jobs(seed=13, count=40))[-count:]
    return bench, jobs, [bench.alone(job) for job in jobs]


@pytest.mark.parametrize("name", MODELS)
def test_replayed_steps_are_steps(name: str) -> None:
    """In a crowd, with prompts in pieces, hits and preemptions, and steps planned ahead."""
    bench, jobs, expected = prepared(name)
    run = bench.run(jobs, CROWDED)
    for found, alone in zip(run.answers, expected, strict=True):
        expect_same(found, alone)
    num_graphs, num_bytes = bench.executable.captured
    assert num_graphs == len(bench.recordings.tapes) > 0
    assert bench.recordings.num_replays > 2 * num_graphs
    assert num_bytes == 0  # a CPU does not tell


@functools.cache
def prepared_plain(name: str) -> tuple[CapturingBench, list[Job], list[Answer]]:
    """Jobs that want tokens and nothing else, drawn in every way."""
    bench = prepared(name)[0]
    jobs = []
    for job in mixed_jobs(seed=5, count=8):
        params, most = job.params, job.params.max_tokens
        plain = SamplingParams(
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            min_p=params.min_p,
            max_tokens=most,
        )
        jobs.append(Job(job.prompt, plain, job.seed, job.arrival))
    return bench, jobs, [bench.alone(job) for job in jobs]


def num_whole(bench: CapturingBench) -> int:
    """Graphs of steps that draw."""
    captures: Any = bench.executable._captures
    return captures._drawn.num_graphs


@pytest.mark.parametrize("name", ["llama", "mamba"])
def test_tokens_drawn_by_replays(name: str) -> None:
    """As they are drawn by steps in parts, also for requests that are preempted."""
    bench, jobs, expected = prepared_plain(name)
    run = bench.run(jobs, CROWDED)
    for found, alone in zip(run.answers, expected, strict=True):
        assert (found.tokens, found.finish_reason) == (alone.tokens, alone.finish_reason)
    assert num_whole(bench) > 0
    assert name != "llama" or run.num_preemptions > 0


def test_tokens_drawn_by_replays_of_requests_that_are_cancelled() -> None:
    """Their slots go to others, whose last tokens are their own."""
    bench, jobs, expected = prepared_plain("llama")
    engine = bench.engine(CROWDED)
    told = World(bench, engine, jobs * 2, expected * 2, {}, np.random.default_rng(3), 4)
    told.run()
    for number, answer in told.found.items():
        assert answer.tokens == told.expected[number].tokens[: len(answer.tokens)]
    assert num_whole(bench) > 0 and told.num_cancelled > 0


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("rules", [{}, {"top_k": 5, "top_p": 0.8}, {"min_p": 0.1}], ids=str)
def test_drawing_by_rules_on_the_device(temperature: float, rules: dict[str, Any]) -> None:
    """What the host knows of each row, and what it does not know, give the same tokens."""
    sampler = sampler_of(strict_device())
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(1))
    logits[2] = torch.nan
    params = [SamplingParams(temperature=temperature, **rules), SamplingParams(temperature=0.0)]
    output = np.zeros(2, np.int32)
    states = [SamplingState([1], each, seed) for seed, each in enumerate((*params, params[0]))]
    rows = [SampleRow(state, output) for state in states]
    alone = [
        draw_rows(logits[at : at + 1], [row], NOTHING, CPU).tokens for at, row in enumerate(rows)
    ]
    with no_waiting():
        known = torch.from_numpy(sampler.rules(rows))
        found = sampler.draw(logits, known, sampler.order(rows).kind)
    assert found.tolist() == torch.cat(alone).tolist() and found[2] == -1


def batch_of(bench: CapturingBench, lengths: list[int], starts: list[int]) -> Batch:
    """Requests with tables of their own, block 1 + place first; all logits are wanted."""
    counts = np.array(lengths)
    total, requests = int(counts.sum()), len(lengths)
    runs = zip(starts, lengths, strict=True)
    offsets = np.concatenate([np.arange(start, start + count) for start, count in runs])
    random, ropes = np.random.default_rng(total), RopeTables(bench.loaded.spec.ropes, 2)
    row = ropes.take(ropes.rope_class(9))
    return Batch(
        random.integers(0, 128, total).astype(np.int32),
        offsets.astype(np.int32),
        np.full(total, row, np.int32),
        np.concatenate([[0], counts.cumsum()]).astype(np.int32),
        (1 + np.arange(requests, dtype=np.int32))[:, None],
        np.arange(total, dtype=np.int32),
        frequencies=ropes.arrays,
        slots=np.arange(requests, dtype=np.int32),
    )


def test_padding_touches_no_block_of_others() -> None:
    """And no logit: what stands in the cache behind a replayed step is what belongs there."""
    bench, _, _ = prepared("llama")
    batch = batch_of(bench, [3, 1, 1], [0, 0, 0])
    blocks = {}
    logits = {}
    for ahead in (False, True):
        executable: Any = bench.engine(replace(CROWDED, plans_ahead=ahead)).runner.executable
        for each in executable._cache.blocks:
            each.zero_()
        for _ in range(3):
            logits[ahead] = executable.logits(batch)
        blocks[ahead] = [each[: CROWDED.num_blocks].clone() for each in executable._cache.blocks]
    assert bench.recordings.num_replays > 0 and size_for(batch.num_tokens) == 8
    np.testing.assert_allclose(logits[True], logits[False], atol=1e-5)
    for mine, plain in zip(blocks[True], blocks[False], strict=True):
        torch.testing.assert_close(mine.view(torch.float32), plain.view(torch.float32))
        assert not mine[0].any() and not mine[4:].any()
    assert any(each[CROWDED.num_blocks].any() for each in bench.executable._cache.blocks)


def test_sizes_are_captured_when_they_come_a_second_time() -> None:
    """In the order in which the traffic needs them; each attention is run as it is."""
    bench, _, _ = prepared("llama")
    bench.engine(CROWDED)
    executable, layers = bench.executable, len(bench.executable.kv_cache.layout.layers)
    counts = []
    for tokens in (3, 4, 2, 2, 3, 7):
        executable.logits(batch_of(bench, [tokens], [0]))
        counts.append(executable.captured[0])
    once = layers + 1
    assert counts == [0, once, once, 2 * once, 2 * once, 2 * once]


def test_nothing_is_captured_for_those_who_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, _, _ = prepared("llama")
    plain: Any = bench.engine(replace(CROWDED, plans_ahead=False)).runner.executable
    monkeypatch.setattr("quire.backends.torch.executable.find_recorder", lambda _: Recordings())
    parts = plain.program, bench.loaded.weights, plain.kv_cache, strict_device()
    captures = [TorchExecutable(*parts, enforce_eager=each)._captures for each in (False, True)]
    assert captures[0] and not captures[1]


def test_sizes() -> None:
    assert SIZES[:6] == (1, 2, 4, 8, 16, 24) and SIZES[-1] == 512
    assert len(SIZES) < 30 and list(SIZES) == sorted(set(SIZES))
    assert [size_for(each) for each in (1, 3, 9, 512, 513)] == [1, 4, 16, 512, None]
    assert all(size_for(each) <= 1.25 * each for each in range(33, 513))


def test_padding_adds_requests_of_one_token() -> None:
    bench, _, _ = prepared("llama")
    batch = batch_of(bench, [3, 2], [0, 4])
    wide = padded(batch, 8, 77)
    assert wide.query_start.tolist() == [0, 3, 5, 6, 7, 8]
    assert wide.block_tables[2:].tolist() == [[77]] * 3
    assert wide.positions.tolist() == [0, 1, 2, 4, 5, 0, 0, 0]
    assert wide.logit_rows is batch.logit_rows
    assert wide.slots.tolist() == [0, 1, -1, -1, -1]
    assert wide.states[-3:].tolist() == [[-1, -1, 0, -1]] * 3
    assert padded(batch, 5, 77) is batch
    nobody = idle(batch, 77)
    assert (nobody.num_tokens, nobody.num_requests) == (5, 5) and nobody.is_decoding
    assert (nobody.block_tables == 77).all() and (nobody.slots == -1).all()
    assert not len(nobody.logit_rows) and nobody.rope_rows.tolist() == batch.rope_rows.tolist()


def test_guesses_as_requests_of_one_token() -> None:
    """They see what they saw: the same positions in the same blocks."""
    bench, _, _ = prepared("llama")
    batch = batch_of(bench, [3, 1], [4, 9])
    each = one_by_one(batch)
    assert each.is_decoding and not batch.is_decoding and one_by_one(each) is each
    assert each.block_tables.tolist() == [[1], [1], [1], [2]] and each.slots.tolist() == [
        0,
        0,
        0,
        1,
    ]
    for name in ("token_ids", "positions", "rope_rows", "logit_rows"):
        assert getattr(each, name) is getattr(batch, name)
    alone = Batch.single([5, 6], 0, [3], batch.frequencies)  # nobody samples for it
    assert padded(one_by_one(alone), 4, 7).block_tables.tolist() == [[3], [3], [7], [7]]


# --- segments of made-up calls


def double(step: Step, op: Any, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (x * 2,)


def source(step: Step, op: Any) -> tuple[torch.Tensor, ...]:
    return (step.token_ids[:, None].float(),)


def host(step: Step, op: Any, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (x + float(step.batch.positions.sum()),)


def from_array(step: Step, op: Any, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (x + step.array("p", lambda batch: batch.positions.astype(np.float32)[:, None]),)


def from_once(step: Step, op: Any, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (x + step.once("o", lambda: step.positions[:, None] * 3.0),)


def waiting(step: Step, op: Any, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (x + float(x.sum()),)


def putting(step: Step, op: Any, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (x + step.put(np.ones(1, np.float32)),)


def chain(*bodies: tuple[Any, Any]) -> list[Call]:
    """Each reads what the one before it made."""
    calls = [Call(source, None, (), (0,), (), "always")]
    for place, (compute, captured) in enumerate(bodies):
        calls.append(Call(compute, None, (place,), (place + 1,), (), captured))
    return calls


def step_of(ids: list[int], position: int) -> Any:
    positions = np.arange(position, position + len(ids), dtype=np.int32)
    batch = SimpleNamespace(positions=positions, is_decoding=False)
    nothing: Any = SimpleNamespace()
    numbers = torch.tensor([ids, positions.tolist(), ids, ids])
    return Step(batch, strict_device(), nothing, nothing, numbers, numbers[0, :0], nothing)  # type: ignore[arg-type]


def captured(
    calls: list[Call],
    kind: str = "mixed",
    least_calls: int = 1,
    memory: GraphMemory | None = None,
) -> tuple[CapturedSteps, Recordings]:
    recordings = Recordings()
    wanted = {calls[-1].outputs[0]}
    steps = CapturedSteps(
        calls,
        wanted,
        kind,
        8,
        64,
        recordings,
        strict_device(),
        memory or GraphMemory(),
        least_calls,
    )
    return steps, recordings


def test_segments_read_anew_what_a_step_brings() -> None:
    """Arrays, what is made once, host numbers between segments, and tokens."""
    always = [(each, "always") for each in (double, from_array, from_once, double)]
    calls = chain(*always, (host, "never"), (from_once, "always"), (double, "always"))
    steps, recordings = captured(calls)
    for position in range(6):
        step = step_of([position, 7, 9], position)
        found = steps.run(step)[len(calls) - 1]
        p, x = step.positions.float()[:, None], step.token_ids.float()[:, None]
        expected = (((x * 2 + p + 3 * p) * 2 + p.sum()) + 3 * p) * 2
        torch.testing.assert_close(found, expected)
    assert len(recordings.tapes) == 2 and recordings.num_replays == 2 * 5
    assert len(steps._borders._rooms) == 2  # of four values that cross, two at a time


def test_what_only_decoding_steps_capture() -> None:
    calls = chain((double, "always"), (double, "decode"), (double, "always"))
    for kind, count in (("mixed", 2), ("decode", 1)):
        steps, recordings = captured(calls, kind)
        for _ in range(3):
            found = steps.run(step_of([3, 4], 0))[3]
        assert found[:, 0].tolist() == [24, 32] and len(recordings.tapes) == count


def test_a_few_calls_are_not_worth_a_graph() -> None:
    """They are run with their neighbours, as if they could not be captured."""
    calls = chain((host, "never"), *[(double, "always")] * 3, (host, "never"), (double, "always"))
    steps, recordings = captured(calls, least_calls=3)
    for _ in range(3):
        found = steps.run(step_of([3], 5))[len(calls) - 1]
    assert found.tolist() == [[((3 + 5) * 8 + 5) * 2]]
    assert len(recordings.tapes) == 1 and len(steps._segments) == 3 and steps.is_of_use
    assert not captured(calls, least_calls=4)[0].is_of_use


@pytest.mark.parametrize(("body", "error"), [(waiting, Waits), (host, AssertionError)])
def test_a_body_that_cannot_be_captured_is_noticed(body: Any, error: type[Exception]) -> None:
    steps, _ = captured(chain((body, "always")))
    steps.run(step_of([1], 0))
    with pytest.raises(error):
        steps.run(step_of([1], 0))


def test_a_body_that_sends_arrays_of_its_own_is_refused() -> None:
    steps, _ = captured(chain((putting, "always")))
    steps.run(step_of([1], 0))
    with pytest.raises(AssertionError, match=r"use Step\.array"):
        steps.run(step_of([1], 0))


def test_captures_end_where_their_memory_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a device tells counts, not what was thought before."""
    free = iter([(1000, 2000), (900, 2000), (900, 2000), (750, 2000)])
    monkeypatch.setattr("tests.torch.strict_device.StrictDevice.free_memory", lambda _: next(free))
    memory = GraphMemory(380)
    steps, _ = captured(chain((double, "always")), memory=memory)
    for tokens in (1, 2, 3):
        for _ in range(3):
            found = steps.run(step_of([7] * tokens, 0))[1]
            assert found.tolist() == [[14.0]] * tokens
    assert (steps.num_graphs, memory.used, memory.largest) == (2, 250, 150)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: out of memory"),  # of the driver, for what a graph itself takes
    ],
)
def test_a_device_without_room_for_graphs_computes_as_before(
    monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    def refuse(self: Recordings, compute: Any) -> None:
        raise error

    monkeypatch.setattr(Recordings, "record", refuse)
    steps, _ = captured(chain((double, "always")))
    for _ in range(3):
        assert steps.run(step_of([7], 0))[1].tolist() == [[14.0]]
    assert not steps._memory.has_room and not steps._sizes


def test_another_error_of_recording_is_not_taken_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Recordings, compute: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(Recordings, "record", fail)
    steps, _ = captured(chain((double, "always")))
    with pytest.raises(RuntimeError, match="not permitted"):
        for _ in range(3):
            steps.run(step_of([7], 0))
