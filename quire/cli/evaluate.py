"""`quire evaluate MODEL --text F`: perplexity, divergence from another model, answers."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

from quire.cli.engine_options import add_engine_options, engine_config
from quire.cli.parser import CommandParser
from quire.cli.usage import UsageError
from quire.cli.values import human_integer

__all__ = ["add_arguments", "run"]

WINDOW = 512
OPTIONS = (
    "tokenizer",
    "revision",
    "source",
    "offline",
    "download_dir",
    "dtype",
    "quantization",
    "kv_cache_dtype",
    "backend",
    "instruction_set",
    "threads",
    "strict_config",
    "hf_overrides",
)
OF_THE_NUMBERS = ("dtype", "quantization", "kv_cache_dtype")


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument("--text", metavar="FILE", nargs="+", help=".txt or .jsonl files to predict")
    parser.add_argument(
        "--against",
        metavar="MODEL",
        help="the original: how far predictions are from its own, with its own number formats",
    )
    parser.add_argument(
        "--tasks",
        metavar="FILE",
        nargs="+",
        help='.jsonl files of {"question", "answer"}, with "choices" or without',
    )
    parser.add_argument(
        "--window",
        metavar="N",
        type=human_integer,
        help=f"tokens that are predicted together (default: {WINDOW})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_engine_options(parser, only=OPTIONS)


def run(namespace: argparse.Namespace) -> int:
    """Measure and print."""
    texts: list[str] = getattr(namespace, "text", [])
    tasks: list[str] = getattr(namespace, "tasks", [])
    if not texts and not tasks:
        raise UsageError("measure on what? give --text FILE or --tasks FILE")
    if tasks and not texts and hasattr(namespace, "against"):
        raise UsageError("--against compares predictions on texts; give --text FILE too")
    config = engine_config(namespace)
    window: int = getattr(namespace, "window", WINDOW)
    if window < 2:
        raise UsageError(f"--window is {window}; give 2 or more")
    results: dict[str, Any] = {"model": config.model}
    if texts:
        results["texts"] = _texts(namespace, config, texts, window)
    if tasks:
        results["tasks"] = _tasks(config, tasks)
    print(json.dumps(results, ensure_ascii=False) if "json" in namespace else _table(results))
    return 0


def _texts(namespace: argparse.Namespace, config: Any, texts: list[str], window: int) -> Any:
    from quire.convert.evaluate import evaluate_texts
    from quire.convert.served_model import ServedModel

    other = None
    if hasattr(namespace, "against"):
        plain = dict.fromkeys(OF_THE_NUMBERS, "auto")
        other = ServedModel(replace(config, model=namespace.against, **plain), window)
    return evaluate_texts(ServedModel(config, window), other, texts, window)


def _tasks(config: Any, tasks: list[str]) -> Any:
    from dataclasses import asdict

    from quire.convert.tasks import answer_questions, read_questions
    from quire.llm import LLM

    questions = {path: read_questions(path) for path in tasks}
    options = asdict(config)
    llm = LLM(options.pop("model"), **options)
    return [{"tasks": path, **answer_questions(llm, each)} for path, each in questions.items()]


def _table(results: dict[str, Any]) -> str:
    lines = []
    for found in results.get("texts", ()):
        lines.append(
            f"{found['text']}: {found['tokens']} tokens, perplexity {found['perplexity']:.3f}, "
            f"bits per byte {found['bits_per_byte']:.4f}"
        )
        if "kl_mean" in found:
            change = found["perplexity"] / found["perplexity_original"] - 1
            lines.append(
                f"  original: perplexity {found['perplexity_original']:.3f} ({change:+.2%}), "
                f"KL mean {found['kl_mean']:.5f}, 99th percentile {found['kl_p99']:.4f}, "
                f"same top token {found['top1_agreement']:.2%}"
            )
    for found in results.get("tasks", ()):
        kinds = (("multiple_choice", "accuracy"), ("exact_match", "matched"))
        shown = [
            f"{found[n]} {n.replace('_', ' ')}, {found[s]:.1%} right"
            for n, s in kinds
            if n in found
        ]
        lines.append(f"{found['tasks']}: {'; '.join(shown)}")
    return "\n".join(lines)
