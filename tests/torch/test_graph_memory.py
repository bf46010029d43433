"""What captured steps are thought to take of a device."""

from __future__ import annotations

from dataclasses import replace

import pytest

from quire.backends.torch.backend import TorchBackend
from quire.backends.torch.graph_memory import KERNEL_BYTES, NOTHING, GraphMemory, estimate
from quire.graph.program import Program, StepLimits, compile_program
from tests.engine.driving import random_model

pytestmark = pytest.mark.oracle


def program(architecture: str, tokens: int = 2048, length: int = 4096) -> Program:
    backend = TorchBackend("cpu")
    return compile_program(
        random_model(architecture).spec,
        StepLimits(tokens, 8, length),
        lambda node: backend.declines(node) is None,
    )


def test_it_counts_kernels_and_values() -> None:
    large, small = program("LlamaForCausalLM"), program("LlamaForCausalLM", 40)
    found, less = estimate(large), estimate(small)
    ops = len(list(large.body))
    assert found.kernels >= 4 * 23 * 2 * ops > 0
    assert less.kernels == found.kernels * 8 // 23  # sizes up to 40
    assert found.num_bytes == found.kernels * KERNEL_BYTES + found.values > 128 * 2**20
    assert f"{found.kernels} kernels" in found.line and "92 kinds of steps x 24 KiB" in found.line
    longer = replace(large, limits=replace(large.limits, length=8192))
    assert estimate(longer).values - found.values == 512 * 4096 // 16 * 4  # tables of blocks


def test_experts_have_many_kernels() -> None:
    assert estimate(program("Qwen3MoeForCausalLM")).kernels > 92 * 60


def test_what_is_not_captured_takes_nothing() -> None:
    assert estimate(program("BertModel")) == NOTHING


def test_where_nothing_is_planned_nothing_is_captured() -> None:
    """Not even the first size, whose memory nobody knows yet, and whatever others free."""
    assert GraphMemory().has_room and GraphMemory(1).has_room and not GraphMemory(0).has_room
    memory = GraphMemory(100)
    memory.note(-50)
    assert (memory.used, memory.largest, memory.has_room) == (0, 0, True)
    memory.close()
    assert not memory.has_room
