"""Measures peers in turns, A B A B, one engine at a time; a peer that fails costs only its cell."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bench.peers import load
from bench.peers.machine import MachineRates
from bench.peers.peer import Case, Declined, Metrics, Peer
from bench.peers.process import EngineFailed, RunningServer, free_port, run, serving
from bench.peers.results import Cell, Results, Row
from bench.peers.workloads import Workload

__all__ = ["Runner", "rounds"]

T = TypeVar("T")
OVER_HTTP = ("start", "serve")


def rounds(peers: Sequence[T], repeats: int) -> Iterator[T]:
    """Every peer once, then every peer again: what drifts on the machine meets all alike."""
    for _ in range(repeats):
        yield from peers


@dataclass
class Runner:
    """results is saved at path after every measurement.  limit_s: for each of them."""

    peers: Sequence[Peer]
    results: Results
    path: Path
    rates: MachineRates
    repeats: int
    limit_s: float

    def measure(self, case: Case, workloads: Sequence[Workload]) -> None:
        """Fill the cells of one shape and precision."""
        self.results.rates = dict(self.rates.calibrate())
        for workload in workloads:
            if workload.kind not in OVER_HTTP:
                for peer in rounds(self.peers, self.repeats):
                    self._cell(peer, case, workload, lambda p, w: self._offline(p, case, w))
                self.results.rates = dict(self.rates.calibrate())
        served = [workload for workload in workloads if workload.kind in OVER_HTTP]
        if served:
            for peer in rounds(self.peers, self.repeats):
                self._session(peer, case, served)

    def _offline(self, peer: Peer, case: Case, workload: Workload) -> Metrics:
        """With the rate that memory is read at, in the middle of before and after."""
        before = self.rates.read_now()
        found = run(peer.offline(case, workload), self.limit_s)
        return {**found, "read_rate": (before + self.rates.read_now()) / 2}

    def _session(self, peer: Peer, case: Case, workloads: Sequence[Workload]) -> None:
        """One start of a peer's server, and every serve workload sent to it."""
        wanted = [each for each in workloads if not self._cell_of(peer, case, each).problem]
        if not wanted:
            return
        port = free_port()
        try:
            with serving(peer.server(case, port), port, self.limit_s) as server:
                for workload in wanted:
                    self._cell(peer, case, workload, lambda _, w: self._served(server, case, w))
        except Declined as error:
            for workload in wanted:
                self._without_server(peer, case, workload, str(error))
        except EngineFailed as error:
            for workload in wanted:
                self._cell(peer, case, workload, _raiser(error))

    def _without_server(self, peer: Peer, case: Case, workload: Workload, reason: str) -> None:
        """A worker's own start says as much as a server's; for the rest the reason stands."""
        if workload.kind == "start":
            self._cell(peer, case, workload, lambda p, w: self._worker_start(p, case, w, reason))
        else:
            self._cell(peer, case, workload, _raiser(Declined(reason)))

    def _worker_start(self, peer: Peer, case: Case, workload: Workload, reason: str) -> Metrics:
        found = self._offline(peer, case, workload)
        if "first_token_s" not in found:
            raise Declined(reason)
        return {"first_token_s": found["first_token_s"], "resident_mib": found["peak_mib"]}

    def _served(self, server: RunningServer, case: Case, workload: Workload) -> Metrics:
        vocabulary = case.checkpoint.shape.config["vocab_size"]
        if workload.kind == "start":
            first = load.first_token(server, workload, vocabulary)
            found = {"ready_s": server.ready_s, "first_token_s": first}
            return {**found, "resident_mib": server.resident_mib()}
        found = dict(load.serve(server, workload, vocabulary, self.limit_s))
        return {**found, "resident_mib": server.resident_mib()}

    def _cell(
        self, peer: Peer, case: Case, workload: Workload,
        measure: Callable[[Peer, Workload], Metrics],
    ) -> None:  # fmt: skip
        """Add a sample; what failed once is not tried again."""
        cell = self._cell_of(peer, case, workload)
        if cell.problem:
            return
        try:
            cell.samples.append(measure(peer, workload))
        except (Declined, EngineFailed, OSError) as error:
            cell.problem = str(error)
        shown = cell.problem or " ".join(f"{k}={v:.4g}" for k, v in cell.samples[-1].items())
        where = f"{case.checkpoint.shape.name} {case.precision} {workload.name}"
        print(f"{where:44s} {peer.name:14s} {shown}", file=sys.stderr, flush=True)
        self.results.save(self.path)

    def _cell_of(self, peer: Peer, case: Case, workload: Workload) -> Cell:
        row = Row(case.checkpoint.shape.name, case.precision, workload.name)
        return self.results.cell(peer.name, row)


def _raiser(error: Exception) -> Callable[[Peer, Workload], Metrics]:
    def fail(_: Peer, __: Workload) -> Metrics:
        raise error

    return fail
