"""POST /v1/chat/completions against a fake engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from quire.errors import ConfigError
from tests.server.conftest import Connect, events, fault
from tests.server.fake_engine import SAYING, FakeEngine, FakeTokenizer

URL = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {}}}


async def chat(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await client.post(URL, json={"messages": HELLO, "max_tokens": 10, **body})
    assert response.status_code == 200, response.text
    return dict(response.json())


def prompt_of(engine: FakeEngine) -> str:
    return engine.tokenizer.decode(engine.streams[-1].prompt_token_ids, False)


async def test_answer_has_openai_shape(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    answer = await chat(client)
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    [choice] = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": SAYING[:7], "refusal": None}
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 10
    assert prompt_of(engine) == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"


async def test_no_limit_when_not_said(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await chat(client, max_tokens=None, stop="!")
    assert engine.submitted[0]["params"].max_tokens is None


async def test_stream_is_role_then_text_then_reason_then_usage(client: httpx.AsyncClient) -> None:
    body = {"messages": HELLO, "max_tokens": 20, "stream": True, "n": 2}
    chunks = events(
        await client.post(URL, json={**body, "stream_options": {"include_usage": True}})
    )
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 40
    for index in range(2):
        mine = [c["choices"][0] for c in chunks[:-1] if c["choices"][0]["index"] == index]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert mine[-1]["delta"] == {}
        assert mine[-1]["finish_reason"] == "length"
        assert all(each["finish_reason"] is None for each in mine[:-1])
        text = "".join(each["delta"].get("content", "") for each in mine)
        assert text == SAYING[index:].encode()[:20].decode("utf-8", "ignore")


async def test_logprobs_have_bytes(client: httpx.AsyncClient) -> None:
    answer = await chat(client, logprobs=True, top_logprobs=2, max_tokens=4)
    content = answer["choices"][0]["logprobs"]["content"]
    assert [each["bytes"] for each in content] == [[71], [114], [0xC3], [0xBC]]
    assert content[2]["token"] == "\ufffd"
    top = content[0]["top_logprobs"]
    assert [each["token"] for each in top] == ["H", "G"]
    answer = await chat(client, logprobs=True)
    assert answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


async def test_streamed_logprobs_are_the_whole_ones(client: httpx.AsyncClient) -> None:
    whole = await chat(client, logprobs=True, top_logprobs=1)
    body = {"messages": HELLO, "max_tokens": 10, "logprobs": True, "top_logprobs": 1}
    chunks = events(await client.post(URL, json={**body, "stream": True}))
    parts = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    streamed = [each for part in parts if part for each in part["content"]]
    assert streamed == whole["choices"][0]["logprobs"]["content"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("Hi", "Hi"),
        ([{"type": "text", "text": "Hi"}, {"type": "text", "text": "you"}], "Hi\nyou"),
        (None, ""),
        ([{"type": "refusal", "refusal": "No."}], "No."),
        ("你好\x00👋", "你好\x00👋"),
    ],
)
async def test_contents(
    client: httpx.AsyncClient, engine: FakeEngine, content: Any, text: str
) -> None:
    await chat(client, messages=[{"role": "user", "content": content}])
    assert prompt_of(engine).startswith(f"<|im_start|>user\n{text}<|im_end|>")


async def test_developer_becomes_system(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await chat(client, messages=[{"role": "developer", "content": "Be brief"}])
    assert prompt_of(engine).startswith("<|im_start|>system\nBe brief")


async def test_max_completion_tokens(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await chat(client, max_tokens=None, max_completion_tokens=4)
    assert engine.submitted[-1]["params"].max_tokens == 4
    body = {"messages": HELLO, "max_tokens": 3, "max_completion_tokens": 4}
    fault(await client.post(URL, json=body), 400, "max_completion_tokens")


async def test_continuing_the_final_message(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    messages = [*HELLO, {"role": "assistant", "content": "Well,"}]
    go_on = {"continue_final_message": True, "add_generation_prompt": False}
    answer = await chat(client, messages=messages, echo=True, **go_on)
    assert prompt_of(engine).endswith("<|im_start|>assistant\nWell,")
    assert answer["choices"][0]["message"]["content"].startswith("Well,Gr")
    body = {"messages": messages, "max_tokens": 10, "echo": True, "stream": True, **go_on}
    chunks = events(await client.post(URL, json=body))
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == answer["choices"][0]["message"]["content"]


async def test_tools_are_shown_but_calls_are_not_promised(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await chat(client, tools=[TOOL], tool_choice="none")
    assert '"look"' in prompt_of(engine)
    await chat(client, tools=[], tool_choice="auto")
    for choice in (None, "auto", "required", TOOL):
        body = {"messages": HELLO, "tools": [TOOL], "tool_choice": choice}
        assert "not parsed yet" in fault(await client.post(URL, json=body), 400, "tool_choice")


async def test_template_variables(connect: Connect, engine: FakeEngine) -> None:
    client = connect(default_chat_template_kwargs={"mood": "[calm]"})
    await chat(client)
    assert "[calm]" in prompt_of(engine)
    await chat(client, chat_template_kwargs={"mood": "[glad]"})
    assert "[glad]" in prompt_of(engine)
    body = {"messages": HELLO, "chat_template_kwargs": {"enable_thinking": False}}
    assert "enable_thinking" in fault(
        await client.post(URL, json=body), 400, "chat_template_kwargs"
    )
    fault(await client.post(URL, json={"messages": HELLO, "reasoning_effort": "low"}), 400,
          "reasoning_effort")  # fmt: skip
    fault(await client.post(URL, json={"messages": HELLO, "documents": [{}]}), 400, "documents")


async def test_templates_of_requests_need_trust(connect: Connect, engine: FakeEngine) -> None:
    body = {"messages": HELLO, "chat_template": "{{ messages[0].content }}!"}
    fault(await connect().post(URL, json=body), 400, "chat_template")
    trusting = connect(trust_request_chat_template=True)
    await chat(trusting, **body)
    assert prompt_of(engine) == "Hello!"
    broken = {"messages": HELLO, "chat_template": "{% if %}"}
    fault(await trusting.post(URL, json=broken), 400, "chat_template")


async def test_template_of_the_operator(
    connect: Connect, engine: FakeEngine, tmp_path: Path
) -> None:
    path = tmp_path / "template.jinja"
    path.write_text("> {{ messages[0].content }}")
    await chat(connect(chat_template=str(path)))
    assert prompt_of(engine) == "> Hello"
    path.write_text("{% if %}")
    with pytest.raises(ConfigError, match="chat-template"):
        connect(chat_template=str(path))
    with pytest.raises(ConfigError, match="does not read 'wrong'"):
        connect(default_chat_template_kwargs={"wrong": 1})
    with pytest.raises(ConfigError, match="cannot be read"):
        connect(chat_template=str(tmp_path / "none"))


async def test_model_without_template(connect: Connect, engine: FakeEngine) -> None:
    engine.tokenizer = FakeTokenizer(chat_template=None)
    body = {"messages": HELLO}
    assert "no chat template" in fault(await connect().post(URL, json=body), 400, "messages")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": [{"content": "Hello"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "nonsense": 1}]}, "messages[0].nonsense"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
         "messages[0].content[0].image_url.url"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
         "messages[0].content[0].image_url"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "data:"}]}]},
         "messages"),
        ({"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:", "detail": "low"}}]}]},
         "messages[0].content[0].image_url.detail"),
        ({"messages": [{"role": "user", "content": [
            {"type": "text", "text": "", "image_url": ""}]}]},
         "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]},
         "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]},
         "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "function_call": {}}]}, "messages[0].function_call"),
        ({"messages": HELLO, "functions": [{}]}, "functions"),
        ({"messages": HELLO, "modalities": ["audio"]}, "modalities"),
        ({"messages": HELLO, "audio": {}}, "audio"),
        ({"messages": HELLO, "top_logprobs": 2}, "top_logprobs"),
        ({"messages": HELLO, "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"messages": HELLO, "logprobs": 3}, "logprobs"),
        ({"messages": HELLO, "prompt": "x"}, "prompt"),
        ({"messages": HELLO, "web_search_options": {}}, "web_search_options"),
        ({"messages": HELLO, "continue_final_message": True}, "continue_final_message"),
        ({"messages": HELLO, "chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"messages": HELLO, "chat_template_kwargs": {"tools": [TOOL]}}, "chat_template_kwargs"),
        ({"messages": HELLO, "chat_template_kwargs": {"": 1}}, "chat_template_kwargs"),
        ({"messages": HELLO, "max_tokens": 0}, "max_tokens"),
        ({"messages": HELLO, "max_completion_tokens": -1}, "max_completion_tokens"),
    ],
)  # fmt: skip
async def test_refusals_name_the_field(
    client: httpx.AsyncClient, body: dict[str, Any], param: str
) -> None:
    fault(await client.post(URL, json=body), 400, param)


async def test_accepted_fields_change_nothing(client: httpx.AsyncClient) -> None:
    plain = await chat(client)
    accepted = {
        "user": "me", "metadata": {"a": "b"}, "service_tier": "auto", "store": True,
        "cache_prompt": True, "safety_identifier": "x", "prompt_cache_key": "k",
        "parallel_tool_calls": True, "modalities": ["text"], "tool_choice": "none",
        "logprobs": False, "top_logprobs": 0,
    }  # fmt: skip
    assert (await chat(client, **accepted))["choices"] == plain["choices"]
