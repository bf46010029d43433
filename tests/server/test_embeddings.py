"""POST /v1/embeddings and /v1/rerank against a fake engine."""

from __future__ import annotations

import asyncio
import base64
import time
from typing import Any

import httpx
import numpy as np
import pytest

from quire.errors import EngineError, RequestError
from tests.server.conftest import Connect, fault
from tests.server.fake_engine import FakeEngine

EMBED, RERANK = "/v1/embeddings", "/v1/rerank"


async def post(client: httpx.AsyncClient, url: str, **body: Any) -> dict[str, Any]:
    response = await client.post(url, json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def test_an_embedding_has_openai_shape(client: httpx.AsyncClient) -> None:
    answer = await post(client, EMBED, input="Hi", user="me")
    assert answer["object"] == "list"
    assert answer["model"] == "fake/model"
    assert answer["data"] == [
        {"object": "embedding", "index": 0, "embedding": [256.0, 72.0, 105.0]}
    ]
    assert answer["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["Hi", "a"], [[256, 72, 105], [256, 97]]),
        ([72, 105], [[72, 105]]),
        ([[72], [105, 1]], [[72], [105, 1]]),
    ],
)
async def test_inputs_in_every_form(
    client: httpx.AsyncClient, given: Any, expected: list[list[int]]
) -> None:
    answer = await post(client, EMBED, input=given)
    assert [each["embedding"] for each in answer["data"]] == expected
    assert [each["index"] for each in answer["data"]] == list(range(len(expected)))
    assert answer["usage"]["total_tokens"] == sum(map(len, expected))


async def test_base64_holds_the_same_numbers(client: httpx.AsyncClient) -> None:
    answer = await post(client, EMBED, input="Hi", encoding_format="base64", dimensions=2)
    decoded = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4")
    assert decoded.tolist() == [256.0, 72.0]


async def test_what_the_official_client_sends(connect: Connect) -> None:
    openai = pytest.importorskip("openai", reason="the client is not installed")
    client = openai.AsyncOpenAI(api_key="x", base_url="http://quire/v1", http_client=connect())
    answer = await client.embeddings.create(model="fake/model", input=["Hi", "a"])
    assert [each.embedding for each in answer.data] == [[256, 72, 105], [256, 97]]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ["a", 3]}, "input[1]"),
        ({"input": "a", "dimension": 3}, "dimension"),
        ({"input": "a", "truncate_prompt_tokens": 3}, "truncate_prompt_tokens"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
    ],
)
async def test_bad_bodies_are_named(
    client: httpx.AsyncClient, body: dict[str, Any], param: str
) -> None:
    fault(await client.post(EMBED, json=body), 400, param)


async def test_more_texts_than_may_wait_are_refused(client: httpx.AsyncClient) -> None:
    response = await client.post(EMBED, json={"input": ["a"] * 1025})
    assert "1025 texts" in fault(response, 400, "input")


@pytest.mark.parametrize("url", [EMBED, RERANK])
async def test_a_refusal_of_the_engine_is_passed_on(
    client: httpx.AsyncClient, engine: FakeEngine, url: str
) -> None:
    engine.refusal = RequestError("this model is served to generate text", "model")
    body = {"input": ["a", "b"]} if url == EMBED else {"query": "a", "documents": ["a", "b"]}
    assert "generate text" in fault(await client.post(url, json=body), 400, "model")


@pytest.mark.parametrize("url", [RERANK, "/rerank"])
async def test_reranking_puts_the_best_first(client: httpx.AsyncClient, url: str) -> None:
    documents = ["a", "abc", {"text": "ab"}, "abcd"]
    answer = await post(client, url, query="abc", documents=documents)
    assert [each["index"] for each in answer["results"]] == [1, 3, 2, 0]
    assert answer["results"][0] == {
        "index": 1, "relevance_score": 1.0, "document": {"text": "abc"},
    }  # fmt: skip
    assert answer["usage"] == {"prompt_tokens": 22, "total_tokens": 22}


async def test_top_n_and_without_documents(client: httpx.AsyncClient) -> None:
    answer = await post(
        client, RERANK, query="ab", documents=["a", "ab"], top_n=1, return_documents=False
    )
    assert answer["results"] == [{"index": 1, "relevance_score": 1.0}]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"query": "a", "documents": []}, "documents"),
        ({"query": "a", "documents": [{"title": "x"}]}, "documents[0]"),
        ({"query": "a" * 600_000, "documents": ["b"]}, "query"),
        ({"query": "a", "documents": ["b", "a" * 600_000]}, "documents[1]"),
        ({"query": "a", "documents": ["a"], "top_n": 0}, "top_n"),
        ({"query": "a", "documents": ["a"], "max_chunks_per_doc": 3}, "max_chunks_per_doc"),
    ],
)
async def test_bad_rankings_are_named(
    client: httpx.AsyncClient, body: dict[str, Any], param: str
) -> None:
    fault(await client.post(RERANK, json=body), 400, param)


@pytest.mark.parametrize("url", [EMBED, RERANK])
async def test_texts_are_counted(client: httpx.AsyncClient, engine: FakeEngine, url: str) -> None:
    body = {"input": ["a", "b"]} if url == EMBED else {"query": "a", "documents": ["a", "b"]}
    await post(client, url, **body)
    engine.refusal = RequestError("too long", "input")
    await client.post(url, json=body)
    engine.refusal = EngineError("it failed")
    await client.post(url, json=body)
    text = (await client.get("/metrics")).text
    for count in (
        'success_total{model_name="fake/model",engine="0",finished_reason="stop"} 2',
        'success_total{model_name="fake/model",engine="0",finished_reason="error"} 2',
        'e2e_request_latency_seconds_count{model_name="fake/model",engine="0"} 2',
        'request_prompt_tokens_count{model_name="fake/model",engine="0"} 2',
    ):
        assert count in text


async def test_health_knows_of_texts(connect: Connect, engine: FakeEngine) -> None:
    engine.token_delay_s, client = 10.0, connect(stall_timeout=0.02)
    engine.heartbeat_s = time.monotonic() - 100
    assert (await client.get("/health")).status_code == 200
    waiting = asyncio.ensure_future(client.post(EMBED, json={"input": "a"}))
    await asyncio.sleep(0.1)
    assert "has not stepped" in fault(await client.get("/health"), 503, None)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert (await client.get("/health")).status_code == 200


async def test_a_stopping_server_says_so(connect: Connect, engine: FakeEngine) -> None:
    engine.token_delay_s, client = 10.0, connect()
    state = client._transport.app.state.server  # type: ignore[attr-defined]
    waiting = asyncio.ensure_future(client.post(RERANK, json={"query": "a", "documents": ["a"]}))
    await asyncio.sleep(0.05)
    state.stop_generations()
    assert "shutting down" in fault(await waiting, 503, None)
    assert not state.generations and state.metrics.num_active == 0
