"""Which few matrices to store in 8 bits so that most of the loss goes away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quire.convert.recipe import module_of

__all__ = ["Suggestion", "suggest", "worst_matrices"]

SHARE = 0.05
"""Of all matrices, at least one."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Overrides that raise the worst matrices to 8 bits.

    removed: the share of the matrices' summed error that they hold.  bytes: what they add.
    """

    overrides: tuple[str, ...]
    removed: float
    bytes: int

    def __str__(self) -> str:
        return " ".join(f"--override {each}" for each in self.overrides)


def worst_matrices(blocks: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Every matrix with its record, the largest relative error first."""
    found = [each for block in blocks for each in block["matrices"].items()]
    return sorted(found, key=lambda each: (-each[1]["error"], each[0]))


def suggest(blocks: Sequence[Mapping[str, Any]], bits: Mapping[str, float]) -> Suggestion | None:
    """What to raise to 8 bits; None where every matrix has 8 already.

    bits: of a weight now, by name.  Matrices are taken by the error that a byte removes.
    """
    low = {name: record for name, record in worst_matrices(blocks) if bits[name] < 8}
    if not low:
        return None
    added = {n: round(record["bytes"] * (8 / bits[n] - 1)) for n, record in low.items()}
    order = sorted(low, key=lambda name: (-low[name]["error"] / added[name], name))
    chosen = order[: max(1, round(SHARE * len(order)))]
    whole = sum(record["error"] for record in low.values())
    return Suggestion(
        tuple(f"{module_of(name)}=w8a16" for name in chosen),
        sum(low[name]["error"] for name in chosen) / (whole or 1.0),
        sum(added[name] for name in chosen),
    )
