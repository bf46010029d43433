"""Whatever stands in config.json: a spec that can be loaded, or a ModelError, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quire.errors import ModelError
from quire.models.registry import build_spec, load_families
from quire.models.spec import ModelSpec, Norm, parts
from quire.runtime.rope_tables import RopeTables
from tests.models.tiny import tiny

FAMILIES = sorted(load_families())

numbers = st.one_of(
    st.integers(-3, 300),
    st.sampled_from([2**31, 2**63, 10**400, -(10**400)]),
    st.floats(),
    st.floats(0, 10),
)
WORDS = """
silu gelu_pytorch_tanh default linear dynamic llama3 yarn longrope su mrope full_attention
sliding_attention bfloat16 torch.float32 x
"""
ROPE_KEYS = """
rope_theta rope_type type factor partial_rotary_factor low_freq_factor high_freq_factor
original_max_position_embeddings beta_fast beta_slow truncate attention_factor mscale
mscale_all_dim finetuned long_factor short_factor long_mscale alpha full_attention sliding_attention
llama_4_scaling_beta
"""
KEYS = """
architectures vocab_size hidden_size intermediate_size num_hidden_layers head_dim hidden_act
num_attention_heads num_key_value_heads max_position_embeddings rms_norm_eps rope_theta
rope_scaling rope_parameters partial_rotary_factor attention_bias mlp_bias sliding_window
use_sliding_window max_window_layers layer_types tie_word_embeddings bos_token_id
eos_token_id dtype torch_dtype quantization_config num_experts auto_map sliding_window_pattern
rope_local_base_freq query_pre_attn_scalar attn_logit_softcapping final_logit_softcapping
hidden_activation use_bias norm_epsilon no_rope_layers no_rope_layer_interval
bias qkv_bias rotary model_max_length padded_vocab_size num_layers kv_channels seq_length rope_ratio
multi_query_attention multi_query_group_num layernorm_epsilon add_qkv_bias add_bias_linear
use_dynamic_ntk use_logn_attn rotary_emb_base rotary_pct no_bias
embedding_multiplier logits_scaling residual_multiplier attention_multiplier
original_max_position_embeddings use_bidirectional_attention attention_out_bias
"""
words = st.sampled_from(WORDS.split())
leaves = st.one_of(st.none(), st.booleans(), numbers, words, st.text(max_size=3))
ropes = st.dictionaries(st.sampled_from(ROPE_KEYS.split()), leaves, max_size=6).flatmap(
    lambda values: words.map(lambda kind: {"rope_type": kind, "factor": 2.0, **values})
)
anything = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
changes_of_keys = st.dictionaries(st.sampled_from(KEYS.split()), anything, max_size=4)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    architecture=st.sampled_from(FAMILIES),
    changes=changes_of_keys,
    rope=st.none() | ropes,
    strict=st.booleans(),
)
def test_any_config_gives_a_spec_or_a_model_error(
    architecture: str, changes: dict[str, Any], rope: dict[str, Any] | None, strict: bool
) -> None:
    config = tiny(architecture, **changes)
    if rope is not None:
        config["rope_scaling"] = rope
    config = json.loads(json.dumps(config))
    try:
        spec = build_spec(config, strict)
    except ModelError as error:
        assert str(error)
    else:
        assert_sound(spec)


def assert_sound(spec: ModelSpec) -> None:
    """What loading does with a spec before it sees any weights works."""
    assert spec.num_parameters > 0
    assert 0 < spec.max_length < 2**63
    assert isinstance(spec.dtype, str)
    assert all(np.float32(norm.eps) >= 0 for norm in parts(spec, Norm))
    if any(rope.dims > 4096 for rope in spec.ropes):
        return
    tables = RopeTables(spec.ropes, 2)
    tables.take(tables.rope_class(spec.max_length))
    for table in tables.arrays:
        assert np.all(np.isfinite(table))
        assert np.all(table[0] > 0)
