"""The same numbers in every format that holds them, and back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quire.config import EngineConfig
from quire.convert.convert import Format, convert_checkpoint
from quire.convert.recipe import CheckpointFormat, Quantization
from quire.convert.run import quantize_model, quantize_to_directory
from quire.convert.served_model import ServedModel
from quire.convert.source import Source, open_source
from quire.convert.stored_model import open_stored_model
from quire.convert.texts import texts_of_run
from quire.errors import ConfigError, ModelError
from quire.quant.matrix import QuantizedMatrix
from quire.weights.tensor import RawTensor
from tests.convert.tiny import DELTA_NETS, write_tiny

TOKENS = list(range(7, 47))


def weights(directory: Path) -> dict[str, np.ndarray]:
    found = {}
    model = open_stored_model(EngineConfig(str(directory)))
    for name in model:
        weight = model[name]
        assert isinstance(weight, RawTensor | QuantizedMatrix)
        found[name] = weight.float32()
    return found


def logits(model: Path) -> np.ndarray:
    served = ServedModel(
        EngineConfig(str(model), backend="reference", kv_cache_dtype="float32"), 64
    )
    return np.concatenate(list(served.logits(TOKENS)))


def quantized(source: Source, asked: Quantization, output: Path, **changes: object) -> Path:
    asked = replace(asked, algorithm="rtn", **changes)  # type: ignore[arg-type]
    quantize_model(source, asked, texts_of_run(source, asked), output, show_progress=False)
    return output


@pytest.mark.parametrize("scheme", ["w4a16", "w4a16_asym"])
def test_formats_hold_the_same_numbers(
    scheme: str, source: Source, asked: Quantization, tmp_path: Path
) -> None:
    first = quantized(source, asked, tmp_path / "first", scheme=scheme, format="gptq")
    expected = weights(first)
    directory, formats = first, ("awq", "compressed-tensors", "gptq")
    for format in formats:
        target = tmp_path / format
        convert_checkpoint(EngineConfig(str(directory)), target, format, show_progress=False)  # type: ignore[arg-type]
        found = weights(target)
        assert found.keys() == expected.keys()
        assert all((found[name] == expected[name]).all() for name in expected)
        directory = target


@pytest.mark.parametrize("format", ["compressed-tensors", "awq", "gptq"])
def test_quantizing_into_a_format_is_converting_to_it(
    format: CheckpointFormat, source: Source, asked: Quantization, tmp_path: Path
) -> None:
    """Half-precision scales in all of them, where the source is rounded to the same."""
    direct = quantized(source, asked, tmp_path / "direct", format=format)
    through = quantized(source, asked, tmp_path / "through", format="gptq")
    if format != "compressed-tensors":
        one, two = weights(direct), weights(through)
        assert all((one[name] == two[name]).all() for name in one)
    config = json.loads((direct / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == format
    convert_checkpoint(EngineConfig(str(direct)), tmp_path / "ct", "compressed-tensors", False)
    section = json.loads((tmp_path / "ct" / "config.json").read_text())["quantization_config"]
    assert section["ignore"] == ["lm_head"]  # tied: a layer of its own to others


def test_gguf_is_the_same_model(source: Source, asked: Quantization, tmp_path: Path) -> None:
    plain = quantized(source, asked, tmp_path / "plain", format="gptq")
    direct = quantized(source, asked, tmp_path / "direct", format="gguf")
    convert_checkpoint(EngineConfig(str(plain)), tmp_path / "converted", "gguf", False)
    assert [path.name for path in direct.iterdir()] == ["model.gguf"]
    expected = logits(plain)
    for directory in (direct, tmp_path / "converted"):
        found = logits(directory / "model.gguf")
        assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()


def test_floats_come_back(source: Source, asked: Quantization, tmp_path: Path) -> None:
    plain = quantized(source, asked, tmp_path / "plain")
    convert_checkpoint(EngineConfig(str(plain)), tmp_path / "float", "float", False)
    assert "quantization_config" not in json.loads((tmp_path / "float/config.json").read_text())
    one, two = weights(plain), weights(tmp_path / "float")
    assert all(np.allclose(one[name], two[name], rtol=2**-8) for name in one)


@pytest.mark.parametrize(
    ("scheme", "format", "fault"),
    [
        ("w3a16", "awq", "awq"),
        ("w3a16", "gguf", "fits none"),
        ("mxfp4", "gptq", "gptq"),
        ("fp8", "awq", "awq"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(
    scheme: str,
    format: Format,
    fault: str,
    source: Source,
    asked: Quantization,
    tmp_path: Path,
) -> None:
    size = None if scheme in ("mxfp4", "fp8") else 32
    stored = quantized(source, asked, tmp_path / "q", scheme=scheme, group_size=size)
    with pytest.raises(ConfigError, match=fault):
        convert_checkpoint(EngineConfig(str(stored)), tmp_path / "out", format, False)
    assert not (tmp_path / "out").exists()


def test_floats_are_not_converted(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="quire quantize"):
        convert_checkpoint(EngineConfig(str(tiny)), tmp_path / "out", "gptq", False)


def test_a_gguf_file_is_not_converted(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    for model in (path, tmp_path):
        with pytest.raises(ConfigError, match="is a GGUF file"):
            convert_checkpoint(EngineConfig(str(model)), tmp_path / "out", "awq", False)
        with pytest.raises(ConfigError, match="is a GGUF file"):
            open_source(EngineConfig(str(model)))


def test_what_gguf_cannot_hold_is_refused_before_any_work(tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "model", **DELTA_NETS)
    asked = Quantization(algorithm="rtn", group_size=16, format="gguf")
    with pytest.raises(ModelError, match="cannot be written as GGUF"):
        quantize_to_directory(EngineConfig(str(model)), asked, tmp_path / "out", False, False)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_output_that_exists_is_left_alone(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exists"):
        convert_checkpoint(EngineConfig(str(tiny)), tmp_path, "gguf", False)
