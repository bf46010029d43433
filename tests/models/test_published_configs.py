"""What the config.json files of published checkpoints say beside what transformers writes today."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.config import EngineConfig
from quire.errors import ConfigError, ModelError
from quire.models.pooling import pooling_of
from quire.models.registry import build_spec, has_family
from quire.models.rope import Rope, RopeScaling
from quire.models.spec import ModelSpec
from quire.runtime.open_model import read_config
from quire.weights.loader import load_weights
from tests.models.tiny import tiny
from tests.weights.test_loader import Arrays

VISION = {"vision_config": {"depth": 32}, "image_token_id": 7}
MROPE = {"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True}
QWEN_VL = {
    **{"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28},
    **{"num_hidden_layers": 28, "num_key_value_heads": 4, "vocab_size": 152064},
    **{"rope_theta": 1e6, "sliding_window": 32768, "use_sliding_window": False},
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "tie_word_embeddings": False,
}
HUNYUAN = {
    **{"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32},
    **{"num_hidden_layers": 32, "num_key_value_heads": 8, "vocab_size": 128167, "head_dim": 128},
    **{"tie_word_embeddings": True, "qk_norm": True, "use_qk_norm": True, "use_cla": False},
    **{"cla_share_factor": 2, "dense_list": [4096, 0], "norm_type": "rms", "im_start_id": 5},
    **{"use_rotary_pos_emb": True, "position_embedding_xdrope": False},
}
PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "gemma-3-4b-it": (
        {
            "architectures": ["Gemma3ForConditionalGeneration"],
            **{"boi_token_index": 255999, "eos_token_id": [1, 106], "torch_dtype": "bfloat16"},
            "text_config": {
                **{"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34},
                **{"model_type": "gemma3_text", "sliding_window": 1024},
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            },
            **VISION,
        },
        3_880_263_168,
    ),
    "Qwen3-VL-2B-Instruct": (
        {
            "architectures": ["Qwen3VLForConditionalGeneration"],
            "text_config": {
                **{"hidden_size": 2048, "intermediate_size": 6144, "num_attention_heads": 16},
                **{"num_hidden_layers": 28, "num_key_value_heads": 8, "head_dim": 128},
                **{"vocab_size": 151936, "model_type": "qwen3_vl_text", "rope_scaling": MROPE},
            },
            "tie_word_embeddings": True,
            **VISION,
        },
        1_720_574_976,
    ),
    "Qwen2.5-VL-7B-Instruct": (
        {
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            **{"model_type": "qwen2_5_vl", "vision_start_token_id": 151652, **QWEN_VL, **VISION},
        },
        7_615_616_512,
    ),
    "GLM-4.1V-9B-Thinking": (
        {
            "architectures": ["Glm4vForConditionalGeneration"],
            "text_config": {
                **{"hidden_size": 4096, "intermediate_size": 13696, "num_attention_heads": 32},
                **{"num_hidden_layers": 40, "num_key_value_heads": 2, "vocab_size": 151552},
                **{"model_type": "glm4v_text", "attention_bias": True, "rope_theta": 10000.0},
                **{"partial_rotary_factor": 0.5, "eos_token_id": [151329, 151336]},
                "rope_scaling": {"rope_type": "default", "mrope_section": [8, 12, 12]},
            },
            **{"tie_word_embeddings": False, "video_start_token_id": 9, **VISION},
        },
        9_400_279_040,
    ),
    "Hunyuan-7B-Instruct": (
        {"architectures": ["HunYuanDenseV1ForCausalLM"], **HUNYUAN},
        7_504_568_320,
    ),
    "bge-reranker-base": (
        {
            "architectures": ["XLMRobertaForSequenceClassification"],
            **{"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
            **{"num_hidden_layers": 12, "vocab_size": 250002, "max_position_embeddings": 514},
            **{"type_vocab_size": 1, "id2label": {"0": "LABEL_0"}, "output_past": True},
        },
        278_044_417,
    ),
}

SAME: list[tuple[str, dict[str, Any]]] = [
    ("Qwen3ForCausalLM", {"use_qk_norm": True}),
    ("Qwen3MoeForCausalLM", {"use_qk_norm": True}),
    ("MiMoForCausalLM", {"attention_bias": True, "num_nextn_predict_layers": 1}),
    (
        "Qwen3_5ForCausalLM",
        {"attn_output_gate": True, "mamba_ssm_dtype": "float32", "mtp_num_hidden_layers": 1},
    ),
    (
        "MiniMaxM2ForCausalLM",
        {"attn_type_list": [1, 1], "qk_norm_type": "per_layer", "use_routing_bias": True}
        | {"use_mtp": True, "num_mtp_modules": 3, "mtp_transformer_layers": 1},
    ),
    ("NemotronHForCausalLM", {"rope_theta": 10000, "partial_rotary_factor": 1.0, "norm_eps": 1e-5}),
    ("GptOssForCausalLM", {"experts_per_token": 2, "initial_context_length": 4096}),
    (
        "Ernie4_5_MoeForCausalLM",
        {"moe_gate": "topk", "moe_use_aux_free": True, "moe_capacity": [8, 8, 8]}
        | {"num_nextn_predict_layers": 1},
    ),
    (
        "Starcoder2ForCausalLM",
        {"norm_type": "layer_norm", "mlp_type": "default", "scale_attn_weights": True}
        | {"activation_function": "gelu", "layer_norm_epsilon": 1e-5},
    ),
    (
        "ChatGLMModel",
        {"num_hidden_layers": 2, "interleaved_qkv": False, "pre_seq_len": None}
        | {"attention_softmax_in_fp32": True, "vocab_size": 65024, "prefix_projection": False},
    ),
    ("DeepseekV3ForCausalLM", {"ep_size": 1, "chunk_size_feed_forward": 0, "top_p": 1.0}),
]
OTHERWISE: list[tuple[str, dict[str, Any]]] = [
    ("Qwen3ForCausalLM", {"use_qk_norm": False}),
    ("Qwen2ForCausalLM", {"use_mrope": True}),
    ("Qwen2ForCausalLM", {"is_causal": False}),
    ("LlamaForCausalLM", {"rope_interleaved": True}),
    ("Qwen3_5ForCausalLM", {"attn_output_gate": False}),
    ("Qwen3_5ForCausalLM", {"output_gate_type": "sigmoid"}),
    ("MiniMaxM2ForCausalLM", {"attn_type_list": [1, 0]}),
    ("HunYuanDenseV1ForCausalLM", {"qk_norm": False}),
    ("GptOssForCausalLM", {"experts_per_token": 3}),
    ("Starcoder2ForCausalLM", {"norm_type": "rms"}),
    ("ChatGLMModel", {"num_hidden_layers": 3}),
    ("NemotronHForCausalLM", {"norm_eps": 1e-3}),
]


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_many_as_published(name: str) -> None:
    config, count = PUBLISHED[name]
    assert build_spec(config).num_parameters == count


@pytest.mark.parametrize(("architecture", "keys"), SAME, ids=lambda value: str(value)[:30])
def test_keys_that_say_what_is_computed_anyway(architecture: str, keys: dict[str, Any]) -> None:
    assert build_spec(tiny(architecture, **keys), strict=True) == build_spec(tiny(architecture))


@pytest.mark.parametrize(("architecture", "keys"), OTHERWISE, ids=lambda value: str(value)[:30])
def test_they_are_refused_where_they_say_otherwise(architecture: str, keys: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=next(iter(keys))):
        build_spec(tiny(architecture, **keys))


def test_keys_of_images_among_those_of_the_text_model() -> None:
    config = {**tiny("Qwen2ForCausalLM"), **VISION, "vision_token_id": 3, "video_token_id": 4}
    config |= {"model_type": "qwen2_5_vl", "rope_scaling": {"type": "mrope", "mrope_section": [8]}}
    config["architectures"] = ["Qwen2_5_VLForConditionalGeneration"]
    spec = build_spec(config, strict=True)
    assert spec.blocks == build_spec(tiny("Qwen2ForCausalLM")).blocks
    assert "visual." in spec.unused and "model.visual." in spec.unused


def test_a_decoder_without_its_head_embeds(tmp_path: Path) -> None:
    """e5-mistral-7b-instruct is a MistralModel."""
    config = {**tiny("MistralForCausalLM", sliding_window=-1), "architectures": ["MistralModel"]}
    spec = build_spec(config, strict=True)
    assert has_family("MistralModel") and not has_family("MambaModel")
    assert spec.output == "hidden" and "lm_head.weight" not in spec.weights()
    assert spec.blocks == build_spec(tiny("MistralForCausalLM", sliding_window=None)).blocks
    found, pooling = pooling_of("auto", spec, tmp_path, config)
    assert (
        found == spec
        and pooling is not None
        and (pooling.kind, pooling.task)
        == (
            "last",
            "embed",
        )
    )
    with pytest.raises(ConfigError, match="can only embed"):
        pooling_of("generate", spec, tmp_path, config)


def test_chunks_of_attention_begin_behind_the_trained_length() -> None:
    chunks = {"chunk_size": 64, "local_size": 8, "original_max_position_embeddings": 128}
    spec = build_spec(tiny("Qwen2ForCausalLM", dual_chunk_attention_config=chunks), strict=True)
    assert spec.max_length == 128


def test_a_llama3_rope_without_a_blend() -> None:
    """Llama 4 Scout's: long waves are stretched, short ones are not, and none is between."""
    scaling = RopeScaling("llama3", 16.0, 8192, 1.0, 1.0)
    plain = Rope(64, 500000.0).inverse_frequencies()
    found = Rope(64, 500000.0, scaling=scaling).inverse_frequencies()
    edge = 2 * np.pi / 8192
    assert found == [each / 16 if each <= edge else each for each in plain]
    values = {"rope_type": "llama3", "factor": 16.0, "original_max_position_embeddings": 64}
    values |= {"low_freq_factor": 1.0, "high_freq_factor": 1.0}
    assert build_spec(tiny("Llama4ForCausalLM", rope_scaling=values))


