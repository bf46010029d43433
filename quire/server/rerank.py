"""POST /v1/rerank, in the format that Jina, Cohere and vLLM share."""

from __future__ import annotations

import uuid

from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from quire.errors import RequestError
from quire.server.decoding import decode, read_body
from quire.server.errors import json_response
from quire.server.pooling import run_together
from quire.server.prompts import check_length
from quire.server.protocol.embeddings import (
    EmbeddingUsage,
    RankedDocument,
    Reranking,
    RerankRequest,
    RerankResult,
)
from quire.server.state import ServerState

__all__ = ["create_reranking"]


async def create_reranking(state: ServerState, request: Request) -> Response:
    """Answer POST /v1/rerank."""
    body = decode(RerankRequest, await read_body(request, state.config.max_request_bytes))
    model, engine = state.served_name(body.model), state.engine
    if body.top_n is not None and body.top_n < 1:
        raise RequestError(f"top_n is {body.top_n}; give 1 or more", "top_n")
    texts = [_text(each, n) for n, each in enumerate(body.documents)]
    if not texts:
        raise RequestError("documents is empty; give at least one", "documents")
    longest = engine.info.max_model_len
    check_length(body.query, longest, "query")
    for n, text in enumerate(texts):
        check_length(text, longest, f"documents[{n}]")
    work = [engine.score(body.query, text, body.instruction) for text in texts]
    found = await run_together(state, request, work, "documents")
    with_texts = body.return_documents is not False
    results = [
        RerankResult(n, score, RankedDocument(texts[n]) if with_texts else UNSET)
        for n, (score, _) in enumerate(found)
    ]
    results.sort(key=lambda result: -result.relevance_score)
    counts = [tokens for _, tokens in found]
    state.metrics.note_prompts(counts)
    total = sum(counts)
    name = f"rerank-{uuid.uuid4().hex}"
    usage = EmbeddingUsage(total, total)
    return json_response(Reranking(name, model, usage, results[: body.top_n]))


def _text(document: object, number: int) -> str:
    text = document.get("text") if isinstance(document, dict) else document
    if not isinstance(text, str):
        raise RequestError('a document is a text, or has a "text"', f"documents[{number}]")
    return text
