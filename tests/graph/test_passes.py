"""Every pass, alone and in any company, leaves the mathematics as they were."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from quire.graph.ir import Graph, GraphBuilder, Node
from quire.graph.lower import lower
from quire.graph.optimize import PASSES, optimize
from quire.graph.passes.decompose import decompose
from quire.graph.passes.fuse_residual_norm import fuse_residual_norm
from quire.graph.passes.fuse_rope_kv_write import fuse_rope_kv_write
from quire.graph.passes.merge_matmuls import MAX_PARTS, merge_matmuls
from quire.ops.elementwise import Add
from quire.ops.embedding import EmbeddingLookup
from quire.ops.linear import LinearPart, MatMul
from quire.ops.norm import AddNorm, RmsNorm
from quire.ops.op import FusedOp
from quire.ops.rope import KvWrite, RopeAngles, Rotate, RotateKvWrite
from quire.ops.selection import Columns, SelectRows
from tests.graph.interpreting import (
    CONFIGS,
    check_order,
    environment,
    interpret,
    mixed_batch,
    tiny_spec,
)

Pass = Callable[[Graph], Graph]

ORDERS = [order for size in (1, 2, 3) for order in itertools.permutations(PASSES, size)]
each_config = pytest.mark.parametrize("name", CONFIGS)


def named(order: Sequence[Pass]) -> str:
    return "+".join(each.__name__ for each in order)


def apply(order: Sequence[Pass], graph: Graph) -> Graph:
    for each in order:
        graph = each(graph)
        check_order(graph)
    return graph


def count(graph: Graph) -> Counter[str]:
    """How many nodes of each op."""
    return Counter(node.name for node in graph)


def assert_same(name: str, graph: Graph) -> None:
    """Logits and cache come out bit by bit as from the plain graph."""
    spec = tiny_spec(name)
    plain_env, env = (environment(spec, mixed_batch(spec)) for _ in range(2))
    expected = interpret(lower(spec), plain_env)
    np.testing.assert_array_equal(interpret(graph, env), expected)
    np.testing.assert_array_equal(env.kv_cache.arena, plain_env.kv_cache.arena)
    assert expected.std() > 0.1


# --- the same mathematics


@pytest.mark.parametrize("order", ORDERS, ids=named)
@each_config
def test_passes_in_any_order_compute_the_same(name: str, order: Sequence[Pass]) -> None:
    assert_same(name, apply(order, lower(tiny_spec(name))))


@each_config
def test_a_pass_run_twice_changes_nothing_more(name: str) -> None:
    once = optimize(lower(tiny_spec(name)))
    assert optimize(once) == once


@pytest.mark.parametrize("kept", [None, AddNorm, RotateKvWrite])
@each_config
def test_taken_apart_again_it_computes_the_same(name: str, kept: type | None) -> None:
    fused = optimize(lower(tiny_spec(name)))
    graph = decompose(fused, lambda node: kept is not None and isinstance(node.op, kept))
    check_order(graph)
    assert_same(name, graph)
    left = {type(node.op) for node in graph if isinstance(node.op, FusedOp)}
    assert left <= {kept}


def test_a_backend_with_every_body_keeps_the_graph() -> None:
    fused = optimize(lower(tiny_spec("qwen3")))
    assert decompose(fused, lambda node: True) == fused


# --- what the passes do


def test_the_plain_graph() -> None:
    found = count(lower(tiny_spec("llama")))
    assert found == {
        "EmbeddingLookup": 1,
        "RopeAngles": 1,
        "RmsNorm": 2 * 2 + 1,
        "MatMul": 2 * 7 + 1,
        "Rotate": 2 * 2,
        "KvWrite": 2,
        "PagedAttention": 2,
        "GatedActivation": 2,
        "Add": 2 * 2,
        "SelectRows": 1,
    }


def test_one_product_for_q_k_v_and_one_for_gate_and_up() -> None:
    graph = merge_matmuls(lower(tiny_spec("biases")))
    products = [node.op for node in graph if isinstance(node.op, MatMul)]
    parts = [tuple(part.weight.split(".")[-2] for part in op.parts) for op in products]
    layer = [("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",)]
    assert parts == layer * 2 + [("lm_head",)]
    assert all(part.bias for op in products[:-1] for part in op.parts)
    assert count(graph)["Columns"] == 2 * 5


def test_a_sum_goes_with_the_first_of_two_norms() -> None:
    found = count(fuse_residual_norm(lower(tiny_spec("parallel parts, two norms"))))  # 2 layers
    assert found["AddNorm"] == 1
    assert found["LayerNorm"] == 2 * 2 + 1 - 1
    assert found["Add"] == 2 * 2 - 1


def test_parts_that_share_a_norm_read_it_once() -> None:
    found = count(lower(tiny_spec("parallel parts, one norm")))
    assert found["LayerNorm"] == 2 * (1 + 2) + 1  # and those of q and k


def test_every_sum_goes_with_the_norm_that_follows() -> None:
    found = count(fuse_residual_norm(lower(tiny_spec("qwen3"))))  # 3 layers
    assert found["AddNorm"] == 2 * 3 - 1
    assert found["Add"] == 1  # the last sum: the rows are selected before the norm
    assert found["RmsNorm"] == 2 * 3 + 1 - 5 + 2 * 3  # q and k norms stay


def test_rotations_go_with_the_write() -> None:
    found = count(fuse_rope_kv_write(lower(tiny_spec("qwen3"))))
    assert (found["RotateKvWrite"], found["Rotate"], found["KvWrite"]) == (3, 0, 0)


@pytest.mark.parametrize("name", ["llama", "norms on both sides, caps", "layer norms"])
def test_one_more_layer_is_nine_more_nodes_with_work(name: str) -> None:
    """qkv; rotate, write; attend; output; add, norm; gate, up; activate; down; add, norm.

    Where norms stand behind a part as well, they join the sum.
    """

    def work(layers: int) -> int:
        graph = optimize(lower(tiny_spec(name, num_hidden_layers=layers)))
        return sum(not isinstance(node.op, Columns) for node in graph)

    assert work(5) - work(4) == 9


# --- what they leave alone


def start(build: GraphBuilder) -> list:
    """Two values of width 8."""
    return [build.add(EmbeddingLookup(name, 8), name=name) for name in ("x", "y")]


def product(*names: str) -> MatMul:
    return MatMul(tuple(LinearPart(name, 8) for name in names))


def finish(build: GraphBuilder, value: object) -> Graph:
    selected = build.add(SelectRows(), value, name="selected", rows="outputs")
    return Graph(tuple(build.nodes), selected)


def test_products_of_different_values_are_not_merged() -> None:
    build = GraphBuilder()
    x, y = start(build)
    a, b = build.add(product("a"), x, name="a"), build.add(product("b"), y, name="b")
    graph = finish(build, build.add(Add(), a, b, name="sum"))
    assert merge_matmuls(graph) == graph


@pytest.mark.parametrize("size", [MAX_PARTS, MAX_PARTS + 1])
def test_no_more_products_are_merged_than_a_record_holds(size: int) -> None:
    build = GraphBuilder()
    x, total = start(build)
    for i in range(size):
        total = build.add(Add(), total, build.add(product(f"w{i}"), x, name=f"p{i}"), name=f"s{i}")
    graph = finish(build, total)
    merged = merge_matmuls(graph)
    check_order(merged)
    assert count(merged)["MatMul"] == (1 if size == MAX_PARTS else 2)
    assert max(len(n.op.parts) for n in merged if isinstance(n.op, MatMul)) <= MAX_PARTS


@pytest.mark.parametrize(("norms", "fused"), [(0, 0), (2, 1)])
def test_a_sum_is_fused_with_its_first_norm_alone(norms: int, fused: int) -> None:
    build = GraphBuilder()
    total = build.add(Add(), *start(build), name="sum")
    parts = [build.add(RmsNorm(f"w{i}", 1e-6), total, name=f"n{i}") for i in range(norms)]
    graph = finish(build, build.add(Add(), *parts[::-1], name="both") if parts else total)
    changed = fuse_residual_norm(graph)
    check_order(changed)
    assert count(changed)["AddNorm"] == fused


def test_a_norm_of_each_head_is_not_fused() -> None:
    build = GraphBuilder()
    total = build.add(Add(), *start(build), name="sum")
    graph = finish(build, build.add(RmsNorm("w", 1e-6, heads=2), total, name="normed"))
    assert fuse_residual_norm(graph) == graph


def rotations(other: Rotate, angles: int = 1, key_readers: int = 0) -> Graph:
    """q and k rotated, then written: like this, or with one thing that forbids fusing."""
    build = GraphBuilder()
    build.layer = 0
    q, k = start(build)
    turns = [build.add(RopeAngles(i, 4), name=f"angles{i}") for i in range(angles)]
    q = build.add(other, q, turns[-1], name="q_rotated")
    rotated = build.add(Rotate(2, 4, "half"), k, turns[0], name="k_rotated")
    build.effect(KvWrite(0, 2), rotated, k)
    for i in range(key_readers):
        q = build.add(Add(), q, rotated, name=f"sum{i}")
    return finish(build, q)


def test_rotations_of_one_kind_are_fused() -> None:
    assert count(fuse_rope_kv_write(rotations(Rotate(2, 4, "half"))))["RotateKvWrite"] == 1


@pytest.mark.parametrize(
    "graph",
    [
        rotations(Rotate(2, 4, "interleaved")),
        rotations(Rotate(2, 2, "half")),
        rotations(Rotate(2, 4, "half"), angles=2),
        rotations(Rotate(2, 4, "half"), key_readers=1),
    ],
    ids=["pairing", "dims", "angles", "rotated keys read elsewhere"],
)
def test_rotations_that_differ_are_not_fused(graph: Graph) -> None:
    assert fuse_rope_kv_write(graph) == graph


def test_a_write_of_keys_that_nobody_rotated_stays() -> None:
    build = GraphBuilder()
    k, v = start(build)
    build.effect(KvWrite(0, 2), k, v)
    graph = finish(build, k)
    assert fuse_rope_kv_write(graph) == graph


# --- the graph itself


def test_rewrite_replaces_node_by_node() -> None:
    graph = lower(tiny_spec("one layer"))

    def change(node: Node) -> tuple[Node, ...]:
        return () if isinstance(node.op, KvWrite) else (node,)

    rewritten = graph.rewrite(change)
    assert len(rewritten.nodes) == len(graph.nodes) - 1
    assert rewritten.logits == graph.logits


def test_readers_are_found() -> None:
    graph = lower(tiny_spec("one layer"))
    normed = next(node.outputs[0] for node in graph if node.outputs[0].name == "0.attention_norm")
    assert [node.outputs[0].name for node in graph.readers(normed)] == ["0.q", "0.k", "0.v"]