@pytest.mark.parametrize(
    ("architecture", "transposed"),
    [
        ("Qwen3_5MoeForCausalLM", False),
        ("Qwen3MoeForCausalLM", False),
        ("Qwen3MoeForCausalLM", True),
    ],
)
def test_experts_stand_in_stacks_or_alone(architecture: str, transposed: bool) -> None:
    """Qwen3.5's stacks are [experts, out, in], Qwen3-VL's [experts, in, out] as published."""
    spec = build_spec(tiny(architecture))
    random = np.random.default_rng(1)
    names = {
        place.name: random.standard_normal(place.shape).astype(np.float32)
        for weight in spec.weights().values()
        for place in (weight.places[0] if ".experts." in weight.name else weight.places[-1],)
    }
    alone = load_weights(Arrays(**names), spec.weights())
    stacks = dict(names)
    for layer in range(len(spec.blocks)):
        front = f"model.layers.{layer}.mlp.experts."
        if f"{front}0.up_proj.weight" not in names:
            continue
        each = {
            part: np.stack([stacks.pop(f"{front}{e}.{part}_proj.weight") for e in range(8)])
            for part in ("gate", "up", "down")
        }
        both = np.concatenate([each["gate"], each["up"]], axis=1)
        for name, stack in (("gate_up_proj", both), ("down_proj", each["down"])):
            stacks[front + name] = np.ascontiguousarray(
                stack.transpose(0, 2, 1) if transposed else stack
            )
    assert len(stacks) < len(names)
    for name, weight in load_weights(Arrays(**stacks), spec.weights()).items():
        np.testing.assert_array_equal(weight.data, alone[name].data)


