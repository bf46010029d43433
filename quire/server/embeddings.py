"""POST /v1/embeddings, in OpenAI's format."""

from __future__ import annotations

import base64
import struct
import time
import uuid
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from quire.errors import RequestError
from quire.server.decoding import decode, read_body
from quire.server.errors import json_response
from quire.server.pooling import run_together
from quire.server.prompts import read_prompts
from quire.server.protocol.embeddings import (
    Embedding,
    EmbeddingList,
    EmbeddingRequest,
    EmbeddingUsage,
)
from quire.server.state import ServerState

__all__ = ["create_embeddings"]


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
    counts = [len(each.prompt_token_ids) for each in found]
    state.metrics.note_prompts(counts)
    total = sum(counts)
    name = f"embd-{uuid.uuid4().hex}"
    usage = EmbeddingUsage(total, total)
    return json_response(EmbeddingList(name, int(time.time()), model, data, usage))


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
