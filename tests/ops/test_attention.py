"""Attention over whole sequences, as calibration has it, is attention over the paged cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from quire.convert.whole_sequences import CausalAttention
from quire.models.attention_rules import QueryRule, alibi_slopes
from quire.ops.attention import PagedAttention
from quire.ops.batch import Batch
from quire.ops.kv_cache import KvCache, KvLayerShape, KvLayout
from quire.ops.op import Environment
from quire.ops.rope import KvWrite

RULES: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"window": 7},
    "chunk": {"chunk": 8},
    "softcap": {"softcap": 0.7},
    "slopes": {"slopes": alibi_slopes(4)},
    "sinks": {"sinks": "sinks"},
    "log": {"query_rule": QueryRule("log", 6)},
    "steps": {"query_rule": QueryRule("steps", 6, 0.5, 1)},
}


def outputs(rules: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(2)
    q, k, v = (random.standard_normal((20, n * 8)).astype(np.float32) for n in (4, 2, 2))
    cache = KvCache(KvLayout((KvLayerShape(2, 8),), 16, "float32"), 2)
    weights = {"sinks": np.float32([-1, 0, 1, 2])}
    env = Environment(Batch.single([0] * 20, 0, [1, 0], ()), cache, weights)
    KvWrite(0, 2).reference(env, k, v)
    op = PagedAttention(0, 4, 2, 8, 0.4, **rules)
    return op.reference(env, q)[0], CausalAttention(op).reference(env, q, k, v)[0]


@pytest.mark.parametrize("rule", RULES)
def test_whole_sequences_see_what_a_cache_shows(rule: str) -> None:
    paged, whole = outputs(RULES[rule])
    np.testing.assert_allclose(whole, paged, rtol=2e-5, atol=2e-6)
    if rule != "plain":
        assert np.abs(paged - outputs({})[0]).max() > 0.01


def test_all_at_once() -> None:
    everything = {k: v for each in RULES.values() for k, v in each.items() if k != "window"}
    paged, whole = outputs(everything)
    np.testing.assert_allclose(whole, paged, rtol=2e-5, atol=2e-6)
