"""Prints the figures of a serving benchmark as `vllm bench serve` does, and saves them as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from quire.cli.bench.client import Outcome
from quire.cli.bench.drafts import DraftCounts
from quire.cli.bench.figures import Distribution, Figures

__all__ = ["as_json", "details", "save", "table"]

WIDTH = 50
TITLES = {
    "ttft": "Time to First Token",
    "tpot": "Time per Output Token (excl. 1st token)",
    "itl": "Inter-token Latency",
    "e2el": "End-to-end Latency",
}


def table(
    figures: Figures,
    metrics: Sequence[str],
    rate: float,
    max_concurrency: int | None,
    drafts: DraftCounts,
) -> str:
    """The table, label by label as vLLM prints it: scripts grep for these."""
    lines = [f"{' Serving Benchmark Result ':=^{WIDTH}}"]
    lines += _counts(figures, rate, max_concurrency)
    for name in metrics:
        lines.append(f"{TITLES[name]:-^{WIDTH}}")
        lines += _distribution(name.upper(), figures.distributions[name])
    speculation = [_row(label, value) for label, value in drafts.rows()]
    if speculation:
        lines += [f"{'Speculative Decoding':-^{WIDTH}}", *speculation]
    lines.append("=" * WIDTH)
    return "\n".join(lines)


def as_json(figures: Figures, metrics: Sequence[str], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The figures under the names of vLLM's result files, after the facts of the run."""
    result: dict[str, Any] = {
        **facts,
        "duration": figures.duration,
        "completed": figures.completed,
        "failed": figures.failed,
        "total_input_tokens": figures.total_input_tokens,
        "total_output_tokens": figures.total_output_tokens,
        "request_throughput": figures.request_throughput,
        "request_goodput": figures.goodput,
        "output_throughput": figures.output_throughput,
        "total_token_throughput": figures.total_token_throughput,
        "max_output_tokens_per_s": figures.max_output_tokens_per_s,
        "max_concurrent_requests": figures.max_concurrent_requests,
    }
    for name in metrics:
        found = figures.distributions[name]
        result[f"mean_{name}_ms"] = found.mean
        result[f"median_{name}_ms"] = found.median
        result[f"std_{name}_ms"] = found.std
        result.update({f"p{which:g}_{name}_ms": value for which, value in found.percentiles})
    return result


def details(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What happened to each request, for --save-detailed."""
    return {
        "input_lens": [outcome.prompt_tokens for outcome in outcomes],
        "output_lens": [outcome.output_tokens for outcome in outcomes],
        "ttfts": [outcome.first_token_s for outcome in outcomes],
        "itls": [outcome.gaps_s for outcome in outcomes],
        "generated_texts": [outcome.text for outcome in outcomes],
        "errors": [outcome.error for outcome in outcomes],
    }


def save(result: Mapping[str, Any], path: Path, append: bool) -> Path:
    """Write one JSON object to the file, or add it as a line of its own; the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a" if append else "w", encoding="utf-8") as file:
        json.dump(result, file, ensure_ascii=False)
        file.write("\n")
    return path


def _counts(figures: Figures, rate: float, max_concurrency: int | None) -> Iterator[str]:
    yield _row("Successful requests:", figures.completed)
    yield _row("Failed requests:", figures.failed)
    if max_concurrency is not None:
        yield _row("Maximum request concurrency:", max_concurrency)
    if rate != float("inf"):
        yield _row("Request rate configured (RPS):", rate)
    yield _row("Benchmark duration (s):", figures.duration)
    yield _row("Total input tokens:", figures.total_input_tokens)
    yield _row("Total generated tokens:", figures.total_output_tokens)
    yield _row("Request throughput (req/s):", figures.request_throughput)
    if figures.goodput is not None:
        yield _row("Request goodput (req/s):", figures.goodput)
    yield _row("Output token throughput (tok/s):", figures.output_throughput)
    yield _row("Peak output token throughput (tok/s):", figures.max_output_tokens_per_s)
    yield _row("Peak concurrent requests:", float(figures.max_concurrent_requests))
    yield _row("Total token throughput (tok/s):", figures.total_token_throughput)


def _distribution(name: str, found: Distribution) -> Iterator[str]:
    yield _row(f"Mean {name} (ms):", found.mean)
    yield _row(f"Median {name} (ms):", found.median)
    for which, value in found.percentiles:
        yield _row(f"P{which:g} {name} (ms):", value)


def _row(label: str, value: float) -> str:
    number = f"{value:.2f}" if isinstance(value, float) else str(value)
    return f"{label:<40} {number:<10}".rstrip()
