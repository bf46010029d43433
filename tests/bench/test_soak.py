"""bench.soak: a server that is well has no faults, and each fault is seen."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from bench.soak.__main__ import Soak
from bench.soak.exchanges import EXCHANGES, Unexpected, Visitor
from bench.soak.watch import Sample, faults, growth
from quire.cli.bench.http_stream import Server
from tests.server.live_server import LiveServer

IDLE = Sample(0.0, 100 * 2**20, 18, 6, 0.0, 0, 0)


def loaded(bytes_per_second: int) -> list[Sample]:
    """Ten minutes under load, with some noise."""
    return [
        replace(IDLE, seconds=at, resident=IDLE.resident + at * bytes_per_second + at * 37 % 9999)
        for at in range(600)
    ]


def test_growth_is_the_rise_of_a_line() -> None:
    assert growth(loaded(10_000)) == pytest.approx(599 * 10_000, rel=0.01)


@pytest.mark.parametrize(
    ("bytes_per_second", "after", "said"),
    [
        (0, {}, ""),
        (5_000, {}, ""),
        (10_000, {}, "resident memory grew by 5.7 MiB"),
        (0, {"threads": 7}, "7 threads are left"),
        (0, {"files": 40}, "40 files are open, 18 were before"),
        (0, {"running": 1}, "1 completions still run"),
        (0, {"blocks": 0.25}, "25.0% of the KV blocks"),
    ],
)
def test_each_fault_is_seen(bytes_per_second: int, after: dict[str, int], said: str) -> None:
    found = list(faults(IDLE, loaded(bytes_per_second), replace(IDLE, **after)))
    assert len(found) == bool(said) and all(said in each for each in found)


def test_another_answer_to_a_known_question_is_seen() -> None:
    visitor = Visitor(Server("127.0.0.1", 9), seed=1, longest=20)
    visitor.same_as_before({"prompt": "a"}, ["b"])
    visitor.same_as_before({"prompt": "a"}, ["b"])
    with pytest.raises(Unexpected):
        visitor.same_as_before({"prompt": "a"}, ["c"])


def test_a_short_soak_finds_nothing() -> None:
    with LiveServer("--threads", "1", "--kv-cache-memory-bytes", "3000000") as live:
        server = Server.at(live.url, {})
        soak = Soak(server, live.process.pid, longest=60)
        samples = asyncio.run(soak.run(seconds=0.5, num_clients=6))
        for kind in EXCHANGES:
            asyncio.run(kind(soak.visitor))
    assert soak.failures == []
    assert sum(soak.counts.values()) > 6
    assert samples[-1].blocks == samples[-1].running == 0
