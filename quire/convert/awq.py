"""AWQ: scales up the columns that meet large activations, so that rounding hurts them less.

The scale of a channel is (mean |x|)^strength; the strength is searched for each folding, by what
the products of the rounded matrices lose on a sample of the calibration inputs.  Clipping is the
search of ranges in `rounding`, with the inputs' second moment.

Source: arXiv:2306.00978.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from quire.convert.importance import Importance
from quire.convert.rounding import group_size_of, round_matrix
from quire.convert.scaling import Candidate, Situation

__all__ = ["awq_candidates", "awq_loss"]

Float32 = npt.NDArray[np.float32]

STRENGTHS = tuple(step / 20 for step in range(1, 20))


def awq_candidates(situation: Situation) -> Iterator[Candidate]:
    """Scales of every strength; their geometric middle is 1."""
    means = situation.folding.channels(situation.statistics.mean_magnitude)
    means = np.maximum(means, np.float32(1e-4) * means.max() + np.float32(1e-12))
    for strength in STRENGTHS:
        scales = means**strength
        yield Candidate(strength, (scales / np.sqrt(scales.max() * scales.min())).astype("f4"))


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
