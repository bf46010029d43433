"""Parts that run whole models behind the real server: a cold start, and traffic over HTTP."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np

from bench.gpu.models import SHAPES, model_directory, write_checkpoint
from bench.gpu.plans import PLANS, Plan
from bench.gpu.results import Results
from bench.peers import load
from bench.peers.peer import Command
from bench.peers.process import RunningServer, free_port, serving
from bench.peers.quire_peer import Quire
from bench.peers.workloads import Workload

__all__ = ["serve", "start"]

START_LIMIT_S, TRAFFIC_LIMIT_S = 240.0, 300.0


def serve(results: Results, shape: str, device: str, folder: Path) -> None:
    """The workloads of vLLM 0.6 over HTTP: all at once, and at two rates."""
    plan, vocabulary = PLANS[shape], SHAPES[shape]["vocab_size"]
    for format in plan.served:
        with _server(shape, device, format, folder) as server:
            for workload in plan.workloads():

                def measure(
                    workload: Workload = workload, server: _LazyServer = server
                ) -> dict[str, float]:
                    running = server.get()
                    found = dict(load.serve(running, workload, vocabulary, TRAFFIC_LIMIT_S))
                    seed = zlib.crc32(workload.name.encode())
                    outputs = [each.output for each in workload.prompts(vocabulary, seed)]
                    requests = found["tokens"] / float(np.mean(outputs))
                    values = {"requests per second": requests, **found}
                    return {name: round(value, 3) for name, value in values.items()}

                results.once("serve", f"{shape} {format} {workload.name}", measure)


def start(results: Results, shape: str, device: str, folder: Path) -> None:
    """From exec to the first token of a checkpoint that is in the page cache."""
    plan, vocabulary = PLANS[shape], SHAPES[shape]["vocab_size"]
    for attempt in range(1, plan.starts + 1):

        def measure() -> dict[str, Any]:
            directory = write_checkpoint(shape, folder)
            port = free_port()
            command = _command(directory, port, device, plan)
            with serving(command, port, START_LIMIT_S) as server:
                first = load.first_token(server, Workload("start", "start"), vocabulary)
                return {
                    "ready_s": round(server.ready_s, 2),
                    "first_token_s": round(first, 2),
                    "stages": _stages(server),
                }

        results.once("start", f"{shape} bf16 start {attempt}", measure)


class _LazyServer:
    """A server that is started when something is left to be measured with it."""

    def __init__(self, command: Command, port: int) -> None:
        self._serving = serving(command, port, START_LIMIT_S)
        self._running: RunningServer | None = None

    def get(self) -> RunningServer:
        """The server, ready."""
        if self._running is None:
            self._running = self._serving.__enter__()
        return self._running

    def drop(self) -> None:
        """Stop it."""
        if self._running is not None:
            self._serving.__exit__(None, None, None)


@contextmanager
def _server(shape: str, device: str, format: str, folder: Path) -> Iterator[_LazyServer]:
    directory, port = model_directory(shape, format, folder), free_port()
    command = _command(directory, port, device, PLANS[shape], "--load-format", "dummy")
    server = _LazyServer(command, port)
    try:
        yield server
    finally:
        server.drop()


def _command(directory: Path, port: int, device: str, plan: Plan, *flags: object) -> Command:
    options: list[object] = []
    for name, value in plan.options.items():
        options += ["--" + name.replace("_", "-"), value]
    program = Quire().python.with_name("quire")
    return Command(
        [program, "serve", directory, "--port", port, "--backend", "torch", "--device", device]
        + options
        + list(flags)
    )


def _stages(server: RunningServer) -> str:
    """What the server says of its start."""
    with urlopen(f"http://127.0.0.1:{server.port}/server_info") as answer:
        lines = json.load(answer)["summary"]
    return next((line for line in lines if line.startswith("loaded in")), "")
