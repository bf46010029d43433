"""Ministral: Mistral's block with windows in some layers, or with queries scaled by position.

Source: the MinistralForCausalLM and Ministral3ForCausalLM configs of transformers.
"""

from __future__ import annotations

from quire.models.attention_rules import QueryRule
from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, decoder, dense_mlp, grouped_attention, rms_norm
from quire.models.families.parts import head_dim, num_layers
from quire.models.families.rope_config import read_rope
from quire.models.families.windows import SLIDING, layer_types, sliding_window, windows_of
from quire.models.registry import family
from quire.models.spec import ModelSpec

__all__ = ["YARN", "ministral", "ministral3", "query_steps"]

YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}
"""What transformers takes where config.json says nothing, with a shorter trained length."""


@family(
    "MinistralForCausalLM",
    tiny={
        **TINY,
        "head_dim": 16,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    },
)
def ministral(config: ConfigReader) -> ModelSpec:
    """Ministral 8B."""
    types = layer_types(config, [SLIDING] * num_layers(config))
    attention = grouped_attention(config, windows=windows_of(config, types))
    return decoder(config, attention=attention, mlp=dense_mlp(config))


@family("Ministral3ForCausalLM", tiny={**TINY, "head_dim": 16, "rope_parameters": YARN})
def ministral3(config: ConfigReader) -> ModelSpec:
    """Ministral 3: YaRN, and queries scaled by steps of the trained length."""
    dim, others = head_dim(config, 128), ("llama_4_scaling_beta", "max_position_embeddings")
    rope = read_rope(config, dim, theta=1e6, others=others)
    attention = grouped_attention(
        config,
        dim=dim,
        query_rule=query_steps(config),
        ropes=[rope] * num_layers(config),
        windows=[sliding_window(config)] * num_layers(config),
    )
    norm = rms_norm(config, eps=1e-5)
    return decoder(config, attention=attention, mlp=dense_mlp(config), norm=norm)


def query_steps(config: ConfigReader) -> QueryRule | None:
    """How queries grow with each trained length that they are away from the start."""
    section = {**config.section("rope_scaling"), **config.section("rope_parameters")}
    fields = ConfigReader(section, config.architecture)
    beta = fields.number("llama_4_scaling_beta", 0.0, low=0.0, high=1e3)
    length = fields.positive(
        "original_max_position_embeddings", config.positive("max_position_embeddings")
    )
    return QueryRule("steps", length, beta) if beta else None
