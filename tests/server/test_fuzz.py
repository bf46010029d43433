"""No body, however strange, makes the server fail: an answer or a 4xx that names its cause."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quire.server.app import build_app
from quire.server.config import ServerConfig
from quire.server.protocol.chat import ChatMessage, ChatRequest, ContentPart
from quire.server.protocol.completions import CompletionRequest
from quire.server.protocol.tokens import DetokenizeRequest, TokenizeRequest
from tests.server.fake_engine import FakeEngine

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 30)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["user", "none", "auto", "text", "json_object", "json_schema", "a", "1"])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)
parts = st.dictionaries(st.sampled_from(ContentPart.__struct_fields__), scalars, max_size=3)
messages = st.lists(
    st.dictionaries(
        st.sampled_from(ChatMessage.__struct_fields__),
        scalars | st.lists(parts, max_size=2) | values,
        max_size=4,
    )
    | st.fixed_dictionaries({"role": st.text(max_size=9), "content": st.text() | st.none()}),
    max_size=3,
)
prompts = (
    st.text() | st.lists(st.text(max_size=5)) | st.lists(st.integers(0, 300)) | st.lists(values)
)


def bodies(kind: Any, required: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some fields of a request type, most of them badly filled."""
    fields = st.sampled_from([*kind.__struct_fields__, "unknown"])
    return st.builds(
        lambda some, good: {**some, **good},
        st.dictionaries(fields, values, max_size=4),
        st.fixed_dictionaries({}, optional=required),
    )


CASES = {
    "/v1/completions": bodies(CompletionRequest, {"prompt": prompts}),
    "/v1/chat/completions": bodies(ChatRequest, {"messages": messages}),
    "/tokenize": bodies(TokenizeRequest, {"prompt": st.text(), "messages": messages}),
    "/detokenize": bodies(DetokenizeRequest, {"tokens": st.lists(st.integers(0, 300))}),
}


@pytest.mark.parametrize("url", list(CASES))
def test_never_a_server_error(url: str) -> None:
    engine = FakeEngine()
    app = build_app(engine, ServerConfig(trust_request_chat_template=True))

    async def post(content: bytes) -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://quire") as client:
            return await client.post(
                url, content=content, headers={"content-type": "application/json"}
            )

    loop = asyncio.new_event_loop()

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(CASES[url])
    def check(body: dict[str, Any]) -> None:
        response = loop.run_until_complete(post(json.dumps(body).encode()))
        assert response.status_code in (200, 400, 404, 429), response.text
        if response.status_code != 200:
            assert response.json()["error"]["message"]
        assert app.state.server.metrics.num_active == 0

    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=60))
    def check_bytes(body: bytes) -> None:
        assert loop.run_until_complete(post(body)).status_code == 400

    try:
        check()
        check_bytes()
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
