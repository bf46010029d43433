"""Which experts are chosen: every rule as its reference says, whatever the logits are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from quire.graph.ir import Node, Value
from quire.models.spec import ExpertGroups
from quire.ops.routing import RouteTokens
from quire.weights.tensor import RawTensor
from tests.native.nodes import run_native, run_reference

PLAIN = RouteTokens(4)
V3 = RouteTokens(3, "sigmoid", True, 2.5, "bias", ExpertGroups(4, 2, "top2_sum"))
RULES = {
    "softmax": PLAIN,
    "softmax, normalised": replace(PLAIN, normalised=True),
    "one expert": RouteTokens(1, "sigmoid"),
    "all experts": RouteTokens(16, normalised=True),
    "groups": RouteTokens(3, scale=16.0, groups=ExpertGroups(8, 3, "max")),
    "bias": RouteTokens(4, "softmax", True, bias="bias"),
    "bias and groups": V3,
    "a group each": RouteTokens(3, "sigmoid", bias="bias", groups=ExpertGroups(16, 5, "top2_sum")),
    "sparsemixer": RouteTokens(2, "sparsemixer"),
    "sparsemixer, wide": RouteTokens(2, "sparsemixer", jitter=0.5),
    "least sum": RouteTokens(2, "sigmoid", True, least_sum=5.0),
}
each_rule = pytest.mark.parametrize("op", RULES.values(), ids=RULES)


def node_of(op, experts=16):
    logits = Value("logits", "tokens", experts)
    return Node(op, (logits,), (Value("routes", "tokens", 2 * op.top_k),))


def weights_of(rng, experts=16):
    bias = rng.normal(0, 0.3, experts).astype(np.float32)
    return {"bias": RawTensor("bias", "F32", (experts,), bias)}


def routes(pool, isa, op, weights, logits):
    node = node_of(op, logits.shape[1])
    given = {node.inputs[0]: logits}
    native = run_native(pool, isa, [node], weights, given, len(logits))[node.outputs[0]]
    return native, run_reference([node], weights, given)[node.outputs[0]]


@each_rule
def test_as_the_reference(pool, isa, rng, op):
    logits = rng.normal(0, 2, (50, 16)).astype(np.float32)
    native, expected = routes(pool, isa, op, weights_of(rng), logits)
    np.testing.assert_array_equal(native[:, : op.top_k], expected[:, : op.top_k])
    np.testing.assert_allclose(native[:, op.top_k :], expected[:, op.top_k :], rtol=2e-6)


@each_rule
def test_ids_ascend_and_weights_add_up(pool, isa, rng, op):
    logits = rng.normal(0, 2, (50, 16)).astype(np.float32)
    native, _ = routes(pool, isa, op, weights_of(rng), logits)
    ids, weights = native[:, : op.top_k], native[:, op.top_k :]
    assert (np.diff(ids, axis=1) > 0).all() and (weights > 0).all()
    if op.normalised and op.least_sum < 1:
        np.testing.assert_allclose(weights.sum(axis=1), op.scale, rtol=1e-6)


@each_rule
def test_the_lowest_ids_among_equals(pool, isa, rng, op):
    logits = np.zeros((3, 16), np.float32)
    logits[1] = -1e30
    flat = {"bias": RawTensor("bias", "F32", (16,), np.zeros(16, np.float32))}
    native, expected = routes(pool, isa, op, flat, logits)
    for row in (*native, *expected):
        np.testing.assert_array_equal(row[: op.top_k], np.arange(op.top_k))


@each_rule
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 3e38])
def test_experts_exist_whatever_the_logits(pool, isa, rng, op, wrong):
    logits = rng.normal(0, 2, (20, 16)).astype(np.float32)
    logits[0], logits[1, 3], logits[2, ::2], logits[3, 15] = wrong, wrong, wrong, wrong
    with np.errstate(all="ignore"):
        native, expected = routes(pool, isa, op, weights_of(rng), logits)
    for ids in (native[:, : op.top_k], expected[:, : op.top_k]):
        assert (np.diff(ids, axis=1) > 0).all() and (ids >= 0).all() and (ids < 16).all()


@each_rule
def test_a_row_is_routed_alike_in_any_batch(pools, isa, rng, op):
    logits, weights = rng.normal(0, 2, (300, 16)).astype(np.float32), weights_of(rng)
    whole, _ = routes(pools[3], isa, op, weights, logits)
    alone = [routes(pools[1], isa, op, weights, logits[i : i + 1])[0] for i in range(0, 300, 37)]
    np.testing.assert_array_equal(np.concatenate(alone), whole[::37])


def test_only_the_best_groups_are_looked_at(pool, isa):
    """The best expert of all stands in a group that is no good otherwise."""
    scores = np.full((1, 8), 0.1, np.float32)
    scores[0, :2], scores[0, 2:4], scores[0, 4:6] = (0.9, 0.1), (0.6, 0.7), (0.8, 0.65)
    logits = np.log(scores / (1 - scores))
    by_two = RouteTokens(2, "sigmoid", groups=ExpertGroups(4, 2, "top2_sum"))
    by_one = RouteTokens(2, "sigmoid", groups=ExpertGroups(4, 2, "max"))
    for op, ids in ((by_two, [3, 4]), (by_one, [0, 4])):
        for found in routes(pool, isa, op, {}, logits):
            np.testing.assert_array_equal(found[0, :2], ids)


def test_the_bias_chooses_and_does_not_weigh(pool, isa):
    bias = {"bias": RawTensor("bias", "F32", (4,), np.float32([0, 0, 9, 0]))}
    op = RouteTokens(1, "sigmoid", bias="bias")
    for found in routes(pool, isa, op, bias, np.float32([[5, 1, 0, 1]])):
        np.testing.assert_allclose(found, [[2, 0.5]])
