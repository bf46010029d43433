"""Where a checkpoint holds a weight that is not a tensor of its own, or not of the same name.

A family says it once for the whole model, as a `Layout`: `stored_as` gives every weight of a spec
its place.  Where every expert of a layer is a slice of one tensor, it makes each `Place` itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Layout", "Place", "Rows"]


@dataclass(frozen=True, slots=True)
class Rows:
    """`count` rows from row `start` on, and again `every` rows further on; every 0: only once."""

    start: int
    count: int
    every: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor of a checkpoint, and which part of it a weight is.

    name, shape: of the whole tensor.  stack: it is so many tensors, each of this shape, with
    its number for the "{}" in the name.  What follows is done in this order.  expert: the weight is
    of this index on the first axis.  transposed: the matrix is stored [in, out].  rows: some of its
    rows (of a bias, some of its numbers).  unit_rows: each row is divided by its Euclidean length.
    flat: the axes behind the first are one.  times: its numbers are multiplied by this.
    """

    name: str
    shape: tuple[int, ...]
    expert: int | None = None
    transposed: bool = False
    rows: Rows | None = None
    unit_rows: bool = False
    flat: bool = False
    times: float = 1.0
    stack: int = 0

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of what it is read from."""
        return tuple(map(self.name.format, range(self.stack))) if self.stack else (self.name,)

    @property
    def part_shape(self) -> tuple[int, ...]:
        """The shape of the part."""
        if self.stack:
            return (self.stack, *self.shape)
        shape = self.shape if self.expert is None else self.shape[1:]
        shape = shape[::-1] if self.transposed else shape
        if self.flat:
            shape = (shape[0], math.prod(shape[1:]))
        if self.rows is None:
            return shape
        runs = shape[0] // self.rows.every if self.rows.every else 1
        return (runs * self.rows.count, *shape[1:])


@dataclass(frozen=True, slots=True)
class Layout:
    """How a checkpoint differs from Llama's names; modules are names of weights without an ending.

    layer: what stands before the modules of a layer, "{}" being its number.  names: module → what
    the checkpoint calls it, and with it the modules in it; those of a layer without what stands
    before them.  fused: module of the checkpoint → the modules whose rows it holds, one after
    another.  groups: of those, the ones that hold them in so many runs: the first part of each, the
    second part of each, and so on.
    unit_rows: modules whose rows are divided by their length.  times: modules whose numbers are
    multiplied, and by what.  transposed: the matrices of layers
    are stored [in, out].
    """

    layer: str = "model.layers.{}."
    names: Mapping[str, str] = field(default_factory=dict)
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)
    unit_rows: tuple[str, ...] = ()
    times: Mapping[str, float] = field(default_factory=dict)
    transposed: bool = False
