"""Keeps a server busy with mixed traffic, and ends with a verdict on what it still holds.

python -m bench.soak [--minutes N] [--clients N] [--model M] [options of quire serve]
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

from bench.peers.process import free_port
from bench.soak.exchanges import EXCHANGES, Exchange, Unexpected, Visitor
from bench.soak.watch import Sample, faults, growth, sample
from quire.cli.bench.http_stream import HttpError, Server

WARM_UP = 0.3
"""The share of the time in which caches, pools and the allocator still fill."""

PATIENCE_S = 120.0


class Soak:
    """One run: clients that take exchange after exchange, and someone who watches."""

    def __init__(self, server: Server, pid: int, longest: int) -> None:
        self.server = server
        self.visitor = Visitor(server, seed=1, longest=longest)
        self.counts: collections.Counter[str] = collections.Counter()
        self.failures: list[str] = []
        self._pid = pid
        self._started = time.monotonic()

    async def run(self, seconds: float, num_clients: int) -> list[Sample]:
        """Load the server; samples of before, of every second, and of after."""
        before = await self.look()
        end = time.monotonic() + seconds
        clients = [asyncio.create_task(self._client(end)) for _ in range(num_clients)]
        samples = [before]
        while time.monotonic() < end:
            await asyncio.sleep(1)
            samples.append(await self.look())
        await asyncio.gather(*clients)
        await asyncio.sleep(2)
        return [*samples, await self.look()]

    async def look(self) -> Sample:
        """What the server holds now."""
        metrics = await self.server.get_text("/metrics")
        return sample(self._pid, time.monotonic() - self._started, metrics)

    async def _client(self, end: float) -> None:
        kinds, weights = list(EXCHANGES), list(EXCHANGES.values())
        while time.monotonic() < end and len(self.failures) < 20:
            (kind,) = self.visitor.random.choices(kinds, weights)
            await self._exchange(kind)

    async def _exchange(self, kind: Exchange) -> None:
        name = kind.__name__
        self.counts[name] += 1
        try:
            await asyncio.wait_for(kind(self.visitor), PATIENCE_S)
        except (Unexpected, HttpError, OSError, ValueError, TimeoutError) as error:
            self.failures.append(f"{name}: {type(error).__name__} {error}"[:1000])


def main() -> int:
    """Run a soak and print the verdict; 1 if there is a fault."""
    parser = argparse.ArgumentParser("python -m bench.soak", allow_abbrev=False)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--longest", type=int, default=400, help="words of the longest prompts")
    options, serve_options = parser.parse_known_args()
    with tempfile.TemporaryFile("w+") as log:
        found = _soak(options, serve_options, log)
        log.seek(0)
        said = [line.rstrip() for line in log if "ERROR" in line or "Traceback" in line]
    found += [f"the server logged: {line}" for line in said[:10]]
    print(*(f"FAULT {fault}" for fault in found), f"verdict: {len(found)} faults", sep="\n")
    return 1 if found else 0


def _soak(options: argparse.Namespace, serve_options: list[str], log: IO[str]) -> list[str]:
    port = free_port()
    program = str(Path(sys.executable).with_name("quire"))
    command = [program, "serve", options.model, "--port", str(port), *serve_options]
    print("server:", *command, flush=True)
    process = subprocess.Popen(command, stderr=log)
    try:
        server = Server("127.0.0.1", port)
        asyncio.run(_wait_until_healthy(server, process))
        soak = Soak(server, process.pid, options.longest)
        samples = asyncio.run(soak.run(options.minutes * 60, options.clients))
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    before, *loaded, after = samples
    loaded = loaded[int(len(loaded) * WARM_UP) :]
    _report(soak, samples)
    found = soak.failures + list(faults(before, loaded, after))
    return found + ([f"the server ended with {code}"] if code else [])


async def _wait_until_healthy(server: Server, process: subprocess.Popen[Any]) -> None:
    while process.poll() is None:
        try:
            await server.get_text("/health")
            return
        except OSError:
            await asyncio.sleep(0.01)
    raise SystemExit("the server did not start")


def _report(soak: Soak, samples: list[Sample]) -> None:
    """What was done, ten of the samples, and the growth after the warm-up."""
    counts = ", ".join(f"{count} {name}" for name, count in sorted(soak.counts.items()))
    print(f"{sum(soak.counts.values())} exchanges: {counts}; {soak.visitor.num_full} found it full")
    print("seconds  resident MiB  files  threads  blocks in use  running  waiting")
    for each in [*samples[:: max(1, len(samples) // 10)], samples[-1]]:
        print(
            f"{each.seconds:7.0f} {each.resident / 2**20:13.1f} {each.files:6} {each.threads:8}"
            f" {each.blocks:14.0%} {each.running:8} {each.waiting:8}"
        )
    loaded = samples[1:-1]
    grown = growth(loaded[int(len(loaded) * WARM_UP) :])
    print(f"resident memory after the warm-up: {grown / 2**20:+.1f} MiB")


if __name__ == "__main__":
    sys.exit(main())
