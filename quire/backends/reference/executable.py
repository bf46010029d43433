"""Runs a Program with the reference bodies: slow numpy, the yardstick for every other backend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from quire.backends.executable import LoadedWeights
from quire.graph.ir import Node, Value
from quire.graph.program import Program
from quire.ops.batch import Batch
from quire.ops.experts import MixtureOfExperts
from quire.ops.kv_cache import KvCache
from quire.ops.op import Environment, Float32
from quire.ops.quantize import RowFormat
from quire.ops.recurrent_state import NO_STATES, RecurrentStates
from quire.ops.routing import RouteTokens
from quire.quant.packed import INTEGER_DTYPES
from quire.sampling.slots import SlotStates
from quire.sampling.state import SampledRows, SamplingState

__all__ = ["ReferenceBackend", "ReferenceExecutable"]


class ReferenceBackend:
    """Has a body for every op: the op's own reference."""

    name = "reference"

    @property
    def build(self) -> str:
        """numpy."""
        return f"reference, numpy {np.__version__}"

    def row_format(self, weight_dtype: str) -> RowFormat:
        """int8 where the weights are integers, as kernels have it."""
        return "int8" if weight_dtype in INTEGER_DTYPES else "float32"

    def declines(self, node: Node) -> str | None:
        """Never."""
        return None

    def passed_over(self, node: Node) -> str | None:
        """An op has one reference."""
        return None

    def body(self, node: Node) -> str:
        """The op's reference."""
        return "reference"


class ReferenceExecutable:
    """A Program interpreted node by node; values live in a dictionary, not in an arena."""

    def __init__(
        self,
        program: Program,
        weights: LoadedWeights,
        kv_cache: KvCache,
        states: RecurrentStates = NO_STATES,
    ) -> None:
        self.program = program
        self.kv_cache = kv_cache
        self.states = states
        self._weights = {name: weight.float32() for name, weight in weights.items()}
        self._slots = SlotStates()
        self._usage = {
            node.layer: np.zeros(len(node.op.experts), np.int64)
            for node in program.graph
            if isinstance(node.op, MixtureOfExperts)
        }

    @property
    def summary(self) -> str:
        """See Executable."""
        return "kernels: reference (numpy, slow; for checking)"

    @property
    def expert_usage(self) -> Mapping[int, npt.NDArray[np.int64]]:
        """See Executable."""
        return self._usage

    def admit(self, slot: int, state: SamplingState) -> None:
        """See Executable."""
        self._slots.admit(slot, state)

    def run(self, batch: Batch) -> SampledRows:
        """See Executable."""
        from quire.sampling.reference import sample_rows

        return sample_rows(self.logits(batch), self._slots.rows(batch))

    def logits(self, batch: Batch) -> Float32:
        """See Executable."""
        env = Environment(batch, self.kv_cache, self._weights, states=self.states)
        values: dict[Value, Float32] = {}
        self._interpret(self.program.graph, env, values)
        return values[self.program.graph.logits]

    def _interpret(
        self, nodes: Iterable[Node], env: Environment, values: dict[Value, Float32]
    ) -> None:
        for node in nodes:
            results = node.op.reference(env, *(values[value] for value in node.inputs))
            values.update(zip(node.outputs, results, strict=True))
            if isinstance(node.op, RouteTokens):
                chosen = results[0][:, : node.op.top_k].astype(np.int64)
                np.add.at(self._usage[node.layer], chosen, 1)
