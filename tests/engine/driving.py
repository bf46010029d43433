"""Runs jobs through a real engine over a small random model, in any circumstances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from quire.control.drafting import Drafter
from quire.control.plan import Update
from quire.control.request import Request
from quire.control.scheduler import Scheduler
from quire.control.state_records import num_records_needed
from quire.control.stop import StopRules
from quire.engine import Engine
from quire.graph.program import StepLimits
from quire.models.registry import build_spec, load_families
from quire.ops.number_formats import STORED_AS, from_float32
from quire.outputs import TokenLogprobs
from quire.runtime.image_inputs import Encode
from quire.runtime.quantize import quantize_weights
from quire.runtime.rope_tables import RopeTables
from quire.runtime.runner import Runner
from quire.sampling.state import GrammarState, SamplingState
from quire.sampling_params import SamplingParams
from quire.vision.prompt_images import PromptImages
from quire.weights.tensor import RawTensor
from tests.graph.interpreting import random_weights
from tests.models.computing import Loaded, bind, kv_cache

BLOCK = 16


@dataclass(frozen=True)
class Circumstances:
    """Everything around a request that must not change what it yields."""

    threads: int = 1
    max_num_seqs: int = 64
    token_budget: int = 64
    logit_rows: int = 8
    num_blocks: int = 256
    prefix_caching: bool = False
    chunked_prefill: bool = True
    lookahead_tokens: int = 0
    drafter: Callable[[], Drafter] | None = None
    plans_ahead: bool = False


@dataclass(frozen=True)
class Job:
    """A prompt, how to continue it, and after how many steps it arrives."""

    prompt: tuple[int, ...]
    params: SamplingParams
    seed: int
    arrival: int = 0
    forbidden: tuple[int, ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    grammar: Callable[[], GrammarState] | None = None
    images: PromptImages | None = None


@dataclass
class Answer:
    """All that came of a job."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    finish_reason: str | None = None

    def add(self, update: Update) -> None:
        """Take in an update of the engine."""
        self.tokens += update.tokens
        self.logprobs += update.details.logprobs or ()
        if update.details.prompt_logprobs is not None:
            self.prompt_logprobs = tuple(update.details.prompt_logprobs)
        self.finish_reason = update.finish_reason


@dataclass
class Run:
    """The answers to some jobs, in their order, and what happened on the way."""

    answers: list[Answer]
    num_preemptions: int
    num_hit_tokens: int
    num_steps: int
    num_drafted: int
    num_accepted: int


def random_model(
    architecture: str,
    dtype: str = "float32",
    quantization: str = "auto",
    cuts_latents: bool = False,
    **changes: Any,
) -> Loaded:
    """A small model of an architecture with random weights, stored in a dtype or quantized."""
    tiny = load_families()[architecture].tiny
    spec = build_spec({**tiny, "architectures": [architecture], "dtype": dtype, **changes})
    weights = {
        name: RawTensor(name, STORED_AS[dtype], array.shape, from_float32(array, dtype))
        for name, array in random_weights(spec).items()
    }
    if quantization != "auto":
        rounded = quantize_weights(weights, spec, quantization, None, 1, cuts_latents)
        return Loaded(spec, rounded)
    return Loaded(spec, weights)


