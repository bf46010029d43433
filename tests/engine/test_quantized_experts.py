"""gpt-oss as it is published: experts in stacks of MXFP4, beside transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.config import EngineConfig
from quire.errors import CheckpointError
from quire.runtime.load import load_model
from quire.weights.checkpoint import open_checkpoint
from tests.engine.driving import Bench, Circumstances, random_jobs
from tests.engine.quantized_checkpoints import floats, read
from tests.models.case import Case
from tests.models.cases_mixtures import BASE
from tests.models.checkpoints import build_oracle, oracle_logits, random_tokens
from tests.models.computing import BACKENDS, Loaded, Model, distance, need
from tests.quant.layers import Stored, save

pytestmark = [pytest.mark.oracle, pytest.mark.usefixtures("cache")]

CONFIG = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": [
        "model.layers.*.self_attn",
        "model.layers.*.mlp.router",
        "model.embed_tokens",
        "lm_head",
    ],
}
FIELDS = {"head_dim": 16, "num_local_experts": 5, "num_experts_per_tok": 2, "intermediate_size": 96}
CASE = Case("gpt-oss-published", "gpt_oss", {**BASE, "hidden_size": 64, **FIELDS})
STACKS = ("gate_up_proj", "down_proj")


def publish(directory: Path) -> Any:
    """Write a random gpt-oss with blocks and scales; transformers' model of the same weights."""
    torch = pytest.importorskip("torch")
    decode = pytest.importorskip("transformers.integrations.mxfp4").convert_moe_packed_tensors
    model = build_oracle(CASE, directory)
    checkpoint = open_checkpoint(directory)
    tensors: dict[str, Stored] = {}
    random = np.random.default_rng(2)
    parameters = dict(model.named_parameters())
    for name in checkpoint.names:
        raw = checkpoint.tensor(name)
        if not name.endswith(STACKS):
            tensors[name] = raw.dtype, np.array(raw.data)
            continue
        count, cols, rows = raw.shape
        blocks = random.integers(0, 256, (count, rows, cols // 32, 16), np.uint8)
        scales = random.integers(121, 125, (count, rows, cols // 32), np.uint8)
        tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = ("U8", blocks), ("U8", scales)
        weights = decode(torch.from_numpy(blocks), torch.from_numpy(scales), dtype=torch.float32)
        with torch.no_grad():
            parameters[name].copy_(weights)
    save(directory / "model.safetensors", tensors)
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": CONFIG}))
    return model


def stored(directory: Path) -> dict[str, Stored]:
    checkpoint = open_checkpoint(directory)
    found = {name: checkpoint.tensor(name) for name in checkpoint.names}
    return {name: (each.dtype, np.array(each.data)) for name, each in found.items()}


def test_packed_experts_are_those_that_transformers_decodes(tmp_path: Path) -> None:
    """Bit for bit, gate and up in alternate rows, and so are the logits of these weights."""
    model = publish(tmp_path / "m")
    loaded = read(tmp_path / "m")
    expected = dict(model.named_parameters())
    for layer in range(len(loaded.spec.blocks)):
        prefix = f"model.layers.{layer}.mlp.experts."
        gate_up, down = (expected[prefix + each].detach().numpy() for each in STACKS)
        for e in range(5):
            found = {
                each: loaded.weights[f"{prefix}{e}.{each}_proj.weight"]
                for each in ("gate", "up", "down")
            }
            assert {each.dtype for each in found.values()} == {"TABLE4"}
            np.testing.assert_array_equal(found["gate"].float32().T, gate_up[e][:, 0::2])
            np.testing.assert_array_equal(found["up"].float32().T, gate_up[e][:, 1::2])
            np.testing.assert_array_equal(found["down"].float32().T, down[e])
    tokens = random_tokens(CASE)
    weights = {name: weight.float32() for name, weight in loaded.weights.items()}
    exact = Model(floats(loaded.spec, weights), "reference").logits(tokens)
    assert distance(exact, oracle_logits(model, tokens)) < 1e-4


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_they_are_served_packed(backend: str, tmp_path: Path) -> None:
    """Near the logits of the weights, for activations are rounded; together = alone."""
    need(backend)
    model = publish(tmp_path / "m")
    loaded = read(tmp_path / "m")
    tokens = random_tokens(CASE)
    found = Model(loaded, backend).logits(tokens)
    assert distance(found, oracle_logits(model, tokens)) < 0.04
    if backend == "torch":
        return  # it sums in another order with other neighbours
    bench, jobs = Bench(loaded, backend), random_jobs(3, 6)
    together = bench.run(jobs, Circumstances(threads=2, token_budget=24, prefix_caching=True))
    assert together.answers == [bench.alone(job) for job in jobs]


def test_the_engine_loads_them(tmp_path: Path) -> None:
    publish(tmp_path / "m")
    config = EngineConfig(str(tmp_path / "m"), kv_cache_memory_bytes=2**20)
    model = load_model(config)
    assert model.spec.architecture == "GptOssForCausalLM"


def test_a_config_that_says_mxfp4_of_plain_experts(tmp_path: Path) -> None:
    """Exports in bfloat16 keep the line; the tensors say what they are."""
    model = build_oracle(CASE, tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": CONFIG}))
    loaded: Loaded = read(tmp_path / "m")
    tokens = random_tokens(CASE)
    expected = oracle_logits(model, tokens)
    assert distance(Model(loaded, "reference").logits(tokens), expected) < 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("lost", r"lacks _scales; it has _bias, _blocks"),
        ("more", r"no part of it: _zeros"),
        ("fewer", r"the config says 5 experts"),
        ("short", r"scales has the shape"),
    ],
)
def test_stacks_that_do_not_fit(change: str, message: str, tmp_path: Path) -> None:
    publish(tmp_path / "m")
    tensors = stored(tmp_path / "m")
    name = "model.layers.0.mlp.experts.down_proj_scales"
    dtype, scales = tensors.pop(name)
    if change == "more":
        tensors[name.replace("scales", "zeros")] = dtype, scales
        tensors[name] = dtype, scales
    elif change == "fewer":
        tensors[name] = dtype, scales[:4].copy()
    elif change == "short":
        tensors[name] = dtype, scales[:, :8].copy()
    save(tmp_path / "m" / "model.safetensors", tensors)
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "m")
