"""POST /v1/embeddings, in OpenAI's format."""

from __future__ import annotations

import asyncio
import base64
import struct
import time
import uuid
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from quire.errors import RequestError
from quire.server.decoding import decode, read_body
from quire.server.disconnect import unless_disconnected
from quire.server.errors import json_response
from quire.server.prompts import read_prompts
from quire.server.protocol.embeddings import (
    Embedding,
    EmbeddingList,
    EmbeddingRequest,
    EmbeddingUsage,
)
from quire.server.state import ServerState

__all__ = ["create_embeddings", "run_together"]

Result = TypeVar("Result")


async def create_embeddings(state: ServerState, request: Request) -> Response:
    """Answer POST /v1/embeddings."""
    body = decode(EmbeddingRequest, await read_body(request, state.config.max_request_bytes))
    model, engine = state.served_name(body.model), state.engine
    longest = engine.info.max_model_len
    try:
        prompts = await read_prompts(body.input, engine.tokenizer, longest)
    except RequestError as error:
        error.param = (error.param or "").replace("prompt", "input", 1)  # its name on this route
        raise
    work = [engine.embed(prompt.token_ids, body.dimensions) for prompt in prompts]
    found = await run_together(state, request, work, "input")
    as_text = body.encoding_format == "base64"
    data = [
        Embedding(index, _base64(each.embedding) if as_text else each.embedding)
        for index, each in enumerate(found)
    ]
    total = sum(len(each.prompt_token_ids) for each in found)
    name = f"embd-{uuid.uuid4().hex}"
    usage = EmbeddingUsage(total, total)
    return json_response(EmbeddingList(name, int(time.time()), model, data, usage))


async def run_together(
    state: ServerState,
    request: Request,
    work: Sequence[Coroutine[Any, Any, Result]],
    field: str,
) -> list[Result]:
    """Everything at once, in the order given; all of it is stopped when one part fails.

    Raises RequestError, naming the field, for more than may wait at once.
    """
    limit = state.engine.config.max_num_queued_reqs
    if state.stopping or len(work) > limit:
        for each in work:
            each.close()
        state.refuse_if_stopping()
        raise RequestError(f"{len(work)} texts are more than the {limit} that may wait", field)
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await unless_disconnected(request, _all(tasks))
    finally:
        for task in tasks:
            task.cancel()


async def _all(tasks: Sequence[asyncio.Future[Result]]) -> list[Result]:
    return await asyncio.gather(*tasks)


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
