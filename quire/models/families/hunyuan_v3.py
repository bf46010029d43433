"""Hunyuan 3: heads are normalised, and a bias helps to choose experts beside one that all meet.

Source: the HYV3ForCausalLM config of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, decoder, grouped_attention
from quire.models.families.deepseek_experts import METHODS, TINY_EXPERTS, deepseek_experts
from quire.models.families.glm4_moe_lite import dense_layers
from quire.models.families.latent import next_token_layers
from quire.models.families.parts import head_dim, num_layers
from quire.models.families.rope_config import read_rope
from quire.models.places import Layout
from quire.models.registry import family
from quire.models.spec import ModelSpec
from quire.models.stored_as import stored_as

__all__ = ["hunyuan_v3"]

NAMES: Mapping[str, str] = {
    "n_routed_experts": "num_experts",
    "n_shared_experts": "num_shared_experts",
    "routed_scaling_factor": "router_scaling_factor",
}
TINY_V3 = {
    **{NAMES.get(key, key): value for key, value in {**TINY, **TINY_EXPERTS}.items()},
    "head_dim": 16,
}
for unread in ("first_k_dense_replace", "norm_topk_prob"):
    del TINY_V3[unread]
LAYOUT = Layout(names={"mlp.gate": "mlp.router.gate", "mlp.shared_experts": "mlp.shared_mlp"})


@family("HYV3ForCausalLM", tiny=TINY_V3)
def hunyuan_v3(config: ConfigReader) -> ModelSpec:
    """Hunyuan 3."""
    config.get("enable_moe_fp32_combine")  # sums are float32 here
    bias, mlp_bias = config.flag("attention_bias"), config.flag("mlp_bias")
    if mlp_bias:
        raise ModelError(f"{config.architecture}: mlp_bias is not supported; expected false")
    experts = config.renamed(
        NAMES,
        first_k_dense_replace=dense_layers(config),
        norm_topk_prob=config.flag("route_norm", True),
        n_shared_experts=config.integer("num_shared_experts", 1),
        routed_scaling_factor=config.number("router_scaling_factor", 2.826, low=1e-6, high=1e6),
    )
    rope = read_rope(config, head_dim(config, 128), theta=11158840.0)
    attention = grouped_attention(
        config,
        qkv_bias=bias,
        output_bias=bias,
        qk_norm="heads" if config.flag("qk_norm", True) else None,
        dim=head_dim(config, 128),
        ropes=[rope] * num_layers(config),
    )
    mlp = deepseek_experts(experts, METHODS["noaux_tc"], "expert_bias")
    unused = next_token_layers(config)
    return stored_as(decoder(config, attention=attention, mlp=mlp, unused=unused), LAYOUT)
