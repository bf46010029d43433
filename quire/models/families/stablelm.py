"""StableLM: layer norms, a quarter of each head rotated; the 12B has parallel blocks.

Its attention and MLP share a norm, and each head has one of its own, which checkpoints store head
by head.  Source: the StableLmForCausalLM config of transformers.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import (
    ONE_NORM,
    PRE_NORMS,
    TINY,
    decoder,
    dense_mlp,
    grouped_attention,
)
from quire.models.families.parts import by_head, head_dim, layer_norm, num_layers
from quire.models.families.rope_config import read_rope
from quire.models.places import Place
from quire.models.registry import family
from quire.models.spec import ModelSpec, Norm

__all__ = ["stablelm"]


@family("StableLmForCausalLM", "StableLMEpochForCausalLM", tiny={**TINY, "qk_layernorm": True})
def stablelm(config: ConfigReader) -> ModelSpec:
    """StableLM 3B, and StableLM 2 1.6B and 12B."""
    share = config.number("rope_pct", 0.25, low=0.0, high=1.0)  # older names of two keys
    eps = config.number("norm_eps", 1e-5, low=0.0, high=1.0)
    eps = config.number("layer_norm_eps", eps, low=0.0, high=1.0)
    dim, parallel = head_dim(config), config.flag("use_parallel_residual")
    rope = read_rope(config, dim, partial=share)
    attention = grouped_attention(
        config,
        qkv_bias=config.flag("use_qkv_bias"),
        qk_norm="rows" if config.flag("qk_layernorm") else None,
        qk_norm_names=("q_layernorm", "k_layernorm"),
        norm=partial(_norm_of_heads, dim=dim, eps=eps),
        ropes=[rope] * num_layers(config),
    )
    return decoder(
        config,
        attention=attention,
        mlp=dense_mlp(config),
        norm=partial(layer_norm, eps=eps),
        block_norms=ONE_NORM if parallel else PRE_NORMS,
        parallel=parallel,
    )


def _norm_of_heads(name: str, width: int, dim: int, eps: float) -> Norm:
    """Without a bias; a tensor for each head."""
    norm = by_head(layer_norm(name, width, eps, bias=False), dim)
    assert norm.weight is not None
    place = Place(f"{name}.norms.{{}}.weight", (dim,), stack=width // dim)
    return replace(norm, weight=replace(norm.weight, stored=(place,)))
