"""An op is a contract with a reference body: slow numpy that is obviously right.

Notation: T tokens in the step, R requests, S rows whose logits are wanted, H query heads,
K key/value heads, D head size, E model width, F MLP width, V vocabulary size, B tokens per block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from quire.ops.batch import Batch
from quire.ops.kv_cache import KvCache
from quire.ops.recurrent_state import NO_STATES, RecurrentStates

__all__ = ["Cost", "Environment", "Float32", "FusedOp", "Group", "Op", "Rows", "WithoutWeights"]

Float32: TypeAlias = npt.NDArray[np.float32]

Rows = Literal["tokens", "outputs"]
"""What a value has one row for: each token of the step, or each token whose logits are wanted."""


class Group(Protocol):
    """The ranks that compute one model together; each calls with its own rows at the same node."""

    def exchange(self, rows: Float32) -> tuple[Float32, ...]:
        """The rows of every rank, in the order of ranks."""
        ...


@dataclass(frozen=True, slots=True)
class Environment:
    """All that a reference body may read besides its inputs; cache and states it may write too.

    group: the ranks that share the work; None: this process computes alone.
    """

    batch: Batch
    kv_cache: KvCache
    weights: Mapping[str, Float32]
    group: Group | None = None
    states: RecurrentStates = NO_STATES


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run of an op must at least do: floating-point operations and elements moved.

    weights: elements of checkpoint tensors read.  activations: float32 elements read and written.
    kv: elements of the KV cache read and written.
    """

    flops: int = 0
    weights: int = 0
    activations: int = 0
    kv: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.flops + other.flops,
            self.weights + other.weights,
            self.activations + other.activations,
            self.kv + other.kv,
        )


class Op(Protocol):
    """One step of the mathematics: a frozen dataclass whose fields are the op's attributes."""

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """The width of each output, given the widths of the inputs."""
        ...

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """Compute the outputs, each [rows, width] float32."""
        ...

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """The work for `rows` rows of these input widths, with `context` tokens in the cache."""
        ...

    @property
    def weight_names(self) -> tuple[str, ...]:
        """The checkpoint tensors that this op reads."""
        ...


class WithoutWeights:
    """What an op extends that reads no tensor of the checkpoint."""

    __slots__ = ()

    @property
    def weight_names(self) -> tuple[str, ...]:
        """None."""
        return ()


@dataclass(frozen=True, slots=True)
class FusedOp(ABC):
    """An op that does what several ops do; it carries its decomposition.

    `steps` lists (op, inputs, outputs) over numbered values: the inputs of the fused op first, then
    its outputs, then temporaries.  The reference runs the steps, and so does a backend that has no
    body for the fused op.
    """

    @property
    @abstractmethod
    def num_inputs(self) -> int:
        """How many values it reads."""

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """How many values it makes."""

    @property
    @abstractmethod
    def steps(self) -> tuple[tuple[Op, tuple[int, ...], tuple[int, ...]], ...]:
        """The decomposition."""

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """The width of each output, given the widths of the inputs."""
        known = dict(enumerate(inputs))
        for op, sources, targets in self.steps:
            known.update(zip(targets, op.widths(*(known[i] for i in sources)), strict=True))
        return tuple(known[self.num_inputs + i] for i in range(self.num_outputs))

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """Run the steps."""
        known = dict(enumerate(inputs))
        for op, sources, targets in self.steps:
            results = op.reference(env, *(known[i] for i in sources))
            known.update(zip(targets, results, strict=True))
        return tuple(known[self.num_inputs + i] for i in range(self.num_outputs))

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """The operations of the steps; only the fused op's own inputs and outputs are moved."""
        known, total = dict(enumerate(inputs)), Cost()
        for op, sources, targets in self.steps:
            source_widths = [known[i] for i in sources]
            known.update(zip(targets, op.widths(*source_widths), strict=True))
            total += op.cost(rows, context, *source_widths)
        moved = rows * (sum(inputs) + sum(self.widths(*inputs)))
        return Cost(total.flops, total.weights, moved, total.kv)

    @property
    def weight_names(self) -> tuple[str, ...]:
        """The checkpoint tensors that the steps read."""
        return tuple(name for op, _, _ in self.steps for name in op.weight_names)
