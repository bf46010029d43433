"""Cohere's models: parallel blocks, layer norms without biases, and logits times a scale.

Attention and MLP read one norm; heads are rotated in neighbouring pairs.  Source: the
CohereForCausalLM and Cohere2ForCausalLM configs of transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import (
    ONE_NORM,
    TINY,
    NormMaker,
    decoder,
    dense_mlp,
    grouped_attention,
)
from quire.models.families.parts import by_head, head_dim, layer_norm, num_layers
from quire.models.families.rope_config import read_rope
from quire.models.families.windows import types_by_pattern, windows_of
from quire.models.registry import family
from quire.models.rope import Rope
from quire.models.spec import ModelSpec

__all__ = ["cohere", "cohere2"]

ALWAYS: dict[str, Any] = {
    "position_embedding_type": "rope_gptj",
    "rotary_pct": 1.0,
    "order_of_interleaved_layers": "local_attn_first",
    "use_parallel_block": True,
    "use_gated_activation": True,
    "use_qk_norm": False,
}
"""What checkpoints of Cohere 2 say and no class of transformers reads."""
UNHEEDED = ("use_parallel_embedding", "use_embedding_sharing")
"""How it was trained, and what tie_word_embeddings says."""


@family("CohereForCausalLM", tiny={**TINY, "use_qk_norm": True})
def cohere(config: ConfigReader) -> ModelSpec:
    """Command R and R+, and Aya Expanse and 23; R+ has a norm of its own for each head."""
    if "model_max_length" in config:  # what it was trained for in the end
        length = config.positive("model_max_length")
        config = config.renamed({}, max_position_embeddings=length)
    rope = read_rope(config, head_dim(config), pairing="interleaved", theta=500000.0)
    return _cohere(config, [rope] * num_layers(config), None, config.flag("use_qk_norm"))


@family("Cohere2ForCausalLM", tiny={**TINY, "sliding_window": 8, "num_hidden_layers": 4})
def cohere2(config: ConfigReader) -> ModelSpec:
    """Command R7B and Command A, and Tiny Aya; layers that see everything are not rotated."""
    for key, only in ALWAYS.items():
        if config.get(key, only) != only:
            raise ModelError(
                f"{config.architecture}: {key} {config.get(key)!r} is not supported; expected "
                f"{only!r}"
            )
    for key in UNHEEDED:
        config.get(key)
    pattern = config.positive("layer_switch", 4)
    types = types_by_pattern(config, config.positive("sliding_window_pattern", pattern))
    windows = windows_of(config, types)
    rope = read_rope(config, head_dim(config), pairing="interleaved")
    return _cohere(config, [rope if each else None for each in windows], windows, False)


def _cohere(
    config: ConfigReader,
    ropes: Sequence[Rope | None],
    windows: Sequence[int | None] | None,
    qk_norm: bool,
) -> ModelSpec:
    bias = config.flag("attention_bias")
    make_norm, dim = _norms(config), head_dim(config)
    attention = grouped_attention(
        config,
        qkv_bias=bias,
        output_bias=bias,
        qk_norm="rows" if qk_norm else None,
        norm=lambda name, width: by_head(make_norm(name, width), dim),
        ropes=ropes,
        windows=windows,
    )
    return decoder(
        config,
        attention=attention,
        mlp=dense_mlp(config),
        norm=make_norm,
        block_norms=ONE_NORM,
        parallel=True,
        logit_scale=config.number("logit_scale", 0.0625),
        tied=True,
    )


def _norms(config: ConfigReader) -> NormMaker:
    eps = config.number("layer_norm_eps", 1e-5, low=0.0, high=1.0)
    return partial(layer_norm, eps=eps, bias=False)
