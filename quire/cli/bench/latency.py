"""`quire bench latency MODEL`: the time of one batch of equal requests, several times over."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from quire.cli.bench.drafts import DraftCounts
from quire.cli.bench.options import require_positive
from quire.cli.engine_options import add_engine_options, chosen_model, engine_options
from quire.cli.options import add_options, given_options
from quire.cli.parser import CommandParser

if TYPE_CHECKING:
    from quire.llm import LLM
    from quire.outputs import RequestOutput

__all__ = ["Iteration", "LatencyBench", "add_arguments", "run", "summarize"]


@dataclass(frozen=True, slots=True)
class LatencyBench:
    """What is timed."""

    batch_size: int = field(default=8, metadata={"help": "requests in the batch"})
    input_len: int = field(default=32, metadata={"help": "prompt tokens of each, drawn at random"})
    output_len: int = field(default=128, metadata={"help": "tokens to generate for each"})
    num_iters_warmup: int = field(default=1, metadata={"help": "batches before the clock counts"})
    num_iters: int = field(default=5, metadata={"help": "batches that are timed"})
    output_json: str | None = field(default=None, metadata={"help": "file for the figures"})


@dataclass(frozen=True, slots=True)
class Iteration:
    """Seconds of one batch: all of it, and until the last request had its first token."""

    latency_s: float
    prefill_s: float


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    add_options(parser, "benchmark", LatencyBench)
    add_engine_options(parser)


def run(namespace: argparse.Namespace) -> int:
    """Time the batches and print their figures."""
    bench = LatencyBench(**given_options(namespace, LatencyBench))
    require_positive(bench, "batch_size", "input_len", "output_len", "num_iters")
    from quire.llm import LLM

    llm = LLM(chosen_model(namespace), **engine_options(namespace))
    print(*llm.info.lines, sep="\n")
    runs = [_iterate(llm, bench, i) for i in range(bench.num_iters_warmup + bench.num_iters)]
    figures = summarize(runs[bench.num_iters_warmup :], bench)
    drafts = DraftCounts.of(llm.stats().scheduler)
    for label, value in (*figures.items(), *drafts.rows()):
        print(f"{label:<42} {value:.3f}")
    if bench.output_json is not None:
        text = json.dumps({**asdict(bench), **figures, **drafts.as_json()}, indent=2)
        Path(bench.output_json).write_text(text + "\n", encoding="utf-8")
    return 0


def summarize(runs: list[Iteration], bench: LatencyBench) -> dict[str, float]:
    """Medians by their labels."""
    latencies = sorted(run.latency_s for run in runs)
    prefill = statistics.median(run.prefill_s for run in runs)
    decode = statistics.median(run.latency_s - run.prefill_s for run in runs)
    figures = {
        "Avg latency (s):": statistics.fmean(latencies),
        "Median latency (s):": statistics.median(latencies),
        "Min latency (s):": latencies[0],
        "Max latency (s):": latencies[-1],
        "Median time to all first tokens (s):": prefill,
        "Prefill throughput (tok/s):": bench.batch_size * bench.input_len / prefill,
    }
    if bench.output_len > 1:
        tokens = bench.batch_size * (bench.output_len - 1)
        figures["Decode throughput (tok/s):"] = tokens / decode
        figures["Median time per output token (ms):"] = decode / (bench.output_len - 1) * 1000
    return figures


def _iterate(llm: LLM, bench: LatencyBench, number: int) -> Iteration:
    """One batch; its prompts are new, so that no prefix is in the cache."""
    from quire.cli.bench.prompts import random_ids
    from quire.sampling_params import SamplingParams

    prompts = random_ids(llm.get_tokenizer(), [bench.input_len] * bench.batch_size, number)
    params = SamplingParams(temperature=0.0, max_tokens=bench.output_len, ignore_eos=True)
    started = time.monotonic()
    outputs = llm.generate(prompts, params, use_tqdm=False)
    return Iteration(time.monotonic() - started, _last_first_token(outputs) - started)


def _last_first_token(outputs: list[RequestOutput]) -> float:
    return max(output.metrics.first_token_s for output in outputs if output.metrics is not None)
