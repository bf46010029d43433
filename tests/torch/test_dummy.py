"""Dummy weights that a device makes are the host's; codes of all layouts are of a good size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from quire.backends.torch.dummy import dummy_bytes
from quire.backends.torch.weights import Weights, sizes_on_device
from quire.config import EngineConfig
from quire.errors import CheckpointError
from quire.llm import LLM
from quire.quant.dummy import DummyMatrix
from quire.runtime.open_model import find_model, open_model
from quire.sampling_params import SamplingParams
from quire.weights import dummy
from quire.weights.dummy import DummyCheckpoint
from tests.torch.accelerators import Accelerator

pytestmark = pytest.mark.oracle
torch.set_num_threads(1)

DEVICE = Accelerator(True)
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_floats_are_those_of_the_host(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dummy, "BLOCK", 1009)
    shapes = {"a.weight": (41, 77), "b.weight": (3, 5), "norm.weight": (2048,), "none": (0, 3)}
    checkpoint = DummyCheckpoint(shapes, dtype, seed=2)
    for name in shapes:
        found = dummy_bytes(checkpoint.drawn(name), DEVICE)
        assert bytes(found.numpy()) == checkpoint.tensor(name).data.tobytes()


@pytest.mark.parametrize(
    "options",
    [{"quantization": "int4"}, {"quantization": "int8"}]
    + [{"hf_overrides": {"quantization_config": each}} for each in (FP8, AWQ)],
    ids=["int4", "int8", "fp8", "awq"],
)
def test_codes(options: dict[str, Any]) -> None:
    """Repeatable, about as large as floats would be, and a model of them says something."""
    settings = {"load_format": "dummy", "backend": "torch", "device": "cpu", "threads": 1}
    config = EngineConfig("demo", **{**settings, **options})
    model = open_model(config, find_model(config), 1)
    codes = {n: each for n, each in model.weights.items() if isinstance(each, DummyMatrix)}
    assert len(codes) >= 7 * len(model.spec.blocks)
    name, matrix = next(iter(codes.items()))
    first, second = (
        Weights({name: matrix}, {name}, DEVICE).matrix(name).widened(slice(None)).numpy()
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
    assert first.shape == matrix.shape and abs(first.mean()) < 0.02
    assert first.std() * matrix.shape[1] ** 0.5 == pytest.approx(1, abs=0.15)
    assert sizes_on_device({name: matrix}, {name}, DEVICE)[name] < 1.2 * first.size
    with pytest.raises(CheckpointError, match="made up on a device"):
        matrix.float32()
    llm = LLM("demo", **{**settings, **options})
    params = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)
    (output,) = llm.generate([[5, 6, 7]], params, use_tqdm=False)
    assert len(output.outputs[0].token_ids) == 4
