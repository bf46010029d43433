"""The shapes of real models, from bench/shapes, and what a step of them must read and compute."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

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

    @property
    def body_parameters(self) -> int:
        """Weights of all layers' matrices."""
        c = self.config
        hidden, heads = c["hidden_size"], c["num_attention_heads"]
        head_dim = c.get("head_dim") or hidden // heads
        attention = 2 * hidden * head_dim * (heads + c["num_key_value_heads"])
        layer: int = attention + 3 * hidden * c["intermediate_size"]
        return layer * int(c["num_hidden_layers"])

    @property
    def head_parameters(self) -> int:
        """Weights of the matrix that gives the logits."""
        return int(self.config["hidden_size"]) * int(self.config["vocab_size"])

    @property
    def kv_values(self) -> int:
        """Numbers one token leaves in the KV cache."""
        c = self.config
        head_dim = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
        return 2 * int(c["num_hidden_layers"]) * int(c["num_key_value_heads"]) * int(head_dim)

    def attention_operations(self, context: float) -> float:
        """Multiplications and additions of one token's attention over a context."""
        c = self.config
        head_dim = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
        width: int = c["num_attention_heads"] * head_dim
        return 4.0 * int(c["num_hidden_layers"]) * width * context
