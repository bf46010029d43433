"""From config.json to a spec: nothing is ignored in silence, no error but ModelError comes out."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest

from quire.errors import CheckpointError, ModelError
from quire.models.config_reader import MATHEMATICAL_KEYS, ConfigReader, read_json
from quire.models.registry import build_spec, load_families
from quire.models.rope import (
    Rope,
    RopeScaling,
)
from quire.models.spec import MixtureOfExperts, parts
from tests.models.tiny import tiny

FAMILIES = sorted(load_families())

LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}
QWEN3_8B = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "max_position_embeddings": 40960,
    "max_window_layers": 36,
    "model_type": "qwen3",
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "vocab_size": 151936,
}


def refusal(**changes: Any) -> str:
    """The message with which a changed config is refused."""
    with pytest.raises(ModelError) as caught:
        build_spec(tiny(**changes))
    return str(caught.value)


# --- what a spec says


@pytest.mark.parametrize(
    ("config", "parameters", "kv_bytes"),
    [(LLAMA_8B, 8_030_261_248, 131_072), (QWEN3_8B, 8_190_735_360, 147_456)],
    ids=["Llama-3.1-8B", "Qwen3-8B"],
)
def test_sizes_of_real_models(config: dict[str, Any], parameters: int, kv_bytes: int) -> None:
    spec = build_spec(config, strict=True)
    assert spec.num_parameters == parameters
    per_token = sum(2 * 2 * b.attention.kv_heads * b.attention.head_dim for b in spec.blocks)
    assert per_token == kv_bytes
    assert spec.dtype == "bfloat16"


def test_llama_8b_in_full() -> None:
    spec = build_spec(LLAMA_8B)
    attention = spec.blocks[31].attention
    assert (attention.heads, attention.kv_heads, attention.head_dim) == (32, 8, 128)
    assert attention.scale == 128**-0.5
    assert attention.rope == Rope(128, 500000.0, scaling=RopeScaling("llama3", 8.0, 8192, 1.0, 4.0))
    assert attention.query.weight.name == "model.layers.31.self_attn.q_proj.weight"
    assert (spec.max_length, spec.tied) == (131072, False)
    assert (spec.bos_token_ids, spec.eos_token_ids) == ((128000,), (128001, 128008, 128009))


def test_a_tied_head_is_counted_once() -> None:
    untied, tied = build_spec(tiny()), build_spec(tiny(tie_word_embeddings=True))
    assert tied.tied and not untied.tied
    assert untied.num_parameters - tied.num_parameters == 128 * 64
    assert "lm_head.weight" not in tied.weights()


def test_kv_heads_and_head_dim_have_defaults() -> None:
    attention = build_spec(tiny(num_key_value_heads=..., head_dim=None)).blocks[0].attention
    assert (attention.kv_heads, attention.head_dim) == (4, 16)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("bfloat16", "bfloat16"), ("torch.float16", "float16"), (None, "float32"), (..., "float32")],
)
def test_dtype_spellings(name: Any, dtype: str) -> None:
    assert build_spec(tiny(torch_dtype=name)).dtype == dtype
    assert build_spec(tiny(dtype=name)).dtype == dtype


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, (None, 8)),
        ({"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}, (8, 8)),
        ({"use_sliding_window": True, "sliding_window": 8}, (None, None)),
        ({"use_sliding_window": True, "sliding_window": 0, "max_window_layers": 0}, (None, None)),
        ({"use_sliding_window": True, "sliding_window": None}, (None, None)),
        ({"use_sliding_window": False, "sliding_window": 8, "max_window_layers": 0}, (None, None)),
        (
            {
                "use_sliding_window": True,
                "sliding_window": 8,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            (8, None),
        ),
    ],
)
@pytest.mark.parametrize("architecture", ["Qwen2ForCausalLM", "Qwen3ForCausalLM"])
def test_windows_of_qwen(architecture: str, changes: dict[str, Any], windows: Any) -> None:
    spec = build_spec(tiny(architecture, **changes))
    assert tuple(block.attention.window for block in spec.blocks) == windows


@pytest.mark.parametrize(
    ("value", "window"), [(8, 8), (0, None), (-1, None), (None, None), (..., None)]
)
def test_windows_of_mistral(value: Any, window: int | None) -> None:
    spec = build_spec(tiny("MistralForCausalLM", sliding_window=value))
    assert {block.attention.window for block in spec.blocks} == {window}


# --- what is not read


NEUTRAL = (None, False, 0, {}, [])


@pytest.mark.parametrize("key", sorted(MATHEMATICAL_KEYS))
def test_a_key_that_changes_the_mathematics_is_read_or_refused(key: str) -> None:
    """Whatever the family does with it, an active value of another type is never ignored."""
    try:
        plain = build_spec(tiny())
        assert build_spec(tiny(**{key: 3.5})) != plain
    except ModelError as error:
        assert key in str(error) or key == "quantization_config"


def test_the_refusal_names_every_key_and_value() -> None:
    message = refusal(attn_logit_softcapping=50.0, sliding_window=4096, initializer_range=0.02)
    assert "LlamaForCausalLM" in message
    assert "attn_logit_softcapping=50.0" in message and "sliding_window=4096" in message
    assert "initializer_range" not in message


@pytest.mark.parametrize("value", NEUTRAL, ids=repr)
def test_neutral_values_of_such_keys_are_fine(value: Any) -> None:
    config = tiny(attn_logit_softcapping=value, num_experts=value, layer_types=value)
    assert build_spec(config, strict=False) == build_spec(tiny())


def test_an_unknown_key_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        build_spec(tiny(colour="blue", shape="round", _secret=1, id2label={"0": "a"}))
    (record,) = caplog.records
    assert "colour, shape" in record.message
    assert "_secret" not in record.message and "id2label" not in record.message


def test_an_unknown_key_is_an_error_when_strict() -> None:
    with pytest.raises(ModelError, match=r"colour.*--strict-config"):
        build_spec(tiny(colour="blue"), strict=True)


@pytest.mark.parametrize(
    ("architecture", "published", "meant"),
    [
        ("Dots1ForCausalLM", {"scoring_func": "noaux_tc"}, {}),
        ("HYV3ForCausalLM", {"qk_norm": True, "route_norm": True}, {}),
        (
            "StableLMEpochForCausalLM",
            {"rope_pct": 0.5, "norm_eps": 1e-3},
            {"partial_rotary_factor": 0.5, "layer_norm_eps": 1e-3},
        ),
    ],
)
def test_words_of_published_configs(
    architecture: str, published: dict[str, Any], meant: dict[str, Any]
) -> None:
    spec = build_spec(tiny(architecture, **published), strict=True)
    assert spec == build_spec(tiny(architecture, **meant))


def test_experts_in_every_layer_need_no_dense_width() -> None:
    """Solar Open's config.json has none."""
    absent = dict.fromkeys(("intermediate_size", "n_shared_experts", "first_k_dense_replace"))
    spec = build_spec(tiny("SolarOpenForCausalLM", **absent))
    mixtures = list(parts(spec, MixtureOfExperts))
    assert len(mixtures) == len(spec.blocks) and all(each.shared for each in mixtures)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_the_tiny_configs_are_read_in_full(
    architecture: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert build_spec(tiny(architecture), strict=True).architecture == architecture
    assert not caplog.records


# --- what is wrong


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("AfmoeForCausalLM", {"score_func": "softmax"}),
        ("FalconH1ForCausalLM", {"mamba_norm_before_gate": True, "mamba_rms_norm": True}),
        ("FalconH1ForCausalLM", {"attention_bias": True}),
        ("FalconH1ForCausalLM", {"ssm_multipliers": [0.5, 0.5]}),
        ("HYV3ForCausalLM", {"mlp_bias": True}),
        ("BambaForCausalLM", {"attn_rotary_emb": 16}),
        ("Dots1ForCausalLM", {"scoring_func": "softmax"}),
    ],
)
def test_what_a_family_does_not_compute_is_refused(
    architecture: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(ModelError, match=next(iter(changes))):
        build_spec(tiny(architecture, **changes))


@pytest.mark.parametrize(
    "key",
    [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
    ],
)
@pytest.mark.parametrize("value", [..., None, 0, -1, 2.5, "64", True, [64], 2**40, 10**400])
def test_sizes_must_be_positive_integers(key: str, value: Any) -> None:
    message = refusal(**{key: value})
    assert key in message and "LlamaForCausalLM" in message


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple"),
        ({"hidden_act": "mish"}, "hidden_act 'mish' is not one of silu, swish"),
        ({"hidden_act": ["silu"]}, "hidden_act"),
        ({"rms_norm_eps": "1e-6"}, "rms_norm_eps"),
        ({"rms_norm_eps": math.nan}, "rms_norm_eps"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"attention_bias": 1}, "attention_bias"),
        ({"eos_token_id": "</s>"}, "eos_token_id"),
        ({"eos_token_id": [1, None]}, "eos_token_id"),
        ({"head_dim": 15}, "head_dim"),
        ({"rope_theta": 0}, "rope_theta"),
        ({"rope_theta": -1e4}, "rope_theta"),
        ({"rope_theta": "1e4"}, "rope_theta"),
        ({"rope_scaling": "linear"}, "rope_scaling"),
        ({"rope_scaling": {"type": "linear"}}, "factor"),
        ({"rope_scaling": {"type": "linear", "factor": 0.5}}, "factor"),
        ({"rope_scaling": {"type": "linear", "factor": math.inf}}, "factor"),
        ({"rope_scaling": {"type": "linear", "factor": 2, "long_factor": [1]}}, "long_factor"),
        ({"rope_scaling": {"type": "longrope", "factor": 2}}, "short_factor"),
        ({"rope_scaling": {"type": "ntk", "factor": 2}}, "'ntk' is not supported"),
        ({"rope_scaling": {"type": ["linear"], "factor": 2}}, "['linear']"),
        ({"rope_scaling": {"type": "yarn", "factor": 2, "beta_fast": "32"}}, "beta_fast"),
        ({"rope_scaling": {"type": "yarn", "factor": 2, "truncate": "no"}}, "truncate"),
        (
            {"rope_scaling": {"type": "yarn", "original_max_position_embeddings": "64"}},
            "original_max_position_embeddings",
        ),
        (
            {"rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 5}},
            "low_freq_factor",
        ),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "per layer type"),
        ({"partial_rotary_factor": 0.1}, "partial_rotary_factor"),
        ({"partial_rotary_factor": 2.0}, "partial_rotary_factor"),
        ({"max_position_embeddings": 0}, "max_position_embeddings"),
    ],
    ids=repr,
)
def test_wrong_values_are_named(changes: dict[str, Any], fragment: str) -> None:
    assert fragment in refusal(**changes)


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"layer_types": ["full_attention"]}, "each of 2 layers"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "linear_attention"),
        ({"layer_types": 3}, "layer_types"),
        ({"layer_types": [[], []]}, "layer_types"),
        ({"sliding_window": "8"}, "sliding_window"),
        ({"sliding_window": -8}, "sliding_window"),
        ({"max_window_layers": "1"}, "max_window_layers"),
        ({"use_sliding_window": 1}, "use_sliding_window"),
    ],
    ids=repr,
)
def test_wrong_windows_are_named(changes: dict[str, Any], fragment: str) -> None:
    config = tiny("Qwen2ForCausalLM", **{"use_sliding_window": True, "sliding_window": 8} | changes)
    with pytest.raises(ModelError) as caught:
        build_spec(config)
    assert fragment in str(caught.value)


