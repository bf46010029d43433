"""Every registered family computes on torch what the reference computes, in pieces as well."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from quire.backends.torch.backend import TorchBackend, chosen_body
from quire.backends.torch.executable import TorchExecutable
from quire.graph.program import compile_program
from quire.models.registry import load_families
from quire.ops.batch import Batch
from quire.ops.recurrent_state import RecurrentStates
from quire.runtime.rope_tables import RopeTables
from tests.engine.driving import random_model
from tests.models.computing import LIMITS, Loaded, Model, distance, kv_cache
from tests.torch.accelerators import Accelerator

pytestmark = pytest.mark.oracle
torch.set_num_threads(1)  # these models are too small for more

BOUND = 1e-5
"""The largest distance seen is 5e-6 of the largest logit."""
STEEP = ("Qwen3NextForCausalLM", "Qwen3_5MoeForCausalLM")
STEEP_BOUND = 2e-4
"""Delta nets with experts make more of the same rounding: 6e-5, and native is 3e-5 away."""


def tokens_of(loaded: Loaded) -> list[int]:
    return np.random.default_rng(0).integers(3, loaded.spec.vocab_size, 40).tolist()


@pytest.mark.parametrize("family", load_families())
def test_every_family(family: str) -> None:
    loaded = random_model(family)
    pieces = None if loaded.spec.bidirectional else [16, 1, 13, 10]
    found, expected = (
        Model(loaded, backend).logits(tokens_of(loaded), pieces)
        for backend in ("torch", "reference")
    )
    assert distance(found, expected) < (STEEP_BOUND if family in STEEP else BOUND)


# --- what other devices would do, on the CPU


def on_accelerator(loaded: Loaded, tokens: list[int], has_bfloat16: bool) -> tuple[Any, Any]:
    """The logits of a prompt, and the executable."""
    backend = TorchBackend("cpu")
    backend.device = Accelerator(has_bfloat16)
    formats = {name: backend.row_format(each.dtype) for name, each in loaded.weights.items()}
    has_body = lambda node: backend.declines(node) is None  # noqa: E731
    program = compile_program(loaded.spec, LIMITS, has_body, formats)
    cache, ropes = kv_cache(loaded.spec), RopeTables(loaded.spec.ropes, 2)
    states = RecurrentStates(2, loaded.spec.state_floats, on_host=False)
    executable = TorchExecutable(program, loaded.weights, cache, backend.device, states)
    batch = Batch.single(tokens, 0, np.arange(24)[::-1].copy(), ropes.arrays)
    return executable.logits(batch), executable


@pytest.mark.parametrize("quantization", ["auto", "int4"])
@pytest.mark.parametrize("has_bfloat16", [True, False])
@pytest.mark.parametrize(
    "family",
    [
        *("LlamaForCausalLM", "Qwen3MoeForCausalLM", "DeepseekV3ForCausalLM"),
        *("Qwen3_5ForCausalLM", "NemotronHForCausalLM"),
    ],
)
def test_narrow_products(family: str, has_bfloat16: bool, quantization: str) -> None:
    """Rounding moves the logits of most tokens a little, and sends a few to other experts."""
    loaded = random_model(family, "bfloat16", quantization)
    tokens = tokens_of(loaded)
    found, executable = on_accelerator(loaded, tokens, has_bfloat16)
    rounded = {type(node.op).__name__ for node in executable.program.graph}
    assert ("Quantize" in rounded) == has_bfloat16
    exact = Model(loaded, "torch").logits(tokens)
    off = np.median(np.abs(found - exact).max(axis=1)) / np.abs(exact).max()
    assert 1e-5 < off < (0.08 if has_bfloat16 else 0.004)


def test_every_op_of_every_graph_has_a_body() -> None:
    """Those of the graphs as they are lowered; fused ones are taken apart."""
    from quire.graph.lower import lower

    device = Accelerator(True)
    names = {
        chosen_body(node.op, device).name
        for spec in map(random_spec, load_families())
        for part in (spec, spec.vision and spec.vision.tower)
        if part is not None
        for node in lower(part)
    }
    assert names == {"torch"}


def random_spec(family: str) -> Any:
    return random_model(family).spec
