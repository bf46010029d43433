"""Models in layouts of their own are quantized and converted like Llama, under Llama's names."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.config import EngineConfig
from quire.convert.convert import convert_checkpoint
from quire.convert.evaluate import evaluate_texts
from quire.convert.recipe import Quantization
from quire.convert.run import quantize_to_directory
from quire.convert.served_model import ServedModel
from quire.convert.stored_model import open_stored_model
from quire.weights.checkpoint import open_checkpoint
from tests.convert.tiny import DELTA_NETS, LATENT, MAMBA, PARALLEL_MIXERS, write_tiny

BAICHUAN: dict[str, Any] = {
    **{"architectures": ["BaichuanForCausalLM"], "model_max_length": 256},
    **{"num_key_value_heads": ..., "max_position_embeddings": ..., "head_dim": ...},
    **{"tie_word_embeddings": False, "num_hidden_layers": 1, "dtype": "float32"},
}


@pytest.mark.parametrize(
    ("family", "algorithm"),
    [
        (BAICHUAN, "rtn"),
        (LATENT, "awq+gptq"),
        (DELTA_NETS, "gptq"),
        (MAMBA, "rtn"),
        (PARALLEL_MIXERS, "awq"),
    ],
)
def test_what_is_written_is_read_and_serves_what_the_report_says(
    family: dict[str, Any], algorithm: str, text: str, asked: Quantization, tmp_path: Path
) -> None:
    """The report is of calibration's own forward pass: it must have the family's attention."""
    model = write_tiny(tmp_path / "m", **family)
    asked = replace(asked, scheme="w4a16", algorithm=algorithm, evaluation_tokens=4096)
    asked = replace(asked, group_size=16)
    report = quantize_to_directory(
        EngineConfig(str(model)), asked, tmp_path / "q", show_progress=False, measure_speed=False
    )
    names = open_checkpoint(tmp_path / "q").names
    assert any(name.endswith(".q_proj.weight_packed") for name in names)
    served, original = (
        ServedModel(EngineConfig(str(each), kv_cache_dtype="float32"), 64)
        for each in (tmp_path / "q", model)
    )
    (found,) = evaluate_texts(served, original, [text], 64)
    for name in ("perplexity_original", "perplexity"):
        nats, expected = (math.log(each[name]) for each in (found, report["figures"]))
        assert nats == pytest.approx(expected, rel=0.005)
    convert_checkpoint(
        EngineConfig(str(tmp_path / "q")), tmp_path / "f", "float", show_progress=False
    )
    floats, integers = (
        open_stored_model(EngineConfig(str(tmp_path / each))) for each in ("f", "q")
    )
    for name in floats:
        given, made = integers[name].float32(), floats[name].float32()
        np.testing.assert_allclose(made, given, rtol=2**-8)
