"""Clients that go away, and clients that stop reading."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from starlette.types import Message

from quire.outputs import Delta
from quire.server.app import build_app
from quire.server.config import ServerConfig
from quire.server.mailbox import Mailbox
from tests.server.fake_engine import SAYING, FakeEngine

SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/v1/completions",
    "raw_path": b"/v1/completions",
    "query_string": b"",
    "root_path": "",
    "scheme": "http",
    "http_version": "1.1",
    "headers": [(b"content-type", b"application/json")],
    "client": ("127.0.0.1", 1),
    "server": ("127.0.0.1", 2),
}


class Exchange:
    """One request whose client can leave, and can refuse to take more than some messages."""

    def __init__(self, engine: FakeEngine, body: dict[str, Any], **options: Any) -> None:
        self.left = asyncio.Event()
        self.reading = asyncio.Event()
        self.reading.set()
        self.sent: list[Message] = []
        self._body: bytes | None = json.dumps(body).encode()
        self.app = build_app(engine, ServerConfig(**options))
        self.task = asyncio.ensure_future(self.app(dict(SCOPE), self._receive, self._send))

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await self.reading.wait()
        self.sent.append(message)

    async def until(self, condition: Any) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_cancels_within_a_step(engine: FakeEngine, stream: bool) -> None:
    engine.hang_after = 5
    exchange = Exchange(engine, {"prompt": ["a", "b"], "max_tokens": 500, "stream": stream})
    await exchange.until(lambda: sum(each.num_steps for each in engine.streams) == 10)
    exchange.left.set()
    await asyncio.wait_for(exchange.task, 30)
    assert all(each.cancelled for each in engine.streams)
    state = exchange.app.state.server
    assert state.metrics.num_active == 0
    assert not state.generations
    assert 'finished_reason="abort"} 2' in state.metrics.expose()
    await asyncio.gather(*(each.run for each in engine.streams))  # what came late hurt nobody


async def test_leaving_while_the_engine_is_frozen(engine: FakeEngine) -> None:
    engine.hang_after = 0
    engine.token_delay_s = 60
    exchange = Exchange(engine, {"prompt": "a", "stream": True})
    await exchange.until(lambda: engine.streams)
    exchange.left.set()
    await asyncio.wait_for(exchange.task, 30)


async def test_a_client_that_stops_reading_is_dropped(engine: FakeEngine) -> None:
    engine.token_delay_s = 0.001
    exchange = Exchange(
        engine, {"prompt": "a", "max_tokens": 2000, "stream": True}, write_timeout=0.2
    )
    await exchange.until(lambda: len(exchange.sent) > 3)
    exchange.reading.clear()
    await asyncio.wait_for(exchange.task, 30)
    assert engine.streams[0].cancelled


async def test_a_slow_client_gets_few_large_chunks(engine: FakeEngine) -> None:
    exchange = Exchange(engine, {"prompt": "a", "max_tokens": 1000, "stream": True})
    await exchange.until(lambda: len(exchange.sent) > 3)
    exchange.reading.clear()
    await exchange.until(lambda: engine.streams[0].over)
    before = len(exchange.sent)
    exchange.reading.set()
    await exchange.task
    assert len(exchange.sent) - before < 10
    body = b"".join(message.get("body", b"") for message in exchange.sent).decode()
    lines = [line.removeprefix("data: ") for line in body.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    text = "".join(json.loads(line)["choices"][0]["text"] for line in lines)
    assert text == SAYING.encode()[:1000].decode("utf-8", "ignore")


async def test_stopping_answers_with_what_there_is(engine: FakeEngine) -> None:
    engine.hang_after = 5
    exchange = Exchange(engine, {"prompt": "a", "max_tokens": 500})
    await exchange.until(lambda: engine.streams and engine.streams[0].num_steps == 5)
    exchange.app.state.server.stop_generations()
    await asyncio.wait_for(exchange.task, 30)
    [choice] = json.loads(exchange.sent[1]["body"])["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("Grü", "abort")


async def test_mailbox_merges_what_waits() -> None:
    mailbox = Mailbox(2)
    for n in range(1000):
        mailbox.put(0, Delta(0, str(n % 10), (n,), logprobs=({},)))
    mailbox.put(0, Delta(1, "x", (1,)))
    mailbox.put(1, Delta(0, "y", (1,), finish_reason="stop"))
    taken = await mailbox.take()
    assert [(source, delta.index) for source, delta in taken] == [(0, 0), (0, 1), (1, 0)]
    first = taken[0][1]
    assert (len(first.text), len(first.token_ids), len(first.logprobs or ())) == (1000, 1000, 1000)
    assert first.text == "0123456789" * 100
    mailbox.close_source()
    mailbox.put(0, Delta(0, "z", (1,)))
    mailbox.close_source(ValueError("late"))
    assert len(await mailbox.take()) == 1
    with pytest.raises(ValueError, match="late"):
        await mailbox.take()
