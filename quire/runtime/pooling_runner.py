"""Runs plans of requests that want a vector of their text, or scores."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from quire.backends.executable import Executable
from quire.control.plan import Chunk, Plan
from quire.models.pooling import Pooling
from quire.runtime.rope_tables import RopeTables
from quire.runtime.runner import Runner, StepOutput
from quire.sampling.pooled import PooledState
from quire.sampling.state import SamplingState
from quire.vision.prompt_images import PromptImages

__all__ = ["PoolingRunner"]

Float32 = npt.NDArray[np.float32]


@dataclass(slots=True)
class _Rows:
    """What has come of one text: its rows so far, from its beginning."""

    state: PooledState
    rows: list[Float32] = field(default_factory=list)


class PoolingRunner(Runner):
    """As Runner, but what a step makes of a text goes to its PooledState; nothing is sampled.

    All rows of a text are kept until its last, then pooled at once: so chunks change nothing.
    """

    def __init__(self, executable: Executable, ropes: RopeTables, pooling: Pooling) -> None:
        super().__init__(executable, ropes)
        self._pooling = pooling
        self._texts: dict[str, _Rows] = {}

    def start(
        self, request_id: str, state: SamplingState, images: PromptImages | None = None
    ) -> None:
        """Accept a request before its first step."""
        assert isinstance(state, PooledState)
        super().start(request_id, state, images)
        self._texts[request_id] = _Rows(state)

    def finish(self, request_id: str) -> None:
        """Forget a request."""
        super().finish(request_id)
        self._texts.pop(request_id, None)

    def run(self, plan: Plan) -> StepOutput:
        """Compute the plan's tokens; pool each text that is complete."""
        batch = self.inputs.build(plan.chunks).batch
        wanted = [self._wanted(chunk) for chunk in plan.chunks]
        starts = batch.query_start[:-1]
        rows = [start + np.asarray(each) for start, each in zip(starts, wanted, strict=True)]
        batch = replace(batch, logit_rows=np.concatenate(rows).astype(np.int32))
        made = self.executable.logits(batch)
        ends = np.cumsum([len(each) for each in wanted])[:-1]
        for chunk, part in zip(plan.chunks, np.split(made, ends), strict=True):
            text = self._texts[chunk.request_id]
            if chunk.start == 0:  # for the first time, or again
                text.rows.clear()
            text.rows.append(part)
            if chunk.samples:
                text.state.vector = self._pool(np.concatenate(text.rows))
        return StepOutput([()] * len(plan.chunks))

    def _wanted(self, chunk: Chunk) -> list[int]:
        """The tokens of a chunk whose rows count."""
        if self._pooling.kind == "mean":
            return list(range(len(chunk.tokens)))
        if self._pooling.kind == "first":
            return [0] if chunk.start == 0 else []
        return [len(chunk.tokens) - 1] if chunk.samples else []

    def _pool(self, rows: Float32) -> Float32:
        vector = rows.mean(axis=0, dtype=np.float64)
        if self._pooling.normalize:
            vector /= max(float(np.linalg.norm(vector)), 1e-12)
        pooled: Float32 = vector.astype(np.float32)
        return pooled
