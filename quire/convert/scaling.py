"""What AWQ and SmoothQuant share: try scales for each folding, keep and fold those that lose least.

One factor for each channel moves magnitude between a matrix and its input.  The float model stays
the same; what rounding loses does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quire.convert.foldings import Folding, fold
from quire.convert.grid import Grid
from quire.convert.observe import Statistics

__all__ = ["Candidate", "Situation", "fold_best", "rows_that_vote"]

Float32 = npt.NDArray[np.float32]

VOTING_ROWS = 256
"""Rows of each matrix that scales are judged by; a scale concerns all rows alike."""


@dataclass(frozen=True, slots=True)
class Situation:
    """One folding as it stands: what its targets read, their weights and the grids they go to."""

    folding: Folding
    statistics: Statistics
    weights: tuple[Float32, ...]
    grids: tuple[Grid, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """Scales by channel of the source, and the strength they come from."""

    strength: float
    scales: Float32


def fold_best(
    foldings: Iterable[Folding],
    weights: MutableMapping[str, Float32],
    statistics: MutableMapping[str, Statistics],
    grids: Mapping[str, Grid],
    stored_as: Mapping[str, str],
    candidates: Callable[[Situation], Iterable[Candidate]],
    loss: Callable[[Situation, Float32], float],
) -> dict[str, float]:
    """Fold the candidate of least loss into every folding; the strengths by source.

    loss: of a situation when its targets' columns are multiplied by these factors.  No scales at
    all (strength 0) are always tried, and kept unless something is better.
    """
    chosen = {}
    for folding in foldings:
        targets = [t.weight.name for t in folding.targets if t.weight.name in grids]
        if not targets:
            continue
        situation = Situation(
            folding,
            statistics[folding.targets[0].weight.name],
            tuple(rows_that_vote(weights[name]) for name in targets),
            tuple(grids[name] for name in targets),
        )
        ones = np.ones(len(folding.channels(situation.statistics.largest)), np.float32)
        best = Candidate(0.0, ones)
        least = loss(situation, folding.columns(ones))
        for candidate in candidates(situation):
            found = loss(situation, folding.columns(candidate.scales))
            if found < least:
                best, least = candidate, found
        factors = fold(folding, best.scales, weights, stored_as)
        _divide(statistics, folding, factors)
        chosen[folding.source_names[0]] = best.strength
    return chosen


def _divide(
    statistics: MutableMapping[str, Statistics], folding: Folding, factors: Float32
) -> None:
    """Targets that shared statistics still do; every expert has its own."""
    divided: dict[int, Statistics] = {}
    for name in (target.weight.name for target in folding.targets):
        seen = statistics[name]
        if id(seen) not in divided:
            divided[id(seen)] = seen.divided(factors)
        statistics[name] = divided[id(seen)]


def rows_that_vote(weights: Float32) -> Float32:
    """At most VOTING_ROWS rows at equal distances."""
    return weights[:: max(1, -(-len(weights) // VOTING_ROWS))]
