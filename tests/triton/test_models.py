"""Whole models through the kernels: the reference's logits, and bits that hang on nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from quire.backends.torch.backend import chosen_body
from quire.backends.torch.devices import find_device
from quire.backends.torch.triton.launcher import launcher_of
from quire.errors import ConfigError
from quire.graph.ir import Node
from quire.ops.attention import PagedAttention
from quire.ops.norm import RmsNorm
from quire.ops.quantize import Quantized
from quire.runtime.offload_plan import layer_matrices
from tests.engine.driving import random_model
from tests.models.computing import Model, distance
from tests.triton.interpreted_models import InterpretedModel

pytestmark = pytest.mark.oracle
torch.set_num_threads(1)


class Case(NamedTuple):
    """A family, what its numbers are stored as, and how far from the reference it may be."""

    family: str
    changes: Mapping[str, Any] = MappingProxyType({})
    dtype: str = "float32"
    quantization: str = "auto"
    kv_format: str = "float32"
    bound: float = 1e-5


LINEAR_AND_FULL = ["linear_attention", "linear_attention", "full_attention", "full_attention"]
MAMBA_AND_FULL = ["mamba", "attention", "attention", "attention"]
CASES = {
    "llama": Case("LlamaForCausalLM"),
    "qwen2, biases": Case("Qwen2ForCausalLM", kv_format="int8", bound=0.05),
    "qwen3, norms of heads": Case("Qwen3ForCausalLM", kv_format="fp8", bound=0.1),
    "gemma2, caps and windows": Case("Gemma2ForCausalLM", {"sliding_window": 9}),
    "gemma3": Case("Gemma3ForCausalLM", kv_format="int4", bound=0.1),
    "gpt-oss, sinks": Case("GptOssForCausalLM"),
    "mixtral": Case("MixtralForCausalLM"),
    "qwen3-moe of 4 bits": Case("Qwen3MoeForCausalLM", {}, "bfloat16", "int4", "bfloat16", 0.2),
    "deepseek-v2, latents": Case("DeepseekV2ForCausalLM", {"first_k_dense_replace": 2}),
    "minicpm3, latents": Case("MiniCPM3ForCausalLM", kv_format="int8", bound=0.05),
    "qwen3.5, delta nets": Case("Qwen3_5ForCausalLM", {"layer_types": LINEAR_AND_FULL}),
    "granite 4, mamba": Case("GraniteMoeHybridForCausalLM", {"layer_types": MAMBA_AND_FULL}),
    "nemotron-h, mamba": Case("NemotronHForCausalLM", {"hybrid_override_pattern": "M-*"}),
    "olmo2 of 8 bits": Case("Olmo2ForCausalLM", {}, "bfloat16", "int8", "float16", 0.1),
}
LENGTHS = (14, 11)
STEPS = ({1: (0, 3), 0: (0, 11)}, {0: (11, 12), 1: (3, 11)}, {0: (12, 14)})
"""A prompt in three pieces, the second one token; another request beside it."""


@pytest.mark.parametrize("name", CASES)
def test_is_the_reference_in_any_batch(name: str) -> None:
    case = CASES[name]
    loaded = random_model(case.family, case.dtype, case.quantization, **case.changes)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, loaded.spec.vocab_size, n).tolist() for n in LENGTHS]
    alone = InterpretedModel(loaded, case.kv_format).step(prompts, {0: (0, LENGTHS[0])})[0]
    expected = Model(loaded, "reference", case.kv_format).logits(prompts[0])
    assert distance(alone, expected) < case.bound
    if case.dtype == case.kv_format == "float32":
        np.testing.assert_array_equal(alone.argmax(1), expected.argmax(1))
    crowded = InterpretedModel(loaded, case.kv_format)
    parts = []
    for spans in STEPS:
        found = crowded.step(prompts, spans)
        parts.append(found[list(spans).index(0)])
    np.testing.assert_array_equal(np.concatenate(parts), alone)


def test_experts_that_come_from_the_host_are_found_where_they_are() -> None:
    """Three layers take turns in two buffers, so each is elsewhere in the next step."""
    loaded = random_model("Qwen3MoeForCausalLM", "bfloat16", "int4", num_hidden_layers=3)
    layers = layer_matrices(loaded.spec, dict.fromkeys(loaded.weights, 1))
    plain, offloaded = InterpretedModel(loaded), InterpretedModel(loaded, offloaded=layers)
    prompts = [[5, 9, 7, 11]]
    for span in ((0, 2), (2, 3), (3, 4)):
        (expected,), (found,) = (each.step(prompts, {0: span}) for each in (plain, offloaded))
        np.testing.assert_array_equal(found, expected)


def test_which_ops_are_left_to_torch() -> None:
    left = set()
    for case in CASES.values():
        model = InterpretedModel(random_model(case.family, case.dtype, case.quantization))
        left |= set(model.bodies["torch"])
    assert left == {
        "Activate", "Add", "Columns", "EmbeddingLookup", "KvWrite", "Quantize", "RopeAngles",
        "RouteTokens", "ScaleLogits", "SelectRows",
    }  # fmt: skip


def test_what_the_kernels_decline_is_said() -> None:
    backend = InterpretedModel(random_model("LlamaForCausalLM")).backend
    wide = Node(PagedAttention(0, 4, 2, 512, 1.0), (), ())
    assert backend.body(wide) == "torch cpu" and backend.declines(wide) is None
    assert "triton declines: heads of 512" in (backend.passed_over(wide) or "")
    fits = Node(PagedAttention(0, 4, 2, 256, 1.0), (), ())
    assert backend.body(fits) == "triton cpu" and backend.passed_over(fits) is None
    codes = Node(Quantized(RmsNorm("w", 1e-5), 1, 1), (), ())
    assert "int8" in (backend.declines(codes) or "")


def test_no_other_device_gets_the_kernels() -> None:
    """They are registered here, and an ordinary device has none of them."""
    assert {chosen_body(op, find_device("cpu")).name for op in (RmsNorm("w", 1e-5),)} == {"torch"}
    with pytest.raises(ConfigError, match="cpu runs none of the Triton kernels"):
        launcher_of(find_device("cpu"))
