"""The state of a request that wants a vector, not text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from quire.sampling.state import SamplingState
from quire.sampling_params import SamplingParams

__all__ = ["PooledState"]


class PooledState(SamplingState):
    """Nothing is drawn; `vector` is what the model made of the text, once it is done."""

    def __init__(self, prompt: Sequence[int]) -> None:
        super().__init__(prompt, SamplingParams(), seed=0)
        self.vector: npt.NDArray[np.float32] | None = None
