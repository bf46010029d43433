"""What every engine under measurement can do: say how one workload is run with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from bench.peers.workloads import Workload

if TYPE_CHECKING:
    from bench.peers.checkpoints import Checkpoint
    from bench.peers.shapes import Precision

__all__ = ["Case", "Command", "Declined", "Metrics", "Peer", "last_json"]

Metrics = Mapping[str, float]
"""Metric → value; rates in tokens per second, times in milliseconds unless the name ends in _s."""


class Declined(Exception):
    """An engine is not here or does not do a workload; the message says why and what would help."""


@dataclass(frozen=True)
class Case:
    """A model as one engine is asked to run it."""

    checkpoint: Checkpoint
    precision: Precision
    threads: int


def last_json(output: str) -> Metrics:
    """The metrics a worker printed as its last line.  Raises ValueError if it printed none."""
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            found: dict[str, float] = json.loads(line)
            return found
    raise ValueError("the worker printed no figures")


@dataclass(frozen=True)
class Command:
    """A process to start; for an offline workload, parse makes metrics of what it printed."""

    arguments: Sequence[object]
    environment: Mapping[str, str] = field(default_factory=dict)
    parse: Callable[[str], Metrics] = last_json


class Peer(Protocol):
    """One engine, in its own environment, run only as other processes."""

    @property
    def name(self) -> str:
        """What tables and --peers call it."""
        ...

    def unavailable(self) -> str | None:
        """How to install it, if it is not here."""
        ...

    def version(self) -> str:
        """Its version, and the flags that matter."""
        ...

    def offline(self, case: Case, workload: Workload) -> Command:
        """How to time a prefill or decode workload.  Raises Declined."""
        ...

    def server(self, case: Case, port: int) -> Command:
        """How to serve /v1/completions and /health on a port of 127.0.0.1.  Raises Declined."""
        ...
