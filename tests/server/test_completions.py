"""POST /v1/completions against a fake engine."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.server.conftest import events, fault
from tests.server.fake_engine import SAYING, FakeEngine

URL = "/v1/completions"


async def complete(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await client.post(URL, json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


def saying(num_tokens: int, index: int = 0) -> str:
    """What a completion of so many bytes says; half a character is not said."""
    return SAYING[index:].encode()[:num_tokens].decode("utf-8", "ignore")


async def test_one_prompt_has_openai_shape(client: httpx.AsyncClient) -> None:
    answer = await complete(client, prompt="Hi", max_tokens=10, user="me")
    assert answer["id"].startswith("cmpl-")
    assert answer["object"] == "text_completion"
    assert answer["model"] == "fake/model"
    assert answer["system_fingerprint"] == "fp_0123456789ab"
    [choice] = answer["choices"]
    assert choice["text"] == saying(10)
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"] is None
    assert answer["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 10,
        "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 2},
    }


async def test_sixteen_tokens_when_not_said(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await complete(client, prompt="Hi")
    assert engine.submitted[0]["params"].max_tokens == 16


@pytest.mark.parametrize(
    ("prompt", "num_choices", "prompt_tokens"),
    [
        ("Hi", 1, 3),
        (["Hi", "Hello"], 2, 9),
        ([72, 105], 1, 2),
        ([[72, 105], [72], [105, 105, 105]], 3, 6),
    ],
)
async def test_prompts_in_every_form(
    client: httpx.AsyncClient, prompt: Any, num_choices: int, prompt_tokens: int
) -> None:
    answer = await complete(client, prompt=prompt, max_tokens=4)
    assert [choice["index"] for choice in answer["choices"]] == list(range(num_choices))
    assert answer["usage"]["prompt_tokens"] == prompt_tokens


async def test_indexes_of_n_completions_of_several_prompts(client: httpx.AsyncClient) -> None:
    answer = await complete(client, prompt=["Hi", "Hello"], n=3, max_tokens=12)
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    assert [choice["text"] for choice in answer["choices"]] == [
        saying(12, i) for i in (0, 1, 2)
    ] * 2
    assert answer["usage"]["completion_tokens"] == 72


@pytest.mark.parametrize("extra", [{}, {"n": 3}, {"echo": True}, {"stop": ["!"], "n": 2}])
async def test_streamed_text_is_the_whole_text(
    client: httpx.AsyncClient, extra: dict[str, Any]
) -> None:
    body = {"prompt": ["Hi", "你好"], "max_tokens": 60, **extra}
    whole = await complete(client, **body)
    chunks = events(await client.post(URL, json={**body, "stream": True}))
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    for chunk in chunks:
        assert chunk["object"] == "text_completion"
        assert "usage" not in chunk
        [choice] = chunk["choices"]
        assert choice["index"] not in reasons
        texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
        if choice["finish_reason"]:
            reasons[choice["index"]] = choice["finish_reason"]
    for choice in whole["choices"]:
        assert texts[choice["index"]] == choice["text"]
        assert reasons[choice["index"]] == choice["finish_reason"]


async def test_stream_options(client: httpx.AsyncClient) -> None:
    body = {"prompt": "Hi", "stream": True, "max_tokens": 5}
    *chunks, last = events(
        await client.post(URL, json={**body, "stream_options": {"include_usage": True}})
    )
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 8
    assert all(chunk["usage"] is None for chunk in chunks)
    always = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, last = events(await client.post(URL, json={**body, "stream_options": always}))
    assert chunks[-1]["usage"] == last["usage"]
    assert chunks[0]["usage"]["completion_tokens"] == 1


async def test_stop_reason(client: httpx.AsyncClient) -> None:
    answer = await complete(client, prompt="Hi", max_tokens=100, stop="!")
    [choice] = answer["choices"]
    assert choice["text"] == SAYING[: SAYING.index("!")]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "!")


async def test_legacy_logprobs_have_exact_offsets(client: httpx.AsyncClient) -> None:
    [choice] = (await complete(client, prompt="Hi", max_tokens=12, logprobs=2))["choices"]
    logprobs = choice["logprobs"]
    assert logprobs["tokens"][:5] == ["G", "r", "bytes:\\xc3", "bytes:\\xbc", "bytes:\\xc3"]
    assert logprobs["text_offset"][:6] == [0, 1, 2, 2, 3, 3]
    assert logprobs["token_logprobs"] == [-0.5] * 12
    assert logprobs["top_logprobs"][0] == {"G": -0.5, "H": -0.1}
    [choice] = (await complete(client, prompt="Hi", max_tokens=3, logprobs=0))["choices"]
    assert choice["logprobs"]["top_logprobs"][0] == {"G": -0.5}


async def test_minus_infinity_is_a_number(client: httpx.AsyncClient) -> None:
    [choice] = (await complete(client, prompt="Hi", max_tokens=1, logprobs=5))["choices"]
    assert min(choice["logprobs"]["top_logprobs"][0].values()) == -9999.0


async def test_scoring_a_prompt(client: httpx.AsyncClient) -> None:
    body = {"prompt": "Hé", "max_tokens": 0, "echo": True, "logprobs": 1}
    answer = await complete(client, **body)
    [choice] = answer["choices"]
    assert choice["text"] == "Hé"
    assert choice["logprobs"]["tokens"] == ["<s>", "H", "bytes:\\xc3", "bytes:\\xa9"]
    assert choice["logprobs"]["token_logprobs"] == [None, -0.5, -0.5, -0.5]
    assert choice["logprobs"]["top_logprobs"][0] is None
    assert choice["logprobs"]["text_offset"] == [0, 0, 1, 1]
    assert answer["usage"]["completion_tokens"] == 0
    [chunk] = events(await client.post(URL, json={**body, "stream": True}))
    assert chunk["choices"] == answer["choices"]


async def test_echo_with_logprobs_covers_prompt_and_output(client: httpx.AsyncClient) -> None:
    body = {"prompt": "Hi", "max_tokens": 4, "echo": True, "logprobs": 1}
    [choice] = (await complete(client, **body))["choices"]
    assert choice["text"] == "Hi" + saying(4)
    assert choice["logprobs"]["text_offset"] == [0, 0, 1, 2, 3, 4, 4]
    chunks = events(await client.post(URL, json={**body, "stream": True}))
    parts = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    for name, whole in choice["logprobs"].items():
        assert [each for part in parts for each in part[name]] == whole


async def test_prompt_logprobs(client: httpx.AsyncClient) -> None:
    answer = await complete(client, prompt="Hi", max_tokens=2, prompt_logprobs=1)
    entries = answer["choices"][0]["prompt_logprobs"]
    assert entries[0] is None
    assert entries[1]["72"] == {"logprob": -0.5, "rank": 2, "decoded_token": ""}
    body = {"prompt": "Hi", "prompt_logprobs": 1, "stream": True}
    fault(await client.post(URL, json=body), 400, "prompt_logprobs")


async def test_token_ids_and_sampling_params_on_request(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.default_sampling = {"temperature": 0.7, "top_k": 40}
    body = {"prompt": "Hi", "max_tokens": 3, "return_token_ids": True, "top_k": 5}
    answer = await complete(client, **body, return_sampling_params=True)
    [choice] = answer["choices"]
    assert choice["prompt_token_ids"] == [256, 72, 105]
    assert choice["token_ids"] == list(SAYING.encode()[:3])
    assert answer["sampling_params"]["temperature"] == 0.7
    assert answer["sampling_params"]["top_k"] == 5
    named = {**body, "logprobs": 1, "return_tokens_as_token_ids": True}
    [choice] = (await complete(client, **named))["choices"]
    assert choice["logprobs"]["tokens"][0] == "token_id:71"


async def test_truncated_prompts(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await complete(client, prompt="abcdef", truncate_prompt_tokens=2)
    assert engine.streams[-1].prompt_token_ids == list(b"ef")
    answer = await complete(client, prompt="x" * 9000, truncate_prompt_tokens=-1, echo=True)
    assert len(engine.streams[-1].prompt_token_ids) == 4096 - 16
    assert answer["choices"][0]["text"].startswith("x" * (4096 - 16))
    fault(await client.post(URL, json={"prompt": "a", "truncate_prompt_tokens": 0}), 400,
          "truncate_prompt_tokens")  # fmt: skip


async def test_what_the_engine_is_told(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await complete(
        client, prompt="Hi", cache_salt="tenant", timeout=2.5, seed=7, min_p=0.1,
        logit_bias={"5": -100}, stop_token_ids=[3], bad_words=["no"], add_special_tokens=False,
        request_id="mine",
    )  # fmt: skip
    told = engine.submitted[0]
    assert (told["priority"], told["timeout_s"], told["salt"]) == (0, 2.5, "tenant")
    params = told["params"]
    assert params.seed == 7
    assert params.logit_bias == {5: -100.0}
    assert params.stop_token_ids == (3,)
    assert params.bad_words == ("no",)
    assert engine.streams[0].prompt_token_ids == list(b"Hi")


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt[1]"),
        ({"prompt": [[1], "a"]}, "prompt[1]"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": [999]}, "prompt"),
        ({"prompt": "x" * 5000}, "prompt"),
        ({"prompt": "x" * 600_000}, "prompt"),
        ({"n": 0}, "n"),
        ({"n": 10**30}, "n"),
        ({"n": True}, "n"),
        ({"prompt": ["a"] * 700, "n": 2}, "prompt"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"seed": 2**70}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": [1]}, "stop[0]"),
        ({"stop": ["a"] * 257}, "stop"),
        ({"bad_words": ["a"] * 4097}, "bad_words"),
        ({"timeout": 0}, "timeout"),
        ({"priority": 2**40}, "priority"),
        ({"priority": 1}, "priority"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"nonsense": 1}, "nonsense"),
        ({"messages": []}, "messages"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_object", "json_schema": {"schema": {}}}},
            "response_format.json_schema",
        ),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
        ({"guided_choice": []}, "guided_choice"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 1000}}, "logit_bias"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
    ],
)
async def test_refusals_name_the_field(
    client: httpx.AsyncClient, engine: FakeEngine, extra: dict[str, Any], param: str
) -> None:
    fault(await client.post(URL, json={"prompt": "Hi", **extra}), 400, param)
    assert not engine.streams or engine.streams[0].cancelled


async def test_neutral_values_of_refused_fields_are_fine(client: httpx.AsyncClient) -> None:
    neutral = {"suffix": None, "best_of": 1, "use_beam_search": False, "length_penalty": 1.0}
    await complete(client, prompt="Hi", **neutral, response_format={"type": "text"})


async def test_null_means_not_given(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    names = ("temperature", "top_p", "n", "stop", "max_tokens", "logit_bias", "stream", "seed")
    await complete(client, prompt="Hi", **dict.fromkeys(names))
    assert engine.submitted[0]["params"].temperature == 1.0
