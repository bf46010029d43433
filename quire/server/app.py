"""Builds the web application: routes, errors, keys, counting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from quire.server.auth import RequireKey
from quire.server.config import ServerConfig
from quire.server.engine_protocol import ServedEngine
from quire.server.errors import EXCEPTION_HANDLERS
from quire.server.http_meter import HttpMeter
from quire.server.reference import show_docs, show_openapi
from quire.server.routes import OPERATIONS
from quire.server.state import ServerState

__all__ = ["build_app"]


def build_app(engine: ServedEngine, config: ServerConfig) -> Starlette:
    """The application of one engine; `app.state.server` is its ServerState.

    Shutting the application down shuts the engine down.
    Raises ConfigError for a chat template that cannot be used.
    """
    state = ServerState(engine, config)
    routes = [
        Route(each.path, partial(each.handler, state), methods=[each.method]) for each in OPERATIONS
    ]
    routes += [
        Route("/docs", partial(show_docs, state), methods=["GET"]),
        Route("/openapi.json", partial(show_openapi, state), methods=["GET"]),
    ]
    app = Starlette(
        routes=routes,
        middleware=_middleware(state, [route.path for route in routes]),
        exception_handlers=EXCEPTION_HANDLERS,
        lifespan=partial(_lifespan, state),
    )
    app.router.redirect_slashes = False
    app.state.server = state
    return app


def _middleware(state: ServerState, paths: list[str]) -> list[Middleware]:
    """Outermost first: counting sees everything; browsers ask for permission without a key."""
    found = [Middleware(HttpMeter, counter=state.metrics.http, paths=paths)]
    if state.config.allowed_origins:
        origins, every = state.config.allowed_origins, ["*"]
        cors = partial(
            CORSMiddleware, allow_origins=origins, allow_methods=every, allow_headers=every
        )
        found.append(Middleware(cors))
    if state.config.api_key:
        found.append(Middleware(RequireKey, keys=state.config.api_key))
    return found


@asynccontextmanager
async def _lifespan(state: ServerState, app: Starlette) -> AsyncIterator[None]:
    warming = asyncio.create_task(asyncio.to_thread(state.chat_prompts.warm))
    try:
        yield
    finally:
        state.stopping = True
        await state.engine.shutdown(drain=False)
        warming.cancel()
