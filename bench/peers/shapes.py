"""The shapes of real models, from bench/shapes, and what a step of them must read and compute."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from quire.models.attention import LatentAttention
from quire.models.feed_forward import MixtureOfExperts
from quire.models.registry import build_spec
from quire.models.spec import ModelSpec
from quire.models.walk import parts

__all__ = ["PRECISIONS", "SHAPES", "Precision", "Shape", "shape_names"]

Precision = Literal["bf16", "int8", "int4"]
PRECISIONS: tuple[Precision, ...] = ("bf16", "int8", "int4")
SHAPES = Path(__file__).parent.parent / "shapes"

WEIGHT_BYTES: Mapping[Precision, float] = {"bf16": 2.0, "int8": 34 / 32, "int4": 18 / 32}
"""Bytes of one weight: groups of 32 with one 16-bit scale each, as in Q8_0 and Q4_0."""


def shape_names() -> list[str]:
    """Every shape there is."""
    return sorted(path.parent.name for path in SHAPES.glob("*/config.json"))


@dataclass(frozen=True)
class Shape:
    """One model's config.json."""

    name: str

    @cached_property
    def config(self) -> dict[str, Any]:
        """The config's keys."""
        found: dict[str, Any] = json.loads((SHAPES / self.name / "config.json").read_text())
        return found

    @cached_property
    def spec(self) -> ModelSpec:
        """The model that the config describes."""
        return build_spec(self.config, strict=False)

    @cached_property
    def _matrices(self) -> Mapping[str, int]:
        """Matrix of a linear layer → its weights; experts among them."""
        shapes = {linear.weight.name: linear.weight.shape for linear in self.spec.linears()}
        return {name: math.prod(shape) for name, shape in shapes.items()}

    @property
    def head_parameters(self) -> int:
        """Weights of the matrix that gives the logits."""
        return self._matrices[self.spec.head.weight.name]

    def body_parameters(self, tokens: float) -> float:
        """Weights of the layers' matrices that so many tokens meet, each with other experts."""
        experts = sum(self._matrices[name] for name in self.spec.expert_matrices)
        always = sum(self._matrices.values()) - self.head_parameters - experts
        mixture = next(parts(self.spec, MixtureOfExperts), None)
        if mixture is None:
            return always
        missed = 1 - mixture.router.top_k / len(mixture.experts)
        return always + experts * (1 - math.pow(missed, tokens))

    @property
    def kv_values(self) -> int:
        """Numbers one token leaves in the KV cache."""
        return sum(
            each.rank + each.rope.dims
            if isinstance(each, LatentAttention)
            else 2 * each.kv_heads * each.head_dim
            for each in self.spec.attentions
        )

    def attention_operations(self, context: float) -> float:
        """Multiplications and additions of one token's attention over a context."""
        widths = (
            each.heads * (2 * each.rank + each.rope.dims)
            if isinstance(each, LatentAttention)
            else 2 * each.heads * each.head_dim
            for each in self.spec.attentions
        )
        return 2.0 * sum(widths) * context
