"""`quire bench`: a batch's latency, offline throughput, a running server, or single kernels."""

from __future__ import annotations

from collections.abc import Mapping

from quire.cli.commands import Command

__all__ = ["COMMANDS"]

COMMANDS: Mapping[str, Command] = {
    "latency": Command("quire.cli.bench.latency", "time one batch of equal requests"),
    "throughput": Command("quire.cli.bench.throughput", "time many requests, offline"),
    "serve": Command("quire.cli.bench.serve", "send requests to a running server and measure it"),
    "kernel": Command("quire.cli.bench.kernel", "time each native kernel beside the machine"),
}
