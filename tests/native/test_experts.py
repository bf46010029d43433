"""A mixture of experts: as its reference, and each row as if it were alone."""

from __future__ import annotations

from copy import copy
from dataclasses import replace

import numpy as np
import pytest

from quire.backends.native import abi as c
from quire.backends.native.program import NativeBackend
from quire.errors import EngineError
from quire.graph.ir import Graph, Node, Value
from quire.graph.passes.quantize_inputs import quantize_inputs
from quire.ops.activation import GatedActivation
from quire.ops.experts import Expert, MixtureOfExperts
from quire.ops.linear import LinearPart
from quire.weights.tensor import RawTensor
from tests.native import numbers
from tests.native.nodes import run_native, run_reference
from tests.native.quantizing import random_packed

FORMATS = {"F32": c.F32, "F16": c.F16, "BF16": c.BF16}
ALL = [*FORMATS, "INT4", "INT8"]
EXPERTS, TOP_K = 6, 3
SILU = GatedActivation("silu")
CLAMPED = GatedActivation("clamped_swiglu", 1.702, 1.5)


def matrix(rng, name, dtype, shape):
    if dtype in FORMATS:
        values = rng.normal(0, 1.5 / shape[1] ** 0.5, shape).astype(np.float32)
        return RawTensor(name, dtype, shape, numbers.store(values, FORMATS[dtype]))
    packed = random_packed(rng, dtype, shape, 32, "zero points" if dtype == "INT4" else "")
    return replace(packed, name=name)


class Layer:
    """The experts of a layer with random weights, as the graph has them for an instruction set."""

    def __init__(self, rng, isa, dtype, width=64, hidden=96, down=None, bias=False, **fields):
        self.weights, experts = {}, []
        for e in range(EXPERTS):
            parts = []
            for place, shape in (("gate", (hidden, width)), ("up", (hidden, width)),
                                 ("down", (width, hidden))):  # fmt: skip
                name = f"{e}.{place}"
                kind = down if down and place == "down" else dtype
                self.weights[name] = matrix(rng, name, kind, shape)
                if bias:
                    values = rng.normal(0, 0.5, shape[0]).astype(np.float32)
                    self.weights[f"{name}.bias"] = RawTensor(
                        f"{name}.bias", "F32", (shape[0],), values
                    )
                parts.append(LinearPart(name, shape[0], f"{name}.bias" if bias else None))
            experts.append(Expert(*parts))
        op = MixtureOfExperts(tuple(experts), TOP_K, fields.pop("activation", SILU), **fields)
        self.x = Value("x", "tokens", width)
        self.routes = Value("routes", "tokens", 2 * TOP_K)
        out, room = (Value(n, "tokens", w) for n, w in zip("or", op.widths(width), strict=True))
        graph = Graph((Node(op, (self.x, self.routes), (out, room)),), out)
        backend = NativeBackend(c.ISA_NAMES[isa])
        formats = {name: backend.row_format(w.dtype) for name, w in self.weights.items()}
        self.nodes = quantize_inputs(graph, formats).nodes
        self.out = out

    def part(self, first, last):
        """The same without the other experts."""
        *before, node = self.nodes
        mixture = isinstance(node.op, MixtureOfExperts)
        whole = node.op if mixture else node.op.op
        op = replace(whole, experts=whole.experts[first:last], first=first, num_routed=EXPERTS)
        op = op if mixture else replace(node.op, op=op)
        part = copy(self)
        part.nodes = (*before, replace(node, op=op))
        return part

    def native(self, pool, isa, x, routes):
        given = {self.x: x, self.routes: routes}
        return run_native(pool, isa, self.nodes, self.weights, given, len(x))[self.out].copy()

    def reference(self, x, routes):
        given = {self.x: x, self.routes: routes}
        return run_reference(self.nodes, self.weights, given)[self.out]


def random_routes(rng, rows, experts=EXPERTS):
    """Some experts are loved by all, and rows differ in their weights."""
    ids = [np.sort(rng.permutation(experts)[:TOP_K]) for _ in range(rows)]
    weights = rng.uniform(0.1, 1, (rows, TOP_K))
    return np.concatenate([np.array(ids).reshape(rows, TOP_K), weights], axis=1, dtype=np.float32)


def rows_of(rng, rows, width):
    return rng.normal(0, 1, (rows, width)).astype(np.float32)


def assert_near(native, expected, dtype):
    """Hidden numbers that lie on the border of two codes may be rounded to either."""
    largest = np.abs(expected).max()
    bound = 2e-6 if dtype in ("F32", "F16") else 1e-2
    assert np.abs(native - expected).max() < bound * largest
    assert np.median(np.abs(native - expected)) < 1e-3 * largest


