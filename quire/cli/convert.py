"""`quire convert MODEL --format … --output DIR`: a quantized checkpoint in another format."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from quire.cli.engine_options import add_engine_options, engine_config
from quire.cli.parser import CommandParser
from quire.cli.usage import UsageError

__all__ = ["add_arguments", "run"]

MODEL_OPTIONS = ("revision", "source", "offline", "download_dir", "strict_config", "hf_overrides")


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    from quire.convert.convert import Format

    parser.add_argument("--output", "-o", metavar="DIR", help="a new directory for the checkpoint")
    parser.add_argument("--format", choices=get_args(Format), help="float: as before quantization")
    add_engine_options(parser, only=MODEL_OPTIONS)


def run(namespace: argparse.Namespace) -> int:
    """Convert."""
    from quire.convert.convert import convert_checkpoint

    for name in ("output", "format"):
        if not hasattr(namespace, name):
            raise UsageError(f"--{name} is missing (see quire convert --help)")
    convert_checkpoint(engine_config(namespace), Path(namespace.output), namespace.format)
    print(f"{namespace.output} holds the model as {namespace.format}")
    return 0
