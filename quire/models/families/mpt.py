"""MPT: ALiBi in place of rotations, layer norms without biases, no biases at all, a tied head.

Source: the MptForCausalLM config of transformers.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from quire.errors import ModelError
from quire.models.attention_rules import alibi_slopes
from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import decoder, grouped_attention
from quire.models.families.parts import layer_norm, num_layers, plain_mlp
from quire.models.places import Layout
from quire.models.registry import family
from quire.models.spec import MLP, ModelSpec
from quire.models.stored_as import stored_as

__all__ = ["mpt"]

TINY = {
    **{"vocab_size": 128, "d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 256},
    **{"bos_token_id": 1, "eos_token_id": 2},
}
KEYS = {
    "hidden_size": "d_model",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "max_position_embeddings": "max_seq_len",
}
LAYOUT = Layout(
    "transformer.blocks.{}.",
    {
        "model.embed_tokens": "transformer.wte",
        "model.norm": "transformer.norm_f",
        "input_layernorm": "norm_1",
        "post_attention_layernorm": "norm_2",
        "self_attn.o_proj": "attn.out_proj",
        "mlp.up_proj": "ffn.up_proj",
        "mlp.down_proj": "ffn.down_proj",
    },
    {"attn.Wqkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")},
)
ONLY: dict[str, Any] = {
    **{"alibi": True, "alibi_bias_max": 8, "clip_qkv": None, "qk_ln": False, "prefix_lm": False},
    "attn_type": "multihead_attention",
}
"""What attn_config must say, if anything."""


@family("MptForCausalLM", "MPTForCausalLM", tiny=TINY)
def mpt(config: ConfigReader) -> ModelSpec:
    """MPT 7B and 30B."""
    rules = ConfigReader(config.section("attn_config"), config.architecture)
    for key, only in ONLY.items():
        if rules.get(key, only) != only:
            raise ModelError(
                f"{config.architecture}: attn_config has {key} {rules.get(key)!r}, which is not "
                f"supported; expected {only!r}"
            )
    norm_type = config.get("norm_type", "low_precision_layernorm")
    if norm_type not in ("low_precision_layernorm", "layernorm"):
        raise ModelError(
            f"{config.architecture}: norm_type {norm_type!r} is not supported; expected 'layernorm'"
        )
    if not config.flag("no_bias", True) or config.get("logit_scale") is not None:
        raise ModelError(
            f"{config.architecture}: no_bias false and logit_scale are not supported; expected "
            "true and null"
        )
    config = config.renamed(KEYS)
    width, heads = config.positive("hidden_size"), config.positive("num_attention_heads")
    inner = config.positive("expansion_ratio", 4) * width
    config.flag("learned_pos_emb", True)  # with ALiBi there are none

    def mlp(layer: int, prefix: str) -> MLP:
        return plain_mlp(prefix, width, inner, False, "gelu")

    scale = rules.get("softmax_scale")
    attention = grouped_attention(
        config,
        scale=None if scale is None else rules.number("softmax_scale"),
        ropes=[None] * num_layers(config),
        slopes=alibi_slopes(heads),
    )
    eps = config.number("layer_norm_epsilon", 1e-5, low=0.0, high=1.0)
    norm = partial(layer_norm, eps=eps, bias=False)
    return stored_as(decoder(config, attention=attention, mlp=mlp, norm=norm, tied=True), LAYOUT)
