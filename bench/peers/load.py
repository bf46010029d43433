"""The load generator: sends a serve workload to a running server and says what came back when."""

from __future__ import annotations

import asyncio
import math
import time
import zlib

from bench.peers.peer import Metrics
from bench.peers.process import EngineFailed, RunningServer
from bench.peers.workloads import Prompt, Workload
from quire.cli.bench.client import Client, Outcome
from quire.cli.bench.datasets import BenchRequest
from quire.cli.bench.figures import Figures
from quire.cli.bench.http_stream import HttpError, Server
from quire.cli.bench.load import arrival_times, send_all

__all__ = ["first_token", "serve", "summarize"]

SETTINGS = {"temperature": 0.0, "ignore_eos": True}


def first_token(server: RunningServer, workload: Workload, vocabulary: int) -> float:
    """Seconds from the server's exec to the first token of a short request."""
    _send(server, workload, workload.prompts(vocabulary, seed=0), limit_s=60)
    return time.perf_counter() - server.started


def serve(server: RunningServer, workload: Workload, vocabulary: int, limit_s: float) -> Metrics:
    """The workload's figures.  Raises EngineFailed when a request fails or time is up."""
    prompts = workload.prompts(vocabulary, zlib.crc32(workload.name.encode()))
    wall, used = time.perf_counter(), time.process_time()
    outcomes = _send(server, workload, prompts, limit_s)
    wall, used = time.perf_counter() - wall, time.process_time() - used
    return summarize(outcomes, prompts, wall, used)


def summarize(
    outcomes: list[Outcome], prompts: list[Prompt], wall_s: float, cpu_s: float
) -> Metrics:
    """Tokens per second, percentiles in ms, and the share of one core the generator itself took.

    Raises EngineFailed, with the first error, when a request failed or was cut short.
    """
    for outcome, prompt in zip(outcomes, prompts, strict=True):
        if outcome.error:
            raise EngineFailed(f"a request failed: {outcome.error[:200]}")
        if outcome.output_tokens != prompt.output:
            raise EngineFailed(f"{outcome.output_tokens} tokens came instead of {prompt.output}")
    figures = Figures.of(outcomes, wall_s, {}, (50, 99))
    metrics = {"tokens": figures.output_throughput, "client_cpu": cpu_s / wall_s}
    for name in ("ttft", "tpot"):
        for which, value in figures.distributions[name].percentiles:
            metrics[f"{name}_p{which:.0f}"] = value
    return metrics


def _send(
    server: RunningServer, workload: Workload, prompts: list[Prompt], limit_s: float
) -> list[Outcome]:
    async def all_of_them() -> list[Outcome]:
        address = Server("127.0.0.1", server.port)
        model = str((await address.get_json("/v1/models"))["data"][0]["id"])
        client = Client(address, "openai", "/v1/completions", model, SETTINGS)
        requests = [BenchRequest(prompt.tokens, prompt.output) for prompt in prompts]
        burst = 1.0 if math.isfinite(workload.rate) else 0.0
        times = arrival_times(len(requests), workload.rate, burst, seed=len(requests))
        sending = send_all(requests, times, workload.batch, client.send, lambda: None)
        return await asyncio.wait_for(sending, limit_s)

    try:
        return asyncio.run(all_of_them())
    except asyncio.TimeoutError:
        raise EngineFailed(f"{len(prompts)} requests took longer than {limit_s:.0f} s") from None
    except (OSError, HttpError) as error:
        raise EngineFailed(str(error)) from error
