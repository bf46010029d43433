"""The Mamba 2 layers of hybrid models, whatever their keys in config.json are called."""

from __future__ import annotations

import math
from dataclasses import dataclass

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families import parts
from quire.models.families.delta_net import MOST_TAPS
from quire.models.recurrent import Convolution, Mamba2
from quire.models.spec import Norm, Weight

__all__ = ["FUSED", "Mamba2Config", "mamba2", "read_sizes", "time_step_limit"]

INFINITE = {"__float__": "Infinity"}
"""How transformers writes the number."""

FUSED = {
    "mamba.in_proj": tuple(f"mamba.{each}_proj" for each in ("z", "x", "b", "c", "dt")),
    "mamba.conv1d": tuple(f"mamba.{each}_conv" for each in "xbc"),
}
"""How checkpoints store what a layer reads its input with; see places.Layout."""


@dataclass(frozen=True, slots=True)
class Mamba2Config:
    """Sizes and options of all Mamba 2 layers of a model.

    key_heads: groups.  key_dim: the size of B and C.  steps: the least and the longest.
    """

    width: int
    heads: int
    value_dim: int
    key_heads: int
    key_dim: int
    taps: int
    conv_bias: bool
    bias: bool
    eps: float
    steps: tuple[float, float]

    def check(self, config: ConfigReader) -> None:
        """Raise ModelError for what is not computed here."""
        if self.heads % self.key_heads:
            raise ModelError(
                f"{config.architecture}: {self.heads} Mamba heads are not a multiple of "
                f"{self.key_heads} groups"
            )
        if not 2 <= self.taps <= MOST_TAPS:
            raise ModelError(
                f"{config.architecture}: the convolution has {self.taps} taps; 2 to {MOST_TAPS} "
                "are read"
            )


def read_sizes(config: ConfigReader) -> Mamba2Config:
    """The sizes as most config.json say them, in keys that begin with mamba_."""
    width, heads = config.positive("hidden_size"), config.positive("mamba_n_heads", 128)
    values = config.positive("mamba_d_ssm", width * config.positive("mamba_expand", 2))
    value_dim = config.get("mamba_d_head", "auto")
    value_dim = values // heads if value_dim == "auto" else config.positive("mamba_d_head")
    if heads * value_dim != values:
        raise ModelError(
            f"{config.architecture}: {heads} Mamba heads of {value_dim} are not mamba_d_ssm, or "
            f"mamba_expand times hidden_size, {values}"
        )
    config.get("mamba_chunk_size")  # how others cut the scan
    sizes = Mamba2Config(
        width=width,
        heads=heads,
        value_dim=value_dim,
        key_heads=config.positive("mamba_n_groups", 1),
        key_dim=config.positive("mamba_d_state", 256),
        taps=config.positive("mamba_d_conv", 4),
        conv_bias=config.flag("mamba_conv_bias", True),
        bias=config.flag("mamba_proj_bias"),
        eps=config.number("rms_norm_eps", 1e-6, low=0.0, high=1.0),
        steps=time_step_limit(config),
    )
    sizes.check(config)
    if parts.activation(config) != "silu":
        raise ModelError(f"{config.architecture}: hidden_act is not silu")
    return sizes


def mamba2(sizes: Mamba2Config, prefix: str) -> Mamba2:
    """The layer whose weights stand behind `prefix`."""
    width, heads = sizes.width, sizes.heads
    values, keys = heads * sizes.value_dim, sizes.key_heads * sizes.key_dim
    rows = {"z": values, "x": values, "b": keys, "c": keys, "dt": heads}
    units = {"z": sizes.value_dim, "x": sizes.value_dim, "b": sizes.key_dim, "c": sizes.key_dim}
    made = {
        name: parts.linear(
            f"{prefix}{name}_proj", count, width, "rows", sizes.bias, units.get(name, 1)
        )
        for name, count in rows.items()
    }

    def convolving(ending: str, *taps: int) -> tuple[Weight, ...]:
        return tuple(
            Weight(f"{prefix}{name}_conv.{ending}", (rows[name], *taps), "rows", units[name])
            for name in "xbc"
        )

    weights, biases = convolving("weight", 1, sizes.taps), convolving("bias")
    norm = Weight(prefix + "norm.weight", (values,), "rows", values // sizes.key_heads)
    return Mamba2(
        gate=made["z"],
        value=made["x"],
        key=made["b"],
        query=made["c"],
        step=made["dt"],
        convolution=Convolution(weights, sizes.taps, biases if sizes.conv_bias else ()),
        decay_log=Weight(prefix + "A_log", (heads,), "rows"),
        step_bias=Weight(prefix + "dt_bias", (heads,), "rows"),
        skip=Weight(prefix + "D", (heads,), "rows"),
        norm=Norm(norm, sizes.eps),
        norm_groups=sizes.key_heads,
        output=parts.linear(
            prefix + "out_proj", width, values, "columns", sizes.bias, sizes.value_dim
        ),
        key_heads=sizes.key_heads,
        heads=heads,
        key_dim=sizes.key_dim,
        value_dim=sizes.value_dim,
        least_step=sizes.steps[0],
        most_step=sizes.steps[1],
    )


def time_step_limit(config: ConfigReader) -> tuple[float, float]:
    """The least and the longest step, by default from 0 to infinity."""
    value = config.get("time_step_limit", [0.0, math.inf])
    given = value if isinstance(value, list) else []
    pair = [math.inf if each == INFINITE else each for each in given]
    if len(pair) != 2 or not all(isinstance(each, int | float) for each in pair):
        raise ModelError(
            f"{config.architecture}: time_step_limit is {value!r}; expected two numbers"
        )
    return float(pair[0]), float(pair[1])
