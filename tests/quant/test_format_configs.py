"""What quantization configs say, and that nothing in them is ignored."""

from __future__ import annotations

from typing import Any

import pytest

from quire.errors import ModelError
from quire.quant.formats import (
    auto_round,
    awq,
    bitsandbytes,
    compressed_tensors,
    fp8,
    gptq,
    hqq,
    modelopt,
    torchao,
)
from quire.quant.formats.registry import METHODS, find_quantization
from quire.quant.formats.settings import is_listed
from tests.quant.layers import WRITERS


def test_every_method_has_a_writer_in_these_tests() -> None:
    methods = {config["quant_method"].replace("_", "-") for config, _ in WRITERS.values()}
    assert methods == set(METHODS) - {"gguf", "mxfp4"}  # those have tests of their own


@pytest.mark.parametrize("name", WRITERS)
def test_an_unknown_key_is_an_error_that_names_it(name: str) -> None:
    config = WRITERS[name][0]
    assert find_quantization({"quantization_config": config})
    with pytest.raises(ModelError, match="rotation"):
        find_quantization({"quantization_config": {**config, "rotation": "hadamard"}})
    assert find_quantization({"quantization_config": {**config, "rotation": None}})


@pytest.mark.parametrize(
    ("schemes", "config", "words"),
    [
        (awq.schemes, {"version": "gemv"}, "version is 'gemv'"),
        (awq.schemes, {"bits": 3}, "bits is 3"),
        (awq.schemes, {"group_size": 0}, "group_size is 0"),
        (gptq.schemes, {"bits": 5}, "bits is 5"),
        (gptq.schemes, {"bits": True}, "bits is True"),
        (gptq.schemes, {"checkpoint_format": "marlin"}, "marlin"),
        (gptq.schemes, {"sym": "yes"}, "sym is 'yes'"),
        (gptq.schemes, {"is_marlin_format": True}, "is_marlin_format"),
        (gptq.schemes, {"dynamic": {"+:(": {}}}, "dynamic"),
        (gptq.schemes, {"dynamic": {"+:a": {"bits": 5}}}, "dynamic"),
        (gptq.schemes, {"dynamic": {"+:a": {"planar": True}}}, "planar"),
        (auto_round.schemes, {"packing_format": "auto_round:exllamav2"}, "packing_format"),
        (auto_round.schemes, {"data_type": "mx_fp"}, "data_type"),
        (auto_round.schemes, {"packing_format": "auto_round:auto_awq", "bits": 3}, "bits is 3"),
        (auto_round.schemes, {"extra_config": {"a": {"bits": 5}}}, "extra_config.a: bits is 5"),
        (auto_round.schemes, {"extra_config": {"a": {"planar": True}}}, "planar"),
        (auto_round.schemes, {"extra_config": {"(": {}}}, "extra_config"),
        (fp8.schemes, {"weight_block_size": [128]}, "weight_block_size"),
        (fp8.schemes, {"weight_block_size": [0, 128]}, "weight_block_size"),
        (fp8.schemes, {"fmt": "e3m4"}, "fmt"),
        (bitsandbytes.schemes, {}, "load_in_4bit"),
        (bitsandbytes.schemes, {"load_in_4bit": True, "load_in_8bit": True}, "load_in_4bit"),
        (bitsandbytes.schemes, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf3"}, "nf3"),
        (modelopt.schemes, {"quant_algo": "W4A16_AWQ"}, "W4A16_AWQ"),
        (modelopt.schemes, {"quant_algo": "NVFP4", "group_size": 32}, "group_size"),
        (hqq.schemes, {}, "quant_config"),
        (hqq.schemes, {"quant_config": {"weight_quant_params": {"nbits": 5}}}, "nbits"),
        (torchao.schemes, {}, "quant_type"),
        (compressed_tensors.schemes, {"format": "marlin-24"}, "marlin-24"),
        (compressed_tensors.schemes, {"quantization_status": "calibration"}, "calibration"),
        (compressed_tensors.schemes, {}, "config_groups"),
        (compressed_tensors.schemes, {"config_groups": {"a": 1}}, "config_groups.a"),
    ],
)
def test_a_setting_that_is_not_read_is_named(schemes: Any, config: Any, words: str) -> None:
    with pytest.raises(ModelError) as caught:
        schemes({"quant_method": "x", **config})
    assert words in str(caught.value) and "quantization_config" in str(caught.value)


@pytest.mark.parametrize(
    "weights",
    [
        {"num_bits": 9},
        {"num_bits": 4, "strategy": "group"},
        {"num_bits": 8, "strategy": "block"},
        {"num_bits": 8, "strategy": "block", "block_structure": [128, 0]},
        {"num_bits": 8, "type": "float", "symmetric": False},
        {"num_bits": 6, "type": "float"},
        {"num_bits": 4, "rotated": True},
        {"num_bits": 8, "format": "nvfp4-pack-quantized"},
    ],
)
def test_weights_of_compressed_tensors_that_are_not_read(weights: dict[str, Any]) -> None:
    layout = weights.pop("format", "int-quantized")
    config = compressed_tensors.config(8, None, True, layout)
    config["config_groups"]["group_0"]["weights"] = weights
    with pytest.raises(ModelError, match="config_groups"):
        compressed_tensors.schemes(config)


def test_auto_round_says_what_differs_by_layer() -> None:
    config = {
        **WRITERS["auto-round gptq"][0],
        "extra_config": {
            "a.down_proj": {"bits": 8, "group_size": 64},
            r".*\.down_proj": {"bits": 3, "sym": True},
            "lm_head": {"bits": 16, "data_type": "float"},
        },
    }
    scheme_of = auto_round.schemes(config)
    found = [scheme_of(name) for name in ("a.q_proj", "a.down_proj", "b.down_proj", "lm_head")]
    sizes = [each and (each.bits, each.group_size, each.meaning) for each in found]
    assert sizes == [(4, 32, "zeros"), (8, 64, "zeros"), (3, 32, "symmetric"), None]
    older = {"quant_method": "intel/auto-round", "bits": 4, "backend": "auto_round:gptq:exllamav2"}
    assert find_quantization({"quantization_config": older})


def test_targets_by_name_come_before_patterns_and_classes() -> None:
    config = compressed_tensors.config(4, 32, True, ignore=["lm_head", "re:.*gate$"])
    group = config["config_groups"]["group_0"]
    eight = {**group["weights"], "num_bits": 8}
    config["config_groups"]["g1"] = {**group, "targets": ["re:.*down.*"], "weights": eight}
    two = {**group["weights"], "num_bits": 2}
    config["config_groups"]["g2"] = {**group, "targets": ["a.down_proj"], "weights": two}
    three = {**group["weights"], "num_bits": 3}
    config["config_groups"]["g3"] = {**group, "targets": ["re:.*(c.down|up)"], "weights": three}
    scheme_of = compressed_tensors.schemes(config)
    names = ("q", "b.down_proj", "a.down_proj", "c.down_proj", "lm_head", "mlp.gate", "gate_proj")
    bits = [getattr(scheme_of(name), "bits", None) for name in names]
    assert bits == [4, 8, 2, 3, None, None, 4]


@pytest.mark.parametrize(
    ("module", "names", "expected"),
    [
        ("lm_head", ["lm_head"], True),
        ("model.layers.0.mlp.gate", ["mlp.gate"], True),
        ("model.layers.0.mlp.gate_proj", ["mlp.gate"], False),
        ("model.layers.10.mlp.up_proj", ["model.layers.1"], False),
        ("model.layers.1.mlp.up_proj", ["model.layers.1"], True),
        ("model.layers.1.mlp.up_proj", ["model.layers.*.up_proj"], True),
        ("model.layers.1.mlp.up_proj", ["re:.*up_proj"], True),
        ("model.layers.1.mlp.up_proj", ["("], False),
        ("model.layers.1.mlp.up_proj", [], False),
    ],
)
def test_lists_of_modules(module: str, names: list[str], expected: bool) -> None:
    assert is_listed(module, names) is expected


def test_configs_without_quantization() -> None:
    assert find_quantization({}) is None
    assert find_quantization({"quantization_config": None}) is None
    older = find_quantization({"compression_config": compressed_tensors.config(4, 32, True)})
    assert older is not None and older.method == "compressed-tensors"


REAL: tuple[dict[str, Any], ...] = (
    {
        "bits": 4,
        "group_size": 128,
        "damp_percent": 0.01,
        "desc_act": True,
        "static_groups": False,
        "sym": True,
        "true_sequential": True,
        "model_name_or_path": None,
        "model_file_base_name": "model",
        "is_marlin_format": False,
        "quant_method": "gptq",
    },
    {
        "bits": 4,
        "checkpoint_format": "gptq",
        "desc_act": False,
        "dynamic": None,
        "group_size": 128,
        "lm_head": False,
        "meta": {"damp_percent": 0.05, "quantizer": ["gptqmodel:4.0"], "static_groups": False},
        "pack_dtype": "int32",
        "quant_method": "gptq",
        "sym": True,
    },
    {
        "amp": True,
        "autoround_version": "0.3.1",
        "batch_size": 4,
        "bits": 4,
        "data_type": "int",
        "desc_act": False,
        "enable_minmax_tuning": True,
        "group_size": 128,
        "iters": 1000,
        "nsamples": 512,
        "quant_method": "gptq",
        "sym": True,
        "true_sequential": False,
    },
    {"w_bit": 4, "q_group_size": 128, "zero_point": True, "version": "GEMM", "quant_method": "awq"},
    {
        "_load_in_4bit": True,
        "_load_in_8bit": False,
        "bnb_4bit_compute_dtype": "bfloat16",
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "llm_int8_enable_fp32_cpu_offload": False,
        "llm_int8_has_fp16_weight": False,
        "llm_int8_skip_modules": ["lm_head", "model.layers.1.mlp"],
        "llm_int8_threshold": 6.0,
        "load_in_4bit": True,
        "load_in_8bit": False,
        "quant_method": "bitsandbytes",
    },
    {"load_in_8bit": True, "llm_int8_threshold": 6.0},
    {
        "autoround_version": "0.9.0",
        "bits": 4,
        "data_type": "int",
        "extra_config": {
            "lm_head": {"bits": 16, "data_type": "float"},
            "model.layers.0.linear_attn.norm": {"bits": 16, "data_type": "float"},
        },
        "group_size": 128,
        "iters": 0,
        "model_free": True,
        "packing_format": "auto_round:auto_gptq",
        "quant_method": "auto-round",
        "static_kv_granularity": "tensor",
        "supported_types": ["Linear"],
        "sym": True,
    },
    {
        "activation_scheme": "dynamic",
        "fmt": "float8_e4m3fn",
        "modules_to_not_convert": ["gate", "e_score_correction_bias", "lm_head"],
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
    },
    {
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {"num_bits": 4, "type": "int", "group_size": 128, "strategy": "group"},
            }
        },
        "format": "pack-quantized",
        "ignore": ["lm_head"],
        "provider": "auto-round",
        "quant_method": "compressed-tensors",
    },
    {
        "activation_scheme": "static",
        "ignored_layers": ["re:.*lm_head"],
        "kv_cache_scheme": "static",
        "quant_method": "fp8",
    },
    {
        "config_groups": {
            "group_0": {
                "input_activations": {"num_bits": 8, "type": "float", "dynamic": True},
                "output_activations": None,
                "targets": ["Linear"],
                "weights": {
                    "actorder": None,
                    "block_structure": None,
                    "dynamic": False,
                    "group_size": None,
                    "num_bits": 8,
                    "observer": "minmax",
                    "observer_kwargs": {},
                    "strategy": "channel",
                    "symmetric": True,
                    "type": "float",
                },
            }
        },
        "format": "float-quantized",
        "global_compression_ratio": 1.46,
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "frozen",
        "sparsity_config": {},
        "transform_config": {},
        "version": "0.13.0",
    },
    {
        "producer": {"name": "modelopt", "version": "0.23.0"},
        "quant_method": "modelopt",
        "quantization": {
            "exclude_modules": ["lm_head", "model.layers.0*"],
            "group_size": 16,
            "kv_cache_quant_algo": "FP8",
            "quant_algo": "NVFP4",
        },
    },
)
"""What the writers' own checkpoints say, all of it."""


