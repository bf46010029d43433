"""Quantized checkpoints whose matrices hold several layers: each layer gets its own rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.models.registry import build_spec, load_families
from quire.models.spec import Linear, ModelSpec
from quire.quant.formats.registry import find_quantization
from quire.runtime.stored_formats import stored_formats
from quire.runtime.stored_weights import read_weights
from quire.weights.checkpoint import open_checkpoint
from quire.weights.part_of_tensor import part_of_tensor
from quire.weights.tensor import RawTensor
from tests.models.computing import Loaded, Model, distance
from tests.quant.layers import WRITERS, Stored, plain, save

pytestmark = pytest.mark.usefixtures("cache")
PROMPT = list(range(3, 23))
FUSED = {"InternLM2ForCausalLM": {"bias": True}, "ChatGLMModel": {}, "QWenLMHeadModel": {}}
each_family = pytest.mark.parametrize("architecture", FUSED)
each_format = pytest.mark.parametrize("name", WRITERS)


def write_checkpoint(directory: Path, architecture: str, kind: str) -> tuple[ModelSpec, Loaded]:
    """Random tensors under the family's own names, those of layers but the head quantized.

    Returns the spec and the weights by their definition.
    """
    directory.mkdir()
    values = {**load_families()[architecture].tiny, "architectures": [architecture]}
    values.update(FUSED[architecture])
    spec, random = build_spec(values), np.random.default_rng(5)
    head = spec.head.weight.places[-1].name
    layers = {linear.weight.places[-1].name for linear in spec.linears()} - {head}
    tensors, whole = dict[str, Stored](), dict[str, RawTensor]()
    for weight in spec.weights().values():
        place = weight.places[-1]
        if place.name in whole:
            continue
        if place.name in layers:
            parts, data = WRITERS[kind][1](random, place.shape)
            module = place.name.removesuffix(".weight")
            tensors |= {f"{module}.{part}": stored for part, stored in parts.items()}
        else:
            data = random.normal(len(place.shape) == 1, 0.2, place.shape).astype(np.float32)
            tensors[place.name] = plain(data)
        whole[place.name] = RawTensor(place.name, "F32", place.shape, data)
    save(directory / "model.safetensors", tensors)
    config = {**values, "dtype": "float32", "quantization_config": WRITERS[kind][0]}
    (directory / "config.json").write_text(json.dumps(config))
    return spec, Loaded(spec, parts_of(spec, whole))


def parts_of(spec: ModelSpec, whole: dict[str, RawTensor]) -> dict[str, RawTensor]:
    return {
        name: part_of_tensor(whole[weight.places[-1].name], weight.places[-1])
        for name, weight in spec.weights().items()
    }


def read(directory: Path, spec: ModelSpec) -> Loaded:
    quantization = find_quantization(json.loads((directory / "config.json").read_text()))
    weights = read_weights(open_checkpoint(directory), spec, quantization, directory, "auto")
    return Loaded(spec, weights)


def linears(spec: ModelSpec) -> list[Linear]:
    return [each for each in spec.linears() if each.weight.name != spec.head.weight.name]


SERVED_WITHIN = {"nf4": 2**-7}
"""Of a row's largest weight; scales are float16, and the table of nf4 is served in 8 bits."""


@each_family
@each_format
def test_rows_of_every_format(name: str, architecture: str, tmp_path: Path) -> None:
    spec, expected = write_checkpoint(tmp_path / "m", architecture, name)
    loaded = read(tmp_path / "m", spec)
    for weight in spec.weights().values():
        found, wanted = (each.weights[weight.name].float32() for each in (loaded, expected))
        off = np.abs(found - wanted).max(axis=-1)
        most = SERVED_WITHIN.get(name, 2**-10) * np.abs(wanted).max(axis=-1)
        assert (off <= most).all(), weight.name


@each_family
def test_logits(architecture: str, tmp_path: Path) -> None:
    spec, expected = write_checkpoint(tmp_path / "m", architecture, "awq")
    loaded = read(tmp_path / "m", spec)
    assert all(loaded.weights[each.weight.name].dtype == "INT4" for each in linears(spec))
    logits = Model(loaded, "native-portable").logits(PROMPT)
    assert distance(logits, Model(expected).logits(PROMPT)) < 0.04
    again = read(tmp_path / "m", spec)  # now from the pack cache
    np.testing.assert_array_equal(Model(again, "native-portable").logits(PROMPT), logits)


@each_family
def test_formats_are_named_before_weights_are_read(architecture: str, tmp_path: Path) -> None:
    spec, _ = write_checkpoint(tmp_path / "m", architecture, "awq")
    values: dict[str, Any] = json.loads((tmp_path / "m" / "config.json").read_text())
    quantization = find_quantization(values)
    for _ in ("with weights", "without"):
        found = stored_formats(spec, quantization, tmp_path / "m")
        assert {each.weight.name for each in linears(spec)} <= set(found.stored_as)
        (tmp_path / "m" / "model.safetensors").unlink(missing_ok=True)
