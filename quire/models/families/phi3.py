"""Phi-3 and Phi-4: the Llama block stored as qkv_proj and gate_up_proj, with LongRoPE.

Source: the Phi3ForCausalLM config of transformers.
"""

from __future__ import annotations

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, decoder, dense_mlp, grouped_attention, rms_norm
from quire.models.families.parts import num_layers
from quire.models.families.windows import sliding_window
from quire.models.places import Layout
from quire.models.registry import family
from quire.models.spec import ModelSpec
from quire.models.stored_as import stored_as

__all__ = ["FUSED", "phi3"]

FUSED = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}


@family("Phi3ForCausalLM", tiny={**TINY, "sliding_window": 8})
def phi3(config: ConfigReader) -> ModelSpec:
    """Phi-3, Phi-3.5-mini, Phi-4 and Phi-4-mini."""
    attention = grouped_attention(
        config,
        windows=[sliding_window(config)] * num_layers(config),
    )
    spec = decoder(
        config, attention=attention, mlp=dense_mlp(config), norm=rms_norm(config, eps=1e-5)
    )
    return stored_as(spec, Layout(fused=FUSED))
