"""What the formats' files and configs mean, beside definitions and code that are not ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.errors import CheckpointError, ModelError
from quire.quant.formats import (
    auto_round,
    awq,
    bitsandbytes,
    compressed_tensors,
    fp8,
    gptq,
    hqq,
    mxfp4,
    nvfp4,
    torchao,
)
from quire.quant.formats.registry import METHODS, find_quantization
from quire.quant.formats.scheme import ModuleSchemes, Tensors
from quire.quant.formats.settings import is_listed
from quire.quant.formats.small_floats import E2M1, E4M3, E5M2, E8M0
from quire.quant.formats.words import pack_words, unpack_words, words_for
from quire.quant.matrix import QuantizedMatrix
from quire.weights.tensor import RawTensor
from tests.quant.layers import WRITERS, plain, random_matrix

SHAPE = (64, 96)


def tensors_of(arrays: dict[str, np.ndarray], shape: tuple[int, int]) -> Tensors:
    """What a reader gets of arrays by their full names in the layer "m"."""
    found = {}
    for name, array in arrays.items():
        dtype, data = plain(array)
        found[name.removeprefix("m.")] = RawTensor(name, dtype, data.shape, data)
    return Tensors("m", shape, found)


def read_back(scheme_of: ModuleSchemes, arrays: dict[str, np.ndarray]) -> QuantizedMatrix:
    scheme = scheme_of("m")
    assert scheme is not None
    return scheme.read(tensors_of(arrays, SHAPE))


# --- words


@settings(max_examples=60, deadline=None)
@given(bits=st.integers(1, 8), count=st.integers(1, 70), seed=st.integers(0, 2**32))
def test_words_hold_a_stream_of_bits(bits: int, count: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (3, count), np.uint8)
    words = pack_words(codes, bits)
    assert words.shape == (3, words_for(count, bits))
    for row, line in zip(codes, words, strict=True):
        stream = sum(int(code) << bits * i for i, code in enumerate(row))
        assert stream == sum((int(w) & 0xFFFFFFFF) << 32 * i for i, w in enumerate(line))
    np.testing.assert_array_equal(unpack_words(words, bits, count), codes)


# --- round trips


Writer = Callable[[QuantizedMatrix], QuantizedMatrix]


def through_awq(m: QuantizedMatrix) -> QuantizedMatrix:
    config = awq.config(None if m.group_size >= SHAPE[1] else m.group_size)
    return read_back(awq.schemes(config), awq.write("m", m))


def through_gptq(m: QuantizedMatrix) -> QuantizedMatrix:
    config = gptq.config(m.bits, m.group_size, m.zeros is None, m.order is not None)
    return read_back(gptq.schemes(config), gptq.write("m", m))


def through_packed(m: QuantizedMatrix) -> QuantizedMatrix:
    config = compressed_tensors.config(m.bits, m.group_size, m.zeros is None)
    return read_back(compressed_tensors.schemes(config), compressed_tensors.write("m", m))


def through_bytes(m: QuantizedMatrix) -> QuantizedMatrix:
    layout: Any = "int-quantized"
    config = compressed_tensors.config(m.bits, m.group_size, m.zeros is None, layout)
    return read_back(compressed_tensors.schemes(config), compressed_tensors.write("m", m, layout))


@pytest.mark.parametrize(
    ("through", "all_bits", "orders"),
    [
        (through_awq, (4,), (False,)),
        (through_gptq, (2, 3, 4, 8), (False, True)),
        (through_packed, (1, 2, 3, 4, 5, 6, 7, 8), (False, True)),
        (through_bytes, (2, 4, 8), (False,)),
    ],
)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_what_is_written_is_read(through: Writer, all_bits: Any, orders: Any, data: Any) -> None:
    matrix = random_matrix(
        np.random.default_rng(data.draw(st.integers(0, 2**32))),
        SHAPE,
        data.draw(st.sampled_from(all_bits)),
        data.draw(st.sampled_from((16, 32, 96))),
        data.draw(st.booleans()),
        data.draw(st.sampled_from(orders)),
    )
    found = through(matrix)
    assert found.bits == matrix.bits and found.group_size == matrix.group_size
    np.testing.assert_array_equal(found.float32(), matrix.float32())


@pytest.mark.parametrize("write", [awq.write, gptq.write, compressed_tensors.write])
def test_what_a_format_cannot_hold_is_refused(write: Any) -> None:
    codes, scales = np.zeros((32, 64), np.uint8), np.ones((32, 2), np.float32)
    with pytest.raises(ValueError, match="minimums"):
        write("m", QuantizedMatrix("m", 4, 32, codes, scales, minimums=scales))
    if write is not compressed_tensors.write:
        with pytest.raises(ValueError, match="float16"):
            write("m", QuantizedMatrix("m", 4, 32, codes, scales + np.float32(1e-7)))
        with pytest.raises(ValueError, match="5 bits"):
            write("m", QuantizedMatrix("m", 5, 32, codes, scales))


def test_gptq_stores_zero_points_less_one() -> None:
    matrix = random_matrix(np.random.default_rng(0), SHAPE, zeros=True)
    zeros = matrix.zeros
    assert zeros is not None
    zeros[:] = np.arange(64)[:, None] % 16
    stored = gptq.write("m", matrix)
    nibbles = unpack_words(stored["m.qzeros"], 4, 64)
    np.testing.assert_array_equal(nibbles, (np.arange(64)[None] % 16 - 1) % 16 + 0 * nibbles)
    config = gptq.config(4, 32, False)
    newer = {**config, "checkpoint_format": "gptq_v2"}
    found = read_back(gptq.schemes(newer), stored)
    assert found.zeros is not None
    np.testing.assert_array_equal(found.zeros, (zeros - 1) % 16)


def test_older_compressed_tensors_left_bits_of_words_unused() -> None:
    """Three-bit codes, ten of them in a word."""
    codes = np.random.default_rng(0).integers(0, 8, SHAPE, np.uint8)
    words = np.zeros((64, 10), np.uint32)
    for i in range(96):
        words[:, i // 10] |= codes[:, i].astype(np.uint32) << np.uint32(3 * (i % 10))
    arrays = {"weight_packed": words.view(np.int32), "weight_scale": np.ones((64, 3), np.float32)}
    found = read_back(compressed_tensors.schemes(compressed_tensors.config(3, 32, True)), arrays)
    np.testing.assert_array_equal(found.codes, codes)


# --- other people's decoders


@pytest.mark.oracle
def test_small_floats_are_those_of_torch() -> None:
    torch = pytest.importorskip("torch")
    codes = torch.arange(256, dtype=torch.uint8)
    for table, name in ((E4M3, "e4m3fn"), (E5M2, "e5m2"), (E8M0, "e8m0fnu")):
        expected = codes.view(getattr(torch, f"float8_{name}")).float().numpy()
        np.testing.assert_array_equal(table, expected)
    assert E2M1.tolist()[:8] == [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    np.testing.assert_array_equal(E2M1[8:], -E2M1[:8])


def _expert(shape: tuple[int, int], blocks: np.ndarray, scales: np.ndarray) -> Tensors:
    found = {"blocks": RawTensor("b", "U8", blocks.shape, blocks)}
    return Tensors("m", shape, {**found, "scales": RawTensor("s", "U8", scales.shape, scales)})


@pytest.mark.oracle
def test_experts_of_gpt_oss_as_transformers_decodes_them() -> None:
    torch = pytest.importorskip("torch")
    integration = pytest.importorskip("transformers.integrations.mxfp4")
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (2, 24, 3, 16), np.uint8)
    scales = random.integers(110, 130, (2, 24, 3), np.uint8)
    expected = integration.convert_moe_packed_tensors(
        torch.from_numpy(blocks), torch.from_numpy(scales), dtype=torch.float32
    )
    for each in range(2):
        found = mxfp4.read_expert(_expert((24, 96), blocks[each], scales[each])).float32()
        np.testing.assert_array_equal(found.T, expected[each].numpy())


@pytest.mark.oracle
def test_blocks_of_deepseek_as_transformers_decodes_them() -> None:
    shape = (256, 384)
    torch = pytest.importorskip("torch")
    integration = pytest.importorskip("transformers.integrations.finegrained_fp8")
    random = np.random.default_rng(0)
    codes = random.integers(0, 127, shape, np.uint8) | random.choice([0, 128], shape).astype("u1")
    scales = random.uniform(0.001, 0.01, (2, 3)).astype(np.float32)
    found = fp8.read_blocks(
        Tensors(
            "m",
            shape,
            {
                "weight": RawTensor("w", "F8_E4M3", shape, codes),
                "weight_scale_inv": RawTensor("s", "F32", scales.shape, scales),
            },
        ),
        (128, 128),
    ).float32()
    weight = torch.from_numpy(codes).view(torch.float8_e4m3fn)
    decode = integration.Fp8Dequantize(None)._dequantize_one
    expected = decode(weight, torch.from_numpy(scales), torch.float32)
    np.testing.assert_array_equal(found, expected.numpy())


@pytest.mark.parametrize("blocks", [(2, 3, 15), (2, 16), (2, 3, 17)])
def test_experts_of_another_shape(blocks: tuple[int, ...]) -> None:
    tensors = _expert((2, 96), np.zeros(blocks, np.uint8), np.zeros((2, 3), np.uint8))
    with pytest.raises(CheckpointError, match="blocks"):
        mxfp4.read_expert(tensors)


def test_a_scale_that_is_no_number() -> None:
    scales = np.full((2, 3), 255, np.uint8)
    with pytest.raises(CheckpointError, match="not finite"):
        mxfp4.read_expert(_expert((2, 96), np.zeros((2, 3, 16), np.uint8), scales))


# --- configs


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
        (nvfp4.schemes, {"quant_algo": "W4A16_AWQ"}, "W4A16_AWQ"),
        (nvfp4.schemes, {"quant_algo": "NVFP4", "group_size": 32}, "group_size"),
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
    scheme_of = compressed_tensors.schemes(config)
    bits = {
        name: getattr(scheme_of(name), "bits", None)
        for name in ("q", "b.down_proj", "a.down_proj", "lm_head", "mlp.gate", "mlp.gate_proj")
    }
    assert list(bits.values()) == [4, 8, 2, None, None, 4]


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
    scheme_of = nvfp4.schemes(config)
    assert scheme_of("model.layers.0.mlp.up_proj") is scheme_of("model.layers.1.k_proj") is None
    assert scheme_of("model.layers.1.mlp.up_proj") is not None


@pytest.mark.parametrize("value", ["awq", ["awq"], {"bits": 4}, {"quant_method": 4}])
def test_configs_that_are_none(value: Any) -> None:
    with pytest.raises(ModelError, match="compressed-tensors"):
        find_quantization({"quantization_config": value})
