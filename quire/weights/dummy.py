"""Makes up weights of any shapes, to measure speed and memory without a download."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from quire.errors import CheckpointError, ConfigError
from quire.weights.tensor import DTYPES, RawTensor, bfloat16_bits

__all__ = ["DummyCheckpoint"]

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
        self._seed = seed
        random = np.random.Generator(np.random.Philox(seed))
        self._block = random.standard_normal(BLOCK, dtype=np.float32)

    def has(self, name: str) -> bool:
        """Say whether this tensor is among the shapes."""
        return name in self._shapes

    def tensor(self, name: str) -> RawTensor:
        """Make up one tensor.

        Raises CheckpointError if it is not among the shapes.
        """
        if name not in self._shapes:
            raise CheckpointError(f"{self.origin}: has no tensor {name!r}")
        shape = tuple(self._shapes[name])
        data = np.empty(math.prod(shape), dtype=DTYPES[self._dtype][1])
        _repeat(self._stored(name, shape, data.size), data)
        return RawTensor(name, self._dtype, shape, data.reshape(shape))

    def _stored(self, name: str, shape: tuple[int, ...], count: int) -> npt.NDArray[np.generic]:
        """Return the start of the tensor's elements, at most one block, as they are stored."""
        digest = hashlib.blake2b(f"{self._seed} {name}".encode(), digest_size=8).digest()
        start = int.from_bytes(digest, "little") % BLOCK
        values = np.concatenate((self._block[start:], self._block[:start]))[:count]
        if len(shape) > 1:
            values *= np.float32(1 / math.sqrt(max(shape[-1], 1)))
        else:
            values *= np.float32(NEAR)
            values += np.float32(not name.endswith("bias"))
        return (
            bfloat16_bits(values)
            if self._dtype == "BF16"
            else values.astype(DTYPES[self._dtype][1])
        )


def _repeat(part: npt.NDArray[np.generic], whole: npt.NDArray[np.generic]) -> None:
    """Fill one axis with copies of a shorter one."""
    for start in range(0, whole.size, max(part.size, 1)):
        whole[start : start + part.size] = part[: whole.size - start]
