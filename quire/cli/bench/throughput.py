"""`quire bench throughput MODEL`: how fast many requests are done when all are there at once."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quire.cli.bench.datasets import Dataset
from quire.cli.bench.drafts import DraftCounts
from quire.cli.engine_options import add_engine_options, chosen_model, engine_options
from quire.cli.options import add_options, given_options
from quire.cli.parser import CommandParser

if TYPE_CHECKING:
    from quire.outputs import RequestOutput

__all__ = ["ThroughputBench", "add_arguments", "run", "summarize"]


@dataclass(frozen=True, slots=True)
class ThroughputBench:
    """What is sampled and where the figures go; the requests are a Dataset."""

    n: int = field(default=1, metadata={"help": "completions of each prompt"})
    temperature: float = field(default=0.0, metadata={"help": "0, greedy: the likeliest token"})
    output_json: str | None = field(default=None, metadata={"help": "file for the figures"})


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    add_options(parser, "benchmark", ThroughputBench)
    add_options(parser, "requests", Dataset, skip=("seed",))
    add_engine_options(parser)


def run(namespace: argparse.Namespace) -> int:
    """Run every request and print the rates."""
    bench = ThroughputBench(**given_options(namespace, ThroughputBench))
    dataset = Dataset(**given_options(namespace, Dataset))
    from quire.llm import LLM
    from quire.sampling_params import SamplingParams

    llm = LLM(chosen_model(namespace), **engine_options(namespace))
    print(*llm.info.lines, sep="\n")
    requests = dataset.requests(llm.get_tokenizer())
    common: dict[str, Any] = {"n": bench.n, "temperature": bench.temperature, "ignore_eos": True}
    params = [SamplingParams(max_tokens=each.output_tokens, **common) for each in requests]
    started = time.monotonic()
    outputs = llm.generate([each.prompt for each in requests], params)
    figures = summarize(outputs, time.monotonic() - started)
    print(
        f"Throughput: {figures['requests_per_second']:.2f} requests/s, "
        f"{figures['tokens_per_second']:.2f} total tokens/s, "
        f"{figures['output_tokens_per_second']:.2f} output tokens/s"
    )
    print(f"Total num prompt tokens:  {figures['num_prompt_tokens']}")
    print(f"Total num output tokens:  {figures['num_output_tokens']}")
    drafts = DraftCounts.of(llm.stats().scheduler)
    for label, value in drafts.rows():
        print(f"{label:<25} {value:.10g}")
    if bench.output_json is not None:
        text = json.dumps({**figures, **drafts.as_json()}, indent=2)
        Path(bench.output_json).write_text(text + "\n", encoding="utf-8")
    return 0


def summarize(outputs: Sequence[RequestOutput], seconds: float) -> dict[str, float]:
    """The figures under the names of vLLM's result files."""
    prompt = sum(len(output.prompt_token_ids) for output in outputs)
    generated = sum(len(each.token_ids) for output in outputs for each in output.outputs)
    return {
        "elapsed_time": seconds,
        "num_requests": len(outputs),
        "num_prompt_tokens": prompt,
        "num_output_tokens": generated,
        "total_num_tokens": prompt + generated,
        "requests_per_second": len(outputs) / seconds,
        "tokens_per_second": (prompt + generated) / seconds,
        "output_tokens_per_second": generated / seconds,
    }
