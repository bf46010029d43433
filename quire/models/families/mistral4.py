"""Mistral Small 4: latent attention, queries that grow with the position, and experts everywhere.

Source: the Mistral4ForCausalLM config of transformers.
"""

from __future__ import annotations

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, MlpMaker, decoder
from quire.models.families.deepseek_experts import TINY_EXPERTS, Choice, deepseek_experts
from quire.models.families.experts import stacked
from quire.models.families.latent import LATENT_TINY, latent_attention
from quire.models.families.ministral import YARN, query_steps
from quire.models.registry import family
from quire.models.spec import ModelSpec

__all__ = ["mistral4"]

TINY_MISTRAL4 = {**TINY, **LATENT_TINY, **TINY_EXPERTS, "rope_parameters": YARN}
OTHERS = ("llama_4_scaling_beta", "max_position_embeddings", "partial_rotary_factor")
"""What stands in the section of the rotation and is no part of it."""


@family("Mistral4ForCausalLM", tiny=TINY_MISTRAL4)
def mistral4(config: ConfigReader) -> ModelSpec:
    """Mistral Small 4, the text model."""
    interleaved = config.flag("rope_interleave", True)
    config = config.renamed({}, partial_rotary_factor=1.0)  # says what qk_rope_head_dim says
    attention = latent_attention(
        config,
        "interleaved" if interleaved else "half",
        others=OTHERS,
        query_rule=query_steps(config),
    )
    return decoder(config, attention=attention, mlp=_experts(config))


def _experts(config: ConfigReader) -> MlpMaker:
    """Those of DeepSeek without a bias that chooses, stored in two tensors."""
    choice = Choice(groups="top2_sum", normalised=True)
    return stacked(deepseek_experts(config, choice))
