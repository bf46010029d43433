"""Makes up weights of any shapes, to measure speed and memory without a download."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from quire.errors import CheckpointError, ConfigError
from quire.ops.number_formats import bfloat16_bits
from quire.quant.dummy import DummyTensor
from quire.weights.tensor import DTYPES, RawTensor

__all__ = ["BLOCK", "DummyCheckpoint"]

# A prime, so that the rows of no matrix repeat before the whole block has.
BLOCK = 1_048_573
NEAR = 0.02  # how far norms are from one and biases from zero, as a standard deviation


class DummyCheckpoint:
    """Random weights: the same for the same seed, name, shape and dtype, whatever else is read.

    dtype: F32, F16 or BF16.  Matrices are normal with a standard deviation of one over the root
    of their last axis, vectors close to one, biases close to zero.  One random block is drawn
    and repeated from a place that the name decides, so a tensor costs little more than writing
    it.  Raises ConfigError for another dtype.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], dtype: str = "BF16", seed: int = 0
    ) -> None:
        if dtype not in ("F32", "F16", "BF16"):
            raise ConfigError(f"dummy weights cannot be {dtype!r}; use 'F32', 'F16' or 'BF16'")
        self.origin = f"dummy weights (seed {seed})"
        self.names = tuple(shapes)
        self._shapes = dict(shapes)
        self._dtype = dtype
        random = np.random.Generator(np.random.Philox(seed))
        self._normal = random.standard_normal(BLOCK, dtype=np.float32)
        self._blocks: dict[tuple[float, float], npt.NDArray[np.generic]] = {}

    def has(self, name: str) -> bool:
        """Say whether this tensor is among the shapes."""
        return name in self._shapes

    def tensor(self, name: str) -> RawTensor:
        """Make up one tensor.

        Raises CheckpointError if it is not among the shapes.
        """
        drawn = self.drawn(name)
        return RawTensor(name, drawn.dtype, drawn.shape, drawn.data)

    def drawn(self, name: str) -> DummyTensor:
        """What one tensor will be, without its numbers; raises as `tensor` does."""
        if name not in self._shapes:
            raise CheckpointError(f"{self.origin}: has no tensor {name!r}")
        shape = tuple(self._shapes[name])
        if len(shape) > 1:
            block = self._stored(mean=0.0, deviation=1 / math.sqrt(max(shape[-1], 1)))
        else:
            block = self._stored(mean=0.0 if name.endswith("bias") else 1.0, deviation=NEAR)
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        start = int.from_bytes(digest, "little") % BLOCK
        return DummyTensor(name, self._dtype, shape, block, start)

    def _stored(self, mean: float, deviation: float) -> npt.NDArray[np.generic]:
        """Return the block with another mean and deviation, in the dtype; made once for each."""
        block = self._blocks.get((mean, deviation))
        if block is None:
            values = self._normal * np.float32(deviation) + np.float32(mean)
            wide = self._dtype != "BF16"
            block = values.astype(DTYPES[self._dtype][1]) if wide else bfloat16_bits(values)
            self._blocks[mean, deviation] = block
        return block
