"""Reads the rotation that config.json describes, in the old spelling and in transformers 5's."""

from __future__ import annotations

import math

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.rope import Rope, RopeScaling, yarn_attention_factor

__all__ = ["max_length", "read_rope"]

IGNORING_KINDS = ("default", "mrope")
"""Kinds of rope that stretch nothing, whatever else their section says."""


def read_rope(config: ConfigReader, head_dim: int, rotated: float = 1.0) -> Rope:
    """Read both spellings: rope_theta + rope_scaling, and transformers 5's rope_parameters.

    rotated: the default of partial_rotary_factor.
    """
    values = {**config.section("rope_scaling"), **config.section("rope_parameters")}
    if any(isinstance(value, dict) for value in values.values()):
        raise ModelError(f"{config.architecture}: rope_parameters per layer type are not supported")
    fields = ConfigReader(values, config.architecture)
    theta = fields.number("rope_theta", config.number("rope_theta", 10000.0), low=2.0, high=1e12)
    partial = config.number("partial_rotary_factor", rotated)
    partial = fields.number("partial_rotary_factor", partial, low=0.0, high=1.0)
    kind = fields.get("rope_type", fields.get("type", "default"))
    dims = int(head_dim * partial)
    if dims % 2 or dims < (4 if kind == "dynamic" else 2):
        raise ModelError(
            f"{config.architecture}: head_dim {head_dim} x partial_rotary_factor {partial:g} gives "
            f"{dims} values to rotate in pairs"
        )
    length = config.positive("max_position_embeddings", 2048)
    trained = fields.positive("original_max_position_embeddings", length)
    trained = config.positive("original_max_position_embeddings", trained)  # at the top, it wins
    scaling = _scaling(fields, kind, length, trained)
    if kind == "factors" and len(scaling.factors) != dims // 2:
        raise ModelError(
            f"{config.architecture}: rope has {len(scaling.factors)} factors for {dims // 2} pairs"
        )
    left = fields.unread()
    if left and kind not in IGNORING_KINDS:
        raise ModelError(
            f"{config.architecture}: rope type {kind!r} does not use {', '.join(left)}"
        )
    return Rope(dims, theta, scaling=scaling)


def _scaling(fields: ConfigReader, kind: object, length: int, trained: int) -> RopeScaling:
    if kind in IGNORING_KINDS:
        return RopeScaling()
    if kind == "linear" or kind == "dynamic":
        return RopeScaling("linear" if kind == "linear" else "dynamic", _factor(fields), length)
    if kind == "llama3":
        low = fields.number("low_freq_factor", 1.0, low=1e-3, high=1e3)
        high = fields.number("high_freq_factor", 4.0, low=1e-3, high=1e3)
        if not low < high:
            raise ModelError(
                f"{fields.architecture}: low_freq_factor {low:g} is not below high_freq_factor "
                f"{high:g}"
            )
        return RopeScaling("llama3", _factor(fields), trained, low, high)
    if kind == "yarn":
        return _yarn_scaling(fields, trained, length)
    if kind == "factors":
        return RopeScaling("factors", factors=_factors(fields))
    raise ModelError(
        f"{fields.architecture}: rope type {kind!r} is not supported here; "
        "supported: default, linear, dynamic, llama3, yarn, factors"
    )


def _yarn_scaling(fields: ConfigReader, trained: int, length: int) -> RopeScaling:
    factor = _factor(fields, length / trained)
    mscale = fields.number("mscale", 0.0, low=0.0, high=1e3)
    all_dim = fields.number("mscale_all_dim", 0.0, low=0.0, high=1e3)
    recommended = yarn_attention_factor(factor, mscale, all_dim)
    fields.get("finetuned")
    return RopeScaling(
        "yarn",
        factor,
        trained,
        beta_fast=fields.number("beta_fast", 32.0, low=1e-3, high=1e6),
        beta_slow=fields.number("beta_slow", 1.0, low=1e-3, high=1e6),
        truncate=fields.flag("truncate", True),
        attention_factor=fields.number("attention_factor", recommended, low=1e-3, high=1e3),
    )


def _factors(fields: ConfigReader) -> tuple[float, ...]:
    """What each pair's frequency is divided by; GGUF has it in place of a rule."""
    values = fields.get("factors")
    if not isinstance(values, list) or not all(
        isinstance(each, float) and 0 < each < math.inf for each in values
    ):
        raise ModelError(f"{fields.architecture}: rope factors are not numbers above 0")
    return tuple(values)


def _factor(fields: ConfigReader, default: float | None = None) -> float:
    return fields.number("factor", default, low=1.0, high=1e6)


def max_length(config: ConfigReader, rope: Rope | None) -> int:
    """Trained length, stretched where the config gives the length before scaling."""
    length = config.positive("max_position_embeddings", 2048)
    if rope is None:
        return length
    if rope.scaling.kind in ("linear", "dynamic"):
        return int(length * rope.scaling.factor)
    if rope.scaling.kind == "yarn":
        return max(length, int(rope.scaling.original_length * rope.scaling.factor))
    return length