@pytest.mark.parametrize("config", REAL, ids=lambda config: config.get("quant_method", "none"))
def test_configs_as_they_are_found(config: dict[str, Any]) -> None:
    found = find_quantization({"quantization_config": config})
    assert found is not None and found.scheme_of("model.layers.2.mlp.up_proj") is not None
    assert found.scheme_of("lm_head") is None


def test_modelopt_lists_modules_with_stars() -> None:
    config = {"quant_algo": "NVFP4", "exclude_modules": ["model.layers.0*", "*k_proj"]}
    scheme_of = modelopt.schemes(config)
    assert scheme_of("model.layers.0.mlp.up_proj") is scheme_of("model.layers.1.k_proj") is None
    assert scheme_of("model.layers.1.mlp.up_proj") is not None


def test_modelopt_names_the_layers_of_a_mixture() -> None:
    layers = {
        "model.layers.0.mixer.in_proj": {"quant_algo": "FP8"},
        "lm_head": {"quant_algo": "W4A16_NVFP4", "group_size": 16},
    }
    config = {"quant_algo": "MIXED_PRECISION", "quantized_layers": layers, "ignore": ["mtp*"]}
    scheme_of = modelopt.schemes(config)
    bits = [found and found.bits for found in map(scheme_of, [*layers, "model.layers.0.up_proj"])]
    assert bits == [8, 4, None]
    layers["lm_head"] = {"quant_algo": "MXFP8"}
    with pytest.raises(ModelError, match="lm_head: quant_algo is 'MXFP8'"):
        modelopt.schemes(config)


@pytest.mark.parametrize("value", ["awq", ["awq"], {"bits": 4}, {"quant_method": 4}])
def test_configs_that_are_none(value: Any) -> None:
    with pytest.raises(ModelError, match="compressed-tensors"):
        find_quantization({"quantization_config": value})
