"""`quire bench serve`: load a running server and print what `vllm bench serve` prints."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quire.cli.bench.client import Client, Outcome
from quire.cli.bench.datasets import BenchRequest, Dataset
from quire.cli.bench.drafts import DraftCounts
from quire.cli.bench.figures import Figures
from quire.cli.bench.http_stream import HttpError, Server
from quire.cli.bench.load import arrival_times, send_all
from quire.cli.bench.report import as_json, details, save, table
from quire.cli.bench.serve_options import ServeBench
from quire.cli.options import add_options, given_options
from quire.cli.parser import CommandParser

if TYPE_CHECKING:
    from quire.text.tokenizer import Tokenizer

__all__ = ["add_arguments", "run"]

POLL_S = 0.5


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.accept_config_file()
    add_options(parser, "benchmark", ServeBench)
    add_options(parser, "requests", Dataset)


def run(namespace: argparse.Namespace) -> int:
    """Measure the server; 1 when no request succeeded."""
    bench = ServeBench(**given_options(namespace, ServeBench))
    dataset = Dataset(**given_options(namespace, Dataset))
    return asyncio.run(_measure(bench, dataset))


async def _measure(bench: ServeBench, dataset: Dataset) -> int:
    server = bench.server
    model = await _served_model(server, bench)
    tokenizer = _tokenizer(bench)
    client = Client(server, bench.backend, bench.path, model, bench.settings)
    requests = _for_backend(dataset.requests(tokenizer), bench, tokenizer)
    await _warm_up(client, bench, dataset, tokenizer)
    drafts_before = await _draft_counts(server)
    started = time.perf_counter()
    outcomes = await _load(client, requests, bench, dataset.seed)
    duration = time.perf_counter() - started
    drafts = await _draft_counts(server) - drafts_before
    figures = Figures.of(outcomes, duration, bench.objectives, bench.percentiles)
    print(table(figures, bench.metrics, bench.request_rate, bench.max_concurrency, drafts))
    if bench.save_result or bench.save_detailed or bench.append_result:
        result = as_json(figures, bench.metrics, _facts(bench, model, dataset))
        path = save(
            {**result, **drafts.as_json(), **(details(outcomes) if bench.save_detailed else {})},
            Path(bench.result_dir) / (bench.result_filename or _file_name(bench, model)),
            bench.append_result,
        )
        print(f"saved to {path}", file=sys.stderr)
    for error in sorted({outcome.error for outcome in outcomes if outcome.error})[:3]:
        print(f"quire: a request failed: {error}", file=sys.stderr)
    return 0 if figures.completed else 1


async def _served_model(server: Server, bench: ServeBench) -> str:
    """The model's name, asked of the server as soon as it answers.

    Raises HttpError when it does not answer in time.
    """
    give_up = time.monotonic() + bench.ready_check_timeout_sec
    while True:
        try:
            models = await server.get_json("/v1/models")
            return bench.model or str(models["data"][0]["id"])
        except (OSError, HttpError) as error:
            if isinstance(error, HttpError) and error.status in (401, 403, 404):
                raise
            if time.monotonic() >= give_up:
                raise HttpError(f"no server answers at {server.url}: {error}") from error
        await asyncio.sleep(POLL_S)


async def _draft_counts(server: Server) -> DraftCounts:
    """What the server counted of speculation; nothing where it does not tell."""
    try:
        return DraftCounts.of_metrics(await server.get_text("/metrics"))
    except (OSError, HttpError):
        return DraftCounts()


def _tokenizer(bench: ServeBench) -> Tokenizer | None:
    """The tokenizer to draw tokens from, if one is at hand."""
    name = bench.tokenizer
    if name is None and bench.model is not None and Path(bench.model).is_dir():
        name = bench.model
    if name is None:
        print("no --tokenizer: random prompts are words, of a token or so each", file=sys.stderr)
        return None
    from quire.text.tokenizer import load_tokenizer
    from quire.weights.hub import resolve_model

    return load_tokenizer(resolve_model(name))


def _for_backend(
    requests: Sequence[BenchRequest], bench: ServeBench, tokenizer: Tokenizer | None
) -> list[BenchRequest]:
    """Completions take token ids as they are; a chat message is text."""
    if bench.backend == "openai" or tokenizer is None:
        return list(requests)
    decode = tokenizer.decode
    return [
        request
        if isinstance(request.prompt, str)
        else replace(request, prompt=decode(request.prompt))
        for request in requests
    ]


async def _warm_up(
    client: Client, bench: ServeBench, dataset: Dataset, tokenizer: Tokenizer | None
) -> None:
    """One short request, to fail early, and the warm-ups: drawn anew, to share no prefix."""
    outcome = await client.send(BenchRequest("Hello", 1))
    if outcome.error:
        raise HttpError(f"the first request failed: {outcome.error}")
    if bench.num_warmups:
        other = replace(dataset, num_prompts=bench.num_warmups, seed=dataset.seed + 1)
        requests = _for_backend(other.requests(tokenizer), bench, tokenizer)
        await asyncio.gather(*map(client.send, requests))


async def _load(
    client: Client, requests: Sequence[BenchRequest], bench: ServeBench, seed: int
) -> list[Outcome]:
    from tqdm import tqdm

    times = arrival_times(len(requests), bench.request_rate, bench.burstiness, seed)
    with tqdm(total=len(requests), unit="req", dynamic_ncols=True) as bar:
        return await send_all(requests, times, bench.max_concurrency, client.send, bar.update)


def _facts(bench: ServeBench, model: str, dataset: Dataset) -> dict[str, Any]:
    """What was run, under the names of vLLM's result files."""
    return {
        "date": time.strftime("%Y%m%d-%H%M%S"),
        "endpoint_type": bench.backend,
        "backend": bench.backend,
        "label": None,
        "model_id": model,
        "tokenizer_id": bench.tokenizer or model,
        "num_prompts": dataset.num_prompts,
        **bench.facts,
        "request_rate": bench.request_rate if bench.request_rate != float("inf") else "inf",
        "burstiness": bench.burstiness,
        "max_concurrency": bench.max_concurrency,
    }


def _file_name(bench: ServeBench, model: str) -> str:
    rate = f"{bench.request_rate:g}qps"
    limit = f"-concurrency{bench.max_concurrency}" if bench.max_concurrency else ""
    name = Path(model).name
    return f"{bench.backend}-{rate}{limit}-{name}-{time.strftime('%Y%m%d-%H%M%S')}.json"
