"""`quire bench`: latency of a batch, throughput offline, or the figures of a running server."""

from __future__ import annotations

from collections.abc import Mapping

from quire.cli.commands import Command

__all__ = ["COMMANDS"]

COMMANDS: Mapping[str, Command] = {
    "latency": Command("quire.cli.bench.latency", "time one batch of equal requests"),
    "throughput": Command("quire.cli.bench.throughput", "time many requests, offline"),
    "serve": Command("quire.cli.bench.serve", "send requests to a running server and measure it"),
}
