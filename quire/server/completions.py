"""POST /v1/completions: continues prompts, in OpenAI's legacy format."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from quire.errors import RequestError
from quire.sampling_params import SamplingParams
from quire.server.answer import AnswerHead
from quire.server.completion_writer import CompletionWriter
from quire.server.decoding import decode, read_body
from quire.server.errors import json_response
from quire.server.event_stream import EventStream
from quire.server.generation import Generation, warm
from quire.server.prompts import Prompt, read_prompts, truncate
from quire.server.protocol.completions import CompletionRequest
from quire.server.sampling import check_logprobs, check_stream_options, sampling_params
from quire.server.state import ServerState

__all__ = ["create_completion"]

DEFAULT_MAX_TOKENS = 16  # OpenAI's, for this route only


async def create_completion(state: ServerState, request: Request) -> Response:
    """Answer POST /v1/completions."""
    body = decode(CompletionRequest, await read_body(request, state.config.max_request_bytes))
    head = AnswerHead(state, body, "cmpl")
    params = _params(state, body)
    prompts = await _prompts(state, body, params)
    await warm(state, params, body)
    generation = Generation(state, prompts, params, body, keep_output=body.max_tokens != 0)
    writer = CompletionWriter(head, generation, body)
    if body.stream:
        return EventStream(writer.events(), generation.cancel, state.config.write_timeout)
    return json_response(writer.whole(await generation.collect(request)))


def _params(state: ServerState, body: CompletionRequest) -> SamplingParams:
    check_stream_options(body)
    limit = state.config.max_logprobs
    check_logprobs("logprobs", body.logprobs, limit)
    check_logprobs("prompt_logprobs", body.prompt_logprobs, limit)
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise RequestError("best_of is not supported unless it equals n", "best_of")
    of_prompt = body.prompt_logprobs
    if body.echo and body.logprobs is not None:
        of_prompt = max(body.logprobs, of_prompt or 0)
    defaults = {"max_tokens": DEFAULT_MAX_TOKENS, **state.engine.default_sampling}
    chosen = {"logprobs": body.logprobs, "prompt_logprobs": of_prompt}
    if body.max_tokens == 0:
        chosen["max_tokens"] = 1  # the engine always makes one token; it is thrown away
    return sampling_params(body, defaults, **chosen)


async def _prompts(
    state: ServerState, body: CompletionRequest, params: SamplingParams
) -> list[Prompt]:
    engine = state.engine
    longest = engine.info.max_model_len
    special = body.add_special_tokens is not False
    prompts = await read_prompts(body.prompt, engine.tokenizer, longest, special)
    room = longest - (params.max_tokens or 1)
    return [truncate(prompt, body.truncate_prompt_tokens, room) for prompt in prompts]
