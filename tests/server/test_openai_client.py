"""The official client and damaged ones against a real server process with the demo model."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from quire import LLM, SamplingParams
from tests.server.live_server import LiveServer

PROMPTS = ["In the beginning", "It was a dark night", "天地玄黄", "She said: ", "To be, or not"]
GREEDY = {"temperature": 0.0, "extra_body": {"repetition_penalty": 1.0, "ignore_eos": True}}


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with LiveServer() as server:
        yield server


@pytest.fixture
def client(server: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture
def async_client(server: LiveServer) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def offline() -> LLM:
    return LLM("demo")


def test_ready_in_time(server: LiveServer, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\nfrom exec to /health 200: {server.ready_s:.2f} s")
    assert server.ready_s < 60  # a busy machine; on an idle one it is below one second


def test_completion_equals_the_offline_text(client: openai.OpenAI, offline: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    wanted = [output.outputs[0].text for output in offline.generate(PROMPTS, params, False)]
    answer = client.completions.create(model="demo", prompt=PROMPTS, max_tokens=40, **GREEDY)
    assert [choice.text for choice in answer.choices] == wanted
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 40 * len(PROMPTS)


def test_streamed_chat_is_the_whole_chat(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Tell me of the sea. 讲讲大海。"}]
    asked: dict[str, Any] = {"model": "demo", "messages": messages, "max_tokens": 60, "seed": 5}
    whole = client.chat.completions.create(**asked, n=2)
    texts = ["", ""]
    stream = client.chat.completions.create(
        **asked, n=2, stream=True, stream_options={"include_usage": True}
    )
    usage = None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]
    assert usage is not None and whole.usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_logprobs(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Hello"}]
    answer = client.chat.completions.create(
        model="demo", messages=messages, max_tokens=5, logprobs=True, top_logprobs=3, **GREEDY
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    for entry in logprobs.content:
        assert entry.bytes is not None
        assert bytes(entry.bytes).decode("utf-8", "replace") == entry.token
        assert len(entry.top_logprobs) == 3
        assert entry.logprob == entry.top_logprobs[0].logprob  # greedy takes the likeliest
        assert entry.logprob <= 0


def test_prompt_scores_agree_with_the_output_s(client: openai.OpenAI) -> None:
    said = client.completions.create(
        model="demo", prompt=PROMPTS[0], max_tokens=8, logprobs=1, **GREEDY
    ).choices[0]
    scored = client.completions.create(
        model="demo", prompt=PROMPTS[0] + said.text, max_tokens=0, echo=True, logprobs=1
    ).choices[0]
    assert said.logprobs and said.logprobs.token_logprobs
    assert scored.logprobs and scored.logprobs.token_logprobs
    assert scored.text == PROMPTS[0] + said.text
    assert scored.logprobs.token_logprobs[-8:] == pytest.approx(
        said.logprobs.token_logprobs, abs=0.02
    )


async def test_many_at_once(async_client: openai.AsyncOpenAI, offline: LLM) -> None:
    prompts = [f"{PROMPTS[n % 5]} {n}" for n in range(32)]
    params = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
    wanted = [output.outputs[0].text for output in offline.generate(prompts, params, False)]

    async def one(n: int) -> str:
        asked: dict[str, Any] = {"model": "demo", "prompt": prompts[n], "max_tokens": 24}
        if n % 2:
            answer = await async_client.completions.create(**asked, **GREEDY)
            return str(answer.choices[0].text)
        text = ""
        async for chunk in await async_client.completions.create(**asked, stream=True, **GREEDY):
            text += chunk.choices[0].text
        return text

    assert await asyncio.gather(*map(one, range(32))) == wanted


def running(server: LiveServer) -> float:
    text = httpx.get(f"{server.url}/metrics").text
    [line] = [line for line in text.splitlines() if line.startswith("vllm:num_requests_running")]
    return float(line.rpartition(" ")[2])


def wait_until_idle(server: LiveServer, within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while running(server):
        assert time.monotonic() < deadline, "requests are still running"
        time.sleep(0.02)


async def test_leaving_in_the_middle(server: LiveServer, async_client: openai.AsyncOpenAI) -> None:
    async def leave(n: int) -> None:
        stream = await async_client.completions.create(
            model="demo", prompt=PROMPTS[n % 5], max_tokens=900, stream=True, **GREEDY
        )
        async for _ in stream:
            break
        await stream.close()

    await asyncio.gather(*map(leave, range(16)))
    with pytest.raises(openai.APITimeoutError):
        await async_client.completions.create(
            model="demo", prompt="x", max_tokens=900, timeout=0.05, **GREEDY
        )
    wait_until_idle(server)


def send_raw(server: LiveServer, content: bytes) -> socket.socket:
    """A connection that has sent these bytes."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # so that writers notice
    connection.connect((host, int(port)))
    connection.sendall(content)
    return connection


