"""What every route has in common: errors in OpenAI's shape, keys, limits, origins."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from quire.errors import ConfigError, EngineError, QueueFullError
from quire.server.app import build_app
from quire.server.config import ServerConfig, environment_api_keys
from quire.server.routes import OPERATIONS
from tests.server.conftest import Connect, events, fault
from tests.server.fake_engine import FakeEngine

JSON = {"content-type": "application/json"}
BODY = {"prompt": "Hi"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"nonsense",
        b'{"prompt": "a"} b',
        b'{"prompt": NaN}',
        b"\xff\xfe\x00",
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": ' + b"[" * 100_000,
        b'{"metadata": ' + b"[" * 100_000 + b"]" * 100_000 + b', "prompt": "a"}',
        b'{"prompt": 1e999}',
    ],
)
async def test_damaged_bodies(client: httpx.AsyncClient, body: bytes) -> None:
    for url in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"):
        response = await client.post(url, content=body, headers=JSON)
        assert response.status_code == 400, body[:40]
        assert response.json()["error"]["type"] == "invalid_request_error"


async def test_unknown_field_with_a_long_name(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/completions", json={"x" * 10**6: 1, "prompt": "a"})
    assert response.status_code == 400
    assert len(response.content) < 1000


async def test_routes_that_do_not_exist(client: httpx.AsyncClient) -> None:
    assert "/docs" in fault(await client.get("/v1/nothing"), 404, None)
    response = await client.get("/v1/completions")
    fault(response, 405, None)
    assert response.headers["allow"] == "POST"
    fault(await client.post("/v1/models/"), 405, None)


async def test_bodies_must_say_that_they_are_json(client: httpx.AsyncClient) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        response = await client.post(
            "/v1/completions", content=b'{"prompt": "a"}', headers={"content-type": kind}
        )
        fault(response, 415, None)
    good = {"content-type": "Application/JSON; charset=utf-8"}
    response = await client.post("/v1/completions", content=b'{"prompt": "a"}', headers=good)
    assert response.status_code == 200


async def test_large_bodies(connect: Connect) -> None:
    client = connect(max_request_bytes=100)
    response = await client.post("/v1/completions", json={"prompt": "a" * 200})
    fault(response, 413, None)
    assert response.headers["connection"] == "close"

    async def unannounced() -> object:
        for _ in range(10):
            yield b" " * 50

    response = await client.post("/v1/completions", content=unannounced(), headers=JSON)  # type: ignore[arg-type]
    fault(response, 413, None)


async def test_models(connect: Connect) -> None:
    client = connect(served_model_name=("a", "b/c"))
    listed = (await client.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert [card["id"] for card in listed["data"]] == ["a", "b/c"]
    assert listed["data"][0]["max_model_len"] == 4096
    assert listed["data"][0]["implementation"] == "quire"
    assert (await client.get("/v1/models/b/c")).json()["root"] == "fake/model"
    fault(await client.get("/v1/models/d"), 404, "model")
    assert (await client.post("/v1/completions", json=BODY)).json()["model"] == "a"
    named = {**BODY, "model": "b/c"}
    assert (await client.post("/v1/completions", json=named)).json()["model"] == "b/c"
    response = await client.post("/v1/completions", json={**BODY, "model": "fake/model"})
    assert "served: a, b/c" in fault(response, 404, "model")
    assert response.json()["error"]["code"] == "model_not_found"


async def test_a_key_guards_every_path_but_the_probes(connect: Connect) -> None:
    client = connect(api_key=("secret", "schlüssel"))
    paths = [each.path.replace("{id:path}", "x") for each in OPERATIONS]
    for path in [*paths, "/docs", "/openapi.json", "/nothing", "/health/", "//health"]:
        for method in ("GET", "POST", "OPTIONS"):
            response = await client.request(method, path)
            if path in ("/health", "/live", "/ready"):
                assert response.status_code == (200 if method == "GET" else 405)
            else:
                fault(response, 401, None)
                assert response.headers["www-authenticate"] == "Bearer"
    for given in ("Bearer", "Bearer ", "Bearer secre", "Basic secret", "secret", "Bearer secret x"):
        fault(await client.get("/version", headers={"authorization": given}), 401, None)
    for key in ("secret", "schlüssel"):
        header = {"authorization": f"bearer {key}".encode()}
        assert (await client.get("/version", headers=header)).status_code == 200


async def test_prefix_of_a_proxy(engine: FakeEngine) -> None:
    app = build_app(engine, ServerConfig(api_key=("secret",)))
    transport = httpx.ASGITransport(app, root_path="/api")
    client = httpx.AsyncClient(transport=transport, base_url="http://quire")
    header = {"authorization": "Bearer secret"}
    assert (await client.get("/api/health")).status_code == 200
    assert (await client.get("/api/version")).status_code == 401
    assert (await client.get("/api/version", headers=header)).status_code == 200
    for path in ("/api/api/health", "/apihealth", "/api/health/", "/api"):
        assert (await client.get(path)).status_code == 401
    assert 'handler="/health",status="200"} 1' in app.state.server.metrics.expose()


async def test_other_origins_are_refused_unless_allowed(connect: Connect) -> None:
    origin = {"origin": "http://elsewhere", "access-control-request-method": "POST"}
    response = await connect().options("/v1/completions", headers=origin)
    assert "access-control-allow-origin" not in response.headers
    client = connect(allowed_origins=("http://elsewhere",), api_key=("secret",))
    response = await client.options("/v1/completions", headers=origin)
    assert response.headers["access-control-allow-origin"] == "http://elsewhere"
    response = await client.post("/v1/completions", json=BODY, headers=origin)
    fault(response, 401, None)
    assert response.headers["access-control-allow-origin"] == "http://elsewhere"


async def test_full_queue(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.refusal = QueueFullError("9 requests are waiting", retry_after_s=2.3)
    response = await client.post("/v1/completions", json={**BODY, "stream": True})
    fault(response, 429, None)
    assert response.headers["retry-after"] == "3"
    assert response.json()["error"]["code"] == "queue_full"


async def test_stopping_server(connect: Connect) -> None:
    client = connect()
    client._transport.app.state.server.stopping = True  # type: ignore[attr-defined]
    response = await client.post("/v1/completions", json=BODY)
    fault(response, 503, None)
    assert response.headers["retry-after"] == "1"
    assert (await client.get("/health")).status_code == 200
    fault(await client.get("/ready"), 503, None)


async def test_a_dying_engine_tells_its_cause(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.die_after = 3
    response = await client.post("/v1/completions", json=BODY)
    assert "ZeroDivisionError: division by zero" in fault(response, 500, None)
    *chunks, last = events(await client.post("/v1/completions", json={**BODY, "stream": True}))
    assert len(chunks) == 2  # G, r; ü is incomplete
    assert "ZeroDivisionError" in last["error"]["message"]


async def test_a_request_that_the_engine_gives_up(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.fail_after = 2
    assert "sent again" in fault(await client.post("/v1/completions", json=BODY), 500, None)


@pytest.mark.parametrize(
    ("extra", "param"),
    [({"guided_choice": ["yes"]}, "guided_choice"), ({"allowed_token_ids": [7]}, None)],
)
async def test_demands_that_leave_nothing_are_the_clients_fault(
    client: httpx.AsyncClient, engine: FakeEngine, extra: dict[str, Any], param: str | None
) -> None:
    engine.fail_after = 2
    body = {**BODY, **extra, "min_tokens": 5}
    param = param or "allowed_token_ids"
    assert "min_tokens" in fault(await client.post("/v1/completions", json=body), 400, param)
    *_, last = events(await client.post("/v1/completions", json={**body, "stream": True}))
    assert last["error"]["param"] == param


async def test_a_bug_shows_no_details(connect: Connect, engine: FakeEngine) -> None:
    engine.refusal = KeyError("private")
    client = connect(raise_errors=False)
    message = fault(await client.post("/v1/completions", json=BODY), 500, None)
    assert "private" not in message
    engine.refusal = EngineError("the engine died")
    assert fault(await client.post("/v1/completions", json=BODY), 500, None) == "the engine died"


async def test_tokenize_and_back(client: httpx.AsyncClient) -> None:
    answer = (await client.post("/tokenize", json={"prompt": "Hé"})).json()
    assert answer == {"count": 4, "max_model_len": 4096, "tokens": [256, 72, 0xC3, 0xA9]}
    body = {"prompt": "H", "add_special_tokens": False, "return_token_strs": True}
    answer = (await client.post("/tokenize", json=body)).json()
    assert (answer["tokens"], answer["token_strs"]) == ([72], ["H"])
    body = {"messages": [{"role": "user", "content": "H"}]}
    answer = (await client.post("/tokenize", json=body)).json()
    text = (await client.post("/detokenize", json={"tokens": answer["tokens"]})).json()["prompt"]
    assert text == "<|im_start|>user\nH<|im_end|>\n<|im_start|>assistant\n"
    fault(await client.post("/tokenize", json={}), 400, "prompt")
    fault(await client.post("/detokenize", json={"tokens": [1, 9999]}), 400, "tokens[1]")
    fault(await client.post("/detokenize", json={"tokens": [-1]}), 400, "tokens[0]")


async def test_information(connect: Connect) -> None:
    client = connect(api_key=("secret",))
    header = {"authorization": "Bearer secret"}
    info = await client.get("/server_info", headers=header)
    assert info.json()["model"]["num_kv_blocks"] == 100
    assert "secret" not in info.text
    assert (await client.get("/version", headers=header)).json()["version"]


def test_config_names_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (
        {"port": 70000},
        {"max_logprobs": -1},
        {"max_request_bytes": 0},
        {"write_timeout": 0},
        {"metrics_prefix": "a b"},
        {"api_key": ("",)},
        {"ssl_keyfile": "x"},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            ServerConfig(**wrong)  # type: ignore[arg-type]
    monkeypatch.setenv("QUIRE_API_KEY", "a, b,\n")
    assert environment_api_keys() == ("a", "b")
