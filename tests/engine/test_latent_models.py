"""Models with latent attention, from files to answers: sizes, quantization, and stored blocks."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.config import EngineConfig
from quire.models.config_reader import read_json
from quire.models.registry import build_spec, load_families
from quire.models.spec import LatentAttention, parts
from quire.runtime.kv_layout import kv_layout
from quire.runtime.open_model import open_model
from quire.runtime.quantize import quantize_weights
from quire.weights.checkpoint import open_checkpoint
from quire.weights.hub import DEMO
from quire.weights.loader import load_weights
from tests.engine.conftest import reconfigure
from tests.engine.driving import random_model
from tests.engine.quantized_checkpoints import floats, read, write_checkpoint
from tests.engine.test_stored_prefix import generate, start, stop, yields
from tests.models.computing import Loaded, Model, distance
from tests.quant.layers import WRITERS

PROMPT = list(range(3, 43))

V3 = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
    "attention_bias": False, "aux_loss_alpha": 0.001, "bos_token_id": 0, "eos_token_id": 1,
    "ep_size": 1, "first_k_dense_replace": 3, "hidden_act": "silu", "hidden_size": 7168,
    "intermediate_size": 18432, "kv_lora_rank": 512, "max_position_embeddings": 163840,
    "moe_intermediate_size": 2048, "moe_layer_freq": 1, "n_group": 8, "n_routed_experts": 256,
    "n_shared_experts": 1, "norm_topk_prob": True, "num_attention_heads": 128,
    "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06, "rope_theta": 10000,
    "rope_scaling": {
        "beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096, "type": "yarn",
    },
    "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "tie_word_embeddings": False,
    "topk_group": 4, "topk_method": "noaux_tc", "torch_dtype": "bfloat16", "v_head_dim": 128,
    "vocab_size": 129280,
}  # fmt: skip
V2_LITE = {
    **{key: V3[key] for key in ("attention_bias", "hidden_act", "torch_dtype", "rope_theta")},
    "architectures": ["DeepseekV2ForCausalLM"], "first_k_dense_replace": 1, "hidden_size": 2048,
    "intermediate_size": 10944, "kv_lora_rank": 512, "max_position_embeddings": 163840,
    "moe_intermediate_size": 1408, "n_routed_experts": 64, "n_shared_experts": 2,
    "num_attention_heads": 16, "num_experts_per_tok": 6, "num_hidden_layers": 27,
    "num_key_value_heads": 16, "q_lora_rank": None, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "rope_scaling": {
        "beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 0.707, "mscale_all_dim": 0.707,
        "original_max_position_embeddings": 4096, "type": "yarn",
    },
    "topk_method": "greedy", "v_head_dim": 128, "vocab_size": 102400,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "billions", "numbers"),
    [(V3, 671.0, 61 * 576), (V2_LITE, 15.7, 27 * 576)],
    ids=["V3", "V2-Lite"],
)
def test_sizes_of_real_models(config: dict[str, Any], billions: float, numbers: int) -> None:
    spec = build_spec(config)
    assert round(spec.num_parameters / 1e9, 1) == billions
    layout = kv_layout(EngineConfig("m", block_size=16), spec)
    assert layout.bytes_per_block == 16 * 2 * numbers
    codes = kv_layout(EngineConfig("m", block_size=16, kv_cache_dtype="int8"), spec)
    assert codes.bytes_per_block == 16 * (numbers + 8 * len(spec.blocks))
    assert spec.max_length == 163840


def test_the_scale_of_v3_has_mscale_squared() -> None:
    first = next(parts(build_spec(V3), LatentAttention))
    assert first.scale == pytest.approx(192**-0.5 * (0.1 * np.log(40) + 1) ** 2)
    assert first.rope.dims == 64 and first.rope.pairing == "interleaved"


# --- quantization


@pytest.mark.parametrize("kind", ["fp8 blocks", "w4a16"])
def test_a_quantized_checkpoint(kind: str, tmp_path: Path, monkeypatch: Any) -> None:
    """kv_b_proj is served as floats however it is stored; the logits are those of the codes."""
    monkeypatch.setenv("QUIRE_CACHE_DIR", str(tmp_path / "cache"))
    changes = {"architecture": "DeepseekV3ForCausalLM", "first_k_dense_replace": 2}
    kind_of = lambda name: None if name == "lm_head" else kind  # noqa: E731
    spec, weights = write_checkpoint(tmp_path / "m", kind_of, WRITERS[kind][0], **changes)
    loaded = read(tmp_path / "m")
    assert len(spec.float_matrices) == 2
    for name in spec.float_matrices:
        assert loaded.weights[name].dtype in ("BF16", "F16", "F32")
    found = Model(loaded, "native-portable").logits(PROMPT)
    expected = Model(floats(spec, weights), "reference").logits(PROMPT)
    assert distance(found, expected) < (0.04 if kind == "w4a16" else 0.002)


@pytest.mark.parametrize("scheme", ["int4", "int8"])
@pytest.mark.parametrize(("value_dims", "cuts_latents"), [(12, True), (16, False)])
def test_rounding_at_load_leaves_what_cannot_be_cut(
    scheme: str, value_dims: int, cuts_latents: bool
) -> None:
    loaded = random_model("DeepseekV2ForCausalLM", v_head_dim=value_dims)
    rounded = quantize_weights(loaded.weights, loaded.spec, scheme, None, 1, cuts_latents)
    kept = {name for name, weight in rounded.items() if weight.dtype == "F32"}
    linears = {linear.weight.name for linear in loaded.spec.linears()}
    assert kept & linears == loaded.spec.float_matrices
    assert not loaded.spec.latent_halves.keys() & rounded.keys()


@pytest.mark.parametrize(("scheme", "near"), [("int4", 0.13), ("int8", 0.005)])
@pytest.mark.parametrize("architecture", ["DeepseekV2ForCausalLM", "MiniCPM3ForCausalLM"])
def test_keys_and_values_are_rounded_apart(scheme: str, near: float, architecture: str) -> None:
    """Each half is nearly the float matrix's, and kernels compute what the reference says."""
    loaded = random_model(architecture, v_head_dim=16, qk_nope_head_dim=40)
    spec = loaded.spec
    rounded = quantize_weights(loaded.weights, spec, scheme, None, 1, True)
    assert spec.latent_halves.keys() <= rounded.keys() and not spec.float_matrices & rounded.keys()
    for part in parts(spec, LatentAttention):
        whole = loaded.weights[part.key_value.weight.name].float32()
        of_heads = whole.reshape(part.heads, -1, part.rank)
        keys, values = (rounded[name] for name in part.halves)
        turned = keys.float32().reshape(part.heads, part.rank, -1).swapaxes(1, 2)
        joined = values.float32().reshape(part.heads, -1, part.rank)
        assert {keys.dtype, values.dtype} == {scheme.upper()}
        assert np.abs(np.concatenate([turned, joined], 1) - of_heads).max() < near * whole.max()
    model = Loaded(spec, rounded)
    expected = Model(model, "reference").logits(PROMPT)
    for isa in ("native-portable", "native-auto"):  # a code may round to its neighbour
        assert distance(Model(model, isa).logits(PROMPT), expected) < 0.02


