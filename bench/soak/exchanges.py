"""The kinds of HTTP exchange of a soak: each knows what a sound server answers.

Everything is one of four: generated text, a stream that the client leaves, a request that must be
refused, or bytes that are hardly HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

from quire.cli.bench.http_stream import HttpError, Server

__all__ = ["EXCHANGES", "Exchange", "Unexpected", "Visitor"]

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
WORDS = (
    *("in", "the", "beginning", "was", "a", "small", "white", "house", "near", "every", "river"),
    *("道", "可", "非", "常", "名", "😀", "said"),
)
FULL = 429


class Unexpected(Exception):
    """The server did what a sound one would not have done."""


class Visitor:
    """What the exchanges share: a server, prompts, and what was said before to the same question.

    longest: about so many words have the longest prompts.
    """

    def __init__(self, server: Server, seed: int, longest: int) -> None:
        self.server = server
        self.random = random.Random(seed)
        self.num_full = 0
        self._longest = longest
        self._stems = [self.words(longest // 2) for _ in range(3)]
        self._said: dict[str, Any] = {}

    def words(self, count: int) -> str:
        """A prompt that nobody had before."""
        return " ".join(self.random.choices(WORDS, k=count))

    def prompt(self) -> str:
        """Short, long, or one that begins like others."""
        length = self.random.choice([1, 8, 8, 30, self._longest])
        if self.random.random() < 0.4:
            return f"{self.random.choice(self._stems)} {self.words(8)}"
        return self.words(length)

    def body(self, **fields: Any) -> dict[str, Any]:
        """A completion request with sampling parameters of all kinds."""
        found = {
            "prompt": self.prompt(),
            "max_tokens": self.random.choice([1, 4, 16, 60]),
            "temperature": self.random.choice([0.0, 0.7, 1.0]),
            "top_p": self.random.choice([1.0, 0.9]),
            "repetition_penalty": self.random.choice([1.0, 1.0, 1.2]),
            "logit_bias": self.random.choice([{}, {}, {"7": 2.0}]),
        }
        return {**found, **fields}

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The answer, or None if the queue is full, which is no fault."""
        lines = [line async for line in self._lines(path, body)]
        return json.loads(b"".join(lines)) if lines else None

    async def stream(self, path: str, body: Mapping[str, Any], most: int = 10**9) -> list[Any]:
        """At most so many chunks of a stream; it is left where there are more."""
        chunks: list[Any] = []
        done = False
        async with contextlib.aclosing(self._lines(path, {**body, "stream": True})) as lines:
            async for line in lines:
                done = done or line == b"data: [DONE]"
                if done or not line.startswith(b"data: "):
                    continue
                chunks.append(json.loads(line[6:]))
                expect("error" not in chunks[-1], f"a stream brings {chunks[-1]}")
                if len(chunks) >= most:
                    return chunks
        expect(done or not chunks, "a stream ended early")
        return chunks

    async def _lines(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        try:
            async with contextlib.aclosing(self.server.post_lines(path, body)) as lines:
                async for line in lines:
                    yield line
        except HttpError as error:
            if error.status != FULL:
                raise
            self.num_full += 1

    async def refused(self, path: str, body: Any, *statuses: int) -> None:
        """The server answers with one of these, and says why."""
        try:
            async for _ in self.server.post_lines(path, body):
                pass
        except HttpError as error:
            expect(error.status in (*statuses, FULL), f"{body} answers {error}")
            return
        raise Unexpected(f"{str(body)[:200]} was answered")

    def same_as_before(self, question: Mapping[str, Any], answer: Any) -> None:
        """Whatever else the server did in between."""
        key = json.dumps(question, sort_keys=True)
        before = self._said.setdefault(key, answer)
        expect(answer == before, f"{key} was answered with {before!r}, and now {answer!r}")


def expect(good: bool, otherwise: str) -> None:
    """Raise Unexpected if it is not good."""
    if not good:
        raise Unexpected(otherwise)


Exchange = Callable[[Visitor], Awaitable[None]]


# --- text


async def completion(visitor: Visitor) -> None:
    """A whole answer with several choices and log-probabilities."""
    n = visitor.random.choice([1, 1, 2, 4])
    logprobs = visitor.random.choice([None, None, 0, 5])
    body = visitor.body(
        n=n, logprobs=logprobs, prompt_logprobs=visitor.random.choice([None] * 3 + [2])
    )
    answer = await visitor.post(COMPLETIONS, body)
    if answer is None:
        return
    choices = answer["choices"]
    expect([each["index"] for each in choices] == list(range(n)), f"{body} has {len(choices)}")
    expect(all(each["finish_reason"] in ("stop", "length") for each in choices), str(answer))
    expect((choices[0]["logprobs"] is None) == (logprobs is None), str(answer))


async def stream(visitor: Visitor) -> None:
    """A chat that streams, with usage at the end."""
    messages = [{"role": "user", "content": visitor.prompt()}]
    options = {"include_usage": True}
    body = {"messages": messages, "max_tokens": 30, "stream_options": options}
    chunks = await visitor.stream(CHAT, body)
    expect(not chunks or chunks[-1]["usage"]["completion_tokens"] > 0, "no usage")


async def stop(visitor: Visitor) -> None:
    """Stop strings, which are found in the text while the engine runs on."""
    body = visitor.body(stop=["e", "，"], max_tokens=60, n=visitor.random.choice([1, 2]))
    for choice in (await visitor.post(COMPLETIONS, body) or {"choices": []})["choices"]:
        expect("e" not in choice["text"], f"a stop string is in {choice['text']!r}")


async def grammar(visitor: Visitor) -> None:
    """A choice that a grammar leaves."""
    choices = ["yes", "no", "perhaps"]
    body = visitor.body(structured_outputs={"choice": choices}, max_tokens=30)
    answer = await visitor.post(COMPLETIONS, body)
    expect(answer is None or answer["choices"][0]["text"] in choices, str(answer))


async def known_question(visitor: Visitor) -> None:
    """One of a few requests with seeds, each answered as it was the first time."""
    number = visitor.random.randrange(12)
    body = {
        "prompt": " ".join(WORDS[number:] * (1 + number)),
        "seed": number,
        "max_tokens": 24,
        "temperature": (number % 3) / 2,
        "presence_penalty": 0.5 * (number % 2),
        "logprobs": 1,
    }
    answer = await visitor.post(COMPLETIONS, body)
    if answer is not None:
        visitor.same_as_before(body, answer["choices"])


# --- clients that leave


async def leave_stream(visitor: Visitor) -> None:
    """Read a little of a long stream and hang up."""
    body = visitor.body(max_tokens=400, ignore_eos=True, n=visitor.random.choice([1, 3]))
    await visitor.stream(COMPLETIONS, body, most=visitor.random.randrange(1, 12))


async def leave_answer(visitor: Visitor) -> None:
    """Hang up while the whole answer is still to come, at any time."""
    body = visitor.body(max_tokens=400, ignore_eos=True)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(visitor.post(COMPLETIONS, body), visitor.random.random())


async def late(visitor: Visitor) -> None:
    """A deadline of the request's own."""
    body = visitor.body(max_tokens=400, ignore_eos=True, timeout=0.05)
    answer = await visitor.post(COMPLETIONS, body)
    reasons = {each["finish_reason"] for each in answer["choices"]} if answer else set()
    expect(reasons <= {"abort", "length"}, f"a request that came too late ended with {reasons}")


# --- what must be refused


async def malformed(visitor: Visitor) -> None:
    """Bodies that no server should take."""
    cases: list[tuple[str, Any, int]] = [
        (COMPLETIONS, {"prompt": "a", "tempreature": 1}, 400),
        (COMPLETIONS, {"prompt": "a", "max_tokens": "many"}, 400),
        (COMPLETIONS, {"prompt": "a", "temperature": -1}, 400),
        (COMPLETIONS, {"prompt": "a", "best_of": 7}, 400),
        (COMPLETIONS, {"prompt": "a", "model": "nobody"}, 404),
        (COMPLETIONS, {"prompt": [10**9]}, 400),
        (COMPLETIONS, {"prompt": "word " * 100_000}, 400),
        (COMPLETIONS, {"prompt": "a", "structured_outputs": {"regex": "("}}, 400),
        (COMPLETIONS, {"prompt": "a", "logprobs": 10**6}, 400),
        (COMPLETIONS, [], 400),
        (CHAT, {"messages": []}, 400),
        (CHAT, {"messages": [{"role": "user", "content": "a"}], "tools": [{}]}, 400),
        ("/v1/nothing", {}, 404),
    ]
    path, body, status = visitor.random.choice(cases)
    await visitor.refused(path, body, status)


async def garbage(visitor: Visitor) -> None:
    """Bytes that are hardly HTTP, and half a request."""
    pieces = [
        b"\x16\x03\x01\x02\x00" * 9,
        b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{",
        b"GET / HTTP/1.1\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n\xff\xfe{]}",
        b"",
    ]
    reader, writer = await asyncio.open_connection(visitor.server.host, visitor.server.port)
    try:
        writer.write(visitor.random.choice(pieces))
        await writer.drain()
        await asyncio.wait_for(reader.read(1000), 0.2)
    except (TimeoutError, OSError):
        pass
    finally:
        writer.close()


async def look(visitor: Visitor) -> None:
    """What monitoring asks for."""
    path = visitor.random.choice(["/health", "/metrics", "/v1/models", "/server_info"])
    await visitor.server.get_text(path)


EXCHANGES: Mapping[Exchange, int] = {
    completion: 8, stream: 6, stop: 3, grammar: 1, known_question: 6,
    leave_stream: 4, leave_answer: 2, late: 1, malformed: 2, garbage: 1, look: 1,
}  # fmt: skip
"""Each kind of exchange and how often it comes."""
