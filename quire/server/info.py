"""GET /server_info, /version and /metrics: what runs here, as it was asked for and as it is."""

from __future__ import annotations

import platform
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import Response

import quire
from quire.server.errors import json_response
from quire.server.state import ServerState

__all__ = ["show_expert_usage", "show_metrics", "show_server_info", "show_version"]


async def show_version(state: ServerState, request: Request) -> Response:
    """Answer GET /version."""
    return json_response({"version": quire.__version__})


async def show_metrics(state: ServerState, request: Request) -> Response:
    """Answer GET /metrics in Prometheus' text format."""
    return Response(state.metrics.expose(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def show_expert_usage(state: ServerState, request: Request) -> Response:
    """Answer GET /expert_usage: how many tokens each expert of each layer has met."""
    layers = [
        {
            "layer": layer,
            "tokens": sum(counts),
            "experts_met": sum(count > 0 for count in counts),
            "tokens_of_experts": counts,
        }
        for layer, counts in state.engine.expert_usage().items()
    ]
    return json_response({"layers": layers})


async def show_server_info(state: ServerState, request: Request) -> Response:
    """Answer GET /server_info: options, the resolved model and memory budget, sampling defaults."""
    engine = state.engine
    info = engine.info
    server = {**asdict(state.config), "api_key": f"{len(state.config.api_key)} keys"}
    return json_response(
        {
            "version": quire.__version__,
            "python": platform.python_version(),
            "served_model_name": state.model_names,
            "model": {
                "name": info.name,
                "fingerprint": info.fingerprint,
                "implementation": info.implementation,
                "max_model_len": info.max_model_len,
                "vocab_size": info.vocab_size,
                "num_kv_blocks": info.num_kv_blocks,
                "block_tokens": info.block_tokens,
            },
            "summary": info.lines,
            "default_sampling": engine.default_sampling,
            "engine_config": asdict(engine.config),
            "server_config": server,
        }
    )
