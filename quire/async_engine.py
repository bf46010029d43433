"""Runs an engine in a thread of its own and streams its events to coroutines."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from quire.assembly import Assembly, ModelInfo
from quire.config import EngineConfig
from quire.control.plan import Update
from quire.engine import EngineStats
from quire.errors import EngineError, QueueFullError, QuireError, RequestError
from quire.frontend import Completion, Prepared
from quire.outputs import Delta, EmbeddingOutput
from quire.sampling_params import SamplingParams
from quire.text.tokenizer import Tokenizer
from quire.vision.prompt_images import PromptImages
from quire.vision.reader import ImageReader

__all__ = ["AsyncEngine", "RequestStream"]

logger = logging.getLogger(__name__)


Receive = Callable[[Delta | BaseException], None]
"""Takes each delta of a request, or the error that ended it."""


class RequestStream:
    """One request's completions as they grow; iterate over it once, on the event loop.

    receive: takes what there is as it comes, on the event loop; then there is no iteration.
    """

    def __init__(
        self,
        prepared: Prepared,
        cancel: Callable[[RequestStream], None],
        receive: Receive | None = None,
    ) -> None:
        self.request_id = prepared.request_id
        self.prompt_token_ids = prepared.prompt_token_ids
        self.unfinished = {each.request.id: each for each in prepared.completions}
        self._cancel = cancel
        self._receive = receive or self._keep
        self._arrived: deque[Delta | BaseException] = deque()
        self._wake = asyncio.Event()

    def cancel(self) -> None:
        """Stop what still runs; iteration ends with deltas of finish reason "abort"."""
        self._cancel(self)

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """Yield deltas until every completion is finished.

        Raises EngineError if the engine dies, RequestError if it refuses the request.
        """
        while self._arrived or self.unfinished:
            while not self._arrived:
                self._wake.clear()
                await self._wake.wait()
            item = self._arrived.popleft()
            if isinstance(item, BaseException):
                raise item
            yield item

    def deliver(self, update: Update) -> bool:
        """Take an update in; True when the text ended by a stop string while the engine runs on."""
        completion = self.unfinished.get(update.request_id)
        if completion is None:
            return False
        delta = completion.assembler.push(update)
        if delta.finish_reason is not None:
            del self.unfinished[update.request_id]
        self._receive(delta)
        return delta.finish_reason is not None and update.finish_reason is None

    def fail(self, error: BaseException) -> None:
        """End with an error."""
        self.unfinished.clear()
        self._receive(error)

    def _keep(self, item: Delta | BaseException) -> None:
        self._arrived.append(item)
        self._wake.set()


class AsyncEngine:
    """A model that serves many requests at once; every method is called on one event loop."""

    def __init__(self, assembly: Assembly) -> None:
        self._assembly = assembly
        self._engine = assembly.engine
        self._streams: dict[str, RequestStream] = {}
        self._inbox: deque[Callable[[], None]] = deque()
        self._work = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = self._draining = False
        self._stats = self._engine.stats()
        self._num_sent = self._num_taken = self._num_seen = 0  # completions, on their way in
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="quire-engine", daemon=True)
        self._thread.start()

    @classmethod
    def from_config(cls, config: EngineConfig) -> AsyncEngine:
        """Load the model and start its engine; blocks until it is ready."""
        return cls(Assembly(config))

    @property
    def config(self) -> EngineConfig:
        """What the user asked for."""
        return self._assembly.config

    @property
    def info(self) -> ModelInfo:
        """What was made of it."""
        return self._assembly.info

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._assembly.tokenizer

    @property
    def images(self) -> ImageReader:
        """What makes requests' images ready.  Raises RequestError for a model that sees none."""
        return self._assembly.images

    @property
    def default_sampling(self) -> Mapping[str, Any]:
        """SamplingParams fields the model's authors recommend."""
        return self._assembly.default_sampling

    def stats(self) -> EngineStats:
        """Counts and gauges as of the last step."""
        return self._stats

    def expert_usage(self) -> dict[int, list[int]]:
        """Layer with experts → how many tokens each of them has met since the start."""
        usage = self._assembly.model.executable.expert_usage
        return {layer: counts.tolist() for layer, counts in usage.items()}

    def submit(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams,
        *,
        request_id: str | None = None,
        priority: int = 0,
        timeout_s: float | None = None,
        cache_salt: str = "",
        images: PromptImages | None = None,
        receive: Receive | None = None,
    ) -> RequestStream:
        """Start a request; receive: see RequestStream.

        Raises RequestError for a bad field, QueueFullError when too many wait or the engine is
        stopping, EngineError when it has died.
        """
        self._refuse_if_closed(params.n)
        return self._start(
            self._assembly.frontend.prepare(
                prompt, params, request_id, priority, timeout_s, cache_salt, images
            ),
            receive,
        )

    async def embed(
        self, prompt: str | Sequence[int], dimensions: int | None = None
    ) -> EmbeddingOutput:
        """The vector of a text.  Raises as `submit` does."""
        frontend = self._assembly.pooling_frontend
        frontend.check_dimensions(dimensions)
        prepared = frontend.prepare_text(prompt)
        await self._finish(prepared)
        vector = frontend.embedding(prepared, dimensions)
        return EmbeddingOutput(prepared.prompt, prepared.prompt_token_ids, vector.tolist())

    async def score(
        self, query: str, document: str, instruction: str | None = None
    ) -> tuple[float, int]:
        """How well a document matches a query, 0 to 1, and how many tokens that took."""
        frontend = self._assembly.pooling_frontend
        prepare = frontend.prepare_pair  # tokenizes, which takes long for long texts
        prepared = await asyncio.to_thread(prepare, query, document, instruction)
        await self._finish(prepared)
        return frontend.score(prepared), len(prepared.prompt_token_ids)

    async def _finish(self, prepared: Prepared) -> None:
        """Run a request to its end; whoever stops waiting for it stops it."""
        self._refuse_if_closed(1)
        stream = self._start(prepared)
        try:
            async for _ in stream:
                pass
        finally:
            stream.cancel()

    def _start(self, prepared: Prepared, receive: Receive | None = None) -> RequestStream:
        self._loop = asyncio.get_running_loop()
        names = [completion.request.id for completion in prepared.completions]
        taken = next((name for name in names if name in self._streams), None)
        if taken is not None:
            raise RequestError(f"request id {taken!r} is in use; choose another", "request_id")
        self._engine.refuse_impossible(prepared.completions[0].request)
        stream = RequestStream(prepared, self._cancel, receive)
        self._streams.update(dict.fromkeys(names, stream))
        self._num_sent += len(names)
        self._post(lambda: self._submit(stream, prepared.completions))
        return stream

    async def warm(self, params: SamplingParams) -> None:
        """Prepare, off the event loop, what would hold up all others there.

        Raises RequestError for what `submit` would refuse.
        """
        if params.structured_outputs is not None or params.bad_words:
            await asyncio.to_thread(self._assembly.frontend.warm, params)

    async def shutdown(self, drain: bool = True, timeout_s: float = 30.0) -> None:
        """Refuse new requests, finish (or abort) those that run, and stop the thread."""
        self._draining = True
        deadline = time.monotonic() + timeout_s
        while drain and self._streams and self.error is None and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        for stream in set(self._streams.values()):
            self._cancel(stream)
        while self._streams and self.error is None and time.monotonic() < deadline + 5:
            await asyncio.sleep(0.005)
        with self._work:
            self._stopping = True
            self._work.notify()
        await asyncio.to_thread(self._thread.join)

    # On the event loop.

    def _refuse_if_closed(self, count: int) -> None:
        if self.error is not None:
            raise EngineError(f"the engine died: {self.error}") from self.error
        if self._draining:
            raise QueueFullError("the server is shutting down", status=503)
        waiting = self._stats.scheduler.num_waiting + self._num_sent - self._num_seen
        if waiting + count > self.config.max_num_queued_reqs:
            raise QueueFullError(
                f"{waiting} requests are waiting and max_num_queued_reqs is "
                f"{self.config.max_num_queued_reqs}; send this request again later",
                retry_after_s=self._expected_wait_s(),
            )

    def _expected_wait_s(self) -> float:
        """A guess at when the queue moves: how long its oldest request has waited."""
        return max(1.0, self._stats.scheduler.oldest_wait_s)

    def _cancel(self, stream: RequestStream) -> None:
        for request_id in list(stream.unfinished):
            self._post(lambda name=request_id: self._cancel_in_engine(name, "abort"))  # type: ignore[misc]

    def _deliver(self, updates: list[Update]) -> None:
        for update in updates:
            request_id = update.request_id
            stream = self._streams.get(request_id)
            if stream is None:
                continue
            if self._give(stream, update):
                self._post(lambda name=request_id: self._cancel_in_engine(name, "stop"))  # type: ignore[misc]
            if update.finish_reason is not None:
                self._streams.pop(request_id, None)

    def _give(self, stream: RequestStream, update: Update) -> bool:
        """Deliver an update; a bug that one text runs into must not cost the others theirs."""
        try:
            return stream.deliver(update)
        except Exception as error:
            logger.exception("making text for request %s failed", update.request_id)
            self._cancel(stream)
            failure = EngineError("no text could be made of the tokens")
            failure.__cause__ = error
            stream.fail(failure)
            return False

    def _refuse(self, stream: RequestStream, error: BaseException) -> None:
        for request_id in list(stream.unfinished):
            self._streams.pop(request_id, None)
        stream.fail(error)

    def _die(self, error: BaseException) -> None:
        self.error = error
        failure = EngineError(f"the engine died: {type(error).__name__}: {error}")
        failure.__cause__ = error
        for stream in set(self._streams.values()):
            stream.fail(failure)
        self._streams.clear()

    def _post(self, action: Callable[[], None]) -> None:
        with self._work:
            self._inbox.append(action)
            self._work.notify()

    # On the engine's thread.

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                if self._inbox:
                    self._do_inbox()
                if self._engine.has_work:
                    updates = self._engine.step()
                    self._stats = self._engine.stats()
                    self._on_loop(self._deliver, updates)
        except BaseException as error:
            logger.exception("the engine died")
            self.error = error
            self._on_loop(self._die, error)

    def _wait_for_work(self) -> bool:
        with self._work:
            while not (self._inbox or self._engine.has_work or self._stopping):
                self._work.wait()
            return not self._stopping

    def _do_inbox(self) -> None:
        while self._inbox:
            self._inbox.popleft()()
        self._stats = self._engine.stats()
        self._num_seen = self._num_taken  # those that the stats know of

    def _submit(self, stream: RequestStream, completions: Sequence[Completion]) -> None:
        accepted = []
        self._num_taken += len(completions)
        try:
            for completion in completions:
                self._engine.submit(completion.request, completion.state, completion.images)
                accepted.append(completion.request.id)
        except QuireError as error:
            for request_id in accepted:
                self._engine.cancel(request_id)
            self._on_loop(self._refuse, stream, error)

    def _cancel_in_engine(self, request_id: str, reason: str) -> None:
        update = self._engine.cancel(request_id, reason)
        if update is not None:
            self._on_loop(self._deliver, [update])

    def _on_loop(self, function: Callable[..., None], *arguments: Any) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)
