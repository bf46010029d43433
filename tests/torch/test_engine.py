"""A whole engine on torch: every request gets what it gets alone, and what `native` gives it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from quire.llm import LLM
from quire.sampling_params import SamplingParams, StructuredOutput
from tests.engine.driving import Answer, Bench, Circumstances, Job, random_model
from tests.engine.random_worlds import mixed_jobs, random_world

pytestmark = pytest.mark.oracle
torch.set_num_threads(1)

MODELS: Mapping[str, tuple[dict[str, Any], str]] = {
    "llama": ({"architecture": "LlamaForCausalLM"}, "float32"),
    "window, float16": ({"architecture": "MistralForCausalLM", "sliding_window": 8}, "float16"),
    "latents": ({"architecture": "DeepseekV2ForCausalLM"}, "float32"),
    "experts": ({"architecture": "Qwen3MoeForCausalLM"}, "float32"),
    "delta nets": ({"architecture": "Qwen3_5ForCausalLM"}, "float32"),
}
CROWDED = Circumstances(num_blocks=7, token_budget=24, prefix_caching=True)
TOLERANCE = 2e-3
"""Of log-probabilities; rounding may bring a number to the next one of the cache's format."""


@functools.cache
def bench(name: str, backend: str) -> Bench:
    changes, kv_format = MODELS[name]
    return Bench(random_model(**changes), backend, kv_format)


@functools.cache
def jobs_and_answers(name: str) -> tuple[list[Job], list[Answer]]:
    """Jobs with samplers and grammars of all kinds, and what each yields alone on torch."""
    jobs = mixed_jobs(seed=5, count=20)
    return jobs, [bench(name, "torch").alone(job) for job in jobs]


def expect_same(found: Answer, expected: Answer) -> None:
    """The same tokens and ends; log-probabilities up to rounding."""
    assert (found.tokens, found.finish_reason) == (expected.tokens, expected.finish_reason)
    prompts = (found.prompt_logprobs or (), expected.prompt_logprobs or ())
    for mine, its in ((found.logprobs, expected.logprobs), prompts):
        for one, other in zip(mine, its, strict=True):
            assert (one is None) == (other is None)
            first, second = (next(iter((each or {}).values()), None) for each in (one, other))
            if first is not None and second is not None:
                assert first.logprob == pytest.approx(second.logprob, abs=TOLERANCE)


@pytest.mark.parametrize("name", MODELS)
def test_native_says_the_same(name: str) -> None:
    """Greedy tokens and drawn ones: the same logits up to rounding, the same random numbers."""
    jobs, answers = jobs_and_answers(name)
    for job, answer in zip(jobs, answers, strict=True):
        expect_same(answer, bench(name, "native-portable").alone(job))


@pytest.mark.parametrize("name", MODELS)
def test_in_random_worlds(name: str) -> None:
    jobs, answers = jobs_and_answers(name)
    runs = [bench(name, "torch").run(jobs, world) for world in (random_world(0), CROWDED)]
    for run in runs:
        for found, expected in zip(run.answers, answers, strict=True):
            expect_same(found, expected)
    assert sum(run.num_preemptions for run in runs) > 0
    assert sum(run.num_hit_tokens for run in runs) > 0


def test_the_comparison_can_fail() -> None:
    job = Job(tuple(range(20)), SamplingParams(temperature=1.0, max_tokens=16), seed=1)
    answers = [
        bench("llama", "torch").run([each], Circumstances()).answers[0]
        for each in (job, Job(job.prompt, job.params, seed=2))
    ]
    with pytest.raises(AssertionError):
        expect_same(*answers)


def test_the_whole_way() -> None:
    """The demo model by name: text, a grammar, and vectors of options that change sampling."""
    formats = {"dtype": "float32", "kv_cache_dtype": "float32", "threads": 1}
    greedy = SamplingParams(temperature=0.0, max_tokens=12)
    drawn = SamplingParams(
        temperature=0.9, top_p=0.9, seed=4, max_tokens=12, repetition_penalty=1.2
    )
    guided = SamplingParams(
        temperature=0.0, max_tokens=12, structured_outputs=StructuredOutput(regex="[0-9]{4}")
    )
    texts = {}
    for backend in ("torch", "native"):
        llm = LLM("demo", backend=backend, speculative="ngram", **formats)
        outputs = llm.generate(["Once upon a time"] * 3, [greedy, drawn, guided], use_tqdm=False)
        texts[backend] = [each.outputs[0].text for each in outputs]
    assert texts["torch"] == texts["native"]
    assert texts["torch"][2].isdigit()
