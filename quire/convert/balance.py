"""The scales of columns at which rounding is expected to lose least.

Errors of rounding are spread over a step, which is a share of the group's range: with factors s,

    loss of a group = (sum over rows of range^2) * (sum over columns of E[x_j^2] / s_j^2)
    range of a row  = max over columns of |w_j s_j|

In log s every such product is convex, so there is one least (but for a constant of each group),
whatever the model's own scales were: where each column's share of the ranges is its share of the
noise.  A power mean stands for the maximum, so that every column has a share.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from quire.convert.rounding import group_size_of
from quire.convert.scaling import Situation

__all__ = ["balanced_scales"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Real = TypeVar("Real", np.float32, np.float64)

SHARPNESS = 4
"""The exponent of the power mean of squares; searched ranges do not reach to their maximum."""
ITERATIONS = 20
LEAST = 1e-12
"""Squares below this share of the largest count as that much, so that every column has a share."""


def balanced_scales(situation: Situation) -> Float32:
    """Scales by channel of the source, by what its targets read and weigh."""
    folding, near = situation.folding, situation.statistics.near
    power = _positive(np.diagonal(near, axis1=1, axis2=2).reshape(-1).astype(np.float64))
    squares = [_positive(np.square(weights)) for weights in situation.weights]
    logs = np.zeros(len(folding.channels(situation.statistics.largest)))
    for _ in range(ITERATIONS):
        factors = folding.columns(np.exp(logs))  # s^2
        ranges, noise = np.zeros((2, len(logs)))
        for own, grid in zip(squares, situation.grids, strict=True):
            size = group_size_of("", grid.scheme, len(factors))
            more, and_more = _shares(own * factors.astype(np.float32), power / factors, size)
            step = 4.0**-grid.scheme.bits
            ranges += step * folding.sums(more)
            noise += step * folding.sums(and_more)
        logs += np.log(noise / ranges) / (SHARPNESS + 1)
    scales = np.exp(logs / 2)
    centred: Float32 = (scales / np.sqrt(scales.max() * scales.min())).astype(np.float32)
    return centred


def _shares(squares: Float32, power: Float64, size: int) -> tuple[Float64, Float64]:
    """What each column adds to the loss by its part in the ranges, and by its part in the noise.

    squares: of weights [rows, cols].  power: of the inputs [cols].
    """
    groups = squares.reshape(len(squares), -1, size)
    largest = groups.max(axis=-1, keepdims=True)
    # The least power that float32 has room for.
    powers = np.maximum(groups / largest, np.float32(1e-8)) ** SHARPNESS
    whole = powers.sum(axis=-1, keepdims=True) ** (1 / SHARPNESS - 1)
    ranges = np.einsum("rgs,rg->gs", powers, (largest * whole)[..., 0]).astype(np.float64)
    noise = power.reshape(ranges.shape)
    by_range = ranges * noise.sum(axis=-1, keepdims=True)
    by_noise = noise * ranges.sum(axis=-1, keepdims=True)
    return by_range.reshape(-1), by_noise.reshape(-1)


def _positive(values: npt.NDArray[Real]) -> npt.NDArray[Real]:
    kind = values.dtype.type
    positive: npt.NDArray[Real] = np.maximum(values, kind(LEAST) * values.max() + kind(1e-30))
    return positive
