"""The table of all routes, from which the application, /docs and /openapi.json are made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from quire.server.chat import create_chat_completion
from quire.server.completions import create_completion
from quire.server.embeddings import create_embeddings
from quire.server.health import show_health, show_ready
from quire.server.info import show_expert_usage, show_metrics, show_server_info, show_version
from quire.server.models import list_models, show_model
from quire.server.protocol.chat import ChatRequest
from quire.server.protocol.chat_answer import ChatCompletion
from quire.server.protocol.completions import Completion, CompletionRequest
from quire.server.protocol.embeddings import (
    EmbeddingList,
    EmbeddingRequest,
    Reranking,
    RerankRequest,
)
from quire.server.protocol.models import ModelCard, ModelList
from quire.server.protocol.tokens import (
    Detokenized,
    DetokenizeRequest,
    Tokenized,
    TokenizeRequest,
)
from quire.server.rerank import create_reranking
from quire.server.state import ServerState
from quire.server.tokens import create_detokenization, create_tokenization

__all__ = ["OPERATIONS", "Operation"]

Handler = Callable[[ServerState, Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One route.  example: a request body; answer None: not JSON, or free in form."""

    method: str
    path: str
    summary: str
    handler: Handler
    request: type[msgspec.Struct] | None = None
    answer: type[msgspec.Struct] | None = None
    example: str = ""


OPERATIONS = (
    Operation(
        "POST",
        "/v1/chat/completions",
        "Answer the last message of a conversation.",
        create_chat_completion,
        ChatRequest,
        ChatCompletion,
        '{"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 32}',
    ),
    Operation(
        "POST",
        "/v1/completions",
        "Continue one or several prompts.",
        create_completion,
        CompletionRequest,
        Completion,
        '{"prompt": "In the beginning", "max_tokens": 32, "temperature": 0}',
    ),
    Operation(
        "POST",
        "/v1/embeddings",
        "Turn texts into vectors.",
        create_embeddings,
        EmbeddingRequest,
        EmbeddingList,
        '{"input": ["a text", "another"]}',
    ),
    Operation(
        "POST",
        "/v1/rerank",
        "Order documents by how well they match a query.",
        create_reranking,
        RerankRequest,
        Reranking,
        '{"query": "a question", "documents": ["a text", "another"]}',
    ),
    Operation(
        "POST",
        "/rerank",
        "The same as /v1/rerank.",
        create_reranking,
        RerankRequest,
        Reranking,
        '{"query": "a question", "documents": ["a text", "another"]}',
    ),
    Operation("GET", "/v1/models", "List the served names.", list_models, answer=ModelList),
    Operation("GET", "/v1/models/{id:path}", "Show one served name.", show_model, answer=ModelCard),
    Operation(
        "POST",
        "/tokenize",
        "Turn a text or a conversation into token ids.",
        create_tokenization,
        TokenizeRequest,
        Tokenized,
        '{"prompt": "In the beginning"}',
    ),
    Operation(
        "POST",
        "/detokenize",
        "Turn token ids into text.",
        create_detokenization,
        DetokenizeRequest,
        Detokenized,
        '{"tokens": [1, 2, 3]}',
    ),
    Operation("GET", "/health", "200 while the engine steps or has no work.", show_health),
    Operation("GET", "/live", "The same as /health.", show_health),
    Operation("GET", "/ready", "As /health, and 503 while shutting down.", show_ready),
    Operation("GET", "/metrics", "Metrics in Prometheus' text format.", show_metrics),
    Operation("GET", "/expert_usage", "Tokens that each expert met.", show_expert_usage),
    Operation("GET", "/version", "The version of Quire.", show_version),
    Operation("GET", "/server_info", "Options, model, memory budget, defaults.", show_server_info),
)
