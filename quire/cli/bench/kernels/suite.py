"""The list of everything that `quire bench kernel` times for one model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from quire.backends.native import abi as c
from quire.cli.bench.kernels.cases import Case, attention, latent_projection, linear, row_op
from quire.cli.bench.kernels.experts import experts
from quire.cli.bench.kernels.formats import FORMATS
from quire.cli.bench.kernels.machine import Machine
from quire.cli.bench.kernels.sampler import SAMPLINGS, sampler
from quire.cli.bench.kernels.shapes import KernelShapes
from quire.models.spec import LatentAttention
from quire.ops.number_formats import STORED_AS
from quire.runtime.backends import MAX_LOGIT_ROWS
from quire.runtime.quantize import SCHEMES

__all__ = ["KERNELS", "cases"]

KERNELS = ("linear", "experts", "attention", "rows", "sampler")
"""What can be timed by itself; rows: ops that do little with each number of a row."""

ATTENTIONS = (
    (1, 1, 1024), (1, 1, 8192), (1, 4, 8192), (8, 1, 1024), (1, 512, 512), (1, 512, 4096),
)  # fmt: skip
"""Requests, new tokens of each, and the length of each with them."""

ROW_OP_ROWS, SAMPLER_ROWS = (1, 16, 512), (1, 8)


def cases(
    machine: Machine,
    shapes: KernelShapes,
    formats: Sequence[str],
    rows: Sequence[int],
    kv_formats: Sequence[str],
    kernels: Sequence[str] = KERNELS,
) -> Iterator[Case]:
    """Each is made when asked for.  formats, rows: of the linear layers; kernels: of KERNELS."""
    if "linear" in kernels:
        yield from _linears(machine, shapes, formats, rows)
    if "experts" in kernels:
        for format in formats:
            for layer in shapes.experts:
                for count in rows:
                    yield experts(machine, format, count, layer)
    if "attention" in kernels:
        for kv_format in kv_formats:
            for each in shapes.attentions:
                for requests, tokens, context in ATTENTIONS:
                    yield attention(machine, kv_format, each, requests, tokens, context)
        yield from _latent_projections(machine, shapes, formats, rows)
    if "rows" in kernels:
        yield from _row_ops(machine, shapes, formats)
    if "sampler" in kernels:
        for count in SAMPLER_ROWS:
            for name in SAMPLINGS:
                yield sampler(machine, name, shapes.vocab_size, count)


def _linears(
    machine: Machine, shapes: KernelShapes, formats: Sequence[str], rows: Sequence[int]
) -> Iterator[Case]:
    for format in formats:
        for shape in shapes.linears:
            for count in rows:
                if not shape.in_head or count <= MAX_LOGIT_ROWS:  # more are never computed at once
                    yield linear(machine, format, count, shape)


def _row_ops(machine: Machine, shapes: KernelShapes, formats: Sequence[str]) -> Iterator[Case]:
    for count in ROW_OP_ROWS:
        yield row_op(machine, "rms_norm", c.OP_NORM, count, shapes.width, 2)
        yield row_op(machine, "add_rms_norm", c.OP_ADD_NORM, count, shapes.width, 4)
        if any(FORMATS[each].is_integer for each in formats):
            yield row_op(machine, "quantize", c.OP_QUANTIZE, count, shapes.width, 2)
        for width in shapes.gated_widths:
            yield row_op(machine, "gated", c.OP_GATED, count, width, 3)


def _latent_projections(
    machine: Machine, shapes: KernelShapes, formats: Sequence[str], rows: Sequence[int]
) -> Iterator[Case]:
    """What stands before and behind latent attention, in the formats that loading makes of it."""
    for format in (each for each in formats if each in (*STORED_AS, *SCHEMES)):
        for shape in shapes.attentions:
            if isinstance(shape, LatentAttention):
                for kind in (c.OP_LATENT_QUERIES, c.OP_LATENT_VALUES):
                    for count in rows:
                        yield latent_projection(machine, kind, format, count, shape)
