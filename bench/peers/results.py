"""Keeps what was measured, as JSON, written after every measurement."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.peers.peer import Metrics

__all__ = ["Cell", "Results", "Row"]


@dataclass(frozen=True, order=True)
class Row:
    """What one cell measures, for every peer alike."""

    shape: str
    precision: str
    workload: str


@dataclass
class Cell:
    """The samples of one peer and row; problem: why there are none, or not as many as wanted."""

    samples: list[Metrics] = field(default_factory=list)
    problem: str = ""

    def median(self, metric: str) -> float | None:
        """The median over the samples that have the metric; None without any."""
        values = self._values(metric)
        return statistics.median(values) if values else None

    def median_of(self, value: Callable[[Metrics], float | None]) -> float | None:
        """The median of a number made of each sample; None without any."""
        found = [each for each in map(value, self.samples) if each is not None]
        return statistics.median(found) if found else None

    def spread(self, metric: str) -> float:
        """How far the extremes are apart, as a share of the median."""
        values = self._values(metric)
        return (max(values) - min(values)) / statistics.median(values) if values else 0.0

    def _values(self, metric: str) -> list[float]:
        return [sample[metric] for sample in self.samples if metric in sample]


@dataclass
class Results:
    """machine: what `describe` says.  rates: the best seen.  versions, absent: by peer."""

    command: list[str] = field(default_factory=list)
    machine: Mapping[str, Any] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    cells: dict[tuple[str, Row], Cell] = field(default_factory=dict)

    def cell(self, peer: str, row: Row) -> Cell:
        """The cell, made if it is new."""
        return self.cells.setdefault((peer, row), Cell())

    def merge(self, newer: Results) -> None:
        """Take over what another run of the same machine measured."""
        self.command += [each for each in newer.command if each not in self.command]
        self.machine = newer.machine
        best = {**self.rates, **newer.rates}
        self.rates = {name: max(best[name], self.rates.get(name, 0.0)) for name in best}
        self.versions.update(newer.versions)
        present = {**self.absent, **newer.absent}
        self.absent = {name: why for name, why in present.items() if name not in self.versions}
        self.cells.update(newer.cells)

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        cells = [
            {"peer": peer, **asdict(row), **asdict(cell)}
            for (peer, row), cell in self.cells.items()
        ]
        facts = {name: value for name, value in vars(self).items() if name != "cells"}
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({**facts, "cells": cells}, indent=1) + "\n")
        partial.rename(path)

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read such a file; an empty result if there is none."""
        if not path.is_file():
            return cls()
        found = json.loads(path.read_text())
        cells = {}
        for entry in found.pop("cells"):
            row = Row(entry["shape"], entry["precision"], entry["workload"])
            cells[entry["peer"], row] = Cell(entry["samples"], entry["problem"])
        return cls(**found, cells=cells)
