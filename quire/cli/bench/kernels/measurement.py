"""What one kernel was measured at, beside the best that the machine was measured at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["HEADINGS", "Measurement", "Peak", "Rates", "Shares"]

Peak = Literal["fma", "bfloat16", "int8"]
"""Whose operations a kernel does: multiply-adds of float32, bfloat16, or 8-bit integers."""

Rates = Mapping[str, float]
"""The machine's best: "read" in bytes/s, each peak in operations/s."""

HEADINGS = (
    f"{'kernel':13} {'format':9} {'rows':>5} {'shape':24} {'us':>10}"
    f" {'GB/s':>7} {'share':>6}  {'GOP/s':>8} {'share':>6}"
)


@dataclass(frozen=True, slots=True)
class Shares:
    """How much of the memory's rate and of the arithmetic's a kernel reaches, 1 for all."""

    read: float
    compute: float

    @property
    def binding(self) -> str:
        """Which of the two is nearer to its limit."""
        return "read" if self.read >= self.compute else "compute"


@dataclass(frozen=True, slots=True)
class Measurement:
    """The shortest time of one call, and what it had to read at least and to compute.

    rows: activations, queries or logits.  num_bytes: of weights and keys, or of activations where
    there are none.  operations: a multiply-add is two.
    """

    kernel: str
    format: str
    rows: int
    shape: str
    seconds: float
    num_bytes: float
    operations: float = 0.0
    peak: Peak = "fma"

    def shares(self, rates: Rates) -> Shares:
        """The kernel's rates over the machine's."""
        return Shares(
            self.num_bytes / self.seconds / rates["read"],
            self.operations / self.seconds / rates[self.peak],
        )

    def line(self, rates: Rates) -> str:
        """One line under HEADINGS; a star marks the share that binds."""
        shares = self.shares(rates)
        marks = {shares.binding: "*"}
        text = (
            f"{self.kernel:13} {self.format:9} {self.rows:5} {self.shape:24}"
            f" {self.seconds * 1e6:10.1f}"
            f" {self.num_bytes / self.seconds / 1e9:7.1f} {shares.read:6.0%}"
            f"{marks.get('read', ' ')}"
        )
        if self.operations:
            text += f" {self.operations / self.seconds / 1e9:8.1f} {shares.compute:6.0%}"
            text += marks.get("compute", "")
        return text

    def as_json(self, rates: Rates) -> dict[str, Any]:
        """The fields, and the shares."""
        shares = self.shares(rates)
        return {**asdict(self), **asdict(shares), "binding": shares.binding}
