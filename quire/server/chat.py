"""POST /v1/chat/completions: answers the last message of a conversation."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from quire.errors import RequestError
from quire.sampling_params import SamplingParams
from quire.server.answer import AnswerHead
from quire.server.chat_images import read_images
from quire.server.chat_writer import ChatWriter
from quire.server.decoding import decode, read_body
from quire.server.errors import json_response
from quire.server.event_stream import EventStream
from quire.server.generation import Generation, warm
from quire.server.prompts import Prompt, tokenize, truncate
from quire.server.protocol.chat import TOOLS, ChatRequest
from quire.server.sampling import check_logprobs, check_stream_options, sampling_params
from quire.server.state import ServerState

__all__ = ["create_chat_completion"]


async def create_chat_completion(state: ServerState, request: Request) -> Response:
    """Answer POST /v1/chat/completions."""
    body = decode(ChatRequest, await read_body(request, state.config.max_request_bytes))
    head = AnswerHead(state, body, "chatcmpl")
    params = _params(state, body)
    prompt = await _prompt(state, body, params)
    await warm(state, params, body)
    generation = Generation(state, [prompt], params, body)
    writer = ChatWriter(head, generation, body)
    if body.stream:
        return EventStream(writer.events(), generation.cancel, state.config.write_timeout)
    return json_response(writer.whole(await generation.collect(request)))


def _params(state: ServerState, body: ChatRequest) -> SamplingParams:
    check_stream_options(body)
    check_logprobs("top_logprobs", body.top_logprobs, state.config.max_logprobs)
    check_logprobs("prompt_logprobs", body.prompt_logprobs, state.config.max_logprobs)
    if body.top_logprobs and not body.logprobs:
        raise RequestError("top_logprobs only works with logprobs: true", "top_logprobs")
    chosen: dict[str, Any] = {"prompt_logprobs": body.prompt_logprobs}
    chosen["logprobs"] = (body.top_logprobs or 0) if body.logprobs else None
    defaults = {"max_tokens": None, **state.engine.default_sampling}
    if body.max_completion_tokens is not None:
        chosen["max_tokens"] = _max_tokens(body, body.max_completion_tokens)
    return sampling_params(body, defaults, **chosen)


def _max_tokens(body: ChatRequest, wanted: int) -> int:
    if body.max_tokens not in (None, wanted):
        raise RequestError(
            f"max_tokens is {body.max_tokens} and max_completion_tokens, its newer name, is "
            f"{wanted}; give one",
            "max_completion_tokens",
        )
    if wanted < 1:
        raise RequestError(f"{wanted} is too few; give 1 or more", "max_completion_tokens")
    return wanted


async def _prompt(state: ServerState, body: ChatRequest, params: SamplingParams) -> Prompt:
    if body.tools and body.tool_choice != "none":
        raise RequestError(f'{TOOLS}; set "tool_choice": "none"', "tool_choice")
    engine = state.engine
    images = await read_images(engine, body.messages)
    text = await asyncio.to_thread(_render, state, body)
    longest, special = engine.info.max_model_len, bool(body.add_special_tokens)
    [ids] = await tokenize([text], engine.tokenizer, longest, special)
    if images:
        if body.truncate_prompt_tokens is not None:
            raise RequestError("a prompt with images is not cut", "truncate_prompt_tokens")
        ids, placed = engine.images.place(ids, images)
        return Prompt(ids, text, placed)
    room = longest - (params.max_tokens or 1)
    return truncate(Prompt(ids, text), body.truncate_prompt_tokens, room)


def _render(state: ServerState, body: ChatRequest) -> str:
    return state.chat_prompts.render(
        body.messages,
        tools=body.tools,
        documents=body.documents,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
        chat_template=body.chat_template,
        reasoning_effort=body.reasoning_effort,
        variables=body.chat_template_kwargs,
    )
