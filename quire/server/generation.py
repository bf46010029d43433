"""Runs the prompts of one HTTP request on the engine: counted, merged, and cancelled together."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial

from starlette.requests import Request

from quire.errors import EngineError, QuireError, RequestError
from quire.outputs import Delta
from quire.sampling_params import SamplingParams
from quire.server.disconnect import unless_disconnected
from quire.server.engine_protocol import Stream
from quire.server.mailbox import Mailbox
from quire.server.prompts import Prompt
from quire.server.protocol.sampling import GenerationRequest
from quire.server.protocol.usage import PromptTokensDetails, Usage
from quire.server.request_meter import RequestMeter
from quire.server.sampling import form_field
from quire.server.state import ServerState

__all__ = ["Generation", "warm"]

BLIND_POLICIES = ("fcfs", "shortest_remaining")  # those that do not look at priorities

logger = logging.getLogger(__name__)


async def warm(state: ServerState, params: SamplingParams, request: GenerationRequest) -> None:
    """Let the engine prepare for a request what takes long; errors use the client's own names."""
    try:
        await state.engine.warm(params)
    except RequestError as error:
        if error.param == "structured_outputs":
            error.param = form_field(request)
        raise


class Generation:
    """All completions of one request; submitted when made, iterated over once.

    keep_output False throws the generated token away (max_tokens 0).
    Raises RequestError, QueueFullError or EngineError; then nothing stays submitted.
    """

    def __init__(
        self,
        state: ServerState,
        prompts: Sequence[Prompt],
        params: SamplingParams,
        request: GenerationRequest,
        keep_output: bool = True,
    ) -> None:
        state.refuse_if_stopping()
        self._running = state.generations
        _check(state, len(prompts), params, request)
        self.prompts = prompts
        self.params = params
        self._keep_output = keep_output
        self._form_field = form_field(request)
        self._num_cached = [0] * len(prompts)
        self._unfinished = dict.fromkeys(range(len(prompts)), params.n)  # completions, by prompt
        self._mailbox = Mailbox(len(prompts))
        self._streams: list[Stream] = []
        self._meters: list[RequestMeter] = []
        self._running.add(self)
        try:
            for prompt in prompts:
                self._submit(state, prompt, request)
        except BaseException:
            self.cancel()
            raise

    async def batches(self) -> AsyncIterator[list[tuple[int, Delta]]]:
        """What is new, as often as the caller asks: pairs of prompt number and delta."""
        try:
            while batch := await self._mailbox.take():
                yield batch
        finally:
            self.cancel()

    async def collect(self, request: Request) -> list[tuple[int, Delta]]:
        """Every completion as one delta, by prompt and index, when all are finished.

        Raises ClientDisconnect if the client does not wait for it.
        """
        try:
            return await unless_disconnected(request, self._mailbox.take_all())
        finally:
            self.cancel()

    def stop(self) -> None:
        """Ask the engine to end; the caller gets what there is, with finish reason "abort"."""
        for stream in self._streams:
            stream.cancel()

    def cancel(self) -> None:
        """Drop what still runs; harmless when nothing does."""
        self._running.discard(self)
        self._unfinished.clear()
        self.stop()
        for meter in self._meters:
            meter.close()

    def usage(self, num_output: int) -> Usage:
        """What the request has cost when `num_output` tokens have been generated."""
        num_prompt = sum(len(prompt.token_ids) for prompt in self.prompts)
        details = PromptTokensDetails(sum(self._num_cached))
        return Usage(num_prompt, num_output, num_prompt + num_output, details)

    def _submit(self, state: ServerState, prompt: Prompt, request: GenerationRequest) -> None:
        stream = state.engine.submit(
            prompt.token_ids,
            self.params,
            priority=request.priority or 0,
            timeout_s=request.timeout,
            cache_salt=request.cache_salt or "",
            images=prompt.images,
            receive=partial(self._take, len(self._streams)),
        )
        self._streams.append(stream)
        self._meters.append(RequestMeter(state.metrics, len(prompt.token_ids), self.params))
        if state.config.enable_log_requests:
            logger.info("%s: %d tokens, %s", stream.request_id, len(prompt.token_ids), self.params)

    def _take(self, n: int, item: Delta | BaseException) -> None:
        """Take in what the engine says of prompt n, as long as somebody wants it."""
        if n not in self._unfinished:
            return
        if isinstance(item, BaseException):
            self._close(n, item)
            return
        self._meters[n].observe(item)
        if item.index == 0:
            self._num_cached[n] = max(self._num_cached[n], item.num_cached_tokens)
        if item.finish_reason == "error":
            self._close(n, self._failure())
            return
        self._mailbox.put(n, item if self._keep_output else _without_output(item))
        if item.finish_reason is not None:
            self._unfinished[n] -= 1
            if not self._unfinished[n]:
                self._close(n)

    def _close(self, n: int, error: BaseException | None = None) -> None:
        """Nothing more is taken in of prompt n."""
        del self._unfinished[n]
        self._mailbox.close_source(error)
        self._meters[n].close()

    def _failure(self) -> QuireError:
        """Why the engine gave a request up, which it does where no token can be chosen."""
        params = self.params
        if params.structured_outputs is None and params.allowed_token_ids is None:
            return EngineError("the engine failed on this request; it may be sent again")
        field = self._form_field if params.structured_outputs else "allowed_token_ids"
        return RequestError(
            f"no token may come next: what {field} allows is forbidden by other fields (min_tokens,"
            " allowed_token_ids, bad_words), has no end, or is too complex",
            field,
        )


def _check(
    state: ServerState, num_prompts: int, params: SamplingParams, request: GenerationRequest
) -> None:
    """Refuse what could never run, however long it waited."""
    limit = state.engine.config.max_num_queued_reqs
    if num_prompts * params.n > limit:
        raise RequestError(
            f"{num_prompts} prompts with n = {params.n} are more than the {limit} completions that "
            "may wait at once; send several requests",
            "prompt" if num_prompts > 1 else "n",
        )
    timeout = request.timeout
    if timeout is not None and not (timeout > 0 and math.isfinite(timeout)):
        raise RequestError(f"timeout is {timeout}; give seconds above 0", "timeout")
    if not -(2**31) <= (request.priority or 0) < 2**31:
        raise RequestError(f"priority is {request.priority}; give a 32-bit integer", "priority")
    policy = state.engine.config.scheduling_policy
    if request.priority and policy in BLIND_POLICIES:
        raise RequestError(
            f"priority has no effect under the policy {policy!r}: the server must be started with "
            "--scheduling-policy priority",
            "priority",
        )


def _without_output(delta: Delta) -> Delta:
    done = delta.finish_reason if delta.finish_reason in (None, "abort") else "length"
    logprobs = None if delta.logprobs is None else ()
    return replace(
        delta, text="", token_ids=(), logprobs=logprobs, finish_reason=done, stop_reason=None
    )
