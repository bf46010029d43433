"""The experts of a mixture: gated MLPs of which each token meets a few."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quire.ops.activation import GatedActivation
from quire.ops.linear import LinearPart, MatMul
from quire.ops.op import Cost, Environment, Float32
from quire.ops.quantize import BLOCK, Quantize, RowFormat

__all__ = ["Expert", "MixtureOfExperts"]


@dataclass(frozen=True, slots=True)
class Expert:
    """The matrices [F, E], [F, E] and [E, F] of one expert."""

    gate: LinearPart
    up: LinearPart
    down: LinearPart

    @property
    def parts(self) -> tuple[LinearPart, LinearPart, LinearPart]:
        """All three."""
        return self.gate, self.up, self.down


@dataclass(frozen=True, slots=True)
class MixtureOfExperts:
    """[rows, E] = the sum over a row's experts of weight * down(activation(gate(x), up(x))).

    Inputs: x [rows, E], and the ids and weights of each row's experts as RouteTokens writes them;
    the sum is in their order, which is ascending.  scales_inputs: the weight multiplies what gate
    and up make of x instead, which is what they would make of weight * x.  hidden_format: what the
    hidden rows are rounded to before they meet `down`.  first, num_routed: these are the
    experts from `first` on, of as many as ids can name (0: of these alone), and the others add
    nothing; they stand on other ranks.  The second output is room that backends
    may work in; nobody reads it.
    """

    experts: tuple[Expert, ...]
    top_k: int
    activation: GatedActivation
    scales_inputs: bool = False
    hidden_format: RowFormat = "float32"
    first: int = 0
    num_routed: int = 0

    @property
    def is_part(self) -> bool:
        """Whether ids may name experts that are not here."""
        return self.num_routed > len(self.experts)

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """As x; and a hidden row in whole blocks for each expert of a row."""
        return inputs[0], self.top_k * -(-self.experts[0].gate.out // BLOCK) * BLOCK

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """Expert by expert, all rows that chose it."""
        x, routes = inputs
        ids = routes[:, : self.top_k].astype(np.int64) - self.first
        weights = routes[:, self.top_k :]
        total = np.zeros_like(x)
        for e in np.unique(ids):
            if self.is_part and not 0 <= e < len(self.experts):
                continue
            rows, places = np.nonzero(ids == e)
            weight = weights[rows, places, None]
            total[rows] += self._expert(env, self.experts[e], x[rows], weight)
        return total, np.zeros((len(x), self.widths(x.shape[1])[1]), np.float32)

    def _expert(self, env: Environment, expert: Expert, x: Float32, weight: Float32) -> Float32:
        gate, up = (MatMul((part,)).reference(env, x)[0] for part in (expert.gate, expert.up))
        if self.scales_inputs:
            gate, up = gate * weight, up * weight
        (hidden,) = self.activation.reference(env, gate, up)
        if self.hidden_format != "float32":
            (hidden,) = Quantize(self.hidden_format).reference(env, hidden)
        (out,) = MatMul((expert.down,)).reference(env, hidden)
        return out if self.scales_inputs else out * weight

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """Every expert that any row can have chosen is read once."""
        width, hidden = inputs[0], self.experts[0].gate.out
        used = min(len(self.experts), rows * self.top_k)
        return Cost(
            flops=rows * self.top_k * (6 * width * hidden + 8 * hidden + 2 * width),
            weights=used * 3 * width * hidden,
            activations=rows * (2 * width + 2 * self.top_k * (1 + hidden)),
        )

    @property
    def weight_names(self) -> tuple[str, ...]:
        """Weights and biases."""
        parts = [part for expert in self.experts for part in expert.parts]
        names = [name for part in parts for name in (part.weight, part.bias)]
        return tuple(name for name in names if name is not None)
