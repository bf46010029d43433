"""SmoothQuant: moves outliers of the activations into the weights, where rounding bears them.

The scale of a channel is max |x|^strength / max |w|^(1 - strength); the strength is searched for
each folding on a sample of the calibration inputs, with inputs and weights rounded as the scheme
will round them.

Source: arXiv:2211.10438.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from quire.convert.round_activations import rounded_tokens
from quire.convert.rounding import round_matrix
from quire.convert.scaling import Candidate, Situation

__all__ = ["smoothquant_candidates", "smoothquant_loss"]

Float32 = npt.NDArray[np.float32]

STRENGTHS = tuple(step / 20 for step in range(4, 20))


def smoothquant_candidates(situation: Situation) -> Iterator[Candidate]:
    """Scales of every migration strength."""
    folding = situation.folding
    inputs = _positive(folding.channels(situation.statistics.largest))
    largest = np.max([np.abs(weights).max(axis=0) for weights in situation.weights], axis=0)
    weights = _positive(folding.channels(largest))
    for strength in STRENGTHS:
        scales = inputs**strength / weights ** (1 - strength)
        yield Candidate(strength, _positive(scales.astype(np.float32)))


def smoothquant_loss(situation: Situation, factors: Float32) -> float:
    """The squared error of the targets' products on the sample, columns scaled by these factors."""
    sample = situation.statistics.sample
    total = 0.0
    for weights, grid in zip(situation.weights, situation.grids, strict=True):
        inputs = rounded_tokens(sample / factors, grid.scheme.activations)
        rounded = round_matrix("", weights * factors, grid)
        error = inputs @ rounded.float32().T - sample @ weights.T
        total += float(np.vdot(error, error))
    return total


def _positive(values: Float32) -> Float32:
    floor = np.float32(1e-5) * values.max() + np.float32(1e-12)
    positive: Float32 = np.maximum(values, floor)
    return positive
