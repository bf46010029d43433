"""`quire quantize MODEL --scheme … --output DIR`: write a quantized checkpoint and its report."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from quire.cli.engine_options import add_engine_options, engine_config
from quire.cli.options import add_options, given_options
from quire.cli.parser import CommandParser
from quire.cli.usage import UsageError

__all__ = ["add_arguments", "run"]

MODEL_OPTIONS = (
    "tokenizer",
    "revision",
    "source",
    "offline",
    "download_dir",
    "strict_config",
    "hf_overrides",
)


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    from quire.convert.recipe import Quantization

    parser.add_argument("--output", "-o", metavar="DIR", help="a new directory for the checkpoint")
    add_options(parser, "quantization", Quantization)
    add_engine_options(parser, only=MODEL_OPTIONS)


def run(namespace: argparse.Namespace) -> int:
    """Quantize; an interrupted run goes on when the same command is given again."""
    from quire.convert.recipe import Quantization
    from quire.convert.run import quantize_to_directory

    output: str | None = getattr(namespace, "output", None)
    if output is None:
        raise UsageError("where to? give --output DIR, a directory that does not exist yet")
    given = given_options(namespace, Quantization)
    listed: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items()
    }
    asked = Quantization(**listed)
    report = quantize_to_directory(engine_config(namespace), asked, Path(output))
    figures = report["figures"]
    print(
        f"{output}: {report['bytes'] / report['original_bytes']:.1%} of the original's bytes, "
        f"perplexity {figures['perplexity_original']:.3f} → {figures['perplexity']:.3f}, "
        f"KL {figures['kl_mean']:.5f}, agreement {figures['top1_agreement']:.2%}"
    )
    print(f"the report is {Path(output) / 'quantization.md'}")
    return 0