class Bench:
    """One model on one backend; makes an engine for each set of circumstances."""

    def __init__(
        self,
        loaded: Loaded,
        backend: str,
        kv_format: str = "float32",
        encode: Encode | None = None,
    ) -> None:
        self.loaded = loaded
        self.backend = backend
        self.kv_format = kv_format
        self.encode = encode

    def engine(self, world: Circumstances) -> Engine:
        """A fresh engine; its cache is full of NaN, so that reading too far is seen."""
        spec = self.loaded.spec
        limits = StepLimits(world.token_budget, world.logit_rows)
        cache = kv_cache(spec, self.kv_format, world.num_blocks)
        ropes = RopeTables(spec.ropes, 64)
        num_records = num_records_needed(world.max_num_seqs) + 16 if spec.state_floats else None
        executable = bind(
            self.loaded, self.backend, cache, ropes, world.threads, limits, num_records or 0
        )
        runner = Runner(executable, ropes, encode=self.encode)
        return Engine(self.scheduler(world, num_records), runner, plans_ahead=world.plans_ahead)

    def scheduler(self, world: Circumstances, num_state_records: int | None = None) -> Scheduler:
        """A fresh scheduler."""
        return Scheduler(
            world.num_blocks,
            BLOCK,
            world.token_budget,
            world.max_num_seqs,
            enable_prefix_caching=world.prefix_caching,
            enable_chunked_prefill=world.chunked_prefill,
            lookahead_tokens=world.lookahead_tokens,
            window=self.loaded.spec.window,
            drafter=None if world.drafter is None else world.drafter(),
            num_state_records=num_state_records,
            blocks_per_checkpoint=2,
        )

    def run(self, jobs: Sequence[Job], world: Circumstances) -> Run:
        """Run jobs together, each from its arrival on; the engine must end clean."""
        engine = self.engine(world)
        answers = [Answer() for _ in jobs]
        waiting = sorted(range(len(jobs)), key=lambda i: -jobs[i].arrival)
        step = 0
        while waiting or engine.has_work:
            while waiting and jobs[waiting[-1]].arrival <= step:
                self.submit(engine, str(waiting[-1]), jobs[waiting.pop()])
            step += 1
            assert step < 10_000, "it does not end"
            for update in engine.step():
                answers[int(update.request_id)].add(update)
            engine.scheduler.check()
        stats = engine.stats().scheduler
        assert stats.num_used_blocks == 0
        return Run(
            answers,
            stats.num_preemptions,
            stats.prefix_hit_tokens,
            step,
            stats.num_draft_tokens,
            stats.num_accepted_tokens,
        )

    def alone(self, job: Job) -> Answer:
        """The answer to one job that has a roomy engine for itself."""
        return self.run([replace(job, arrival=0)], Circumstances()).answers[0]

    def submit(self, engine: Engine, name: str, job: Job) -> None:
        """Hand a job to an engine."""
        params, ropes = job.params, engine.runner.ropes
        assert params.max_tokens is not None
        rope_class = ropes.rope_class(len(job.prompt))
        request = Request(
            name,
            job.prompt,
            StopRules(params.max_tokens, params.min_tokens, stop_token_ids=params.stop_token_ids),
            cache_salt=repr(rope_class).encode() if any(rope_class) else b"",
            use_prefix_cache=params.prompt_logprobs is None,
            allow_drafts=job.grammar is None,
            plan_ahead=job.grammar is None and not job.bad_words,
            contents=() if job.images is None else job.images.contents,
        )
        grammar = None if job.grammar is None else job.grammar()
        state = SamplingState(
            job.prompt,
            params,
            job.seed,
            job.forbidden,
            job.bad_words,
            grammar,
            self.loaded.spec.vocab_size,
        )
        engine.submit(request, state, job.images)


def random_jobs(
    seed: int, count: int, vocab_size: int = 128, longest: int = 60, most_tokens: int = 32
) -> list[Job]:
    """Jobs of all kinds; half of the prompts begin like another, and some are the same."""
    random = np.random.default_rng(seed)
    stems = random.integers(0, vocab_size, (2, longest)).tolist()
    return [_random_job(random, stems, vocab_size, longest, most_tokens) for _ in range(count)]


def _random_job(
    random: np.random.Generator, stems: Any, vocab_size: int, longest: int, most_tokens: int
) -> Job:
    prompt = random.integers(0, vocab_size, random.integers(1, longest)).tolist()
    if random.random() < 0.5:
        shared = stems[random.integers(len(stems))][: random.integers(1, longest)]
        prompt = (shared + prompt[:8])[:longest]
    if random.random() < 0.25:
        prompt = stems[0][:40]
    forbidden = tuple(random.integers(0, vocab_size, 3).tolist())
    num_tokens = int(random.integers(1, most_tokens + 1))
    params = SamplingParams(
        temperature=float(random.choice([0.0, 0.7, 1.0, 1.5])),
        top_k=int(random.choice([0, 5, 40])),
        top_p=float(random.choice([1.0, 0.9, 0.5])),
        min_p=float(random.choice([0.0, 0.05])),
        repetition_penalty=float(random.choice([1.0, 1.3])),
        presence_penalty=float(random.choice([0.0, 0.6])),
        frequency_penalty=float(random.choice([0.0, -0.4])),
        logit_bias={int(random.integers(vocab_size)): 2.5} if random.random() < 0.3 else {},
        logprobs=[None, 0, 4][random.integers(3)],
        prompt_logprobs=2 if random.random() < 0.25 else None,
        max_tokens=num_tokens,
        min_tokens=num_tokens // 2,
        stop_token_ids=forbidden,
    )
    seed, arrival = int(random.integers(2**62)), int(random.choice([0, 0, 1, 3, 8]))
    return Job(tuple(prompt), params, seed, arrival, forbidden)