def read(directory: Path, config: dict[str, Any], **files: dict[str, Any]) -> tuple[ModelSpec, Any]:
    """What a directory with a config.json, and perhaps others, is read as."""
    for name, values in {"config": config, **files}.items():
        (directory / f"{name}.json").write_text(json.dumps(values))
    return read_config(EngineConfig(model=str(directory)), directory)


def test_a_quantization_within_text_config(tmp_path: Path) -> None:
    """Kimi-K2.5's."""
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
    quantization = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ["lm_head", r"re:.*mlp\.(gate|up|gate_up|down)_proj.*"],
    }
    text = {**tiny("DeepseekV3ForCausalLM"), "model_type": "kimi_k2"}
    config = {"architectures": ["KimiK25ForConditionalGeneration"], "model_type": "kimi_k25"}
    config["text_config"] = {**text, "quantization_config": quantization}
    spec, found = read(tmp_path, {**config, **VISION})
    assert spec.architecture == "DeepseekV3ForCausalLM" and found.method == "compressed-tensors"
    assert found.scheme_of("language_model.model.layers.1.mlp.experts.3.up_proj") is not None
    assert found.scheme_of("language_model.model.layers.0.mlp.up_proj") is None


def test_modelopt_without_its_name(tmp_path: Path) -> None:
    """As some writers leave config.json, and as others leave hf_quant_config.json alone."""
    own = {"quant_algo": "FP8", "ignore": ["lm_head"], "producer": {"name": "modelopt"}}
    own |= {"kv_cache_scheme": "FP8", "config_groups": {"group_0": {}}}
    _, found = read(tmp_path, {**tiny(), "quantization_config": own})
    assert found.method == "modelopt" and found.scheme_of("lm_head") is None
    other = {"producer": {}, "quantization": {"quant_algo": "NVFP4", "group_size": 16}}
    _, found = read(tmp_path, tiny(), hf_quant_config=other)
    assert found.scheme_of("model.layers.0.mlp.up_proj").bits == 4
