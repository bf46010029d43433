"""One model and an event loop of its own, for commands that print one answer at a time."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from quire.async_engine import AsyncEngine, RequestStream
from quire.config import EngineConfig
from quire.errors import RequestError
from quire.outputs import CompletionOutput, Delta, RequestMetrics, RequestOutput
from quire.sampling_params import SamplingParams

__all__ = ["Answer", "Session"]


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished request, and how long the engine took for it, however slowly it was read."""

    output: RequestOutput
    first_token_s: float
    total_s: float

    @property
    def num_tokens(self) -> int:
        """Tokens generated, in all completions."""
        return sum(len(each.token_ids) for each in self.output.outputs)

    @property
    def tokens_per_s(self) -> float:
        """The rate after the first tokens; 0 when there were no others."""
        seconds = self.total_s - self.first_token_s
        return (self.num_tokens - len(self.output.outputs)) / seconds if seconds > 0 else 0.0

    @property
    def summary(self) -> str:
        """One line of figures."""
        return (
            f"prompt tokens: {len(self.output.prompt_token_ids)}, first token after "
            f"{self.first_token_s * 1000:.0f} ms; output tokens: {self.num_tokens}, "
            f"{self.tokens_per_s:.1f} tok/s"
        )


class Session:
    """An engine that answers in the calling thread; use it in a `with` statement."""

    def __init__(self, config: EngineConfig) -> None:
        self.engine = AsyncEngine.from_config(config)
        self._loop = asyncio.new_event_loop()

    def answer(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams,
        show: Callable[[Delta], None],
    ) -> Answer:
        """Run one request and show its deltas as they come; Ctrl-C ends the request early.

        Raises RequestError for a prompt or parameter that cannot be served, also in the middle.
        """
        return self._loop.run_until_complete(self._answer(prompt, params, show))

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(self.engine.shutdown(drain=False))
        self._loop.close()

    async def _answer(
        self, prompt: str | Sequence[int], params: SamplingParams, show: Callable[[Delta], None]
    ) -> Answer:
        started = time.monotonic()
        stream = self.engine.submit(prompt, params)
        text = prompt if isinstance(prompt, str) else None
        outputs = [CompletionOutput(index) for index in range(params.n)]
        output = RequestOutput(stream.request_id, text, stream.prompt_token_ids, outputs)
        times: dict[int, RequestMetrics] = {}
        with _interrupt_cancels(stream):
            async for delta in stream:
                times[delta.index] = delta.metrics or times.get(delta.index, RequestMetrics())
                output.add(delta)
                show(delta)
        if any(each.finish_reason == "error" for each in outputs):
            raise RequestError(
                "the answer was given up where no token could come next: what one option demands, "
                "another forbids, or the model's numbers are broken"
            )
        last = max(each.finished_s for each in times.values()) or time.monotonic()
        first = min((s for each in times.values() if (s := each.first_token_s)), default=last)
        return Answer(output, first - started, last - started)


@contextlib.contextmanager
def _interrupt_cancels(stream: RequestStream) -> Iterator[None]:
    """Ctrl-C cancels the stream instead of raising KeyboardInterrupt."""
    loop = asyncio.get_running_loop()

    def cancel(*_: object) -> None:
        loop.call_soon_threadsafe(stream.cancel)

    before = signal.signal(signal.SIGINT, cancel)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
