"""From config.json to a spec: nothing is ignored in silence, no error but ModelError comes out."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quire.errors import CheckpointError, ModelError
from quire.models.config_reader import MATHEMATICAL_KEYS, ConfigReader, read_json
from quire.models.families.decoder import TINY
from quire.models.registry import build_spec, load_families
from quire.models.rope import (
    Rope,
    RopeScaling,
    longrope_attention_factor,
    yarn_attention_factor,
)
from quire.models.spec import ModelSpec, Norm, parts
from quire.runtime.rope_tables import RopeTables

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


def tiny(architecture: str = "LlamaForCausalLM", **changes: Any) -> dict[str, Any]:
    """A small config; a change to `...` leaves the key out."""
    values = {"architectures": [architecture], **load_families()[architecture].tiny, **changes}
    return {key: value for key, value in values.items() if value is not ...}


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


@pytest.mark.parametrize(("value", "window"), [(8, 8), (0, None), (None, None), (..., None)])
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


@pytest.mark.parametrize("architecture", FAMILIES)
def test_the_tiny_configs_are_read_in_full(
    architecture: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert build_spec(tiny(architecture), strict=True).architecture == architecture
    assert not caplog.records


# --- what is wrong


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
            {"rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 4}},
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


# --- rope


SCALINGS: Mapping[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 2.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 64},
    "yarn-betas": {
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 16,
        "beta_slow": 2.0,
    },
    "yarn-not-truncated": {
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "truncate": False,
    },
    "yarn-attention-factor": {
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "attention_factor": 1.25,
    },
    "yarn-mscale": {
        "factor": 40.0,
        "original_max_position_embeddings": 64,
        "mscale": 0.8,
        "mscale_all_dim": 0.4,
    },
    "longrope": {
        "short_factor": [1 + 0.1 * i for i in range(32)],
        "long_factor": [1 + 0.5 * i for i in range(32)],
        "original_max_position_embeddings": 64,
    },
    "longrope-factors": {
        "short_factor": [1.0] * 32,
        "long_factor": [4] * 32,
        "original_max_position_embeddings": 64,
        "factor": 8.0,
        "attention_factor": 1.5,
    },
}


def kind_of(name: str) -> str:
    return name.partition("-")[0]


def rope_of(name: str, **changes: Any) -> Rope:
    values = {"rope_type": kind_of(name), "rope_theta": 5e5, **SCALINGS[name]}
    config = tiny(head_dim=64, max_position_embeddings=256, rope_parameters=values, **changes)
    return build_spec(config).blocks[0].attention.rope


@pytest.mark.parametrize("name", SCALINGS)
def test_both_spellings_of_rope_give_the_same_spec(name: str) -> None:
    kind, fields = kind_of(name), SCALINGS[name]
    new = tiny(head_dim=64, rope_parameters={"rope_type": kind, "rope_theta": 5e5, **fields})
    for key in ("type", "rope_type"):
        old = tiny(head_dim=64, rope_theta=5e5, rope_scaling={key: kind, **fields})
        assert build_spec(old) == build_spec(new)
    if name == "default":
        assert build_spec(tiny(head_dim=64, rope_theta=5e5, rope_scaling=None)) == build_spec(new)
    assert build_spec(new) != build_spec(tiny(head_dim=64))


@pytest.mark.parametrize(
    ("scaling", "length"),
    [
        (None, 256),
        ({"type": "linear", "factor": 4}, 1024),
        ({"type": "dynamic", "factor": 2.0}, 512),
        ({"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64}, 512),
        ({"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}, 256),
        ({"type": "yarn", "original_max_position_embeddings": 64}, 256),
        ({"type": "llama3", "factor": 8.0, "original_max_position_embeddings": 32}, 256),
    ],
    ids=repr,
)
def test_the_model_length_follows_the_scaling(scaling: Any, length: int) -> None:
    assert build_spec(tiny(rope_scaling=scaling)).max_length == length


def test_default_and_linear_frequencies_in_closed_form() -> None:
    plain = [10000.0 ** (-i / 4) for i in range(4)]
    assert Rope(8, 10000.0).inverse_frequencies() == pytest.approx(plain)
    linear = Rope(8, 10000.0, scaling=RopeScaling("linear", 4.0))
    assert linear.inverse_frequencies() == pytest.approx([f / 4 for f in plain])


def test_dynamic_frequencies_in_closed_form() -> None:
    rope = Rope(8, 10000.0, scaling=RopeScaling("dynamic", 2.0, 100))
    assert (rope.length_class(100), rope.length_class(101)) == (0, 101)
    assert rope.inverse_frequencies() == Rope(8, 10000.0).inverse_frequencies()
    base = 10000.0 * (2 * 150 / 100 - 1) ** (8 / 6)
    assert rope.inverse_frequencies(150) == pytest.approx([base ** (-i / 4) for i in range(4)])


def test_only_dynamic_and_longrope_depend_on_the_length() -> None:
    for name in SCALINGS:
        rope = rope_of(name)
        classes = {"dynamic": 10_000, "longrope": 65}
        assert rope.length_class(10_000) == classes.get(kind_of(name), 0)
        assert rope.length_class(10) == 0


def test_longrope_in_closed_form() -> None:
    """One set of factors up to the trained length, the other for all longer prompts."""
    rope = rope_of("longrope")
    assert (rope.length_class(64), rope.length_class(65), rope.length_class(256)) == (0, 65, 65)
    plain = np.array(Rope(64, 5e5).inverse_frequencies())
    steps, factor = np.arange(32), math.sqrt(1 + math.log(256 / 64) / math.log(64))
    for length_class, slope in ((0, 0.1), (65, 0.5)):
        *found, scale = rope.table_row(length_class)
        assert found == pytest.approx(plain / (1 + slope * steps))
        assert scale == pytest.approx(factor)
    assert longrope_attention_factor(1.0, 64) == 1.0
    assert rope_of("longrope-factors").table_row()[-1] == 1.5


def test_longrope_with_a_scale_for_either_set() -> None:
    """As Phi-3.5-MoE has it."""
    fields = {**SCALINGS["longrope"], "short_mscale": 1.25, "long_mscale": 1.75}
    values = {"rope_type": "longrope", "rope_theta": 5e5, **fields}
    config = tiny(head_dim=64, max_position_embeddings=256, rope_parameters=values)
    rope = build_spec(config).ropes[0]
    assert (rope.table_row(0)[-1], rope.table_row(65)[-1]) == (1.25, 1.75)


@pytest.mark.parametrize("kind", ["su", "yarn", "longrope"])
def test_the_names_of_longrope(kind: str) -> None:
    fields = {key: SCALINGS["longrope"][key] for key in ("short_factor", "long_factor")}
    found = build_spec(
        tiny(
            head_dim=64,
            rope_theta=5e5,
            max_position_embeddings=256,
            original_max_position_embeddings=64,
            rope_scaling={"type": kind, **fields},
        )
    )
    assert found.ropes[0] == rope_of("longrope")
    assert found.max_length == 256


def test_doubling_in_closed_form() -> None:
    """alpha = 2^ceil(log2(n / trained) + 1) - 1; all prompts up to the next power are alike."""
    rope = Rope(16, 1e4, scaling=RopeScaling("doubling", original_length=100))
    assert rope.length_class(100) == 0
    for length, top in ((101, 200), (200, 200), (201, 400), (1600, 1600)):
        assert rope.length_class(length) == top
        alpha = 2 ** math.ceil(math.log2(length / 100) + 1) - 1
        base = 1e4 * alpha ** (16 / 14)
        found = rope.inverse_frequencies(rope.length_class(length))
        assert found == pytest.approx([base ** (-i / 8) for i in range(8)])
    assert rope.inverse_frequencies(0) == Rope(16, 1e4).inverse_frequencies()


def test_llama3_frequencies_in_closed_form() -> None:
    """Wavelengths 2 pi f^-1 against 64/4 and 64/1: kept, blended, divided by 8."""
    rope = Rope(64, 1e4, scaling=RopeScaling("llama3", 8.0, 64, 1.0, 4.0))
    for found, plain in zip(
        rope.inverse_frequencies(), Rope(64, 1e4).inverse_frequencies(), strict=True
    ):
        turns = 64 * plain / (2 * math.pi)  # in the original context
        share = min(max((turns - 1) / 3, 0), 1)
        assert found == pytest.approx(share * plain + (1 - share) * plain / 8)


def test_yarn_frequencies_lie_between_plain_and_interpolated() -> None:
    found = np.array(rope_of("yarn").inverse_frequencies())
    plain = np.array(Rope(64, 5e5).inverse_frequencies())
    ratio = plain / found
    assert ratio[0] == pytest.approx(1) and ratio[-1] == pytest.approx(4)
    assert np.all(np.diff(ratio) >= -1e-12)


@pytest.mark.parametrize("truncate", [True, False])
def test_yarn_frequencies_in_closed_form(truncate: bool) -> None:
    """The pair that turns once in the original length is fully interpolated, pair 0 not at all."""
    scaling = RopeScaling("yarn", 4.0, 64, truncate=truncate)
    found = Rope(16, 1e4, scaling=scaling).inverse_frequencies()
    border = 16 * math.log(64 / (2 * math.pi)) / (2 * math.log(1e4))
    assert 2 < border < 3
    for pair, plain in enumerate(Rope(16, 1e4).inverse_frequencies()):
        slow = min(pair / (3 if truncate else border), 1.0)
        assert found[pair] == pytest.approx(plain * (1 - slow) + plain / 4 * slow)


def test_yarn_attention_factors_in_closed_form() -> None:
    assert yarn_attention_factor(1.0) == 1.0
    assert yarn_attention_factor(4.0) == pytest.approx(0.1 * math.log(4) + 1)
    both = (0.08 * math.log(40) + 1) / (0.04 * math.log(40) + 1)
    assert yarn_attention_factor(40.0, 0.8, 0.4) == pytest.approx(both)
    assert yarn_attention_factor(40.0, 0.8) == yarn_attention_factor(40.0)
    assert rope_of("yarn-attention-factor").scaling.attention_factor == 1.25


@pytest.mark.oracle
@pytest.mark.parametrize("partial", [1.0, 0.5])
@pytest.mark.parametrize("length", [None, 300, 1000])
@pytest.mark.parametrize("name", [name for name in SCALINGS if name != "default"])
def test_frequencies_of_transformers(name: str, length: int | None, partial: float) -> None:
    if kind_of(name) == "longrope" and partial != 1:
        pytest.skip("its lists of factors are as long as whole heads need")
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    rope_utils = pytest.importorskip("transformers.modeling_rope_utils")
    values = {"rope_type": kind_of(name), "rope_theta": 5e5, "partial_rotary_factor": partial}
    config = transformers.LlamaConfig(
        head_dim=64, max_position_embeddings=256, rope_parameters={**values, **SCALINGS[name]}
    )
    compute = rope_utils.ROPE_INIT_FUNCTIONS[kind_of(name)]
    expected, factor = compute(config, "cpu", seq_len=length)
    rope = rope_of(name, partial_rotary_factor=partial)
    found = rope.inverse_frequencies(rope.length_class(length or 0))
    np.testing.assert_allclose(found, expected.numpy(), rtol=2e-6)
    assert rope.scaling.attention_factor == pytest.approx(factor)


@pytest.mark.oracle
@pytest.mark.parametrize("head_dim", [16, 64, 128])
def test_default_frequencies_of_transformers(head_dim: int) -> None:
    pytest.importorskip("torch")
    modeling = pytest.importorskip("transformers.models.llama.modeling_llama")
    config = modeling.LlamaConfig(head_dim=head_dim)
    expected = modeling.LlamaRotaryEmbedding(config).inv_freq.numpy()
    found = Rope(head_dim, 10000.0).inverse_frequencies()
    np.testing.assert_allclose(found, expected, rtol=2e-6)


# --- any JSON at all


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


def test_the_trained_length_may_stand_at_the_top() -> None:
    """As transformers has it, the top of config.json wins over the rope's own value."""
    rope = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    config = {**TINY, "architectures": ["LlamaForCausalLM"], "rope_scaling": rope}
    spec = build_spec({**config, "original_max_position_embeddings": 64})
    assert spec.blocks[0].attention.rope.scaling.original_length == 64
