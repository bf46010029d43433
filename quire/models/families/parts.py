"""Small parts that the families are put together from: named weights, and values of config.json."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import replace

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.spec import MLP, Activation, GatedMLP, Linear, Norm, Split, Weight

__all__ = [
    "activation",
    "by_head",
    "dtype",
    "gated_mlp",
    "head_dim",
    "layer_norm",
    "linear",
    "norm",
    "num_layers",
    "plain_mlp",
    "rounded_to",
]

MAX_LAYERS = 4096
"""More than any model has; a spec is built before the weights say how many there are."""

ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "relu_squared",
}


def linear(name: str, out: int, width: int, split: Split, bias: bool, unit: int = 1) -> Linear:
    """name.weight [out, width] and, with `bias`, name.bias [out]; `unit` rows stay together."""
    bias_split: Split = split if split == "rows" else None
    return Linear(
        Weight(name + ".weight", (out, width), split, unit),
        Weight(name + ".bias", (out,), bias_split, unit) if bias else None,
    )


def norm(name: str, width: int, eps: float, offset: float = 0.0) -> Norm:
    """An RMS norm with name.weight [width]."""
    return Norm(Weight(name + ".weight", (width,)), eps, offset=offset)


def layer_norm(name: str, width: int, eps: float, bias: bool = True, offset: float = 0.0) -> Norm:
    """A layer norm with name.weight and, with `bias`, name.bias [width]."""
    weight = Weight(name + ".weight", (width,))
    biases = Weight(name + ".bias", (width,)) if bias else None
    return Norm(weight, eps, "layer", biases, offset)


def by_head(norm: Norm, dim: int) -> Norm:
    """The norm of heads with a weight of its own for each: a row of the weight."""
    assert norm.weight is not None
    shape = (norm.weight.shape[0] // dim, dim)
    return replace(norm, weight=replace(norm.weight, shape=shape, split="rows"))


def gated_mlp(
    prefix: str,
    width: int,
    inner: int,
    bias: bool = False,
    kind: Activation = "silu",
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
) -> GatedMLP:
    """The matrices behind `prefix`: gate, up and down, by their names."""
    gate, up, down = (prefix + name for name in names)
    return GatedMLP(
        gate=linear(gate, inner, width, "rows", bias),
        up=linear(up, inner, width, "rows", bias),
        down=linear(down, width, inner, "columns", bias),
        activation=kind,
    )


def plain_mlp(prefix: str, width: int, inner: int, bias: bool, kind: Activation) -> MLP:
    """The up_proj and down_proj behind `prefix`."""
    return MLP(
        up=linear(prefix + "up_proj", inner, width, "rows", bias),
        down=linear(prefix + "down_proj", width, inner, "columns", bias),
        activation=kind,
    )


def num_layers(config: ConfigReader) -> int:
    """The number of blocks; ModelError above MAX_LAYERS."""
    layers = config.positive("num_hidden_layers")
    if layers > MAX_LAYERS:
        raise ModelError(
            f"{config.architecture}: num_hidden_layers is {layers}; at most {MAX_LAYERS} are read"
        )
    return layers


def activation(config: ConfigReader, key: str = "hidden_act", default: str = "silu") -> Activation:
    """The activation that config.json names."""
    name = config.get(key, default)
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ModelError(
            f"{config.architecture}: {key} {name!r} is not one of {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]


def head_dim(config: ConfigReader, default: int | None = None) -> int:
    """The width of a head; `default`, or what the width leaves each, where the key is missing."""
    shared = config.positive("hidden_size") // config.positive("num_attention_heads")
    return config.positive("head_dim", default or max(shared, 1))


def rounded_to(value: float, dtype: str) -> float:
    """The nearest number that a checkpoint of this dtype can hold."""
    if dtype == "float16":
        return float(struct.unpack("<e", struct.pack("<e", value))[0])
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    if dtype == "bfloat16":
        bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])


def dtype(config: ConfigReader) -> str:
    """The name of the format that config.json gives its weights."""
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    if not isinstance(name, str):
        raise ModelError(f"{config.architecture}: dtype is {name!r}; expected a name")
    return name.removeprefix("torch.")
