"""The buffer plan: one arena holds every value for as long as somebody needs it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.graph.buffers import ALIGNMENT, plan_buffers
from quire.graph.ir import Graph, GraphBuilder, Value
from quire.graph.program import Program, StepLimits, compile_program
from quire.models.spec import ModelSpec
from quire.ops.batch import Batch
from quire.ops.elementwise import Add, ScaleLogits
from quire.ops.embedding import EmbeddingLookup
from quire.ops.kv_cache import KvCache, KvLayout
from quire.ops.linear import LinearPart, MatMul
from quire.ops.norm import AddNorm, RmsNorm
from quire.ops.op import Environment
from quire.ops.quantize import RowFormat
from quire.ops.selection import Columns, SelectRows
from tests.graph.interpreting import (
    CONFIGS,
    all_matrices,
    check_order,
    environment,
    interpret,
    interpret_in_arena,
    mixed_batch,
    tiny_spec,
)

VIEWS = (Columns, ScaleLogits)
"""Ops whose output stands in the room of their input."""

each_config = pytest.mark.parametrize("name", CONFIGS)


def compiled(
    spec: ModelSpec,
    logit_rows: int = 2,
    tokens: int = 9,
    fused: bool = True,
    formats: Mapping[str, RowFormat] | None = None,
) -> Program:
    return compile_program(spec, StepLimits(tokens, logit_rows), lambda node: fused, formats)


# --- the same numbers as with a place for each value


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("logit_rows", [1, 2, 3, 7, 9])
@each_config
def test_one_arena_computes_the_same(name: str, logit_rows: int, fused: bool) -> None:
    """7 logit rows: the head runs up to 7 times over what the body left."""
    spec = tiny_spec(name)
    program = compiled(spec, logit_rows, fused=fused)
    check_order(program.graph)
    expected = interpret(program.graph, environment(spec, mixed_batch(spec)))
    found = interpret_in_arena(program, environment(spec, mixed_batch(spec)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fused", [True, False])
@each_config
def test_one_arena_computes_the_same_of_quantized_values(name: str, fused: bool) -> None:
    """They take 12 floats for 32 columns, of odd widths too."""
    spec = tiny_spec(name, intermediate_size=77)
    program = compiled(spec, 3, fused=fused, formats=all_matrices(spec))
    check_order(program.graph)
    assert_apart(program)
    expected = interpret(program.graph, environment(spec, mixed_batch(spec)))
    found = interpret_in_arena(program, environment(spec, mixed_batch(spec)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_quantized_row_takes_twelve_floats_for_32_columns() -> None:
    spec = tiny_spec("llama")
    for fused in (True, False):
        program = compiled(spec, fused=fused, formats=all_matrices(spec))
        for value, tensor in program.buffers.tensors.items():
            if value.format == "int8":
                assert tensor.stride == value.floats == 12 * -(-value.width // 32)


@each_config
def test_body_and_head_are_the_whole_graph_in_order(name: str) -> None:
    program = compiled(tiny_spec(name))
    work = [node for node in program.graph if not isinstance(node.op, Columns)]
    assert [*program.body, *program.head] == work
    head = [node.name for node in program.head]
    assert head[0] == "SelectRows" and head[1] in ("RmsNorm", "LayerNorm")
    assert head[2:] in (["MatMul"], ["MatMul", "ScaleLogits"])


# --- room


@pytest.mark.parametrize("fused", [True, False])
@each_config
def test_no_two_live_values_share_room(name: str, fused: bool) -> None:
    assert_apart(compiled(tiny_spec(name), fused=fused))


@each_config
def test_buffers_begin_on_cache_lines(name: str) -> None:
    program = compiled(tiny_spec(name))
    views = {node.outputs[0] for node in program.graph if isinstance(node.op, Columns)}
    for value, tensor in program.buffers.tensors.items():
        assert value in views or tensor.offset % ALIGNMENT == 0


def test_a_view_looks_into_its_source() -> None:
    program = compiled(tiny_spec("llama"))
    tensors = program.buffers.tensors
    for node in program.graph:
        if isinstance(node.op, Columns):
            (source,), (view,) = node.inputs, node.outputs
            assert tensors[view].stride == tensors[source].stride
            assert tensors[view].offset == tensors[source].offset + node.op.start
            assert tensors[view].width == node.op.stop - node.op.start


def test_a_view_of_a_view_starts_at_both_columns() -> None:
    build = GraphBuilder()
    x = build.add(EmbeddingLookup("x", 16), name="x")
    outer = build.add(Columns(4, 16), x, name="outer")
    inner = build.add(Columns(3, 5), outer, name="inner")
    selected = build.add(SelectRows(), inner, name="selected", rows="outputs")
    plan = plan_buffers(Graph(tuple(build.nodes), selected), {"tokens": 4, "outputs": 2})
    found, source = plan.tensors[inner], plan.tensors[x]
    assert (found.offset - source.offset, found.stride, found.width) == (7, 16, 2)


@each_config
def test_the_arena_is_bounded(name: str) -> None:
    """Never less than what lives at once, and at most 0.6 times as much again."""
    program = compiled(tiny_spec(name))
    least = max(live_floats(program))
    everything = sum(size_of(program, value) for value in owners(program))
    assert least <= program.buffers.arena_floats <= min(1.6 * least, everything)


def test_more_layers_need_no_more_room() -> None:
    sizes = [
        compiled(tiny_spec("llama", num_hidden_layers=layers)).buffers.arena_floats
        for layers in (2, 3, 12)
    ]
    assert len(set(sizes)) == 1


def test_room_grows_with_tokens_and_logit_rows() -> None:
    spec = tiny_spec("llama")
    limits = [(1, 1), (2, 8), (2, 64), (64, 64)]
    sizes = [compiled(spec, rows, tokens).buffers.arena_floats for rows, tokens in limits]
    assert 0 < sizes[0] < sizes[1] < sizes[2] <= sizes[3]


# --- any graph


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """A random body, rows selected from one or two of its values, and a random head."""
    build = GraphBuilder()
    body = [build.add(EmbeddingLookup(f"e{i}", draw(widths)), name=f"e{i}") for i in range(2)]
    for i in range(draw(st.integers(0, 10))):
        body += extended(draw, build, body, f"b{i}")
    head = []
    for i in range(draw(st.integers(1, 2))):
        chosen = draw(st.sampled_from(body))
        head.append(build.add(SelectRows(), chosen, name=f"s{i}", rows="outputs"))
    for i in range(draw(st.integers(0, 6))):
        head += extended(draw, build, head, f"h{i}")
    return Graph(tuple(build.nodes), draw(st.sampled_from(head)))


widths = st.sampled_from([8, 16, 24])


def extended(draw: st.DrawFn, build: GraphBuilder, known: list[Value], name: str) -> list[Value]:
    """One more node over known values; its outputs."""
    x = draw(st.sampled_from(known))
    like = draw(st.sampled_from([value for value in known if value.width == x.width]))
    kind = draw(st.sampled_from(["add", "product", "columns", "norm", "add norm"]))
    if kind == "add":
        return [build.add(Add(), x, like, name=name)]
    if kind == "product":
        return [build.add(MatMul((LinearPart(f"w{name}", draw(widths)),)), x, name=name)]
    if kind == "columns":
        start = draw(st.integers(0, x.width - 1))
        view = Columns(start, draw(st.integers(start + 1, x.width)))
        return [build.add(view, x, name=name)]
    norm = RmsNorm(f"n{name}", 1e-3)
    if kind == "add norm":
        return add_two(build, AddNorm(norm), x, like, name)
    return [build.add(norm, x, name=name)]


def add_two(build: GraphBuilder, op: AddNorm, x: Value, y: Value, name: str) -> list[Value]:
    """A node with two outputs, of which nobody may ever read one."""
    build.add(Add(), x, y, name=f"{name}.replaced")
    node = build.nodes.pop()
    made = [Value(f"{name}.{i}", x.rows, x.width) for i in range(2)]
    build.nodes.append(type(node)(op, node.inputs, tuple(made)))
    return made


@settings(max_examples=200, deadline=None)
@given(graph=graphs(), logit_rows=st.integers(1, 4), tokens=st.integers(5, 7))
def test_any_graph_computes_the_same_in_one_arena(
    graph: Graph, logit_rows: int, tokens: int
) -> None:
    check_order(graph)
    plan = plan_buffers(graph, {"tokens": tokens, "outputs": logit_rows})
    program = Program(tiny_spec("llama"), graph, plan, StepLimits(tokens, logit_rows))
    assert_apart(program)
    env = toy_environment(graph)
    np.testing.assert_allclose(
        interpret_in_arena(program, env), interpret(graph, env), rtol=1e-5, atol=1e-5
    )


def toy_environment(graph: Graph) -> Environment:
    """Random weights for every op of a graph, five tokens and four logit rows."""
    random = np.random.default_rng(len(graph.nodes))
    weights = {}
    for node in graph:
        for name in node.op.weight_names:
            shapes = {
                EmbeddingLookup: (5, node.outputs[0].width),
                MatMul: (node.outputs[0].width, node.inputs[0].width if node.inputs else 0),
            }
            shape = shapes.get(type(node.op), (node.outputs[0].width,))
            weights[name] = random.normal(0, 0.5, shape).astype(np.float32)
    tokens = np.arange(5, dtype=np.int32)
    zeros = np.zeros(5, np.int32)
    ends, table = np.int32([0, 5]), np.int32([[0]])
    batch = Batch(tokens, tokens, zeros, ends, table, np.int32([0, 1, 3, 4]), ())
    return Environment(batch, KvCache(KvLayout((), 16, "float32"), 1), weights)


# --- an independent account of who lives when


def owners(program: Program) -> list[Value]:
    """The values with room of their own."""
    return [
        value for node in program.graph if not isinstance(node.op, VIEWS) for value in node.outputs
    ]


def size_of(program: Program, value: Value) -> int:
    rows = program.limits.tokens if value.rows == "tokens" else program.limits.logit_rows
    return value.floats * rows


def lifetimes(program: Program) -> dict[Value, tuple[int, int]]:
    """From the making of a value to its last reading; a view's readers read its source."""
    graph, source = program.graph, dict[Value, Value]()
    lives: dict[Value, tuple[int, int]] = {}
    end = len(graph.nodes)
    for index, node in enumerate(graph):
        for value in node.inputs:
            owner = source.get(value, value)
            again = owner.rows == "tokens" and any(v.rows == "outputs" for v in node.outputs)
            lives[owner] = (lives[owner][0], end if again else max(index, lives[owner][1]))
        for value in node.outputs:
            if isinstance(node.op, VIEWS):
                source[value] = source.get(node.inputs[0], node.inputs[0])
            else:
                lives[value] = (index, index)
    owner = source.get(graph.logits, graph.logits)
    lives[owner] = (lives[owner][0], end)
    return lives


def live_floats(program: Program) -> list[int]:
    """What lives while each node runs."""
    lives = lifetimes(program)
    return [
        sum(size_of(program, value) for value, (first, last) in lives.items() if first <= i <= last)
        for i in range(len(program.graph.nodes))
    ]


def assert_apart(program: Program) -> None:
    """No two values that live at once overlap, and all stay inside the arena."""
    lives, tensors = lifetimes(program), program.buffers.tensors
    for value in lives:
        assert tensors[value].offset >= 0
        assert tensors[value].offset + size_of(program, value) <= program.buffers.arena_floats
    for one, other in itertools.combinations(lives, 2):
        if lives[one][0] > lives[other][1] or lives[other][0] > lives[one][1]:
            continue
        first, second = sorted((one, other), key=lambda value: tensors[value].offset)
        gap = tensors[second].offset - tensors[first].offset
        assert gap >= size_of(program, first), f"{one.name} and {other.name} overlap"
