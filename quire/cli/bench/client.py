"""Sends one benchmark request to an OpenAI endpoint and notes when its tokens arrive."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from quire.cli.bench.datasets import BenchRequest
from quire.cli.bench.http_stream import HttpError, Server

__all__ = ["Backend", "Client", "Outcome"]

Backend = Literal["openai", "openai-chat"]


@dataclass(slots=True)
class Outcome:
    """What became of one request; seconds, started_s by `time.perf_counter()`.

    arrivals_s: when text came, each after the start.  error: why it failed, "" if it did not.
    """

    started_s: float = 0.0
    arrivals_s: list[float] = field(default_factory=list)
    latency_s: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    text: str = ""
    error: str = ""

    @property
    def first_token_s(self) -> float:
        """Time to first token."""
        return self.arrivals_s[0] if self.arrivals_s else self.latency_s

    @property
    def gaps_s(self) -> list[float]:
        """Times between arrivals."""
        return [b - a for a, b in zip(self.arrivals_s, self.arrivals_s[1:], strict=False)]

    @property
    def per_token_s(self) -> float:
        """Time per output token, the first left out."""
        rest = self.output_tokens - 1
        return (self.latency_s - self.first_token_s) / rest if rest > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Client:
    """An endpoint of a server, and what every request to it says."""

    server: Server
    backend: Backend
    endpoint: str
    model: str
    settings: Mapping[str, Any]

    async def send(self, request: BenchRequest) -> Outcome:
        """Send the request and read its stream to the end; failures are noted, not raised."""
        outcome = Outcome(started_s=time.perf_counter())
        done = False
        try:
            async for line in self.server.post_lines(self.endpoint, self._body(request)):
                if line == b"data: [DONE]":
                    done = True
                elif line.startswith(b"data: "):
                    self._take(json.loads(line[6:]), outcome)
            if not done:
                outcome.error = "the stream ended early"
            elif not outcome.arrivals_s and not outcome.output_tokens:
                outcome.error = "the stream held no token"
        except (HttpError, OSError, ValueError) as error:
            outcome.error = str(error) or type(error).__name__
        return outcome

    def _body(self, request: BenchRequest) -> dict[str, Any]:
        body = {
            "model": self.model,
            "max_tokens": request.output_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.settings,
        }
        if self.backend == "openai":
            return {**body, "prompt": request.prompt}
        return {**body, "messages": [{"role": "user", "content": request.prompt}]}

    def _take(self, chunk: Mapping[str, Any], outcome: Outcome) -> None:
        now = time.perf_counter() - outcome.started_s
        if chunk.get("error"):
            raise HttpError(f"the stream ends with an error: {chunk['error']}")
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            text = choice.get("text") or delta.get("content") or delta.get("reasoning_content")
            # A token may add no text of its own, but the role at the start of a chat is no token.
            if text or ("text" in choice and choice.get("finish_reason") is None):
                outcome.arrivals_s.append(now)
                outcome.text += text or ""
            outcome.latency_s = now
        if usage := chunk.get("usage"):
            outcome.prompt_tokens = usage["prompt_tokens"]
            outcome.output_tokens = usage["completion_tokens"]
