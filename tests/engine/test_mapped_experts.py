"""A mixture whose weights do not fit: experts stay mapped, and the answers are the same."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quire.cli.main import main
from quire.config import EngineConfig
from quire.errors import CapacityError
from quire.models.registry import build_spec, load_families
from quire.runtime import backends, load, machine
from quire.runtime.huge_pages import is_mapped
from quire.runtime.load import LoadedModel, load_model
from tests.graph.interpreting import random_weights
from tests.models.computing import Loaded, Model
from tests.quant.layers import plain, save

PROMPT = list(range(3, 40))
FAMILY = "Qwen3MoeForCausalLM"
MIXTURE = {
    "hidden_size": 64,
    "moe_intermediate_size": 256,
    "num_experts": 16,
    "num_experts_per_tok": 3,
}
KV_BYTES = 2**19


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUIRE_CACHE_DIR", str(tmp_path / "cache"))
    values = {**load_families()[FAMILY].tiny, **MIXTURE, "architectures": [FAMILY]}
    spec = build_spec(values)
    directory = tmp_path / "m"
    directory.mkdir()
    save(directory / "model.safetensors", {n: plain(w) for n, w in random_weights(spec).items()})
    (directory / "config.json").write_text(json.dumps({**values, "dtype": "float32"}))
    return directory


def loaded(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, free: int, quantization: str = "auto"
) -> LoadedModel:
    """As the engine loads it on a machine with so much memory."""
    here = replace(machine.inspect_machine(), free_memory=free)
    monkeypatch.setattr(load, "inspect_machine", lambda: here)
    config = EngineConfig(
        str(checkpoint),
        kv_cache_memory_bytes=KV_BYTES,
        quantization=quantization,  # type: ignore[arg-type]
        max_num_batched_tokens=64,
    )
    return load_model(config)


def sizes(model: LoadedModel) -> tuple[int, int]:
    """Bytes of all weights, and of experts."""
    weights, experts = model.executable.weights, model.spec.expert_matrices  # type: ignore[attr-defined]
    every = {name: each.data.nbytes for name, each in weights.items()}
    return sum(every.values()), sum(every[name] for name in experts)


@pytest.mark.parametrize("quantization", ["auto", "int4"])
def test_experts_stay_mapped(
    quantization: str,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = loaded(checkpoint, monkeypatch, 2**30, quantization)
    total, experts = sizes(whole)
    assert experts > total // 2
    caplog.set_level(logging.WARNING)
    assert not any("experts" in line for line in whole.memory.lines())
    some = total - experts // 4 + KV_BYTES
    monkeypatch.setattr(backends, "has_huge_pages", lambda: True)
    part = loaded(checkpoint, monkeypatch, some, quantization)
    for name, weight in part.executable.weights.items():  # type: ignore[attr-defined]
        if name in part.spec.expert_matrices:
            assert is_mapped(weight.data), name
        elif len(weight.shape) == 2 and "layers" in name:
            assert not is_mapped(weight.data), name
    assert any("stay mapped in their files" in line for line in part.memory.lines())
    assert "slower" in caplog.text
    models = [
        Model(Loaded(each.spec, each.executable.weights), "native-portable")  # type: ignore[attr-defined]
        for each in (whole, part)
    ]
    np.testing.assert_array_equal(*(model.logits(PROMPT) for model in models))


def test_what_every_token_reads_must_fit(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CapacityError, match="not enough memory"):
        loaded(checkpoint, monkeypatch, KV_BYTES + 2**16)


@pytest.mark.parametrize("free", [2**30, 2**20])
def test_explain_says_it_too(
    free: int, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = replace(machine.inspect_machine(), free_memory=free)
    monkeypatch.setattr(machine, "inspect_machine", lambda: here)
    assert main(["explain", str(checkpoint)]) == 0
    text = capsys.readouterr().out
    assert ("stay mapped in their files" in text) == (free < 2**30)
    assert ("experts: they fit" in text) == (free == 2**30)


@pytest.mark.parametrize("backend", ["reference", "native-portable"])
def test_what_each_expert_met_is_counted(
    backend: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = loaded(checkpoint, monkeypatch, 2**30)
    weights = whole.executable.weights  # type: ignore[attr-defined]
    model = Model(Loaded(whole.spec, weights), backend)
    model.logits(PROMPT, [20, 17])
    usage = model.executable.expert_usage
    assert set(usage) == set(range(len(whole.spec.blocks)))
    again = Model(Loaded(whole.spec, weights), "reference")
    again.logits(PROMPT)
    for layer, counts in usage.items():
        assert counts.sum() == 3 * len(PROMPT) and len(counts) == 16
        np.testing.assert_array_equal(counts, again.executable.expert_usage[layer])
