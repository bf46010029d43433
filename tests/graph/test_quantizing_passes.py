"""Quantizing what integer matrices read: once for all of them, and nothing else."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from quire.graph.ir import Graph, GraphBuilder, Value
from quire.graph.lower import lower
from quire.graph.optimize import PASSES, optimize
from quire.graph.passes.decompose import decompose
from quire.graph.passes.fuse_quantize import fuse_quantize
from quire.graph.passes.quantize_inputs import quantize_inputs
from quire.models.spec import ModelSpec
from quire.ops.activation import GatedActivation
from quire.ops.column_order import ColumnOrder
from quire.ops.elementwise import Add
from quire.ops.embedding import EmbeddingLookup
from quire.ops.linear import LinearPart, MatMul
from quire.ops.norm import AddNorm, RmsNorm
from quire.ops.op import Environment, FusedOp
from quire.ops.quantize import Quantize, Quantized, RowFormat
from quire.ops.selection import SelectRows
from tests.graph.interpreting import (
    CONFIGS,
    Float32,
    all_matrices,
    check_order,
    environment,
    interpret,
    mixed_batch,
    tiny_spec,
)

each_config = pytest.mark.parametrize("name", CONFIGS)


def quantized_graph(spec: ModelSpec) -> Graph:
    return quantize_inputs(lower(spec), all_matrices(spec))


def logits(spec: ModelSpec, graph: Graph) -> Float32:
    return interpret(graph, environment(spec, mixed_batch(spec)))


def names(graph: Graph) -> list[str]:
    return [node.name for node in graph]


# --- the mathematics


def rounded(x: Float32) -> Float32:
    """Written out once more: 127 steps to the largest number of every 32."""
    out = np.zeros_like(x)
    for start in range(0, x.shape[1], 32):
        piece = x[:, start : start + 32]
        step = np.abs(piece).max(axis=1, keepdims=True) / np.float32(127)
        out[:, start : start + 32] = np.rint(piece / step) * step
    return out


def plain_with_rounded_inputs(graph: Graph, env: Environment) -> Float32:
    values: dict[Value, Float32] = {}
    for node in graph:
        inputs = [values[value] for value in node.inputs]
        if isinstance(node.op, MatMul):
            inputs = [rounded(inputs[0])]
        values.update(zip(node.outputs, node.op.reference(env, *inputs), strict=True))
    return values[graph.logits]


@each_config
def test_it_is_the_plain_graph_with_rounded_inputs(name: str) -> None:
    spec = tiny_spec(name, intermediate_size=77)
    graph = quantized_graph(spec)
    check_order(graph)
    expected = plain_with_rounded_inputs(lower(spec), environment(spec, mixed_batch(spec)))
    found, plain = logits(spec, graph), logits(spec, lower(spec))
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())
    assert np.abs(plain - expected).mean() > 3 * np.abs(found - expected).mean()


@pytest.mark.parametrize("name", ["llama", "biases", "qwen3"])
def test_other_passes_in_any_order_compute_the_same(name: str) -> None:
    spec = tiny_spec(name)
    expected = logits(spec, quantized_graph(spec))
    for order in itertools.permutations(PASSES):
        graph = quantized_graph(spec)
        for each in order:
            graph = each(graph)
            check_order(graph)
        np.testing.assert_array_equal(logits(spec, graph), expected)


@pytest.mark.parametrize("kept", [(), (AddNorm,), (Quantized,)])
@each_config
def test_taken_apart_again_it_computes_the_same(name: str, kept: tuple[type, ...]) -> None:
    """A quantized add_norm comes apart twice where neither has a body."""
    spec = tiny_spec(name)
    graph = decompose(optimize(quantized_graph(spec)), lambda node: isinstance(node.op, kept))
    check_order(graph)
    left = {type(node.op) for node in graph if isinstance(node.op, FusedOp)}
    assert left <= set(kept)
    np.testing.assert_array_equal(logits(spec, graph), logits(spec, quantized_graph(spec)))


# --- quantize_inputs


def test_without_integers_nothing_changes() -> None:
    graph = lower(tiny_spec("llama"))
    assert quantize_inputs(graph, {}) == graph


def test_every_input_is_quantized_once_for_all_its_readers() -> None:
    graph = quantized_graph(tiny_spec("llama"))  # 2 layers
    quantizers = [node for node in graph if isinstance(node.op, Quantize)]
    assert len(quantizers) == 2 * 4 + 1
    readers = [len(graph.readers(node.outputs[0])) for node in quantizers]
    assert readers == [3, 1, 2, 1] * 2 + [1]
    for node in graph:
        expected = "int8" if isinstance(node.op, MatMul) else "float32"
        assert all(value.format == expected for value in node.inputs)


def mixed_readers() -> Graph:
    """One norm, read by two integer matrices and two float ones, which alternate."""
    build = GraphBuilder()
    x = build.add(EmbeddingLookup("e", 8), name="x")
    normed = build.add(RmsNorm("n", 1e-6), x, name="normed")
    parts = [
        build.add(MatMul((LinearPart(name, 8),)), normed, name=name)
        for name in ("float0", "int0", "float1", "int1")
    ]
    total = parts[0]
    for i, part in enumerate(parts[1:]):
        total = build.add(Add(), total, part, name=f"sum{i}")
    selected = build.add(SelectRows(), total, name="selected", rows="outputs")
    return Graph(tuple(build.nodes), selected)


def test_float_and_integer_readers_of_one_value_stay_apart() -> None:
    graph = quantize_inputs(mixed_readers(), {"int0": "int8", "int1": "int8"})
    check_order(graph)
    assert names(graph)[2:6] == ["MatMul", "Quantize", "MatMul", "MatMul"]
    merged = optimize(graph)
    check_order(merged)
    products = [node for node in merged if isinstance(node.op, MatMul)]
    found = [([p.weight for p in node.op.parts], node.inputs[0].format) for node in products]
    assert found == [(["float0", "float1"], "float32"), (["int0", "int1"], "int8")]


def test_each_format_is_made_once_of_one_value() -> None:
    formats: dict[str, RowFormat] = {"float0": "bfloat16", "float1": "bfloat16", "int1": "int8"}
    graph = quantize_inputs(mixed_readers(), formats)
    made = [node.op.format for node in graph if isinstance(node.op, Quantize)]
    assert made == ["bfloat16", "int8"]
    products = [node for node in optimize(graph) if isinstance(node.op, MatMul)]
    assert [len(node.op.parts) for node in products if isinstance(node.op, MatMul)] == [2, 1, 1]


def test_bfloat16_rounds_each_number() -> None:
    x = np.array([[1.0, 1.00390625, 1.01171875, -3.1415927, 1e-41, np.inf]], np.float32)
    (found,) = Quantize("bfloat16").reference(
        environment(tiny_spec("llama"), mixed_batch(tiny_spec("llama"))), x
    )
    np.testing.assert_array_equal(
        found.view(np.uint32) >> 16, [[0x3F80, 0x3F80, 0x3F82, 0xC049, 0, 0x7F80]]
    )
    assert not (found.view(np.uint32) & 0xFFFF).any()


def test_readers_whose_columns_stand_in_different_orders_stay_apart() -> None:
    """Three orders of one value: two matrices share one, and are merged."""
    orders = {f"w{i}": ColumnOrder(np.roll(np.arange(8, dtype=np.int32), i % 2)) for i in range(3)}
    build = GraphBuilder()
    x = build.add(EmbeddingLookup("e", 8), name="x")
    parts = [build.add(MatMul((LinearPart(f"w{i}", 8),)), x, name=f"p{i}") for i in range(4)]
    total = build.add(Add(), parts[0], parts[1], name="sum")
    for i in (2, 3):
        total = build.add(Add(), total, parts[i], name=f"sum{i}")
    selected = build.add(SelectRows(), total, name="selected", rows="outputs")
    weights: dict[str, RowFormat] = {f"w{i}": "int8" for i in range(4)}
    graph = quantize_inputs(Graph(tuple(build.nodes), selected), weights, orders)
    merged = optimize(graph)
    check_order(merged)
    products = [node for node in merged if isinstance(node.op, MatMul)]
    assert [[p.weight for p in node.op.parts] for node in products] == [
        ["w0", "w2"],
        ["w1"],
        ["w3"],
    ]
    found = [node.op.order for node in merged if isinstance(node.op, Quantize)]
    assert found == [orders["w0"], orders["w1"], None]


def test_an_order_says_which_columns_make_blocks_and_nothing_else() -> None:
    spec = tiny_spec("llama")
    env, random = environment(spec, mixed_batch(spec)), np.random.default_rng(0)
    x = random.normal(0, 1, (3, 70)).astype(np.float32)
    order = ColumnOrder(random.permutation(70).astype(np.int32))
    (found,) = Quantize("int8", order).reference(env, x)
    np.testing.assert_array_equal(found[:, order.columns], rounded(x[:, order.columns]))
    assert not np.array_equal(found, rounded(x))
    fused = Quantized(GatedActivation("silu"), 2, 1, "int8", order)
    (both,) = fused.reference(env, x, x)
    (plain,) = GatedActivation("silu").reference(env, x, x)
    np.testing.assert_array_equal(both, Quantize("int8", order).reference(env, plain)[0])


# --- fuse_quantize


def test_makers_whose_only_reader_quantizes_are_fused() -> None:
    found = [
        type(node.op.op).__name__
        for node in optimize(quantized_graph(tiny_spec("llama")))
        if isinstance(node.op, Quantized)
    ]
    layer = ["RmsNorm", "AddNorm", "GatedActivation"]
    assert found == [*layer, "AddNorm", *layer[1:], "RmsNorm"]
    rest = names(optimize(quantized_graph(tiny_spec("llama"))))
    assert rest.count("Quantize") == 2  # what attention yields


def test_a_value_that_others_read_too_is_not_fused() -> None:
    graph = quantize_inputs(mixed_readers(), {"int0": "int8", "int1": "int8"})
    assert fuse_quantize(graph) == graph


def two_outputs(read: int) -> Graph:
    """Quantize one output of an add_norm: 0 the normed row, 1 the sum."""
    build = GraphBuilder()
    x = build.add(EmbeddingLookup("e", 8), name="x")
    build.add(Add(), x, x, name="replaced")
    node = build.nodes.pop()
    made = tuple(Value(f"made{i}", "tokens", 8) for i in range(2))
    build.nodes.append(type(node)(AddNorm(RmsNorm("n", 1e-6)), node.inputs, made))
    product = build.add(MatMul((LinearPart("int", 8),)), made[read], name="product")
    selected = build.add(SelectRows(), product, name="selected", rows="outputs")
    return quantize_inputs(Graph(tuple(build.nodes), selected), {"int": "int8"})


def test_only_the_first_output_of_a_maker_can_be_quantized_with_it() -> None:
    assert "Quantized" in names(fuse_quantize(two_outputs(0)))
    assert fuse_quantize(two_outputs(1)) == two_outputs(1)


def test_what_no_maker_made_is_left() -> None:
    build = GraphBuilder()
    x = build.add(EmbeddingLookup("e", 8), name="x")
    product = build.add(MatMul((LinearPart("int", 8),)), x, name="product")
    selected = build.add(SelectRows(), product, name="selected", rows="outputs")
    graph = quantize_inputs(Graph(tuple(build.nodes), selected), {"int": "int8"})
    assert fuse_quantize(graph) == graph
    assert names(graph) == ["EmbeddingLookup", "Quantize", "MatMul", "SelectRows"]


# --- the ops


def test_a_fused_op_counts_what_its_steps_do() -> None:
    op = Quantized(GatedActivation("silu"), 2, 1)
    assert op.widths(70, 70) == (70,)
    steps = GatedActivation("silu").cost(3, 0, 70, 70).flops + Quantize().cost(3, 0, 70).flops
    assert op.cost(3, 0, 70, 70).flops == steps
