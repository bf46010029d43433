"""AWQ: scales up the columns that meet large activations, so that rounding hurts them less.

The paper's scale of a channel is (mean |x|)^strength, which does not know the weights that set the
ranges.  Here it is (balanced scale)^strength; the strength is searched for each folding, by what
the products of the rounded matrices lose on a sample of the calibration inputs.  Clipping is the
search of ranges in `rounding`, with the inputs' second moment.

Source: arXiv:2306.00978.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from quire.convert.balance import balanced_scales
from quire.convert.importance import Importance
from quire.convert.rounding import group_size_of, round_matrix
from quire.convert.scaling import Candidate, Situation

__all__ = ["awq_candidates", "awq_loss"]

Float32 = npt.NDArray[np.float32]

STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.25)


def awq_candidates(situation: Situation) -> Iterator[Candidate]:
    """Balanced scales, weaker and stronger; their geometric middle is 1."""
    scales = balanced_scales(situation)
    for strength in STRENGTHS:
        yield Candidate(strength, scales ** np.float32(strength))


def awq_loss(situation: Situation, factors: Float32) -> float:
    """What the targets lose on the calibration inputs when columns are scaled by these factors."""
    sample, near = situation.statistics.sample, situation.statistics.near
    total = 0.0
    for weights, grid in zip(situation.weights, situation.grids, strict=True):
        size = group_size_of("", grid.scheme, weights.shape[1])
        importance = Importance.of(near, size).divided(factors)
        rounded = round_matrix("", weights * factors, grid, importance)
        error = sample @ (rounded.float32() / factors - weights).T
        total += float(np.vdot(error, error))
    return total
