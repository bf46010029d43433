"""Speculation as users meet it: LLM and AsyncEngine on the demo model say the same as without."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from quire.assembly import Assembly
from quire.async_engine import AsyncEngine
from quire.config import EngineConfig
from quire.errors import ConfigError
from quire.llm import LLM
from quire.outputs import RequestOutput
from quire.sampling_params import SamplingParams, StructuredOutput
from quire.speculative.methods import METHODS
from quire.speculative.step_cost import StepCost
from tests.engine.conftest import SMALL

LINE = "And the king said unto him, Go in peace. "
PROMPTS = [LINE * 3 + "And the king said", "In the beginning", "春眠不觉晓,春眠不觉晓,春眠", LINE]
GREEDY = SamplingParams(temperature=0.0, max_tokens=48, ignore_eos=True)
PARAMS = [
    GREEDY,
    replace(GREEDY, ignore_eos=False, logprobs=3, prompt_logprobs=1),
    replace(GREEDY, stop=("him", "。"), include_stop_str_in_output=True),
    replace(GREEDY, stop=("the king", "unto", "\n"), min_tokens=12, logprobs=0),
    replace(GREEDY, bad_words=("king", "the"), repetition_penalty=1.05, presence_penalty=0.2),
    SamplingParams(temperature=0.3, seed=4, n=2, max_tokens=40, top_p=0.9, frequency_penalty=0.1),
    SamplingParams(temperature=0.2, seed=9, max_tokens=33, stop_token_ids=(300,), logprobs=1),
    replace(GREEDY, structured_outputs=StructuredOutput(regex="[a-z ]{8,30}")),
]


@pytest.fixture(scope="module", autouse=True)
def guess_always() -> Iterator[None]:
    """Take every guess, whatever steps cost on the machine that runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepCost, "best_count", lambda self, num_tokens, chances: len(chances))
        yield


def facts(outputs: list[RequestOutput]) -> list[object]:
    """All that is said of them, but for the times."""
    return [(replace(output, metrics=None, request_id=""), output.finished) for output in outputs]


@pytest.mark.parametrize("method", METHODS)
def test_every_kind_of_request_gets_the_same_answer(shared_llm: LLM, method: str) -> None:
    llm = LLM("demo", speculative=method, num_speculative_tokens=5, **SMALL)
    jobs = [(prompt, params) for params in PARAMS for prompt in PROMPTS]
    prompts, params = [job[0] for job in jobs], [job[1] for job in jobs]
    expected = facts(shared_llm.generate(prompts, params, use_tqdm=False))
    for _ in range(2):  # the second time with all outputs in the history, and prompts in the cache
        found = facts(llm.generate(prompts, params, use_tqdm=False))
        for mine, plain in zip(found, expected, strict=True):
            mine[0].num_cached_tokens = plain[0].num_cached_tokens  # type: ignore[index]
            assert mine == plain
    stats = llm.stats().scheduler
    assert stats.num_accepted_tokens > 300 and stats.num_used_blocks == 0
    assert shared_llm.stats().scheduler.num_drafts == 0


def test_a_grammar_gets_no_guesses() -> None:
    llm = LLM("demo", speculative="ngram", **SMALL)
    llm.generate(LINE * 3, PARAMS[-1], use_tqdm=False)
    assert llm.stats().scheduler.num_drafts == 0


async def test_streams_say_the_same(shared_llm: LLM) -> None:
    (expected,) = shared_llm.generate(PROMPTS[0], PARAMS[3], use_tqdm=False)
    engine = AsyncEngine(Assembly(EngineConfig("demo", speculative="suffix", **SMALL)))
    try:
        deltas = [delta async for delta in engine.submit(PROMPTS[0], PARAMS[3])]
    finally:
        await engine.shutdown()
    output = expected.outputs[0]
    assert "".join(delta.text for delta in deltas) == output.text
    assert [token for delta in deltas for token in delta.token_ids] == output.token_ids
    assert sum(len(delta.logprobs or ()) for delta in deltas) == len(output.token_ids)
    assert deltas[-1].stop_reason == output.stop_reason
    assert len(deltas) < len(output.token_ids), "several tokens at a time"


def test_options_are_checked() -> None:
    with pytest.raises(ConfigError, match="choose one of off, ngram, suffix"):
        EngineConfig("demo", speculative="draft")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="num_speculative_tokens is 0"):
        EngineConfig("demo", speculative="suffix", num_speculative_tokens=0)
    with pytest.raises(ConfigError, match="num_speculative_tokens bounds what speculative"):
        EngineConfig("demo", num_speculative_tokens=4)
