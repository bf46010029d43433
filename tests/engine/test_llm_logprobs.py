"""The blocking API: log-probabilities of outputs and prompts."""

from __future__ import annotations

import numpy as np
import pytest

from quire.llm import LLM
from quire.sampling.reference import log_probabilities
from quire.weights.hub import DEMO
from tests.engine.completing import complete, first
from tests.models.computing import Model, load


@pytest.mark.parametrize("count", [0, 1, 5])
def test_log_probabilities_of_the_output(llm: LLM, count: int) -> None:
    output = first(llm, temperature=1.0, seed=2, logprobs=count)
    assert output.logprobs is not None and len(output.logprobs) == 20
    total = 0.0
    for token, entries in zip(output.token_ids, output.logprobs, strict=True):
        assert next(iter(entries)) == token
        assert count <= len(entries) <= count + 1
        best = sorted((entry.rank, -entry.logprob) for entry in entries.values())
        assert [rank for rank, _ in best[:count]] == list(range(1, count + 1))
        assert [value for _, value in best] == sorted(value for _, value in best)
        assert entries[token].decoded_token == llm.get_tokenizer().token_text(token)
        total += entries[token].logprob
    assert output.cumulative_logprob == pytest.approx(total)


def test_none_are_given_unasked(llm: LLM) -> None:
    output = complete(llm)
    assert output.prompt_logprobs is None
    assert output.outputs[0].logprobs is output.outputs[0].cumulative_logprob is None


def test_the_greedy_token_has_rank_1(llm: LLM) -> None:
    output = first(llm, logprobs=0)
    assert output.logprobs is not None
    assert {entry.rank for entries in output.logprobs for entry in entries.values()} == {1}


def test_prompt_log_probabilities_are_those_of_the_reference(llm: LLM) -> None:
    output = complete(llm, prompt_logprobs=3, max_tokens=1, logprobs=3)
    tokens = output.prompt_token_ids + output.outputs[0].token_ids
    near = 1e-2  # some instruction sets round to bfloat16 what the weights are multiplied with
    logits = Model(load(DEMO), "reference", kv_format="bfloat16").logits(tokens[:-1])
    assert output.prompt_logprobs is not None and output.outputs[0].logprobs is not None
    assert output.prompt_logprobs[0] is None
    given = [*output.prompt_logprobs[1:], *output.outputs[0].logprobs]
    for row, token, entries in zip(logits, tokens[1:], given, strict=True):
        expected = log_probabilities(row)
        assert entries is not None and next(iter(entries)) == token
        for other, entry in entries.items():
            assert entry.logprob == pytest.approx(expected[other], abs=near)
            assert entry.logprob == pytest.approx(
                expected[np.argsort(-row)[entry.rank - 1]], abs=near
            )


def test_scoring_what_was_generated_gives_the_same_numbers(llm: LLM) -> None:
    """Bit by bit: prompt and output positions go through the same kernels."""
    output = complete(llm, logprobs=2)
    tokens = output.prompt_token_ids + output.outputs[0].token_ids
    scored = complete(llm, tokens, prompt_logprobs=2, max_tokens=1)
    assert scored.prompt_logprobs is not None and output.outputs[0].logprobs is not None
    start = len(output.prompt_token_ids)
    assert scored.prompt_logprobs[start:] == output.outputs[0].logprobs
    assert scored.num_cached_tokens == 0


def test_prompt_log_probabilities_of_one_token(llm: LLM) -> None:
    assert complete(llm, [9], prompt_logprobs=1).prompt_logprobs == [None]


def test_they_do_not_depend_on_the_temperature(llm: LLM) -> None:
    """They say what the model thinks, not what the sampler made of it."""
    plain = first(llm, max_tokens=1, logprobs=4)
    bent = first(llm, max_tokens=1, logprobs=4, temperature=0.3, top_k=1, presence_penalty=1.0)
    assert plain.logprobs == bent.logprobs
