"""The experts of a layer, each token with experts drawn at random."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from quire.backends.native import abi as c
from quire.backends.native import library
from quire.cli.bench.kernels.cases import (
    PEAKS,
    ROW_FORMATS,
    Case,
    activations,
    bind,
    quantize_rows,
)
from quire.cli.bench.kernels.formats import FORMATS
from quire.cli.bench.kernels.machine import Machine
from quire.cli.bench.kernels.shapes import ExpertShape
from quire.ops.aligned import CACHE_LINE
from quire.ops.quantize import BLOCK, row_floats

__all__ = ["experts"]

ROUTES = 16  # sets of random routes that are used in turn


def experts(machine: Machine, format: str, rows: int, shape: ExpertShape) -> Case:
    """One layer's experts; the bytes are those of the experts that some row chose."""
    row_dtype = library.load().quire_row_dtype(machine.isa, FORMATS[format].dtype)
    row_format = ROW_FORMATS[row_dtype]
    sizes = ((shape.hidden, shape.width), (shape.hidden, shape.width), (shape.width, shape.hidden))
    kinds = [FORMATS[format].matrix(*size) for size in sizes]
    bytes_ = [int(library.load().quire_matrix_bytes(ctypes.byref(kind))) for kind in kinds]
    places = [-(-each // CACHE_LINE) * CACHE_LINE for each in bytes_]
    layer_bytes = sum(places) * shape.count
    memory = machine.memory(layer_bytes)
    layers = [
        _layer(kinds, places, shape, memory.ctypes.data + copy * layer_bytes)
        for copy in range(min(ROUTES, memory.size // layer_bytes))
    ]
    width = row_floats(shape.width, row_format)
    room = shape.top_k * row_floats(-(-shape.hidden // BLOCK) * BLOCK, row_format)
    pieces = np.cumsum([0, rows * width, rows * shape.width, rows * room])
    arena = activations(int(pieces[-1]) + ROUTES * rows * 2 * shape.top_k)
    if row_dtype != c.F32:
        quantize_rows(machine, arena, rows, shape.width, row_dtype)
    calls, used, random = [], [], np.random.default_rng(0)
    for i in range(ROUTES):
        start = int(pieces[-1]) + i * rows * 2 * shape.top_k
        routes = arena[start : start + rows * 2 * shape.top_k].reshape(rows, -1)
        order = random.random((rows, shape.count)).argsort(axis=1)[:, : shape.top_k]
        routes[:, : shape.top_k] = np.sort(order, axis=1)
        routes[:, shape.top_k :] = 1 / shape.top_k
        used.append(len(np.unique(order)))
        described = c.Experts(
            layers[i % len(layers)],
            None,
            None,
            shape.count,
            shape.top_k,
            row_dtype,
            num_routed=shape.count,
        )
        op = c.Op(kind=c.OP_EXPERTS, row_dtype=row_dtype, experts=ctypes.pointer(described))
        op.inputs[0] = c.Tensor(0, width, shape.width)
        op.inputs[1] = c.Tensor(start, 2 * shape.top_k, 2 * shape.top_k)
        op.outputs[0] = c.Tensor(int(pieces[1]), shape.width, shape.width)
        op.outputs[1] = c.Tensor(int(pieces[2]), room, room)
        calls.append(bind(machine, op, arena, c.Step(num_tokens=rows), memory, described))
    operations = 6 * rows * shape.top_k * shape.width * shape.hidden
    read = min(used) * sum(bytes_)  # by the call that reads least, for the best time counts
    return Case("experts", format, rows, str(shape), calls, read, operations, PEAKS[row_dtype])


def _layer(kinds: list[Any], places: list[int], shape: ExpertShape, address: int) -> Any:
    """The matrices of all experts, one behind the other from an address on."""
    matrices = (c.Matrix * (3 * shape.count))()
    for i in range(3 * shape.count):
        matrices[i] = kinds[i % 3]
        matrices[i].data = address
        address += places[i % 3]
    return matrices
