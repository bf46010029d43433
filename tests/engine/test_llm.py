"""The blocking API on the demo model: every sampling parameter does what it says."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest

from quire.errors import ConfigError, ModelError, RequestError
from quire.llm import LLM
from quire.models.generation import read_generation_defaults
from quire.outputs import CompletionOutput, RequestOutput
from quire.sampling.reference import log_probabilities
from quire.sampling_params import SamplingParams, StructuredOutput
from quire.weights.hub import DEMO
from tests.engine.conftest import SMALL
from tests.models.computing import Model, load

PROMPT = "In the beginning"
END_OF_TEXT = 0
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 20}


def complete(llm: LLM, prompt: Any = PROMPT, **params: Any) -> RequestOutput:
    given = SamplingParams(**{**GREEDY, **params})
    (output,) = llm.generate(prompt, given, use_tqdm=False)
    assert output.finished
    return output


def first(llm: LLM, prompt: Any = PROMPT, **params: Any) -> CompletionOutput:
    return complete(llm, prompt, **params).outputs[0]


def refusal(llm: LLM, prompt: Any = PROMPT, **params: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        complete(llm, prompt, **params)
    return caught.value


# --- prompts and outputs


def test_outputs_stand_in_the_order_of_the_prompts(llm: LLM) -> None:
    prompts = ["Alpha", "In the beginning was", "道可道", "A"] * 5
    outputs = llm.generate(prompts, SamplingParams(**GREEDY), use_tqdm=False)
    assert [output.prompt for output in outputs] == prompts
    assert [output.outputs[0].text for output in outputs[:4]] == [
        first(llm, prompt).text for prompt in prompts[:4]
    ]
    assert len({output.request_id for output in outputs}) == len(prompts)


def test_every_form_of_a_prompt(llm: LLM) -> None:
    ids = llm.get_tokenizer().encode(PROMPT)
    forms = [PROMPT, ids, {"prompt": PROMPT}, {"prompt_token_ids": ids}]
    outputs = [complete(llm, form) for form in forms]
    outputs += llm.generate(forms, SamplingParams(**GREEDY), use_tqdm=False)
    assert {output.outputs[0].text for output in outputs} == {outputs[0].outputs[0].text}
    assert all(output.prompt_token_ids == ids for output in outputs)
    assert outputs[1].prompt is None
    assert llm.generate([], use_tqdm=False) == []


def test_text_is_the_tokens_decoded_after_the_prompt(llm: LLM) -> None:
    output = complete(llm)
    tokens = output.outputs[0].token_ids
    decode = llm.get_tokenizer().decode
    assert decode(output.prompt_token_ids + tokens) == PROMPT + output.outputs[0].text
    assert (len(tokens), output.outputs[0].finish_reason) == (20, "length")


def test_parameters_for_each_prompt(llm: LLM) -> None:
    params = [SamplingParams(temperature=0, max_tokens=count) for count in (1, 5, 3)]
    outputs = llm.generate([PROMPT] * 3, params, use_tqdm=False)
    assert [len(output.outputs[0].token_ids) for output in outputs] == [1, 5, 3]
    with pytest.raises(RequestError, match="2 prompts but 3 sampling_params"):
        llm.generate([PROMPT] * 2, params, use_tqdm=False)


def test_without_parameters_the_models_defaults_are_taken(llm: LLM) -> None:
    recommended = read_generation_defaults(DEMO).sampling
    assert recommended["top_k"] == 40
    assert llm.get_default_sampling_params() == SamplingParams(**recommended)
    (output,) = llm.generate(PROMPT, use_tqdm=False)
    assert len(output.outputs[0].token_ids) <= 16


def test_metrics_tell_when_things_happened(llm: LLM) -> None:
    metrics = complete(llm).metrics
    assert metrics is not None
    times = [
        metrics.arrival_s,
        metrics.first_scheduled_s,
        metrics.first_token_s,
        metrics.finished_s,
    ]
    assert times == sorted(times) and times[0] > 0


def test_more_prompts_than_the_queue_holds() -> None:
    small = LLM("demo", **{**SMALL, "max_num_queued_reqs": 2, "max_num_seqs": 2})
    outputs = small.generate([PROMPT] * 9, SamplingParams(n=2, **GREEDY), use_tqdm=False)
    assert len({tuple(each.token_ids) for output in outputs for each in output.outputs}) == 1


def test_a_chat(llm: LLM) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    (one,) = llm.chat(messages, SamplingParams(**GREEDY), use_tqdm=False)
    text = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert one.prompt_token_ids == llm.get_tokenizer().encode(text)
    several = llm.chat([messages, messages], SamplingParams(**GREEDY), use_tqdm=False)
    assert [each.outputs[0].text for each in several] == [one.outputs[0].text] * 2


# --- several completions


def test_n_completions_are_those_of_n_seeds(llm: LLM) -> None:
    together = complete(llm, n=3, temperature=1.0, seed=11)
    assert [each.index for each in together.outputs] == [0, 1, 2]
    alone = [first(llm, temperature=1.0, seed=11 + i).text for i in range(3)]
    assert [each.text for each in together.outputs] == alone
    assert len(set(alone)) == 3


@pytest.mark.parametrize("seed", [0, -1, -(2**63), 2**64 - 1])
def test_every_seed_is_reproducible(llm: LLM, seed: int) -> None:
    texts = [first(llm, temperature=1.0, seed=seed).text for _ in range(2)]
    assert texts[0] == texts[1]


def test_without_a_seed_completions_differ(llm: LLM) -> None:
    assert len({first(llm, temperature=1.0).text for _ in range(3)}) == 3


def test_unseeded_runs_follow_the_engines_seed() -> None:
    texts = [first(LLM("demo", **SMALL, seed=seed), temperature=1.0).text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


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


# --- log-probabilities


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


# --- structured output


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "kind": {"enum": ["cat", "dog"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("schema", [SCHEMA, json.dumps(SCHEMA)], ids=["object", "text"])
def test_json_follows_its_schema(llm: LLM, schema: Any) -> None:
    output = first(
        llm,
        structured_outputs=StructuredOutput(json=schema),
        temperature=1.0,
        seed=4,
        max_tokens=200,
    )
    assert output.finish_reason == "stop"
    found = json.loads(output.text)
    assert set(found) == {"name", "age", "kind"}
    assert len(found["name"]) <= 8 and 0 <= found["age"] <= 99
    assert found["kind"] in ("cat", "dog")


@pytest.mark.parametrize(
    ("wanted", "pattern"),
    [
        (StructuredOutput(regex=r"[0-9]{3}-[a-c]{2}"), r"[0-9]{3}-[a-c]{2}"),
        (StructuredOutput(choice=("yes", "no", "是的")), "yes|no|是的"),
        (StructuredOutput(grammar='start: "a" "b"+ "c"'), "ab+c"),
        (StructuredOutput(json={"type": "array", "items": {"const": 1}, "maxItems": 2}), r"\[.*\]"),
    ],
    ids=["regex", "choice", "grammar", "array"],
)
def test_other_formats(llm: LLM, wanted: StructuredOutput, pattern: str) -> None:
    output = first(
        llm, structured_outputs=wanted, temperature=1.0, top_k=50, seed=3, max_tokens=100
    )
    assert re.fullmatch(pattern, output.text, re.DOTALL), output.text
    assert output.finish_reason == "stop"


def test_a_format_in_a_batch_with_free_text(llm: LLM) -> None:
    plain = SamplingParams(**GREEDY)
    choice = SamplingParams(**GREEDY, structured_outputs=StructuredOutput(choice=("aa", "bb")))
    outputs = llm.generate([PROMPT] * 4, [plain, choice, plain, choice], use_tqdm=False)
    texts = [output.outputs[0].text for output in outputs]
    assert texts[0] == texts[2] == first(llm).text
    assert texts[1] == texts[3] and texts[1] in ("aa", "bb")


def test_completions_of_one_format_go_their_own_ways(llm: LLM) -> None:
    wanted = StructuredOutput(regex="[a-z]{6}")
    outputs = complete(
        llm, n=4, structured_outputs=wanted, temperature=1.5, top_k=0, seed=8
    ).outputs
    assert all(re.fullmatch("[a-z]{6}", output.text) for output in outputs)
    assert len({output.text for output in outputs}) > 1


@pytest.mark.parametrize(
    "wanted",
    [
        StructuredOutput(regex="(["),
        StructuredOutput(grammar="start: nowhere"),
        StructuredOutput(json="{"),
        StructuredOutput(json={"type": "no such type"}),
    ],
    ids=["regex", "grammar", "json text", "schema"],
)
def test_a_format_that_is_none_is_refused(llm: LLM, wanted: StructuredOutput) -> None:
    assert refusal(llm, structured_outputs=wanted).param == "structured_outputs"


# --- what is refused


@pytest.mark.parametrize(
    ("prompt", "fragment"),
    [
        ("", "no tokens"),
        ([1] * 256, "256 tokens; the model length is 256"),
        ([[5120]], "5120; the vocabulary ends at 5119"),
        ([[-1]], "token id -1"),
        ([[1, True]], "True; give token ids"),
        ([[1, "a"]], "'a'; give token ids"),
        ([[1.0]], "1.0; give token ids"),
        ({"text": "a"}, "'prompt' or 'prompt_token_ids'"),
    ],
    ids=repr,
)
def test_bad_prompts(llm: LLM, prompt: Any, fragment: str) -> None:
    error = refusal(llm, prompt)
    assert fragment in str(error)
    assert error.param == "prompt"


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"stop_token_ids": [5120]}, "stop_token_ids"),
        ({"allowed_token_ids": [1, 9999]}, "allowed_token_ids"),
        ({"logit_bias": {6000: 1.0}}, "logit_bias"),
        ({"min_tokens": 300, "max_tokens": None}, "min_tokens"),
    ],
    ids=str,
)
def test_parameters_that_do_not_fit_the_model(llm: LLM, params: Any, param: str) -> None:
    assert refusal(llm, **params).param == param


def test_a_bad_prompt_among_good_ones_stops_all_before_anything_runs(llm: LLM) -> None:
    steps = llm._engine.stats().num_steps
    with pytest.raises(RequestError):
        llm.generate([PROMPT, ""], SamplingParams(**GREEDY), use_tqdm=False)
    assert llm._engine.stats().num_steps == steps


def test_an_option_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConfigError, match=r"max_model_length.*did you mean max_model_len"):
        LLM("demo", max_model_length=5)


@pytest.mark.parametrize(
    ("options", "error", "fragment"),
    [
        ({"max_model_len": 10**6}, ConfigError, "max_model_len 1000000 is above the 1024"),
        ({"dtype": "int4"}, ConfigError, "dtype"),
        ({"generation_config": "/nowhere"}, ConfigError, "generation_config"),
        ({"hf_overrides": {"num_hidden_layers": 7}}, ModelError, "model.layers.6"),
        ({"hf_overrides": {"rope_theta": -1}}, ModelError, "rope_theta"),
        ({"scheduling_policy": "whim"}, ConfigError, "whim"),
    ],
    ids=str,
)
def test_options_that_cannot_be_honoured(options: Any, error: Any, fragment: str) -> None:
    with pytest.raises(error) as caught:
        LLM("demo", **{**SMALL, **options})
    assert fragment in str(caught.value)


# --- options


@pytest.mark.parametrize(
    "options",
    [
        {"backend": "reference"},
        {"instruction_set": "portable"},
        {"dtype": "float32"},
        {"kv_cache_dtype": "float32"},
        {"kv_cache_dtype": "float16"},
        {"block_size": 32},
        {"threads": 2},
        {"max_num_batched_tokens": 2},
    ],
    ids=str,
)
def test_options_hardly_change_what_the_model_thinks(llm: LLM, options: dict[str, Any]) -> None:
    other = LLM("demo", **{**SMALL, **options})
    found, expected = (
        complete(each, prompt_logprobs=0, max_tokens=1).prompt_logprobs for each in (other, llm)
    )
    assert found is not None and expected is not None
    for mine, theirs in zip(found[1:], expected[1:], strict=True):
        ((token, entry),) = (mine or {}).items()
        assert entry.logprob == pytest.approx((theirs or {})[token].logprob, abs=0.02)


def test_generation_defaults_can_be_left_out() -> None:
    llm = LLM("demo", **SMALL, generation_config="vllm")
    assert llm.get_default_sampling_params() == SamplingParams()
    assert first(llm, logit_bias={2: 100.0}).finish_reason == "stop"  # its ends of text stay


def test_a_prefix_is_computed_once(llm: LLM) -> None:
    prompt = list(range(100, 150))
    before = complete(llm, prompt)
    after = complete(llm, prompt)
    assert (before.num_cached_tokens, after.num_cached_tokens) == (0, 48)
    assert before.outputs == after.outputs
    without = LLM("demo", **SMALL, enable_prefix_caching=False)
    assert [complete(without, prompt).num_cached_tokens for _ in range(2)] == [0, 0]


def test_what_runs_is_told(llm: LLM) -> None:
    info = llm.info
    assert (info.architecture, info.vocab_size, info.max_model_len) == (
        "LlamaForCausalLM",
        5120,
        256,
    )
    text = "\n".join(info.lines)
    assert "demo: LlamaForCausalLM, 5.4 M parameters" in text
    assert "KV cache: " in text and "kernels: native" in text
    assert info.num_kv_blocks * info.block_tokens >= 256


# --- after an interruption


class Interrupted(BaseException):
    """As Ctrl-C in the middle of a step."""


@pytest.mark.parametrize("error", [Interrupted, RuntimeError])
def test_it_goes_on_after_an_interrupted_step(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    expected = first(llm).text
    run, calls = llm._engine.runner.run, itertools.count()

    def interrupted(plan: Any) -> Any:
        if next(calls) == 3:
            raise error("in the middle")
        return run(plan)

    monkeypatch.setattr(llm._engine.runner, "run", interrupted)
    with pytest.raises(error, match="in the middle"):
        llm.generate([PROMPT] * 10, SamplingParams(**GREEDY), use_tqdm=False)
    monkeypatch.undo()
    assert not llm._engine.has_work
    assert first(llm).text == expected
