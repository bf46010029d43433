"""The pre-norm decoder with Llama's weight names, which most families are a variation of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.rope import Rope, RopeScaling, yarn_attention_factor
from quire.models.spec import (
    Attention,
    Block,
    Embedding,
    GatedMLP,
    Linear,
    ModelSpec,
    Norm,
    Split,
    Weight,
)

__all__ = ["TINY", "dense_decoder", "layer_windows", "num_layers", "sliding_window"]

MAX_LAYERS = 4096
"""More than any model has; a spec is built before the weights say how many there are."""

TINY: Mapping[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

ACTIVATIONS: Mapping[str, Literal["silu", "gelu_tanh"]] = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
}

IGNORING_KINDS = ("default", "mrope")
"""Kinds of rope that stretch nothing, whatever else their section says."""


def dense_decoder(
    config: ConfigReader,
    *,
    qkv_bias: bool = False,
    output_bias: bool = False,
    mlp_bias: bool = False,
    qk_norm: bool = False,
    default_tied: bool = False,
    windows: tuple[int | None, ...] | None = None,
) -> ModelSpec:
    """Build the spec of a decoder whose config.json has Llama's keys.

    windows: one sliding window, or None, per layer; None: no layer has one.
    """
    width, vocab_size = config.positive("hidden_size"), config.positive("vocab_size")
    layers = num_layers(config)
    eps = config.number("rms_norm_eps", 1e-6, low=0.0, high=1.0)
    make = _BlockMaker(config, width, eps, qkv_bias, output_bias, mlp_bias, qk_norm)
    embedding = Embedding(Weight("model.embed_tokens.weight", (vocab_size, width), "rows"))
    tied = config.flag("tie_word_embeddings", default_tied)
    head = embedding.weight if tied else Weight("lm_head.weight", (vocab_size, width), "rows")
    return ModelSpec(
        architecture=config.architecture,
        vocab_size=vocab_size,
        width=width,
        max_length=_max_length(config, make.rope),
        dtype=_dtype(config),
        embedding=embedding,
        blocks=tuple(make.block(i, windows[i] if windows else None) for i in range(layers)),
        norm=Norm(Weight("model.norm.weight", (width,)), eps),
        head=Linear(head),
        bos_token_ids=config.token_ids("bos_token_id"),
        eos_token_ids=config.token_ids("eos_token_id"),
    )


def num_layers(config: ConfigReader) -> int:
    """The number of blocks; ModelError above MAX_LAYERS."""
    layers = config.positive("num_hidden_layers")
    if layers > MAX_LAYERS:
        raise ModelError(
            f"{config.architecture}: num_hidden_layers is {layers}; at most {MAX_LAYERS} are read"
        )
    return layers


def sliding_window(config: ConfigReader) -> int | None:
    """The window that config.json gives, None for null or 0."""
    return config.integer("sliding_window", 0) or None


def layer_windows(config: ConfigReader) -> tuple[int | None, ...]:
    """The sliding window of each layer, from `layer_types` or from `max_window_layers`.

    The rule of Qwen: windows exist only with use_sliding_window, and by default only in the layers
    from max_window_layers on.
    """
    layers, window = num_layers(config), sliding_window(config)
    enabled = config.flag("use_sliding_window")
    first, kinds = config.integer("max_window_layers", 28), config.get("layer_types")
    if not enabled or window is None:
        return (None,) * layers
    if kinds is None:
        return tuple(window if i >= first else None for i in range(layers))
    known = ("full_attention", "sliding_attention")
    if not isinstance(kinds, list) or len(kinds) != layers or any(k not in known for k in kinds):
        raise ModelError(
            f"{config.architecture}: layer_types must give full_attention or sliding_attention "
            f"for each of {layers} layers, got {kinds!r}"
        )
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


class _BlockMaker:
    """Makes the blocks of one model from values read once."""

    def __init__(
        self,
        config: ConfigReader,
        width: int,
        eps: float,
        qkv_bias: bool,
        output_bias: bool,
        mlp_bias: bool,
        qk_norm: bool,
    ) -> None:
        self.width, self.eps = width, eps
        self.qkv_bias, self.output_bias = qkv_bias, output_bias
        self.mlp_bias, self.qk_norm = mlp_bias, qk_norm
        self.mlp_width = config.positive("intermediate_size")
        self.heads = config.positive("num_attention_heads")
        self.kv_heads = config.positive("num_key_value_heads", self.heads)
        self.head_dim = config.positive("head_dim", max(width // self.heads, 1))
        if self.heads % self.kv_heads:
            raise ModelError(
                f"{config.architecture}: num_attention_heads {self.heads} is not a multiple of "
                f"num_key_value_heads {self.kv_heads}"
            )
        self.rope = _rope(config, self.head_dim)
        self.activation = _activation(config)

    def block(self, layer: int, window: int | None) -> Block:
        prefix = f"model.layers.{layer}."
        return Block(
            attention_norm=self._norm(prefix + "input_layernorm", self.width),
            attention=self._attention(prefix + "self_attn.", window),
            mlp_norm=self._norm(prefix + "post_attention_layernorm", self.width),
            mlp=self._mlp(prefix + "mlp."),
        )

    def _attention(self, prefix: str, window: int | None) -> Attention:
        dim, q_rows, kv_rows = (
            self.head_dim,
            self.heads * self.head_dim,
            self.kv_heads * self.head_dim,
        )
        head_norm = self.qk_norm
        return Attention(
            query=_linear(prefix + "q_proj", q_rows, self.width, "rows", self.qkv_bias, dim),
            key=_linear(prefix + "k_proj", kv_rows, self.width, "rows", self.qkv_bias, dim),
            value=_linear(prefix + "v_proj", kv_rows, self.width, "rows", self.qkv_bias, dim),
            output=_linear(prefix + "o_proj", self.width, q_rows, "columns", self.output_bias, dim),
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=dim,
            scale=dim**-0.5,
            rope=self.rope,
            window=window,
            query_norm=self._norm(prefix + "q_norm", dim) if head_norm else None,
            key_norm=self._norm(prefix + "k_norm", dim) if head_norm else None,
        )

    def _mlp(self, prefix: str) -> GatedMLP:
        inner, bias = self.mlp_width, self.mlp_bias
        return GatedMLP(
            gate=_linear(prefix + "gate_proj", inner, self.width, "rows", bias),
            up=_linear(prefix + "up_proj", inner, self.width, "rows", bias),
            down=_linear(prefix + "down_proj", self.width, inner, "columns", bias),
            activation=self.activation,
        )

    def _norm(self, name: str, width: int) -> Norm:
        return Norm(Weight(name + ".weight", (width,)), self.eps)


def _linear(name: str, out: int, width: int, split: Split, bias: bool, unit: int = 1) -> Linear:
    bias_split: Split = split if split == "rows" else None
    return Linear(
        Weight(name + ".weight", (out, width), split, unit),
        Weight(name + ".bias", (out,), bias_split, unit) if bias else None,
    )


def _activation(config: ConfigReader) -> Literal["silu", "gelu_tanh"]:
    name = config.get("hidden_act", "silu")
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ModelError(
            f"{config.architecture}: hidden_act {name!r} is not one of {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]


def _dtype(config: ConfigReader) -> str:
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    if not isinstance(name, str):
        raise ModelError(f"{config.architecture}: dtype is {name!r}; expected a name")
    return name.removeprefix("torch.")


def _rope(config: ConfigReader, head_dim: int) -> Rope:
    """Read both spellings: rope_theta + rope_scaling, and transformers 5's rope_parameters."""
    values = {**config.section("rope_scaling"), **config.section("rope_parameters")}
    if any(isinstance(value, dict) for value in values.values()):
        raise ModelError(f"{config.architecture}: rope_parameters per layer type are not supported")
    fields = ConfigReader(values, config.architecture)
    theta = fields.number("rope_theta", config.number("rope_theta", 10000.0), low=2.0, high=1e12)
    partial = config.number("partial_rotary_factor", 1.0)
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


def _max_length(config: ConfigReader, rope: Rope) -> int:
    """Trained length, stretched where the config gives the length before scaling."""
    length = config.positive("max_position_embeddings", 2048)
    if rope.scaling.kind in ("linear", "dynamic"):
        return int(length * rope.scaling.factor)
    if rope.scaling.kind == "yarn":
        return max(length, int(rope.scaling.original_length * rope.scaling.factor))
    return length