def post(body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n"
    return head.encode() + b"content-type: application/json\r\n\r\n" + content


@pytest.mark.parametrize(
    "content",
    [
        b"\x00\xff\x17nonsense\r\n\r\n",
        b"GET /health HTTP/9.9\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{",
        post({"prompt": "a"})[:-3],
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_damaged_connections_harm_nobody(server: LiveServer, content: bytes) -> None:
    send_raw(server, content).close()
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_errors_reach_the_client_as_its_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.completions.create(model="demo", prompt="a", temperature=-1)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="other", prompt="a")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="unknown field"):
        client.completions.create(model="demo", prompt="a", extra_body={"nonsense": 1})


def test_a_client_that_stops_reading_blocks_nobody() -> None:
    with LiveServer("--write-timeout", "1") as server:
        body = {"prompt": "a", "n": 16, "max_tokens": 900, "stream": True, "logprobs": 20}
        connection = send_raw(server, post({**body, "ignore_eos": True}))
        other = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        assert other.completions.create(model="demo", prompt="b", max_tokens=8).choices[0].text
        wait_until_idle(server, 60)
        assert 'finished_reason="abort"} 16' in httpx.get(f"{server.url}/metrics").text
        connection.close()


def test_stopping_lets_requests_finish() -> None:
    with LiveServer("--shutdown-timeout", "120") as server:
        body = {"prompt": "a", "n": 8, "max_tokens": 600, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            server.stop()
            while httpx.get(f"{server.url}/ready").status_code == 200:
                time.sleep(0.01)
            refused = httpx.post(f"{server.url}/v1/completions", json=body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert (
            json.loads(rest[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
        )
        assert server.exit_code() == 0


def test_stopping_aborts_what_takes_too_long() -> None:
    with LiveServer("--shutdown-timeout", "0.3") as server:
        body = {"prompt": "a", "n": 64, "max_tokens": 1000, "ignore_eos": True}
        connection = send_raw(server, post(body))
        while not running(server):
            time.sleep(0.01)
        server.stop()
        answer = httpx.Response(200, content=_read_all(connection).partition(b"\r\n\r\n")[2])
        reasons = {choice["finish_reason"] for choice in answer.json()["choices"]}
        assert "abort" in reasons
        assert server.exit_code() == 0


def test_a_second_signal_ends_at_once() -> None:
    with LiveServer() as server:
        connection = send_raw(
            server, post({"prompt": "a", "n": 64, "max_tokens": 1000, "ignore_eos": True})
        )
        while not running(server):
            time.sleep(0.01)
        server.stop(signal.SIGINT)
        time.sleep(0.3)
        server.stop(signal.SIGTERM)
        assert server.exit_code(5) == 128 + signal.SIGTERM
        connection.close()


def test_a_taken_port_is_known_before_the_model_is_loaded(server: LiveServer) -> None:
    port = server.url.rpartition(":")[2]
    with pytest.raises(AssertionError, match="cannot listen"), LiveServer("--port", port):
        pass


def _read_all(connection: socket.socket) -> bytes:
    connection.settimeout(20)
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)
