"""GET /v1/models: what is served, and how long a text it takes."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from quire.server.errors import json_response
from quire.server.protocol.models import ModelCard, ModelList
from quire.server.state import ServerState

__all__ = ["list_models", "show_model"]


async def list_models(state: ServerState, request: Request) -> Response:
    """Answer GET /v1/models."""
    return json_response(ModelList([_card(state, name) for name in state.model_names]))


async def show_model(state: ServerState, request: Request) -> Response:
    """Answer GET /v1/models/{id}."""
    return json_response(_card(state, state.served_name(request.path_params["id"])))


def _card(state: ServerState, name: str) -> ModelCard:
    info = state.engine.info
    return ModelCard(name, state.started, info.name, info.max_model_len, info.implementation)
