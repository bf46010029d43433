"""What stands behind attention in a block: MLPs, and mixtures of experts with their routers.

Notation: E model width, F MLP width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from quire.models.linear import Activation, Linear, Weight

__all__ = [
    "MLP",
    "ExpertGroups",
    "FeedForward",
    "GatedMLP",
    "MixtureOfExperts",
    "Router",
    "Scoring",
    "readers",
    "writers",
]


@dataclass(frozen=True, slots=True)
class GatedMLP:
    """down(activation(gate(x)) * up(x)).

    clamped_swiglu, with its alpha and limit, is what gpt-oss has instead of activation and product.
    """

    gate: Linear
    up: Linear
    down: Linear
    activation: Activation | Literal["clamped_swiglu"] = "silu"
    alpha: float = 1.0
    limit: float = 0.0


@dataclass(frozen=True, slots=True)
class MLP:
    """down(activation(up(x)))."""

    up: Linear
    down: Linear
    activation: Activation


Scoring = Literal["softmax", "sigmoid", "sparsemixer"]
"""How a router's logits become scores; sparsemixer: arXiv:2409.12136."""


@dataclass(frozen=True, slots=True)
class ExpertGroups:
    """Experts stand in `count` groups of neighbours, and only the best `chosen` are looked at.

    score: a group is as good as its best expert, or as the sum of its best two.
    """

    count: int
    chosen: int
    score: Literal["max", "top2_sum"]


@dataclass(frozen=True, slots=True)
class Router:
    """Which experts a token meets, and how much each counts.

    The logits are weight @ x + bias, in float32.  The top_k experts with the highest score plus
    selection_bias are chosen; they count as much as their scores, divided by their sum (at least
    least_sum) if `normalised`, times `scale`.  A softmax over the chosen logits only is "softmax",
    normalised.  jitter: of sparsemixer, which is for two experts.
    """

    weight: Weight
    top_k: int
    scoring: Scoring = "softmax"
    normalised: bool = False
    scale: float = 1.0
    bias: Weight | None = None
    selection_bias: Weight | None = None
    groups: ExpertGroups | None = None
    least_sum: float = 1e-20
    jitter: float = 0.01


@dataclass(frozen=True, slots=True)
class MixtureOfExperts:
    """The weighted sum of what a token's experts say, plus what the shared expert says to all.

    first_expert: the router's number of the first of `experts`, where a rank has only some of them;
    what a token's other experts say is left out.
    scales_inputs: an expert's weight multiplies what it reads, not what it says.  shared_gate
    [1, E]: the shared expert counts as much as sigmoid(shared_gate @ x).  Router and gate are not
    quantized: they are small, and a token that meets another expert is another token.
    """

    router: Router
    experts: tuple[GatedMLP, ...]
    shared: GatedMLP | None = None
    shared_gate: Weight | None = None
    scales_inputs: bool = False
    first_expert: int = 0

    @property
    def mlps(self) -> tuple[GatedMLP, ...]:
        """The experts, and the shared one if there is one."""
        return self.experts if self.shared is None else (*self.experts, self.shared)


FeedForward: TypeAlias = GatedMLP | MLP | MixtureOfExperts
"""What may stand behind attention in a block."""


def readers(part: FeedForward) -> tuple[Linear, ...]:
    """The products that read what a feed-forward part reads; those that see every row first."""
    if isinstance(part, MixtureOfExperts):
        gates = [part.router.weight, *([part.shared_gate] if part.shared_gate else [])]
        experts = tuple(linear for each in part.mlps[::-1] for linear in readers(each))
        return (*(Linear(gate) for gate in gates), *experts)
    return (part.gate, part.up) if isinstance(part, GatedMLP) else (part.up,)


def writers(part: FeedForward) -> tuple[Linear, ...]:
    """The products whose sum a feed-forward part says."""
    if isinstance(part, MixtureOfExperts):
        return tuple(each.down for each in part.mlps)
    return (part.down,)
