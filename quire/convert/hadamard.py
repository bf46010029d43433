"""Rotates the residual stream and the values of attention, so that no channel stands out.

RMS norms with weight 1 commute with a rotation R of their input: norm(x R) = norm(x) R.  So with
every norm's weight moved into the matrices behind it,

    embedding R;   q, k, v, gate, up: W diag(norm) R;   o, down: R^T W;   head: W diag(norm) R

is the same model, its residual stream rotated.  Likewise each head of v is rotated and o's columns
turned back.  R is a Kronecker product of Hadamard matrices, with signs drawn from a seed; a factor
of the width that is no power of two gets a random orthogonal matrix.

Only what folds is done, nothing at run time.

Sources: arXiv:2404.00456 (QuaRot), arXiv:2405.16406 (SpinQuant).
"""

from __future__ import annotations

from collections.abc import MutableMapping

import numpy as np
import numpy.typing as npt

from quire.errors import ConfigError
from quire.models.spec import (
    Attention,
    Block,
    LatentAttention,
    Linear,
    ModelSpec,
    Norm,
    parts,
    readers,
    writers,
)

__all__ = ["HadamardRotation", "Rotation"]

Float32 = npt.NDArray[np.float32]


class Rotation:
    """An orthogonal matrix R of any width, applied to rows without being formed."""

    def __init__(self, width: int, seed: int) -> None:
        random = np.random.default_rng([seed, width])
        self._signs = random.choice(np.asarray([-1, 1], np.float32), width)
        odd = width
        while odd % 2 == 0:
            odd //= 2
        power = (width // odd).bit_length() - 1
        orthogonal = np.linalg.qr(random.standard_normal((odd, odd)))[0]
        halves = (_hadamard(power - power // 2), _hadamard(power // 2))
        self._factors = [each.astype(np.float32) for each in (*halves, orthogonal)]

    def rows(self, x: Float32) -> Float32:
        """x R, for rows x [..., width]."""
        parts = (x * self._signs).reshape(-1, *(len(each) for each in self._factors))
        for axis, factor in enumerate(self._factors, 1):
            parts = np.moveaxis(np.moveaxis(parts, axis, -1) @ factor, -1, axis)
        return np.ascontiguousarray(parts).reshape(x.shape)

    def outputs(self, weights: Float32) -> Float32:
        """R^T W, for a matrix [width, cols] or a bias [width]."""
        return np.ascontiguousarray(self.rows(weights.T).T)


class HadamardRotation:
    """The rotation of one model: of its residual stream and of its value heads."""

    def __init__(self, spec: ModelSpec, seed: int) -> None:
        _check(spec)
        self.stream = Rotation(spec.width, seed)
        self._heads = {
            size: Rotation(size, seed + 1)
            for size in {attention.head_dim for attention in parts(spec, Attention)}
        }

    def block(self, block: Block, weights: MutableMapping[str, Float32]) -> None:
        """Rotate a block's weights in place."""
        attention, mlp = block.attention, block.mlp
        assert isinstance(attention, Attention) and mlp is not None, "see open_source"
        first: tuple[Linear, ...] = (attention.query, attention.key, attention.value)
        second = readers(mlp)
        if block.shares_norm:
            first, second = (*first, *second), ()
        self.reading(block.attention_norm, first, weights)
        self.reading(block.mlp_norm, second, weights)
        self._values(attention, weights)
        for linear in (attention.output, *writers(mlp)):
            for each in filter(None, (linear.weight, linear.bias)):
                weights[each.name] = self.stream.outputs(weights[each.name])

    def reading(
        self,
        norm: Norm | None,
        linears: tuple[Linear, ...],
        weights: MutableMapping[str, Float32],
    ) -> None:
        """Move a norm's weight into the matrices behind it, and rotate what they read."""
        assert norm is not None and norm.weight is not None, "see _check"
        offset = np.float32(norm.offset)
        scale = weights[norm.weight.name] + offset
        for linear in linears:
            weights[linear.weight.name] = self.stream.rows(weights[linear.weight.name] * scale)
        weights[norm.weight.name] = np.ones_like(scale) - offset

    def _values(self, attention: Attention, weights: MutableMapping[str, Float32]) -> None:
        size = attention.head_dim
        turn = self._heads[size]
        for each in filter(None, (attention.value.weight, attention.value.bias)):
            by_head = weights[each.name].reshape(attention.kv_heads, size, -1)
            turned = turn.rows(np.ascontiguousarray(by_head.transpose(0, 2, 1)))
            weights[each.name] = np.ascontiguousarray(turned.transpose(0, 2, 1)).reshape(each.shape)
        output = attention.output.weight
        columns = weights[output.name].reshape(-1, attention.heads, size)
        weights[output.name] = turn.rows(columns).reshape(output.shape)


def _check(spec: ModelSpec) -> None:
    """Raises ConfigError for a model that a rotation would change, or whose parts are unknown."""
    gated = any(each.gate for each in parts(spec, Attention))
    if any(parts(spec, LatentAttention)) or spec.state_floats or gated:
        raise ConfigError(
            f"{spec.architecture} has layers with latents, a state or a gate on their heads, which "
            "are not rotated here; leave hadamard out"
        )
    before = (spec.norm, *(n for b in spec.blocks for n in (b.attention_norm, b.mlp_norm)))
    others = tuple(
        norm
        for b in spec.blocks
        for norm in (
            b.attention_output_norm, b.mlp_output_norm, b.attention_sum_norm, b.mlp_sum_norm,
        )
    )  # fmt: skip
    fits = all(norm is not None and norm.weight and norm.kind == "rms" for norm in before)
    if not fits or any(others):
        raise ConfigError(
            f"{spec.architecture} cannot be rotated: that needs an RMS norm before each part of a "
            "block and no other norms there; leave hadamard out"
        )


def _hadamard(power: int) -> npt.NDArray[np.float64]:
    matrix = np.ones((1, 1))
    for _ in range(power):
        matrix = np.kron(matrix, np.asarray([[1, 1], [1, -1]]) / np.sqrt(2))
    return matrix
