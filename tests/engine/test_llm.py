"""The blocking API on the demo model: prompts, outputs, options, an end to it."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from quire.errors import RequestError
from quire.llm import LLM
from quire.models.generation import read_generation_defaults
from quire.sampling_params import SamplingParams
from quire.weights.hub import DEMO
from tests.engine.completing import GREEDY, PROMPT, complete, first
from tests.engine.conftest import SMALL

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


def test_variables_reach_the_chat_template(llm: LLM) -> None:
    messages, template = [{"role": "user", "content": "Hello"}], "{{ mood }} {{ tools }}"
    given: dict[str, Any] = {"tools": [{"a": 1}], "chat_template_kwargs": {"mood": "glad"}}
    (one,) = llm.chat(
        messages, SamplingParams(**GREEDY), chat_template=template, use_tqdm=False, **given
    )
    assert llm.get_tokenizer().decode(one.prompt_token_ids) == "glad [{'a': 1}]"


def test_threads_take_turns(llm: LLM) -> None:
    params = SamplingParams(**GREEDY)
    (alone,) = llm.generate("In the beginning", params, use_tqdm=False)
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(
            lambda _: llm.generate("In the beginning", params, use_tqdm=False), range(8)
        )
    assert {each.outputs[0].text for (each,) in found} == {alone.outputs[0].text}


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
    salted = [{"prompt_token_ids": prompt, "cache_salt": salt} for salt in ("", "a", "a")]
    assert [complete(llm, each).num_cached_tokens for each in salted] == [48, 0, 48]
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