@pytest.mark.parametrize("value", [True, "8", -8, 2.5])
def test_wrong_windows_of_mistral_are_named(value: Any) -> None:
    with pytest.raises(ModelError, match="sliding_window"):
        build_spec(tiny("MistralForCausalLM", sliding_window=value))


def test_an_unknown_architecture_lists_those_supported() -> None:
    message = refusal(architectures=["FooForCausalLM"])
    assert "'FooForCausalLM' is not supported" in message
    assert all(name in message for name in FAMILIES)
    assert "remote code" not in message


def test_remote_code_is_not_run() -> None:
    message = refusal(architectures=["FooForCausalLM"], auto_map={"AutoModel": "foo.Foo"})
    assert "remote code is not run" in message


@pytest.mark.parametrize("names", [None, [], "LlamaForCausalLM", [3], [None], {}], ids=repr)
def test_architectures_must_be_a_list_of_names(names: Any) -> None:
    assert "architectures" in refusal(architectures=names)


@pytest.mark.parametrize("value", [{"quant_method": "awq", "bits": 4}, {"bits": 4}, "int4", 4])
def test_a_quantized_checkpoint_is_refused(value: Any) -> None:
    message = refusal(quantization_config=value)
    assert "quantized" in message and "original model" in message
    assert ("awq" if isinstance(value, dict) and "quant_method" in value else "4") in message


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[]", "holds a list"),
        (b"3", "holds a int"),
        (b"[" * 100_000, "not valid JSON"),
        (b"1" * 10_000, "not valid JSON"),
    ],
    ids=["cut", "not text", "list", "number", "deep", "digits"],
)
def test_a_damaged_config_names_its_file(tmp_path: Path, content: bytes, fragment: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=fragment) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


def test_a_missing_config_names_its_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        read_json(tmp_path / "config.json")


def test_the_reader_knows_what_was_read() -> None:
    reader = ConfigReader({"a": 1, "b": None, "_c": 2, "model_type": "x"}, "X")
    assert (reader.get("a"), reader.get("b", 7), reader.get("none")) == (1, 7, None)
    reader.finish(strict=True)
