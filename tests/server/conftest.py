"""A client that talks to the application in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from quire.server.app import build_app
from quire.server.config import ServerConfig
from tests.server.fake_engine import FakeEngine

Connect = Callable[..., httpx.AsyncClient]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def connect(engine: FakeEngine) -> Connect:
    """Makes a client of a server with the given options; server errors are raised, not sent."""

    def make(raise_errors: bool = True, **options: Any) -> httpx.AsyncClient:
        app = build_app(engine, ServerConfig(**options))
        transport = httpx.ASGITransport(app, raise_app_exceptions=raise_errors)
        return httpx.AsyncClient(transport=transport, base_url="http://quire")

    return make


@pytest.fixture
def client(connect: Connect) -> httpx.AsyncClient:
    return connect()


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The events of a finished stream; it must end in [DONE]."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def fault(response: httpx.Response, status: int, param: str | None) -> str:
    """The message of an error answer after checking its shape."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param, error
    return str(error["message"])