def test_a_quantized_start_maps_the_halves(tmp_path: Path, monkeypatch: Any) -> None:
    """Both starts give the same tokens, and only the first one packs."""
    monkeypatch.setenv("QUIRE_CACHE_DIR", str(tmp_path / "cache"))
    changes = {"architecture": "DeepseekV3ForCausalLM", "v_head_dim": 16, "num_hidden_layers": 2}
    write_checkpoint(tmp_path / "m", lambda _: None, {}, **changes)
    reconfigure(tmp_path / "m", quantization_config=...)
    config = EngineConfig(str(tmp_path / "m"), quantization="int4", threads=1, max_model_len=64)
    directory = tmp_path / "m"
    first = open_model(config, directory, 1)
    monkeypatch.setattr("quire.runtime.quantize.pack_to_nearest", None)
    second = open_model(config, directory, 1)
    for name in first.spec.latent_halves:
        assert first.weights[name].dtype == "INT4"
        np.testing.assert_array_equal(first.weights[name].data, second.weights[name].data)


# --- files


def test_layers_that_guess_ahead_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {"architecture": "DeepseekV3ForCausalLM", "num_hidden_layers": 3}
    write_checkpoint(tmp_path, lambda _: None, {}, **changes)
    reconfigure(tmp_path, num_hidden_layers=2, num_nextn_predict_layers=1)
    reconfigure(tmp_path, quantization_config=...)
    with caplog.at_level(logging.INFO):
        spec = build_spec(read_json(tmp_path / "config.json"))
        load_weights(open_checkpoint(tmp_path), spec.weights(), unused=spec.unused)
    assert len(spec.blocks) == 2
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "guess ahead" in caplog.text


def test_a_restart_loads_blocks_and_yields_the_same_bits(tmp_path: Path) -> None:
    """A random model with the demo's tokenizer; its blocks come back from disk."""
    model = tmp_path / "model"
    model.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        os.symlink(DEMO / name, model / name)
    vocab_size = json.loads((DEMO / "config.json").read_text())["vocab_size"]
    config = {**load_families()["DeepseekV2ForCausalLM"].tiny, "vocab_size": vocab_size}
    config |= {"architectures": ["DeepseekV2ForCausalLM"], "dtype": "bfloat16"}
    (model / "config.json").write_text(json.dumps(config))
    options = {"load_format": "dummy", "kv_cache_dtype": "int8"}
    expected = yields(generate(start(None, model, **options)))
    first = start(tmp_path / "blocks", model, **options)
    assert yields(generate(first)) == expected
    stop(first)
    again = start(tmp_path / "blocks", model, **options)
    assert yields(generate(again)) == expected
    assert again.stats().scheduler.store_hit_tokens > 0
    stop(again)
