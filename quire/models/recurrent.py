"""Parts of a spec that stand in place of attention, or beside it, and carry a state between tokens.

Notation: G key heads, H value heads (a multiple of G), Dk and Dv their sizes.  Every head of values
has a state [Dk, Dv]; beside it stand the last inputs of the convolution.
"""

from __future__ import annotations

from dataclasses import dataclass

from quire.models.attention import Attention
from quire.models.linear import Linear, Norm, Weight

__all__ = ["Convolution", "GatedDeltaNet", "Mamba2", "ParallelMixers"]


@dataclass(frozen=True, slots=True)
class Convolution:
    """A causal convolution of each channel with its last `taps` inputs, then SiLU.

    weights: [channels, 1, taps] each, for the products that stand side by side.  biases: as many
    [channels], or none.
    """

    weights: tuple[Weight, ...]
    taps: int
    biases: tuple[Weight, ...] = ()

    @property
    def state_floats(self) -> int:
        """The inputs that one request carries."""
        return (self.taps - 1) * sum(weight.shape[0] for weight in self.weights)


@dataclass(frozen=True, slots=True)
class GatedDeltaNet:
    """output(norm(heads) * silu(gate(x))); heads by the gated delta rule.

    query, key: [G * Dk].  value, gate: [H * Dv].  beta, decay: [H].  The convolution goes over
    queries, keys and values; norm acts on each head.  See quire.ops.recurrence.
    """

    query: Linear
    key: Linear
    value: Linear
    gate: Linear
    beta: Linear
    decay: Linear
    convolution: Convolution
    decay_log: Weight
    decay_bias: Weight
    norm: Norm
    output: Linear
    key_heads: int
    heads: int
    key_dim: int
    value_dim: int

    @property
    def state_floats(self) -> int:
        """What one request carries: the convolution's inputs, then the heads."""
        return self.convolution.state_floats + self.heads * self.key_dim * self.value_dim


@dataclass(frozen=True, slots=True)
class Mamba2:
    """output(norm(heads * silu(gate(x)))); heads by a selective scan.

    value, gate: [H * Dv].  key, query: [G * Dk], the paper's B and C.  step: [H].  The convolution
    goes over values, keys and queries.  norm: over each of `norm_groups` equal parts of a row, if
    there is one.  See quire.ops.recurrence.
    """

    gate: Linear
    value: Linear
    key: Linear
    query: Linear
    step: Linear
    convolution: Convolution
    decay_log: Weight
    step_bias: Weight
    skip: Weight
    norm: Norm | None
    norm_groups: int
    output: Linear
    key_heads: int
    heads: int
    key_dim: int
    value_dim: int
    least_step: float
    most_step: float

    @property
    def state_floats(self) -> int:
        """What one request carries: the convolution's inputs, then the heads."""
        return self.convolution.state_floats + self.heads * self.key_dim * self.value_dim


@dataclass(frozen=True, slots=True)
class ParallelMixers:
    """attention(x) + recurrent(x)."""

    attention: Attention
    recurrent: Mamba2
