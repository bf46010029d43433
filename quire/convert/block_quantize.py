"""Quantizes one block: observe, rotate and scale exactly, then round each matrix."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from quire.convert.awq import awq_candidates, awq_loss
from quire.convert.foldings import foldings
from quire.convert.gptq import Spread, gptq, spread_of
from quire.convert.grid import Grid
from quire.convert.importance import Importance
from quire.convert.observe import Statistics
from quire.convert.recipe import Algorithms
from quire.convert.rounding import group_size_of, round_matrix
from quire.convert.scaling import fold_best
from quire.convert.smoothquant import smoothquant_candidates, smoothquant_loss
from quire.models.spec import Block
from quire.quant.matrix import QuantizedMatrix

__all__ = ["BlockQuantizer", "QuantizedBlock"]

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class QuantizedBlock:
    """A block's matrices, rounded, and its floats as they were changed to match.

    floats: every tensor after rotation and scaling, not rounded.  strengths: of the scales that
    were folded, by source.
    """

    matrices: dict[str, QuantizedMatrix]
    floats: dict[str, Float32]
    strengths: dict[str, float] = field(default_factory=dict)


class BlockQuantizer:
    """Applies a run's algorithms to blocks.

    grids: of the matrices to quantize, by weight name.  stored_as: the formats of all tensors.
    """

    def __init__(
        self, algorithms: Algorithms, grids: Mapping[str, Grid], stored_as: Mapping[str, str]
    ) -> None:
        self._algorithms = algorithms
        self._grids = grids
        self._stored_as = stored_as

    def quantize(
        self,
        block: Block,
        weights: MutableMapping[str, Float32],
        statistics: MutableMapping[str, Statistics],
    ) -> QuantizedBlock:
        """Scale and round a block's weights; statistics: of the inputs of its matrices.

        Both arguments are changed: what they hold is scaled.
        """
        strengths: dict[str, float] = {}
        grids = {name: self._grids[name] for name in weights if name in self._grids}
        if self._algorithms.scaling is not None:
            awq = self._algorithms.scaling == "awq"
            strengths = fold_best(
                foldings(block),
                weights,
                statistics,
                grids,
                self._stored_as,
                awq_candidates if awq else smoothquant_candidates,
                awq_loss if awq else smoothquant_loss,
            )
        spreads: dict[int, Spread] = {}
        matrices = {}
        for name, grid in grids.items():
            seen = statistics.get(name)
            matrices[name] = self._round(name, weights[name], grid, seen, spreads)
        return QuantizedBlock(matrices, dict(weights), strengths)

    def _round(
        self,
        name: str,
        weights: Float32,
        grid: Grid,
        seen: Statistics | None,
        spreads: dict[int, Spread],
    ) -> QuantizedMatrix:
        rounding = self._algorithms.rounding
        if rounding in ("mse", "rtn") or seen is None or seen.rows == 0:
            return round_matrix(name, weights, grid, search=rounding != "rtn")
        size = group_size_of(name, grid.scheme, weights.shape[1])
        importance = Importance.of(seen.near, size)
        if rounding != "gptq":
            return round_matrix(name, weights, grid, importance)
        assert seen.moment is not None
        if id(seen) not in spreads:
            spreads.clear()  # matrices of one input follow each other
            spreads[id(seen)] = spread_of(seen.moment)
        return gptq(name, weights, grid, importance, spreads[id(seen)])