@pytest.mark.parametrize("rows", [1, 2, 7, 150])
@pytest.mark.parametrize("dtype", ALL)
def test_as_the_reference(pool, isa, rng, dtype, rows):
    layer = Layer(rng, isa, dtype)
    x, routes = rows_of(rng, rows, 64), random_routes(rng, rows)
    assert_near(layer.native(pool, isa, x, routes), layer.reference(x, routes), dtype)


@pytest.mark.parametrize("width, hidden", [(1, 1), (33, 5), (40, 50), (300, 288), (48, 700)])
@pytest.mark.parametrize("dtype", ALL)
def test_odd_sizes(pool, isa, rng, dtype, width, hidden):
    layer = Layer(rng, isa, dtype, width, hidden)
    x, routes = rows_of(rng, 5, width), random_routes(rng, 5)
    assert_near(layer.native(pool, isa, x, routes), layer.reference(x, routes), dtype)


@pytest.mark.parametrize(
    "fields",
    [{"bias": True}, {"activation": CLAMPED, "bias": True}, {"scales_inputs": True},
     {"activation": GatedActivation("gelu_tanh")}, {"down": "INT8"}, {"down": "F16"}],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["F32", "BF16", "INT4"])
def test_options(pool, isa, rng, dtype, fields):
    layer = Layer(rng, isa, dtype, **fields)
    x, routes = rows_of(rng, 9, 64), random_routes(rng, 9)
    narrow = {dtype, fields.get("down", dtype)} - {"F32", "F16"}
    expected = layer.reference(x, routes)
    assert_near(layer.native(pool, isa, x, routes), expected, min(narrow, default="F32"))
    plain = Layer(np.random.default_rng(7), isa, dtype)
    moved = np.abs(plain.reference(x, routes) - expected).max() / np.abs(expected).max()
    assert "down" in fields or moved > 0.005, "the option does nothing"


@pytest.mark.parametrize("dtype", ALL)
def test_a_row_has_the_same_bits_in_any_batch(pools, isa, rng, dtype):
    """Also where an expert has more rows than a kernel takes at once."""
    layer = Layer(rng, isa, dtype)
    x, routes = rows_of(rng, 200, 64), random_routes(rng, 200)
    whole = layer.native(pools[3], isa, x, routes)
    for rows in ([0], [3], [5, 199], list(range(40, 60))):
        part = layer.native(pools[1], isa, x[rows], routes[rows])
        assert numbers.same_bits(part, whole[rows]), rows


def test_experts_nobody_chose_are_not_read(pool, isa, rng):
    layer = Layer(rng, isa, "F32")
    for name, weight in layer.weights.items():
        if name.startswith("5."):
            weight.data[:] = np.nan
    x, routes = rows_of(rng, 8, 64), random_routes(rng, 8, experts=5)
    assert np.isfinite(layer.native(pool, isa, x, routes)).all()
    routes[2, TOP_K - 1] = 5
    assert np.isnan(layer.native(pool, isa, x, routes)[2]).all()


@pytest.mark.parametrize("dtype", ["F32", "INT4"])
def test_parts_of_the_experts_add_up(pool, isa, rng, dtype):
    """Each as its reference; what experts of other ranks say is left out, also where it is all."""
    whole = Layer(rng, isa, dtype)
    x, routes = rows_of(rng, 9, 64), random_routes(rng, 9)
    total = np.zeros_like(x)
    for first, last in ((0, 2), (2, EXPERTS)):
        part = whole.part(first, last)
        assert_near(part.native(pool, isa, x, routes), part.reference(x, routes), dtype)
        total += part.native(pool, isa, x, routes)
    assert_near(total, whole.native(pool, isa, x, routes), "F32")
    others = np.array([[0, 1, 2, 1, 1, 1]], np.float32)
    assert not whole.part(3, EXPERTS).native(pool, isa, x[:1], others).any()
    others[0, 2] = EXPERTS
    with pytest.raises(EngineError):
        whole.part(3, EXPERTS).native(pool, isa, x[:1], others)


@pytest.mark.parametrize("wrong", [-1, EXPERTS, np.nan, 1e30])
def test_an_expert_that_does_not_exist_is_refused(pool, isa, rng, wrong):
    layer = Layer(rng, isa, "F32")
    routes = random_routes(rng, 3)
    routes[1, 2] = wrong
    with pytest.raises(EngineError):
        layer.native(pool, isa, rows_of(rng, 3, 64), routes)
