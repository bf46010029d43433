"""Ranks of one model on torch, simulated in one process: as one rank alone, in chunks as well."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from quire.backends.torch.backend import TorchBackend
from quire.backends.torch.executable import TorchExecutable
from quire.backends.torch.registry import Body
from quire.graph.program import compile_program
from quire.models.spec import ModelSpec
from quire.ops.collective import AllReduce
from quire.ops.op import Float32
from quire.ops.recurrent_state import RecurrentStates
from quire.parallel.divide import Rank, divide
from quire.weights.tensor import RawTensor
from tests.graph.interpreting import random_weights
from tests.models.computing import LIMITS, distance
from tests.parallel.ranks import Ranks, held_part, kv_cache, logits_of_ranks
from tests.parallel.test_divided_models import BOUND, steps, tiny

pytestmark = pytest.mark.oracle
torch.set_num_threads(1)

LAYOUTS: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {"vocab_size": 131},
    "Gemma2ForCausalLM": {},
    "DeepseekV3ForCausalLM": {},
    "MixtralForCausalLM": {},
    "Qwen3NextForCausalLM": {},
}


def on_torch(spec: ModelSpec, count: int, whole_experts: bool = False) -> list[Float32]:
    """The logits of the steps, as each rank has them."""
    backend, weights, ranks = TorchBackend("cpu"), random_weights(spec), Ranks(count)

    def compute(index: int) -> Float32:
        share = divide(spec, Rank(index, count), whole_experts)
        has_body = lambda node: backend.declines(node) is None  # noqa: E731
        program = compile_program(share.spec, LIMITS, has_body, rank=index)
        held = {name: held_part(weights[name], share, name) for name in share.spec.weights()}
        executable = TorchExecutable(
            program,
            {name: RawTensor(name, "F32", each.shape, each) for name, each in held.items()},
            kv_cache(share.spec),
            backend.device,
            RecurrentStates(1, share.spec.state_floats),
            ranks.group_of(index),  # type: ignore[arg-type]  # it does not look at rows
        )
        return np.concatenate([executable.logits(batch) for batch in steps(spec)])

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(compute, range(count)))


def expected(spec: ModelSpec) -> Float32:
    (alone,) = logits_of_ranks(spec, random_weights(spec), steps(spec))
    return np.concatenate(alone)


@pytest.mark.parametrize("family", LAYOUTS)
def test_two_ranks(family: str) -> None:
    spec = tiny(family, **LAYOUTS[family])
    first, second = on_torch(spec, 2)
    assert distance(first, expected(spec)) < BOUND
    assert (first == second).all(), "ranks must sample the same token"


def test_each_rank_has_half_of_the_experts() -> None:
    spec = tiny("MixtralForCausalLM", num_local_experts=5)
    for logits in on_torch(spec, 2, whole_experts=True):
        assert distance(logits, expected(spec)) < BOUND


def test_a_lost_sum_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from quire.backends.torch import registry

    lost = Body("lost", lambda step, op, rows: (rows,), lambda op, device: None)
    monkeypatch.setitem(registry._BODIES, AllReduce, [lost])
    spec = tiny("LlamaForCausalLM")
    assert distance(on_torch(spec, 2)[0], expected(spec)) > 100 * BOUND
