"""GLM-4.7-Flash: the blocks of DeepSeek-V3, with another way to say which have experts.

Source: the Glm4MoeLiteForCausalLM config of transformers.
"""

from __future__ import annotations

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, decoder
from quire.models.families.deepseek_experts import METHODS, TINY_EXPERTS, deepseek_experts
from quire.models.families.latent import LATENT_TINY, latent_attention, next_token_layers
from quire.models.families.parts import num_layers
from quire.models.registry import family
from quire.models.spec import ModelSpec

__all__ = ["dense_layers", "glm4_moe_lite"]

TINY_LITE = {**TINY, **LATENT_TINY, **TINY_EXPERTS, "mlp_layer_types": ["dense", "sparse"]}
del TINY_LITE["first_k_dense_replace"]


@family("Glm4MoeLiteForCausalLM", tiny=TINY_LITE)
def glm4_moe_lite(config: ConfigReader) -> ModelSpec:
    """GLM-4.7-Flash."""
    interleaved = config.flag("rope_interleave", True)
    experts = config.renamed({}, first_k_dense_replace=dense_layers(config))
    return decoder(
        config,
        attention=latent_attention(config, "interleaved" if interleaved else "half"),
        mlp=deepseek_experts(experts, METHODS["noaux_tc"]),
        unused=next_token_layers(config),
    )


def dense_layers(config: ConfigReader) -> int:
    """How many layers from the first on have no experts."""
    layers, first = num_layers(config), config.integer("first_k_dense_replace", 1)
    default = ["dense" if layer < first else "sparse" for layer in range(layers)]
    kinds = config.get("mlp_layer_types", default)
    dense = kinds.count("dense") if isinstance(kinds, list) else 0
    if kinds != ["dense"] * dense + ["sparse"] * (layers - dense):
        raise ModelError(
            f"{config.architecture}: mlp_layer_types must be dense first and then sparse, one for "
            f"each of {layers} layers, got {kinds!r}"
        )
    return dense
