"""Reads the rotation that config.json describes, in the old spelling and in transformers 5's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families.windows import FULL, SLIDING
from quire.models.rope import Rope, RopeScaling, longrope_attention_factor, yarn_attention_factor

__all__ = ["Pairing", "max_length", "read_rope", "read_ropes"]

Pairing: TypeAlias = Literal["half", "interleaved"]

IGNORING_KINDS = ("default", "mrope")
"""Kinds of rope that stretch nothing, whatever else their section says."""


def read_rope(
    config: ConfigReader,
    head_dim: int,
    *,
    pairing: Pairing = "half",
    theta: float = 10000.0,
    partial: float = 1.0,
    others: Sequence[str] = (),
) -> Rope:
    """Read both spellings: rope_theta + rope_scaling, and transformers 5's rope_parameters.

    theta, partial: the defaults of rope_theta and of partial_rotary_factor.  others: keys that
    stand among those of the rope and that the family reads itself.
    """
    values = {**config.section("rope_scaling"), **config.section("rope_parameters")}
    if any(isinstance(value, dict) for value in values.values()):
        raise ModelError(f"{config.architecture}: rope_parameters per layer type are not supported")
    values = {key: value for key, value in values.items() if key not in others}
    return _rope(config, values, head_dim, pairing, config.number("rope_theta", theta), partial)


def read_ropes(
    config: ConfigReader,
    head_dim: int,
    types: Sequence[str],
    *,
    theta: float = 10000.0,
    local_theta: float | None = None,
) -> tuple[Rope, ...]:
    """The rope of each layer, where those with a window have one of their own.

    types: of the layers.  In the old spelling rope_theta and rope_scaling are those of layers that
    see all; the others have rope_local_base_freq, or `local_theta`, and no scaling.
    """
    by_type, scaling = dict(config.section("rope_parameters")), config.section("rope_scaling")
    theta = config.number("rope_theta", theta)
    local_theta = config.number("rope_local_base_freq", local_theta or theta)
    thetas = {FULL: theta, SLIDING: local_theta}
    if any(not isinstance(by_type.get(each), dict) for each in by_type):
        raise ModelError(
            f"{config.architecture}: rope_parameters is {by_type!r}; expected those of each layer "
            "type"
        )
    if set(by_type) - set(thetas):
        raise ModelError(f"{config.architecture}: rope_parameters has types {list(by_type)}")
    by_type[FULL] = {**scaling, **by_type.get(FULL, {})}
    ropes = {
        each: _rope(config, by_type.get(each, {}), head_dim, "half", thetas[each], 1.0)
        for each in dict.fromkeys(types)
    }
    return tuple(ropes[each] for each in types)


def _rope(
    config: ConfigReader,
    values: Mapping[str, Any],
    head_dim: int,
    pairing: Pairing,
    theta: float,
    partial: float,
) -> Rope:
    fields = ConfigReader(values, config.architecture)
    theta = fields.number("rope_theta", theta, low=2.0, high=1e12)
    partial = config.number("partial_rotary_factor", partial)
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
    if kind == "dynamic" and fields.get("alpha") is not None:
        theta *= fields.number("alpha", low=1.0, high=1e6) ** (dims / (dims - 2))
        kind = "default"  # whatever else stands there is for other rules
    scaling = _scaling(fields, kind, length, trained)
    counts: dict[str, tuple[int, ...]] = {"factors": (len(scaling.factors),)}
    counts["longrope"] = (len(scaling.factors), len(scaling.long_factors))
    if any(count != dims // 2 for count in counts.get(scaling.kind, ())):
        raise ModelError(
            f"{config.architecture}: rope has {counts[scaling.kind]} factors for {dims // 2} pairs"
        )
    left = fields.unread()
    if left and kind not in IGNORING_KINDS:
        raise ModelError(
            f"{config.architecture}: rope type {kind!r} does not use {', '.join(left)}"
        )
    return Rope(dims, theta, pairing, scaling)


def _scaling(fields: ConfigReader, kind: object, length: int, trained: int) -> RopeScaling:
    if kind in IGNORING_KINDS:
        return RopeScaling()
    if kind == "linear" or kind == "dynamic":
        return RopeScaling("linear" if kind == "linear" else "dynamic", _factor(fields), length)
    if kind == "llama3":
        low = fields.number("low_freq_factor", 1.0, low=1e-3, high=1e3)
        high = fields.number("high_freq_factor", 4.0, low=1e-3, high=1e3)
        if not low <= high:
            raise ModelError(
                f"{fields.architecture}: low_freq_factor {low:g} is above high_freq_factor {high:g}"
            )
        return RopeScaling("llama3", _factor(fields), trained, low, high)
    if kind in ("longrope", "su") or (kind == "yarn" and fields.get("short_factor") is not None):
        return _longrope_scaling(fields, trained, length)
    if kind == "yarn":
        return _yarn_scaling(fields, trained, length)
    if kind == "factors":
        return RopeScaling("factors", factors=_factors(fields))
    raise ModelError(
        f"{fields.architecture}: rope type {kind!r} is not supported here; "
        "supported: default, linear, dynamic, llama3, yarn, longrope, factors"
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


def _longrope_scaling(fields: ConfigReader, trained: int, length: int) -> RopeScaling:
    """Phi-3 gives the factor as a ratio of lengths; some of its files call the rule su or yarn.

    Phi-3.5-MoE gives a factor on cosines and sines for either set of factors.
    """
    factor = _factor(fields, max(length / trained, 1.0))
    recommended = longrope_attention_factor(factor, trained)
    attention_factor = fields.number("attention_factor", recommended, low=1e-3, high=1e3)
    return RopeScaling(
        "longrope",
        factor,
        trained,
        attention_factor=fields.number("short_mscale", attention_factor, low=1e-3, high=1e3),
        factors=_factors(fields, "short_factor"),
        long_factors=_factors(fields, "long_factor"),
        long_attention_factor=fields.number("long_mscale", attention_factor, low=1e-3, high=1e3),
    )


def _factors(fields: ConfigReader, key: str = "factors") -> tuple[float, ...]:
    """What each pair's frequency is divided by; GGUF has `factors` in place of a rule."""
    values = fields.get(key)
    if not isinstance(values, list) or not all(
        isinstance(each, int | float) and 0 < each < 1e30 for each in values
    ):
        raise ModelError(f"{fields.architecture}: rope {key} are not numbers above 0")
    return tuple(map(float, values))


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
