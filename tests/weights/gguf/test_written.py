"""What we write is what llama.cpp's converter writes of the same checkpoint.

Of every architecture that is written: the same tensors to the last bit, and the same settings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.errors import ModelError
from quire.models.registry import build_spec
from quire.models.spec import ModelSpec
from quire.quant.matrix import QuantizedMatrix
from quire.weights.gguf.architectures import ARCHITECTURES
from quire.weights.gguf.checkpoint import GgufCheckpoint
from quire.weights.gguf.model import GgufModel
from quire.weights.gguf.write_model import write_model
from quire.weights.tensor import RawTensor
from tests.weights.gguf.cases import CASES, Case, config_of, spec_of, weights_of
from tests.weights.gguf.test_converted import opened

WRITTEN = tuple(
    case
    for case in CASES
    if any(
        case.name == key or case.name.startswith(f"{key}-")
        for key, each in ARCHITECTURES.items()
        if each.settings is not None
    )
    and not case.name.startswith(("deepseek2", "falcon-h1"))
)
"""The cases of all architectures that are written."""

NOTHING = {
    "rope.scaling.type": "none",
    "rope.scaling.factor": 1.0,
}
"""What the converter says and means nothing."""


def written(case: Case, path: Path) -> GgufModel:
    spec = spec_of(case)
    drawn = {
        name: RawTensor(name, "F32", values.shape, values)
        for name, values in weights_of(spec).items()
    }
    write_model(path, spec, drawn, {})
    return GgufModel(path)


@pytest.mark.parametrize("case", WRITTEN, ids=str)
def test_as_the_converter_writes(case: Case, tmp_path: Path) -> None:
    theirs, ours = opened(case, tmp_path), written(case, tmp_path / "ours.gguf")
    assert ours.tensors.keys() == theirs.tensors.keys()
    for name, tensor in theirs.tensors.items():
        found = ours.tensors[name]
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape), name
        # The frequencies of rotations are computed in float64 here, and in float32 there.
        rounding = 2e-7 if name.startswith("rope_") else 0.0
        one, other = (each.raw(name).view("<f4") for each in (ours, theirs))
        np.testing.assert_allclose(one, other, rounding, err_msg=name)
    found_settings = settings(ours)
    for key, value in settings(theirs).items():
        assert found_settings.get(key) == value or NOTHING.get(key) == value or differs(case, key)


def differs(case: Case, key: str) -> bool:
    """Whether a setting has no effect, or is a guess of the converter's."""
    return (
        # How q, k and v stand, which is the same in all files of an architecture.
        key == "tensor_data_layout"
        # Of dense layers, which there are none of.
        or (key == "feed_forward_length" and case.name in ("qwen2moe", "qwen3moe"))
        # Of RMS norms, which there are none of.
        or (key == "attention.layer_norm_rms_epsilon" and case.name == "nemotron")
        # Of a rotation that is not stretched.
        or (key == "rope.scaling.original_context_length" and case.name == "hunyuan-dense")
        # Made of the MLP's width and the number of key heads there, of the shared expert's here.
        or (key == "expert_shared_feed_forward_length" and case.name == "ernie4_5-moe")
    )


def settings(gguf: GgufModel) -> dict[str, Any]:
    """What the architecture says, without its name in front."""
    prefix = f"{gguf.metadata['general.architecture']}."
    return {
        key.removeprefix(prefix): value.tolist() if isinstance(value, np.ndarray) else value
        for key, value in gguf.metadata.items()
        if key.startswith(prefix)
    }


def test_most_architectures_are_written() -> None:
    refused = {key for key, each in ARCHITECTURES.items() if each.settings is None}
    recurrent = {
        "falcon-h1",
        "granitehybrid",
        "nemotron_h",
        "nemotron_h_moe",
        "qwen3next",
        "qwen35",
    }
    assert refused == recurrent | {"qwen35moe", "deepseek2", "mistral4"}
    assert len(WRITTEN) >= len(ARCHITECTURES) - len(refused)


@pytest.mark.parametrize("name", ["qwen3next", "deepseek2-v3"])
def test_others_are_refused_by_name(name: str, tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == name)
    with pytest.raises(ModelError, match=f"{case.family} cannot be written as GGUF"):
        written(case, tmp_path / "m.gguf")


def in_integers(spec: ModelSpec) -> dict[str, RawTensor | QuantizedMatrix]:
    """Weights whose matrices are codes of 8 bits, but for routers."""
    made: dict[str, RawTensor | QuantizedMatrix] = {}
    for name, weight in spec.weights().items():
        rows, random = weight.shape[0], np.random.default_rng(len(made))
        if len(weight.shape) == 1 or "gate.weight" in name or "router" in name:
            values = random.standard_normal(weight.shape, np.float32)
            made[name] = RawTensor(name, "F32", weight.shape, values)
        else:
            codes = random.integers(0, 256, weight.shape, np.uint8)
            scales = np.ones((rows, weight.shape[1] // 32), np.float32) / 128
            made[name] = QuantizedMatrix(name, 8, 32, codes, scales)
    return made


@pytest.mark.parametrize("name", ["phi3", "qwen3moe", "llama-mixtral"])
def test_blocks_come_back(name: str, tmp_path: Path) -> None:
    """Codes in stacks, side by side and turned."""
    case = next(case for case in CASES if case.name == name)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 32}
    config = {**config_of(case), **{k: v for k, v in sizes.items() if k in config_of(case)}}
    config.pop("head_dim", None)
    factors = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    if "rope_scaling" in config:
        config["rope_scaling"] = {**config["rope_scaling"], **factors}
    spec = build_spec(config)
    weights = in_integers(spec)
    write_model(tmp_path / "m.gguf", spec, weights, {})
    found = GgufCheckpoint(GgufModel(tmp_path / "m.gguf"))
    for name, matrix in found.matrices(spec.weights()).items():
        np.testing.assert_array_equal(matrix.read().float32(), weights[name].float32())
    q = "model.layers.0.self_attn.q_proj.weight"
    weights[q] = RawTensor(q, "F32", weights[q].shape, weights[q].float32())
    if name == "phi3":
        with pytest.raises(ValueError, match="share a tensor, and are stored as F32, Q8_0"):
            write_model(tmp_path / "m.gguf", spec, weights, {})
