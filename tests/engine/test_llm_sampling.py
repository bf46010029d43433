"""The blocking API: every sampling parameter does what it says."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import pytest

from quire.llm import LLM
from tests.engine.completing import END_OF_TEXT, complete, first

# --- where a completion ends


def test_a_stop_string_cuts_the_text(llm: LLM) -> None:
    whole = first(llm).text
    stop = whole[10:16]
    output = first(llm, stop=["never seen", stop])
    assert output.text == whole[: whole.index(stop)]
    assert (output.finish_reason, output.stop_reason) == ("stop", stop)
    included = first(llm, stop=stop, include_stop_str_in_output=True)
    assert included.text == output.text + stop
    assert len(output.token_ids) < 20


def test_a_stop_token_ends_it_and_is_hidden(llm: LLM) -> None:
    whole = first(llm)
    token = whole.token_ids[7]
    place = whole.token_ids.index(token)
    output = first(llm, stop_token_ids=[token])
    assert output.token_ids == whole.token_ids[: place + 1]
    assert (output.finish_reason, output.stop_reason) == ("stop", token)
    text = llm.get_tokenizer().decode(whole.token_ids[:place])
    assert output.text.strip() == text.strip()
    shown = first(llm, stop_token_ids=[token], include_stop_str_in_output=True)
    assert len(shown.text) > len(output.text)


def test_the_end_of_text(llm: LLM) -> None:
    output = first(llm, logit_bias={END_OF_TEXT: 100.0})
    assert (output.token_ids, output.text) == ([END_OF_TEXT], "")
    assert (output.finish_reason, output.stop_reason) == ("stop", None)


def test_no_end_before_min_tokens(llm: LLM) -> None:
    output = first(llm, logit_bias={END_OF_TEXT: 100.0}, min_tokens=5)
    assert len(output.token_ids) == 6
    assert output.token_ids.index(END_OF_TEXT) == 5
    assert output.finish_reason == "stop"


def test_no_stop_string_ends_it_before_min_tokens(llm: LLM) -> None:
    assert len(first(llm, stop=["e", "a", " "], min_tokens=6).token_ids) > 6


def test_the_end_of_text_can_be_ignored(llm: LLM) -> None:
    output = first(llm, logit_bias={END_OF_TEXT: 100.0}, ignore_eos=True)
    assert output.token_ids == [END_OF_TEXT] * 20
    assert (output.text, output.finish_reason) == ("", "length")
    shown = first(llm, logit_bias={END_OF_TEXT: 100.0}, ignore_eos=True, skip_special_tokens=False)
    assert shown.text == "<|endoftext|>" * 20


@pytest.mark.parametrize("max_tokens", [None, 1000])
def test_the_model_length_ends_it(llm: LLM, max_tokens: int | None) -> None:
    output = complete(llm, max_tokens=max_tokens, ignore_eos=True)
    assert len(output.prompt_token_ids) + len(output.outputs[0].token_ids) == 256
    assert output.outputs[0].finish_reason == "length"


def test_the_longest_prompt_that_fits(llm: LLM) -> None:
    output = first(llm, [5] * 255)
    assert (len(output.token_ids), output.finish_reason) == (1, "length")


# --- which tokens may come


def test_a_bias_forces_and_forbids(llm: LLM) -> None:
    assert first(llm, logit_bias={77: 100.0}, max_tokens=4).token_ids == [77] * 4
    taken = first(llm, max_tokens=1).token_ids[0]
    assert first(llm, logit_bias={taken: -100.0}, max_tokens=1).token_ids[0] != taken


def test_only_allowed_tokens_come(llm: LLM) -> None:
    allowed = [5, 90, 262, 1922]
    tokens = first(llm, allowed_token_ids=allowed, temperature=1.5, seed=1).token_ids
    assert set(tokens) <= set(allowed) and len(set(tokens)) > 1


def test_bad_words_do_not_come(llm: LLM) -> None:
    words = [word for word in first(llm).text.split() if word.isalpha()]
    assert words[1] not in first(llm, bad_words=[words[1]]).text.split()


def test_of_a_bad_phrase_the_words_may_come(llm: LLM) -> None:
    before, after = first(llm).text.split()[1:3]
    text = first(llm, bad_words=[f"{before} {after}"]).text
    assert f"{before} {after}" not in text
    assert before in text


@pytest.mark.parametrize(
    "penalty",
    [{"repetition_penalty": 50.0}, {"presence_penalty": 2.0}, {"frequency_penalty": 2.0}],
    ids=str,
)
def test_penalties_make_repetition_rarer(llm: LLM, penalty: dict[str, float]) -> None:
    def repeats(**params: Any) -> int:
        tokens = first(llm, **params).token_ids
        return len(tokens) - len(set(tokens))

    assert repeats(**penalty) < repeats()


def test_a_repetition_penalty_looks_at_the_prompt_too(llm: LLM) -> None:
    pushed = {"prompt": [77, 78, 79], "max_tokens": 1, "logit_bias": {78: 30.0}}
    assert first(llm, **pushed, presence_penalty=2.0).token_ids == [78]
    assert first(llm, **pushed, frequency_penalty=2.0).token_ids == [78]
    assert first(llm, **pushed, repetition_penalty=100.0).token_ids != [78]


def test_top_k_of_one_is_greedy(llm: LLM) -> None:
    expected = first(llm).token_ids
    assert first(llm, temperature=1.0, top_k=1).token_ids == expected
    assert first(llm, temperature=1.0, top_p=1e-6).token_ids == expected
    assert first(llm, temperature=1.0, min_p=1.0).token_ids == expected


def test_sampled_tokens_follow_the_probabilities(llm: LLM) -> None:
    """The first token of 600 completions against the probabilities of the likeliest tokens."""
    outputs = complete(llm, n=600, temperature=1.0, max_tokens=1, seed=5, logprobs=8).outputs
    counts = Counter(output.token_ids[0] for output in outputs)
    assert outputs[0].logprobs is not None
    for token, entry in itertools.islice(outputs[0].logprobs[0].items(), 1, None):
        share = math.exp(entry.logprob)
        deviation = 4.5 * math.sqrt(share * (1 - share) / 600)
        assert abs(counts[token] / 600 - share) < deviation, token
