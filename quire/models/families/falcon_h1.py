"""Falcon-H1: attention and Mamba 2 beside each other in every block, and many multipliers.

Those of scores, embeddings and logits are numbers of the spec.  The others are of what matrices
yield, and their weights are multiplied while they are read.  Source: arXiv:2507.22448, the
FalconH1ForCausalLM config of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families import parts
from quire.models.families.bamba import LAYOUT
from quire.models.families.decoder import TINY, decoder, dense_mlp, grouped_attention, rms_norm
from quire.models.families.mamba2 import FUSED, mamba2, read_sizes
from quire.models.registry import family
from quire.models.spec import ModelSpec, ParallelMixers
from quire.models.stored_as import stored_as

__all__ = ["falcon_h1"]

TINY_FALCON: dict[str, Any] = {
    **TINY,
    "head_dim": 16,
    "mamba_d_ssm": 96,
    "mamba_n_heads": 6,
    "mamba_d_head": 16,
    "mamba_d_state": 24,
    "mamba_rms_norm": False,
    "key_multiplier": 0.5,
    "ssm_multipliers": [0.5, 0.75, 1.5, 0.5, 1.25],
    "mlp_multipliers": [0.75, 1.5],
}
UNHEEDED = ("layer_types", "layers_block_type", "mlp_expansion_factor", "num_logits_to_keep")
"""Every layer is a hybrid, its MLP is intermediate_size wide, and others say which logits."""
SSM = FUSED["mamba.in_proj"]
NEUTRAL: dict[str, Any] = {
    **dict.fromkeys(("attention_in_multiplier", "attention_out_multiplier"), 1.0),
    **dict.fromkeys(("ssm_in_multiplier", "ssm_out_multiplier"), 1.0),
    "ssm_multipliers": [1.0] * len(SSM),
    "mlp_multipliers": [1.0, 1.0],
}
"""What config.json says of weights that are multiplied already."""


@family("FalconH1ForCausalLM", tiny=TINY_FALCON)
def falcon_h1(config: ConfigReader) -> ModelSpec:
    """Falcon-H1 0.5B to 34B."""
    for key in ("attention_bias", "mamba_proj_bias", "projectors_bias"):
        config.expect(key, False)
    config.expect("mamba_use_mlp", True)
    has_norm = config.flag("mamba_rms_norm")
    if config.flag("mamba_norm_before_gate", True) and has_norm:
        raise ModelError(
            f"{config.architecture}: mamba_norm_before_gate true is not supported; expected false"
        )
    for key in UNHEEDED:
        config.get(key)
    sizes, dim = read_sizes(config), parts.head_dim(config)
    inward, outward = (_factor(config, f"attention_{way}_multiplier") for way in ("in", "out"))
    of_scores = inward**2 * _factor(config, "key_multiplier")
    attention = grouped_attention(config, scale=dim**-0.5 * of_scores)

    def mixer(layer: int, prefix: str) -> ParallelMixers:
        recurrent = mamba2(sizes, prefix.removesuffix("self_attn.") + "mamba.")
        recurrent = recurrent if has_norm else replace(recurrent, norm=None)
        return ParallelMixers(attention(layer, prefix), recurrent)

    spec = decoder(
        config,
        attention=mixer,
        mlp=dense_mlp(config, config.flag("mlp_bias")),
        norm=rms_norm(config, eps=1e-5),
        embedding_scale=_factor(config, "embedding_multiplier"),
        logit_scale=_factor(config, "lm_head_multiplier"),
    )
    times = {"self_attn.o_proj": inward * outward, **_of_mamba(config), **_of_mlp(config)}
    spec = replace(spec, folded=(*NEUTRAL.items(), ("key_multiplier", of_scores)))
    return stored_as(spec, replace(LAYOUT, times=times))


def _of_mamba(config: ConfigReader) -> Mapping[str, float]:
    inward = _factor(config, "ssm_in_multiplier")
    each = _factors(config, "ssm_multipliers", len(SSM))
    rows = {name: inward * factor for name, factor in zip(SSM, each, strict=True)}
    return {**rows, "mamba.out_proj": _factor(config, "ssm_out_multiplier")}


def _of_mlp(config: ConfigReader) -> Mapping[str, float]:
    gate, down = _factors(config, "mlp_multipliers", 2)
    return {"mlp.gate_proj": gate, "mlp.down_proj": down}


def _factor(config: ConfigReader, key: str) -> float:
    return config.number(key, 1.0, low=1e-6, high=1e6)


def _factors(config: ConfigReader, key: str, count: int) -> list[float]:
    given = config.get(key) or [1.0] * count
    if not isinstance(given, list) or len(given) != count:
        raise ModelError(
            f"{config.architecture}: {key} is {given!r:.100}; expected {count} numbers"
        )
    reader = ConfigReader({str(i): each for i, each in enumerate(given)}, config.architecture)
    return [_factor(reader, str(i)) for i in range(count)]
