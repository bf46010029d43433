"""Parts of bench/gpu.py that run whole models: decode, prefill, a server's traffic, a cold start.

Weights are random and made on the device.  What is measured is the real engine, and where requests
come over HTTP the real server.
"""

from __future__ import annotations

import gc
import json
import math
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import torch

from bench.gpu_models import FORMATS, SHAPES, model_directory, write_checkpoint
from bench.gpu_results import Results
from bench.peers import load
from bench.peers.peer import Command
from bench.peers.process import RunningServer, free_port, serving
from bench.peers.quire_peer import Quire
from bench.peers.workloads import SHAREGPT_MEAN, Workload
from quire.assembly import Assembly
from quire.config import EngineConfig
from quire.models.spec import ModelSpec
from quire.sampling_params import SamplingParams

__all__ = ["PLANS", "Plan", "decode", "prefill", "serve", "start"]

START_LIMIT_S, TRAFFIC_LIMIT_S = 240.0, 300.0


@dataclass(frozen=True)
class Plan:
    """How much is measured of a shape.  decode: batches.  steps: timed.  context, prompts: tokens.

    prompts: (how many at once, tokens of each).  requests: of a workload.  rates: a second.
    """

    decode: tuple[int, ...]
    steps: int
    context: int
    prompts: tuple[tuple[int, int], ...]
    requests: int
    rates: tuple[float, ...]
    rate_s: float
    lengths: Mapping[str, tuple[int, int]]
    served: tuple[str, ...]
    starts: int
    options: Mapping[str, Any]


PLANS = {
    "llama-3-8b": Plan(
        (1, 32, 100, 256), 64, 512, ((1, 2048), (4, 2048)), 500, (8.0, 24.0), 40.0,
        {"decode-heavy": (462, 256), "prefill-heavy": (462, 16)}, tuple(FORMATS), 2,
        {"max_num_seqs": 256, "max_num_batched_tokens": 8192, "memory_utilization": 0.9},
    ),
    "tiny": Plan(
        (1, 3), 4, 24, ((1, 40),), 2, (8.0,), 0.2,
        {"decode-heavy": (20, 6), "prefill-heavy": (30, 2)}, ("bf16",), 1,
        {"max_num_seqs": 4, "max_num_batched_tokens": 256, "max_model_len": 1700, "threads": 1},
    ),
}  # fmt: skip
"""A shape → the issue's table, and one for tests."""


def decode(results: Results, shape: str, device: str, folder: Path) -> None:
    """Tokens a second of so many requests that all decode, at the same context."""
    plan = PLANS[shape]
    for format in FORMATS:
        with _engine(shape, device, format, folder) as engine:
            for batch in plan.decode:

                def measure(batch: int = batch, engine: _Lazy = engine) -> dict[str, float]:
                    seconds = _decode_seconds(engine.get(), plan, batch)
                    return {
                        "tokens per second": round(batch / seconds, 1),
                        "milliseconds per step": round(seconds * 1e3, 3),
                        "context": plan.context,
                        **_share(results, engine.get(), batch, plan.context, seconds),
                    }

                results.once("decode", f"{shape} {format} batch {batch}", measure)


def prefill(results: Results, shape: str, device: str, folder: Path) -> None:
    """Prompt tokens a second, from the submission to the first token of all."""
    plan = PLANS[shape]
    for format in FORMATS:
        with _engine(shape, device, format, folder) as engine:
            for count, tokens in plan.prompts:

                def measure(
                    count: int = count, tokens: int = tokens, engine: _Lazy = engine
                ) -> dict[str, float]:
                    runs = [_prefill_seconds(engine.get(), count, tokens) for _ in range(4)]
                    seconds = float(np.median(runs[1:]))
                    flops = 2 * _parameters(engine.get()) * count * tokens
                    ceiling = results.ceiling("operations per second")
                    return {
                        "tokens per second": round(count * tokens / seconds, 1),
                        "milliseconds": round(seconds * 1e3, 2),
                        **(
                            {"share of ceiling": round(flops / seconds / ceiling, 3)}
                            if ceiling
                            else {}
                        ),
                    }

                results.once("prefill", f"{shape} {format} {count} x {tokens}", measure)


def serve(results: Results, shape: str, device: str, folder: Path) -> None:
    """The workloads of vLLM 0.6 over HTTP: all at once, and at two rates."""
    plan, vocabulary = PLANS[shape], SHAPES[shape]["vocab_size"]
    for format in plan.served:
        with _server(shape, device, format, folder) as server:
            for workload in _workloads(plan):

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


