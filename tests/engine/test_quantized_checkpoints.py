"""Checkpoints of every format from their files to logits, beside their weights as plain floats."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.llm import LLM
from quire.quant.formats import awq, compressed_tensors, gptq
from quire.quant.matrix import QuantizedMatrix
from quire.runtime import stored_weights
from quire.sampling_params import SamplingParams
from quire.weights.checkpoint import open_checkpoint
from quire.weights.hub import DEMO
from tests.engine.conftest import SMALL
from tests.engine.driving import Bench, Circumstances, random_jobs
from tests.engine.quantized_checkpoints import (
    PROMPT,
    but_the_head,
    damaged,
    floats,
    read,
    write_checkpoint,
)
from tests.models.computing import ISAS, Loaded, Model, distance, need
from tests.quant.layers import WRITERS, Stored, plain, random_matrix, save

pytestmark = pytest.mark.usefixtures("cache")
SERVED = {"gptq 8": "INT8", "w8a8": "INT8", "int8": "INT8"}
SERVED |= {"nf4": "TABLE4", "mxfp4": "TABLE4", "nvfp4": "TABLE4"}
SERVED |= dict.fromkeys(("fp8 dynamic", "fp8 static", "fp8 fbgemm", "fp8 blocks"), "F8_E4M3")
"""The layout of each format; of all others INT4."""
each_format = pytest.mark.parametrize("name", WRITERS)


# --- every format


@each_format
def test_what_is_served_is_what_the_definition_says(name: str, tmp_path: Path) -> None:
    """Exactly, up to what rounds scales and minimums, and NF4's table, to the layout's numbers."""
    spec, weights = write_checkpoint(tmp_path / "m", but_the_head(name), WRITERS[name][0])
    loaded = read(tmp_path / "m")
    for linear in spec.linears():
        stored = loaded.weights[linear.weight.name]
        expected = weights[linear.weight.name]
        if linear.weight.name == "lm_head.weight":
            assert stored.dtype == "F32"
        else:
            assert stored.dtype == SERVED.get(name, "INT4")
        off = np.abs(stored.float32() - expected).max(axis=1)
        room = 0.005 if name == "nf4" else 2**-10
        assert (off <= room * np.abs(expected).max(axis=1)).all()


@each_format
def test_logits_are_those_of_the_weights(name: str, tmp_path: Path) -> None:
    """int8 activations put each product off by at most 1/254 of a block's largest, at random.

    Through two layers that came to at most 2 % of the largest logit; weights that are read wrong
    give other logits altogether, and floats none of this.
    """
    spec, weights = write_checkpoint(tmp_path / "m", but_the_head(name), WRITERS[name][0])
    found = Model(read(tmp_path / "m"), "native-portable").logits(PROMPT)
    expected = Model(floats(spec, weights), "reference").logits(PROMPT)
    assert distance(found, expected) < (0.002 if "fp8" in name else 0.04)


def test_random_matrices_have_the_spread_they_should() -> None:
    """What the bounds above rest on."""
    weights = random_matrix(np.random.default_rng(0), (64, 96)).float32()
    assert 0.3 < weights.std() * 96**0.5 < 1.2


# --- the whole way


@pytest.mark.parametrize("backend", ISAS)
def test_mixed_formats_are_batch_invariant(backend: str, tmp_path: Path) -> None:
    """Layers of 4 and 8 bits, float8 and plain floats in one model; together = alone."""
    need(backend)
    loaded = mixed(tmp_path / "m")
    assert {w.dtype for w in loaded.weights.values()} >= {"INT4", "INT8", "F8_E4M3", "F32"}
    bench = Bench(loaded, backend)
    jobs = random_jobs(3, 6)
    together = bench.run(jobs, Circumstances(threads=2, token_budget=24, prefix_caching=True))
    assert together.answers == [bench.alone(job) for job in jobs]


def mixed(directory: Path) -> Loaded:
    """A model of compressed-tensors with a group of each kind."""
    layouts = {"q_proj": "w4a16", "k_proj": "w8a8", "up_proj": "fp8 dynamic", "o_proj": "w8a8"}

    def kind_of(module: str) -> str | None:
        return layouts.get(module.rpartition(".")[2])

    groups = {}
    for layer, kind in layouts.items():
        config = WRITERS[kind][0]
        group = {**config["config_groups"]["group_0"], "targets": [f"re:.*{layer}$"]}
        groups[layer] = {**group, "format": config["format"]}
    config = {**WRITERS["w4a16"][0], "format": "mixed-precision", "config_groups": groups}
    write_checkpoint(directory, kind_of, config)
    return read(directory)


def test_mixed_formats_have_the_logits_of_their_weights(tmp_path: Path) -> None:
    loaded = mixed(tmp_path / "m")
    weights = {name: weight.float32() for name, weight in loaded.weights.items()}
    expected = Model(floats(loaded.spec, weights), "reference").logits(PROMPT)
    assert distance(Model(loaded, "native-portable").logits(PROMPT), expected) < 0.04


def quantized_demo(directory: Path, how: str) -> None:
    """The demo model, rounded to nearest, as one of our writers stores it."""
    shutil.copytree(DEMO, directory)
    file = directory / "model.safetensors"
    checkpoint = open_checkpoint(DEMO)
    tensors: dict[str, Stored] = {}
    for name in checkpoint.names:
        raw = checkpoint.tensor(name)
        if len(raw.shape) == 2 and "layers" in name:
            module, matrix = name.removesuffix(".weight"), rounded(name, raw.float32())
            write = {"awq": awq.write, "gptq": gptq.write, "w4a16": compressed_tensors.write}[how]
            tensors |= {n: plain(data) for n, data in write(module, matrix).items()}
        else:
            tensors[name] = (raw.dtype, raw.data)
    configs = {"awq": awq.config(32), "gptq": gptq.config(4, 32, True)}
    config = configs.get(how) or compressed_tensors.config(4, 32, True)
    save(file, tensors)
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": config}))


def rounded(name: str, weights: np.ndarray) -> QuantizedMatrix:
    rows, cols = weights.shape
    groups = weights.reshape(rows, -1, 32)
    scales = (np.abs(groups).max(-1) / 7).astype(np.float16).astype(np.float32)
    codes = np.rint(groups / scales[..., None]).clip(-8, 7) + 8
    return QuantizedMatrix(name, 4, 32, codes.reshape(rows, cols).astype(np.uint8), scales)


def generate(directory: Path, **options: Any) -> list[int]:
    greedy = SamplingParams(temperature=0.0, max_tokens=12)
    (output,) = LLM(str(directory), **{**SMALL, **options}).generate(
        "In the beginning", greedy, use_tqdm=False
    )
    return output.outputs[0].token_ids


def test_one_model_in_three_formats_says_the_same(tmp_path: Path) -> None:
    """The same codes and scales in other files: the same tokens, to the last."""
    outputs = []
    for how in ("awq", "gptq", "w4a16"):
        quantized_demo(tmp_path / how, how)
        outputs.append(generate(tmp_path / how))
    assert outputs[0] == outputs[1] == outputs[2] and len(outputs[0]) == 12


# --- the pack cache


def no_reading(*arguments: Any) -> Any:
    raise AssertionError("it is read again")


@pytest.mark.parametrize("name", ["awq", "nf4", "fp8 blocks"])
def test_the_second_start_maps_what_the_first_packed(
    name: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path / "m", but_the_head(name), WRITERS[name][0])
    first = read(tmp_path / "m")
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(stored_weights, "serve_matrix", no_reading)
    second = read(tmp_path / "m")
    for key, weight in first.weights.items():
        assert second.weights[key].dtype == weight.dtype
        np.testing.assert_array_equal(second.weights[key].data, weight.data)
        assert "proj.weight" not in key or not second.weights[key].data.flags.owndata


def test_another_config_is_another_file(tmp_path: Path, cache: Path) -> None:
    write_checkpoint(tmp_path / "m", but_the_head("gptq 4 asymmetric"), gptq.config(4, 32, False))
    one = read(tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    text = path.read_text()
    path.write_text(text.replace('"checkpoint_format": "gptq"', '"checkpoint_format": "gptq_v2"'))
    other = read(tmp_path / "m")
    name = "model.layers.0.mlp.up_proj.weight"
    assert (one.weights[name].float32() != other.weights[name].float32()).any()
    assert len(list(cache.iterdir())) == 2


def test_dtype_decides_about_what_becomes_floats(tmp_path: Path) -> None:
    """Of float8 only e4m3 has a kernel."""

    def change(tensors: dict[str, Stored]) -> None:
        for key, (dtype, codes) in tensors.items():
            if dtype == "F8_E4M3":
                tensors[key] = "F8_E5M2", codes & 0xBF

    damaged(tmp_path, "fp8 static", change)
    name = "model.layers.0.mlp.up_proj.weight"
    found = {dtype: read(tmp_path / "m", dtype).weights[name].dtype for dtype in DTYPES}
    assert found == {"auto": "F16", "bfloat16": "BF16", "float16": "F16", "float32": "F32"}


DTYPES = ("auto", "bfloat16", "float16", "float32")
