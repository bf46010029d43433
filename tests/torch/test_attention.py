"""Attention over the device's cache is attention over the reference's: rules, formats, batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from quire.models.attention_rules import QueryRule, alibi_slopes
from quire.ops.attention import PagedAttention
from quire.ops.batch import Batch
from quire.ops.kv_cache import KV_FORMATS, KvLayerShape, KvLayout, rounded_to_cache
from quire.ops.latent import LatentAttention, LatentWrite
from quire.ops.latent_cache import LATENT_FORMATS, LatentLayerShape
from quire.ops.rope import KvWrite
from tests.torch.one_op import Both

pytestmark = pytest.mark.oracle

RULES: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"window": 7},
    "wide window": {"window": 270},
    "chunk": {"chunk": 8},
    "wide chunk": {"chunk": 264},
    "softcap": {"softcap": 0.7},
    "slopes": {"slopes": alibi_slopes(4)},
    "sinks": {"sinks": "sinks"},
    "log": {"query_rule": QueryRule("log", 6)},
    "steps": {"query_rule": QueryRule("steps", 6, 0.5, 1)},
    "bidirectional": {"bidirectional": True},
}
PROMPTS = (5, 300, 40, 17)  # shorter than a block, and longer than a chunk of keys
LONGEST = 1
SINKS = {"sinks": np.float32([-1, 0, 1, 2])}


def batch_of(spans: list[tuple[int, int]], block_tokens: int = 16) -> Batch:
    """Requests that compute positions first .. end - 1; tables in no order, with nonsense behind.

    Blocks of a request are 20 apart, from the last one of all on.
    """
    counts = [end - first for first, end in spans]
    tables = np.full((len(spans), 20), 10**6, np.int32)
    for request, (_, end) in enumerate(spans):
        blocks = -(-end // block_tokens)
        tables[request, :blocks] = 20 * len(spans) - 1 - 20 * request - np.arange(blocks)
    return Batch(
        token_ids=np.zeros(sum(counts), np.int32),
        positions=np.concatenate([np.arange(*span) for span in spans]).astype(np.int32),
        rope_rows=np.zeros(sum(counts), np.int32),
        query_start=np.cumsum([0, *counts], dtype=np.int32),
        block_tables=tables,
        logit_rows=np.int32([]),
        frequencies=(),
    )


def filled(format: str, head_dim: int = 8, block_tokens: int = 16) -> tuple[Both, np.ndarray]:
    """Caches that hold the prompts, and a query for each of their tokens."""
    random = np.random.default_rng(2)
    layout = KvLayout((KvLayerShape(2, head_dim),), block_tokens, format)
    both = Both(layout, batch_of([(0, n) for n in PROMPTS], block_tokens), 80, SINKS)
    q, k, v = (random.standard_normal((sum(PROMPTS), n * head_dim)) for n in (4, 2, 2))
    for run in (both.torch, both.reference):
        run(KvWrite(0, 2), k.astype(np.float32), v.astype(np.float32))
    return both, q.astype(np.float32)


@pytest.mark.parametrize("block_tokens", [16, 32])
@pytest.mark.parametrize("rule", RULES)
def test_every_rule(rule: str, block_tokens: int) -> None:
    both, q = filled("float32", block_tokens=block_tokens)
    op = PagedAttention(0, 4, 2, 8, 0.4, **RULES[rule])
    (found,), (expected,) = both.torch(op, q), both.reference(op, q)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)
    if rule != "plain":
        (plain,) = both.torch(PagedAttention(0, 4, 2, 8, 0.4), q)
        assert np.abs(found - plain).max() > 0.01


@pytest.mark.parametrize("rule", ["window", "sinks", "wide chunk"])
def test_requests_of_all_kinds_in_one_step(rule: str) -> None:
    """Two decode, one at the end of a prompt, one in the middle: each as in the whole prompt."""
    both, q = filled("float32")
    op = PagedAttention(0, 4, 2, 8, 0.4, **RULES[rule])
    (whole,) = both.torch(op, q)
    spans = [(4, 5), (299, 300), (20, 40), (7, 12)]
    starts = np.cumsum([0, *PROMPTS])
    rows = np.concatenate([starts[i] + np.arange(*span) for i, span in enumerate(spans)])
    both.at(batch_of(spans))
    np.testing.assert_allclose(both.torch(op, q[rows])[0], whole[rows], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("head_dim", [8, 5])
@pytest.mark.parametrize("format", KV_FORMATS)
def test_every_format_holds_what_the_reference_holds(format: str, head_dim: int) -> None:
    both, _ = filled(format, head_dim)
    for number, length in enumerate(PROMPTS):
        table = both.env.batch.block_tables[number]
        expected = both.env.kv_cache.read(0, table, length)
        blocks = both.step.put(table[None, : -(-length // 16)].astype(np.int64))
        found = both.step.kv_cache.read(0, blocks)
        for mine, its in zip(found, expected, strict=True):
            np.testing.assert_array_equal(mine[0, :length].numpy(), its)


@pytest.mark.parametrize("format", KV_FORMATS)
def test_attention_in_every_format(format: str) -> None:
    both, q = filled(format)
    op = PagedAttention(0, 4, 2, 8, 0.4)
    np.testing.assert_allclose(both.torch(op, q)[0], both.reference(op, q)[0], atol=3e-6)


@pytest.mark.parametrize("format", ["int8", "fp8", "int4"])
@pytest.mark.parametrize("odd", [np.nan, np.inf, 0.0, 1e-42, 3e38])
def test_odd_numbers_in_codes(format: str, odd: float) -> None:
    random = np.random.default_rng(4)
    vectors = random.standard_normal((3, 2, 8)).astype(np.float32) * 100
    vectors[1, 0] = 0 if odd == 0 else vectors[1, 0]
    vectors[1, 0, 3] = odd
    both = Both(KvLayout((KvLayerShape(2, 8),), 16, format), batch_of([(0, 3)]), 20)
    both.torch(KvWrite(0, 2), vectors.reshape(3, -1), vectors.reshape(3, -1))
    blocks = both.step.put(np.int64([[19]]))
    expected = rounded_to_cache(vectors, format)
    for found in both.step.kv_cache.read(0, blocks):
        np.testing.assert_array_equal(found[0, :3].numpy(), expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("at", [299, 3])
@pytest.mark.parametrize("keys_too", [True, False])
def test_what_a_token_does_not_see_changes_nothing(bad: float, at: int, keys_too: bool) -> None:
    """What one token stored is no number: it and those behind it are spoilt, nobody else."""
    both, q = filled("float32")
    op = PagedAttention(0, 4, 2, 8, 0.4)
    (clean,) = both.torch(op, q)
    whole = both.env.batch
    first = int(whole.query_start[LONGEST])
    alone = batch_of([(at, at + 1)] * len(PROMPTS))
    both.at(
        replace(
            alone,
            query_start=np.int32([0, 1]),
            positions=alone.positions[:1],
            block_tables=whole.block_tables[[LONGEST]],
            token_ids=np.int32([0]),
        )
    )
    values = np.full((1, 16), bad, np.float32)
    both.torch(KvWrite(0, 2), values if keys_too else np.zeros_like(values), values)
    both.at(whole)
    (found,) = both.torch(op, q)
    spoilt = slice(first + at, first + PROMPTS[LONGEST])
    assert np.isnan(found[spoilt]).all()
    others = np.r_[: spoilt.start, spoilt.stop : len(found)]
    np.testing.assert_array_equal(found[others], clean[others])


@pytest.mark.parametrize("format", LATENT_FORMATS)
def test_latents(format: str) -> None:
    random = np.random.default_rng(2)
    rank, rope, heads = 12, 4, 3
    layout = KvLayout((LatentLayerShape(rank, rope),), 16, format)
    both = Both(layout, batch_of([(0, n) for n in PROMPTS]), 80)
    tokens = sum(PROMPTS)
    latents, keys, angles, q = (
        random.standard_normal((tokens, width)).astype(np.float32)
        for width in (rank, rope, rope, heads * (rank + rope))
    )
    for run in (both.torch, both.reference):
        run(LatentWrite(0, rope, "interleaved"), latents, keys, angles)
    op = LatentAttention(0, heads, rank, rope, 0.3)
    np.testing.assert_allclose(both.torch(op, q)[0], both.reference(op, q)[0], atol=3e-6)
