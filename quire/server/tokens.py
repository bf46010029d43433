"""POST /tokenize and POST /detokenize, as vLLM has them."""

from __future__ import annotations

import asyncio

from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from quire.errors import RequestError
from quire.server.chat_images import read_images
from quire.server.decoding import decode, read_body
from quire.server.errors import json_response
from quire.server.prompts import tokenize
from quire.server.protocol.tokens import (
    Detokenized,
    DetokenizeRequest,
    Tokenized,
    TokenizeRequest,
)
from quire.server.state import ServerState

__all__ = ["create_detokenization", "create_tokenization"]


async def create_tokenization(state: ServerState, request: Request) -> Response:
    """Answer POST /tokenize."""
    body = decode(TokenizeRequest, await read_body(request, state.config.max_request_bytes))
    state.served_name(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise RequestError("give either prompt or messages", "prompt")
    text, special = body.prompt, body.add_special_tokens is not False
    images = await read_images(state.engine, body.messages or [])
    if text is None:
        text, special = await asyncio.to_thread(_render, state, body), bool(body.add_special_tokens)
    tokenizer, longest = state.engine.tokenizer, state.engine.info.max_model_len
    [ids] = await tokenize([text], tokenizer, longest, special)
    if images:
        ids, _ = state.engine.images.place(ids, images)
    strings = [tokenizer.token_text(token) for token in ids] if body.return_token_strs else UNSET
    return json_response(Tokenized(len(ids), longest, ids, strings))


async def create_detokenization(state: ServerState, request: Request) -> Response:
    """Answer POST /detokenize."""
    body = decode(DetokenizeRequest, await read_body(request, state.config.max_request_bytes))
    state.served_name(body.model)
    vocab_size = state.engine.info.vocab_size
    for n, token in enumerate(body.tokens):
        if not 0 <= token < vocab_size:
            raise RequestError(f"token id {token} is not in 0 to {vocab_size - 1}", f"tokens[{n}]")
    text = await asyncio.to_thread(state.engine.tokenizer.decode, body.tokens, False)
    return json_response(Detokenized(text))


def _render(state: ServerState, body: TokenizeRequest) -> str:
    return state.chat_prompts.render(
        body.messages or [],
        tools=body.tools,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
        chat_template=body.chat_template,
        variables=body.chat_template_kwargs,
    )
