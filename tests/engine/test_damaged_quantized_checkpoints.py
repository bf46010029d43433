"""Quantized checkpoints that are damaged, unknown or given options that do not go with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.config import EngineConfig
from quire.errors import CheckpointError, ConfigError, ModelError
from quire.quant.formats.registry import METHODS
from quire.runtime.load import load_model
from tests.engine.conftest import SMALL
from tests.engine.quantized_checkpoints import (
    but_the_head,
    damaged,
    read,
    write_checkpoint,
)
from tests.quant.layers import WRITERS, Stored, plain

pytestmark = pytest.mark.usefixtures("cache")
LAYER = "model.layers.1.mlp.up_proj"


@pytest.mark.parametrize(
    ("name", "part", "value", "words"),
    [
        ("awq", "scales", np.full((2, 96), np.nan, np.float16), "not finite"),
        ("awq", "scales", np.ones((3, 96), np.float16), "shape"),
        ("awq", "qzeros", None, "lacks .qzeros"),
        ("awq", "weight", np.zeros((96, 64), np.float32), "plain weights beside"),
        ("awq", "pre_quant_scale", np.ones(64, np.float32), "pre_quant_scale"),
        ("awq", "bias", np.ones(96, np.float32), "not zero"),
        ("gptq 4", "g_idx", np.zeros(64, np.int32), "g_idx"),
        ("gptq 4", "g_idx", np.full(64, -1, np.int32), "g_idx"),
        ("gptq 4", "qweight", np.zeros((8, 95), np.int32), "shape"),
        ("w4a16", "weight_shape", np.array([96, 63]), "weight_shape"),
        ("w4a16", "weight_scale", np.full((96, 2), np.inf, np.float32), "not finite"),
        ("w4a16", "weight_scale", np.ones((96, 1), np.float32), "shape"),
        ("w8a8", "weight", np.zeros((96, 64), np.uint8), "U8"),
        ("fp8 blocks", "weight_scale_inv", np.ones((1, 1), np.float32), "shape"),
        ("fp8 blocks", "weight_scale_inv", np.full((3, 2), np.nan, np.float32), "not finite"),
        ("fp8 blocks", "weight_scale_inv", None, "F8_E4M3"),
        ("fp8 dynamic", "weight", ("F8_E4M3", np.full((96, 64), 127, np.uint8)), "not finite"),
        ("nf4", "weight.absmax", np.ones(95, np.float32), "shape"),
        ("nf4", "weight.quant_state.bitsandbytes__nf4", np.zeros(4, np.uint8), "JSON"),
        ("int8", "weight_format", np.array(1, np.uint8), "weight_format"),
        ("mxfp4", "weight_scale", np.full((96, 2), 255, np.uint8), "not finite"),
        ("nvfp4", "weight_scale_2", np.array([np.nan], np.float32), "not finite"),
        ("hqq", "zero", np.ones((3, 1), np.float16), "shape"),
        ("hqq", "nbits", np.array(3, np.int32), "nbits"),
        ("torchao int4", "_weight_scale", np.ones((5, 96), np.float32), "groups"),
    ],
)
def test_damage_is_named(tmp_path: Path, name: str, part: str, value: Any, words: str) -> None:
    def change(tensors: dict[str, Stored]) -> None:
        key = f"{LAYER}.{part}"
        if value is None:
            del tensors[key]
        else:
            tensors[key] = value if isinstance(value, tuple) else plain(value)

    directory = damaged(tmp_path, name, change)
    with pytest.raises(CheckpointError) as caught:
        read(directory)
    assert LAYER in str(caught.value) and words in str(caught.value)
    assert str(directory) in str(caught.value)


def test_a_bias_of_zeros_says_nothing(tmp_path: Path) -> None:
    def change(tensors: dict[str, Stored]) -> None:
        tensors[f"{LAYER}.bias"] = plain(np.zeros(96, np.float16))

    assert read(damaged(tmp_path, "gptq 4", change))


def test_scales_of_activations_and_caches_are_left_unread(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def change(tensors: dict[str, Stored]) -> None:
        one = plain(np.ones(1, np.float32))
        tensors[f"{LAYER}.input_scale"] = one
        tensors["model.layers.1.self_attn.k_scale"] = one
        tensors["model.layers.1.self_attn.v_proj.output_scale"] = one

    read(damaged(tmp_path, "w8a8", change))
    assert "stay unread" not in caplog.text


def test_an_unknown_method_lists_those_that_are_read(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m", lambda module: None, {"quant_method": "aqlm"})
    with pytest.raises(ModelError) as caught:
        load_model(EngineConfig(str(tmp_path / "m"), **SMALL))
    assert "aqlm" in str(caught.value)
    assert all(method in str(caught.value) for method in METHODS)


@pytest.mark.parametrize("options", [{"quantization": "int4"}, {"load_format": "dummy"}])
def test_options_for_plain_checkpoints(tmp_path: Path, options: dict[str, Any]) -> None:
    write_checkpoint(tmp_path / "m", but_the_head("awq"), WRITERS["awq"][0])
    with pytest.raises(ConfigError, match="awq"):
        load_model(EngineConfig(str(tmp_path / "m"), **options, **SMALL))


def test_a_config_without_quantized_layers_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_checkpoint(tmp_path / "m", lambda module: None, WRITERS["awq"][0])
    assert {weight.dtype for weight in read(tmp_path / "m").weights.values()} == {"F32"}
    assert "no matrix that is stored so" in caplog.text
