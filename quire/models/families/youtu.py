"""Youtu-LLM: latent attention in a dense decoder.

Source: the YoutuForCausalLM config of transformers.
"""

from __future__ import annotations

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, decoder, dense_mlp
from quire.models.families.latent import LATENT_TINY, latent_attention
from quire.models.registry import family
from quire.models.spec import ModelSpec

__all__ = ["youtu"]


@family("YoutuForCausalLM", tiny={**TINY, **LATENT_TINY})
def youtu(config: ConfigReader) -> ModelSpec:
    """Youtu-LLM-2B."""
    interleaved = config.flag("rope_interleave", True)
    attention = latent_attention(config, "interleaved" if interleaved else "half")
    return decoder(config, attention=attention, mlp=dense_mlp(config), tied=True)
