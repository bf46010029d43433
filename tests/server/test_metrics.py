"""GET /metrics and GET /health."""

from __future__ import annotations

import time

import httpx
import pytest

from quire.server.prometheus import Registry
from tests.server.conftest import Connect, fault
from tests.server.fake_engine import FakeEngine


def samples(text: str) -> dict[str, float]:
    """Every sample by its name and labels."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


async def test_vllm_names(client: httpx.AsyncClient) -> None:
    await client.post("/v1/completions", json={"prompt": "Hi", "max_tokens": 6, "n": 2})
    messages = [{"role": "user", "content": "Hi"}]
    await client.post("/v1/chat/completions", json={"messages": messages, "stop": "r"})
    await client.get("/nothing")
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = samples(response.text)

    def value(name: str, **labels: str) -> float:
        given = {"model_name": "fake/model", "engine": "0", **labels}
        inside = ",".join(f'{key}="{text}"' for key, text in given.items())
        return found[f"vllm:{name}{{{inside}}}"]

    assert value("num_requests_running") == 0
    assert value("num_requests_waiting") == 3
    assert value("kv_cache_usage_perc") == 0.5
    assert value("kv_cache_fragmentation_perc") == 0.25
    assert value("prefix_cache_hits_total") == 400
    assert value("num_preemptions_total") == 7
    assert value("wasted_tokens_total") == 21
    assert value("spec_decode_num_drafts_total") == 8
    assert value("spec_decode_num_draft_tokens_total") == 32
    assert value("spec_decode_num_accepted_tokens_total") == 24
    assert value("generation_tokens_total") == 123
    assert value("request_success_total", finished_reason="length") == 2
    assert value("request_success_total", finished_reason="stop") == 1
    assert value("time_to_first_token_seconds_count") == 2
    assert value("request_prompt_tokens_count") == 2
    assert value("request_generation_tokens_sum") == 6 + 6 + 2
    assert value("request_generation_tokens_bucket", le="5") == 1
    assert value("request_generation_tokens_bucket", le="+Inf") == 3
    assert value("inter_token_latency_seconds_count") == 5 + 5 + 1
    assert value("e2e_request_latency_seconds_count") == 3
    assert value("request_queue_time_seconds_count") == 3
    assert value("iteration_tokens_total_count") == 6 + 2
    handled = {"method": "POST", "handler": "/v1/chat/completions", "status": "200"}
    assert value("http_requests_total", **handled) == 1
    assert value("http_requests_total", method="GET", handler="other", status="404") == 1


async def test_prefix_of_names(connect: Connect) -> None:
    text = (await connect(metrics_prefix="quire").get("/metrics")).text
    assert "quire:num_requests_running" in text
    assert "vllm:" not in text


async def test_aborted_requests_are_counted(connect: Connect, engine: FakeEngine) -> None:
    engine.die_after = 1
    client = connect()
    await client.post("/v1/completions", json={"prompt": "Hi", "n": 2})
    text = (await client.get("/metrics")).text
    assert 'finished_reason="abort"} 2' in text


def test_text_format() -> None:
    registry = Registry("p", {"who": 'a"b\\c\nd'})
    registry.counter("things", "Things.", ("kind",)).add(2, "x")
    registry.gauge("level", "Level.").set(0.25)
    histogram = registry.histogram("size", "Size.", (1, 2.5))
    for size in (0.5, 1, 2, 3):
        histogram.observe(size)
    who = 'who="a\\"b\\\\c\\nd"'
    assert registry.expose().splitlines() == [
        "# HELP p:things_total Things.",
        "# TYPE p:things_total counter",
        f'p:things_total{{{who},kind="x"}} 2',
        "# HELP p:level Level.",
        "# TYPE p:level gauge",
        f"p:level{{{who}}} 0.25",
        "# HELP p:size Size.",
        "# TYPE p:size histogram",
        f'p:size_bucket{{{who},le="1"}} 2',
        f'p:size_bucket{{{who},le="2.5"}} 3',
        f'p:size_bucket{{{who},le="+Inf"}} 4',
        f"p:size_sum{{{who}}} 6.5",
        f"p:size_count{{{who}}} 4",
    ]


async def test_idle_engine_is_healthy_however_long_it_idles(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.heartbeat_s = time.monotonic() - 10_000
    for path in ("/health", "/live", "/ready"):
        assert (await client.get(path)).json() == {"status": "ok"}


async def test_dead_engine_is_not_healthy(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.error = MemoryError("no room")
    assert "MemoryError: no room" in fault(await client.get("/health"), 503, None)


@pytest.mark.parametrize("silent_s", [0.0, 50.0])
async def test_engine_that_has_work_and_does_not_step(
    connect: Connect, engine: FakeEngine, silent_s: float
) -> None:
    client = connect(stall_timeout=30)
    metrics = client._transport.app.state.server.metrics  # type: ignore[attr-defined]
    metrics.num_active = 1
    engine.heartbeat_s = time.monotonic() - 10_000
    metrics.busy_since = time.monotonic() - silent_s
    response = await client.get("/health")
    if silent_s:
        assert "has not stepped for 50 s" in fault(response, 503, None)
    else:
        assert response.status_code == 200


async def test_what_experts_met(client: httpx.AsyncClient) -> None:
    layer = {"layer": 1, "tokens": 6, "experts_met": 2, "tokens_of_experts": [4, 0, 2]}
    assert (await client.get("/expert_usage")).json() == {"layers": [layer]}
