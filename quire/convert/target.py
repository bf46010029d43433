"""Chooses which matrices get 8 bits, so that a run reaches a size or a divergence.

A first run says what each matrix loses and takes.  Matrices are then raised to 8 bits in the order
of the error that a byte removes: as many as the size allows, or the fewest that bring the
divergence below the target, found by halving.  Each try is a run of its own; what it found is kept
beside the output until the last one is done.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from quire.convert.recipe import Quantization, module_of
from quire.convert.safetensors_file import replace_file
from quire.convert.scheme import find_scheme
from quire.errors import ConfigError

__all__ = ["Run", "Target", "most_raised", "reach_target", "read_target"]

Run = Callable[[Quantization, Path], Mapping[str, Any]]
"""Quantizes as asked into a directory; the report as JSON."""


@dataclass(frozen=True, slots=True)
class Target:
    """kl: the most nats a token that predictions may move.  size: the most of the original."""

    kind: Literal["kl", "size"]
    value: float


def read_target(text: str) -> Target:
    """kl=0.02 or size=0.5.  Raises ConfigError for anything else."""
    kind, _, number = text.partition("=")
    try:
        value = float(number)
    except ValueError:
        value = 0.0
    if kind not in ("kl", "size") or not value > 0 or (kind == "size" and value > 1):
        raise ConfigError(f"target is {text!r}; give kl=0.02, or size=0.5 of the original's bytes")
    return Target("kl" if kind == "kl" else "size", value)


def reach_target(asked: Quantization, output: Path, run: Run) -> Mapping[str, Any]:
    """Quantize into `output` so that asked.target holds; the report of the run that does.

    Raises ConfigError where no mixture of the scheme with 8 bits reaches it.
    """
    assert asked.target is not None
    target, trials = read_target(asked.target), _Trials(asked, output, run)
    first = trials.report(0)
    order = _order(first)
    if target.kind == "size":
        count = most_raised(first, order, target.value)
    else:
        count = _fewest_raised(trials, order, target.value)
    report = run(trials.recipe(count, order), output)
    trials.forget()
    return report


class _Trials:
    """Runs with the first so many matrices raised; reports of those that are done are kept."""

    def __init__(self, asked: Quantization, output: Path, run: Run) -> None:
        scheme = find_scheme(asked.scheme, asked.group_size)
        if scheme.bits >= 8:
            raise ConfigError(
                f"target needs a scheme below 8 bits to start from, not {scheme.name}"
            )
        self._asked = replace(asked, target=None)
        self._raised = "w8a8" if scheme.activations == "int8" else "w8a16"
        self._run = run
        self._file = output.with_name(output.name + ".trials.json")
        self._folder = output.with_name(output.name + ".trial")
        self._reports: dict[str, Any] = {}
        if self._file.is_file():
            self._reports = json.loads(self._file.read_text(encoding="utf-8"))

    def recipe(self, count: int, order: list[str]) -> Quantization:
        """The recipe with the first `count` matrices of the order in 8 bits."""
        raised = tuple(f"{module_of(name)}={self._raised}" for name in order[:count])
        return replace(self._asked, override=(*self._asked.override, *raised))

    def report(self, count: int, order: list[str] | None = None) -> dict[str, Any]:
        """The report of such a run, made if there is none yet."""
        key = json.dumps([count, repr(self._asked)])
        if key not in self._reports:
            found = self._run(self.recipe(count, order or []), self._folder)
            shutil.rmtree(self._folder)
            self._reports[key] = dict(found)
            replace_file(self._file, json.dumps(self._reports))
        report: dict[str, Any] = self._reports[key]
        return report

    def forget(self) -> None:
        self._file.unlink(missing_ok=True)


def _order(report: Mapping[str, Any]) -> list[str]:
    """Matrices below 8 bits, those first whose raising removes most error for a byte."""
    low = {
        name: record
        for block in report["blocks"]
        for name, record in block["matrices"].items()
        if find_scheme(record["scheme"]).bits < 8
    }
    return sorted(low, key=lambda name: (-low[name]["error"] / low[name]["bytes"], name))


def most_raised(report: Mapping[str, Any], order: list[str], share: float) -> int:
    """How many matrices can be raised before the checkpoint is too large."""
    room = share * report["original_bytes"] - report["bytes"]
    if room < 0:
        least = report["bytes"] / report["original_bytes"]
        raise ConfigError(
            f"target size={share:g} cannot be reached: without raising anything the checkpoint "
            f"takes {least:.3f} of the original"
        )
    records = {n: r for block in report["blocks"] for n, r in block["matrices"].items()}
    for count, name in enumerate(order):
        record = records[name]
        room -= record["bytes"] * (8 / find_scheme(record["scheme"]).bits_per_weight - 1)
        if room < 0:
            return count
    return len(order)


def _fewest_raised(trials: _Trials, order: list[str], kl: float) -> int:
    """How few matrices have to be raised for the divergence to stay below kl."""

    def reached(count: int) -> bool:
        return bool(trials.report(count, order)["figures"]["kl_mean"] <= kl)

    if reached(0):
        return 0
    low, high = 0, len(order)
    if not reached(high):
        found = trials.report(high, order)["figures"]["kl_mean"]
        raise ConfigError(
            f"target kl={kl:g} cannot be reached: with every matrix in 8 bits it is {found:.5f}"
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high
