"""Runs the command that was asked for; turns errors into one line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from quire.cli.commands import Command, run_one_of
from quire.cli.usage import UsageError
from quire.errors import QuireError

__all__ = ["COMMANDS", "main"]

COMMANDS: Mapping[str, Command] = {
    "serve": Command("quire.cli.serve", "serve a model over HTTP with the OpenAI API"),
    "chat": Command("quire.cli.chat", "talk with a model in the terminal"),
    "generate": Command("quire.cli.generate", "complete one prompt"),
    "quantize": Command("quire.cli.quantize", "write a quantized checkpoint, with a report"),
    "evaluate": Command(
        "quire.cli.evaluate", "measure a model on texts and tasks, or against another"
    ),
    "convert": Command("quire.cli.convert", "write a quantized checkpoint in another format"),
    "bench": Command("quire.cli.bench", "measure latency, throughput, a server or the kernels"),
    "show": Command("quire.cli.show", "show what a model is made of, and its memory"),
    "explain": Command("quire.cli.explain", "show a model's ops, kernels, bytes and FLOPs"),
    "tune": Command("quire.cli.tune", "measure which cut of the kernels' work is fastest here"),
    "doctor": Command("quire.cli.doctor", "show what this machine has and what is missing"),
}

OK, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; the exit code: 0, 1 for an error, 2 for wrong usage, 130 for Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return run_one_of(COMMANDS, "quire", arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _close_stdout()
        return OK
    except QuireError as error:
        if "--debug" in arguments:
            raise
        print(f"quire: error: {error}", file=sys.stderr)
        return WRONG_USAGE if isinstance(error, UsageError) else FAILED


def _close_stdout() -> None:
    """Whoever read our output has gone: let the interpreter's last flush go nowhere."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
