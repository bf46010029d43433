"""Granite 3 and 4, dense: the Llama block with four multipliers.

Source: the GraniteForCausalLM and GraniteMoeHybridForCausalLM configs of transformers.
"""

from __future__ import annotations

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, MlpMaker, decoder, dense_mlp, grouped_attention
from quire.models.families.parts import activation, gated_mlp, head_dim, num_layers
from quire.models.families.rope_config import read_rope
from quire.models.families.windows import FULL
from quire.models.places import Layout
from quire.models.registry import family
from quire.models.rope import Rope
from quire.models.spec import GatedMLP, ModelSpec
from quire.models.stored_as import stored_as

__all__ = ["granite", "granite4"]

TINY_GRANITE = {
    **TINY,
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.2,
    "residual_multiplier": 0.3,
    "logits_scaling": 4.0,
}


LAYOUT = Layout(
    names={"mlp.down_proj": "shared_mlp.output_linear"},
    fused={"shared_mlp.input_linear": ("mlp.gate_proj", "mlp.up_proj")},
)


@family("GraniteForCausalLM", tiny=TINY_GRANITE)
def granite(config: ConfigReader) -> ModelSpec:
    """Granite 3."""
    mlp = dense_mlp(config, config.flag("mlp_bias"))
    return _granite(config, read_rope(config, head_dim(config)), mlp)


@family(
    "GraniteMoeHybridForCausalLM",
    tiny={
        **TINY_GRANITE,
        "shared_intermediate_size": 96,
        "num_local_experts": 0,
        "layer_types": ["attention"] * 2,
        "position_embedding_type": "rope",
    },
)
def granite4(config: ConfigReader) -> ModelSpec:
    """Granite 4, the models without experts and Mamba layers; some rotate nothing."""
    _check_dense(config)
    width, inner = config.positive("hidden_size"), config.positive("shared_intermediate_size")
    kind = activation(config)
    rotates = config.get("position_embedding_type") == "rope"
    rope = read_rope(config, head_dim(config))

    def mlp(layer: int, prefix: str) -> GatedMLP:
        return gated_mlp(prefix, width, inner, False, kind)

    return stored_as(_granite(config, rope if rotates else None, mlp), LAYOUT)


def _granite(config: ConfigReader, rope: Rope | None, mlp: MlpMaker) -> ModelSpec:
    bias, ropes = config.flag("attention_bias"), [rope] * num_layers(config)
    scale = config.number("attention_multiplier", 1.0, low=1e-6, high=1e6)
    return decoder(
        config,
        attention=grouped_attention(
            config, qkv_bias=bias, output_bias=bias, scale=scale, ropes=ropes
        ),
        mlp=mlp,
        embedding_scale=config.number("embedding_multiplier", 1.0, low=1e-6, high=1e6),
        residual_scale=config.number("residual_multiplier", 1.0, low=1e-6, high=1e6),
        logit_scale=1 / config.number("logits_scaling", 1.0, low=1e-6, high=1e6),
    )


def _check_dense(config: ConfigReader) -> None:
    """Raises ModelError for a model with experts or with layers that are not attention."""
    kinds = config.get("layer_types") or config.get("layers_block_type") or ["mamba"]
    known = isinstance(kinds, list) and len(kinds) == num_layers(config)
    if not known or any(each not in ("attention", FULL) for each in kinds):
        raise ModelError(f"{config.architecture}: layers other than attention are not supported")
    if config.integer("num_local_experts", 8):
        raise ModelError(f"{config.architecture}: experts are not supported; num_local_experts > 0")
    for key in config:
        if key.startswith("mamba_") or key in ("num_experts_per_tok", "intermediate_size"):
            config.get(key)  # of the parts that are not there
