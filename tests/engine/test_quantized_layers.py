"""What quantized checkpoints say of single layers: those left alone, other names, a head, rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.config import EngineConfig
from quire.quant.formats import awq, gptq
from quire.runtime.load import load_model
from tests.engine.conftest import SMALL
from tests.engine.quantized_checkpoints import (
    but_the_head,
    read,
    write_checkpoint,
)
from tests.quant.layers import Stored

pytestmark = pytest.mark.usefixtures("cache")


def test_layers_that_are_left_alone_are_plain(tmp_path: Path) -> None:
    config = {**awq.config(32), "modules_to_not_convert": ["layers.0", "v_proj"]}

    def kind_of(module: str) -> str | None:
        plain_ = "layers.0" in module or "v_proj" in module or module == "lm_head"
        return None if plain_ else "awq"

    write_checkpoint(tmp_path / "m", kind_of, config)
    weights = read(tmp_path / "m").weights
    packed = {name for name, weight in weights.items() if weight.dtype == "INT4"}
    assert len(packed) == 6 and all("layers.1" in name for name in packed)


def test_names_with_another_prefix(tmp_path: Path) -> None:
    """Exports put different words before the same layers, and the lists use theirs."""
    config = {**awq.config(32), "modules_to_not_convert": ["model.language_model.layers.0"]}

    def kind_of(module: str) -> str | None:
        return None if "layers.0" in module or module == "lm_head" else "awq"

    def change(tensors: dict[str, Stored]) -> None:
        for name in list(tensors):
            tensors[name.replace("model.", "model.language_model.", 1)] = tensors.pop(name)

    write_checkpoint(tmp_path / "m", kind_of, config, change)
    weights = read(tmp_path / "m").weights
    assert sum(weight.dtype == "INT4" for weight in weights.values()) == 7


def test_dynamic_rules_of_gptq(tmp_path: Path) -> None:
    config = gptq.config(4, 32, True)
    config["dynamic"] = {r"-:.*k_proj": {}, r"+:.*down_proj": {"bits": 8, "sym": False}}

    def kind_of(module: str) -> str | None:
        if "k_proj" in module or module == "lm_head":
            return None
        return "gptq 8" if "down_proj" in module else "gptq 4"

    _, expected = write_checkpoint(tmp_path / "m", kind_of, config)
    weights = read(tmp_path / "m").weights
    for name, dtype in (("k_proj", "F32"), ("q_proj", "INT4")):
        assert weights[f"model.layers.1.self_attn.{name}.weight"].dtype == dtype
    down = "model.layers.1.mlp.down_proj.weight"
    assert weights[down].dtype == "INT8"
    np.testing.assert_array_equal(weights[down].float32(), expected[down])


def test_a_quantized_head(tmp_path: Path) -> None:
    config = {**gptq.config(4, 32, True), "lm_head": True}
    write_checkpoint(tmp_path / "m", lambda module: "gptq 4", config)
    assert read(tmp_path / "m").weights["lm_head.weight"].dtype == "INT4"
    assert load_model(EngineConfig(str(tmp_path / "m"), **SMALL)).spec.tied is False


def test_settings_in_a_file_of_their_own(tmp_path: Path) -> None:
    """As older writers left them."""
    write_checkpoint(tmp_path / "m", but_the_head("gptq 4"), {})
    config = {k: v for k, v in gptq.config(4, 32, True).items() if k != "quant_method"}
    (tmp_path / "m" / "quantize_config.json").write_text(json.dumps(config))
    executable: Any = load_model(EngineConfig(str(tmp_path / "m"), **SMALL)).executable
    assert "INT4" in {weight.dtype for weight in executable.weights.values()}