def _workloads(plan: Plan) -> Iterator[Workload]:
    count = plan.requests
    wanted, output = SHAREGPT_MEAN
    yield Workload("sharegpt", "serve", wanted, output, batch=count, total=count, varied=True)
    for name, (wanted, output) in plan.lengths.items():
        yield Workload(name, "serve", wanted, output, batch=count, total=count)
    for rate in plan.rates:
        total = max(round(rate * plan.rate_s), 1)
        yield Workload(
            f"sharegpt-{rate:g}/s", "serve", batch=total, total=total, rate=rate, varied=True
        )


class _Lazy:
    """An engine that is made when something is left to be measured with it."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._made: Assembly | None = None

    def get(self) -> Assembly:
        """The engine."""
        if self._made is None:
            self._made = Assembly(self._config)
        return self._made

    def drop(self) -> None:
        """Give its memory back."""
        self._made = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextmanager
def _engine(shape: str, device: str, format: str, folder: Path) -> Iterator[_Lazy]:
    directory = model_directory(shape, format, folder)
    engine = _Lazy(
        EngineConfig(
            str(directory),
            load_format="dummy",
            backend="torch",
            device=device,
            enable_prefix_caching=False,
            **PLANS[shape].options,
        )
    )
    try:
        yield engine
    finally:
        engine.drop()


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


def _decode_seconds(assembly: Assembly, plan: Plan, batch: int) -> float:
    """Of one step in which every request gets one token, in the mean of many."""
    engine, length = assembly.engine, plan.context - plan.steps // 2
    names = [
        _submit(assembly, prompt, plan.steps + batch + 16)
        for prompt in _prompts(assembly, batch, length)
    ]
    begun: set[str] = set()
    while len(begun) < batch:
        begun |= {update.request_id for update, _ in engine.step() if update.tokens}
    engine.step()  # the first with all of them may be slower
    started, tokens = time.perf_counter(), 0
    for _ in range(plan.steps):
        tokens += sum(len(update.tokens) for update, _ in engine.step())
    seconds = time.perf_counter() - started
    for name in names:
        engine.cancel(name)
    return seconds * batch / tokens


def _prefill_seconds(assembly: Assembly, count: int, tokens: int) -> float:
    for prompt in _prompts(assembly, count, tokens):
        _submit(assembly, prompt, 1)
    started = time.perf_counter()
    while assembly.engine.has_work:
        assembly.engine.step()
    return time.perf_counter() - started


def _prompts(assembly: Assembly, count: int, length: int) -> list[list[int]]:
    random = np.random.default_rng(count)
    most = assembly.model.spec.vocab_size - 100
    return [random.integers(256, most, length).tolist() for _ in range(count)]


def _submit(assembly: Assembly, prompt: list[int], max_tokens: int) -> str:
    """Queue a request; its name."""
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
    (completion,) = assembly.frontend.prepare(prompt, params).completions
    assembly.engine.submit(completion.request, completion.state)
    return completion.request.id


def _parameters(assembly: Assembly) -> int:
    """Those that every token is multiplied with; the table of tokens is not."""
    spec = assembly.model.spec
    assert isinstance(spec, ModelSpec), "shapes are of families"
    return spec.num_parameters - math.prod(spec.embedding.weight.shape)


def _share(
    results: Results, assembly: Assembly, batch: int, context: int, seconds: float
) -> dict[str, float]:
    """What a step must read, over what a copy reads in its time; {} without a ceiling."""
    ceiling = results.ceiling("bytes per second")
    if not ceiling:
        return {}
    memory, spec = assembly.model.memory, assembly.model.spec
    assert isinstance(spec, ModelSpec), "shapes are of families"
    table = 2 * math.prod(spec.embedding.weight.shape)
    per_token = memory.kv_cache / max(memory.kv_tokens, 1)
    read = memory.weights - table + batch * context * per_token
    return {"share of ceiling": round(read / seconds / ceiling, 3)}


def _stages(server: RunningServer) -> str:
    """What the server says of its start."""
    with urlopen(f"http://127.0.0.1:{server.port}/server_info") as answer:
        lines = json.load(answer)["summary"]
    return next((line for line in lines if line.startswith("loaded in")), "")
