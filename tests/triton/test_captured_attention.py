"""Decoding steps that are replayed attend as those that are run, whoever comes and goes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from quire.backends.torch.calls import Call
from quire.backends.torch.captured_steps import CapturedSteps
from quire.backends.torch.fixed_step import FixedStep, WideRooms
from quire.backends.torch.graph_memory import GraphMemory
from quire.backends.torch.kv_cache import DeviceKvCache
from quire.backends.torch.padding import padded, size_for
from quire.backends.torch.step import Step, start_step
from quire.backends.torch.triton.bodies import attention_step
from quire.backends.torch.triton.bodies.attention import attend_paged
from quire.backends.torch.triton.bodies.latent import latent_inputs
from quire.models.attention_rules import QueryRule
from quire.ops.attention import PagedAttention
from quire.ops.batch import Batch
from quire.ops.kv_cache import KvLayerShape, KvLayout
from quire.ops.latent import LatentAttention
from tests.triton.interpreted_models import Interpreted
from tests.triton.test_captured import KernelRecordings

SIZE, BLOCKS, END = 16, 160, 640
"""Tokens of a block, blocks beside that of nobody, and what no request is as long as."""


class Case(NamedTuple):
    """A rule, the cache's format, where long requests stand, and the most of partial results."""

    op: PagedAttention
    format: str = "float16"
    far: int = 262
    partial_bytes: int = 2**20


def rule(heads: int = 4, kv_heads: int = 2, head_dim: int = 32, **rules: Any) -> PagedAttention:
    return PagedAttention(0, heads, kv_heads, head_dim, head_dim**-0.5, **rules)


CASES = {
    "shared keys": Case(rule(7, 1)),
    "keys not shared": Case(rule(), partial_bytes=0),
    "window, int8": Case(rule(window=40), "int8", 520),
    "chunk, rule of queries, fp8": Case(
        rule(chunk=320, query_rule=QueryRule("log", 16)), "fp8", 385
    ),
    "slopes, int4": Case(rule(slopes=(0.5, 0.25, 0.125, 0.0625)), "int4"),
}
FAR = 1000
STEPS = (
    {0: 3, 1: 9, 2: 17},
    {0: 4, 1: FAR, 2: 18},
    {2: FAR - 10, 3: 1, 0: 15},
    {3: 2, 1: FAR - 6, 0: 16, 2: FAR + 3},
)
"""Requests and where they stand; the second step is recorded, the others replayed."""


def source(step: Step, op: Any) -> tuple[torch.Tensor, ...]:
    return (op[step.token_ids],)


def random_cache(op: PagedAttention, format: str) -> DeviceKvCache:
    layout = KvLayout((KvLayerShape(op.kv_heads, op.head_dim),), SIZE, format)
    arena = torch.zeros((BLOCKS + 1) * layout.bytes_per_block, dtype=torch.uint8)
    cache = DeviceKvCache(layout, BLOCKS + 1, arena, BLOCKS)
    places = torch.arange(BLOCKS * SIZE)
    numbers = torch.randn(2, len(places), op.kv_heads, op.head_dim)
    cache.write(0, places // SIZE, places % SIZE, *numbers)
    cache.blocks[0][BLOCKS] = 0xFF
    return cache


def batch_of(requests: dict[int, int]) -> Batch:
    """A token of each; tables are as wide as the longest needs them."""
    count, positions = len(requests), np.array([*requests.values()], np.int32)
    tables = np.random.default_rng(1).permutation(BLOCKS).reshape(4, -1).astype(np.int32)
    width = max(int(positions.max()) // SIZE + 1, 8)
    none = np.zeros(0, np.int32)
    return Batch(
        np.array([*requests], np.int32) + 9, positions, 0 * positions,
        np.arange(count + 1, dtype=np.int32), tables[[*requests], :width].copy(), none, (),
        np.array([*requests], np.int32),
    )  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_replayed_attention(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    op, format, far, partial_bytes = CASES[name]
    monkeypatch.setattr(attention_step, "PARTIAL_BYTES", partial_bytes)
    torch.manual_seed(0)
    cache, device = random_cache(op, format), Interpreted()
    queries = torch.randn(16, op.heads * op.head_dim)
    nothing: Any = SimpleNamespace()

    def start(batch: Batch) -> Step:
        return start_step(batch, device, cache, nothing, nothing)

    def computed(batch: Batch) -> torch.Tensor:
        step = start(batch)
        return attend_paged(step, op, *source(step, queries))[0]

    calls = [
        Call(source, queries, (), (0,), (), "always"),
        Call(attend_paged, op, (0,), (1,), (), "decode"),
    ]
    recordings = KernelRecordings()
    steps = CapturedSteps(
        calls, {1}, "decode", 8, END, recordings, device, GraphMemory(), least_calls=1
    )
    for step in STEPS:
        requests = {who: at - FAR + far if at > FAR // 2 else at for who, at in step.items()}
        batch, count = batch_of(requests), len(requests)
        found = steps.run(start(padded(batch, size_for(count) or 0, cache.spare)))[1].clone()
        assert torch.equal(found[:count], computed(batch)), requests
        assert not found[count:].any()
    for place, (request, position) in enumerate(requests.items()):
        assert torch.equal(found[place], computed(batch_of({request: position}))[0])
    assert len(recordings.tapes) == 1 and recordings.num_replays == 3
    assert (cache.blocks[0][BLOCKS] == 0xFF).all()


def test_latents_of_many_heads_are_shared() -> None:
    """Also where requests may have 160 k positions: a lone one must not wait for eight programs."""
    nothing: Any = SimpleNamespace()
    op, cache = LatentAttention(0, 128, 512, 64, 0.1), random_cache(rule(), "float16")
    for requests, end in (({0: 3}, 163840), ({0: 3, 1: 9, 2: 7, 3: 5}, 32768)):
        step = start_step(batch_of(requests), Interpreted(), cache, nothing, nothing)
        inputs = latent_inputs(FixedStep.like(step, WideRooms(8, end)), op, 16)
        assert inputs.chunks == end // 1024 and inputs.programs * len(requests) * 8 == 512
