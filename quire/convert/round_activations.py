"""Rounds what quantized matrices read, each token alone, as a scheme's run time would.

    x → matmul q (w8a8)                 x → round → x' → matmul q
    x → matmul k (w8a8)          ⇒                  x' → matmul k

int8: max |x| of the token / 127 is the scale.  float8: max |x| / 448, values are E4M3's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from quire.convert.grid import code_values
from quire.convert.scheme import Activations
from quire.graph.ir import Node, Value
from quire.ops.linear import MatMul
from quire.ops.op import Cost, Environment, Float32, WithoutWeights

__all__ = ["RoundToken", "round_activations", "rounded_tokens"]


@dataclass(frozen=True, slots=True)
class RoundToken(WithoutWeights):
    """x, each row rounded to int8 or float8 with a scale of its own."""

    kind: Activations

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """As the input."""
        return inputs

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """See `rounded_tokens`."""
        return (rounded_tokens(inputs[0], self.kind),)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """A few operations an element."""
        return Cost(4 * rows * inputs[0], activations=2 * rows * inputs[0])


def rounded_tokens(x: Float32, kind: Activations) -> Float32:
    """Rows x [rows, width] as they come back from int8 or float8; unchanged for None."""
    if kind is None:
        return x
    largest = np.abs(x).max(axis=-1, keepdims=True)
    most = np.float32(127) if kind == "int8" else np.nanmax(code_values(8))
    scales = np.where(largest > 0, largest / most, np.float32(1))
    codes: Float32 = np.rint(x / scales) if kind == "int8" else _to_float8(x / scales)
    rounded: Float32 = codes * scales
    return rounded


def round_activations(nodes: Sequence[Node], kinds: Mapping[str, Activations]) -> tuple[Node, ...]:
    """The nodes with the inputs of matrices rounded; kinds: by weight name."""
    done: dict[tuple[Value, Activations], Value] = {}
    changed: list[Node] = []
    for node in nodes:
        if isinstance(node.op, MatMul):
            kind = kinds.get(node.op.parts[0].weight)
            (x,) = node.inputs
            if kind is not None:
                if (x, kind) not in done:
                    done[x, kind] = replace(x, name=f"{x.name}_{kind}")
                    changed.append(Node(RoundToken(kind), (x,), (done[x, kind],), node.layer))
                node = replace(node, inputs=(done[x, kind],))
        changed.append(node)
    return tuple(changed)


def _to_float8(x: Float32) -> Float32:
    """Nearest E4M3 numbers, ties to even: three bits behind the first, exponents from -6."""
    _, exponents = np.frexp(x)  # |x| = fraction * 2^exponent, fraction in [0.5, 1)
    steps = np.ldexp(np.float32(1), np.maximum(exponents - 1, -6) - 3)
    nearest: Float32 = (np.rint(x / steps) * steps).clip(-448, 448).astype(np.float32)
    return nearest
