"""What some models add to attention: caps, distances, sinks, chunks and scales of queries."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from quire.backends.native import abi as c
from quire.models.attention_rules import QueryRule, alibi_slopes
from tests.native import numbers
from tests.native.attention_worlds import CONTEXTS, MIXED, World

SINKS = np.linspace(-3, 3, 4).astype(np.float32)
SLOPES = np.array(alibi_slopes(4), np.float32)
RULES: dict[str, dict[str, Any]] = {
    "cap": {"cap": 1.5},
    "slopes": {"slopes": SLOPES},
    "sinks": {"sinks": SINKS},
    "chunk": {"chunk": 24},
    "long chunk": {"chunk": 200},
    "log": {"query_rule": 1, "query_length": 30},
    "steps": {"query_rule": 2, "query_length": 20, "query_factor": 0.4, "query_offset": 1},
    "all": {
        **{"cap": 2.0, "slopes": SLOPES, "sinks": SINKS, "chunk": 100},
        **{"query_rule": 2, "query_length": 50, "query_factor": 0.3},
    },
}
each_rule = pytest.mark.parametrize("rule", RULES)
QUERY_RULES = {
    "log": QueryRule("log", 30),
    "steps": QueryRule("steps", 20, 0.4, 1),
    "all": QueryRule("steps", 50, 0.3),
}


@dataclass
class RuledWorld(World):
    """A World whose op has rules; `rule` is a key of RULES."""

    rule: str = "all"
    rules: dict[str, Any] = field(init=False)

    def __post_init__(self):
        super().__post_init__()
        self.rules = RULES[self.rule]

    def op(self):
        op = super().op()
        for i, name in enumerate(("sinks", "slopes")):
            if name in self.rules:
                op.vectors[i] = self.rules[name].ctypes.data
        for name, value in self.rules.items():
            if name not in ("sinks", "slopes"):
                setattr(op, name, value)
        return op

    def weights(self, r, a, b):
        """The definition in float64, query by query and head by head."""
        out = np.zeros((self.heads, b - a, len(self.keys[r])))
        for p, h in itertools.product(range(a, b), range(self.heads)):
            kv_head = h // (self.heads // self.kv_heads)
            first = p - p % self.rules["chunk"] if "chunk" in self.rules else 0
            first = max(first, p - self.window + 1) if self.window else first
            keys = self.keys[r][first : p + 1, kv_head].astype("f8")
            scores = keys @ self.queries[r][p, h] * self.head_dim**-0.5
            if self.rule in QUERY_RULES:
                scores *= QUERY_RULES[self.rule].at(p)
            if "cap" in self.rules:
                scores = self.rules["cap"] * np.tanh(scores / self.rules["cap"])
            if "slopes" in self.rules:
                scores -= self.rules["slopes"][h] * np.arange(p - first, -1, -1)
            weights = np.exp(scores)
            rest = np.exp(self.rules["sinks"][h]) if "sinks" in self.rules else 0
            out[h, p - a, first : p + 1] = weights / (weights.sum() + rest)
        return out


@each_rule
@pytest.mark.parametrize("dtype, kv_heads", [(c.F32, 1), (c.KV_INT8, 4)])
def test_the_definition(pool, isa, rule, dtype, kv_heads):
    world = RuledWorld(4, kv_heads, 40, CONTEXTS, 16, dtype, rule=rule)
    world.check(pool, isa, MIXED)


@pytest.mark.parametrize("rule", [rule for rule in RULES if "chunk" not in RULES[rule]])
def test_beside_a_window(pool, isa, rule):
    RuledWorld(4, 2, 64, CONTEXTS, 32, c.BF16, 37, rule=rule).check(pool, isa, MIXED)


@pytest.mark.parametrize(
    "rule, dtype", [("all", c.F32), ("all", c.KV_INT8), ("sinks", c.F32), ("log", c.F32)]
)
def test_pieces_threads_and_neighbours_give_the_same_bits(pools, isa, rule, dtype):
    """Among them a request that is split over its keys where there are threads for it."""
    world = RuledWorld(4, 2, 32, [700, 20], 16, dtype, rule=rule)
    whole = world.attend(pools[1], isa, [(0, 0, 700)])[0]
    cuts = itertools.pairwise([0, 1, 33, 250, 699, 700])
    parts = [world.attend(pools[2], isa, [(0, a, b)])[0] for a, b in cuts]
    assert numbers.same_bits(np.concatenate(parts), whole)
    beside = world.attend(pools[3], isa, [(1, 0, 20), (0, 690, 700), (0, 600, 650)])
    assert numbers.same_bits(beside[1], whole[690:])
    assert numbers.same_bits(beside[2], whole[600:650])


@each_rule
@pytest.mark.parametrize("dtype, bad", [(c.F32, np.nan), (c.KV_INT8, np.inf)])
def test_what_a_token_does_not_see_never_changes_it(pool, isa, rule, dtype, bad):
    clean, spoiled = (RuledWorld(4, 2, 72, [300], dtype=dtype, rule=rule) for _ in range(2))
    spoiled.cache.write(spoiled.tables[0, 6], 4, *np.full((2, 2, 72), bad, "f4"))  # position 100
    before, after = (world.attend(pool, isa, [(0, 0, 300)])[0] for world in (clean, spoiled))
    p, chunk = np.arange(300), RULES[rule].get("chunk", 10**6)
    sees = (p >= 100) & (p // chunk == 100 // chunk)
    assert numbers.same_bits(after[~sees], before[~sees])
    assert np.isnan(after[sees]).all()


def test_blocks_of_chunks_that_are_past_are_not_read(pool, isa):
    world = RuledWorld(4, 2, 64, [300], rule="chunk")
    before = world.attend(pool, isa, [(0, 290, 300)])[0]
    world.tables[0, : 288 // 16] = -(2**30)
    assert numbers.same_bits(world.attend(pool, isa, [(0, 290, 300)])[0], before)


def test_a_cap_far_above_the_scores_changes_little_and_one_at_0_nothing(pool, isa):
    plain = World(4, 2, 64, CONTEXTS)
    expected = np.concatenate(plain.attend(pool, isa, MIXED))
    for cap, most in ((0.0, 0.0), (50.0, 0.01)):
        capped = RuledWorld(4, 2, 64, CONTEXTS, rule="cap")
        capped.rules = {"cap": cap}
        off = np.abs(np.concatenate(capped.attend(pool, isa, MIXED)) - expected).max()
        assert off <= most and (off > 0) == (cap > 0)


def test_slopes() -> None:
    assert alibi_slopes(8) == tuple(2.0**-i for i in range(1, 9))
    twelve = alibi_slopes(12)
    assert twelve[:8] == alibi_slopes(8)
    assert twelve[8:] == alibi_slopes(16)[0:8:2]
    assert len(alibi_slopes(40)) == 40 and alibi_slopes(1) == (2.0**-8,)


def test_query_rules() -> None:
    assert [QueryRule("log", 8).at(p) for p in (0, 7)] == [1, 1]
    assert QueryRule("log", 8).at(63) == pytest.approx(2)
    steps = QueryRule("steps", 8, 0.5)
    assert [steps.at(p) for p in (0, 7)] == [1, 1]
    assert steps.at(8) == steps.at(15) == pytest.approx(1 + 0.5 * math.log(2))
    assert QueryRule("steps", 8, 0.5, 1).at(7) == steps.at(8)
