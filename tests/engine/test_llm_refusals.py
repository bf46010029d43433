"""The blocking API: what cannot be honoured is refused by name, before anything runs."""

from __future__ import annotations

from typing import Any

import pytest

from quire.errors import ConfigError, ModelError, RequestError
from quire.llm import LLM
from quire.sampling_params import SamplingParams
from tests.engine.completing import GREEDY, PROMPT, refusal
from tests.engine.conftest import SMALL


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
        ({"prompt": "a", "multi_modal_data": {}}, "multi_modal_data"),
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
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs"),
    ],
    ids=str,
)
def test_parameters_that_do_not_fit_the_model(llm: LLM, params: Any, param: str) -> None:
    assert refusal(llm, **params).param == param


@pytest.mark.parametrize("name", ["enable_thinking", "tools", "chat_template_content_format"])
def test_a_chat_refuses_what_its_template_does_not_read(llm: LLM, name: str) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    for given in ({name: [{}]}, {"chat_template_kwargs": {name: [{}]}}):
        with pytest.raises(RequestError, match="does not read") as caught:
            llm.chat(messages, use_tqdm=False, **given)  # type: ignore[arg-type]
        assert caught.value.param == name


def test_a_bad_prompt_among_good_ones_stops_all_before_anything_runs(llm: LLM) -> None:
    steps = llm._engine.stats().num_steps
    with pytest.raises(RequestError):
        llm.generate([PROMPT, ""], SamplingParams(**GREEDY), use_tqdm=False)
    assert llm._engine.stats().num_steps == steps


def test_a_prompt_too_long_for_one_step_stops_all_before_anything_runs() -> None:
    llm = LLM("demo", **SMALL, enable_chunked_prefill=False, max_num_queued_reqs=1)
    with pytest.raises(RequestError, match="without chunked prefill"):
        llm.generate([PROMPT, [5] * 100], SamplingParams(**GREEDY), use_tqdm=False)
    assert llm._engine.stats().num_steps == 0


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
